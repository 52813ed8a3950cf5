package iii

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"

	"github.com/iii-go/iii/internal/fifo"
	"github.com/iii-go/iii/internal/signal"
)

// notifier runs the user's callbacks sequentially and in order, without holding
// a lock. Its goroutine exists only while there are callbacks to run.
type notifier struct {
	log func() *slog.Logger

	mu      sync.Mutex
	queue   fifo.Queue[func()]
	dropped int // callbacks dropped because the queue was full
	running bool
	quiet   signal.Broadcast // no callback runs or waits
}

// maxCallbacks bounds the callbacks that wait behind one that does not return,
// because the engine can cause any number of them.
const maxCallbacks = 10_000

func (n *notifier) post(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.queue.Len() >= maxCallbacks {
		n.dropped++ // logged later, because the caller may hold a lock of the client
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
			n.log().Error("iii: callbacks dropped because an earlier one did not return", "dropped", dropped)
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

// wait returns a channel that is closed when no callback is running or waiting.
func (n *notifier) wait() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	quiet := n.quiet.Wait()
	if !n.running {
		n.quiet.Send()
	}
	return quiet
}
