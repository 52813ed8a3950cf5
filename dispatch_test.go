package iii

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

type failure struct{ text *string }

func (f failure) Error() string { return *f.text }

type unencodable struct{}

var errUnencodable = errors.New("not today")

func (unencodable) MarshalJSON() ([]byte, error) { return nil, errUnencodable }

type panicJSON struct{}

func (panicJSON) MarshalJSON() ([]byte, error) { panic("encoder") }

// Whatever a handler does, its caller receives a response and the worker keeps running.
func TestHandlerOutcomes(t *testing.T) {
	type outcome struct {
		Result string
		Error  *ErrorBody
	}
	failed := func(code, message string) outcome {
		return outcome{Error: &ErrorBody{Code: code, Message: message}}
	}
	tests := []struct {
		name    string
		handler func() (any, error)
		want    outcome
	}{
		{"value", func() (any, error) { return map[string]int{"a": 1}, nil }, outcome{Result: `{"a":1}`}},
		{"nil", func() (any, error) { return nil, nil }, outcome{Result: `null`}},
		{"nil pointer", func() (any, error) { return (*int)(nil), nil }, outcome{Result: `null`}},
		{"raw", func() (any, error) { return json.RawMessage(`{"b": [1,  2]}`), nil }, outcome{Result: `{"b": [1,  2]}`}},
		{"nil raw", func() (any, error) { return json.RawMessage(nil), nil }, outcome{Result: `null`}},
		{"error", func() (any, error) { return 1, errors.New("no stock") }, failed("invocation_failed", "no stock")},
		{"Error", func() (any, error) { return nil, &Error{Code: "C", Message: "m", Stacktrace: "s"} },
			outcome{Error: &ErrorBody{Code: "C", Message: "m", Stacktrace: "s"}}},
		{"Error without a code", func() (any, error) { return nil, &Error{Message: "m"} }, failed("invocation_failed", "m")},
		{"wrapped Error", func() (any, error) { return nil, fmt.Errorf("order 7: %w", &Error{Code: "C", Message: "m"}) },
			failed("C", "order 7: m")},
		{"wrapped received Error", func() (any, error) {
			return nil, fmt.Errorf("order 7: %w", &Error{Code: "C", Message: "m", FunctionID: "other::f"})
		},
			failed("C", "order 7: iii: other::f: C: m")},
		{"received Error", func() (any, error) {
			return nil, &Error{Code: "C", Message: "m", FunctionID: "other::f", InvocationID: "i"}
		}, failed("C", "m")},
		{"value that does not encode", func() (any, error) { return unencodable{}, nil },
			failed("invocation_failed", "result does not encode: no")},
		{"raw that is no JSON", func() (any, error) { return json.RawMessage(`{"a":`), nil },
			failed("invocation_failed", "result does not encode: json.RawMessage holds no valid JSON")},
		{"encoder that panics", func() (any, error) { return panicJSON{}, nil },
			failed("invocation_failed", "result does not encode: encoding panics: encoder")},
		{"panic", func() (any, error) { panic("oh") }, failed("invocation_failed", "handler panicked")},
		{"panic with nil", func() (any, error) { panic(nil) }, failed("invocation_failed", "handler panicked")},
		{"index out of range", func() (any, error) { var none []int; return none[len(none)], nil }, failed("invocation_failed", "handler panicked")},
		{"Goexit", func() (any, error) { runtime.Goexit(); return nil, nil }, failed("invocation_failed", "handler panicked")},
		{"error text that panics", func() (any, error) { return nil, failure{} }, failed("invocation_failed", "handler panicked")},
		{"nil in an error", func() (any, error) { return nil, (*Error)(nil) }, failed("invocation_failed", "handler panicked")},
	}
	p := newPeer(t, script{})
	c := p.client(WithMaxConcurrency(1)) // so that one leaked slot blocks all later handlers
	id := func(name string) string { return "f::" + strings.ReplaceAll(name, " ", "-") }
	for _, test := range tests {
		if _, err := c.HandleFunc(id(test.name), func(context.Context, json.RawMessage) (any, error) { return test.handler() }); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := p.answered(p.conn(0).invoke(id(test.name), `{}`))
			got := outcome{string(m.Result), m.Error}
			if got.Error != nil && strings.HasSuffix(got.Error.Message, errUnencodable.Error()) {
				got.Error.Message = "result does not encode: no" // encoding/json adds a prefix
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			if m.FunctionID != id(test.name) {
				t.Errorf("function id of the answer: %q", m.FunctionID)
			}
		})
	}
}

