package iii

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// recordedFrame is one JSON message of a recorded conversation between workers and a
// running engine.
type recordedFrame struct {
	file string
	line int
	sent bool // by a worker
	raw  json.RawMessage
}

func (f recordedFrame) at() string { return fmt.Sprintf("%s:%d", f.file, f.line) }

// recordedFrames returns every JSON message of the recordings, in order.
func recordedFrames(t *testing.T) []recordedFrame {
	t.Helper()
	files, err := filepath.Glob("testdata/recordings/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recordings: %v", err)
	}
	var frames []recordedFrame
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range bytes.Split(bytes.TrimSpace(b), []byte("\n")) {
			var event struct {
				Dir   string          // send and recv, or up and down
				Kind  string          // text for the messages of an SDK
				Frame json.RawMessage // of a bare worker
				Data  json.RawMessage // of an SDK
			}
			if err := json.Unmarshal(line, &event); err != nil {
				t.Fatalf("%s:%d: %v", file, i+1, err)
			}
			f := recordedFrame{filepath.Base(file), i + 1, event.Dir == "send" || event.Dir == "up", event.Frame}
			if event.Kind == "text" {
				f.raw = event.Data
			}
			if f.raw != nil {
				frames = append(frames, f)
			}
		}
	}
	return frames
}

// roundTrip decodes raw into v and encodes that again; the result must be the same
// JSON: numbers digit by digit, absent not the same as null, the order of keys free.
func roundTrip(raw []byte, v any) error {
	if err := json.Unmarshal(raw, v); err != nil {
		return err
	}
	out, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return sameJSON(raw, out)
}

func sameJSON(want, got []byte) error {
	w, err := decodeExactly(want)
	if err != nil {
		return err
	}
	g, err := decodeExactly(got)
	if err != nil {
		return err
	}
	if reflect.DeepEqual(w, g) { // cmp.Diff takes exponentially long for lists within lists
		return nil
	}
	return fmt.Errorf("(-want +got):\n%s", cmp.Diff(w, g))
}

// decodeExactly keeps numbers as text.
func decodeExactly(b []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	err = d.Decode(&v)
	return v, err
}

// messageOfType returns a new message for each tag of a protocol message and of the
// messages of the stream socket.
var messageOfType = map[string]func() any{
	"workerregistered":          newOf[WorkerRegisteredMessage],
	"reattach":                  newOf[ReattachMessage],
	"registerfunction":          newOf[RegisterFunctionMessage],
	"unregisterfunction":        newOf[UnregisterFunctionMessage],
	"registertriggertype":       newOf[RegisterTriggerTypeMessage],
	"registertrigger":           newOf[RegisterTriggerMessage],
	"unregistertrigger":         newOf[UnregisterTriggerMessage],
	"triggerregistrationresult": newOf[TriggerRegistrationResultMessage],
	"invokefunction":            newOf[InvokeFunctionMessage],
	"invocationresult":          newOf[InvocationResultMessage],
	"registerservice":           newOf[RegisterServiceMessage],
	"registrationrejected":      newOf[RegistrationRejectedMessage],
	"ping":                      newOf[PingMessage],
	"pong":                      newOf[PongMessage],
	"error":                     newOf[ErrorMessage],
	"join":                      newOf[StreamCommand],
	"leave":                     newOf[StreamCommand],
	"stream":                    newOf[StreamMessage],
}

func newOf[T any]() any { return new(T) }

const (
	writesDefaults = "the type writes its defaults, a method and headers"
	noSuchMessage  = "some workers send this, but no engine knows it"
)

