package iii_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// echo registers a typed handler that returns its payload.
func echo[T any](t *testing.T, c *iii.Client, id string) {
	t.Helper()
	handle(t, c, id, func(_ context.Context, in T) (T, error) { return in, nil }, iii.WithBuiltinOverride())
}

// payloadTypes maps recorded functions to payload types, by id or id prefix. All other
// functions have payloads of type any.
var payloadTypes = []struct {
	id   string
	echo func(t *testing.T, c *iii.Client, id string)
}{
	{"c::tick", echo[iii.CronEvent]},
	{"c::log", echo[iii.LogEvent]},
	{"gt::log", echo[iii.LogEvent]},
	{"gt::trace", echo[iii.TraceEvent]},
	{"st::saw", echo[iii.StateEvent]},
	{"sm::", echo[iii.StreamChangeEvent]},
	{"sp::saw", echo[iii.StreamChangeEvent]},
	{"sj::", echo[iii.StreamJoinLeaveEvent]},
	{"streams::auth", echo[iii.StreamAuthInput]},
	{"stream::get(", echo[iii.StreamGetInput]},
	{"stream::set(", echo[iii.StreamSetInput]},
	{"stream::delete(", echo[iii.StreamDeleteInput]},
	{"stream::list(", echo[iii.StreamListInput]},
	{"stream::list_groups(", echo[iii.StreamListGroupsInput]},
	{"stream::update(", echo[iii.StreamUpdateInput]},
	{"gate::auth", echo[iii.AuthInput]},
	{"gate::middleware", echo[iii.MiddlewareInput]},
	{"gate::on-function", echo[iii.OnFunctionRegistrationInput]},
	{"gate::on-trigger", echo[iii.OnTriggerRegistrationInput]},
	{"engine::queue::enqueue", echo[iii.QueueEnqueueInput]},
	{"mw::", echo[iii.HTTPMiddlewareInput]},
	{"api::", echo[iii.HTTPRequest[any]]},
	{"sh::", echo[iii.HTTPRequest[any]]},
	{"m::", echo[iii.HTTPRequest[any]]},
	{"c::avail", echo[availableEvent]},
}

// availableEvent decodes the payload of a recorded function that has triggers of two types.
// The payload is one of two events.
type availableEvent struct {
	functions *iii.FunctionsAvailableEvent
	workers   *iii.WorkersAvailableEvent
}

func (e *availableEvent) UnmarshalJSON(b []byte) error {
	var kind struct{ Event string }
	if err := json.Unmarshal(b, &kind); err != nil {
		return err
	}
	if kind.Event == "functions_changed" {
		return json.Unmarshal(b, &e.functions)
	}
	return json.Unmarshal(b, &e.workers)
}

func (e availableEvent) MarshalJSON() ([]byte, error) {
	if e.functions != nil {
		return json.Marshal(e.functions)
	}
	return json.Marshal(e.workers)
}

// Every recorded payload can be decoded by a typed handler, and decoding loses nothing.
func TestRecordedPayloadsReachTypedHandlers(t *testing.T) {
	files, err := filepath.Glob("testdata/0.23/*.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	typed := map[string]int{}
	total := 0
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".jsonl")
		if name == "rust-sdk" {
			continue // has a different format
		}
		var invocations []recordedEvent
		for _, event := range readRecording(t, name) {
			if event.Dir == "recv" && frameOf(t, event).Type == "invokefunction" {
				invocations = append(invocations, event)
			}
		}
		if len(invocations) == 0 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			e := iiitest.Start(t)
			c := connect(t, e, iii.WithName("worker"))
			registered := map[string]bool{}
			d := deliverTo(e, "worker")
			for _, event := range invocations {
				f := frameOf(t, event)
				kind := "any"
				register := echo[any]
				for _, p := range payloadTypes {
					if strings.HasPrefix(f.FunctionID, p.id) {
						kind, register = p.id, p.echo
						break
					}
				}
				if !registered[f.FunctionID] {
					registered[f.FunctionID] = true
					register(t, c, f.FunctionID)
				}
				typed[kind]++
				total++
				got := d.invoke(t, event.Frame)
				if got.Error != nil {
					t.Errorf("line %d: %s: %+v", event.line, f.FunctionID, *got.Error)
					continue
				}
				want := f.Data
				if kind == "c::tick" {
					want = shortTimes(t, want)
				}
				if kind == "any" {
					want = viaAny(t, want)
				}
				if diff := diffDocuments(want, got.Result); diff != "" {
					t.Errorf("line %d: %s (-recorded +handled):\n%s", event.line, f.FunctionID, diff)
				}
			}
		})
	}
	for _, p := range payloadTypes {
		if typed[p.id] == 0 {
			t.Errorf("no payload for %s", p.id)
		}
	}
	t.Logf("%d payloads: %v", total, typed)
}

func TestCronTrigger(t *testing.T) {
	workerBubble(t, func(t *testing.T, c *iii.Client) {
		events := make(chan iii.CronEvent, 10)
		handle(t, c, "clock::tick", func(ctx context.Context, e iii.CronEvent) (any, error) {
			if inv, _ := iii.InvocationFromContext(ctx); string(inv.Metadata) != `"every ten"` {
				t.Errorf("metadata: %s", inv.Metadata)
			}
			events <- e
			return nil, nil
		})
		trigger, err := c.Trigger("clock::tick", iii.CronTriggerConfig{Expression: "*/10 * * * * *"}, iii.WithTriggerMetadata("every ten"))
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for i := range 3 {
			e := <-events
			if want := began.UTC().Truncate(10 * time.Second).Add(time.Duration(i+1) * 10 * time.Second); !e.ScheduledTime.Equal(want) ||
				e.ActualTime.Sub(want) < 0 || e.ActualTime.Sub(want) > time.Second || e.JobID != trigger.ID() || e.Trigger != "cron" {
				t.Errorf("event %d: %+v, want one at %v", i, e, want)
			}
		}
	})
}

