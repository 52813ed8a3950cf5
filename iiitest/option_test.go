package iiitest

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestInvalidOptionsAreRejected(t *testing.T) {
	for name, o := range map[string]Option{
		"nil Option":                         nil,
		"WithNamespaceGrace":                 WithNamespaceGrace(0),
		"WithHTTPTimeout":                    WithHTTPTimeout(-time.Second),
		"WithAddrs":                          WithAddrs("", "nowhere", ""),
		"WithFrameLimit":                     WithFrameLimit(-1, 0),
		"WithConsoleLimit":                   WithConsoleLimit(-1),
		"WithExposedConsole":                 WithExposedConsole("3113"),
		"WithTelemetryLimit":                 WithTelemetryLimit(-1, 0),
		"WithQueue: name is empty":           WithQueue("", QueueConfig{}),
		"WithQueue: q: negative number":      WithQueue("q", QueueConfig{BackoffMs: -1}),
		`WithQueue: q: type "lifo"`:          WithQueue("q", QueueConfig{Type: "lifo"}),
		"WithQueue: q: fifo queue without a": WithQueue("q", QueueConfig{Type: "fifo"}),
	} {
		e, err := New(o)
		if err == nil {
			_ = e.Close()
			t.Errorf("%s: no error", name)
		} else if !strings.HasPrefix(err.Error(), "iiitest: "+name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLoggerReceivesNoSecrets(t *testing.T) {
	var b bytes.Buffer
	e, err := New(WithLogger(nil), WithLogger(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug}))))
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, e).register("c")
	c.send(`{"type":"reattach","previous_worker_id":["s3cret"]}`)
	c.send(`{"type":"registerfunction","id":"f","invocation":{"url":"http://u:s3cret@example.invalid","headers":{"x":"s3cret"}}}`)
	c.send(`{"type":"reattach","previous_worker_id":"s3cret","reattach_token":"s3cret"}`)
	c.send(`{"type":"reattach","previous_worker_id":1,"reattach_token":"s3cret"}`)
	c.send(`{"type":"invokefunction","function_id":"x","data":1,"metadata":{},"action":"s3cret"}`)
	c.sync()
	_ = e.Close() // stops all goroutines that write to the log
	for _, want := range []string{"undecodable message dropped", "function invoked over HTTP rejected", "reattach ignored"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in the log", want)
		}
	}
	if strings.Contains(strings.ReplaceAll(b.String(), `previous=s3cret`, ""), "s3cret") {
		t.Errorf("a secret in the log:\n%s", b.String())
	}
}

func TestObservability(t *testing.T) {
	e := Start(t)
	c := dial(t, e)
	for _, test := range []struct{ functionID, input, want string }{
		{"engine::baggage::get", `{"key":"k"}`, `{"value":null}`},
		{"engine::baggage::get_all", `{}`, `{"baggage":{}}`},
		{"engine::baggage::set", `{"key":"k","value":"v"}`, `{"success":true,"note":"*"}`},
	} {
		if got := c.call(test.functionID, test.input)["result"]; !like(decodeJSON(t, test.want), got) {
			t.Errorf("%s: got %v, want %s", test.functionID, got, test.want)
		}
	}
	for _, functionID := range []string{"engine::baggage::get", "engine::baggage::set", "engine::triggers::info", "engine::workers::info", "engine::unregister_trigger"} {
		if got := errorCode(c.call(functionID, `{}`)); got != "deserialization_error" {
			t.Errorf("%s without its input: %s", functionID, got)
		}
	}
}
