package iii

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
)

// notifier runs the user's callbacks: in order, one after another, on a
// goroutine that exists while there are any, with no lock held.
type notifier struct {
	log *slog.Logger

	mu      sync.Mutex
	queue   []func()
	dropped int // callbacks that found the queue full
	running bool
	quiet   chan struct{} // closed when nothing runs; nil if nobody asks
}

// maxCallbacks bounds what waits behind a callback that does not return, since
// the engine can cause any number of them.
const maxCallbacks = 10_000

func (n *notifier) post(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.queue) >= maxCallbacks {
		n.dropped++ // said later: a lock of the client's may be held here
		return
	}
	n.queue = append(n.queue, f)
	if !n.running {
		n.running = true
		go n.run()
	}
}

func (n *notifier) run() {
	for {
		n.mu.Lock()
		if len(n.queue) == 0 {
			n.running, n.queue = false, nil
			if n.quiet != nil {
				close(n.quiet)
				n.quiet = nil
			}
			n.mu.Unlock()
			return
		}
		f := n.queue[0]
		n.queue = n.queue[1:]
		dropped := n.dropped
		n.dropped = 0
		n.mu.Unlock()
		if dropped > 0 {
			n.log.Error("iii: callbacks were dropped behind one that did not return", "dropped", dropped)
		}
		n.call(f)
	}
}

func (n *notifier) call(f func()) {
	defer func() {
		if p := recover(); p != nil {
			n.log.Error("iii: callback panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	f()
}

// wait returns a channel that is closed when no callback runs or waits.
func (n *notifier) wait() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	quiet := n.quiet
	if quiet == nil {
		quiet = make(chan struct{})
	}
	if n.running {
		n.quiet = quiet
	} else {
		close(quiet)
	}
	return quiet
}
