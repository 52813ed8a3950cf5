package iiitest

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
)

// binary sends a telemetry frame.
func (c *client) binary(frame string) {
	c.t.Helper()
	if err := c.conn.WriteMessage(websocket.BinaryMessage, []byte(frame)); err != nil {
		c.t.Fatal(err)
	}
}

// When a pong arrives, all records sent before the ping must be stored.
func TestPongComesAfterIngestion(t *testing.T) {
	e := Start(t)
	c := dialURL(t, e, e.URL()+"/otel")
	const frames, spans = 20, 500
	seen := make(chan int, 1)
	c.conn.SetPongHandler(func(string) error { seen <- len(e.Traces()); return nil })
	for i := range frames {
		var list []testSpan
		for j := range spans {
			list = append(list, testSpan{trace: fmt.Sprint(i), id: fmt.Sprint(j), start: 1, end: 2, attributes: map[string]string{"k": "v"}})
		}
		c.binary(spanFrame(list...))
	}
	if err := c.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(30*time.Second)); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _, _ = c.conn.ReadMessage()
	}()
	if got := <-seen; got != frames*spans {
		t.Errorf("%d of %d spans at the pong", got, frames*spans)
	}
	_ = c.conn.Close()
	<-ended
}

// Telemetry is also accepted on the worker's own connection.
func TestTelemetryOnTheWorkerSocket(t *testing.T) {
	e := Start(t)
	c := dial(t, e).register("w")
	c.binary(spanFrame(testSpan{trace: "1", id: "a", start: 1, end: 2}))
	c.binary(`LOGS{"resourceLogs":[{"scopeLogs":[{"logRecords":[{}]}]}]}`)
	c.binary(metricFrame(gauge("g", ``)))
	c.binary(`OTLP{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"s3cret"}]}]}]}`)
	c.sync()
	if n := len(e.Traces()) + len(e.Logs()) + len(e.Metrics()); n != 3 {
		t.Errorf("%d records", n)
	}
	if s := e.Stats(); s.TelemetryRejected != 1 || s.TelemetryIgnored != 0 || s.Undecodable != 0 {
		t.Errorf("%+v", s)
	}
	// The log record about an invalid frame must not contain data from the frame.
	lines := callBuiltin[struct {
		Logs []struct {
			Body       string
			Attributes map[string]any
		}
	}](t, e, "engine::logs::list", `{"severity_text":"warn"}`).Logs
	if len(lines) != 1 || lines[0].Body != "OTLP ingestion error" ||
		lines[0].Attributes["error"] != "Failed to parse OTLP JSON: spanId: expected a value" || strings.Contains(fmt.Sprint(lines), "s3cret") {
		t.Errorf("lines: %v", lines)
	}
}

func TestRefuseAuthAppliesToTelemetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		e.RefuseAuth("no")
		c := dialURL(t, e, e.URL()+"/otel")
		c.want(`{"type":"error","error":{"code":"AUTH_ERROR","message":"no"}}`)
		if err := c.closed(); closeCode(err) != websocket.CloseNoStatusReceived {
			t.Errorf("closed with %v", err)
		}
		e.RefuseAuth("")
		c = dialURL(t, e, e.URL()+"/otel")
		c.binary(spanFrame(testSpan{trace: "1", id: "a", start: 1, end: 2}))
		synctest.Wait()
		if n := len(e.Traces()); n != 1 {
			t.Errorf("%d spans", n)
		}
	})
}

