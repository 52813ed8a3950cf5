package iiitest

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
)

func TestWorkersAvailable(t *testing.T) {
	e := Start(t)
	watcher := dial(t, e).register("watcher")
	watcher.function("seen")
	watcher.send(`{"type":"registertrigger","id":"t","trigger_type":"engine::workers-available","function_id":"seen","config":{},"metadata":{"m":1}}`)
	watcher.sync()
	c := dial(t, e).register("c")
	c.register("c")
	_ = c.conn.Close()
	for _, event := range []string{"worker_connected", "worker_metadata_updated", "worker_metadata_updated", "worker_disconnected"} {
		watcher.want(`{"type":"invokefunction","invocation_id":"*","function_id":"seen","data":{"event":"` + event + `","worker_id":"` + c.id + `"},"traceparent":"*","metadata":{"m":1}}`)
	}
	watcher.send(`{"type":"unregistertrigger","id":"t"}`)
	watcher.sync()
	dial(t, e)
	watcher.sync()
}

// A trigger does not fire for an event from before it was registered, even if the event has not
// been delivered to other triggers yet.
func TestWorkersAvailableOmitsEarlierEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := storesOnly(1, 1)
		var got []string
		e.functions = map[key]*function{}
		for _, id := range []string{"early", "late"} {
			e.functions[key{defaultNamespace, id}] = &function{builtin: func(context.Context, *call) (json.RawMessage, *wireError) {
				got = append(got, id)
				return nil, nil
			}}
		}
		e.observers.init(e)
		e.available.wake = make(chan struct{}, 1)
		bind := func(id string) {
			_ = e.available.workers.bind(t.Context(), binding{id: id, functionID: id, namespace: defaultNamespace})
		}
		bind("early")
		e.workerChanged("worker_connected", "w")
		bind("late")
		go e.fireWorkerEvents(t.Context())
		synctest.Wait()
		if diff := cmp.Diff([]string{"early"}, got); diff != "" {
			t.Errorf("fired (-want +got):\n%s", diff)
		}
	})
}

func TestFunctionsAvailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		watcher, c := dial(t, e).register("watcher"), dial(t, e).register("c")
		watcher.function("seen")
		watcher.send(`{"type":"registertrigger","id":"t","trigger_type":"engine::functions-available","function_id":"seen","config":{}}`)
		watcher.sync()
		fired := func() map[string]any {
			t.Helper()
			m := watcher.recv()
			watcher.send(`{"type":"invocationresult","invocation_id":%q,"function_id":"seen"}`, m["invocation_id"])
			data, _ := m["data"].(map[string]any)
			if m["traceparent"] != nil || data["event"] != "functions_changed" {
				t.Errorf("got %v", m)
			}
			return map[string]any{"result": data}
		}
		got := names(fired(), "functions", "function_id")
		if !strings.Contains(got, " engine::log::info ") || !strings.Contains(got, " seen ") { // including internal ones
			t.Errorf("functions: %s", got)
		}
		time.Sleep(time.Hour) // nothing changes
		watcher.sync()
		c.function("new::one")
		if got := names(fired(), "functions", "function_id"); !strings.Contains(got, "new::one") {
			t.Errorf("functions: %s", got)
		}
	})
}

func TestTelemetrySocketKeepsItsFrames(t *testing.T) {
	e := Start(t, WithTelemetryLimit(2, 1<<20))
	c := dialURL(t, e, e.URL()+"/otel")
	for _, m := range []string{"OTLP1", "MTRC2", "NOPE", "LOGS\xff", "LOGS3"} {
		if err := c.conn.WriteMessage(websocket.BinaryMessage, []byte(m)); err != nil {
			t.Fatal(err)
		}
	}
	c.send("OTLP as text")
	// The pong arrives only after the earlier frames have been processed.
	ponged := make(chan struct{})
	c.conn.SetPongHandler(func(string) error { close(ponged); return nil })
	_ = c.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(30*time.Second))
	go func() { _, _, _ = c.conn.ReadMessage() }()
	<-ponged
	got := e.Telemetry()
	if len(got) != 2 || got[0].Prefix+string(got[0].Data) != "MTRC2" || got[1].Prefix+string(got[1].Data) != "LOGS3" || got[0].Worker != "" {
		t.Errorf("telemetry: %+v", got)
	}
	if s := e.Stats(); s.TelemetryForgotten != 1 || s.TelemetryIgnored != 2 || s.Workers != 0 {
		t.Errorf("stats: %+v", s)
	}
}
