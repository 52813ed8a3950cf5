package iiitest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/gorilla/websocket"

	"github.com/iii-go/iii/internal/memnet"
)

// function registers functions and waits until the engine has registered them.
func (c *client) function(ids ...string) {
	c.t.Helper()
	for _, id := range ids {
		c.send(`{"type":"registerfunction","id":%q}`, id)
	}
	c.sync()
}

func errorCode(m map[string]any) string {
	e, _ := m["error"].(map[string]any)
	code, _ := e["code"].(string)
	return code
}

func TestRegistrationsWaitForTheNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		c, other := dial(t, e), dial(t, e)
		c.function("f::g")
		c.send(`{"type":"registertriggertype","id":"hook","description":"d"}`)
		c.bind("t1", "hook")
		c.send(`{"type":"unregisterfunction","id":"f::g"}`)
		c.send(`{"type":"registerfunction","id":"f::h"}`)
		c.sync()
		if got := errorCode(other.call("f::h", `{}`, `,"namespace":"blue"`)); got != "function_not_found" {
			t.Errorf("before the namespace: %s", got)
		}
		// After an invalid declaration, the worker can still declare its namespace.
		if got := errorCode(c.call("engine::workers::register", `{"namespace":" "}`)); got != "INVALID_NAMESPACE" {
			t.Errorf("blank namespace: %s", got)
		}
		if got := errorCode(c.call("engine::workers::register", `{"pid":"x"}`)); got != "deserialization_error" {
			t.Errorf("wrong pid: %s", got)
		}
		c.send(`{"type":"invokefunction","function_id":"engine::workers::register","data":{"namespace":"blue"}}`)
		c.want(forwarded("t1", "hook", `,"trigger_namespace":"blue"`))
		synctest.Wait() // f::h comes after t1
		other.send(`{"type":"invokefunction","function_id":"f::h","data":1,"namespace":"blue"}`)
		c.want(`{"type":"invokefunction","invocation_id":"*","function_id":"f::h","data":1}`)
		if got := errorCode(other.call("f::g", `{}`, `,"namespace":"blue"`)); got != "function_not_found" {
			t.Errorf("unregistered while waiting: %s", got)
		}
		// The namespace cannot be changed, but the call succeeds.
		c.register("c", `,"namespace":"green"`)
		c.function("f::i")
		if got := other.call("f::i", `{}`, `,"namespace":"green"`); !strings.Contains(fmt.Sprint(got), "registered in namespace(s): blue.") {
			t.Errorf("second namespace: %v", got)
		}
		// A worker that declares no namespace gets the default one.
		other.send(`{"type":"registerfunction","id":"f::late"}`)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		c.send(`{"type":"invokefunction","function_id":"f::late","data":2}`)
		other.want(`{"type":"invokefunction","invocation_id":"*","function_id":"f::late","data":2}`)
	})
}

func TestReservedPrefix(t *testing.T) {
	e := Start(t)
	c := dial(t, e).register("c", `,"namespace":"blue"`)
	c.send(`{"type":"registerfunction","id":"engine::mine"}`)
	c.want(`{"type":"registrationrejected","code":"FUNCTION_NAMESPACE_CONFLICT","namespace":"blue","function_id":"engine::mine","owner_worker_id":""}`)
}

func TestWorkerReplacesBuiltinFunction(t *testing.T) {
	e := Start(t)
	c, other := dial(t, e).register("c"), dial(t, e).register("other")
	c.function("publish")
	other.send(`{"type":"invokefunction","function_id":"publish","data":1}`)
	c.want(`{"type":"invokefunction","invocation_id":"*","function_id":"publish","data":1}`)
	_ = c.conn.Close()
	for e.Stats().Workers > 1 {
		other.sync()
	}
	if got := errorCode(other.call("publish", `{}`)); got != "function_not_found" {
		t.Errorf("built-in function after its replacement: %s", got)
	}
}

