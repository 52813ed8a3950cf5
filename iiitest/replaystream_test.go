package iiitest

import (
	"encoding/json"
	"strings"

	"github.com/gorilla/websocket"
)

// dialed is the result of dialing a socket that requires authentication.
type dialed struct {
	conn *websocket.Conn
	err  error
}

// lookAhead connects a client of the stream socket or the guarded listener, or disconnects a
// client of the stream socket, before the player reaches the event. The recording lists a
// connection after its call to the auth function, and a disconnection after the calls of the
// leave triggers.
func (p *player) lookAhead(events []event, i int) {
	for _, e := range events[i:] {
		header, client := p.clients[e.Worker]
		url := p.engine.StreamURL()
		guarded, behind := p.guarded[e.Worker]
		if behind {
			header, url = guarded, p.engine.GuardedURL()
		}
		if !client && !behind || e.Event == "" {
			if !aboutClients(e) {
				return
			}
			continue
		}
		switch w := p.workers[e.Worker]; {
		case e.Event == "open" && p.dialing[e.Worker] == nil:
			done := make(chan dialed, 1)
			p.dialing[e.Worker] = done
			go func() {
				d := websocket.Dialer{NetDialContext: p.engine.DialContext}
				conn, _, err := d.DialContext(p.t.Context(), url+e.Path, header)
				done <- dialed{conn, err}
			}()
		case e.Event == "closed" && client && w != nil:
			_ = w.conn.Close()
		}
		return
	}
}

// aboutClients reports whether a message is caused by a client connecting or disconnecting.
func aboutClients(e event) bool {
	var m struct {
		FunctionID string `json:"function_id"`
	}
	if json.Unmarshal(e.Frame, &m) != nil {
		return false
	}
	return m.FunctionID == "streams::auth" || m.FunctionID == "gate::auth" || strings.HasSuffix(m.FunctionID, "::leave")
}

// connection returns the socket that lookAhead has dialed, or opens a new one.
func (p *player) connection(e event) (*websocket.Conn, error) {
	if done := p.dialing[e.Worker]; done != nil {
		d := <-done
		return d.conn, d.err
	}
	conn, _, err := p.dial(e.Path)
	return conn, err
}