// TestTelemetryIsBounded checks that the newest items of each kind are kept, within the limits
// on their number and their size in bytes.
func TestTelemetryIsBounded(t *testing.T) {
	fill := func(e *Engine) {
		for i := range 5 {
			id := fmt.Sprint(i)
			take(t, e, spanFrame(testSpan{trace: "t", id: "live" + id, start: 1}), spanFrame(testSpan{trace: "t", id: id, start: 1, end: 2}),
				metricFrame(gauge(id, ``)), `LOGS{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"stringValue":"`+id+`"}}]}]}]}`)
		}
	}
	held := func(e *Engine) string {
		id := func(s Span) (string, bool) { return s.SpanID, false }
		text := spanIDs(e.LiveSpans(), id) + " | " + spanIDs(e.Traces(), id) + " |"
		for _, l := range e.Logs() {
			text += " " + fmt.Sprint(l.Body)
		}
		text += " |"
		for _, m := range e.Metrics() {
			text += " " + m.Name
		}
		text += " |"
		for _, f := range e.Telemetry() {
			text += " " + f.Prefix
		}
		stored := []string{}
		for _, s := range e.spans.view().spans {
			stored = append(stored, s.SpanID)
		}
		return text + " | " + strings.Join(stored, " ") + " | " + fmt.Sprint(e.metrics.stored(), e.logs.stored())
	}
	for name, test := range map[string]struct {
		items, bytes int
		want         string
		forgotten    uint64
	}{
		"all":       {20, 1 << 20, "live0 live1 live2 live3 live4 | 0 1 2 3 4 | 0 1 2 3 4 | 0 1 2 3 4 | OTLP OTLP MTRC LOGS OTLP OTLP MTRC LOGS OTLP OTLP MTRC LOGS OTLP OTLP MTRC LOGS OTLP OTLP MTRC LOGS | live0 0 live1 1 live2 2 live3 3 live4 4 | 5 5", 0},
		"number":    {3, 1 << 20, "live2 live3 live4 | 2 3 4 | 2 3 4 | 2 3 4 | OTLP MTRC LOGS | 3 live4 4 | 3 5", 2*4 + 17},
		"none":      {0, 1 << 20, " |  | | | |  | 0 5", 5*4 + 20},
		"few bytes": {20, 100, " |  | 2 3 4 | 3 4 | LOGS |  | 2 3", 2*5 + 2 + 3 + 19},
		"bytes":     {20, 250, "live4 | 4 | 0 1 2 3 4 | 0 1 2 3 4 | LOGS | 4 | 5 5", 2*4 + 19},
	} {
		e := storesOnly(test.items, test.bytes)
		fill(e)
		if diff := cmp.Diff(test.want, held(e)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if got := e.Stats().TelemetryForgotten; got != test.forgotten {
			t.Errorf("%s: %d forgotten, want %d", name, got, test.forgotten)
		}
		if name == "bytes" && len(e.spans.pending) != 0 {
			t.Errorf("%d forgotten announcements are still waited for", len(e.spans.pending))
		}
	}
}

// The size limit also applies when a finished span replaces the smaller record of its start.
func TestSpanEndCountsAgainstTheLimit(t *testing.T) {
	e := storesOnly(20, 700)
	take(t, e, spanFrame(testSpan{trace: "t", id: "a", start: 1, end: 2}), spanFrame(testSpan{trace: "t", id: "b", start: 1}))
	take(t, e, spanFrame(testSpan{trace: "t", id: "b", start: 1, end: 2, attributes: map[string]string{"k": strings.Repeat("x", 400)}}))
	if n, bytes := e.spans.stored(); n != 1 || bytes > 700 {
		t.Errorf("%d spans, %d bytes", n, bytes)
	}
	take(t, e, spanFrame(testSpan{trace: "t", id: "c", start: 1, end: 2, attributes: map[string]string{"k": strings.Repeat("x", 700)}}))
	if n, bytes := e.spans.stored(); n != 0 || bytes != 0 {
		t.Errorf("%d spans, %d bytes after one that is too large", n, bytes)
	}
}

// A frame in Telemetry has been decoded: what it contains is visible too.
func TestTelemetryAppearsWithItsRecords(t *testing.T) {
	e := Start(t)
	const spans = 2000 // decoding takes a while
	list := make([]testSpan, spans)
	for i := range list {
		list[i] = testSpan{trace: "t", id: fmt.Sprint(i), start: 1, end: 2}
	}
	c := dialURL(t, e, e.URL()+"/otel")
	for i, test := range []struct {
		frame                string
		spans, bad, rejected int
	}{
		{frame: spanFrame(list...), spans: spans},
		{frame: strings.TrimSuffix(spanFrame(list...), "}"), spans: spans, rejected: 1},
	} {
		c.binary(test.frame)
		for len(e.Telemetry()) <= i {
			runtime.Gosched()
		}
		if got := len(e.Traces()); got != test.spans {
			t.Errorf("frame %d: %d spans, want %d", i, got, test.spans)
		}
		if got := e.Stats().TelemetryRejected; got != uint64(test.rejected) {
			t.Errorf("frame %d: %d frames rejected, want %d", i, got, test.rejected)
		}
	}
}
