package iii

import (
	"container/list"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iii-go/iii/internal/fifo"
	"github.com/iii-go/iii/internal/signal"
)

// sendQueue holds the frames to be written and the calls that are waiting for a response. If a
// link fails before a user's request is handed to it, the request is kept for the next link.
// Replies, registrations and control frames belong to one link and are dropped with it. A
// single lock guards the queue. It is the package's innermost lock: while it is held, code
// must not take other locks, call other components or wait.
type sendQueue struct {
	maxMessages, maxBytes int // limits of the queue, and of the held requests
	policy                SendPolicy

	mu      sync.Mutex
	link    *link  // the current link, or nil
	gate    uint64 // fence of the registry that user requests wait for
	opened  uint64 // latest answered fence
	ended   error  // set once the client ends; all later requests then fail
	queue   fifo.Queue[item]
	bytes   int // in queue
	held    []item
	heldN   int // requests in held, except those given up
	heldB   int // size of these requests in bytes
	pending map[invocationID]*request
	waiting list.List        // of *request and *waitingReply, for room in queue, in order
	parked  list.List        // of *request, for room in held or for the gate to open, in order
	changed signal.Broadcast // sent when the link or the held requests change
	refused int              // held Sends that the link's dialect could not express
	refusal error

	free  sync.Pool // of requests; not global, because a channel must stay within the client's synctest bubble
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

type item struct {
	buf   *buffer  // nil for control frames and for requests that were given up
	req   *request // the user's request, if the frame contains one
	send  bool     // the request is a Send; stored here because the request of a completed call may be reused
	reply bool     // the frame is a reply to an invocation
	kind  frameKind
	fence func() // called when the pong to this JSON ping arrives

	settled func(frameFate) // called once for a queued frame, without the lock
}

type frameFate uint8

const (
	frameWritten frameFate = iota
	frameFailed            // it may have reached the engine
	frameKept              // it was not written
)

// fence is an unanswered JSON ping. The engine handles frames in order, so the pong confirms
// that the engine has read everything sent before the ping.
type fence struct {
	sends uint64 // number of Sends on the link before the ping
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
	return it.buf.len()
}

// takeBytes limits the number of bytes that the writer takes at once. If a write fails, the
// engine may have received up to this many bytes.
const takeBytes = 256 << 10

// Frames that are queued without waiting may exceed the queue's limits by at most stuckBytes
// and stuckFrames. If even more frames are queued, the peer is evidently not reading, and the
// link is closed.
const (
	stuckBytes  = 64 << 20
	stuckFrames = 1 << 20
)

// attach makes l the current link. User requests depend on earlier registrations, so they are
// held until the registry's fence with the given number is answered; see [sendQueue.resume].
func (q *sendQueue) attach(l *link, fence uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.link, q.gate, q.opened = l, fence, fence-1
}

// open reports whether user requests can be queued. The caller holds q.mu.
func (q *sendQueue) open() bool { return q.link != nil && q.opened >= q.gate }

// suspend holds new requests until the given fence is answered.
func (q *sendQueue) suspend(l *link, fence uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.link == l {
		q.gate = max(q.gate, fence)
	}
}

func (q *sendQueue) current() *link {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.link
}

func (q *sendQueue) attached() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.link != nil
}

// resume queues the requests held for the given fence or an earlier one.
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
	q.unpark()
	q.changed.Send()
}

// oldestFence returns how long the oldest unanswered JSON ping has been outstanding. It
// returns 0 if there is none.
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
	n := q.queue.Len()
	return n == 0 || n < q.maxMessages && q.bytes+size <= q.maxBytes
}

// accept appends a request to the queue. The caller holds q.mu.
func (q *sendQueue) accept(r *request) {
	if r.state = requestQueued; r.wantsResult {
		q.pending[r.id] = r
	}
	if r.lateTimeout > 0 {
		r.timer.Reset(r.lateTimeout)
	}
	q.push(r.item())
}

// admit moves waiting frames to the queue while there is room. A request's caller is not woken,
// because it only waits for the answer. The caller holds q.mu.
func (q *sendQueue) admit() {
	for e := q.waiting.Front(); e != nil; e = q.waiting.Front() {
		switch w := e.Value.(type) {
		case *request:
			if !q.fits(w.size) {
				return
			}
			q.waiting.Remove(e)
			q.accept(w)
		case *waitingReply:
			if !q.fits(w.buf.len()) {
				return
			}
			q.waiting.Remove(e)
			w.over = true
			q.push(item{buf: w.buf, reply: true})
			close(w.admitted)
		}
	}
}