func TestReattach(t *testing.T) {
	e := Start(t)
	first, provider := dial(t, e).register("w"), dial(t, e).register("provider")
	provider.provide("hook")
	first.function("f::g")
	first.bind("t1", "hook")
	provider.want(forwarded("t1", "hook", ""))

	second := dial(t, e)
	for _, m := range []string{
		`"previous_worker_id":"` + first.id + `"`,
		`"previous_worker_id":"` + first.id + `","reattach_token":"` + second.token + `"`,
		`"previous_worker_id":"` + second.id + `","reattach_token":"` + second.token + `"`,
		`"previous_worker_id":"nobody","reattach_token":"` + first.token + `"`,
	} {
		second.send(`{"type":"reattach",%s}`, m)
		second.sync()
		first.sync() // still connected
	}
	// The predecessor's registrations are removed before the next message is handled, so its
	// name and functions are free.
	second.send(`{"type":"reattach","previous_worker_id":%q,"reattach_token":%q}`, first.id, first.token)
	second.register("w")
	second.function("f::g")
	provider.want(withdrawn("t1", "hook"))
	if err := first.closed(); websocket.IsCloseError(err, websocket.CloseNoStatusReceived) {
		t.Errorf("Close frame for the predecessor: %v", err)
	}
	provider.send(`{"type":"invokefunction","function_id":"f::g","data":1}`)
	second.want(`{"type":"invokefunction","invocation_id":"*","function_id":"f::g","data":1}`)
}

func TestNameConflict(t *testing.T) {
	e := Start(t)
	holder, rival := dial(t, e).register("w"), dial(t, e)
	rival.send(`{"type":"registerfunction","id":"f::rival"}`)
	rival.send(`{"type":"invokefunction","function_id":"engine::workers::register","data":{"name":"w\u0007 "}}`)
	rival.want(`{"type":"registrationrejected","code":"WORKER_NAMESPACE_CONFLICT","namespace":"default","worker_name":"w","owner_worker_id":"` + holder.id + `"}`)
	if err := rival.closed(); !websocket.IsCloseError(err, websocket.CloseNoStatusReceived) {
		t.Errorf("end: %v, want a Close without a code", err)
	}
	if got := errorCode(holder.call("f::rival", `{}`)); got != "function_not_found" {
		t.Errorf("what the rival had registered: %s", got)
	}
	dial(t, e).register("w", `,"namespace":"blue"`) // the name is free in another namespace
	holder.register("renamed")
	dial(t, e).register("w") // the name is free after the rename
}

// The engine leaves a rejected connection open until the worker has had time to read why.
// Messages that are queued after the Close frame, such as the reply to the registration, do not
// end the connection early.
func TestNameConflictLeavesTimeToReadTheReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		dial(t, e).register("w")
		rival := dial(t, e)
		rival.conn.SetCloseHandler(func(int, string) error { return nil })
		began := time.Now()
		rival.send(`{"type":"invokefunction","invocation_id":"0c1f6f0e-6d6e-4c41-9d0e-6a7b7a3f2f10","function_id":"engine::workers::register","data":{"name":"w"}}`)
		for e.Stats().Workers > 1 && time.Since(began) < time.Minute {
			time.Sleep(time.Second)
		}
		if got := time.Since(began).Round(time.Second); got < lingerTime {
			t.Errorf("the connection ended after %v", got)
		}
		rival.want(`{"type":"registrationrejected","code":"WORKER_NAMESPACE_CONFLICT","namespace":"default","worker_name":"w","owner_worker_id":"*"}`)
		if err := rival.closed(); !websocket.IsCloseError(err, websocket.CloseNoStatusReceived) {
			t.Errorf("end: %v, want a Close without a code", err)
		}
	})
}

// As soon as another worker can see that a connection has ended, that connection's name and
// functions are free.
func TestWorkerIsRemovedWhenItsConnectionEnds(t *testing.T) {
	e := Start(t)
	other := dial(t, e)
	var many []string // makes the removal take longer
	for i := range 200 {
		many = append(many, fmt.Sprintf("f::%d", i))
	}
	for range 30 {
		c := dial(t, e).register("w")
		c.function(many...)
		if err := c.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Time{}); err != nil {
			t.Fatal(err)
		}
		if err := c.closed(); closeCode(err) != websocket.CloseAbnormalClosure {
			t.Fatalf("end: %v, want one without a Close frame", err)
		}
		if got := errorCode(other.call(many[0], `{}`)); got != "function_not_found" {
			t.Fatalf("its function: %s", got)
		}
	}
}

