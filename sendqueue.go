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

// The send queue is everything that waits to be written and every call that waits
// for its answer. Users' requests survive a link that dies before they were
// handed to it; replies, registrations and control frames belong to one link and
// die with it. One lock guards it all, and it is the innermost of the package:
// nothing else is locked, called or waited for under it.
type sendQueue struct {
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
	stats sendQueueStats
}

type sendQueueStats struct {
	framesSent, bytesSent                   atomic.Uint64
	sendsConfirmed, sendsLost, sendsDropped atomic.Uint64
	heldDropped                             atomic.Uint64
	repliesDropped, lateResults             atomic.Uint64
}

func newSendQueue(maxMessages, maxBytes int, policy SendPolicy) *sendQueue {
	return &sendQueue{maxMessages: maxMessages, maxBytes: maxBytes, policy: policy, pending: map[invocationID]*request{}}
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
// ([sendQueue.resume]).
func (q *sendQueue) attach(l *link, fence uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.link, q.gate, q.opened = l, fence, fence-1
}

// open reports whether the link takes users' requests; q.mu is held.
func (q *sendQueue) open() bool { return q.link != nil && q.opened >= q.gate }

// suspend holds the requests that come from now on until a later fence is answered.
func (q *sendQueue) suspend(l *link, fence uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.link == l {
		q.gate = max(q.gate, fence)
	}
}

// current is the link that is written to, or nil.
func (q *sendQueue) current() *link {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.link
}

// attached reports whether there is a link.
func (q *sendQueue) attached() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.link != nil
}

// resume queues the requests that are held until the fence of this number or an earlier one.
func (q *sendQueue) resume(l *link, fence uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.link != l || fence <= q.opened {
		return
	}
	q.opened = fence
	n := 0
	for ; n < len(q.held) && q.held[n].req.gate <= fence; n++ {
		it := q.held[n]
		if it.req.state == requestHeld {
			it.req.state = requestQueued
			q.heldN--
			q.heldB -= it.req.size
			q.push(it)
		}
	}
	q.held = slices.Delete(q.held, 0, n)
	q.changed.Send()
}

// oldestFence returns how long the oldest JSON ping on its way has waited for its pong, or 0.
func (q *sendQueue) oldestFence(l *link) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(l.fences) == 0 {
		return 0
	}
	return time.Since(l.fences[0].taken)
}

// push appends to the queue and wakes the writer.
func (q *sendQueue) push(it item) {
	q.queue.Push(it)
	q.bytes += it.size()
	q.link.Wake()
}

func (q *sendQueue) fits(size int) bool {
	waiting := q.queue.Len()
	return waiting == 0 || waiting < q.maxMessages && q.bytes+size <= q.maxBytes
}

// reply queues the answer to an invocation that came over l, and drops it if l
// is gone: the engine has failed the call, and takes no answer from another link.
func (q *sendQueue) reply(l *link, buf *buffer) {
	q.mu.Lock()
	for q.link == l && !q.fits(buf.Len()) {
		changed := q.changed.Wait()
		q.mu.Unlock()
		select {
		case <-changed:
		case <-l.Dead():
		}
		q.mu.Lock()
	}
	if q.link != l {
		q.mu.Unlock()
		buf.free()
		q.stats.repliesDropped.Add(1)
		return
	}
	q.push(item{buf: buf})
	q.mu.Unlock()
}

// pushNoWait queues a frame that must not wait: from the read loop, and
// registrations. It reports whether l is still the link.
func (q *sendQueue) pushNoWait(l *link, items ...item) bool {
	q.mu.Lock()
	if q.link != l {
		q.mu.Unlock()
		for _, it := range items {
			it.buf.free()
		}
		return false
	}
	for _, it := range items {
		q.push(it)
	}
	frames, size := q.queue.Len(), q.bytes
	q.mu.Unlock()
	if size-stuckBytes > q.maxBytes || frames-stuckFrames > q.maxMessages {
		l.Fail(fmt.Errorf("the engine does not read: %d messages of %d bytes wait", frames, size))
	}
	return true
}