// frameExceptions are the recorded messages that do not come back as they were.
var frameExceptions = map[string]string{
	"channels.jsonl:11":             "a worker's own message on a channel, not one of the protocol",
	"custom-trigger-types.jsonl:42": noSuchMessage,
	"envelopes-odd.jsonl:97":        "an empty baggage is left out",
	"envelopes-odd.jsonl:100":       "an empty baggage is left out",
	"envelopes-odd.jsonl:181":       "an empty traceparent is left out",
	"envelopes-odd.jsonl:184":       "an empty traceparent is left out",
	"http-functions.jsonl:4":        writesDefaults,
	"http-functions.jsonl:5":        writesDefaults,
	"http-functions.jsonl:7":        writesDefaults,
	"http-functions.jsonl:8":        writesDefaults,
	"http-functions.jsonl:9":        writesDefaults,
	"http-functions.jsonl:10":       writesDefaults,
	"http-functions.jsonl:11":       writesDefaults,
	"http-functions.jsonl:12":       writesDefaults,
	"http-functions.jsonl:13":       writesDefaults,
	"http-functions.jsonl:14":       writesDefaults,
	"http-functions.jsonl:15":       writesDefaults,
	"http-functions.jsonl:16":       writesDefaults,
	"http-functions.jsonl:17":       writesDefaults,
	"namespaces.jsonl:16":           "an empty namespace, which the engine refuses, is left out",
	"null-data.jsonl:11":            "a trigger without a config, which the engine drops, has null",
	"null-data.jsonl:18":            "optional values of null are left out",
	"null-data.jsonl:22":            "a call without data, which the engine drops, has null",
	"null-data.jsonl:23":            "optional values of null are left out",
}

func TestRecordedMessagesRoundTrip(t *testing.T) {
	exceptions := newExceptions(frameExceptions)
	count := make(map[string]int)
	for _, f := range recordedFrames(t) {
		var tag struct{ Type string }
		if err := json.Unmarshal(f.raw, &tag); err != nil {
			t.Fatalf("%s: %v", f.at(), err)
		}
		err := fmt.Errorf("no message is of type %q", tag.Type)
		if message, ok := messageOfType[tag.Type]; ok {
			err = roundTrip(f.raw, message())
		}
		exceptions.check(t, f.at(), err)
		count[tag.Type]++
	}
	total := 0
	for _, n := range count {
		total += n
	}
	t.Logf("%d messages, %d exceptions; by type: %v", total, len(frameExceptions), count)
	exceptions.checkUnused(t)
}

// exceptions are deliberate failures, by place, with the reason. One that is not
// needed is a failure, too.
type exceptions struct {
	reasons map[string]string
	used    map[string]bool
}

func newExceptions(reasons map[string]string) exceptions {
	return exceptions{reasons, make(map[string]bool)}
}

func (e exceptions) check(t *testing.T, at string, err error) {
	t.Helper()
	reason, ok := e.reasons[at]
	switch {
	case err != nil && !ok:
		t.Errorf("%s: %v", at, err)
	case err != nil:
		e.used[at] = true
	case ok && !e.used[at]:
		t.Errorf("%s: the exception (%s) is no longer needed", at, reason)
	}
}

func (e exceptions) checkUnused(t *testing.T) {
	t.Helper()
	for at, reason := range e.reasons {
		if !e.used[at] {
			t.Errorf("%s: there is nothing for the exception (%s)", at, reason)
		}
	}
}

// An exception for defaults is one only because of what is added.
func TestRecordedInvocationsKeepWhatTheySay(t *testing.T) {
	seen := 0
	for _, f := range recordedFrames(t) {
		if frameExceptions[f.at()] != writesDefaults {
			continue
		}
		seen++
		var m RegisterFunctionMessage
		if err := json.Unmarshal(f.raw, &m); err != nil {
			t.Fatalf("%s: %v", f.at(), err)
		}
		want, err := decodeExactly(f.raw)
		if err != nil {
			t.Fatal(err)
		}
		invocation := want.(map[string]any)["invocation"].(map[string]any)
		if invocation["method"] == nil {
			invocation["method"] = "POST"
		}
		if invocation["headers"] == nil {
			invocation["headers"] = map[string]any{}
		}
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeExactly(b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", f.at(), diff)
		}
	}
	if seen == 0 {
		t.Error("no such message")
	}
}
