package iiitest

import (
	"slices"
	"sync"
)

// frameQueue holds the frames that are waiting to be sent to a client of the stream socket.
type frameQueue struct {
	mu      *sync.Mutex
	changed *sync.Cond
	frames  []queuedFrame
	dropped int
	closed  bool
}

type queuedFrame struct {
	data   []byte
	change bool // may be dropped when the queue is full
}

func newFrameQueue() frameQueue {
	mu := new(sync.Mutex)
	return frameQueue{mu: mu, changed: sync.NewCond(mu)}
}

// push queues a frame without blocking. If the queue is full, a change evicts the oldest
// queued change or, if there is none, is itself dropped. In both cases, push returns the
// number of changes dropped since the client connected. Otherwise, it returns 0.
func (q *frameQueue) push(data []byte, change bool) (dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return 0
	}
	if change && len(q.frames) >= socketBuffer {
		q.dropped++
		dropped = q.dropped
		i := slices.IndexFunc(q.frames, func(f queuedFrame) bool { return f.change })
		if i < 0 {
			return dropped
		}
		q.frames = slices.Delete(q.frames, i, i+1)
	}
	q.frames = append(q.frames, queuedFrame{data, change})
	q.changed.Broadcast()
	return dropped
}

// room blocks while the queue is full. This slows down a client that sends requests without
// reading the replies. room returns false if the queue is closed.
func (q *frameQueue) room() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.frames) >= socketBuffer && !q.closed {
		q.changed.Wait()
	}
	return !q.closed
}

// pop returns the next frame, waiting if there is none. It returns false if the queue is
// closed.
func (q *frameQueue) pop() ([]byte, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.frames) == 0 && !q.closed {
		q.changed.Wait()
	}
	if q.closed {
		return nil, false
	}
	frame := q.frames[0].data
	q.frames = slices.Delete(q.frames, 0, 1)
	q.changed.Broadcast()
	return frame, true
}

// close discards the queued frames and releases all waiting callers.
func (q *frameQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed, q.frames = true, nil
	q.changed.Broadcast()
}
