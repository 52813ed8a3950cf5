package iiitest

import (
	"context"
	"errors"
	"net/http"
	"sync"

	"github.com/gorilla/websocket"
)

// Engine is a running development engine.
type Engine struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// spawn runs f in a goroutine of the engine: its context ends when the engine
// closes, and Close waits for it.
func (e *Engine) spawn(f func(ctx context.Context)) {
	e.wg.Add(1)
	go func() {
		defer e.wg.Done()
		f(e.ctx)
	}()
}

// upgrade turns the request into a WebSocket with the engine's limits. Close
// drops it; the caller reads until an error and may write from one goroutine.
func (e *Engine) upgrade(w http.ResponseWriter, r *http.Request) (*websocket.Conn, error) {
	return nil, errors.New("iiitest: not serving yet")
}
