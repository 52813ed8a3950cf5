package iiitest

import "encoding/json"

// Drop cuts a worker's connection without a Close frame, as a crashed engine or a broken
// network would. The engine then cleans up after the connection. worker is the worker's name
// or the id of its connection. Drop reports whether it found such a worker. The worker
// parameter and the result have the same meaning in Send, StopReading and ResumeReading.
func (e *Engine) Drop(worker string) bool {
	found := e.find(worker)
	for _, w := range found {
		_ = w.conn.Close()
		w.reading.open()
	}
	return len(found) > 0
}

// Send sends m to a worker unchanged. m can be anything: a JSON ping, a result with an unknown
// id, a rejection with an unknown code, or text that is not JSON.
func (e *Engine) Send(worker string, m json.RawMessage) bool {
	sent := false
	for _, w := range e.find(worker) {
		sent = w.send(m) || sent
	}
	return sent
}

// StopReading makes the engine stop reading from a worker. From then on, the engine does not
// notice pings or the end of the connection. Once the connection's buffers are full, the
// worker's writes block. ResumeReading reverses StopReading.
func (e *Engine) StopReading(worker string) bool {
	found := e.find(worker)
	for _, w := range found {
		w.reading.shut()
	}
	return len(found) > 0
}

// ResumeReading makes the engine read from a worker again after StopReading. The engine first
// handles the messages that the worker has sent in the meantime.
func (e *Engine) ResumeReading(worker string) bool {
	found := e.find(worker)
	for _, w := range found {
		w.reading.open()
	}
	return len(found) > 0
}

// RefuseAuth makes the engine reject every new worker as if authentication had failed: it
// sends an error frame with the code AUTH_ERROR and the given message, followed by a Close
// frame. An empty message makes the engine accept workers again.
func (e *Engine) RefuseAuth(message string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refusal = message
}

// Hook calls f for every message of the worker protocol, in both directions. f decides whether
// the message is delivered, delayed, dropped or replaced, and whether the connection is cut.
// For example, a hook can drop the engine's hello message (the FromEngine message of type
// workerregistered), or replace a message with one that has no reattach_token. If f is nil,
// the hook is removed.
//
// f runs on the goroutine that reads or writes the connection. It may call any of the engine's
// methods except Send, and must be safe for concurrent use.
func (e *Engine) Hook(f func(Frame) Verdict) {
	if f == nil {
		e.frames.hook.Store(nil)
		return
	}
	e.frames.hook.Store(&f)
}

// HookCleanup sets a function that the engine calls halfway through cleaning up after a
// connection. At that point the connection's functions have been removed and its calls have
// failed, but its triggers, trigger types and name remain until f returns. While f runs,
// another worker can take over a function that still has triggers from the old connection. f
// receives the connection's id, must be safe for concurrent use, and may call the engine's
// methods. If f is nil, the hook is removed.
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