// After a handler calls runtime.Goexit, its slot is free for other invocations, and Shutdown
// does not wait for it.
func TestGoexitFreesSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{})
		c := p.client(WithMaxConcurrency(2))
		_, err := c.HandleFunc("f", func(context.Context, json.RawMessage) (any, error) {
			runtime.Goexit()
			return nil, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		var ids []string
		for range 50 {
			ids = append(ids, p.conn(0).invoke("f", "null"))
		}
		for _, id := range ids {
			p.answered(id)
		}
		synctest.Wait()
		if s := c.Stats(); s.HandlersRunning != 0 || s.InvocationsQueued != 0 {
			t.Errorf("running %d, queued %d", s.HandlersRunning, s.InvocationsQueued)
		}
		if err := c.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestDispatcherCountsTheBytesOfWhatRuns(t *testing.T) {
	held := func(d *dispatcher) int {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.held
	}
	begun, end := make(chan struct{}), make(chan struct{})
	d := &dispatcher{limit: 2, run: func(in *incoming) {
		in.data = nil // run may release the payload early
		begun <- struct{}{}
		<-end
	}}
	for range 3 {
		d.submit(&incoming{data: make(json.RawMessage, 1000), metadata: make(json.RawMessage, 10)}, false)
	}
	<-begun
	<-begun
	if n := held(d); n != 2020 {
		t.Errorf("two running invocations hold %d bytes", n)
	}
	end <- struct{}{}
	<-begun
	if n := held(d); n != 2020 {
		t.Errorf("the last two invocations hold %d bytes", n)
	}
	close(end)
	if err := d.waitQuiet(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := held(d); n != 0 {
		t.Errorf("%d bytes are left over", n)
	}
	<-d.close()
}

// During a drain, only running handlers start invocations. Once no handler is running, none
// starts, even if a goroutine of a handler makes a call.
func TestOnlyRunningHandlersStartInvocationsDuringDrain(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	d := &dispatcher{limit: 1, run: func(*incoming) {
		begun <- struct{}{}
		<-end
	}}
	submit := func(want string, byHandler bool) {
		t.Helper()
		if refusal := d.submit(&incoming{}, byHandler); refusal != want {
			t.Errorf("submit, by a handler %v: %q, want %q", byHandler, refusal, want)
		}
	}
	nest := func(want string) {
		t.Helper()
		if refusal := d.nest(&incoming{}); refusal != want {
			t.Errorf("nest: %q, want %q", refusal, want)
		}
	}
	submit("", false)
	<-begun
	submit("", false) // queued
	d.drain()
	if n := len(d.takeWaiting()); n != 1 {
		t.Errorf("%d invocations were waiting", n)
	}
	submit(CodeWorkerDraining, false)
	submit("", true)
	nest("")
	<-begun
	end <- struct{}{}
	end <- struct{}{}
	<-begun // the invocation that was submitted
	close(end)
	if err := d.waitQuiet(t.Context()); err != nil {
		t.Fatal(err)
	}
	submit(CodeWorkerDraining, false)
	submit(CodeWorkerDraining, true)
	nest(CodeWorkerDraining)
	<-d.close()
	submit(CodeWorkerDraining, true)
}

func TestSubmitConcurrent(t *testing.T) {
	var mu sync.Mutex
	ran := 0
	d := &dispatcher{limit: 8, run: func(*incoming) {
		mu.Lock()
		defer mu.Unlock()
		ran++
	}}
	var submitters sync.WaitGroup
	withdrawn := 0
	for range 8 {
		submitters.Go(func() {
			for range 500 {
				d.submit(&incoming{}, false)
			}
		})
	}
	submitters.Go(func() {
		for range 50 {
			n := len(d.takeWaiting())
			mu.Lock()
			withdrawn += n
			mu.Unlock()
			runtime.Gosched()
		}
	})
	submitters.Wait()
	if err := d.waitQuiet(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-d.close()
	if ran+withdrawn != 4000 {
		t.Errorf("%d ran, %d were withdrawn, of 4000", ran, withdrawn)
	}
}
