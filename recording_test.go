package iii_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// recordedEvent is a line of a recorded conversation between workers and a running
// engine.
type recordedEvent struct {
	line     int
	Worker   string          `json:"worker"`
	Dir      string          `json:"dir"` // send or recv, for the worker
	Frame    json.RawMessage `json:"frame"`
	Received json.RawMessage `json:"received"` // a request that the engine made
}

// recordedFrame is a message of the worker protocol.
type recordedFrame struct {
	Type         string          `json:"type"`
	InvocationID string          `json:"invocation_id"`
	FunctionID   string          `json:"function_id"`
	Data         json.RawMessage `json:"data"`
	Result       json.RawMessage `json:"result"`
	Error        *iii.ErrorBody  `json:"error"`
	Action       json.RawMessage `json:"action"`
}

func readRecording(t *testing.T, name string) []recordedEvent {
	t.Helper()
	file, err := os.ReadFile("testdata/0.23/" + name + ".jsonl")
	if err != nil {
		t.Fatal(err)
	}
	var events []recordedEvent
	for i, line := range bytes.Split(bytes.TrimSpace(file), []byte("\n")) {
		e := recordedEvent{line: i + 1}
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%s:%d: %v", name, i+1, err)
		}
		events = append(events, e)
	}
	return events
}

func frameOf(t *testing.T, e recordedEvent) (f recordedFrame) {
	t.Helper()
	if e.Frame == nil {
		return f
	}
	if err := json.Unmarshal(e.Frame, &f); err != nil {
		t.Fatalf("line %d: %v", e.line, err)
	}
	return f
}

// recordedCall is a call that a worker made, and its answer.
type recordedCall struct {
	line       int
	functionID string
	data       json.RawMessage
	result     json.RawMessage // nil: none came
	err        *iii.ErrorBody
}

// recordedCalls lists the answered calls of a recording whose function ids begin
// with one of the prefixes, in order.
func recordedCalls(t *testing.T, name string, prefixes ...string) []recordedCall {
	t.Helper()
	var calls []recordedCall
	asked := map[string]int{}
	for _, e := range readRecording(t, name) {
		f := frameOf(t, e)
		switch {
		case f.Type == "invokefunction" && e.Dir == "send" && f.InvocationID != "":
			if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(f.FunctionID, p) }) {
				asked[f.InvocationID] = len(calls)
				calls = append(calls, recordedCall{line: e.line, functionID: f.FunctionID, data: f.Data})
			}
		case f.Type == "invocationresult" && e.Dir == "recv":
			if i, ok := asked[f.InvocationID]; ok {
				calls[i].result, calls[i].err = f.Result, f.Error
			}
		}
	}
	if len(calls) == 0 {
		t.Fatalf("%s holds no call of %v", name, prefixes)
	}
	return calls
}

// sameDocument compares JSON, numbers digit by digit.
func sameDocument(want, got json.RawMessage) string {
	decode := func(raw json.RawMessage) any {
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		var v any
		if err := d.Decode(&v); err != nil {
			return fmt.Sprintf("%v in %q", err, raw)
		}
		return v
	}
	w, g := decode(want), decode(got)
	if reflect.DeepEqual(w, g) { // cmp.Diff does not finish on deeply nested values
		return ""
	}
	return cmp.Diff(w, g)
}

// recordedEngine is a worker that stands in for the engine's functions: it expects
// the recorded calls, one after another, and gives the recorded answers.
type recordedEngine struct {
	t     *testing.T
	mu    sync.Mutex
	calls []recordedCall
	next  int
}

// answerAsRecorded makes a client whose calls get the recorded answers.
func answerAsRecorded(t *testing.T, calls []recordedCall) (*iii.Client, *recordedEngine) {
	t.Helper()
	e := iiitest.Start(t, withTriggers) // as when it was recorded
	r := &recordedEngine{t: t, calls: calls}
	stand, err := iii.New(e.URL(), iii.WithName("stand-in"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stand.Close() })
	var ids []string
	for _, c := range calls {
		if slices.Contains(ids, c.functionID) {
			continue
		}
		ids = append(ids, c.functionID)
		if _, err := stand.HandleFunc(c.functionID, r.answer, iii.WithBuiltinOverride()); err != nil {
			t.Fatal(err)
		}
	}
	if err := stand.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	return connect(t, e), r
}

func (r *recordedEngine) answer(ctx context.Context, payload json.RawMessage) (any, error) {
	inv, _ := iii.InvocationFromContext(ctx)
	var data map[string]json.RawMessage
	if err := json.Unmarshal(payload, &data); err != nil {
		return nil, err
	}
	delete(data, "_caller_worker_id") // which the engine keeps to itself
	got, err := json.Marshal(data)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next == len(r.calls) {
		r.t.Errorf("%s is called once more than was recorded", inv.FunctionID)
		return nil, nil
	}
	want := r.calls[r.next]
	r.next++
	if inv.FunctionID != want.functionID {
		r.t.Errorf("line %d: %s is called, not %s", want.line, inv.FunctionID, want.functionID)
	}
	if diff := sameDocument(want.data, got); diff != "" {
		r.t.Errorf("line %d: input of %s (-recorded +sent):\n%s", want.line, want.functionID, diff)
	}
	if want.err != nil {
		return nil, &iii.Error{Code: want.err.Code, Message: want.err.Message}
	}
	return want.result, nil
}

// done fails the test if recorded calls were not made.
func (r *recordedEngine) done() {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next != len(r.calls) {
		r.t.Errorf("%d of %d recorded calls were made", r.next, len(r.calls))
	}
}

// delivery sends recorded invocations to a worker and takes its answers.
type delivery struct {
	engine  *iiitest.Engine
	worker  string
	answers chan recordedFrame
}

// deliverTo takes the place of the engine's calls to a worker that is connected.
func deliverTo(e *iiitest.Engine, worker string) *delivery {
	d := &delivery{engine: e, worker: worker, answers: make(chan recordedFrame, 1)}
	e.Hook(func(f iiitest.Frame) iiitest.Verdict {
		if f.Direction == iiitest.ToEngine && f.WorkerName == worker && f.Type() == "invocationresult" {
			var answer recordedFrame
			if err := json.Unmarshal(f.Message, &answer); err == nil {
				d.answers <- answer
			}
		}
		return iiitest.Verdict{}
	})
	return d
}

// invoke delivers an invocation as it was recorded.
func (d *delivery) invoke(t *testing.T, frame json.RawMessage) recordedFrame {
	t.Helper()
	if !d.engine.Send(d.worker, frame) {
		t.Fatal("the worker is not there")
	}
	select {
	case answer := <-d.answers:
		return answer
	case <-t.Context().Done():
		t.Fatal("no answer")
		return recordedFrame{}
	}
}
