package iii

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iii-go/iii/internal/rawjson"
)

// A worker's calls to its own functions run in process if the engine allows it. Such a call
// goes through the dispatcher like an invocation from the engine, and uses the same encodings.
// The caller and the handler therefore share no memory, and neither can tell that the call did
// not go through the engine. The handler runs in a separate goroutine, because the caller may
// stop waiting.

// maxNested limits the nesting of local calls. Deeper calls go through the engine.
const maxNested = 64

// Remotely routes a call through the engine even if the function could run in process; see
// [Function.LocalDispatch]. If a handler uses this option to call a function of its own
// worker, the call needs a second slot of [WithMaxConcurrency]. If no slot is free, the call
// cannot start, and the handler waits until the call times out.
func Remotely() CallOption {
	return func(c *callConfig) error { c.remote = true; return nil }
}

// localTarget returns the function to call in process, or nil if the call goes through the
// engine.
func (c *Client) localTarget(inv *invocation, cfg *callConfig) *Function {
	by := inv.caller
	if cfg.remote || inv.action == actionEnqueue || inv.observerID != "" || by != nil && inv.action == actionNone && by.nesting >= maxNested {
		return nil
	}
	f := c.registry.functionNamed(inv.functionID)
	if f == nil {
		return nil
	}
	if g := f.observers.grant.Load(); g == nil || *g != (localGrant{inv.functionID, cmp.Or(inv.namespace, defaultNamespace)}) {
		return nil
	}
	return f
}

// beginLocal starts an in-process call.
func (c *Client) beginLocal(f *Function, inv *invocation, payload any, timeout time.Duration) (*request, error) {
	by := inv.caller
	b := newBuffer()
	defer b.free()
	if inv.hasMetadata {
		if err := b.part(inv.metadata); err != nil {
			return nil, fmt.Errorf("encode metadata: %w", err)
		}
	}
	metadata := b.len()
	if err := b.part(payload); err != nil {
		return nil, fmt.Errorf("encode payload: %w", err)
	}
	r := c.out.newRequest(inv.action != actionVoid, timeout)
	r.id, r.local = newInvocationID(), true

	const idLength = 36
	own := append(appendID(make([]byte, 0, idLength+b.len()), r.id), b.bytes()...)
	in := &incoming{function: f, local: true, id: own[:idLength:idLength], data: own[idLength+metadata:]}
	if inv.hasMetadata && !rawjson.Absent(own[idLength:]) {
		in.metadata = own[idLength : idLength+metadata : idLength+metadata]
	}
	if inv.traceparent != "" {
		in.traceparent = rawjson.AppendString(nil, inv.traceparent)
	}
	if inv.traceparent != "" || inv.baggage != "" {
		in.baggage = rawjson.AppendString(nil, calleeBaggage(inv.baggage, f.id))
	}
	if by != nil {
		in.by, in.depth = localCaller{by.function.id, by.id, by.callerWithoutParent()}, by.depth
	}
	in.own.client = c
	in.origin = &in.own
	if r.wantsResult {
		in.own.request, r.in = r, in
	} else {
		r.resolve(nil)
	}
	var refusal string
	byHandler := by != nil && !by.over.Load()
	if byHandler && r.wantsResult {
		in.nesting = by.nesting + 1
		refusal = c.dispatch.nest(in)
	} else {
		refusal = c.dispatch.submit(in, byHandler)
	}
	switch {
	case refusal == "":
	case c.dispatch.isClosed():
		return nil, unsentError{c.endError()}
	default:
		c.turnAway(in, refusal) // just as an invocation from the engine
	}
	return r, nil
}

// calleeKey is the baggage key under which the engine stores the called function's id.
const calleeKey = "iii.function.id"

// calleeBaggage returns a call's baggage header as the engine would forward it. The called
// function's entry replaces the calling function's. If the baggage has no room for the entry,
// the header is unchanged.
func calleeBaggage(header, functionID string) string {
	b := appendEscaped(make([]byte, 0, len(calleeKey)+1+maxQuoted(functionID)+len(header)), calleeKey)
	b = appendEscaped(append(b, '='), functionID)
	members := 1
	for item := range strings.SplitSeq(header, ",") {
		if key, _, ok := strings.Cut(item, "="); ok && key != calleeKey {
			b = append(append(b, ','), item...)
			members++
		}
	}
	if members > maxBaggageMembers || len(b) > maxBaggageBytes {
		return header
	}
	return string(b)
}

