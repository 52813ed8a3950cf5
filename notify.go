package iii

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"

	"github.com/iii-go/iii/internal/fifo"
	"github.com/iii-go/iii/internal/signal"
)

// notifier runs the user's callbacks: in order, one after another, on a
// goroutine that exists while there are any, with no lock held.
type notifier struct {
	log func() *slog.Logger

	mu      sync.Mutex
	queue   fifo.Queue[func()]
	dropped int // callbacks that found the queue full
	running bool
	quiet   signal.Broadcast // nothing runs or waits
}

// maxCallbacks bounds what waits behind a callback that does not return, since
// the engine can cause any number of them.
const maxCallbacks = 10_000

func (n *notifier) post(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.queue.Len() >= maxCallbacks {
		n.dropped++ // said later: a lock of the client's may be held here
		return
	}
	n.queue.Push(f)
	if !n.running {
		n.running = true
		go n.run()
	}
}

func (n *notifier) run() {
	for {
		n.mu.Lock()
		if n.queue.Len() == 0 {
			n.running, n.queue = false, fifo.Queue[func()]{}
			n.quiet.Send()
			n.mu.Unlock()
			return
		}
		f := n.queue.Pop()
		dropped := n.dropped
		n.dropped = 0
		n.mu.Unlock()
		if dropped > 0 {
			n.log().Error("iii: callbacks were dropped behind one that did not return", "dropped", dropped)
		}
		n.call(f)
	}
}

func (n *notifier) call(f func()) {
	defer func() {
		if p := recover(); p != nil {
			n.log().Error("iii: callback panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	f()
}

// wait returns a channel that is closed when no callback runs or waits.
func (n *notifier) wait() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	quiet := n.quiet.Wait()
	if !n.running {
		n.quiet.Send()
	}
	return quiet
}
