package iiitest

// registerStores adds the functions and trigger types of iii-state and
// iii-stream.
func (e *Engine) registerStores() {
	e.registerState()
	e.registerStreams()
}
