package console

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func seqs(list []Invocation) []uint64 {
	out := []uint64{}
	for _, i := range list {
		out = append(out, i.seq)
	}
	return out
}

func TestRecorderKeepsNewestInvocations(t *testing.T) {
	r := NewRecorder(DefaultLimit)
	for range maxInvocations + 5 {
		r.End(r.Begin(Call{Function: "f"}), nil, "", "")
	}
	for range 3 {
		r.Begin(Call{Function: "engine::f", Internal: true})
	}
	list, seen := r.since(0, 2*maxInvocations)
	if len(list) != maxInvocations+3 {
		t.Errorf("%d invocations are kept", len(list))
	}
	if _, ok := r.one(5); ok {
		t.Error("the fifth is still there")
	}
	if i, ok := r.one(6); !ok || i.seq != 6 || !i.ended {
		t.Errorf("the sixth: %v %+v", ok, i)
	}
	if list, _ := r.since(seen, 10); list != nil {
		t.Errorf("without a change: %v", seqs(list))
	}
	late := r.Begin(Call{Function: "f"})
	list, seen = r.since(seen, 10)
	if diff := cmp.Diff([]uint64{late.seq}, seqs(list)); diff != "" {
		t.Errorf("after a beginning (-want +got):\n%s", diff)
	}
	r.End(late, json.RawMessage(`1`), "", "")
	r.End(late, nil, "late", "a second end does not count")
	list, _ = r.since(seen, 10)
	if len(list) != 1 || list[0].seq != late.seq || list[0].failed() || string(list[0].result) != "1" {
		t.Errorf("after its end: %+v", list)
	}
}

// If a change were lost, a page would show a completed invocation as running forever.
func TestRecorderReportsEveryChange(t *testing.T) {
	r := NewRecorder(DefaultLimit)
	var calls []*Invocation
	for n := range 50 {
		calls = append(calls, r.Begin(Call{Function: "f", Internal: n%2 == 0}))
	}
	seen := r.latest()
	for _, i := range calls {
		r.End(i, nil, "", "")
	}
	ended := map[uint64]bool{}
	for range 5 {
		var list []Invocation
		list, seen = r.since(seen, 10)
		for _, i := range list {
			if !i.ended || ended[i.seq] {
				t.Errorf("invocation %d: ended %v, told before %v", i.seq, i.ended, ended[i.seq])
			}
			ended[i.seq] = true
		}
	}
	if list, _ := r.since(seen, 10); len(ended) != len(calls) || list != nil {
		t.Errorf("%d of %d ends were told, and then %v", len(ended), len(calls), seqs(list))
	}
}

func TestRecorderBoundsPayloads(t *testing.T) {
	r := NewRecorder(DefaultLimit)
	payload := json.RawMessage(strings.Repeat("x", maxPayload))
	const fit = DefaultLimit / maxPayload
	for range fit + 4 {
		r.End(r.Begin(Call{Data: payload}), nil, "", "")
	}
	if list, _ := r.since(0, maxInvocations); len(list) != fit {
		t.Errorf("%d of %d payloads are kept", len(list), fit)
	}
	// Results count toward the limit, and are dropped together with their invocations.
	first, _ := r.since(0, maxInvocations)
	old := r.users.find(first[0].seq)
	for range fit {
		r.End(r.Begin(Call{}), payload, "", "")
	}
	r.End(old, payload, "", "")
	if r.users.bytes != DefaultLimit || len(r.users.list) != fit {
		t.Errorf("%d bytes, %d invocations", r.users.bytes, len(r.users.list))
	}
	large := r.Begin(Call{Data: append(payload, 'x')})
	r.End(large, append(payload, 'x'), "", "")
	i, _ := r.one(large.seq)
	if i.Data != nil || i.result != nil || i.size != maxPayload+1 || i.resultLen != maxPayload+1 {
		t.Errorf("too large: %d and %d bytes kept, %d and %d told", len(i.Data), len(i.result), i.size, i.resultLen)
	}
}

func TestNilRecorderRecordsNothing(t *testing.T) {
	var r *Recorder
	r.End(r.Begin(Call{}), nil, "", "")
	NewRecorder(DefaultLimit).End(nil, nil, "", "")
}

func TestRecorderConcurrent(t *testing.T) {
	r := NewRecorder(DefaultLimit)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 200 {
				r.End(r.Begin(Call{Function: "f", Data: json.RawMessage(`{}`)}), nil, "", "")
				r.since(0, 5)
				r.one(1)
			}
		})
	}
	all.Go(func() {
		for range 50 {
			r.activityNow()
		}
	})
	all.Wait()
	a := r.activityNow()
	if len(a.Functions) != 1 || a.Functions[0].Calls != 1600 || a.Running != 0 {
		t.Errorf("activity: %+v", a.Functions)
	}
}

func TestActivity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRecorder(DefaultLimit)
		call := func(took time.Duration, code string) {
			i := r.Begin(Call{Namespace: "default", Function: "f"})
			time.Sleep(took)
			r.End(i, nil, code, "")
		}
		begin := time.Now().Truncate(time.Second)
		for range 9 {
			call(10*time.Millisecond, "")
		}
		call(500*time.Millisecond, "failed")
		running := r.Begin(Call{Namespace: "default", Function: "f"})
		r.Begin(Call{Function: "engine::f", Internal: true})
		last, n := r.pulse(begin.Add(time.Second))
		if last.Begun != 11 || last.OK != 9 || last.Failed != 1 || n != 1 {
			t.Errorf("the second: %+v, %d running", last, n)
		}
		a := r.activityNow()
		want := []ActivityFunction{{Namespace: "default", ID: "f", Calls: 10, Failed: 1, Last: time.Now().UnixMilli(), P50: 10.24, P95: 524.288}}
		if diff := cmp.Diff(want, a.Functions); diff != "" {
			t.Errorf("functions (-want +got):\n%s", diff)
		}
		time.Sleep(activitySeconds * time.Second)
		r.End(running, nil, "", "")
		if a := r.activityNow(); len(a.Seconds) != 1 || a.Seconds[0].OK != 1 || a.Seconds[0].Begun != 0 {
			t.Errorf("after five minutes: %+v", a.Seconds)
		}
	})
}

// Each duration is less than its bucket's upper bound. Above 4 µs, a bucket's width is at most
// a quarter of its lower bound.
func TestLatencySteps(t *testing.T) {
	for d := time.Duration(0); d < 100*time.Second; d += d/7 + time.Microsecond {
		step := stepOf(d)
		end, begin := stepEnd(step), time.Duration(0)
		if step > 0 {
			begin = stepEnd(step - 1)
		}
		if d < begin || d >= end {
			t.Errorf("%v is in the step from %v to %v", d, begin, end)
		}
		if begin >= 4*time.Microsecond && end-begin > begin/4 {
			t.Errorf("the step from %v to %v is wide", begin, end)
		}
	}
	if got := stepOf(1 << 62); got != len(latencies{})-1 {
		t.Errorf("a century is in step %d", got)
	}
	var none latencies
	if got := none.quantile(0.5); got != 0 {
		t.Errorf("median of nothing: %v", got)
	}
}

func BenchmarkRecorder(b *testing.B) {
	r := NewRecorder(DefaultLimit)
	c := Call{Namespace: "default", Function: "f", Worker: "w", Caller: "c", Data: json.RawMessage(`{"name":"Ada"}`)}
	b.ReportAllocs()
	for b.Loop() {
		r.End(r.Begin(c), c.Data, "", "")
	}
}
