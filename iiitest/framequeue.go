package iiitest

import (
	"slices"
	"sync"
)

// frameQueue holds the frames that wait for one client of the stream socket.
type frameQueue struct {
	mu      *sync.Mutex
	changed *sync.Cond
	frames  []queuedFrame
	dropped int
	closed  bool
}

type queuedFrame struct {
	data   []byte
	change bool // may be dropped
}

func newFrameQueue() frameQueue {
	mu := new(sync.Mutex)
	return frameQueue{mu: mu, changed: sync.NewCond(mu)}
}

// push never blocks. A full queue drops its oldest change, or the new frame if it holds
// no change. push returns how many frames it has dropped since the client connected.
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

// room waits until the queue is not full. This slows down a client that sends requests without
// reading the answers. room returns false when the queue is closed.
func (q *frameQueue) room() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.frames) >= socketBuffer && !q.closed {
		q.changed.Wait()
	}
	return !q.closed
}

// pop waits for a frame. It returns false when the queue is closed.
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

// close discards the frames and ends all waits.
func (q *frameQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed, q.frames = true, nil
	q.changed.Broadcast()
}
