package iii

import (
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Limits of the reports.
const (
	maxReports     = 10_000
	maxReportBytes = 8 << 20
	maxReportBatch = 256
	maxReportFrame = 16 << 20
	reportLinger   = 5 * time.Millisecond
	reportPatience = 30 * time.Second // for the engine to confirm the function
	reportOverhead = 256              // bytes of a report beyond its parts

	localStatsInterval = 10 * time.Second
	maxDropCounts      = 1024
)

// Reasons of drops.
const (
	dropBufferFull = "BUFFER_FULL"
	dropTooLarge   = "TOO_LARGE"
	dropInactive   = "INACTIVE"
)

// report is one local call that observers ask for.
type report struct {
	function *Function
	id       string
	matched  []*FunctionObserver
	status   string
	echoes   bool // the output equals the input

	// Parts that an observer captures; nil if none does, or if there is none.
	input, output, err, caller, metadata json.RawMessage

	started              time.Time
	duration             time.Duration
	depth                uint32
	traceparent, baggage string

	granted localGrant // of the function, set when it is pushed
	pushed  time.Time  // likewise
	size    int
}

// reports are the local calls that the engine is to be told of: in order, at most once each,
// and bounded. They leave in batches, one of which is on its way at a time, once the
// connection has all registrations. Those of a function that the engine has yet to confirm
// wait for that, and others pass them by.
type reports struct {
	client  *Client
	total   atomic.Uint64 // dropped
	timer   *time.Timer
	touched sync.Map // functions with local calls since the latest statistics

	mu      sync.Mutex
	items   []*report
	count   int // of items and of the batch that is on its way
	bytes   int // likewise
	flying  []*report
	link    *link     // over which they may leave
	since   time.Time // that link is
	wake    time.Time // when the timer fires; zero: it is not set
	dropped map[droppedReport]uint64
	window  time.Time     // begin of the statistics
	idle    chan struct{} // closed when nothing can leave any more; nil if nobody asks
	closed  bool
}

type droppedReport struct{ functionID, reason string }

func newReports(c *Client) *reports {
	r := &reports{client: c, dropped: map[droppedReport]uint64{}, window: time.Now()}
	return r
}

// push takes a report, or drops it.
func (r *reports) push(it *report) {
	it.pushed = time.Now()
	it.size = reportOverhead + len(it.function.id) + len(it.input) + len(it.output) + len(it.err) + len(it.caller) + len(it.metadata) + len(it.baggage)
	for _, o := range it.matched {
		it.size += len(o.ID) + 3
	}
	if it.echoes {
		it.size += len(it.input) // an older engine needs it twice
	}
	r.mu.Lock()
	grant := it.function.observers.grant.Load()
	switch {
	case r.closed || grant == nil:
		r.drop1(it, dropInactive)
		r.mu.Unlock()
		return
	case it.size > min(maxReportBytes, maxReportFrame):
		r.drop1(it, dropTooLarge)
		r.mu.Unlock()
		return
	case r.count >= maxReports || r.bytes+it.size > maxReportBytes:
		r.drop1(it, dropBufferFull)
		r.mu.Unlock()
		return
	}
	it.granted = *grant
	r.items = append(r.items, it)
	r.count++
	r.bytes += it.size
	full := len(r.items) >= maxReportBatch
	if !full {
		r.wakeAt(it.pushed.Add(reportLinger))
	}
	r.mu.Unlock()
	if full {
		r.flush()
	}
}

// wakeAt sees to it that flush runs no later than that.
func (r *reports) wakeAt(t time.Time) {
	if r.link == nil || r.closed || !r.wake.IsZero() && !r.wake.After(t) {
		return
	}
	r.wake = t
	if d := time.Until(t); r.timer == nil {
		r.timer = time.AfterFunc(d, r.flush)
	} else {
		r.timer.Reset(d)
	}
}

// drop1 counts a report that will not leave.
func (r *reports) drop1(it *report, reason string) {
	r.total.Add(1)
	key := droppedReport{it.function.id, reason}
	if _, known := r.dropped[key]; !known && len(r.dropped) >= maxDropCounts {
		key.functionID = "*"
	}
	r.dropped[key]++
}

// drop drops what waits of a function that is no longer hosted here.
func (r *reports) drop(f *Function) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.items = slices.DeleteFunc(r.items, func(it *report) bool {
		if it.function == f {
			r.discard(it, dropInactive)
		}
		return it.function == f
	})
	r.settle()
}

// discard is drop1 of a report that was counted.
func (r *reports) discard(it *report, reason string) {
	r.count--
	r.bytes -= it.size
	r.drop1(it, reason)
}

// release lets the reports of a function leave that the engine has confirmed.
func (r *reports) release(*Function) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.items) > 0 {
		r.wakeAt(time.Now().Add(reportLinger))
	}
}

// attach lets reports leave over l, whose registrations are settled.
func (r *reports) attach(l *link) {
	r.mu.Lock()
	r.link, r.since, r.wake = l, time.Now(), time.Time{}
	some := len(r.items) > 0
	r.mu.Unlock()
	if some {
		r.flush()
	}
}

// detach ends the use of l.
func (r *reports) detach(l *link) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.link == l {
		r.link = nil
		r.settle()
	}
}

