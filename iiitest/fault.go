package iiitest

import "encoding/json"

// Drop cuts the connection of a worker without a Close frame, as a crash of the
// engine or a broken network would. The engine then cleans up behind it. Like
// the other methods that name a worker it takes the name that the worker gave
// itself or the id of its connection, and reports whether there is one.
func (e *Engine) Drop(worker string) bool {
	found := e.find(worker)
	for _, w := range found {
		_ = w.conn.Close()
		w.reading.open()
	}
	return len(found) > 0
}

// Send sends a worker any message, as it is: a JSON ping, a result with an
// unknown id, a rejection with an unknown code, text that is no JSON.
func (e *Engine) Send(worker string, m json.RawMessage) bool {
	sent := false
	for _, w := range e.find(worker) {
		sent = w.send(m) || sent
	}
	return sent
}

// StopReading makes the engine read nothing more from a worker, neither pings nor
// the end of its connection: what the worker sends fills the buffers on the way and
// then blocks it. ResumeReading ends that.
func (e *Engine) StopReading(worker string) bool {
	found := e.find(worker)
	for _, w := range found {
		w.reading.shut()
	}
	return len(found) > 0
}

// ResumeReading ends StopReading: what the worker sent meanwhile is handled.
func (e *Engine) ResumeReading(worker string) bool {
	found := e.find(worker)
	for _, w := range found {
		w.reading.open()
	}
	return len(found) > 0
}

// RefuseAuth makes the engine refuse every new worker from now on as if its
// authentication had failed: an error frame with the code AUTH_ERROR and this
// message, then a Close frame. An empty message ends that.
func (e *Engine) RefuseAuth(message string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refusal = message
}

// Hook has f decide about every message of the worker protocol, in both
// directions; nil removes it. For instance it withholds the engine's greeting
// (drop the message of type workerregistered that comes FromEngine), takes the
// reattach_token or an invocation_id out of a message (Replace), or cuts a
// connection in the middle of a conversation. f runs on the goroutine that
// reads or writes the connection and may call the engine's methods, but Send;
// it is called from several goroutines at once.
func (e *Engine) Hook(f func(Frame) Verdict) {
	if f == nil {
		e.frames.hook.Store(nil)
		return
	}
	e.frames.hook.Store(&f)
}

// HookCleanup sets a function that the engine calls in the middle of cleaning up after a
// connection: the connection's functions are free and its calls have failed, but its
// triggers, trigger types and name remain until f returns. In that moment another worker may
// take over a function whose route the engine is about to remove. f receives the id of the
// connection. It may be called from several goroutines at once and may call the engine's
// methods. Nil removes the hook.
func (e *Engine) HookCleanup(f func(workerID string)) {
	if f == nil {
		e.cleanupHook.Store(nil)
		return
	}
	e.cleanupHook.Store(&f)
}

// find lists the connected workers with a name or an id.
func (e *Engine) find(nameOrID string) []*worker {
	e.mu.Lock()
	defer e.mu.Unlock()
	var found []*worker
	for id, w := range e.workers {
		if id == nameOrID || w.meta.name == nameOrID {
			found = append(found, w)
		}
	}
	return found
}
