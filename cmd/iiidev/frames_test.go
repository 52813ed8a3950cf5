package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

func TestLineOf(t *testing.T) {
	long := `{"type":"invokefunction","data":"` + strings.Repeat("x", maxLoggedMessage) + `"}`
	for _, test := range []struct {
		name, message string
		binary        bool
		want          string
	}{
		{"a message", `{"type": "ping"}`, false, `"bytes":16,"frame":{"type":"ping"}`},
		{"a binary message", `{"type":"ping"}`, true, `"bytes":15,"frame":{"type":"ping"}`},
		{"a secret", `{"reattach_token":"abc","data":{"password":1,"x":2}}`, false,
			`"bytes":52,"frame":{"reattach_token":"[REDACTED]","data":{"password":"[REDACTED]","x":2}}`},
		{"the key of a channel", `{"access_key":"a\"b","direction":"read"}`, false, `"bytes":40,"frame":{"access_key":"[REDACTED]","direction":"read"}`},
		{"cookies", `{"data":{"headers":{"Cookie":"a","set-cookie":["b"],"x":"y"},"body":"{\"token\":1}"}}`, false,
			`"bytes":85,"frame":{"data":{"headers":{"Cookie":"[REDACTED]","set-cookie":"[REDACTED]","x":"y"},"body":"{\"token\":\"[REDACTED]\"}"}}`},
		{"a secret attribute", `MTRC{"attributes":[{"key":"user.password","value":{"stringValue":"a"}},{"key":"b","value":{"intValue":1}}]}`, true,
			`"bytes":107,"prefix":"MTRC","otlp":{"attributes":[{"key":"user.password","value":"[REDACTED]"},{"key":"b","value":{"intValue":1}}]}`},
		{"the key of a channel in a payload", `OTLP{"stringValue":"{\"access_key\":\"k-1\",\"inner\":\"{\\\"access_key\\\": \\\"k-2\\\"}\"}"}`, true,
			`"bytes":94,"prefix":"OTLP","otlp":{"stringValue":"{\"access_key\":\"[REDACTED]\",\"inner\":\"{\\\"access_key\\\":\\\"[REDACTED]\\\"}\"}"}`},
		{"a binary message like telemetry", `LP M{}`, true, `"bytes":6,"text":"LP M{}"`},
		{"no JSON", "a\xffb", false, `"bytes":3,"text":"a` + "�" + `b"`},
		{"two values", `{} {}`, false, `"bytes":5,"text":"{} {}"`},
		{"nothing", "", false, `"bytes":0,"text":""`},
		{"telemetry", `LOGS{"resourceLogs":[]}`, true, `"bytes":23,"prefix":"LOGS","otlp":{"resourceLogs":[]}`},
		{"telemetry that is none", `LOGS{`, true, `"bytes":5,"text":"{","prefix":"LOGS"`},
		{"text like telemetry", `LOGS{}`, false, `"bytes":6,"text":"LOGS{}"`},
		{"a long message", long, false, `"bytes":65571,"type":"invokefunction"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := lineOf(iiitest.Frame{Worker: "w", WorkerName: "n", Direction: iiitest.FromEngine, Binary: test.binary, Message: json.RawMessage(test.message)})
			want := `{"time":"0001-01-01T00:00:00Z","worker":"w","name":"n","dir":"recv",` + test.want + `}`
			if diff := cmp.Diff(want, string(got)); diff != "" {
				t.Errorf("line (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFrames(t *testing.T) {
	name := filepath.Join(t.TempDir(), "frames.jsonl")
	if err := os.WriteFile(name, []byte("of the last run"), 0o644); err != nil { // with permissions for other users
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, in := io.Pipe()
	done := make(chan error, 1)
	go func() {
		args := []string{"-listen", "127.0.0.1:0", "-http", "127.0.0.1:0", "-stream", "127.0.0.1:0", "-console", "", "-frames", name, "-protocol", "0.23"}
		done <- errors.Join(run(ctx, args, noEnv, in, io.Discard), in.Close())
	}()
	first := make([]byte, 200)
	n, err := out.Read(first)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	url := strings.TrimSpace(strings.TrimPrefix(strings.SplitN(string(first[:n]), "\n", 2)[0], "workers "))
	telemetry, err := iii.StartTelemetry(ctx, iii.OtelConfig{EngineWSURL: &url})
	if err != nil {
		t.Fatal(err)
	}
	telemetry.Logger().Info(ctx, "hello", nil)
	if err := telemetry.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	c, err := worker(t, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, r, err := c.CreateChannel(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}

	if info, err := os.Stat(name); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v: %v", info.Mode(), err)
	}
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(content, []byte(r.Ref().AccessKey)) {
		t.Error("the key of the channel is in the file")
	}
	var got []string
	logged := false
	for line := range strings.Lines(string(content)) {
		var l struct {
			Time              time.Time
			Worker, Dir       string
			Prefix            string
			OTLP, Frame       json.RawMessage
			Text              *string
			Type, Name, Extra string
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if l.Time.IsZero() {
			t.Errorf("no time: %s", line)
		}
		if l.Prefix != "" {
			logged = logged || l.Prefix == "LOGS" && strings.Contains(string(l.OTLP), "hello")
			continue
		}
		var m struct {
			Type       string
			FunctionID string `json:"function_id"`
		}
		if err := json.Unmarshal(l.Frame, &m); err != nil || l.Worker == "" {
			t.Errorf("%s: %v", line, err)
		}
		got = append(got, l.Dir+" "+m.Type+" "+m.FunctionID)
	}
	want := []string{
		"recv workerregistered ", "send invokefunction engine::workers::register", "recv invocationresult engine::workers::register",
		"send ping ", "recv pong ", // functions accepted
		"send ping ", "recv pong ", // triggers accepted
		"send invokefunction engine::channels::create", "recv invocationresult engine::channels::create",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
	if !logged {
		t.Error("the log record is not in the file")
	}
}

func TestFramesRefuses(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	args := []string{"-listen", "127.0.0.1:0", "-http", "127.0.0.1:0", "-stream", "127.0.0.1:0", "-console", "", "-frames", filepath.Join(t.TempDir(), "nosuch", "file")}
	if err := run(ctx, args, noEnv, io.Discard, io.Discard); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that cannot be made: %v", err)
	}
}