// localCaller is the handler that made a local call. The zero value means that no handler made
// the call.
type localCaller struct {
	functionID string
	id         []byte
	parent     json.RawMessage // the caller of the handler
}

// callerJSON returns the invocation's caller, or nil if the caller is unknown.
func (in *incoming) callerJSON(c *Client) json.RawMessage {
	if !in.local {
		return in.caller
	}
	return in.originJSON(c, true)
}

// originJSON returns the caller of a local call as JSON, or nil if there is nothing to
// include. If worker is true, the result includes this worker's identity.
func (in *incoming) originJSON(c *Client, worker bool) json.RawMessage {
	p := []byte{'{'}
	if worker {
		p = append(p, `"worker_id":`...)
		p = rawjson.AppendString(p, c.WorkerID())
		p = append(p, `,"worker_name":`...)
		p = rawjson.AppendString(p, c.name)
	}
	if in.by.functionID != "" {
		if worker {
			p = append(p, ',')
		}
		p = append(p, `"function_id":`...)
		p = rawjson.AppendString(p, in.by.functionID)
		if len(in.by.id) > 0 {
			p = append(append(append(p, `,"invocation_id":"`...), in.by.id...), '"')
		}
		if len(in.by.parent) > 0 {
			p = append(append(p, `,"parent":`...), in.by.parent...)
		}
	}
	if len(p) == 1 {
		return nil
	}
	return append(p, '}')
}

// callerWithoutParent returns the invocation's caller without the caller's own parent, or nil
// if the caller is unknown. The result is computed once and used for all calls that the
// handler makes.
func (in *incoming) callerWithoutParent() json.RawMessage {
	in.parentOnce.Do(func() { in.parent = withoutParent(in.callerJSON(in.function.client)) })
	return in.parent
}

// withoutParent returns a copy of caller that contains only the members that identify the
// caller.
func withoutParent(caller json.RawMessage) json.RawMessage {
	if len(caller) == 0 || caller[0] != '{' {
		return nil
	}
	p := append(make([]byte, 0, len(caller)), '{')
	_ = rawjson.ScanObject(caller, func(key, value []byte) {
		switch string(key) {
		case "worker_id", "worker_name", "function_id", "invocation_id":
		default:
			return
		}
		if len(value) == 0 || value[0] != '"' {
			return
		}
		if len(p) > 1 {
			p = append(p, ',')
		}
		p = append(append(append(p, '"'), key...), `":`...)
		p = append(p, value...)
	})
	if len(p) == 1 {
		return nil
	}
	return append(p, '}')
}

// rawOrigin encodes a result or an error without an envelope, and discards replies. It is
// embedded in localOrigin, and used alone for output that is not sent to a caller.
type rawOrigin struct{}

func (rawOrigin) encodeResult(b *buffer, _ *incoming, result any) error {
	if err := b.part(result); err != nil {
		return err
	}
	b.result = [2]int{0, b.len()}
	return nil
}

func (rawOrigin) encodeError(b *buffer, _ *incoming, code, message, stack string) {
	b.p = appendError(b.p, code, message, stack)
}

func (rawOrigin) limit() (int, string)     { return math.MaxInt, "" }
func (rawOrigin) dialect() dialect         { return newestDialect }
func (rawOrigin) gone() bool               { return false }
func (rawOrigin) context() context.Context { return context.Background() }
func (rawOrigin) reply(b *buffer)          { b.free() }
func (o rawOrigin) replyNow(b *buffer)     { o.reply(b) }

// localOrigin receives the result of a local call.
type localOrigin struct {
	rawOrigin
	client  *Client
	request *request // nil if no caller is waiting for the result
}

func (o *localOrigin) context() context.Context { return o.client.handlers }

// reply passes the result to the caller. If the caller has stopped waiting, the garbage
// collector frees the buffer together with the request.
func (o *localOrigin) reply(b *buffer) {
	if o.request == nil {
		b.free()
		return
	}
	o.request.buf = b
	o.request.resolve(nil)
}

func (o *localOrigin) replyNow(b *buffer) { o.reply(b) }