func TestStoredMessagesDoNotRetainConnections(t *testing.T) {
	e := Start(t)
	const connections = 20
	var workers []weak.Pointer[worker]
	for i := range connections {
		c := dial(t, e).register(fmt.Sprint("w", i))
		c.function(fmt.Sprint("f", i))
		e.mu.Lock()
		workers = append(workers, weak.Make(e.workers[c.id]))
		e.mu.Unlock()
		_ = c.conn.WriteControl(websocket.CloseMessage, nil, time.Time{})
		_ = c.closed()
	}
	left := func() (kept, entries int) {
		for _, w := range workers {
			if w.Value() != nil {
				kept++
			}
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		return kept, len(e.workers) + len(e.conns) + len(e.leases) + len(e.calls) + len(e.triggers.byID)
	}
	for deadline := time.Now().Add(time.Minute); ; runtime.Gosched() {
		runtime.GC()
		kept, entries := left()
		if kept == 0 && entries == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d connections are kept, %d entries of tables", kept, connections, entries)
		}
	}
	names := map[string]bool{}
	for _, f := range e.Frames() {
		names[f.WorkerName] = true
	}
	if len(names) != connections {
		t.Errorf("names in Frames: %v", names)
	}
}

func TestFrames(t *testing.T) {
	e := Start(t)
	c := dial(t, e).register("c")
	for _, test := range []struct {
		name, message string
		kind          int
		undecodable   uint64
	}{
		{"binary", `{"type":"ping"}`, websocket.BinaryMessage, 0},
		{"text", ` {"type":"ping", "more":[1] } `, websocket.TextMessage, 0},
		{"blank text", " \n", websocket.TextMessage, 0},
		{"telemetry", "OTLP{}", websocket.BinaryMessage, 0},
		{"no JSON", "ping", websocket.TextMessage, 1},
		{"two values", `{"type":"ping"}{"type":"ping"}`, websocket.TextMessage, 1},
		{"no object", `["ping"]`, websocket.TextMessage, 1},
		{"upper case", `{"type":"Ping"}`, websocket.TextMessage, 1},
		{"other case of the key", `{"Type":"ping"}`, websocket.TextMessage, 1},
		{"type is no string", `{"type":1}`, websocket.TextMessage, 1},
		{"not in the engine", `{"type":"unregisterservice","id":"x"}`, websocket.TextMessage, 1},
		{"no function_id", `{"type":"invokefunction","data":1}`, websocket.TextMessage, 1},
		{"no data", `{"type":"invokefunction","function_id":"x"}`, websocket.TextMessage, 1},
		{"no UUID", `{"type":"invokefunction","invocation_id":"x","function_id":"x","data":1}`, websocket.TextMessage, 1},
		{"unknown action", `{"type":"invokefunction","function_id":"x","data":1,"action":{"type":"later"}}`, websocket.TextMessage, 1},
		{"enqueue without a queue", `{"type":"invokefunction","function_id":"x","data":1,"action":{"type":"enqueue"}}`, websocket.TextMessage, 1},
		{"error is a string", `{"type":"invocationresult","invocation_id":"0c1f6f0e-6d6e-4c41-9d0e-6a7b7a3f2f10","function_id":"x","error":"no"}`, websocket.TextMessage, 1},
		{"error without a message", `{"type":"invocationresult","invocation_id":"0c1f6f0e-6d6e-4c41-9d0e-6a7b7a3f2f10","function_id":"x","error":{"code":"x"}}`, websocket.TextMessage, 1},
		{"no description", `{"type":"registertriggertype","id":"x"}`, websocket.TextMessage, 1},
		{"no config", `{"type":"registertrigger","id":"x","trigger_type":"x","function_id":"x"}`, websocket.TextMessage, 1},
		{"trigger's type named type", `{"type":"registertrigger","id":"x","type":"x","function_id":"x","config":{}}`, websocket.TextMessage, 1},
		{"too deep", `{"type":"ping","x":` + strings.Repeat("[", 127) + strings.Repeat("]", 127) + `}`, websocket.TextMessage, 1},
		{"half a surrogate pair", `{"type":"ping","x":"\ud800"}`, websocket.TextMessage, 1},
		{"number out of range", `{"type":"ping","x":1e400}`, websocket.TextMessage, 1},
		{"other ids as of Rust", `{"type":"registerfunction","id":"x","description":null,"metadata":null,"invocation":null}`, websocket.TextMessage, 0},
		{"messages of the engine", `{"type":"workerregistered"}`, websocket.TextMessage, 0},
		{"service", `{"type":"registerservice","id":"x"}`, websocket.TextMessage, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := e.Stats().Undecodable
			if err := c.conn.WriteMessage(test.kind, []byte(test.message)); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(test.message, "ping") && test.undecodable == 0 {
				c.want(`{"type":"pong"}`)
			}
			c.sync()
			if got := e.Stats().Undecodable - before; got != test.undecodable {
				t.Errorf("undecodable messages: got %d, want %d", got, test.undecodable)
			}
		})
	}
	if got := e.Telemetry(); len(got) != 1 || got[0].Prefix != "OTLP" || string(got[0].Data) != "{}" || got[0].Worker != c.id {
		t.Errorf("telemetry on a worker's connection: %+v", got)
	}
}

