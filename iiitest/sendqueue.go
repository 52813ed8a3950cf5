package iiitest

import "sync"

// sendQueueSize is the capacity of a worker's send queue, in messages. As in the engine,
// senders block while the queue is full.
const sendQueueSize = 64

// sendQueue is the send queue of one worker. push never blocks, so it may be called with a
// lock held. If the queue is full, push reserves the next place. Calling wait on the returned
// ticket then waits for room.
type sendQueue struct {
	mu      sync.Mutex
	queue   []outgoing // up to sendQueueSize messages
	waiting []*ticket
	wake    chan struct{} // capacity 1; signals a message or the end
	closed  bool
}

// outgoing is a message for a worker, or a request to close the connection.
type outgoing struct {
	message []byte
	close   bool // send a Close frame without a code, then disconnect
}

type ticket struct {
	out  outgoing
	done chan struct{}
	ok   bool
}

// wait waits until the message is queued. It returns false if the worker has disconnected.
func (t *ticket) wait() bool {
	<-t.done
	return t.ok
}

func newSendQueue() *sendQueue { return &sendQueue{wake: make(chan struct{}, 1)} }

func (q *sendQueue) push(out outgoing) *ticket {
	t := &ticket{out: out, done: make(chan struct{})}
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		close(t.done)
	case len(q.queue) < sendQueueSize:
		q.enqueue(t)
	default:
		q.waiting = append(q.waiting, t)
	}
	return t
}

func (q *sendQueue) enqueue(t *ticket) {
	q.queue = append(q.queue, t.out)
	t.ok = true
	close(t.done)
	q.signal()
}

func (q *sendQueue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// pop waits for the next message and removes it. It returns false if the queue is closed, even
// if messages remain.
func (q *sendQueue) pop() (outgoing, bool) {
	for {
		q.mu.Lock()
		if q.closed {
			q.mu.Unlock()
			return outgoing{}, false
		}
		if len(q.queue) > 0 {
			out := q.queue[0]
			q.queue = append(q.queue[:0], q.queue[1:]...)
			if len(q.waiting) > 0 {
				t := q.waiting[0]
				q.waiting = q.waiting[1:]
				q.enqueue(t)
			}
			q.mu.Unlock()
			return out, true
		}
		q.mu.Unlock()
		<-q.wake
	}
}

// close discards the queued messages and releases all waiting senders.
func (q *sendQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	q.closed = true
	for _, t := range q.waiting {
		close(t.done)
	}
	q.queue, q.waiting = nil, nil
	q.signal()
}