// settle tells those who wait that nothing can leave any more.
func (r *reports) settle() {
	if r.idle != nil && (r.link == nil || len(r.flying) == 0 && !slices.ContainsFunc(r.items, r.ready)) {
		close(r.idle)
		r.idle = nil
	}
}

// ready reports whether a report may leave.
func (r *reports) ready(it *report) bool { return it.function.observers.confirmed.Load() == r.link }

// flush sends a batch, if none is on its way.
func (r *reports) flush() {
	r.mu.Lock()
	r.wake = time.Time{}
	if r.link == nil || r.flying != nil || r.closed {
		r.mu.Unlock()
		return
	}
	l, now, size := r.link, time.Now(), 0
	var batch []*report
	var expiry time.Time
	full := false
	r.items = slices.DeleteFunc(r.items, func(it *report) bool {
		switch {
		case full:
			return false
		case r.ready(it):
			if full = len(batch) == maxReportBatch || size+it.size > maxReportFrame; full {
				return false
			}
			batch = append(batch, it)
			size += it.size
			return true
		}
		since := it.pushed
		if since.Before(r.since) {
			since = r.since
		}
		if now.Sub(since) >= reportPatience {
			r.discard(it, dropInactive)
			return true
		}
		if at := since.Add(reportPatience); expiry.IsZero() || at.Before(expiry) {
			expiry = at
		}
		return false
	})
	if len(batch) == 0 {
		if !expiry.IsZero() {
			r.wakeAt(expiry)
		}
		r.settle()
		r.mu.Unlock()
		return
	}
	r.flying = batch
	r.mu.Unlock()
	b := newBuffer()
	b.Write(l.dialect().appendReports(b.AvailableBuffer(), batch))
	if !r.client.out.urgent(l, item{buf: b, settled: func(f frameFate) { r.landed(l, f) }}) {
		r.landed(l, frameKept)
	}
}

// landed settles the batch that was on its way. One that was not handed to the network waits
// for the next link.
func (r *reports) landed(l *link, fate frameFate) {
	r.mu.Lock()
	batch := r.flying
	r.flying = nil
	switch {
	case fate == frameKept && !r.closed:
		r.items = slices.Concat(batch, r.items)
		if r.link == l {
			r.link = nil // it is gone
		}
	case fate == frameWritten:
		for _, it := range batch {
			r.count--
			r.bytes -= it.size
		}
	default:
		for _, it := range batch {
			r.discard(it, dropInactive)
		}
	}
	more := r.link != nil && (len(r.items) >= maxReportBatch || r.idle != nil)
	if !more && len(r.items) > 0 {
		r.wakeAt(time.Now().Add(reportLinger))
	}
	r.settle()
	r.mu.Unlock()
	if more {
		r.flush()
	}
}

// drain sends what can leave and returns a channel that is closed when it has.
func (r *reports) drain() <-chan struct{} {
	r.mu.Lock()
	idle := r.idle
	if idle == nil {
		idle = make(chan struct{})
		r.idle = idle
	}
	r.settle()
	r.mu.Unlock()
	r.flush()
	return idle
}

// close drops what waits.
func (r *reports) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.timer != nil {
		r.timer.Stop()
	}
	for _, it := range r.items {
		r.discard(it, dropInactive)
	}
	r.items, r.link = nil, nil
	r.settle()
}

// touch notes that a function has been called locally.
func (r *reports) touch(f *Function) { r.touched.Store(f, struct{}{}) }

// sendStats tells the engine what ran in process since it was last told, and what it was not
// told of. It says nothing if that is nothing.
func (r *reports) sendStats(l *link) {
	if !l.dialect().observes() || r.client.out.current() != l {
		return
	}
	var calls []LocalFunctionStats
	r.touched.Range(func(key, _ any) bool {
		f := key.(*Function)
		r.touched.Delete(key)
		s := LocalFunctionStats{FunctionID: f.id, Count: f.local.count.Swap(0), Errors: f.local.errors.Swap(0)}
		s.DurationMsSum = float64(f.local.nanos.Swap(0)) / float64(time.Millisecond)
		if s.Count > 0 {
			calls = append(calls, s)
		}
		return true
	})
	r.mu.Lock()
	var drops []DroppedReports
	for _, key := range slices.SortedFunc(maps.Keys(r.dropped), func(a, b droppedReport) int {
		return slices.Compare([]string{a.functionID, a.reason}, []string{b.functionID, b.reason})
	}) {
		drops = append(drops, DroppedReports{FunctionID: key.functionID, Reason: key.reason, Count: r.dropped[key]})
	}
	clear(r.dropped)
	now := time.Now()
	window := now.Sub(r.window)
	r.window = now
	r.mu.Unlock()
	if len(calls)+len(drops) > 0 {
		slices.SortFunc(calls, func(a, b LocalFunctionStats) int {
			return slices.Compare([]string{a.FunctionID}, []string{b.FunctionID})
		})
		r.client.out.urgent(l, r.client.item(l.dialect().localStats(window, calls, drops)))
	}
}

// localStats counts the local calls of one function since the engine was last told.
type localStats struct {
	count, errors atomic.Uint64
	nanos         atomic.Int64
}