func TestInvalidUTF8EndsTheConnection(t *testing.T) {
	e := Start(t)
	c := dial(t, e)
	if err := c.conn.WriteMessage(websocket.TextMessage, []byte("\xff")); err != nil {
		t.Fatal(err)
	}
	_ = c.closed()
}

func TestSlowWorkerBlocksOnlyItsCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		slow, fast, caller := dial(t, e).register("slow"), dial(t, e).register("fast"), dial(t, e).register("caller")
		slow.function("slow::f")
		fast.function("fast::f")
		// The slow worker does not read. First the pipe fills up, then the send queue, and
		// then callers block.
		const calls = 200
		big := `"` + strings.Repeat("x", 8<<10) + `"`
		for range calls {
			caller.send(`{"type":"invokefunction","function_id":"slow::f","data":%s}`, big)
		}
		caller.sync()
		synctest.Wait()
		w := e.find("slow")[0]
		w.out.mu.Lock()
		queued, waiting := w.out.queue.Len(), w.out.waiting.Len()
		w.out.mu.Unlock()
		if queued != sendQueueSize || waiting == 0 {
			t.Errorf("%d messages queued and %d waiting, want %d and some", queued, waiting, sendQueueSize)
		}
		caller.send(`{"type":"invokefunction","function_id":"fast::f","data":1}`)
		fast.want(`{"type":"invokefunction","invocation_id":"*","function_id":"fast::f","data":1}`)
		// When the worker reads again, it receives all messages.
		for range calls {
			slow.recv()
		}
		if got := e.Stats().CallsInFlight; got != calls+1 {
			t.Errorf("calls in flight: %d", got)
		}
		_ = slow.conn.Close()
		synctest.Wait()
		if got := e.Stats().CallsInFlight; got != 1 {
			t.Errorf("calls in flight after the worker's end: %d", got)
		}
	})
}

func TestFrameLimits(t *testing.T) {
	const mib = 1 << 20
	e := Start(t)
	for _, test := range []struct {
		name            string
		fragment, total int
		ok              bool
	}{
		{"a frame of 16 MiB", 16 * mib, 16 * mib, true},
		{"a frame over 16 MiB", 16*mib + 1, 16*mib + 1, false},
		{"20 MiB in fragments of 4", 4 * mib, 20 * mib, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := dialURL(t, e, e.URL())
			c.recv()
			// Blank messages are ignored, whatever their size.
			chunk := bytes.Repeat([]byte(" "), test.fragment)
			conn := c.conn.NetConn()
			for left, first := test.total, true; left > 0; first = false {
				n := min(left, test.fragment)
				left -= n
				if _, err := conn.Write(frameHeader(first, left == 0, n)); err != nil {
					break
				}
				if _, err := conn.Write(chunk[:n]); err != nil {
					break
				}
			}
			if test.ok {
				c.sync()
				return
			}
			if err := c.closed(); websocket.IsCloseError(err, websocket.CloseMessageTooBig, websocket.CloseNoStatusReceived) {
				t.Errorf("a Close frame: %v", err)
			}
		})
	}
}

func TestMessageLimit(t *testing.T) {
	const mib = 1 << 20
	var c limitedConn
	frame := func(first, last bool, n int) error {
		_, err := c.follow(frameHeader(first, last, n))
		c.remaining = 0 // as if the payload had been read
		return err
	}
	for i := range 4 {
		if err := frame(i == 0, i == 3, 16*mib); err != nil {
			t.Fatalf("%d MiB: %v", 16*(i+1), err)
		}
	}
	if _, err := c.follow([]byte{0x89, 0x80, 0, 0, 0, 0}); err != nil {
		t.Errorf("a ping: %v", err)
	}
	if err := frame(true, false, 16*mib); err != nil {
		t.Errorf("the next message: %v", err)
	}
	for range 3 {
		_ = frame(false, false, 16*mib)
	}
	if err := frame(false, true, 1); err != errTooLarge {
		t.Errorf("64 MiB and a byte: %v", err)
	}
}

