package iii

import (
	"context"
	"fmt"
	"time"
)

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
