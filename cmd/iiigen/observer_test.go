package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/cmd/iiigen/internal/recorded/tides"
	"github.com/iii-go/iii/iiitest"
)

var update = flag.Bool("update", false, "write the client internal/recorded/tides")

type (
	harbour struct {
		Harbour string `json:"harbour"`
	}
	turn struct {
		Harbour string    `json:"harbour"`
		At      time.Time `json:"at"`
		High    bool      `json:"high"`
	}
	booking struct {
		Berth int    `json:"berth"`
		Ship  string `json:"ship"`
	}
	booked struct {
		Number int `json:"number"`
	}
	atMost struct {
		Berths *int `json:"berths,omitempty"`
	}
)

// tideWorker serves ordinary functions, functions with arguments, private functions, and
// functions that cannot be observed. Before engine 0.26, only the ordinary functions are
// available.
func tideWorker(t *testing.T, url string) *iii.Client {
	t.Helper()
	c, err := iii.New(url, iii.WithName("tides"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	var all [5]error
	_, all[0] = iii.Handle(c, "tides::on-turn", func(_ context.Context, in turn) (turn, error) { return in, nil },
		iii.WithFunctionDescription("Is called whenever the tide turns."), iii.WithArgs[harbour](), iii.WithPrivate(),
		iii.WithObserverHooks(iii.ObserverHooks{Match: func(o *iii.FunctionObserver, call *iii.ObservedCall) bool {
			var args harbour
			var in turn
			return o.DecodeArgs(&args) == nil && json.Unmarshal(call.Input, &in) == nil && args.Harbour == in.Harbour
		}}))
	_, all[1] = iii.Handle(c, "tides::book", func(_ context.Context, in booking) (booked, error) { return booked{in.Berth * 10}, nil }, iii.WithArgs[atMost]())
	_, all[2] = iii.Handle(c, "tides::leave", func(_ context.Context, in booked) (bool, error) { return true, nil })
	_, all[3] = iii.Handle(c, "tides::secret", func(context.Context, struct{}) (bool, error) { return true, nil }, iii.WithoutObservers())
	_, all[4] = iii.Handle(c, "tides::own", func(context.Context, struct{}) (bool, error) { return true, nil }, iii.WithoutObservers(), iii.WithPrivate())
	if err := errors.Join(all[:]...); err != nil {
		t.Fatal(err)
	}
	if err := c.HandleTriggerType(iii.TriggerType{ID: "tides::alarm", Description: "Fires at flood.",
		ConfigSchema:  json.RawMessage(`{"type":"object","properties":{"level":{"type":"number"}},"required":["level"]}`),
		PayloadSchema: json.RawMessage(`{"type":"object","properties":{"level":{"type":"number"}},"required":["level"]}`)}, provider{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

// Generated clients have trigger methods or observer methods, depending on the engine.
func TestClientsHaveTheObserversOfTheirEngine(t *testing.T) {
	const (
		call    = "func (c Tides) %s(ctx context.Context, "
		observe = "func (c Tides) Observe%s(target string, "
		on      = "func (c Tides) %s(target string, "
		trigger = "func (c Tides) Trigger%s("
	)
	is := func(form, name string) string { return strings.ReplaceAll(form, "%s", name) }
	for _, test := range []struct {
		protocol iiitest.Protocol
		has      []string
		lacks    []string
	}{
		{iiitest.Protocol023, []string{is(call, "Leave"), is(trigger, "Alarm")}, []string{"Observe", "iii.Source", "Private", "Book"}},
		{iiitest.Protocol025, []string{is(call, "Leave"), is(trigger, "Alarm"), is(observe, "Leave"), is(on, "OnLeave")}, []string{"Args", "ObserveAlarm", "Book", "OnTurn"}},
		{iiitest.Protocol026, []string{
			is(call, "Leave"), is(observe, "Leave"), is(on, "OnLeave"), is(call, "Book"), is(observe, "Book") + "args BookArgs, ", is(call, "Secret"), is(observe, "OnTurn"), is(on, "OnTurn"),
			is(observe, "Alarm") + "args AlarmArgs, ", is(on, "OnAlarm") + "args AlarmArgs, handler func(context.Context, AlarmInput) (any, error), ",
		}, []string{"Trigger", "ObserveSecret", "ObserveOwn", is(call, "OnTurn"), is(call, "Own"), is(call, "Alarm")}},
	} {
		t.Run(test.protocol.String(), func(t *testing.T) {
			url := iiitest.Start(t, iiitest.WithProtocol(test.protocol), iiitest.WithStrictProtocol()).URL()
			tideWorker(t, url)
			dir, saved := t.TempDir(), filepath.Join(t.TempDir(), "saved.json")
			if out, err := iiigen(t, "-url", url, "-functions", "tides::*", "-package", "tides", "-out", dir, "-save", saved); err != nil {
				t.Fatal(err, out)
			}
			files := make(map[string][]byte)
			for name, content := range tree(t, dir) {
				files[name] = []byte(content)
			}
			compile(t, files)
			source := string(files["tides_gen.go"])
			for _, text := range test.has {
				if !strings.Contains(source, text) {
					t.Errorf("no %s", text)
				}
			}
			for _, text := range test.lacks {
				if strings.Contains(source, text) {
					t.Errorf("there is %s", text)
				}
			}
			for _, from := range [][]string{{"-url", url}, {"-catalog", saved}} {
				if out, err := iiigen(t, append(from, "-functions", "tides::*", "-package", "tides", "-out", dir, "-check")...); err != nil {
					t.Errorf("-check of %v: %v\n%s", from, err, out)
				}
			}
			if test.protocol != iiitest.Protocol026 {
				return
			}
			golden := filepath.Join("internal", "recorded", "tides")
			if *update {
				if err := replaceFiles(within(golden, files), nil); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(tree(t, golden), tree(t, dir)); diff != "" {
				t.Errorf("%s is out of date; -update writes it (-want +got):\n%s", golden, diff)
			}
		})
	}
}

// within prepends dir to the paths of files.
func within(dir string, files map[string][]byte) map[string][]byte {
	paths := make(map[string][]byte)
	for name, content := range files {
		paths[filepath.Join(dir, name)] = content
	}
	return paths
}

func TestObserversOfAGeneratedClientReceiveItsTypes(t *testing.T) {
	engine := iiitest.Start(t, iiitest.WithStrictProtocol())
	worker := tideWorker(t, engine.URL())
	c, err := iii.New(engine.URL(), iii.WithName("watch"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	client := tides.NewTides(c)
	received := make(chan any, 10)
	var observers [4]*iii.Observer
	var failed [5]error
	_, observers[0], failed[0] = client.OnTurn("watch::turn", tides.OnTurnArgs{Harbour: "Hull"}, func(_ context.Context, in tides.OnTurnInput) (any, error) {
		received <- in
		return nil, nil
	})
	_, observers[1], failed[1] = client.OnLeave("watch::leave", func(_ context.Context, o tides.LeaveObserved) (any, error) {
		received <- o
		return nil, nil
	}, iii.WithObserverID("leave"))
	// OnBook takes no source, so an observer with other filters needs a separate target.
	source := client.BookSource(tides.BookArgs{})
	source.Filters = map[string]any{"input.ship": map[string]any{"$eq": "Ada"}}
	_, failed[2] = iii.Handle(c, "watch::book", func(_ context.Context, o tides.BookObserved) (any, error) {
		received <- o
		return nil, nil
	})
	observers[2], failed[3] = c.Observe(source, "watch::book")
	observers[3], failed[4] = client.ObserveAlarm("watch::leave", tides.AlarmArgs{Level: 3})
	if err := errors.Join(failed[:]...); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	for _, o := range observers {
		if err := o.Ready(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.CheckSchemas(ctx); err != nil {
		t.Error(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, place := range []string{"Dover", "Hull"} {
		if _, err := iii.Call[turn](ctx, worker, "tides::on-turn", turn{Harbour: place, At: at, High: true}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(any(tides.OnTurnInput{Harbour: "Hull", At: at, High: true}), <-received); diff != "" {
		t.Errorf("turn (-want +got):\n%s", diff)
	}
	for _, ship := range []string{"Bob", "Ada"} {
		if _, err := client.Book(ctx, tides.BookInput{Berth: 7, Ship: ship}); err != nil {
			t.Fatal(err)
		}
	}
	if o, ok := (<-received).(tides.BookObserved); !ok || o.Input.Ship != "Ada" || o.Output.Number != 70 || o.Status != "success" {
		t.Errorf("received %+v of the booking", o)
	}
	if _, err := client.Leave(ctx, tides.LeaveInput{Number: 70}); err != nil {
		t.Fatal(err)
	}
	if o, ok := (<-received).(tides.LeaveObserved); !ok || o.Input.Number != 70 || !o.Output || o.ObserverID != "leave" {
		t.Errorf("received %+v of the leaving", o)
	}

	// If OnLeave fails, it unregisters the target.
	if _, _, err := client.OnLeave("watch::second", func(context.Context, tides.LeaveObserved) (any, error) { return nil, nil }, iii.WithObserverID("leave")); err == nil {
		t.Error("two observers have one id")
	}
	if _, err := iii.Handle(c, "watch::second", func(context.Context, string) (any, error) { return nil, nil }); err != nil {
		t.Errorf("the target is still registered: %v", err)
	}
}

func TestCheckReportsWhatHasChangedForObservers(t *testing.T) {
	const args = `{"type":"object","properties":{"harbour":{"type":"string"}},"required":["harbour"]}`
	was := catalog{Functions: []function{
		{ID: "a::args", Observable: true, Args: json.RawMessage(args)},
		{ID: "a::hidden", Observable: true},
		{ID: "a::none", Observable: true, Args: json.RawMessage(args)},
		{ID: "a::open", Private: true, Observable: true},
		{ID: "a::seen"},
	}}
	now := catalog{Functions: []function{
		{ID: "a::args", Observable: true, Args: json.RawMessage(`{"type":"object","properties":{"harbour":{"type":"string"},"high":{"type":"boolean"}},"required":["harbour","high"]}`)},
		{ID: "a::hidden", Private: true},
		{ID: "a::none", Observable: true},
		{ID: "a::open", Observable: true},
		{ID: "a::seen", Observable: true},
	}}
	var got []string
	for _, d := range compareCatalogs(&was, &now) {
		got = append(got, d.String())
	}
	want := []string{
		"function a::args: breaking\n  breaking    args .high: required field added",
		"function a::hidden: breaking\n  breaking    only its own worker can now call it\n  breaking    it can no longer be observed",
		"function a::none: breaking\n  breaking    args: the schema was removed",
		"function a::open: compatible\n  compatible  other workers can now call it",
		"function a::seen: compatible\n  compatible  it can now be observed",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFunctionsThatNobodyElseCanUseAreNotSelected(t *testing.T) {
	c := &catalog{Functions: []function{{ID: "a::own", Private: true}, {ID: "a::event", Private: true, Observable: true}, {ID: "a::call"}}}
	picked, err := selection{functions: []string{"a::*"}}.selectFrom(c)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a::event", "a::call"}, idsOf(picked)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func idsOf(c *catalog) (ids []string) {
	for _, f := range c.Functions {
		ids = append(ids, f.ID)
	}
	return ids
}

func TestPrivateFunctionsAreSelectedAsTriggerTypes(t *testing.T) {
	c := &catalog{Functions: []function{
		{ID: "a::call", Worker: "a"}, {ID: "b::call", Worker: "b"}, {ID: "engine::on-x", Worker: "a", Private: true, Observable: true},
		{ID: "event", Worker: "a", Private: true, Observable: true}, {ID: "other", Worker: "b", Private: true, Observable: true},
	}}
	for _, test := range []struct{ functions, triggers, want []string }{
		{[]string{"a::*"}, nil, []string{"a::call", "event"}},
		{[]string{"a::*"}, []string{"oth*"}, []string{"a::call", "other"}},
		{[]string{"a::*"}, []string{"*"}, []string{"a::call", "event", "other"}},
		{[]string{"a::*"}, []string{"engine::*"}, []string{"a::call", "engine::on-x"}},
		{[]string{"a::*"}, []string{"none"}, []string{"a::call"}},
		{[]string{"oth*"}, []string{"none"}, []string{"other"}},
	} {
		picked, err := selection{functions: test.functions, triggers: test.triggers}.selectFrom(c)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, idsOf(picked)); diff != "" {
			t.Errorf("%q and %q (-want +got):\n%s", test.functions, test.triggers, diff)
		}
	}
}

func TestObserversOfFunctionsWithHostileNamesCompile(t *testing.T) {
	c := hostileCatalog(t)
	for i := range c.Functions {
		f := &c.Functions[i]
		f.Observable, f.Private, f.Args = true, i%3 == 0, []json.RawMessage{f.Request, nil}[i%2]
	}
	for _, id := range []string{"w::on_x", "w::observe_x", "w::on", "w::on-", "w::x_source", "w::on_on_x", "observe::observe", "w::onward"} {
		f := fn(id, `{"type":"string"}`, `true`)
		f.Observable, f.Private, f.Args = true, strings.HasPrefix(id, "w::on"), json.RawMessage(`{"type":"object","properties":{"x":{"type":"string"}}}`)
		c.Functions = append(c.Functions, f)
	}
	files, _ := generate(t, c)
	compile(t, files)
}