// frameHeader returns a text frame's header with an all-zero masking key.
func frameHeader(first, last bool, n int) []byte {
	h := []byte{0, 0x80 | 127, 0, 0, 0, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n), 0, 0, 0, 0}
	if first {
		h[0] = websocket.TextMessage
	}
	if last {
		h[0] |= 0x80
	}
	return h
}

func TestFaultsReachTheNamedWorker(t *testing.T) {
	t.Run("drop", func(t *testing.T) {
		e := Start(t)
		c := dial(t, e).register("c")
		if !e.Drop("c") || e.Drop("nobody") {
			t.Error("Drop finds the wrong workers")
		}
		if err := c.closed(); websocket.IsCloseError(err, websocket.CloseNoStatusReceived, websocket.CloseNormalClosure) {
			t.Errorf("a Close frame: %v", err)
		}
	})
	t.Run("send", func(t *testing.T) {
		e := Start(t)
		c := dial(t, e)
		if !e.Send(c.id, json.RawMessage(`{"type":"ping"}`)) || e.Send("nobody", nil) {
			t.Error("Send finds the wrong workers")
		}
		c.want(`{"type":"ping"}`)
	})
	t.Run("refuse auth", func(t *testing.T) {
		e := Start(t)
		e.RefuseAuth("go away")
		c := dialURL(t, e, e.URL())
		c.want(`{"type":"error","error":{"code":"AUTH_ERROR","message":"go away"}}`)
		if err := c.closed(); !websocket.IsCloseError(err, websocket.CloseNoStatusReceived) {
			t.Errorf("end: %v, want a Close without a code", err)
		}
		e.RefuseAuth("")
		dial(t, e)
	})
	t.Run("stop reading", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			e := Start(t)
			c := dial(t, e).register("c")
			if !e.StopReading("c") || e.StopReading("nobody") || e.ResumeReading("nobody") {
				t.Error("StopReading finds the wrong workers")
			}
			c.send(`{"type":"ping"}`)
			synctest.Wait()
			before := e.Stats().Messages
			time.Sleep(time.Hour)
			if got := e.Stats().Messages; got != before {
				t.Errorf("%d messages while nothing is read", got-before)
			}
			e.ResumeReading("c")
			c.want(`{"type":"pong"}`)
			e.StopReading("c")
			e.Drop("c")
			_ = c.closed()
			synctest.Wait()
			if got := e.Stats().Workers; got != 0 {
				t.Errorf("%d workers after the drop", got)
			}
		})
	})
	t.Run("withhold the greeting", func(t *testing.T) {
		e := Start(t)
		e.Hook(func(f Frame) Verdict { return Verdict{Drop: f.Type() == "workerregistered"} })
		c := dialURL(t, e, e.URL())
		c.sync()
		e.Hook(nil)
		dial(t, e)
	})
	t.Run("delay, replace, cut", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			e := Start(t)
			e.Hook(func(f Frame) Verdict {
				switch {
				case f.Type() == "workerregistered":
					return Verdict{Delay: time.Hour, Replace: []json.RawMessage{
						json.RawMessage(`{"type":"workerregistered","worker_id":"w"}`), json.RawMessage(`{"type":"ping"}`),
					}}
				case f.Direction == ToEngine && f.Type() == "pong":
					return Verdict{Cut: true}
				}
				return Verdict{}
			})
			begin := time.Now()
			c := dialURL(t, e, e.URL())
			_ = c.conn.SetReadDeadline(time.Now().Add(2 * time.Hour))
			if _, m, err := c.conn.ReadMessage(); err != nil || string(m) != `{"type":"workerregistered","worker_id":"w"}` {
				t.Errorf("greeting: %s, %v", m, err)
			}
			if got := time.Since(begin); got != time.Hour {
				t.Errorf("greeting after %v", got)
			}
			c.want(`{"type":"ping"}`)
			c.send(`{"type":"pong"}`)
			_ = c.closed()
		})
	})
}

