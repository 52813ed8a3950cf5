package iii

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iii-go/iii/internal/fifo"
	"github.com/iii-go/iii/internal/signal"
)

// The outbox is everything that waits to be written and every call that waits
// for its answer. Users' requests survive a link that dies before they were
// handed to it; replies, registrations and control frames belong to one link and
// die with it. One lock guards it all, and it is the innermost of the package:
// nothing else is locked, called or waited for under it.
type outbox struct {
	maxMessages, maxBytes int // of what waits, connected or not
	policy                SendPolicy

	mu      sync.Mutex
	link    *link  // the link that is written to, or nil
	gate    uint64 // number of the registry's fence that users' requests are held for
	opened  uint64 // number of the latest one that was answered
	ended   error  // set once: no request is accepted any more
	queue   fifo.Queue[item]
	bytes   int // in queue
	held    []item
	heldN   int // requests in held that were not given up
	heldB   int // their bytes
	pending map[invocationID]*request
	changed signal.Broadcast // room is made, or the link changes
	refused int              // held Sends that the link's dialect could not express
	refusal error

	free  sync.Pool // of requests: a client's own, for their channels belong to its synctest bubble
	stats outboxStats
}

type outboxStats struct {
	framesSent, bytesSent                   atomic.Uint64
	sendsConfirmed, sendsLost, sendsDropped atomic.Uint64
	heldDropped                             atomic.Uint64
	repliesDropped, lateResults             atomic.Uint64
}

func newOutbox(maxMessages, maxBytes int, policy SendPolicy) *outbox {
	return &outbox{maxMessages: maxMessages, maxBytes: maxBytes, policy: policy, pending: map[invocationID]*request{}}
}

// item is one frame to write.
type item struct {
	buf   *buffer  // nil for a request that was given up, and for control frames
	req   *request // the user's request that this is, if it is one
	send  bool     // it is a Send; an answered call's request may be in use again
	kind  frameKind
	fence func() // called when the pong to this JSON ping arrives

	settled func(frameFate) // called once for a frame that was queued, without the lock
}

// frameFate is what becomes of a frame that was queued.
type frameFate uint8

const (
	frameWritten frameFate = iota
	frameFailed            // it may have reached the engine
	frameKept              // it never left
)

// fence is a JSON ping that is out. The engine handles frames in order, so its
// pong says that it has read everything before it.
type fence struct {
	sends uint64 // the link's Sends before it
	done  func()
	taken time.Time
}

type frameKind uint8

const (
	frameText frameKind = iota
	frameJSONPing
	frameJSONPong
)

func (it item) size() int {
	switch {
	case it.req != nil:
		return it.req.size
	case it.buf == nil:
		return 0
	}
	return it.buf.Len()
}

// takeBytes bounds what the writer takes at once, and so what counts as
// "may have been sent" when the link dies under it.
const takeBytes = 256 << 10

// stuckBytes and stuckFrames are how far frames that nobody waits for may pile up
// before a peer that does not read loses the link.
const (
	stuckBytes  = 64 << 20
	stuckFrames = 1 << 20
)

// attach makes l the link that is written to. Users' requests need what was registered
// before them, so they are held until the registry's fence of this number is answered
// ([outbox.admit]).
func (o *outbox) attach(l *link, fence uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.link, o.gate, o.opened = l, fence, fence-1
}

// open reports whether the link takes users' requests; o.mu is held.
func (o *outbox) open() bool { return o.link != nil && o.opened >= o.gate }

// suspend holds the requests that come from now on until a later fence is answered.
func (o *outbox) suspend(l *link, fence uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.link == l {
		o.gate = max(o.gate, fence)
	}
}

// current is the link that is written to, or nil.
func (o *outbox) current() *link {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.link
}

// attached reports whether there is a link.
func (o *outbox) attached() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.link != nil
}

