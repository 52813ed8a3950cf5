package iiitest

import "sync"

// outboxSize is how many messages wait for one worker. When the queue is full, senders
// block, as in the engine.
const outboxSize = 64

// outbox is the send queue of one worker. A sender takes its place in the order with
// push, which never blocks and may be called under a lock, and then waits for room with
// ticket.wait.
type outbox struct {
	mu      sync.Mutex
	queue   []outgoing // at most outboxSize
	waiting []*ticket
	wake    chan struct{} // capacity 1: something to write, or closed
	closed  bool
}

// outgoing is one message for a worker, or a request to close the connection.
type outgoing struct {
	message []byte
	close   bool // send a Close frame without a code, then end
}

type ticket struct {
	out  outgoing
	done chan struct{}
	ok   bool
}

// wait waits until the message is queued. It returns false if the worker is gone.
func (t *ticket) wait() bool {
	<-t.done
	return t.ok
}

func newOutbox() *outbox { return &outbox{wake: make(chan struct{}, 1)} }

func (o *outbox) push(out outgoing) *ticket {
	t := &ticket{out: out, done: make(chan struct{})}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.closed:
		close(t.done)
	case len(o.queue) < outboxSize:
		o.admit(t)
	default:
		o.waiting = append(o.waiting, t)
	}
	return t
}

func (o *outbox) admit(t *ticket) {
	o.queue = append(o.queue, t.out)
	t.ok = true
	close(t.done)
	o.signal()
}

func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// pop waits for the next message and removes it. It returns false when the outbox is
// closed, even if messages are left.
func (o *outbox) pop() (outgoing, bool) {
	for {
		o.mu.Lock()
		if o.closed {
			o.mu.Unlock()
			return outgoing{}, false
		}
		if len(o.queue) > 0 {
			out := o.queue[0]
			o.queue = append(o.queue[:0], o.queue[1:]...)
			if len(o.waiting) > 0 {
				t := o.waiting[0]
				o.waiting = o.waiting[1:]
				o.admit(t)
			}
			o.mu.Unlock()
			return out, true
		}
		o.mu.Unlock()
		<-o.wake
	}
}

// close discards the messages and ends all waits.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	o.closed = true
	for _, t := range o.waiting {
		close(t.done)
	}
	o.queue, o.waiting = nil, nil
	o.signal()
}
