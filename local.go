package iii

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/iii-go/iii/internal/rawjson"
	"github.com/iii-go/iii/internal/signal"
)

// Calls of a worker to its own functions run in process where the engine allows it. Such a
// call takes the way of an invocation through the dispatcher, with the same encodings, so that
// no memory is shared and everything that a handler or its caller sees is as if the engine had
// been asked. The handler runs on a goroutine of its own, since the caller may stop waiting.

// maxNested bounds local calls within local calls; the next one goes through the engine.
const maxNested = 64

// Remotely makes a call go through the engine even if the function is this worker's own and
// could run in process ([Function.LocalDispatch]). A handler that calls its own worker this
// way needs room for another one under [WithMaxConcurrency]; at the limit it waits for
// itself until the call times out.
func Remotely() CallOption {
	return func(c *callConfig) error { c.remote = true; return nil }
}

// localTarget returns the function that a call runs in process, or nil.
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

// beginLocal runs a call in process.
func (c *Client) beginLocal(f *Function, inv *invocation, payload any, timeout time.Duration) (*request, error) {
	by := inv.caller
	b := newBuffer()
	defer b.free()
	if inv.hasMetadata {
		if err := b.part(inv.metadata); err != nil {
			return nil, fmt.Errorf("encode metadata: %w", err)
		}
	}
	metadata := b.Len()
	if err := b.part(payload); err != nil {
		return nil, fmt.Errorf("encode payload: %w", err)
	}
	r := c.out.newRequest(inv.action != actionVoid, timeout)
	r.id, r.local = newInvocationID(), true

	const idLength = 36
	own := append(appendID(make([]byte, 0, idLength+b.Len()), r.id), b.Bytes()...)
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
		in.by, in.depth = localCaller{by.function.id, by.id, by.selfless()}, by.depth
	}
	in.own.client = c
	in.origin = &in.own
	if r.wantsResult {
		in.own.request, r.in = r, in
	} else {
		r.finish(nil)
	}
	nested := by != nil && r.wantsResult && !by.over.Load()
	accepted := true
	switch {
	case nested:
		in.nesting = by.nesting + 1
		accepted = c.dispatch.nest(in)
	case signal.IsClosed(c.stopping) && (by == nil || by.over.Load()):
		return c.refuseLocal(r, in, CodeWorkerDraining, "the worker is shutting down")
	default:
		accepted = c.dispatch.submit(in)
	}
	if !accepted {
		return c.refuseLocal(r, in, CodeOverloaded, "the worker has too many invocations waiting")
	}
	return r, nil
}

// calleeKey is the baggage entry in which the engine names the function that is called.
const calleeKey = "iii.function.id"

// calleeBaggage returns the baggage header of a traced call as the engine passes it on: the
// callee is named in it, in place of the function that makes the call. Baggage that has no room
// for the entry stays as it is.
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

// refuseLocal answers a local call that does not run, as it would be answered if it had come
// from the engine.
func (c *Client) refuseLocal(r *request, in *incoming, code, message string) (*request, error) {
	if c.dispatch.isClosed() {
		return nil, unsentError{c.endError()}
	}
	c.turnAway(in, code, message)
	return r, nil
}

// localCaller is the handler that has made a local call; the zero value is none.
type localCaller struct {
	functionID string
	id         []byte
	parent     json.RawMessage // who has called that handler
}

// callerJSON returns who has made the call of in; nil if that is not known.
func (in *incoming) callerJSON(c *Client) json.RawMessage {
	if !in.local {
		return in.caller
	}
	return in.appendOrigin(c, true)
}

// appendOrigin returns who has made the local call of in, with the identity of this worker or
// without.
func (in *incoming) appendOrigin(c *Client, worker bool) json.RawMessage {
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

// selfless returns who has made the call of in, without that one's own parent; nil if it is not
// known. It is made once, for all calls of the handler.
func (in *incoming) selfless() json.RawMessage {
	in.parentOnce.Do(func() { in.parent = withoutParent(in.callerJSON(in.function.client)) })
	return in.parent
}

// withoutParent copies the members of a caller that name it.
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

// rawOrigin encodes a result or an error without an envelope, for nobody.
type rawOrigin struct{}

func (rawOrigin) encodeResult(b *buffer, _ *incoming, result any) error {
	if err := b.part(result); err != nil {
		return err
	}
	b.result = [2]int{0, b.Len()}
	return nil
}

func (rawOrigin) encodeError(b *buffer, _ *incoming, code, message, stack string) {
	b.Write(appendError(b.AvailableBuffer(), code, message, stack))
}

func (rawOrigin) limit() (int, string)     { return math.MaxInt, "" }
func (rawOrigin) dialect() dialect         { return newestDialect }
func (rawOrigin) gone() bool               { return false }
func (rawOrigin) context() context.Context { return context.Background() }
func (rawOrigin) reply(b *buffer)          { b.free() }
func (o rawOrigin) replyNow(b *buffer)     { o.reply(b) }

// localOrigin is the origin of a local call.
type localOrigin struct {
	rawOrigin
	client  *Client
	request *request // nil: nobody waits for the answer
}

func (o *localOrigin) context() context.Context { return o.client.handlers }

// reply gives the caller its answer. A caller that no longer waits leaves it to the garbage
// collector, with the request.
func (o *localOrigin) reply(b *buffer) {
	if o.request == nil {
		b.free()
		return
	}
	o.request.buf = b
	o.request.finish(nil)
}

func (o *localOrigin) replyNow(b *buffer) { o.reply(b) }

// ended returns a channel that is closed when the client has ended, if the answer to r does
// not come otherwise then.
func (r *request) ended(c *Client) <-chan struct{} {
	if r.local {
		return c.done
	}
	return nil
}

// ran counts a local call.
func (in *incoming) ran(c *Client, failed bool) {
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
			r.finish(reason)
		}
	}
}