// admit queues the requests that are held until the fence of this number or an earlier one.
func (o *outbox) admit(l *link, fence uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.link != l || fence <= o.opened {
		return
	}
	o.opened = fence
	n := 0
	for ; n < len(o.held) && o.held[n].req.gate <= fence; n++ {
		it := o.held[n]
		if it.req.state == requestHeld {
			it.req.state = requestQueued
			o.heldN--
			o.heldB -= it.req.size
			o.push(it)
		}
	}
	o.held = slices.Delete(o.held, 0, n)
	o.changed.Send()
}

// oldestFence returns how long the oldest JSON ping on its way has waited for its pong, or 0.
func (o *outbox) oldestFence(l *link) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(l.fences) == 0 {
		return 0
	}
	return time.Since(l.fences[0].taken)
}

// push appends to the queue and wakes the writer.
func (o *outbox) push(it item) {
	o.queue.Push(it)
	o.bytes += it.size()
	o.link.Wake()
}

func (o *outbox) fits(size int) bool {
	waiting := o.queue.Len()
	return waiting == 0 || waiting < o.maxMessages && o.bytes+size <= o.maxBytes
}

// reply queues the answer to an invocation that came over l, and drops it if l
// is gone: the engine has failed the call, and takes no answer from another link.
func (o *outbox) reply(l *link, buf *buffer) {
	o.mu.Lock()
	for o.link == l && !o.fits(buf.Len()) {
		changed := o.changed.Wait()
		o.mu.Unlock()
		select {
		case <-changed:
		case <-l.Dead():
		}
		o.mu.Lock()
	}
	if o.link != l {
		o.mu.Unlock()
		buf.free()
		o.stats.repliesDropped.Add(1)
		return
	}
	o.push(item{buf: buf})
	o.mu.Unlock()
}

// urgent queues a frame that must not wait: from the read loop, and
// registrations. It reports whether l is still the link.
func (o *outbox) urgent(l *link, items ...item) bool {
	o.mu.Lock()
	if o.link != l {
		o.mu.Unlock()
		for _, it := range items {
			it.buf.free()
		}
		return false
	}
	for _, it := range items {
		o.push(it)
	}
	frames, size := o.queue.Len(), o.bytes
	o.mu.Unlock()
	if size-stuckBytes > o.maxBytes || frames-stuckFrames > o.maxMessages {
		l.Fail(fmt.Errorf("the engine does not read: %d messages of %d bytes wait", frames, size))
	}
	return true
}

// take moves frames from the queue to batch, for l's writer.
func (o *outbox) take(l *link, batch []item) []item {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.link != l {
		return batch
	}
	for size := 0; o.queue.Len() > 0 && size < takeBytes; {
		it := o.queue.Pop()
		if r := it.req; r != nil {
			if r.state != requestQueued {
				continue // given up
			}
			if err := l.dialect().checkCall(&r.inv, r.size); err != nil {
				o.refuse(it, err)
				continue
			}
			r.state, r.link = requestSent, l
		}
		if it.send {
			l.sendsTaken++
		}
		if it.fence != nil {
			l.fences = append(l.fences, fence{l.sendsTaken, it.fence, time.Now()})
		}
		size += it.size()
		o.bytes -= it.size()
		batch = append(batch, it)
	}
	o.changed.Send()
	return batch
}

// refuse fails a request that the dialect of the link cannot express; o.mu is held.
func (o *outbox) refuse(it item, err error) {
	r := it.req
	o.stats.heldDropped.Add(1)
	o.bytes -= r.size
	it.buf.free()
	delete(o.pending, r.id)
	r.state, r.buf = requestDone, nil
	if r.held && !r.wantsResult { // its caller was told nil
		o.stats.sendsDropped.Add(1)
		o.refused++
		o.refusal = err
		return
	}
	r.unsent = true
	r.finish(err)
}

// takeRefused returns how many held Sends were refused since it was last called, and why
// the latest was.
func (o *outbox) takeRefused() (n int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err = o.refused, o.refusal
	o.refused, o.refusal = 0, nil
	return n, err
}

