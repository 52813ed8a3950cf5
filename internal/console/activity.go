package console

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
	"time"
)

const (
	// activitySeconds is the number of seconds for which activity is recorded.
	activitySeconds = 300
	// maxFunctions is the maximum number of functions for which statistics are recorded.
	maxFunctions = 1000
)

// second holds the counts of one second.
type second struct {
	at                int64 // the second in this slot, in seconds since 1970
	begun, ok, failed int
	latencies         latencies
}

// activity counts invocations: for each of the last activitySeconds seconds, and in total for
// each function. It is guarded by its Recorder's lock.
type activity struct {
	seconds   [activitySeconds]second
	functions map[functionKey]*figures
}

type functionKey struct{ namespace, id string }

// figures holds a function's totals since the engine started.
type figures struct {
	calls, failed uint64
	last          time.Time
	latencies     latencies
}

func newActivity() activity { return activity{functions: make(map[functionKey]*figures)} }

func (a *activity) second(t time.Time) *second {
	at := t.Unix()
	s := &a.seconds[at%activitySeconds]
	if s.at != at {
		*s = second{at: at}
	}
	return s
}

func (a *activity) began(t time.Time) { a.second(t).begun++ }

func (a *activity) ended(i *Invocation) {
	now := i.began.Add(i.took)
	s := a.second(now)
	k := functionKey{i.Namespace, i.Function}
	f := a.functions[k]
	if f == nil && len(a.functions) < maxFunctions {
		f = new(figures)
		a.functions[k] = f
	}
	if i.failed() {
		s.failed++
	} else {
		s.ok++
	}
	s.latencies.add(i.took)
	if f != nil {
		f.calls++
		if i.failed() {
			f.failed++
		}
		f.last = now
		f.latencies.add(i.took)
	}
}

func (i *Invocation) failed() bool { return i.code != "" || i.message != "" }

// latencies is a histogram of durations with four buckets per power of two. This is accurate
// enough for the quantiles on the page.
type latencies [4 * 40]uint32

func (l *latencies) add(d time.Duration) { l[stepOf(d)]++ }

// stepOf returns the bucket for a duration. The highest set bit of the duration in
// microseconds and the next two bits determine the bucket.
func stepOf(d time.Duration) int {
	us := uint64(max(0, d.Microseconds()))
	if us < 4 {
		return int(us)
	}
	high := bits.Len64(us) - 1 // at least 2
	return min(4*(high-1)+int(us>>(high-2)&3), len(latencies{})-1)
}

// stepEnd returns a bucket's upper bound.
func stepEnd(step int) time.Duration {
	if step < 4 {
		return time.Duration(step+1) * time.Microsecond
	}
	high := step/4 + 1
	return time.Duration(uint64(5+step%4)<<(high-2)) * time.Microsecond
}

// quantile returns an upper bound on the q-quantile of the durations, or 0 if there are none.
func (l *latencies) quantile(q float64) time.Duration {
	total := 0
	for _, n := range l {
		total += int(n)
	}
	if total == 0 {
		return 0
	}
	rest := int(math.Ceil(q * float64(total)))
	for step, n := range l {
		if rest -= int(n); rest <= 0 {
			return stepEnd(step)
		}
	}
	return stepEnd(len(l) - 1)
}

// Activity describes an engine's recent invocations, as sent to the page.
type Activity struct {
	Now       int64              `json:"now"` // seconds since 1970
	Running   int                `json:"running"`
	Seconds   []ActivitySecond   `json:"seconds"` // only seconds with activity, oldest first
	Functions []ActivityFunction `json:"functions"`
}

// ActivitySecond holds the activity of one second.
type ActivitySecond struct {
	At     int64   `json:"at"`
	Begun  int     `json:"begun"`
	OK     int     `json:"ok"`
	Failed int     `json:"failed"`
	P50    float64 `json:"p50"` // milliseconds
	P95    float64 `json:"p95"`
}

// ActivityFunction holds one function's figures since the engine started.
type ActivityFunction struct {
	Namespace string  `json:"namespace"`
	ID        string  `json:"id"`
	Calls     uint64  `json:"calls"`
	Failed    uint64  `json:"failed"`
	Last      int64   `json:"last"` // milliseconds since 1970
	P50       float64 `json:"p50"`  // milliseconds
	P95       float64 `json:"p95"`
}

// activityNow returns the current activity. It holds the lock only to copy the data.
func (r *Recorder) activityNow() Activity {
	now := time.Now()
	r.mu.Lock()
	running, seconds := r.running, r.activity.seconds
	functions := make(map[functionKey]figures, len(r.activity.functions))
	for k, f := range r.activity.functions {
		functions[k] = *f
	}
	r.mu.Unlock()
	a := Activity{Now: now.Unix(), Running: running, Seconds: []ActivitySecond{}, Functions: []ActivityFunction{}}
	for at := now.Unix() - activitySeconds + 1; at <= now.Unix(); at++ {
		if s := &seconds[at%activitySeconds]; s.at == at {
			a.Seconds = append(a.Seconds, s.public())
		}
	}
	for k, f := range functions {
		a.Functions = append(a.Functions, ActivityFunction{
			Namespace: k.namespace, ID: k.id, Calls: f.calls, Failed: f.failed, Last: f.last.UnixMilli(),
			P50: milliseconds(f.latencies.quantile(0.5)), P95: milliseconds(f.latencies.quantile(0.95)),
		})
	}
	slices.SortFunc(a.Functions, func(a, b ActivityFunction) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Namespace, b.Namespace))
	})
	return a
}

// pulse returns the activity of the last complete second and the number of running
// invocations.
func (r *Recorder) pulse(now time.Time) (last ActivitySecond, running int) {
	at := now.Unix() - 1
	r.mu.Lock()
	defer r.mu.Unlock()
	last = ActivitySecond{At: at}
	if s := &r.activity.seconds[at%activitySeconds]; s.at == at {
		last = s.public()
	}
	return last, r.running
}

func (s *second) public() ActivitySecond {
	return ActivitySecond{
		At: s.at, Begun: s.begun, OK: s.ok, Failed: s.failed,
		P50: milliseconds(s.latencies.quantile(0.5)), P95: milliseconds(s.latencies.quantile(0.95)),
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
