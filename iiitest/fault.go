package iiitest

import "encoding/json"

// Drop cuts the connection of a worker without a Close frame, as a crash of the engine
// or a broken network would; the engine then cleans up after it. worker is either the
// name that the worker gave itself or the id of its connection. Drop reports whether
// there is such a worker. The other methods with a worker parameter do the same.
func (e *Engine) Drop(worker string) bool {
	found := e.find(worker)
	for _, w := range found {
		_ = w.conn.Close()
		w.reading.open()
	}
	return len(found) > 0
}

// Send sends m to a worker unchanged, whatever it is: a JSON ping, a result with an
// unknown id, a rejection with an unknown code, or text that is not JSON.
func (e *Engine) Send(worker string, m json.RawMessage) bool {
	sent := false
	for _, w := range e.find(worker) {
		sent = w.send(m) || sent
	}
	return sent
}

// StopReading makes the engine stop reading from a worker, so it notices neither pings
// nor the end of the connection. What the worker sends fills the buffers on the way and
// then blocks the worker. ResumeReading ends this state.
func (e *Engine) StopReading(worker string) bool {
	found := e.find(worker)
	for _, w := range found {
		w.reading.shut()
	}
	return len(found) > 0
}

// ResumeReading reverts StopReading. The engine then handles what the worker has sent
// in the meantime.
func (e *Engine) ResumeReading(worker string) bool {
	found := e.find(worker)
	for _, w := range found {
		w.reading.open()
	}
	return len(found) > 0
}

// RefuseAuth makes the engine reject every new worker as if its authentication had
// failed: with an error frame that has the code AUTH_ERROR and this message, followed
// by a Close frame. An empty message ends this state.
func (e *Engine) RefuseAuth(message string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refusal = message
}

// Hook makes f decide about every message of the worker protocol, in both directions;
// nil removes the hook. For example, a hook can withhold the engine's greeting (drop
// the FromEngine message of type workerregistered), remove the reattach_token or an
// invocation_id from a message (Replace), or cut a connection in the middle of a
// conversation. f runs on the goroutine that reads or writes the connection. It may
// call all methods of the engine except Send, and must be safe for concurrent use.
func (e *Engine) Hook(f func(Frame) Verdict) {
	if f == nil {
		e.frames.hook.Store(nil)
		return
	}
	e.frames.hook.Store(&f)
}

// HookCleanup sets a function that the engine calls in the middle of the cleanup after
// a connection: the functions of the connection are free and its calls have failed, but
// its triggers, trigger types and name remain until f returns. At this point another
// worker can take over a function whose route the engine is about to remove. f receives
// the id of the connection, must be safe for concurrent use, and may call the engine's
// methods. Nil removes the hook.
func (e *Engine) HookCleanup(f func(workerID string)) {
	if f == nil {
		e.cleanupHook.Store(nil)
		return
	}
	e.cleanupHook.Store(&f)
}

// find returns the connected workers with the given name or id.
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