// written settles a batch that l's writer has written, or failed to write: the
// buffers are free and its Sends are told. Of a batch that failed, the head may
// have reached the engine, and a pong may even have confirmed it.
func (o *outbox) written(l *link, batch []item, err error) {
	var sends, failed uint64
	for _, it := range batch {
		if it.send {
			sends++
		}
	}
	o.mu.Lock()
	n := l.sendsTaken - sends
	for _, it := range batch {
		if !it.send {
			continue
		}
		n++
		lost := err != nil && n > l.sendsConfirmed
		r := it.req
		state := r.state
		r.state = requestDone // before it is told: then r may be in use again
		switch {
		case state == requestDone: // its caller stopped waiting, with an error
			if lost {
				failed++
			}
		case r.held: // its caller was told nil; if lost, it is unconfirmed
		case lost:
			failed++
			r.finish(err)
		default:
			r.finish(nil)
		}
	}
	switch {
	case err != nil:
		l.sendsTaken -= failed
		l.fences = nil // what was told to have failed is not confirmed after all
	case sends > 0 && !l.confirming:
		o.confirmSends(l)
	}
	o.mu.Unlock()
	for i, it := range batch {
		if err == nil {
			o.stats.framesSent.Add(1)
			if it.buf != nil {
				o.stats.bytesSent.Add(uint64(it.buf.Len()))
			}
		}
		it.buf.free()
		if batch[i] = (item{}); it.settled != nil {
			it.settled(fateOf(err))
		}
	}
}

func fateOf(err error) frameFate {
	if err != nil {
		return frameFailed
	}
	return frameWritten
}

// confirmSends puts a fence behind the Sends written so far, one at a time.
func (o *outbox) confirmSends(l *link) {
	if o.link != l {
		return
	}
	l.confirming = true
	o.push(item{kind: frameJSONPing, fence: func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		if l.confirming = false; l.sendsTaken > l.sendsConfirmed {
			o.confirmSends(l)
		}
	}})
}

// pong answers the oldest fence that is out on l.
func (o *outbox) pong(l *link) {
	o.mu.Lock()
	if len(l.fences) == 0 {
		o.mu.Unlock()
		return
	}
	f := l.fences[0]
	l.fences = l.fences[1:]
	if f.sends > l.sendsConfirmed {
		o.stats.sendsConfirmed.Add(f.sends - l.sendsConfirmed)
		l.sendsConfirmed = f.sends
	}
	o.mu.Unlock()
	f.done()
}

// detach ends the use of l, whose writer has ended. What was handed to it fails
// with cause; requests that were not wait for the next link, in order. It returns
// the number of Sends that were written and never confirmed.
func (o *outbox) detach(l *link, cause error) (unconfirmed int) {
	o.mu.Lock()
	if o.link != l {
		o.mu.Unlock()
		return 0
	}
	o.link = nil
	waiting := o.held
	o.held, o.gate = nil, 0
	for _, it := range waiting {
		it.req.gate = 0 // the next link begins with all registrations
	}
	var kept []func(frameFate)
	for _, it := range o.queue.All() {
		switch r := it.req; {
		case r == nil:
			if it.buf.free(); it.settled != nil {
				kept = append(kept, it.settled)
			}
		case r.state == requestQueued:
			o.hold(r)
		}
	}
	o.held = append(o.held, waiting...)
	o.queue.Clear()
	o.bytes = 0
	var lost []*request
	for id, r := range o.pending {
		if r.state == requestSent && r.link == l {
			delete(o.pending, id)
			r.state = requestDone
			lost = append(lost, r)
		}
	}
	l.fences = nil
	unconfirmed = int(l.sendsTaken - l.sendsConfirmed)
	o.changed.Send()
	o.mu.Unlock()
	o.stats.sendsLost.Add(uint64(unconfirmed))
	for _, settled := range kept {
		settled(frameKept)
	}
	for _, r := range lost {
		r.finish(fmt.Errorf("%w: %w", ErrConnectionLost, cause))
	}
	return unconfirmed
}