// shortTimes reformats an object's times as encoding/json formats them.
func shortTimes(t *testing.T, doc json.RawMessage) json.RawMessage {
	t.Helper()
	var object map[string]string
	if err := json.Unmarshal(doc, &object); err != nil {
		t.Fatal(err)
	}
	for key, text := range object {
		if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
			object[key] = at.UTC().Format(time.RFC3339Nano)
		}
	}
	out, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// viaAny returns doc as a typed handler sees it in a value of type any: numbers are floats,
// and _caller_worker_id is removed.
func viaAny(t *testing.T, doc json.RawMessage) json.RawMessage {
	t.Helper()
	var v any
	if err := json.Unmarshal(doc, &v); err != nil {
		t.Fatal(err)
	}
	if object, ok := v.(map[string]any); ok {
		delete(object, "_caller_worker_id")
	}
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Every payload either arrives or is rejected at once. The engine drops messages that it
// cannot read, so an undetected error would show up only as a timeout.
func TestPayloadArrivesOrIsRefused(t *testing.T) {
	e := iiitest.Start(t)
	c := connect(t, e, iii.WithName("worker"), iii.WithCallTimeout(time.Minute))
	echo[json.RawMessage](t, c, "echo")
	lists := func(depth int) string { return strings.Repeat("[", depth) + strings.Repeat("]", depth) }
	for raw, refused := range map[string]string{
		`"\ud83d\ude00"`: "", `1.5e308`: "", lists(126): "",
		`"\ud800"`: "half a surrogate pair", `[1e400]`: "out of range", lists(127): "nested deeper",
	} {
		var out any
		err := c.Call(t.Context(), "echo", json.RawMessage(raw), &out)
		if (err == nil) != (refused == "") || err != nil && !strings.Contains(err.Error(), refused) {
			t.Errorf("%.50s: %v, want %q", raw, err, refused)
		}
	}
	if got := e.Stats().Undecodable; got != 0 {
		t.Errorf("the engine dropped %d messages", got)
	}
}

type (
	counts  map[string]int
	textKey struct{ name string }
	//lint:ignore U1000 the type is described, not used
	embedsMap struct{ counts }
	callerOf  struct {
		Caller string `json:"_caller_worker_id"`
		A      int
	}
	Tagged       struct{ callerOf }
	embedsCaller struct{ *Tagged }
	hidesCaller  struct {
		callerOf `json:"inner"`
		Strict   strict `json:"-"`
	}
	strict           struct{ A int }
	strictWithCaller struct {
		A      int
		Caller string `json:"_caller_worker_id"`
	}
	embedsStrict   struct{ strict }
	strictList     []strict
	generic[T any] struct{ values map[string]T }
)

func (k *textKey) UnmarshalText(b []byte) error {
	k.name = string(b)
	if !strings.HasPrefix(k.name, "k") {
		return fmt.Errorf("%q is not a key", b)
	}
	return nil
}

func decodeStrictly(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return d.Decode(v)
}

func (s *strict) UnmarshalJSON(b []byte) error {
	type plain strict
	return decodeStrictly(b, (*plain)(s))
}

func (s *strictWithCaller) UnmarshalJSON(b []byte) error {
	type plain strictWithCaller
	return decodeStrictly(b, (*plain)(s))
}

func (h *hidesCaller) UnmarshalJSON(b []byte) error {
	var v struct {
		Inner struct{ A int } `json:"inner"`
	}
	err := decodeStrictly(b, &v)
	h.A = v.Inner.A
	return err
}

func (g *generic[T]) UnmarshalJSON(b []byte) error { return json.Unmarshal(b, &g.values) }

// deliverTyped sends payload to a typed handler, and returns the value and the caller that the
// handler received.
func deliverTyped[T any](ctx context.Context, c *iii.Client, id, payload string) (seen T, caller string, err error) {
	f, err := iii.Handle(c, id, func(ctx context.Context, in T) (any, error) {
		seen = in
		inv, _ := iii.InvocationFromContext(ctx)
		caller = inv.CallerWorkerID
		return nil, nil
	})
	if err != nil {
		return seen, "", err
	}
	defer f.Unregister()
	// Only the engine adds the key.
	err = c.Call(ctx, id, json.RawMessage(payload), nil, iii.Remotely())
	return seen, caller, err
}

// A typed handler receives the payload without _caller_worker_id, which the engine adds,
// unless the payload type has a field for that key.
func TestTypedHandlersReceivePayloadAsSent(t *testing.T) {
	c := newWorker(t, iiitest.Start(t))
	mustConnect(t, c)
	for _, test := range []struct {
		name    string
		see     func(id, payload string) (any, string, error)
		payload string
		want    any
	}{
		{"numbers", seerOf[map[string]int](t, c), `{"a":1}`, map[string]int{"a": 1}},
		{"empty", seerOf[map[string]int](t, c), `{}`, map[string]int{}},
		{"numbered", seerOf[map[int]string](t, c), `{"1":"x"}`, map[int]string{1: "x"}},
		{"texts", seerOf[map[string]string](t, c), `{"a":"x"}`, map[string]string{"a": "x"}},
		{"lists", seerOf[map[string][]string](t, c), `{"a":["x"]}`, map[string][]string{"a": {"x"}}},
		{"keys that decode themselves", seerOf[map[textKey]int](t, c), `{"k1":1}`, map[textKey]int{{"k1"}: 1}},
		{"named", seerOf[counts](t, c), `{"a":1,"b":2}`, counts{"a": 1, "b": 2}},
		{"pointer to a map", seerOf[*counts](t, c), `{"a":1}`, &counts{"a": 1}},
		{"any", seerOf[any](t, c), `{"a":{"b":1}}`, map[string]any{"a": map[string]any{"b": 1.0}}},
		{"raw", seerOf[json.RawMessage](t, c), `{"b":[ 1 ],"a":1}`, json.RawMessage(`{"a":1,"b":[1]}`)},
		{"raw and empty", seerOf[json.RawMessage](t, c), `{}`, json.RawMessage(`{}`)},
		{"pointer to raw", seerOf[*json.RawMessage](t, c), `{"a":1}`, new(json.RawMessage(`{"a":1}`))},
		{"raw that is no object", seerOf[json.RawMessage](t, c), `["_caller_worker_id"]`, json.RawMessage(`["_caller_worker_id"]`)},
		{"strict", seerOf[strict](t, c), `{"A":1}`, strict{1}},
		{"pointer to strict", seerOf[**strict](t, c), `{"A":1}`, new(&strict{1})},
		{"embedding strict", seerOf[embedsStrict](t, c), `{"A":1}`, embedsStrict{strict{1}}},
		{"list of strict", seerOf[strictList](t, c), `[{"A":1}]`, strictList{{1}}},
		{"generic", seerOf[generic[bool]](t, c), `{"a":true}`, generic[bool]{map[string]bool{"a": true}}},
		{"field for the caller in a member", seerOf[hidesCaller](t, c), `{"inner":{"A":1}}`, hidesCaller{callerOf: callerOf{A: 1}}},
		{"field for the caller", seerOf[callerOf](t, c), `{"A":1}`, callerOf{c.WorkerID(), 1}},
		{"embedded field for the caller", seerOf[embedsCaller](t, c), `{"A":1}`, embedsCaller{&Tagged{callerOf{c.WorkerID(), 1}}}},
		{"strict with a field for the caller", seerOf[strictWithCaller](t, c), `{"A":1}`, strictWithCaller{1, c.WorkerID()}},
		{"the key further inside", seerOf[map[string]map[string]int](t, c), `{"a":{"_caller_worker_id":1}}`, map[string]map[string]int{"a": {"_caller_worker_id": 1}}},
		{"the key from the caller", seerOf[map[string]int](t, c), `{"a":1,"_caller_worker_id":7}`, map[string]int{"a": 1}},
		{"keys that are like it", seerOf[map[string]int](t, c), `{"_caller_worker_i":1,"caller_worker_id":2,"_CALLER_WORKER_ID":3}`,
			map[string]int{"_caller_worker_i": 1, "caller_worker_id": 2, "_CALLER_WORKER_ID": 3}},
	} {
		t.Run(test.name, func(t *testing.T) {
			seen, caller, err := test.see("f", test.payload)
			if err != nil {
				t.Fatal(err)
			}
			exported := cmp.AllowUnexported(textKey{}, embedsStrict{}, hidesCaller{}, Tagged{}, embedsCaller{}, generic[bool]{})
			if diff := cmp.Diff(test.want, seen, exported); diff != "" {
				t.Errorf("the handler saw (-want +got):\n%s", diff)
			}
			want := c.WorkerID()
			if caller != want {
				t.Errorf("CallerWorkerID %q, want %q", caller, want)
			}
		})
	}
}

func seerOf[T any](t *testing.T, c *iii.Client) func(id, payload string) (any, string, error) {
	return func(id, payload string) (any, string, error) {
		seen, caller, err := deliverTyped[T](t.Context(), c, id, payload)
		return seen, caller, err
	}
}

// Untyped handlers and middleware receive the payload including _caller_worker_id.
func TestUntypedHandlersSeeTheCaller(t *testing.T) {
	var middle string
	c := newWorker(t, iiitest.Start(t), iii.WithMiddleware(func(next iii.HandlerFunc) iii.HandlerFunc {
		return func(ctx context.Context, payload json.RawMessage) (any, error) {
			middle = string(payload)
			return next(ctx, payload)
		}
	}))
	if _, err := c.HandleFunc("raw", func(_ context.Context, payload json.RawMessage) (any, error) { return payload, nil }); err != nil {
		t.Fatal(err)
	}
	handle(t, c, "typed", func(_ context.Context, in map[string]int) (int, error) { return len(in), nil })
	mustConnect(t, c)
	got, err := iii.Call[map[string]any](t.Context(), c, "raw", map[string]int{"a": 1}, iii.Remotely())
	if diff := cmp.Diff(map[string]any{"a": 1.0, "_caller_worker_id": c.WorkerID()}, got); err != nil || diff != "" {
		t.Errorf("untyped: %v (-want +got):\n%s", err, diff)
	}
	n, err := iii.Call[int](t.Context(), c, "typed", map[string]int{"a": 1}, iii.Remotely())
	if err != nil || n != 1 || !strings.Contains(middle, `"_caller_worker_id":"`+c.WorkerID()+`"`) {
		t.Errorf("typed: %d, %v; its middleware saw %s", n, err, middle)
	}
}

type keptPayload struct{ raw json.RawMessage }

// UnmarshalJSON retains its input, which json.Unmarshaler does not permit.
func (k *keptPayload) UnmarshalJSON(b []byte) error { k.raw = b; return nil }

// Large payloads are decoded from memory that is reused for later payloads. This must not
// change the values that handlers have decoded.
func TestReusedPayloadMemoryIsNotVisible(t *testing.T) {
	c := newWorker(t, iiitest.Start(t, iiitest.WithProtocol(iiitest.Protocol023)))
	type plain struct {
		Text string
		Raw  json.RawMessage
		Any  any
	}
	type caller struct {
		Caller string `json:"_caller_worker_id"`
		Text   string
		Raw    json.RawMessage
		Any    any
	}
	var mu sync.Mutex
	var kept []func() string
	keep := func(f func() string) {
		mu.Lock()
		defer mu.Unlock()
		kept = append(kept, f)
	}
	callerID := func(ctx context.Context) string {
		inv, _ := iii.InvocationFromContext(ctx)
		return inv.CallerWorkerID
	}
	handle(t, c, "plain", func(ctx context.Context, in plain) (string, error) {
		keep(func() string { return in.Text + string(in.Raw) + fmt.Sprint(in.Any) })
		return callerID(ctx), nil
	})
	handle(t, c, "caller", func(ctx context.Context, in caller) (string, error) {
		if in.Caller != callerID(ctx) {
			return "", fmt.Errorf("the field is %q", in.Caller)
		}
		keep(func() string { return in.Text + string(in.Raw) + fmt.Sprint(in.Any) })
		return callerID(ctx), nil
	})
	handle(t, c, "own", func(ctx context.Context, in struct{ Text, Raw, Any keptPayload }) (string, error) {
		keep(func() string {
			var text, value string
			_, _ = json.Unmarshal(in.Text.raw, &text), json.Unmarshal(in.Any.raw, &value)
			return text + string(in.Raw.raw) + value
		})
		return callerID(ctx), nil
	})
	middleware := iii.WithFunctionMiddleware(func(next iii.HandlerFunc) iii.HandlerFunc {
		return func(ctx context.Context, payload json.RawMessage) (any, error) {
			out, err := next(ctx, payload)
			keep(func() string {
				var in plain
				_ = json.Unmarshal(payload, &in)
				return in.Text + string(in.Raw) + fmt.Sprint(in.Any)
			})
			return out, err
		}
	})
	if _, err := iii.Handle(c, "middleware", func(ctx context.Context, _ plain) (string, error) { return callerID(ctx), nil }, middleware); err != nil {
		t.Fatal(err)
	}
	mustConnect(t, c)
	for round := range 20 {
		for _, id := range []string{"plain", "caller", "own", "middleware"} {
			mark := fmt.Sprintf("%s-%d ", id, round)
			in := map[string]any{"Text": strings.Repeat(mark, 200+20*round), "Raw": []string{mark}, "Any": mark}
			got, err := iii.Call[string](t.Context(), c, id, in, iii.Remotely())
			if err != nil || got != c.WorkerID() {
				t.Fatalf("%s: caller %q, %v, want %q", id, got, err, c.WorkerID())
			}
			want := in["Text"].(string) + `["` + mark + `"]` + mark
			mu.Lock()
			last := kept[len(kept)-1]
			mu.Unlock()
			keep(func() string {
				if got := last(); got != want {
					t.Errorf("%s: payload changed to %.100q, want %.100q", mark, got, want)
				}
				return ""
			})
		}
	}
	for _, check := range kept {
		check()
	}
}

// The path in a decoding error refers to the payload as the caller sent it.
func TestTypedMapRejectsInvalidPayload(t *testing.T) {
	c := newWorker(t, iiitest.Start(t))
	handle(t, c, "f", func(_ context.Context, in map[string][]int) (int, error) { return len(in), nil })
	mustConnect(t, c)
	err := c.Call(t.Context(), "f", json.RawMessage(`{"a":[1],"b":[1,"two"]}`), nil)
	var remote *iii.Error
	if !errors.As(err, &remote) || remote.Message != `payload at ["b"][1]: got string, want integer (int)` {
		t.Errorf("got %v", err)
	}
}

// undecodable is an interface with methods. JSON can be decoded into it only if it holds a
// pointer.
type undecodable interface{ String() string }

type lists []lists

// decodesAnything has an element type that JSON cannot represent, but the type itself
// implements json.Unmarshaler.
type decodesAnything []chan int

func (d *decodesAnything) UnmarshalJSON([]byte) error { *d = make(decodesAnything, 1); return nil }

// If no JSON value can be decoded into the result, Call fails before the function runs.
func TestCallRejectsUndecodableResultType(t *testing.T) {
	e := iiitest.Start(t)
	c := connect(t, e)
	var ran atomic.Int32
	handle(t, c, "f", func(context.Context, any) (any, error) { ran.Add(1); return []any{}, nil })
	if err := c.Call(t.Context(), "f", nil, nil); err != nil {
		t.Fatal(err)
	}
	ran.Store(0)

	type loop *loop
	type withChannel struct{ Done chan int }
	ctx := t.Context()
	var self any
	self = &self
	call := func(out any) func() error { return func() error { return c.Call(ctx, "f", nil, out) } }
	state, stream := iii.NewState[chan int](c, "s"), iii.NewStream[func()](c, "s")
	for name, tt := range map[string]struct {
		call func() error
		want string
	}{
		"value":                      {call(5), "iii: call f: cannot decode the result into int: it is not a pointer"},
		"struct":                     {call(withChannel{}), "iii: call f: cannot decode the result into iii_test.withChannel: it is not a pointer"},
		"map":                        {call(map[string]int{}), "iii: call f: cannot decode the result into map[string]int: it is not a pointer"},
		"raw":                        {call(json.RawMessage{}), fmt.Sprintf("iii: call f: cannot decode the result into %T: it is not a pointer", json.RawMessage{})},
		"function":                   {call(func() {}), "iii: call f: cannot decode the result into func(): it is not a pointer"},
		"nil slice":                  {call([]int(nil)), "iii: call f: cannot decode the result into []int: it is not a pointer"},
		"nil pointer":                {call((*int)(nil)), "iii: call f: cannot decode the result into *int: it is nil"},
		"nil raw":                    {call((*json.RawMessage)(nil)), fmt.Sprintf("iii: call f: cannot decode the result into *%T: it is nil", json.RawMessage{})},
		"nil any":                    {call((*any)(nil)), "iii: call f: cannot decode the result into *interface {}: it is nil"},
		"channel":                    {call(new(chan int)), "iii: call f: cannot decode the result into chan int: chan int has no JSON encoding"},
		"pointer to a function":      {call(new(func())), "iii: call f: cannot decode the result into func(): func() has no JSON encoding"},
		"complex":                    {call(new(complex128)), "iii: call f: cannot decode the result into complex128: complex128 has no JSON encoding"},
		"list of channels":           {call(new([]chan int)), "iii: call f: cannot decode the result into []chan int: chan int has no JSON encoding"},
		"map of pointers to them":    {call(new(map[string]*[2]func())), "iii: call f: cannot decode the result into map[string]*[2]func(): func() has no JSON encoding"},
		"keys":                       {call(new(map[bool]int)), "iii: call f: cannot decode the result into map[bool]int: bool cannot be the key of a JSON object"},
		"pointer to itself":          {call(new(loop)), "iii: call f: cannot decode the result into iii_test.loop: it is a pointer to itself"},
		"holds its own address":      {call(self), "iii: call f: cannot decode the result into *interface {}: it leads to itself"},
		"interface":                  {call(new(undecodable)), "iii: call f: cannot decode the result into iii_test.undecodable: the type of a value for iii_test.undecodable is not known"},
		"pointer to a pointer":       {call(new(*chan int)), "iii: call f: cannot decode the result into *chan int: chan int has no JSON encoding"},
		"pointer to a channel in it": {call(pointerTo(any(new(chan int)))), "iii: call f: cannot decode the result into chan int: chan int has no JSON encoding"},
		"Call of a channel":          {func() error { _, err := iii.Call[chan int](ctx, c, "f", nil); return err }, "iii: call f: cannot decode the result into chan int: chan int has no JSON encoding"},
		"Call of an error":           {func() error { _, err := iii.Call[error](ctx, c, "f", nil); return err }, "iii: call f: cannot decode the result into error: the type of a value for error is not known"},
		"state":                      {func() error { _, _, err := state.Get(ctx, "k"); return err }, "iii: call state::get: cannot decode the result into chan int: chan int has no JSON encoding"},
		"state, list":                {func() error { _, err := state.List(ctx); return err }, "iii: call state::list: cannot decode the result into []chan int: chan int has no JSON encoding"},
		"state, update":              {func() error { _, err := state.Update(ctx, "k", iii.OpSet("", 1)); return err }, "iii: call state::update: cannot decode the result into chan int: chan int has no JSON encoding"},
		"state, delete":              {func() error { _, _, err := state.Delete(ctx, "k"); return err }, "iii: call state::delete: cannot decode the result into chan int: chan int has no JSON encoding"},
		"state, set":                 {func() error { _, err := iii.NewState[undecodable](c, "s").Set(ctx, "k", nil); return err }, "iii: call state::set: cannot decode the result into iii_test.undecodable: the type of a value for iii_test.undecodable is not known"},
		"stream":                     {func() error { _, _, err := stream.Get(ctx, "g", "i"); return err }, "iii: call stream::get: cannot decode the result into func(): func() has no JSON encoding"},
		"stream, delete":             {func() error { _, _, err := stream.Delete(ctx, "g", "i"); return err }, "iii: call stream::delete: cannot decode the result into func(): func() has no JSON encoding"},
		"stream, update":             {func() error { _, err := stream.Update(ctx, "g", "i"); return err }, "iii: call stream::update: cannot decode the result into func(): func() has no JSON encoding"},
		"configuration":              {func() error { return c.Configuration().Get(ctx, "a", (*int)(nil)) }, "iii: call configuration::get: cannot decode the result into *int: it is nil"},
		"no configuration":           {func() error { return c.Configuration().Get(ctx, "a", nil) }, "iii: call configuration::get: value is nil, want a pointer to decode into"},
	} {
		if err := tt.call(); err == nil || err.Error() != tt.want || !iii.SafeToRetry(err) {
			t.Errorf("%s: %v, safe to retry: %v; want %s", name, err, iii.SafeToRetry(err), tt.want)
		}
	}
	if n := ran.Load(); n != 0 {
		t.Errorf("the function ran %d times", n)
	}

	var held undecodable = &keptText{}
	for name, out := range map[string]any{
		"nothing": nil, "raw": new(json.RawMessage), "any": new(any), "any in any": pointerTo(any(new(any))), "pointers": new(**[]int), "list": new([]string), "array": new([2]int),
		"list of lists": new([][]map[int]any), "lists within themselves": new(lists), "own decoder": new(decodesAnything), "pointer to one": new(*decodesAnything), "held pointer": &held, "keys": pointerTo(any(new([]map[netip.Addr]int))),
		"list of structs with a channel": new([]withChannel),
	} {
		if err := c.Call(ctx, "f", nil, out); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := iii.Call[[]withChannel](ctx, c, "f", nil); err != nil {
		t.Error(err)
	}
}

func pointerTo[T any](v T) *T { return &v }

type keptText struct{ n int }

func (k *keptText) String() string               { return "" }
func (k *keptText) UnmarshalJSON(b []byte) error { k.n = len(b); return nil }

type pointerToItself *pointerToItself

// A type that is a pointer to itself must not cause an endless loop in schema inference.
func TestSelfPointerDoesNotHang(t *testing.T) {
	c, err := iii.New("ws://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = iii.Handle(c, "f", func(context.Context, pointerToItself) (any, error) { return nil, nil })
}

type (
	validLine struct {
		Item  string  `json:"item"`
		Price float64 `json:"price"`
	}
	validNode struct {
		Name     string       `json:"name"`
		Children []*validNode `json:"children,omitempty"`
	}
	validOrder struct {
		Lines    []validLine       `json:"lines"`
		Quantity int8              `json:"quantity"`
		Tags     map[string]string `json:"tags,omitempty"`
		Gift     *validLine        `json:"gift,omitempty"`
		Tree     *validNode        `json:"tree,omitempty"`
	}
)

// A payload that violates the advertised schema never reaches the handler. The error contains
// the path of the invalid part.
func TestInputIsValidatedAgainstInferredSchema(t *testing.T) {
	const line = `{"item":"tea","price":1.5}`
	for _, test := range []struct{ name, payload, want string }{
		{"valid", `{"lines":[` + line + `],"quantity":1}`, ""},
		{"with what is optional", `{"lines":null,"quantity":1,"tags":{"a":"b"},"gift":null,"tree":{"name":"x","children":[{"name":"y"}]}}`, ""},
		{"further members", `{"lines":[],"quantity":1,"more":true}`, ""},
		{"empty", `{}`, "payload at lines: it is missing"},
		{"null", `null`, "payload: got null, want object"},
		{"list", `[1]`, "payload: got array, want object"},
		{"missing within", `{"lines":[` + line + `,{"item":"x"}],"quantity":1}`, "payload at lines[1].price: it is missing"},
		{"type", `{"lines":[],"quantity":"s3cret"}`, "payload at quantity: got string, want integer"},
		{"fraction", `{"lines":[],"quantity":1.5}`, "payload at quantity: got number, want integer"},
		{"range", `{"lines":[],"quantity":200}`, "payload at quantity: it violates maximum 127"},
		{"far out of range", `{"lines":[],"quantity":18446744073709551615}`, "payload at quantity: it violates maximum 127"},
		{"value of a map", `{"lines":[],"quantity":1,"tags":{"a b":1}}`, `payload at tags["a b"]: got integer, want string`},
		{"behind a pointer", `{"lines":[],"quantity":1,"gift":{"item":7,"price":1}}`, "payload at gift.item: got integer, want string"},
		{"within itself", `{"lines":[],"quantity":1,"tree":{"name":"x","children":[{"name":"y","children":[{"nam":"z"}]}]}}`, "payload at tree.children[0].children[0].name: it is missing"},
		{"the engine's member alone", `{"_caller_worker_id":"w"}`, "payload at lines: it is missing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			workerBubble(t, func(t *testing.T, c *iii.Client) {
				ran := false
				handle(t, c, "f", func(context.Context, validOrder) (any, error) { ran = true; return nil, nil }, iii.WithInputValidation())
				err := c.Call(t.Context(), "f", json.RawMessage(test.payload), nil)
				checkInvalid(t, err, test.want)
				if ran != (test.want == "") {
					t.Errorf("the handler ran: %t", ran)
				}
			})
		})
	}
}