// waitingReply is a reply that waits for room in the queue. Its fields are guarded by
// sendQueue.mu.
type waitingReply struct {
	buf      *buffer
	place    *list.Element // in waiting
	over     bool          // in the queue
	admitted chan struct{} // closed once the reply is in the queue
}

// reply queues the reply to an invocation that arrived over l. If there is no room, reply waits
// for it. If l is no longer the current link, the reply is dropped: the engine has already
// failed the call and does not accept a reply over another link.
func (q *sendQueue) reply(l *link, buf *buffer) {
	q.mu.Lock()
	sent := q.link == l
	switch {
	case !sent:
	case q.waiting.Len() == 0 && q.fits(buf.len()):
		q.push(item{buf: buf, reply: true})
	default:
		w := &waitingReply{buf: buf, admitted: make(chan struct{})}
		w.place = q.waiting.PushBack(w)
		q.mu.Unlock()
		select {
		case <-w.admitted:
		case <-l.Dead():
		}
		q.mu.Lock()
		if sent = w.over; !sent {
			q.waiting.Remove(w.place) // has no effect if detach has removed it
			q.admit()                 // w may have been the first
		}
	}
	q.mu.Unlock()
	if !sent {
		buf.free()
		q.stats.repliesDropped.Add(1)
	}
}

// pushNoWait queues registrations, and frames sent by the read loop, without waiting. It
// reports whether l is still the current link.
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
	q.admit()
	return batch
}

// refuse fails a request that the link's dialect cannot express. The caller holds q.mu.
func (q *sendQueue) refuse(it item, err error) {
	r := it.req
	q.stats.heldDropped.Add(1)
	q.bytes -= r.size
	it.buf.free()
	delete(q.pending, r.id)
	r.state, r.buf = requestDone, nil
	if r.held && !r.wantsResult { // its caller has received nil
		q.stats.sendsDropped.Add(1)
		q.refused++
		q.refusal = err
		return
	}
	r.unsent = true
	r.resolve(err)
}

// takeRefused returns the number of held Sends that have been refused since the previous call,
// and the reason for the latest refusal.
func (q *sendQueue) takeRefused() (n int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, err = q.refused, q.refusal
	q.refused, q.refusal = 0, nil
	return n, err
}