// clientClosed returns a channel that is closed when the client is closed. For a remote call,
// it returns nil, because the send queue itself resolves remote calls when the client is
// closed.
func (r *request) clientClosed(c *Client) <-chan struct{} {
	if r.local {
		return c.done
	}
	return nil
}

// countLocal records a local call in the statistics.
func (in *incoming) countLocal(c *Client, failed bool) {
	s := &in.function.local
	if failed {
		s.errors.Add(1)
	}
	s.nanos.Add(int64(time.Since(in.started)))
	if s.count.Add(1) == 1 {
		c.reports.touch(in.function)
	}
	c.localCalls.Add(1)
}

// abandonLocal fails the local calls among invocations that will not run.
func abandonLocal(list []*incoming, reason error) {
	for _, in := range list {
		if r := in.own.request; r != nil {
			r.unsent = true
			r.resolve(reason)
		}
	}
}

// Limits for reports.
const (
	maxReports     = 10_000
	maxReportBytes = 8 << 20
	maxReportBatch = 256
	maxReportFrame = 16 << 20
	reportLinger   = 5 * time.Millisecond
	reportPatience = 30 * time.Second // how long a report waits until the engine has confirmed the function
	reportOverhead = 256              // size of a report in bytes, excluding its parts

	localStatsInterval = 10 * time.Second
	maxDropCounts      = 1024
)

// Reasons for dropping a report.
const (
	dropBufferFull = "BUFFER_FULL"
	dropTooLarge   = "TOO_LARGE"
	dropInactive   = "INACTIVE"
)

// report describes a local call that at least one observer selects.
type report struct {
	function *Function
	id       string
	matched  []*FunctionObserver
	status   string
	echoes   bool // the output is the same as the input

	// Parts of the call. A part is nil if no observer captures it or the call has no such
	// part.
	input, output, err, caller, metadata json.RawMessage

	started              time.Time
	duration             time.Duration
	depth                uint32
	traceparent, baggage string

	granted localGrant // the function's grant at the time of push
	pushed  time.Time  // time of push
	size    int
}

// reports is a bounded queue of local calls to report to the engine. Reports are sent in
// order, each at most once. Sending starts once all registrations on the connection are
// settled, and only one batch is in flight at a time. Reports for a function that the engine
// has not confirmed yet are held back; later reports for other functions may be sent first.
type reports struct {
	client  *Client
	total   atomic.Uint64 // number of dropped reports
	timer   *time.Timer
	touched sync.Map // set of functions with local calls since the latest statistics

	mu       sync.Mutex
	items    []*report
	count    int // number of reports in items and inFlight
	bytes    int // total size of items and inFlight
	inFlight []*report
	link     *link     // the link on which reports may be sent
	since    time.Time // when link was set
	wake     time.Time // when the timer fires; zero if the timer is not set
	dropped  map[droppedReport]uint64
	window   time.Time     // when the current statistics period began
	idle     chan struct{} // closed when there is nothing left to send; nil if no goroutine is waiting for that
	closed   bool
}

type droppedReport struct{ functionID, reason string }

func newReports(c *Client) *reports {
	r := &reports{client: c, dropped: map[droppedReport]uint64{}, window: time.Now()}
	return r
}

// reportDepth is the maximum nesting depth of a part of a report. It is smaller than that of a
// payload, because the message, its list and the report enclose the part.
const reportDepth = engineDepth - 3

func nestsTooDeep(part json.RawMessage) bool {
	return bytes.Count(part, []byte{'{'})+bytes.Count(part, []byte{'['}) > reportDepth && rawjson.CheckForEngine(part, reportDepth) != nil
}

