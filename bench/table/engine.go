package main

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/gorilla/websocket"
)

// engine simulates an engine for one worker. It replies to the messages that the worker sends
// at startup. Then it invokes bench::echo or replies to calls to bench::sink.
type engine struct {
	load
	warm, n int // number of warm-up and of measured invocations
	pid     int64
	started chan struct{} // closed when pid is known

	taken   atomic.Bool
	outcome chan error // capacity 1
	cost    float64    // CPU time of the measured invocations in µs
	memory  float64    // peak memory of the worker in MiB

	sending sync.Mutex
	start   float64
	done    int
}

// total returns the number of invocations. It exceeds warm + n by inflight, to keep the
// concurrency constant until the measurement ends.
func (e *engine) total() int { return e.warm + e.n + e.inflight }

// ServeHTTP implements http.Handler.
func (e *engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	if strings.Trim(r.URL.Path, "/") != "" { // telemetry connection
		discard(conn)
		return
	}
	if !e.taken.CompareAndSwap(false, true) {
		return
	}
	<-e.started
	e.end(e.talk(conn))
}

// discard reads messages until the worker disconnects.
func discard(conn *websocket.Conn) {
	for {
		if _, _, err := conn.NextReader(); err != nil {
			return
		}
	}
}

func (e *engine) end(err error) {
	select {
	case e.outcome <- err:
	default:
	}
}

func (e *engine) send(conn *websocket.Conn, message []byte) error {
	e.sending.Lock()
	defer e.sending.Unlock()
	return conn.WriteMessage(websocket.TextMessage, message)
}

// talk reads messages until the worker disconnects, and returns the reason.
func (e *engine) talk(conn *websocket.Conn) error {
	if err := e.send(conn, []byte(`{"type":"workerregistered","worker_id":"00000000-0000-4000-8000-000000000001"}`)); err != nil {
		return err
	}
	room := make(chan struct{}, e.inflight)
	registered, invoking := false, false
	var message bytes.Buffer
	for {
		_, r, err := conn.NextReader()
		if err == nil {
			message.Reset()
			_, err = message.ReadFrom(r)
		}
		if err != nil {
			return fmt.Errorf("the worker has left after %d invocations: %w", e.done, err)
		}
		head := message.Bytes()[:min(message.Len(), 600)]
		if bytes.Contains(head, []byte(`"registerfunction"`)) {
			registered = registered || bytes.Contains(message.Bytes(), []byte(`"bench::echo"`))
		}
		var reply []byte
		switch {
		case bytes.Contains(head, []byte(`{"type":"ping"}`)):
			reply = []byte(`{"type":"pong"}`)
		case bytes.Contains(head, []byte(`"invocationresult"`)):
			if bytes.Contains(head, []byte(`"error":{`)) {
				return fmt.Errorf("the worker has failed an invocation: %s", head)
			}
			<-room
			err = e.count()
		case bytes.Contains(head, []byte(`"bench::sink"`)):
			reply = replyTo(head, `{"ok":true,"id":"r-1","at":1700000000}`)
			err = e.count()
		case bytes.Contains(head, []byte(`"invocation_id":"`)): // calls to the engine's own functions
			reply = replyTo(head, `{"success":true}`)
		}
		if err != nil {
			return err
		}
		if reply != nil {
			if err := e.send(conn, reply); err != nil {
				return err
			}
		}
		if registered && !invoking && e.mode != "call" {
			invoking = true
			go func() {
				if err := e.invoke(conn, room); err != nil {
					e.end(err)
				}
			}()
		}
	}
}

// count records a completed invocation.
func (e *engine) count() (err error) {
	e.done++
	switch e.done {
	case e.warm:
		e.start, err = cpuTime(e.pid)
	case e.warm + e.n:
		var now float64
		now, err = cpuTime(e.pid)
		e.cost, e.memory = now-e.start, peakMemory(e.pid)
		e.end(err)
	}
	return err
}

// invoke sends invocations of bench::echo. It sends a value to room before each one, so the
// capacity of room limits their concurrency.
func (e *engine) invoke(conn *websocket.Conn, room chan<- struct{}) error {
	tail := []byte(`,"note":"` + strings.Repeat("x", e.size) + `","tags":["a","b"]},"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}`)
	var message []byte
	for i := range e.total() {
		room <- struct{}{}
		message = fmt.Appendf(message[:0], `{"type":"invokefunction","invocation_id":"00000000-0000-4000-8000-%012x","function_id":"bench::echo","data":{"user":"u-%d","amount":%d`, i, i, i)
		if err := e.send(conn, append(message, tail...)); err != nil {
			return err
		}
	}
	return nil
}

// replyTo returns the reply to a call. head is the beginning of the call's message.
func replyTo(head []byte, result string) []byte {
	const key = `"invocation_id":"`
	i := bytes.Index(head, []byte(key))
	if i < 0 || len(head) < i+len(key)+36 {
		return nil // the call expects no result
	}
	id := head[i+len(key):][:36]
	return []byte(`{"type":"invocationresult","invocation_id":"` + string(id) + `","function_id":` + strconv.Quote("bench::sink") + `,"result":` + result + `}`)
}
