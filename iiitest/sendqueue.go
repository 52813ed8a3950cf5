package iiitest

import (
	"runtime"
	"sync"

	"github.com/iii-go/iii/internal/fifo"
)

// sendQueueSize is the capacity of a worker's send queue, in messages. As in the engine,
// senders block while the queue is full.
const sendQueueSize = 64

// sendQueue is the send queue of one worker. push never blocks, so it may be called with a
// lock held. If the queue is full, push reserves a place and returns a ticket, whose wait
// method waits for room.
type sendQueue struct {
	mu      sync.Mutex
	queue   fifo.Queue[outgoing] // up to sendQueueSize messages
	waiting fifo.Queue[*ticket]
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
	done chan struct{} // nil if there is nothing to wait for
	ok   bool
}

// queuedTicket is shared by all messages that are queued without waiting. closedTicket is
// shared by all messages that are pushed to a closed queue.
var queuedTicket, closedTicket = &ticket{ok: true}, &ticket{}

// wait waits until the message is queued. It returns false if the worker has disconnected.
func (t *ticket) wait() bool {
	if t.done != nil {
		<-t.done
	}
	return t.ok
}

func newSendQueue() *sendQueue { return &sendQueue{wake: make(chan struct{}, 1)} }

func (q *sendQueue) push(out outgoing) *ticket {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return closedTicket
	case q.queue.Len() < sendQueueSize:
		q.queue.Push(out)
		q.signal()
		return queuedTicket
	}
	t := &ticket{out: out, done: make(chan struct{})}
	q.waiting.Push(t)
	return t
}

func (q *sendQueue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// pop waits for the next message and removes it. more reports whether another message is
// queued. ok is false if the queue is closed, even if messages remain.
func (q *sendQueue) pop() (out outgoing, more, ok bool) {
	for {
		q.mu.Lock()
		if q.closed {
			q.mu.Unlock()
			return outgoing{}, false, false
		}
		if q.queue.Len() > 0 {
			out = q.queue.Pop()
			if q.waiting.Len() > 0 {
				t := q.waiting.Pop()
				q.queue.Push(t.out)
				t.ok = true
				close(t.done)
			}
			more = q.queue.Len() > 0
			q.mu.Unlock()
			return out, more, true
		}
		q.mu.Unlock()
		<-q.wake
		runtime.Gosched() // other goroutines may be about to queue messages, which then join the same write
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
	for _, t := range q.waiting.All() {
		close(t.done)
	}
	q.queue, q.waiting = fifo.Queue[outgoing]{}, fifo.Queue[*ticket]{}
	q.signal()
}
