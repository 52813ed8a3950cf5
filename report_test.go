package iii

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// reported lists the items of all reports over a connection (-1: over all).
func (p *peer) reported(conn int) (items []ObservedInvocation) {
	for _, m := range p.messages(conn, "invocationsobserved") {
		var report InvocationsObservedMessage
		if err := json.Unmarshal(m.Raw, &report); err != nil {
			p.tb.Error(err)
		}
		items = append(items, report.Items...)
	}
	return items
}

func numbers(items []ObservedInvocation) (list []string) {
	for _, it := range items {
		list = append(list, string(it.Input))
	}
	return list
}

func numbersTo(from, to int) (list []string) {
	for n := from; n < to; n++ {
		list = append(list, fmt.Sprint(n))
	}
	return list
}

var varying = regexp.MustCompile(`"(invocation_id":"[^"]*"|started_at_ms":\d+|duration_ms":[0-9.]+),?`)

func TestReportsOfLocalCalls(t *testing.T) {
	parts := func(capture string) string {
		return fmt.Sprintf(`{"id":"o","target":"t","on":"complete","capture":[%s]}`, capture)
	}
	for name, tt := range map[string]struct {
		set, want string
		v1        bool
		in        string
		hooks     ObserverHooks
	}{
		"default":            {set: view("o", `{}`), in: `{"n":1}`, want: `"matched":["o"],"status":"success","input":{"n":1},"output":{"got":{"n":1}},"observe_depth":0`},
		"nothing captured":   {set: parts(``), in: `1`, want: `"matched":["o"],"status":"success","observe_depth":0`},
		"null":               {set: parts(`"input","output"`), in: `null`, want: `"matched":["o"],"status":"success","input":null,"output":{"got":null},"observe_depth":0`},
		"output is input":    {set: view("o", `{}`), in: `"echo"`, want: `"matched":["o"],"status":"success","input":"echo","output_is_input":true,"observe_depth":0`},
		"not on 0.25":        {v1: true, set: view("o", `{}`), in: `"echo"`, want: `"matched":["o"],"status":"success","input":"echo","output":"echo","observe_depth":0`},
		"output alone":       {set: parts(`"output"`), in: `"echo"`, want: `"matched":["o"],"status":"success","output":"echo","observe_depth":0`},
		"error":              {set: parts(`"error","input"`), in: `"fail"`, want: `"matched":["o"],"status":"error","input":"fail","error":{"code":"NO_TAX","message":"m"},"observe_depth":0`},
		"panic":              {set: parts(`"error"`), in: `"panic"`, want: `"matched":["o"],"status":"error","error":{"code":"invocation_failed","message":"handler panicked"},"observe_depth":0`},
		"errors unasked":     {set: view("o", `{}`), in: `"fail"`},
		"union":              {set: `{"id":"o","target":"t","capture":["input"]},{"id":"p","target":"t","capture":["metadata"]}`, in: `1`, want: `"matched":["o","p"],"status":"success","input":1,"metadata":{"m":1},"observe_depth":0`},
		"filter":             {set: `{"id":"o","target":"t","filters":{"input.n":{"$gte":5}}},{"id":"p","target":"t","filters":{"output.got.n":{"$eq":1},"caller.worker_name":{"$eq":"till"},"metadata.m":{"$eq":1}}}`, in: `{"n":1}`, want: `"matched":["p"],"status":"success","input":{"n":1},"output":{"got":{"n":1}},"observe_depth":0`},
		"changed by handler": {set: parts(`"input"`), in: `"clear"`, want: `"matched":["o"],"status":"success","input":"clear","observe_depth":0`},
		"match hook": {set: view("o", `{}`) + "," + view("p", `{}`), in: `1`, want: `"matched":["p"],"status":"success","input":1,"output":{"got":1},"observe_depth":0`,
			hooks: ObserverHooks{Match: func(o *FunctionObserver, _ *ObservedCall) bool { return o.ID == "p" }}},
		"deliver hook": {set: view("o", `{}`), in: `1`,
			hooks: ObserverHooks{Deliver: func(_ context.Context, call *ObservedCall, _ []*FunctionObserver) (any, error) {
				return call.Output, nil
			}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newHostPeer(t, hostScript{set: func(int, string) string { return tt.set }, features: func(int) string {
					if tt.v1 {
						return `"observe.v1","local-dispatch.v1"`
					}
					return featuresV2
				}})
				c := p.client(WithName("till"))
				var opts []FunctionOption
				if tt.hooks.answer() {
					opts = append(opts, WithObserverHooks(tt.hooks))
				}
				hostFunc(t, c, "f", func(_ context.Context, payload json.RawMessage) (any, error) {
					switch string(payload) {
					case `"echo"`:
						return payload, nil
					case `"fail"`:
						return nil, &Error{Code: "NO_TAX", Message: "m", Stacktrace: "here"}
					case `"panic"`:
						panic("boo")
					case `"clear"`:
						clear(payload)
						return nil, nil
					}
					return map[string]any{"got": payload}, nil
				}, opts...)
				connectHost(t, c)
				synctest.Wait()
				_ = c.Call(t.Context(), "f", json.RawMessage(tt.in), nil, WithMetadata(map[string]int{"m": 1}))
				time.Sleep(reportLinger)
				synctest.Wait()
				got := ""
				for _, m := range p.messages(0, "invocationsobserved") {
					got += string(m.Raw)
				}
				want := ""
				if tt.want != "" {
					want = `{"type":"invocationsobserved","items":[{"function_id":"f","namespace":"default",` + tt.want + `}]}`
				}
				same(t, "reports", varying.ReplaceAllString(got, ""), want)
			})
		})
	}
}

func TestReportsAreBatchedBySizeAndLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{set: func(int, string) string { return view("o", `{}`) }})
		c := p.client()
		hostFunc(t, c, "f", echo)
		connectHost(t, c)
		synctest.Wait()
		for n := range maxReportBatch + 10 {
			if err := c.Call(t.Context(), "f", n, nil); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if got := len(p.reported(0)); got != maxReportBatch {
			t.Errorf("%d reports at once, not %d", got, maxReportBatch)
		}
		time.Sleep(reportLinger)
		synctest.Wait()
		same(t, "reports", numbers(p.reported(0)), numbersTo(0, maxReportBatch+10))
		if got := len(p.messages(0, "invocationsobserved")); got != 2 {
			t.Errorf("%d frames", got)
		}
	})
}

// Reports of calls that were made while the connection was lost follow the acks of the next
// one, in order, and those that were on their way are not repeated.
func TestReportsAcrossAReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{set: func(int, string) string { return view("o", `{}`) }})
		c := p.client()
		hostFunc(t, c, "f", echo)
		hostFunc(t, c, "g", echo)
		connectHost(t, c)
		synctest.Wait()
		for n := range 3 {
			_ = c.Call(t.Context(), "f", n, nil)
		}
		time.Sleep(reportLinger)
		synctest.Wait()
		p.conn(0).Close()
		time.Sleep(time.Millisecond)
		for n := 3; n < 600; n++ {
			id := "f"
			if n%2 == 0 {
				id = "g"
			}
			if err := c.Call(t.Context(), id, n, nil); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		same(t, "reports", numbers(p.reported(-1)), numbersTo(0, 600))
		var kinds []string
		for _, m := range p.messages(1, "observerack", "invocationsobserved", "registerfunction") {
			kinds = append(kinds, m.Type)
		}
		same(t, "order", kinds, []string{"registerfunction", "registerfunction", "observerack", "observerack", "invocationsobserved", "invocationsobserved", "invocationsobserved"})
	})
}

// Reports of a function that the engine has yet to confirm are passed by others, and wait for
// 30 s at most.
func TestParkedReports(t *testing.T) {
	for name, confirms := range map[string]time.Duration{"confirmed": 20 * time.Second, "never": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newHostPeer(t, hostScript{set: func(int, string) string { return view("o", `{}`) }})
				c := p.client()
				f := hostFunc(t, c, "f", echo)
				hostFunc(t, c, "g", echo)
				connectHost(t, c)
				synctest.Wait()
				f.observers.confirmed.Store(nil) // as if it were registered anew
				_ = c.Call(t.Context(), "f", 1, nil)
				_ = c.Call(t.Context(), "g", 2, nil)
				time.Sleep(time.Second)
				synctest.Wait()
				same(t, "reports", numbers(p.reported(0)), []string{"2"})
				time.Sleep(confirms - time.Second)
				p.conn(0).send(`{"type":"functionregistered","id":"f","revision":50,"local_dispatch":true,"observers":[` + view("o", `{}`) + `]}`)
				time.Sleep(20 * time.Second)
				synctest.Wait()
				want, drops := []string{"2", "1"}, uint64(0)
				if name == "never" {
					want, drops = []string{"2"}, 1
				}
				same(t, "reports in the end", numbers(p.reported(0)), want)
				if got := c.Stats().ReportsDropped; got != drops {
					t.Errorf("%d dropped", got)
				}
			})
		})
	}
}

func TestReportsAreBoundedAndDropsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{set: func(int, string) string { return view("o", `{}`) }})
		c := p.client()
		f := hostFunc(t, c, "f", echo)
		g := hostFunc(t, c, "g", echo)
		hostFunc(t, c, "silent", func(context.Context, json.RawMessage) (any, error) { return nil, errors.New("no") })
		connectHost(t, c)
		synctest.Wait()
		f.observers.confirmed.Store(nil)
		g.observers.confirmed.Store(nil)
		_ = c.Call(t.Context(), "f", json.RawMessage(`"`+strings.Repeat("x", maxReportBytes)+`"`), nil)
		_ = c.Call(t.Context(), "g", 1, nil)
		for n := range maxReports + 2 {
			_ = c.Call(t.Context(), "f", n, nil)
		}
		if err := g.Unregister(); err != nil {
			t.Fatal(err)
		}
		if got := c.Stats(); got.ReportsDropped != 5 || got.LocalCalls != maxReports+4 {
			t.Errorf("%d dropped of %d", got.ReportsDropped, got.LocalCalls)
		}
		time.Sleep(localStatsInterval)
		synctest.Wait()
		stats := p.messages(0, "localinvocationstats")
		if len(stats) != 1 {
			t.Fatalf("%d statistics", len(stats))
		}
		var m LocalInvocationStatsMessage
		if err := json.Unmarshal(stats[0].Raw, &m); err != nil {
			t.Fatal(err)
		}
		same(t, "statistics", m, LocalInvocationStatsMessage{Type: MessageTypeLocalInvocationStats, WindowMs: 10000,
			Functions:      []LocalFunctionStats{{FunctionID: "f", Count: maxReports + 3}, {FunctionID: "g", Count: 1}},
			DroppedReports: []DroppedReports{{FunctionID: "f", Reason: "BUFFER_FULL", Count: 3}, {FunctionID: "f", Reason: "TOO_LARGE", Count: 1}, {FunctionID: "g", Reason: "INACTIVE", Count: 1}}})
		time.Sleep(3 * localStatsInterval) // nothing is said about nothing, but the parked ones expire
		synctest.Wait()
		if got := len(p.messages(0, "localinvocationstats")); got != 2 {
			t.Errorf("%d statistics", got)
		}
		_ = c.Close()
		if got := c.Stats().ReportsDropped; got != maxReports+4 {
			t.Errorf("%d dropped in the end", got)
		}
	})
}

// More functions than the statistics name share one name.
func TestDropCountsAreFolded(t *testing.T) {
	r := newReports(&Client{})
	for n := range maxDropCounts + 10 {
		r.drop1(&report{function: &Function{id: fmt.Sprint(n)}}, dropInactive)
	}
	if got := r.dropped[droppedReport{"*", dropInactive}]; got != 10 || len(r.dropped) != maxDropCounts+1 {
		t.Errorf("%d under *, %d names", got, len(r.dropped))
	}
}

// An engine without observers is told nothing.
func TestReportsForAnEngineWithoutObservers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{set: func(int, string) string { return view("o", `{}`) }, features: func(n int) string {
			if n == 0 {
				return featuresV2
			}
			return ""
		}})
		c := p.client()
		f := hostFunc(t, c, "f", echo)
		connectHost(t, c)
		synctest.Wait()
		p.conn(0).Close()
		time.Sleep(time.Millisecond)
		for n := range 3 {
			_ = c.Call(t.Context(), "f", n, nil)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := c.Stats(); got.ReportsDropped != 3 || f.IsObserved() || f.LocalDispatch() {
			t.Errorf("%d dropped, observed %t, local %t", got.ReportsDropped, f.IsObserved(), f.LocalDispatch())
		}
		if m := p.messages(1, "invocationsobserved", "localinvocationstats", "observerack"); len(m) > 0 {
			t.Errorf("the engine is sent %s", m[0].Raw)
		}
		if got, err := Call[int](t.Context(), c, "f", 5); err != nil || got != 5 || len(p.messages(1, "invokefunction")) < 2 {
			t.Errorf("%d, %v", got, err)
		}
	})
}

// The report of a void call, and of one whose caller has given up, arrive as well; the trace is
// the handler's.
func TestReportsOfCallsThatNobodyWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{set: func(int, string) string { return view("o", `{}`) }})
		c := p.client()
		hostFunc(t, c, "f", func(_ context.Context, payload json.RawMessage) (any, error) {
			time.Sleep(5 * time.Second)
			return payload, nil
		})
		connectHost(t, c)
		synctest.Wait()
		ctx := ExtractContext(t.Context(), testParent, "k=v")
		if err := c.Send(ctx, "f", 1); err != nil {
			t.Error(err)
		}
		if err := c.Call(ctx, "f", 2, nil, WithTimeout(time.Second)); !errors.Is(err, ErrTimeout) {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, it := range p.reported(0) {
			if it.Traceparent != testParent || it.Baggage != "iii.function.id=f,k=v" || it.DurationMs != 5000 {
				t.Errorf("%+v", it)
			}
		}
		if got := len(p.reported(0)); got != 2 {
			t.Errorf("%d reports", got)
		}
	})
}

// A handler that runs too long is answered for, reported and counted once.
func TestReportOfAHandlerThatRunsTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newHostPeer(t, hostScript{set: func(int, string) string {
			return `{"id":"o","target":"t","on":"error","capture":["error"]}`
		}})
		c := p.client()
		hostFunc(t, c, "f", func(context.Context, json.RawMessage) (any, error) {
			time.Sleep(time.Minute)
			panic("late")
		}, WithHandlerTimeout(time.Second))
		connectHost(t, c)
		synctest.Wait()
		var e *Error
		if err := c.Call(t.Context(), "f", 1, nil); !errors.As(err, &e) || e.Code != CodeHandlerTimeout {
			t.Error(err)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		items := p.reported(0)
		if len(items) != 1 || !strings.Contains(string(items[0].Error), CodeHandlerTimeout) || items[0].DurationMs != 1000 || c.Stats().LocalCalls != 1 {
			t.Errorf("%+v, %d local calls", items, c.Stats().LocalCalls)
		}
	})
}