// push queues a report, or drops it if it is too large or too deep or the queue is full.
func (r *reports) push(it *report) {
	it.pushed = time.Now()
	it.size = reportOverhead + len(it.function.id) + len(it.input) + len(it.output) + len(it.err) + len(it.caller) + len(it.metadata) + len(it.baggage)
	for _, o := range it.matched {
		it.size += len(o.ID) + 3
	}
	if it.echoes {
		it.size += len(it.input) // older engines receive the input twice
	}
	tooDeep := slices.ContainsFunc([]json.RawMessage{it.input, it.output, it.metadata}, nestsTooDeep)
	r.mu.Lock()
	grant := it.function.observers.grant.Load()
	switch {
	case r.closed || grant == nil:
		r.countDrop(it, dropInactive)
		r.mu.Unlock()
		return
	case it.size > min(maxReportBytes, maxReportFrame), tooDeep:
		r.countDrop(it, dropTooLarge)
		r.mu.Unlock()
		return
	case r.count >= maxReports || r.bytes+it.size > maxReportBytes:
		r.countDrop(it, dropBufferFull)
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

// wakeAt schedules a flush no later than t.
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

// countDrop counts a dropped report.
func (r *reports) countDrop(it *report, reason string) {
	r.total.Add(1)
	key := droppedReport{it.function.id, reason}
	if _, known := r.dropped[key]; !known && len(r.dropped) >= maxDropCounts {
		key.functionID = "*"
	}
	r.dropped[key]++
}

// drop drops the queued reports for a function that this worker no longer hosts.
func (r *reports) drop(f *Function) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.items = slices.DeleteFunc(r.items, func(it *report) bool {
		if it.function == f {
			r.discard(it, dropInactive)
		}
		return it.function == f
	})
	r.signalIdle()
}

func (r *reports) discard(it *report, reason string) {
	r.count--
	r.bytes -= it.size
	r.countDrop(it, reason)
}

// release is called when the engine has confirmed a function. It schedules a flush, because
// reports for the function may have been held back.
func (r *reports) release(*Function) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.items) > 0 {
		r.wakeAt(time.Now().Add(reportLinger))
	}
}

// attach starts sending reports on l, whose registrations are settled.
func (r *reports) attach(l *link) {
	r.mu.Lock()
	r.link, r.since, r.wake = l, time.Now(), time.Time{}
	some := len(r.items) > 0
	r.mu.Unlock()
	if some {
		r.flush()
	}
}

// detach stops sending reports on l.
func (r *reports) detach(l *link) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.link == l {
		r.link = nil
		r.signalIdle()
	}
}

// signalIdle closes idle if there is nothing left to send.
func (r *reports) signalIdle() {
	if r.idle != nil && (r.link == nil || len(r.inFlight) == 0 && !slices.ContainsFunc(r.items, r.ready)) {
		close(r.idle)
		r.idle = nil
	}
}

// ready reports whether a report may be sent on the current link.
func (r *reports) ready(it *report) bool { return it.function.observers.confirmed.Load() == r.link }

// flush sends a batch, unless another batch is in flight.
func (r *reports) flush() {
	r.mu.Lock()
	r.wake = time.Time{}
	if r.link == nil || r.inFlight != nil || r.closed {
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
		r.signalIdle()
		r.mu.Unlock()
		return
	}
	r.inFlight = batch
	r.mu.Unlock()
	b := newBuffer()
	b.p = l.dialect().appendReports(b.p, batch)
	if !r.client.out.pushNoWait(l, item{buf: b, settled: func(f frameFate) { r.landed(l, f) }}) {
		r.landed(l, frameKept)
	}
}

// landed completes the batch in flight. A batch that was not sent is queued for the next link.
// A batch that may have been sent in part is dropped.
func (r *reports) landed(l *link, fate frameFate) {
	r.mu.Lock()
	batch := r.inFlight
	r.inFlight = nil
	switch {
	case fate == frameKept && !r.closed:
		r.items = slices.Concat(batch, r.items)
		if r.link == l {
			r.link = nil // the link has ended
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
	r.signalIdle()
	r.mu.Unlock()
	if more {
		r.flush()
	}
}

// drain sends the remaining reports if possible. The returned channel is closed when there is
// nothing left to send.
func (r *reports) drain() <-chan struct{} {
	r.mu.Lock()
	idle := r.idle
	if idle == nil {
		idle = make(chan struct{})
		r.idle = idle
	}
	r.signalIdle()
	r.mu.Unlock()
	r.flush()
	return idle
}

// close drops the queued reports.
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
	r.signalIdle()
}

// touch records that a function has been called locally.
func (r *reports) touch(f *Function) { r.touched.Store(f, struct{}{}) }

// sendStats sends the number of local calls and the number of dropped reports since the last
// time. It sends nothing if both are zero.
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
		r.client.out.pushNoWait(l, r.client.item(l.dialect().localStats(window, calls, drops)))
	}
}

type localStats struct {
	count, errors atomic.Uint64
	nanos         atomic.Int64
}
