package iii_test

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// echo registers a typed handler that returns what it was given.
func echo[T any](t *testing.T, c *iii.Client, id string) {
	t.Helper()
	handle(t, c, id, func(_ context.Context, in T) (T, error) { return in, nil })
}

// payloadTypes are the types for the functions of the recordings, by id or by its
// beginning; functions that are not here get a payload of their caller's choice.
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

// availableEvent is what the recording's handler of two trigger types gets.
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

// Every payload that the engine was recorded to deliver reaches a typed handler as
// it is: nothing fails to decode and nothing is lost.
func TestRecordedPayloadsReachTypedHandlers(t *testing.T) {
	files, err := filepath.Glob("testdata/recordings/*.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	typed := map[string]int{}
	total := 0
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".jsonl")
		if name == "rust-sdk" {
			continue // its lines have another form
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
				if diff := sameDocument(want, got.Result); diff != "" {
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

// A cron trigger fires when it is due, with a typed event.
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
				t.Errorf("event %d: %+v, not at %v", i, e, want)
			}
		}
	})
}

// shortTimes writes the moments of an object as encoding/json does.
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

// viaAny is a document with its numbers as a handler of any sees them.
func viaAny(t *testing.T, doc json.RawMessage) json.RawMessage {
	t.Helper()
	var v any
	if err := json.Unmarshal(doc, &v); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// What encodes either arrives or is an error at once: the engine drops what it cannot
// read, and its caller would wait until the timeout.
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