func checkInvalid(t *testing.T, err error, want string) {
	t.Helper()
	var failure *iii.Error
	switch {
	case want == "":
		if err != nil {
			t.Error(err)
		}
	case !errors.As(err, &failure) || failure.Code != iii.CodeInvalidRequest || failure.Message != want:
		t.Errorf("%v, want %q", err, want)
	}
}

// Schemas supplied by the program are also enforced, for typed and untyped functions.
func TestInputIsValidatedAgainstSuppliedSchema(t *testing.T) {
	for _, test := range []struct{ name, schema, payload, want string }{
		{"enum", `{"properties":{"suit":{"enum":["hearts","spades"]}}}`, `{"suit":"clubs"}`, `payload at suit: it violates enum ["hearts","spades"]`},
		{"const", `{"properties":{"v":{"const":1}}}`, `{"v":2}`, `payload at v: it violates const 1`},
		{"pattern", `{"properties":{"id":{"pattern":"^[a-z]+$"}}}`, `{"id":"A"}`, `payload at id: it violates pattern "^[a-z]+$"`},
		{"pattern of a number", `{"properties":{"id":{"pattern":"^[a-z]+$"}}}`, `{"id":7}`, ``},
		{"closed", `{"additionalProperties":false,"properties":{"a":true}}`, `{"a":1,"b":2}`, `payload at b: it is not allowed`},
		{"closed, with the engine's member", `{"additionalProperties":false,"properties":{"a":true}}`, `{"a":1,"_caller_worker_id":"w"}`, ``},
		{"the member is asked for", `{"required":["_caller_worker_id"],"properties":{"_caller_worker_id":{"type":"string"}}}`, `{"a":1}`, ``},
		{"a false member", `{"properties":{"old":false}}`, `{"old":1}`, `payload at old: it is not allowed`},
		{"false", `false`, `1`, `payload: it is not allowed`},
		{"true", `true`, `1`, ``},
		{"reference", `{"$defs":{"p/q~ é":{"type":"string"}},"properties":{"a":{"$ref":"#/$defs/p~1q~0%20%C3%A9"}}}`, `{"a":1}`, `payload at a: got integer, want string`},
		{"reference by anchor", `{"$defs":{"n":{"$anchor":"n","minimum":3}},"properties":{"a":{"$ref":"#n"}}}`, `{"a":1}`, `payload at a: it does not match the schema of the function`},
		{"all of", `{"allOf":[{"required":["a"]},{"properties":{"b":{"minLength":2}}}]}`, `{"a":1,"b":"x"}`, `payload at b: it violates minLength 2`},
		{"any of", `{"properties":{"a":{"anyOf":[{"type":"string","maxLength":1},{"type":"integer"}]}}}`, `{"a":"xy"}`, `payload at a: it violates maxLength 1`},
		{"none of several", `{"properties":{"a":{"anyOf":[{"required":["x"]},{"required":["y"]}]}}}`, `{"a":{}}`, `payload at a: it violates anyOf`},
		{"two of one", `{"properties":{"a":{"oneOf":[{"type":"integer"},{"minimum":1}]}}}`, `{"a":2}`, `payload at a: it violates oneOf`},
		{"not", `{"properties":{"a":{"not":{"type":"string"}}}}`, `{"a":""}`, `payload at a: it violates not`},
		{"tuple", `{"prefixItems":[{"type":"string"}],"items":{"type":"integer"}}`, `["a",1,"b"]`, `payload at [2]: got string, want integer`},
		{"draft-07", `{"$schema":"http://json-schema.org/draft-07/schema#","definitions":{"n":{"type":"integer"}},"properties":{"a":{"items":[{"$ref":"#/definitions/n"}],"additionalItems":false}}}`, `{"a":[1,2]}`, `payload at a[1]: it is not allowed`},
		{"draft-07, reference", `{"$schema":"http://json-schema.org/draft-07/schema#","definitions":{"n":{"type":"integer"}},"properties":{"a":{"items":[{"$ref":"#/definitions/n"}]}}}`, `{"a":["x"]}`, `payload at a[0]: got string, want integer`},
		{"an id of its own", `{"$id":"https://example.com/order","$defs":{"n":{"type":"integer"}},"properties":{"a":{"$ref":"#/$defs/n"}}}`, `{"a":"x"}`, `payload at a: got string, want integer`},
		{"unique", `{"uniqueItems":true}`, `[1,1]`, `payload: it violates uniqueItems true`},
		{"pattern of members", `{"patternProperties":{"^x-":{"type":"string"}}}`, `{"x-a":1}`, `payload at x-a: got integer, want string`},
		{"names of members", `{"propertyNames":{"maxLength":1}}`, `{"ab":1}`, `payload: it violates propertyNames`},
		{"whole numbers", `{"type":"integer"}`, `1.0`, ``},
		{"64 bits", `{"type":"integer","maximum":9007199254740992}`, `9007199254740993`, `payload: it violates maximum 9007199254740992`},
		{"case of letters", `{"properties":{"price":{"minimum":0}}}`, `{"PRICE":-5}`, `payload at PRICE: it is spelled price`},
		{"case of letters beside the member", `{"properties":{"price":{"minimum":0}}}`, `{"price":1,"Price":-5}`, `payload at Price: it is spelled price`},
		{"case of letters by folding", `{"properties":{"kind":{"enum":["a"]}}}`, "{\"\u212aind\":\"b\"}", "payload at \u212aind: it is spelled kind"},
		{"case of letters below", `{"$defs":{"line":{"properties":{"sku":{"type":"string"}}}},"properties":{"lines":{"items":{"allOf":[{"$ref":"#/$defs/line"}]}}}}`, `{"lines":[{"sku":"a"},{"SKU":7}]}`, `payload at lines[1].SKU: it is spelled sku`},
		{"both are named", `{"properties":{"a":true,"A":true}}`, `{"a":1,"A":2}`, ``},
		{"both are named, in alternatives", `{"anyOf":[{"properties":{"a":true}},{"properties":{"A":true}}]}`, `{"A":2}`, ``},
		{"members of a map", `{"additionalProperties":{"type":"integer"}}`, `{"a":1,"A":2}`, ``},
		{"condition", `{"if":{"required":["a"]},"then":{"required":["b"]}}`, `{"a":1}`, `payload: it violates if`},
	} {
		t.Run(test.name, func(t *testing.T) {
			workerBubble(t, func(t *testing.T, c *iii.Client) {
				var got json.RawMessage
				if _, err := c.HandleFunc("f", func(_ context.Context, payload json.RawMessage) (any, error) { got = payload; return nil, nil },
					iii.WithInputValidation(), iii.WithSchemas(json.RawMessage(test.schema), nil)); err != nil {
					t.Fatal(err)
				}
				checkInvalid(t, c.Call(t.Context(), "f", json.RawMessage(test.payload), nil, iii.Remotely()), test.want)
				if test.want == "" && test.payload[0] == '{' && !strings.Contains(string(got), "_caller_worker_id") {
					t.Errorf("the handler's payload lacks the engine's key: %s", got)
				}
			})
		})
	}
}