// end refuses all requests from now on and fails those that wait; the link has
// been detached. It returns the number of held Sends that will never leave.
func (o *outbox) end(reason error) (dropped int) {
	o.mu.Lock()
	if o.ended != nil {
		o.mu.Unlock()
		return 0
	}
	o.ended = reason
	var failed []*request
	for _, it := range o.held {
		switch r := it.req; {
		case r.state != requestHeld:
		case r.wantsResult:
			delete(o.pending, r.id)
			r.state = requestDone
			failed = append(failed, r)
			it.buf.free()
		default:
			dropped++
			it.buf.free()
		}
	}
	o.held, o.heldN, o.heldB = nil, 0, 0
	o.changed.Send()
	o.mu.Unlock()
	o.stats.sendsDropped.Add(uint64(dropped))
	for _, r := range failed {
		r.unsent = true
		r.finish(fmt.Errorf("%w: %w", ErrNotConnected, reason))
	}
	return dropped
}

const (
	fenceTimeout = 2 * time.Second // for the pong that a shutdown waits for
	awayTimeout  = 5 * time.Second // for a connection that a shutdown waits for
)

// flush returns when the engine has read everything that was accepted before:
// the pong to a ping behind it has come. Without a link and with nothing that
// waits for one it returns at once. It does not wait longer than fenceTimeout for the
// pong, and than awayTimeout for a connection.
func (o *outbox) flush(ctx context.Context) error {
	away := time.NewTimer(awayTimeout)
	defer away.Stop()
	for {
		o.mu.Lock()
		var dead <-chan struct{}
		var late <-chan time.Time
		done := make(chan struct{})
		switch {
		case o.ended != nil, o.link == nil && o.heldN == 0:
			o.mu.Unlock()
			return nil
		case o.open():
			dead = o.link.Dead()
			o.push(item{kind: frameJSONPing, fence: func() { close(done) }})
			late = time.After(fenceTimeout)
		}
		changed := o.changed.Wait()
		expired := away.C
		if o.open() {
			changed, expired = nil, nil
		}
		o.mu.Unlock()
		select {
		case <-done:
			return nil
		case <-dead:
			// detach comes next, and changes the state that the loop looks at.
			select {
			case <-o.detached():
			case <-ctx.Done():
				return ctxError(ctx)
			}
		case <-changed:
		case <-late:
			return fmt.Errorf("the engine did not confirm the messages before the shutdown within %v: %w", fenceTimeout, context.DeadlineExceeded)
		case <-expired:
			return fmt.Errorf("no connection within %v for the messages that wait: %w", awayTimeout, context.DeadlineExceeded)
		case <-ctx.Done():
			return ctxError(ctx)
		}
	}
}

// detached returns a channel that is closed once no dead link is attached.
func (o *outbox) detached() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.link == nil || !o.link.IsDead() {
		ready := make(chan struct{})
		close(ready)
		return ready
	}
	return o.changed.Wait()
}

func (o *outbox) counts() (pending, held, heldBytes int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.pending), o.heldN, o.heldB
}

type requestState uint8

const (
	requestNew requestState = iota
	requestHeld
	requestQueued
	requestSent // handed to the writer: it may reach the engine
	requestDone // answered, failed or given up
)

// request is a call or a Send on its way.
type request struct {
	id          invocationID
	wantsResult bool
	held        bool         // a Send that was told nil because it is held, and is not told again
	state       requestState // guarded by outbox.mu, like held, link and gate
	link        *link
	gate        uint64 // number of the fence that it is held for
	inv         invocation
	buf         *buffer // as encodeCall has written it; of a local call, the answer
	local       bool    // it never was in the outbox, and the state is of no meaning
	in          *incoming
	size        int // of the message

	answer chan struct{} // capacity 1: a receive means that the fields below are set
	result []byte        // raw, in memory that is used again
	remote []byte        // raw error body
	err    error
	unsent bool // with err: the request never left
	timer  *time.Timer
}

// newRequest makes a request whose timer runs.
func (o *outbox) newRequest(wantsResult bool, timeout time.Duration) *request {
	r, ok := o.free.Get().(*request)
	if !ok {
		r = &request{answer: make(chan struct{}, 1), timer: time.NewTimer(timeout)}
	} else {
		r.timer.Reset(timeout)
	}
	r.wantsResult = wantsResult
	return r
}