func TestFramesLog(t *testing.T) {
	e := Start(t, WithFrameLimit(3, 1000))
	c := dial(t, e).register("c")
	c.sync()
	frames := e.Frames()
	var got []string
	for _, f := range frames {
		got = append(got, fmt.Sprintf("%s %s %s %s", f.WorkerName, f.Worker[:len(c.id)], f.Direction, f.Type()))
	}
	want := []string{
		"c " + c.id + " from engine invocationresult",
		"c " + c.id + " to engine ping",
		"c " + c.id + " from engine pong",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if s := e.Stats(); s.Messages != 5 || s.FramesForgotten != 2 || s.Workers != 1 {
		t.Errorf("stats: %+v", s)
	}
	c.send(`{"type":"ping","x":%q}`, strings.Repeat("x", 1000))
	c.want(`{"type":"pong"}`)
	if frames := e.Frames(); len(frames) != 1 || frames[0].Type() != "pong" {
		t.Errorf("frames within 1,000 bytes: %v", frames)
	}
}

// silentSockets returns the URLs of the sockets on which the engine does not respond to Close
// frames.
func silentSockets(e *Engine) map[string]string {
	return map[string]string{"worker": e.URL(), "guarded worker": e.GuardedURL(), "telemetry": e.URL() + "/otel", "stream": e.StreamURL()}
}

func TestConnectionEndsWithoutACloseFrame(t *testing.T) {
	frame := func(first byte, payload string) string { return string(clientFrame(first, payload)) }
	for name, bytes := range map[string]string{
		"close":                   frame(0x80|opClose, "\x03\xe8"),
		"close without a code":    frame(0x80|opClose, ""),
		"close with a reason":     frame(0x80|opClose, "\x03\xe9bye"),
		"close with a wrong code": frame(0x80|opClose, "\x00\x01"),
		"close of one byte":       frame(0x80|opClose, "\x03"),
		"close, wrong reason":     frame(0x80|opClose, "\x03\xe8\xff"),
		"no mask":                 "\x81\x02{}",
		"a reserved bit":          frame(0xc0|opText, "{}"),
		"an unknown opcode":       frame(0x80|3, "{}"),
		"an unknown control":      frame(0x80|11, ""),
		"a fragmented ping":       frame(9, ""),
		"a long ping":             "\x89\xfe\x00\x7e\x00\x00\x00\x00",
		"nothing continued":       frame(0x80|opContinuation, "{}"),
		"a message within one":    frame(opText, "{") + frame(0x80|opText, "{}"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := Start(t, WithGuard(Guard{}))
				for socket, url := range silentSockets(e) {
					c := dialURL(t, e, url)
					began := time.Now()
					if _, err := c.conn.NetConn().Write([]byte(bytes)); err != nil {
						t.Fatal(err)
					}
					if err := c.closed(); closeCode(err) != websocket.CloseAbnormalClosure {
						t.Errorf("%s: %v", socket, err)
					}
					if took := time.Since(began); took > 0 {
						t.Errorf("%s: after %v", socket, took)
					}
				}
			})
		})
	}
}

func TestMessagesBeforeTheEndAreHandled(t *testing.T) {
	for name, end := range map[string][]byte{
		"close": clientFrame(0x80|opClose, ""), "no mask": {0x81, 0}, "too large": frameHeader(true, true, maxFrame+1),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := Start(t)
				c, other := dial(t, e).register("c"), dial(t, e).register("other")
				other.function("f")
				call := clientFrame(0x80|opText, `{"type":"invokefunction","function_id":"f","data":1}`)
				if _, err := c.conn.NetConn().Write(append(call, end...)); err != nil {
					t.Fatal(err)
				}
				other.want(`{"type":"invokefunction","invocation_id":"*","function_id":"f","data":1}`)
			})
		})
	}
}

