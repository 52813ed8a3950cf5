//go:build !race

package iii

import (
	"context"
	"encoding/json"
	"runtime"
	"strings"
	"testing"
	"time"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/iii-go/iii/internal/wsconn"
)

// raceEnabled reports whether the race detector is enabled. Tests then use smaller messages,
// because copying is slow under the race detector.
const raceEnabled = false

// This test cannot run under the race detector, which randomly empties sync.Pools.
func TestFilterMatchDoesNotAllocate(t *testing.T) {
	f, err := ParseFilter(`{"input.a": {"$gt": 1}, "input.b": {"$in": ["x", "y"]}, "output.c": {"$exists": false}, "caller.worker_name": {"$prefix": "w"}}`)
	if err != nil {
		t.Fatal(err)
	}
	d := FilterDocument{Input: json.RawMessage(`{"a": 2, "b": "y"}`), Caller: json.RawMessage(`{"worker_name": "w1"}`)}
	if !f.Matches(d) {
		t.Fatal("does not match")
	}
	if n := testing.AllocsPerRun(100, func() { f.Matches(d) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestHandlerMetricsDoNotAllocate(t *testing.T) {
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
	h, err := newHandlerMetrics(meters.Meter("test"))
	if err != nil {
		t.Fatal(err)
	}
	f := h.function("orders::create")
	l := &link{handlers: t.Context()}
	in := &incoming{origin: l}
	ctx := ExtractContext(t.Context(), testParent, "") // a sampled trace, so that the SDK records exemplars
	if n := testing.AllocsPerRun(1000, func() {
		in.since = time.Now()
		f.begin(in)
		f.leave()
		f.done(ctx, in, true)
	}); n != 0 {
		t.Errorf("%v allocations for an invocation", n)
	}
}

// unwrittenLink is a link without a writer. The test itself takes messages from the send
// queue, so that only the client's own allocations are counted.
type unwrittenLink struct {
	*link
	batch []item
}

func newUnwrittenLink(t *testing.T, c *Client) *unwrittenLink {
	l := c.newLink(wsconn.Over(nil))
	l.choose(dialectFor(nil))
	c.out.attach(l, 1)
	c.out.resume(l, 1)
	t.Cleanup(func() { c.out.detach(l, ErrConnectionLost) })
	return &unwrittenLink{link: l}
}

// next removes all queued messages, passes each to sent, and returns their number.
func (l *unwrittenLink) next(sent func(item)) int {
	l.batch = l.client.out.take(l.link, l.batch[:0])
	for _, it := range l.batch {
		if it.req != nil {
			seal(it.buf, l.dialect(), &it.req.inv)
		}
		sent(it)
	}
	n := len(l.batch)
	l.client.out.written(l.link, l.batch, nil)
	return n
}

type allocOrder struct {
	User   string
	Amount int
	Note   string
}

func TestServedInvocationAllocations(t *testing.T) {
	c, err := New("ws://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.HandleFunc("raw", echo); err != nil {
		t.Fatal(err)
	}
	if _, err := Handle(c, "typed", func(_ context.Context, in allocOrder) (allocOrder, error) { return in, nil }); err != nil {
		t.Fatal(err)
	}
	l := newUnwrittenLink(t, c)
	for _, test := range []struct {
		function string
		size     int
		limit    float64
	}{
		{"raw", 10, 3}, {"raw", 100_000, 4}, {"typed", 10, 10}, {"typed", 100_000, 11}, // on Go 1.27, the typed counts are 5 and 7
	} {
		frame := []byte(`{"type":"invokefunction","invocation_id":"0c1f6f0e-6d6e-4c41-9d0e-6a7b7a3f2f10","function_id":"` + test.function +
			`","data":{"User":"ann","Amount":3,"Note":"` + strings.Repeat("x", test.size) + `"},"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}`)
		answers := 0
		allocs := testing.AllocsPerRun(500, func() {
			c.receive(l.link, frame)
			for l.next(func(it item) {
				if it.buf.result != [2]int{} {
					answers++
				}
			}) == 0 {
				runtime.Gosched()
			}
		})
		if answers != 501 {
			t.Fatalf("%s: %d results", test.function, answers)
		}
		if allocs > test.limit {
			t.Errorf("%s, %d bytes: %v allocations of an invocation, not %v", test.function, test.size, allocs, test.limit)
		}
	}
}

func TestRoutedCallAllocations(t *testing.T) {
	c, err := New("ws://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l := newUnwrittenLink(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	engine := make(chan struct{})
	defer func() { cancel(); <-engine }()
	go func() {
		defer close(engine)
		var ids []invocationID
		var frame []byte
		for ctx.Err() == nil {
			ids = ids[:0]
			if l.next(func(it item) { ids = append(ids, it.req.inv.id) }) == 0 {
				runtime.Gosched()
			}
			for _, id := range ids {
				frame = append(appendID(append(frame[:0], `{"type":"invocationresult","invocation_id":"`...), id), `","function_id":"f","result":{"User":"ann","Amount":3,"Note":"x"}}`...)
				c.receive(l.link, frame)
			}
		}
	}()
	in := allocOrder{"ann", 3, strings.Repeat("x", 1000)}
	for _, test := range []struct {
		name  string
		in    any
		out   any
		limit float64
	}{
		{"raw", json.RawMessage(`{"n":1}`), nil, 0}, {"typed", &in, new(allocOrder), 5}, // on Go 1.27, the typed count is 0
	} {
		allocs := testing.AllocsPerRun(500, func() {
			if err := c.Call(ctx, "f", test.in, test.out); err != nil {
				t.Fatal(err)
			}
		})
		if allocs > test.limit {
			t.Errorf("%s: %v allocations of a call, not %v", test.name, allocs, test.limit)
		}
	}
}

func TestLocalCallAllocations(t *testing.T) {
	p := newHostPeer(t, hostScript{script: script{forget: true}})
	c := p.client()
	hostFunc(t, c, "f", func(context.Context, json.RawMessage) (any, error) { return json.RawMessage("1"), nil })
	connectHost(t, c)
	ctx, in := t.Context(), json.RawMessage(`{"n":1}`)
	allocs := testing.AllocsPerRun(1000, func() {
		if err := c.Call(ctx, "f", in, nil); err != nil {
			t.Fatal(err)
		}
	})
	if limit := 7.0; allocs > limit {
		t.Errorf("%v allocations of a local call, not %v", allocs, limit)
	}
}