// A schema that cannot be enforced makes registration fail.
func TestSchemasThatCannotBeEnforced(t *testing.T) {
	for name, test := range map[string]struct {
		schema any
		want   string
	}{
		"none":                      {nil, "the function has no request schema"},
		"pattern":                   {json.RawMessage(`{"pattern":"("}`), "does not compile"},
		"look-around":               {json.RawMessage(`{"properties":{"a":{"pattern":"(?=x)"}}}`), "does not compile"},
		"type":                      {json.RawMessage(`{"type":7}`), "does not compile"},
		"reference to nothing":      {json.RawMessage(`{"$ref":"#/$defs/none"}`), "does not compile"},
		"reference to elsewhere":    {json.RawMessage(`{"$ref":"https://example.com/schema"}`), "does not compile"},
		"another draft":             {json.RawMessage(`{"$schema":"http://json-schema.org/draft-04/schema#"}`), "only draft 2020-12 and draft-07"},
		"circle":                    {json.RawMessage(`{"$ref":"#"}`), "refers to itself in a cycle"},
		"circle of two":             {json.RawMessage(`{"$defs":{"a":{"allOf":[{"$ref":"#/$defs/b"}]},"b":{"anyOf":[{"$ref":"#/$defs/a"}]}},"properties":{"x":{"$ref":"#/$defs/a"}}}`), "refers to itself in a cycle"},
		"circle through the value":  {json.RawMessage(`{"properties":{"next":{"$ref":"#"}}}`), ""},
		"circle that is only named": {json.RawMessage(`{"const":{"$ref":"#"}}`), ""},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := iii.New("ws://127.0.0.1:1")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, err = c.HandleFunc("f", func(context.Context, json.RawMessage) (any, error) { return nil, nil }, iii.WithInputValidation(), iii.WithSchemas(test.schema, nil))
			if (err == nil) != (test.want == "") || err != nil && (!strings.HasPrefix(err.Error(), `iii: function "f": WithInputValidation: `) || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

// For a route, only the request body is validated. A request without a body is valid.
func TestBodiesAreValidated(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		c := newWorker(t, e)
		ran := 0
		var middle []string
		route := func(path string, opts ...iii.FunctionOption) {
			if _, err := iii.HandleHTTP(c, "POST", path, func(_ context.Context, r *iii.HTTPRequest[validLine]) (*iii.HTTPResponse[string], error) {
				ran++
				return &iii.HTTPResponse[string]{StatusCode: 200, Body: r.Body.Item}, nil
			}, append(opts, iii.WithInputValidation(), iii.WithFunctionMiddleware(func(next iii.HandlerFunc) iii.HandlerFunc {
				return func(ctx context.Context, payload json.RawMessage) (any, error) {
					middle = append(middle, path)
					return next(ctx, payload)
				}
			}))...); err != nil {
				t.Fatal(err)
			}
		}
		route("/inferred")
		route("/given", iii.WithSchemas(json.RawMessage(`{"properties":{"body":{"properties":{"item":{"enum":["tea"]}}}}}`), nil))
		mustConnect(t, c)
		for _, test := range []struct {
			path, contentType, body string
			status                  int
			want                    string
		}{
			{"/inferred", "application/json", `{"item":"tea","price":1}`, 200, `"tea"`},
			{"/inferred", "application/json", `{"item":"tea"}`, 400, "payload at body.price: it is missing"},
			{"/inferred", "application/json", `{"item":1,"price":1}`, 400, "payload at body.item: got integer, want string"},
			{"/inferred", "application/json", `null`, 400, "payload at body: got null, want object"},
			{"/inferred", "a/b+json", `{"item":"tea"}`, 400, "payload at body.price: it is missing"},
			{"/inferred", "", ``, 200, `""`},
			{"/given", "application/json", `{"item":"tea"}`, 200, `"tea"`},
			{"/given", "application/json", `{"item":"coffee"}`, 400, `payload at body.item: it violates enum [\"tea\"]`},
		} {
			before := ran
			status, body, _ := request(t, e, "POST", test.path, test.contentType, test.body)
			want := test.want
			if status == 400 {
				want = fmt.Sprintf(`{"error":{"code":"invalid_request","message":"%s"}}`, test.want)
			}
			if status != test.status || body != want {
				t.Errorf("%s %s: %d %s, want %d %s", test.path, test.body, status, body, test.status, want)
			}
			if (ran > before) != (test.status == 200) {
				t.Errorf("%s %s: the handler ran: %t", test.path, test.body, ran > before)
			}
		}
		if len(middle) != 8 {
			t.Errorf("the middleware ran %d times; it must run before validation", len(middle))
		}
	})
	c, err := iii.New("ws://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := iii.HandleHTTP(c, "GET", "/", func(context.Context, *iii.HTTPRequest[any]) (*iii.HTTPResponse[any], error) { return nil, nil },
		iii.WithInputValidation(), iii.WithSchemas(json.RawMessage(`{"type":"object"}`), nil)); err == nil || !strings.Contains(err.Error(), "no member body") {
		t.Error(err)
	}
}