// written completes a batch that l's writer has written or failed to write. It frees the
// buffers and resolves the Sends. After a failed write, the engine may still have received the
// first frames of the batch, and a pong may even have confirmed them.
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
		r.state = requestDone // before resolve, after which r may be reused
		switch {
		case state == requestDone: // its caller stopped waiting, with an error
			if lost {
				failed++
			}
		case r.held: // its caller has received nil; if lost, it counts as unconfirmed
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
		l.fences = nil // Sends reported as failed must not be confirmed later
	case sends > 0 && !l.confirming:
		q.confirmSends(l)
	}
	q.mu.Unlock()
	for i, it := range batch {
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

// confirmSends sends a fence after the Sends written so far. At most one such fence is
// outstanding at a time.
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

// pong handles the pong to the oldest fence on l.
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

// detach removes the current link after its writer has stopped. Requests that were handed to l
// fail with cause. Other requests wait for the next link, in order. detach returns the number
// of Sends that were written but not confirmed.
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
		it.req.gate = 0 // the next link starts with all registrations
	}
	var kept []func(frameFate)
	for _, it := range q.queue.All() {
		switch r := it.req; {
		case r == nil:
			if it.reply {
				q.stats.repliesDropped.Add(1)
			}
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
	q.park()
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

// end rejects further requests with reason. From now on, requests that wait for room when their
// link is lost fail, too. The first call sets the reason.
func (q *sendQueue) end(reason error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended == nil {
		q.ended = reason
	}
}

// close fails the requests that wait for a connection. It returns the number of held Sends that
// were dropped. The link must already be detached, and end must have been called.
func (q *sendQueue) close() (dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, it := range q.held {
		switch r := it.req; {
		case r.state != requestHeld:
		case r.wantsResult:
			delete(q.pending, r.id)
			q.fail(r, q.closedError())
		default:
			dropped++
			it.buf.free()
		}
	}
	q.held, q.heldN, q.heldB = nil, 0, 0
	for e := q.parked.Front(); e != nil; e = q.parked.Front() {
		q.fail(q.parked.Remove(e).(*request), q.closedError())
	}
	q.changed.Send()
	q.stats.sendsDropped.Add(uint64(dropped))
	return dropped
}

// closedError returns the error for requests that were made, but not sent, before the client was
// closed.
func (q *sendQueue) closedError() error { return fmt.Errorf("%w: %w", ErrNotConnected, q.ended) }

const (
	fenceTimeout = 2 * time.Second // how long a shutdown waits for the pong
	awayTimeout  = 5 * time.Second // how long a shutdown waits for a connection
)

// flush waits until the engine has read every request accepted before the call, as confirmed
// by the pong to a later ping. It waits at most fenceTimeout for the pong and awayTimeout for
// a connection. If there is neither a held request nor a link that carries requests, it returns
// immediately.
func (q *sendQueue) flush(ctx context.Context) error {
	away := time.NewTimer(awayTimeout)
	defer away.Stop()
	for {
		q.mu.Lock()
		var dead <-chan struct{}
		var late <-chan time.Time
		done := make(chan struct{})
		switch {
		case !q.open() && !q.isServing() && q.heldN == 0:
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
			// The link is dead. Check again after it has been detached.
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

// isServing reports whether there is a link whose engine has processed the registrations.
// Requests are sent earlier: as soon as the functions are registered, but not necessarily the
// triggers. The caller holds q.mu.
func (q *sendQueue) isServing() bool { return q.link != nil && q.link.isApplied() }

// serving is isServing for callers that do not hold q.mu.
func (q *sendQueue) serving() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.isServing()
}

// detached returns a channel that is closed once the current link has been detached, or
// immediately if that link is not dead.
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

// undelivered returns the number of accepted Sends so far that were lost with their link or
// never sent.
func (q *sendQueue) undelivered() uint64 {
	return q.stats.sendsLost.Load() + q.stats.sendsDropped.Load()
}

// counts returns the number of calls that wait for their result or for room, and the size of
// the buffer.
func (q *sendQueue) counts() (calls, held, heldBytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	calls = len(q.pending)
	for _, l := range []*list.List{&q.waiting, &q.parked} {
		for e := l.Front(); e != nil; e = e.Next() {
			if r, ok := e.Value.(*request); ok && r.wantsResult {
				calls++
			}
		}
	}
	return calls, q.heldN, q.heldB
}

type requestState uint8

const (
	requestNew     requestState = iota
	requestWaiting              // in waiting or parked
	requestHeld
	requestQueued
	requestSent // handed to the writer; the engine may receive it
	requestDone // answered, failed or given up
)

// request is a pending call or Send.
type request struct {
	id          invocationID
	wantsResult bool
	held        bool         // a held Send: its caller has received nil, so it is not resolved again
	state       requestState // guarded by sendQueue.mu, as are held, link and gate
	link        *link
	gate        uint64 // fence that must be answered before the request is sent
	inv         invocation
	buf         *buffer // written by encodeCall; for a local call, the response
	local       bool    // runs in this process: never in the send queue, and state is unused
	in          *incoming
	size        int           // message size
	place       *list.Element // in sendQueue.waiting or parked; guarded by sendQueue.mu
	lateTimeout time.Duration // if positive, the timer starts once the request is in the queue

	answer chan struct{} // capacity 1; after a receive, the fields below are set
	result []byte        // raw JSON, in reused memory
	remote []byte        // raw error body
	err    error
	unsent bool // set with err: the request was never sent
	timer  *time.Timer
}

// newRequest returns a request with a running timer.
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

// release returns a request to the pool. The request must have been answered or never
// submitted, and nothing else may refer to it.
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

// item returns the queue's entry for a request.
func (r *request) item() item { return item{buf: r.buf, req: r, send: !r.wantsResult} }

// submit queues r, or holds it while the client is disconnected. If there is no room, r waits
// for it. While the client is disconnected, r waits only if the policy is SendWait. If submit
// returns an error, r was not accepted. submit itself does not wait.
func (q *sendQueue) submit(r *request) error {
	r.size = sealedSize(r.buf, &r.inv)
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.ended != nil:
		return q.ended
	case !q.open():
		if q.parked.Len() == 0 && q.holds(r) {
			q.hold(r)
			return nil
		}
		if !q.mayPark(r) {
			return ErrBufferFull
		}
		r.state, r.place = requestWaiting, q.parked.PushBack(r)
	case q.waiting.Len() == 0 && q.fits(r.size):
		q.accept(r)
	default:
		r.state, r.place = requestWaiting, q.waiting.PushBack(r)
	}
	return nil
}

// holds reports whether held has room for r.
func (q *sendQueue) holds(r *request) bool {
	return q.heldN < q.maxMessages && q.heldB+r.size <= q.maxBytes
}

// mayPark reports whether r may wait for room in held, or for the gate if the engine has already
// processed the registrations.
func (q *sendQueue) mayPark(r *request) bool {
	return q.isServing() || q.policy == SendWait && r.size <= q.maxBytes && q.maxMessages > 0
}

// unpark lets parked requests go on: to the queue if the gate is open, or to held while there
// is room. The caller holds q.mu.
func (q *sendQueue) unpark() {
	open := q.open()
	for e := q.parked.Front(); e != nil; e = q.parked.Front() {
		r := e.Value.(*request)
		switch {
		case open:
			q.parked.Remove(e)
			r.place = q.waiting.PushBack(r)
		case q.holds(r):
			q.parked.Remove(e)
			q.hold(r)
		default:
			return
		}
	}
	if open {
		q.admit()
	}
}

// park handles the requests that were waiting for room when the link ended. They must not precede
// the registrations on the next link, and must not delay the replies that are sent over it before
// the registrations settle. Waiting replies are dropped by their goroutines. park fails the
// requests for which there is no room or no next link. The caller holds q.mu.
func (q *sendQueue) park() {
	var requests []*request
	for _, l := range []*list.List{&q.waiting, &q.parked} {
		for e := l.Front(); e != nil; e = l.Front() {
			if r, ok := l.Remove(e).(*request); ok {
				requests = append(requests, r)
			}
		}
	}
	for _, r := range requests {
		switch {
		case q.ended != nil:
			q.fail(r, q.closedError())
		case q.parked.Len() == 0 && q.holds(r):
			q.hold(r)
		case q.mayPark(r):
			r.place = q.parked.PushBack(r)
		default:
			q.fail(r, ErrBufferFull)
		}
	}
}

// fail resolves a request that waits for room or a connection with err. The caller holds q.mu.
func (q *sendQueue) fail(r *request, err error) {
	r.buf.free()
	r.state, r.buf, r.unsent = requestDone, nil, true
	r.resolve(err)
}

// hold keeps r for the next link. If r is a Send, its caller immediately receives nil.
func (q *sendQueue) hold(r *request) {
	r.gate = q.gate
	if r.state = requestHeld; !r.wantsResult && !r.held {
		r.held = true
		r.resolve(nil)
	}
	if r.wantsResult {
		q.pending[r.id] = r
	}
	q.held = append(q.held, r.item())
	q.heldN++
	q.heldB += r.size
}

// giveUp withdraws r because its caller has stopped waiting. done reports whether r is already
// resolved; the outcome is then in its answer channel, or about to be sent there. sent reports
// whether the engine may have received r.
func (q *sendQueue) giveUp(r *request) (done, sent bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch r.state {
	case requestDone:
		return true, true
	case requestSent:
		if !r.wantsResult {
			r.state = requestDone // tells the writer that nobody is waiting
			return false, true
		}
		if _, waiting := q.pending[r.id]; !waiting {
			return true, true
		}
		sent = true
	case requestHeld:
		if !r.wantsResult {
			return true, false // its caller has already received nil
		}
		q.heldN--
		q.heldB -= r.size
		r.buf.free()
		q.unpark()
		q.changed.Send() // wakes flush
		if len(q.held) > 2*q.heldN+64 {
			q.compactHeld()
		}
	case requestWaiting:
		q.waiting.Remove(r.place) // has no effect if r is in the other list
		q.parked.Remove(r.place)
		r.buf.free()
		q.admit() // r may have been the first
		q.unpark()
	case requestQueued:
		q.bytes -= r.size
		r.buf.free()
		q.admit()
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

// complete passes a response that arrived over l to the waiting call. It returns false if no
// call is waiting for it.
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