// release gives a request back that was answered, or never submitted: nothing
// refers to it any more.
func (o *outbox) release(r *request) {
	r.timer.Stop()
	if r.held && !r.wantsResult {
		return // it may still wait for a connection
	}
	if cap(r.result) > maxPooledBuffer || cap(r.remote) > maxPooledBuffer {
		return
	}
	*r = request{answer: r.answer, timer: r.timer, result: r.result[:0], remote: r.remote[:0]}
	o.free.Put(r)
}

func (r *request) finish(err error) {
	r.err = err
	r.answer <- struct{}{}
}

// submit accepts r. Not connected, it is held or refused at once; connected, it
// waits for room until ctx ends or timeout fires. On an error r was not accepted.
func (o *outbox) submit(ctx context.Context, timeout <-chan time.Time, r *request) error {
	r.size = sealedSize(r.buf, &r.inv)
	o.mu.Lock()
	for {
		if o.ended != nil {
			err := o.ended
			o.mu.Unlock()
			return err
		}
		full := o.heldN >= o.maxMessages || o.heldB+r.size > o.maxBytes
		switch {
		case o.open():
		case !full:
			o.hold(r)
		case o.policy == SendWait && r.size <= o.maxBytes && o.maxMessages > 0:
		case o.link == nil || !o.link.isApplied():
			o.mu.Unlock()
			return ErrBufferFull
		}
		if r.state == requestHeld {
			break
		}
		if o.open() && o.fits(r.size) {
			r.state = requestQueued
			o.push(item{buf: r.buf, req: r, send: !r.wantsResult})
			break
		}
		changed := o.changed.Wait()
		o.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrNotConnected, ctxError(ctx))
		case <-timeout:
			return fmt.Errorf("%w: %w", ErrNotConnected, ErrTimeout)
		}
		o.mu.Lock()
	}
	if r.wantsResult {
		o.pending[r.id] = r
	}
	o.mu.Unlock()
	return nil
}

// hold keeps r for the next link. A Send is accepted by that.
func (o *outbox) hold(r *request) {
	r.gate = o.gate
	if r.state = requestHeld; !r.wantsResult && !r.held {
		r.held = true
		r.finish(nil)
	}
	o.held = append(o.held, item{buf: r.buf, req: r, send: !r.wantsResult})
	o.heldN++
	o.heldB += r.size
}

// giveUp withdraws r, whose caller stops waiting. done says that r has been
// answered already (its answer channel has, or is about to have, the outcome),
// sent that it may have reached the engine.
func (o *outbox) giveUp(r *request) (done, sent bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch r.state {
	case requestDone:
		return true, true
	case requestSent:
		if !r.wantsResult {
			r.state = requestDone // the writer sees that nobody waits
			return false, true
		}
		if _, waiting := o.pending[r.id]; !waiting {
			return true, true
		}
		sent = true
	case requestHeld:
		if !r.wantsResult {
			return true, false // it was told so already
		}
		o.heldN--
		o.heldB -= r.size
		r.buf.free()
		o.changed.Send() // to flush, and to those who wait for room
		if len(o.held) > 2*o.heldN+64 {
			o.compactHeld()
		}
	case requestQueued:
		o.bytes -= r.size
		r.buf.free()
		o.changed.Send()
	}
	r.state, r.buf = requestDone, nil
	delete(o.pending, r.id)
	return false, sent
}

func (o *outbox) compactHeld() {
	kept := o.held[:0]
	for _, it := range o.held {
		if it.req.state == requestHeld {
			kept = append(kept, it)
		}
	}
	clear(o.held[len(kept):])
	o.held = kept
}

// complete gives the answer that came over l to the call that waits for it. It
// reports false for an answer that nobody waits for any more.
func (o *outbox) complete(l *link, m *received) bool {
	id, ok := parseInvocationID(m.id)
	if !ok {
		return false
	}
	o.mu.Lock()
	r := o.pending[id]
	if r == nil || r.link != l {
		o.mu.Unlock()
		return false
	}
	delete(o.pending, id)
	r.state = requestDone
	o.mu.Unlock()
	r.result = append(r.result[:0], m.result...)
	r.remote = append(r.remote[:0], m.err...)
	r.finish(nil)
	return true
}