func TestPingsAreAnsweredTwice(t *testing.T) {
	for socket, want := range map[string]int{"worker": 2, "guarded worker": 2, "stream": 2, "telemetry": 1} {
		t.Run(socket, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := Start(t, WithGuard(Guard{}))
				c := dialURL(t, e, silentSockets(e)[socket])
				var pongs []string
				c.conn.SetPongHandler(func(payload string) error {
					pongs = append(pongs, payload)
					return nil
				})
				for _, payload := range []string{"", "hello"} {
					if err := c.conn.WriteControl(websocket.PingMessage, []byte(payload), time.Time{}); err != nil {
						t.Fatal(err)
					}
				}
				if err := c.conn.WriteControl(websocket.CloseMessage, nil, time.Time{}); err != nil {
					t.Fatal(err)
				}
				_ = c.closed()
				if len(pongs) != 2*want || pongs[0] != "" || pongs[2*want-1] != "hello" {
					t.Errorf("pongs %q", pongs)
				}
			})
		})
	}
}

// A worker may connect just as the engine starts to close. Its connection ends all the same, and
// Close does not wait for it forever.
func TestConnectingWhileTheEngineCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		closing := func(closed bool) {
			e.life.Lock()
			defer e.life.Unlock()
			e.closed = closed
		}
		near, far := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			listener := memnet.NewListener(memnet.Addr("h"))
			server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer listener.Close()
				closing(true)
				defer closing(false)
				e.serveWorker(w, r, nil)
			})}
			_ = server.Serve(&oneConn{Listener: listener, conn: far})
		}()
		if _, err := io.WriteString(near, "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(near).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		_ = near.Close()
		<-done
	})
}

// oneConn is a listener that first accepts conn.
type oneConn struct {
	net.Listener
	conn net.Conn
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	return l.Listener.Accept()
}

func TestInvalidHandshakesAreRejected(t *testing.T) {
	upgrade := map[string]string{
		"Connection": "keep-alive, Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
	}
	with := func(name, value string) map[string]string {
		h := maps.Clone(upgrade)
		if value == "" {
			delete(h, name)
		} else {
			h[name] = value
		}
		return h
	}
	for _, test := range []struct {
		name, request string
		headers       map[string]string
		status        int
		body          string
	}{
		{"plain", "GET / HTTP/1.1", nil, 400, "Connection header did not include 'upgrade'"},
		{"no connection", "GET / HTTP/1.1", with("Connection", ""), 400, "Connection header did not include 'upgrade'"},
		{"no upgrade", "GET / HTTP/1.1", with("Upgrade", ""), 400, "`Upgrade` header did not include 'websocket'"},
		{"another upgrade", "GET / HTTP/1.1", with("Upgrade", "h2c"), 400, "`Upgrade` header did not include 'websocket'"},
		{"no version", "GET / HTTP/1.1", with("Sec-WebSocket-Version", ""), 400, "`Sec-WebSocket-Version` header did not include '13'"},
		{"another version", "GET / HTTP/1.1", with("Sec-WebSocket-Version", "8"), 400, "`Sec-WebSocket-Version` header did not include '13'"},
		{"no key", "GET / HTTP/1.1", with("Sec-WebSocket-Key", ""), 400, "`Sec-WebSocket-Key` header missing"},
		{"HTTP/1.0", "GET / HTTP/1.0", upgrade, 426, "WebSocket request couldn't be upgraded since no upgrade state was present"},
		{"HEAD", "HEAD / HTTP/1.1", upgrade, 405, ""},
		{"PUT", "PUT / HTTP/1.1", upgrade, 405, ""},
		{"fine", "GET / HTTP/1.1", upgrade, 101, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := Start(t, WithGuard(Guard{}))
				for socket, url := range silentSockets(e) {
					host, path, _ := strings.Cut(strings.TrimPrefix(url, "ws://"), "/")
					conn, err := e.DialContext(t.Context(), "tcp", host)
					if err != nil {
						t.Fatal(err)
					}
					request := strings.Replace(test.request, " /", " /"+path, 1) + "\r\nHost: h\r\n"
					for name, value := range test.headers {
						request += name + ": " + value + "\r\n"
					}
					if _, err := io.WriteString(conn, request+"\r\n"); err != nil {
						t.Fatal(err)
					}
					method, _, _ := strings.Cut(test.request, " ")
					response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
					if err != nil {
						t.Fatalf("%s: %v", socket, err)
					}
					body := ""
					if response.StatusCode != http.StatusSwitchingProtocols {
						b, _ := io.ReadAll(response.Body)
						body = string(b)
					}
					if response.StatusCode != test.status || body != test.body {
						t.Errorf("%s: %d %q, want %d %q", socket, response.StatusCode, body, test.status, test.body)
					}
					_ = conn.Close()
				}
			})
		})
	}
}