// take moves frames from the queue to batch, for l's writer.
func (q *sendQueue) take(l *link, batch []item) []item {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.link != l {
		return batch
	}
	for size := 0; q.queue.Len() > 0 && size < takeBytes; {
		it := q.queue.Pop()
		if r := it.req; r != nil {
			if r.state != requestQueued {
				continue // given up
			}
			if err := l.dialect().checkCall(&r.inv, r.size); err != nil {
				q.refuse(it, err)
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
		q.bytes -= it.size()
		batch = append(batch, it)
	}
	q.changed.Send()
	return batch
}

// refuse fails a request that the dialect of the link cannot express; q.mu is held.
func (q *sendQueue) refuse(it item, err error) {
	r := it.req
	q.stats.heldDropped.Add(1)
	q.bytes -= r.size
	it.buf.free()
	delete(q.pending, r.id)
	r.state, r.buf = requestDone, nil
	if r.held && !r.wantsResult { // its caller was told nil
		q.stats.sendsDropped.Add(1)
		q.refused++
		q.refusal = err
		return
	}
	r.unsent = true
	r.resolve(err)
}

// takeRefused returns how many held Sends were refused since it was last called, and why
// the latest was.
func (q *sendQueue) takeRefused() (n int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, err = q.refused, q.refusal
	q.refused, q.refusal = 0, nil
	return n, err
}

// written settles a batch that l's writer has written, or failed to write: the
// buffers are free and its Sends are told. Of a batch that failed, the head may
// have reached the engine, and a pong may even have confirmed it.
func (q *sendQueue) written(l *link, batch []item, err error) {
	var sends, failed uint64
	for _, it := range batch {
		if it.send {
			sends++
		}
	}
	q.mu.Lock()
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
			r.resolve(err)
		default:
			r.resolve(nil)
		}
	}
	switch {
	case err != nil:
		l.sendsTaken -= failed
		l.fences = nil // what was told to have failed is not confirmed after all
	case sends > 0 && !l.confirming:
		q.confirmSends(l)
	}
	q.mu.Unlock()
	for i, it := range batch {
		if err == nil {
			q.stats.framesSent.Add(1)
			if it.buf != nil {
				q.stats.bytesSent.Add(uint64(it.buf.Len()))
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
func (q *sendQueue) confirmSends(l *link) {
	if q.link != l {
		return
	}
	l.confirming = true
	q.push(item{kind: frameJSONPing, fence: func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if l.confirming = false; l.sendsTaken > l.sendsConfirmed {
			q.confirmSends(l)
		}
	}})
}

// pong answers the oldest fence that is out on l.
func (q *sendQueue) pong(l *link) {
	q.mu.Lock()
	if len(l.fences) == 0 {
		q.mu.Unlock()
		return
	}
	f := l.fences[0]
	l.fences = l.fences[1:]
	if f.sends > l.sendsConfirmed {
		q.stats.sendsConfirmed.Add(f.sends - l.sendsConfirmed)
		l.sendsConfirmed = f.sends
	}
	q.mu.Unlock()
	f.done()
}

// detach ends the use of l, whose writer has ended. What was handed to it fails
// with cause; requests that were not wait for the next link, in order. It returns
// the number of Sends that were written and never confirmed.
func (q *sendQueue) detach(l *link, cause error) (unconfirmed int) {
	q.mu.Lock()
	if q.link != l {
		q.mu.Unlock()
		return 0
	}
	q.link = nil
	waiting := q.held
	q.held, q.gate = nil, 0
	for _, it := range waiting {
		it.req.gate = 0 // the next link begins with all registrations
	}
	var kept []func(frameFate)
	for _, it := range q.queue.All() {
		switch r := it.req; {
		case r == nil:
			if it.buf.free(); it.settled != nil {
				kept = append(kept, it.settled)
			}
		case r.state == requestQueued:
			q.hold(r)
		}
	}
	q.held = append(q.held, waiting...)
	q.queue.Clear()
	q.bytes = 0
	var lost []*request
	for id, r := range q.pending {
		if r.state == requestSent && r.link == l {
			delete(q.pending, id)
			r.state = requestDone
			lost = append(lost, r)
		}
	}
	l.fences = nil
	unconfirmed = int(l.sendsTaken - l.sendsConfirmed)
	q.changed.Send()
	q.mu.Unlock()
	q.stats.sendsLost.Add(uint64(unconfirmed))
	for _, settled := range kept {
		settled(frameKept)
	}
	for _, r := range lost {
		r.resolve(fmt.Errorf("%w: %w", ErrConnectionLost, cause))
	}
	return unconfirmed
}

// close refuses all requests from now on and fails those that wait; the link has
// been detached. It returns the number of held Sends that will never leave.
func (q *sendQueue) close(reason error) (dropped int) {
	q.mu.Lock()
	if q.ended != nil {
		q.mu.Unlock()
		return 0
	}
	q.ended = reason
	var failed []*request
	for _, it := range q.held {
		switch r := it.req; {
		case r.state != requestHeld:
		case r.wantsResult:
			delete(q.pending, r.id)
			r.state = requestDone
			failed = append(failed, r)
			it.buf.free()
		default:
			dropped++
			it.buf.free()
		}
	}
	q.held, q.heldN, q.heldB = nil, 0, 0
	q.changed.Send()
	q.mu.Unlock()
	q.stats.sendsDropped.Add(uint64(dropped))
	for _, r := range failed {
		r.unsent = true
		r.resolve(fmt.Errorf("%w: %w", ErrNotConnected, reason))
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
func (q *sendQueue) flush(ctx context.Context) error {
	away := time.NewTimer(awayTimeout)
	defer away.Stop()
	for {
		q.mu.Lock()
		var dead <-chan struct{}
		var late <-chan time.Time
		done := make(chan struct{})
		switch {
		case q.ended != nil, q.link == nil && q.heldN == 0:
			q.mu.Unlock()
			return nil
		case q.open():
			dead = q.link.Dead()
			q.push(item{kind: frameJSONPing, fence: func() { close(done) }})
			late = time.After(fenceTimeout)
		}
		changed := q.changed.Wait()
		expired := away.C
		if q.open() {
			changed, expired = nil, nil
		}
		q.mu.Unlock()
		select {
		case <-done:
			return nil
		case <-dead:
			// detach comes next, and changes the state that the loop looks at.
			select {
			case <-q.detached():
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
func (q *sendQueue) detached() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.link == nil || !q.link.IsDead() {
		ready := make(chan struct{})
		close(ready)
		return ready
	}
	return q.changed.Wait()
}

func (q *sendQueue) counts() (pending, held, heldBytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.pending), q.heldN, q.heldB
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
	state       requestState // guarded by sendQueue.mu, like held, link and gate
	link        *link
	gate        uint64 // number of the fence that it is held for
	inv         invocation
	buf         *buffer // as encodeCall has written it; of a local call, the answer
	local       bool    // it never was in the send queue, and the state is of no meaning
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
func (q *sendQueue) newRequest(wantsResult bool, timeout time.Duration) *request {
	r, ok := q.free.Get().(*request)
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
func (q *sendQueue) release(r *request) {
	r.timer.Stop()
	if r.held && !r.wantsResult {
		return // it may still wait for a connection
	}
	if cap(r.result) > maxPooledBuffer || cap(r.remote) > maxPooledBuffer {
		return
	}
	*r = request{answer: r.answer, timer: r.timer, result: r.result[:0], remote: r.remote[:0]}
	q.free.Put(r)
}

func (r *request) resolve(err error) {
	r.err = err
	r.answer <- struct{}{}
}

// submit accepts r. Not connected, it is held or refused at once; connected, it
// waits for room until ctx ends or timeout fires. On an error r was not accepted.
func (q *sendQueue) submit(ctx context.Context, timeout <-chan time.Time, r *request) error {
	r.size = sealedSize(r.buf, &r.inv)
	q.mu.Lock()
	for {
		if q.ended != nil {
			err := q.ended
			q.mu.Unlock()
			return err
		}
		full := q.heldN >= q.maxMessages || q.heldB+r.size > q.maxBytes
		switch {
		case q.open():
		case !full:
			q.hold(r)
		case q.policy == SendWait && r.size <= q.maxBytes && q.maxMessages > 0:
		case q.link == nil || !q.link.isApplied():
			q.mu.Unlock()
			return ErrBufferFull
		}
		if r.state == requestHeld {
			break
		}
		if q.open() && q.fits(r.size) {
			r.state = requestQueued
			q.push(item{buf: r.buf, req: r, send: !r.wantsResult})
			break
		}
		changed := q.changed.Wait()
		q.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrNotConnected, ctxError(ctx))
		case <-timeout:
			return fmt.Errorf("%w: %w", ErrNotConnected, ErrTimeout)
		}
		q.mu.Lock()
	}
	if r.wantsResult {
		q.pending[r.id] = r
	}
	q.mu.Unlock()
	return nil
}

// hold keeps r for the next link. A Send is accepted by that.
func (q *sendQueue) hold(r *request) {
	r.gate = q.gate
	if r.state = requestHeld; !r.wantsResult && !r.held {
		r.held = true
		r.resolve(nil)
	}
	q.held = append(q.held, item{buf: r.buf, req: r, send: !r.wantsResult})
	q.heldN++
	q.heldB += r.size
}

// giveUp withdraws r, whose caller stops waiting. done says that r has been
// answered already (its answer channel has, or is about to have, the outcome),
// sent that it may have reached the engine.
func (q *sendQueue) giveUp(r *request) (done, sent bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch r.state {
	case requestDone:
		return true, true
	case requestSent:
		if !r.wantsResult {
			r.state = requestDone // the writer sees that nobody waits
			return false, true
		}
		if _, waiting := q.pending[r.id]; !waiting {
			return true, true
		}
		sent = true
	case requestHeld:
		if !r.wantsResult {
			return true, false // it was told so already
		}
		q.heldN--
		q.heldB -= r.size
		r.buf.free()
		q.changed.Send() // to flush, and to those who wait for room
		if len(q.held) > 2*q.heldN+64 {
			q.compactHeld()
		}
	case requestQueued:
		q.bytes -= r.size
		r.buf.free()
		q.changed.Send()
	}
	r.state, r.buf = requestDone, nil
	delete(q.pending, r.id)
	return false, sent
}

func (q *sendQueue) compactHeld() {
	kept := q.held[:0]
	for _, it := range q.held {
		if it.req.state == requestHeld {
			kept = append(kept, it)
		}
	}
	clear(q.held[len(kept):])
	q.held = kept
}

// complete gives the answer that came over l to the call that waits for it. It
// reports false for an answer that nobody waits for any more.
func (q *sendQueue) complete(l *link, m *received) bool {
	id, ok := parseInvocationID(m.id)
	if !ok {
		return false
	}
	q.mu.Lock()
	r := q.pending[id]
	if r == nil || r.link != l {
		q.mu.Unlock()
		return false
	}
	delete(q.pending, id)
	r.state = requestDone
	q.mu.Unlock()
	r.result = append(r.result[:0], m.result...)
	r.remote = append(r.remote[:0], m.err...)
	r.resolve(nil)
	return true
}
