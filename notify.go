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
	full    bool // said that callbacks are dropped, since the queue was last empty
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
		if !n.full {
			n.full = true
			n.log.Error("iii: a callback does not return; further ones are dropped", "waiting", maxCallbacks)
		}
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
			n.running, n.full, n.queue = false, false, nil
			if n.quiet != nil {
				close(n.quiet)
				n.quiet = nil
			}
			n.mu.Unlock()
			return
		}
		f := n.queue[0]
		n.queue = n.queue[1:]
		n.mu.Unlock()
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
