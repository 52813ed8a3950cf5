package iii

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iii-go/iii/internal/fifo"
	"github.com/iii-go/iii/internal/rawjson"
	"github.com/iii-go/iii/internal/signal"
)

const (
	maxQueuedInvocations = 10_000
	maxQueuedBytes       = 64 << 20
	maxIdleWorkers       = 64

	// If the running invocations hold at least this many bytes, the read loop yields to their
	// handlers before it reads more.
	yieldBytes = 8 << 20
)

// incoming is an invocation of one of this worker's functions.
type incoming struct {
	origin   origin
	function *Function
	id       []byte // string form; empty if the caller needs no result
	data     json.RawMessage
	metadata json.RawMessage

	traceparent, baggage []byte // raw JSON strings, for telemetry

	// Used only if data's memory is recycled once the payload is decoded.
	memory   *[]byte // nil after recycle, which also clears data
	recycled bool
	callerID string // what data contained about the calling worker; set by recycle

	// Only used by engines with observers.
	caller     json.RawMessage // the caller as reported by the engine; nil if unknown
	activation json.RawMessage // the observer that caused the invocation; nil if none
	depth      uint32          // number of activations in the chain that led to the invocation

	since      time.Time // when the invocation was queued, later when its handler began; zero without metrics
	prev, next *incoming // in the list of running invocations; guarded by dispatcher.mu
	held       int       // bytes added to dispatcher.held; guarded by dispatcher.mu
	trigger    *Trigger  // this worker's trigger that the observer implements; nil if none

	ctx        invocationContext // of the handler
	over       atomic.Bool       // the handler has returned
	parentOnce sync.Once
	parent     json.RawMessage // the caller without its own parent, for calls made by the handler

	// Only used for local calls.
	local   bool
	own     localOrigin
	by      localCaller
	nesting int       // number of enclosing local calls that are waiting for this one
	started time.Time // when the handler began
	nested  bool      // runs in the slot of the handler that is waiting for it; guarded by dispatcher.mu
	ended   bool      // guarded by dispatcher.mu
}

// appendCaller appends the caller object for a call made by the invocation's handler.
func (in *incoming) appendCaller(p []byte) []byte {
	p = append(p, `{"function_id":`...)
	p = rawjson.AppendString(p, in.function.id)
	if len(in.id) > 0 {
		p = append(p, `,"invocation_id":"`...)
		p = append(append(p, in.id...), '"')
	}
	if parent := in.callerWithoutParent(); len(parent) > 0 {
		p = append(p, `,"parent":`...)
		p = append(p, parent...)
	}
	return append(p, '}')
}

// callerRoom returns an upper bound for the length of the caller object.
func (in *incoming) callerRoom() int {
	if in == nil {
		return 0
	}
	return 160 + maxQuoted(in.function.id) + len(in.callerWithoutParent())
}

// origin is where an invocation comes from and where its result is sent.
type origin interface {
	// context returns the parent of the handler's context.
	context() context.Context
	// gone reports whether the caller can no longer receive a result.
	gone() bool
	// encodeResult and encodeError encode the response message into b.
	encodeResult(b *buffer, in *incoming, result any) error
	encodeError(b *buffer, in *incoming, code, message, stack string)
	// limit returns the size at which a result message becomes too large, and the error code
	// to send instead.
	limit() (bytes int, code string)
	// dialect returns the dialect of the result message.
	dialect() dialect
	// reply sends the encoded message, waiting for room in the send queue if necessary.
	// replyNow does not wait.
	reply(b *buffer)
	replyNow(b *buffer)
}

func (l *link) context() context.Context { return l.handlers }

func (l *link) gone() bool { return l.IsDead() }

func (l *link) encodeResult(b *buffer, in *incoming, result any) error {
	return encodeResult(b, l.dialect(), in.id, in.function.id, result)
}

func (l *link) encodeError(b *buffer, in *incoming, code, message, stack string) {
	encodeError(b, l.dialect(), in.id, in.function.id, code, message, stack)
}

func (l *link) limit() (bytes int, code string) { return messageTooLarge, l.dialect().tooLarge() }

func (l *link) reply(b *buffer) { l.client.out.reply(l, b) }

func (l *link) replyNow(b *buffer) {
	if out := l.client.out; !out.pushNoWait(l, item{buf: b, reply: true}) {
		out.stats.repliesDropped.Add(1)
	}
}

func (in *incoming) size() int { return len(in.data) + len(in.metadata) }

// dispatcher runs handlers concurrently, up to a limit. Further invocations wait in a bounded
// queue. The dispatcher reuses its goroutines, because their stacks have already grown.
type dispatcher struct {
	limit int  // maximum number of concurrent handlers; 0 means no limit
	timed bool // measure how long invocations wait
	run   func(*incoming)

	mu       sync.Mutex
	running  int
	first    *incoming // the most recently started running invocation
	held     int       // total bytes of the running invocations
	nested   int       // number of handlers that run in another handler's slot
	queue    fifo.Queue[*incoming]
	bytes    int
	idle     []chan *incoming // idle workers, most recent last
	draining bool             // only running handlers may start invocations
	closed   bool
	quiet    signal.Broadcast // sent when no handler is running
	workers  sync.WaitGroup

	overloaded atomic.Uint64
}

// submit runs an invocation or queues it. byHandler means that a running handler has made the
// call. If the invocation is refused, submit returns the error code for its caller, otherwise "".
func (d *dispatcher) submit(in *incoming, byHandler bool) (refusal string) {
	if d.timed {
		in.since = time.Now()
	}
	d.mu.Lock()
	if d.refuses(byHandler) {
		d.mu.Unlock()
		return CodeWorkerDraining
	}
	if d.limit > 0 && d.running >= d.limit {
		if d.queue.Len() >= maxQueuedInvocations || d.bytes+in.size() > maxQueuedBytes {
			d.mu.Unlock()
			d.overloaded.Add(1)
			return CodeOverloaded
		}
		d.queue.Push(in)
		d.bytes += in.size()
		d.mu.Unlock()
		return ""
	}
	d.running++
	d.start(in)
	return ""
}

// nest is like submit, but runs the invocation in the slot of the handler that is waiting for
// it.
func (d *dispatcher) nest(in *incoming) (refusal string) {
	d.mu.Lock()
	if d.refuses(true) {
		d.mu.Unlock()
		return CodeWorkerDraining
	}
	in.nested = true
	d.nested++
	d.start(in)
	return ""
}

// refuses reports whether invocations are refused because of a shutdown. Once waitQuiet has
// returned nil during a drain, no invocation starts, even if a goroutine of a handler outlives
// it.
func (d *dispatcher) refuses(byHandler bool) bool {
	return d.closed || d.draining && (!byHandler || d.running+d.nested == 0)
}

// drain refuses further invocations, except those made by running handlers.
func (d *dispatcher) drain() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.draining = true
}

// start passes the invocation to a goroutine that runs d.work. The caller must hold d.mu, and
// start unlocks it.
func (d *dispatcher) start(in *incoming) {
	d.enter(in)
	if n := len(d.idle); n > 0 {
		worker := d.idle[n-1]
		d.idle = d.idle[:n-1]
		d.mu.Unlock()
		worker <- in
		return
	}
	d.workers.Add(1)
	d.mu.Unlock()
	go d.work(in, false)
}

// enter and leave maintain the list of running invocations. The caller must hold d.mu.
func (d *dispatcher) enter(in *incoming) {
	if in.next = d.first; in.next != nil {
		in.next.prev = in
	}
	d.first = in
	in.held = in.size()
	d.held += in.held
}

func (d *dispatcher) leave(in *incoming) {
	d.held -= in.held
	if in.next != nil {
		in.next.prev = in.prev
	}
	if in.prev != nil {
		in.prev.next = in.next
	} else {
		d.first = in.next
	}
	in.prev, in.next = nil, nil // the handler's context may outlive the invocation and must not retain others
}

// unnest gives a nested invocation its own slot, even beyond the limit. It is called when the
// handler that made the call stops waiting for it.
func (d *dispatcher) unnest(in *incoming) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if in.nested && !in.ended {
		in.nested = false
		d.nested--
		d.running++
	}
}

// work runs the given invocation and then further ones. If ran is true, the given invocation
// has already run: its handler called runtime.Goexit, which ended the previous goroutine.
func (d *dispatcher) work(in *incoming, ran bool) {
	ended := false
	defer func() {
		if !ended { // a handler called runtime.Goexit
			go d.work(in, true)
			return
		}
		d.workers.Done()
	}()
	wake := make(chan *incoming, 1)
	for {
		if !ran {
			d.run(in)
		}
		ran = false
		if in = d.next(in, wake); in == nil {
			ended = true
			return
		}
	}
}

// next records that an invocation has finished and returns the next one for the calling
// goroutine, waiting if none is queued. It returns nil if the goroutine must exit.
func (d *dispatcher) next(in *incoming, wake chan *incoming) *incoming {
	d.mu.Lock()
	d.leave(in)
	in.ended = true
	if in.nested {
		d.nested--
	} else {
		if d.limit == 0 || d.running <= d.limit {
			if in := d.pop(); in != nil {
				d.enter(in)
				d.mu.Unlock()
				return in
			}
		}
		d.running--
	}
	if d.running+d.nested == 0 {
		d.quiet.Send()
	}
	if d.closed || len(d.idle) >= maxIdleWorkers {
		d.mu.Unlock()
		return nil
	}
	d.idle = append(d.idle, wake)
	d.mu.Unlock()
	return <-wake
}

func (d *dispatcher) pop() *incoming {
	if d.queue.Len() == 0 {
		return nil
	}
	in := d.queue.Pop()
	d.bytes -= in.size()
	return in
}

// takeWaiting removes and returns the queued invocations.
func (d *dispatcher) takeWaiting() []*incoming {
	d.mu.Lock()
	defer d.mu.Unlock()
	waiting := slices.Clone(d.queue.All())
	d.queue, d.bytes = fifo.Queue[*incoming]{}, 0
	return waiting
}

// waitQuiet waits until no handler is running or ctx is done.
func (d *dispatcher) waitQuiet(ctx context.Context) error {
	d.mu.Lock()
	if d.running+d.nested == 0 {
		d.mu.Unlock()
		return nil
	}
	quiet := d.quiet.Wait()
	d.mu.Unlock()
	select {
	case <-quiet:
		return nil
	case <-ctx.Done():
		return ctxError(ctx)
	}
}

// close stops each goroutine once its current handler has returned. The returned channel is
// closed when all of them have stopped.
func (d *dispatcher) close() <-chan struct{} {
	d.mu.Lock()
	d.closed = true
	for _, worker := range d.idle {
		worker <- nil
	}
	d.idle = nil
	d.queue, d.bytes = fifo.Queue[*incoming]{}, 0
	d.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		d.workers.Wait()
		close(ended)
	}()
	return ended
}

// yield lets handlers run if their invocations hold a lot of memory. Otherwise, the read loop
// would allocate even more, and the payloads would no longer be in the processor's cache when
// the handlers ran.
func (d *dispatcher) yield() {
	d.mu.Lock()
	much := d.held >= yieldBytes
	d.mu.Unlock()
	if much {
		runtime.Gosched()
	}
}

func (d *dispatcher) isClosed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
}

func (d *dispatcher) counts() (running, queued int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.running + d.nested, d.queue.Len()
}

// maxNamedFunctions limits how many functions an error or a log line lists.
const maxNamedFunctions = 10

// describeRunning lists the functions that have running handlers and how many each has, as in
// "orders::create (3), orders::list (1)". The function with the most handlers comes first. The
// result is "" if no handler is running.
func (d *dispatcher) describeRunning() string {
	counts := map[string]int{}
	d.mu.Lock()
	for in := d.first; in != nil; in = in.next {
		counts[in.function.id]++
	}
	d.mu.Unlock()
	ids := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	var text []string
	for i, id := range ids {
		if i == maxNamedFunctions {
			text = append(text, fmt.Sprintf("and %d more functions", len(ids)-i))
			break
		}
		text = append(text, fmt.Sprintf("%s (%d)", id, counts[id]))
	}
	return strings.Join(text, ", ")
}

// execute runs one handler and sends its result to the invocation's origin. It recovers from
// panics in the handler and during the encoding of its result.
func (c *Client) execute(in *incoming) {
	if in.origin.gone() {
		if len(in.id) > 0 {
			c.out.stats.repliesDropped.Add(1)
		}
		return
	}
	if labels := in.function.labels; labels != nil {
		pprof.SetGoroutineLabels(labels)
		defer pprof.SetGoroutineLabels(context.Background())
	}
	if in.local {
		in.started = time.Now()
	}
	invocation := &in.ctx
	invocation.Context, invocation.client, invocation.in = in.origin.context(), c, in
	if in.trigger != nil && !c.fit(invocation, in) {
		return
	}
	observed := in.observe()
	measured := in.function.metrics
	measured.begin(in)
	invocation.limitHandler(in.function.timeout)
	ctx, span := c.tracing.begin(invocation, in)
	if invocation.limit != nil {
		invocation.limit.watch(func() { c.handlerTimedOut(ctx, invocation, observed, span) })
	}
	var answer *buffer
	var err error
	returned, late := false, false
	var panicked *handlerPanic
	defer func() {
		in.over.Store(true)
		if !returned {
			p := recover() // nil after runtime.Goexit
			late = invocation.limit.handlerReturned()
			answer = c.encodePanic(ctx, in, observed, span, p, late)
		}
		if in.trigger != nil {
			in.trigger.handlerDone()
		}
		measured.leave()
		if late {
			return
		}
		measured.done(ctx, in, err != nil || !returned || panicked != nil)
		span.end(ctx, in, answer)
		if in.local {
			in.countLocal(c, err != nil || !returned)
		}
		if answer != nil {
			in.origin.reply(answer)
		}
	}()
	var result any
	result, err = in.function.handler(ctx, in.data)
	err = handlerError(err)
	if late = invocation.limit.handlerReturned(); late {
		returned = true
		return
	}
	if panicked = invocation.panicked.Load(); panicked != nil && span.span != nil {
		recordPanic(span.span, panicked.value, panicked.stack)
	}
	switch {
	case len(in.id) == 0:
		span.returned(c.cfg.forUser(result), err)
	case invocation.streamed():
		if err != nil {
			c.log.LogAttrs(ctx, slog.LevelWarn, "iii: error not sent, because the response has begun", slog.String("function", in.function.id), slog.Any("error", err))
		}
		answer, _ = c.answer(ctx, in, observed, nil, nil)
		span.answered(answer, err)
	default:
		answer, err = c.answer(ctx, in, observed, result, err)
		span.answered(answer, err)
	}
	returned = true
}

// handlerTimedOut responds on behalf of a handler that has exceeded its timeout. The response
// is small, so it is sent without waiting for room.
func (c *Client) handlerTimedOut(ctx context.Context, invocation *invocationContext, observed *observation, span invocationSpan) {
	in := invocation.in
	f := in.function
	result, failure, failed := invocation.timeoutOutcome()
	var answer *buffer
	if len(in.id) > 0 {
		var err error
		if failed {
			err = failure
		}
		answer, _ = c.answer(ctx, in, observed, result, err)
	}
	c.log.LogAttrs(ctx, slog.LevelWarn, "iii: handler timed out", slog.String("function", f.id), slog.Duration("after", f.timeout))
	f.metrics.done(ctx, in, true)
	span.answered(answer, failure)
	span.end(ctx, in, answer)
	if in.local {
		in.countLocal(c, failed)
	}
	if answer != nil {
		in.origin.replyNow(answer)
	}
}

// handlerError returns the error to send to the caller of a handler. Some codes tell a caller
// that the handler itself was rejected, timed out, or returned a result that was too large. If
// a handler returns an error with such a code, the error is from one of its own calls, so
// handlerError changes the code.
func handlerError(err error) error {
	if err == nil {
		return nil
	}
	if e := asError(err); e != nil {
		switch e.Code {
		case CodeWorkerDraining, CodeOverloaded, CodeHandlerTimeout, CodeResultTooLarge, CodePayloadTooLarge:
			return &Error{Code: CodeInvocationFailed, Message: strings.TrimPrefix(err.Error(), "iii: "), Stacktrace: e.Stacktrace}
		}
	}
	return err
}

// encodePanic logs that a handler panicked or called runtime.Goexit, and encodes the error to
// send. It returns nil if the caller needs no result. It also returns nil if late is true,
// which means that the handler timed out and a response has already been sent. It must be
// called while the panicking frames are still on the stack.
func (c *Client) encodePanic(ctx context.Context, in *incoming, observed *observation, span invocationSpan, p any, late bool) *buffer {
	stack := string(debug.Stack())
	span.panicked(p, stack)
	c.log.LogAttrs(ctx, slog.LevelError, "iii: handler panicked", slog.String("function", in.function.id),
		slog.Any("panic", p), slog.String("stack", stack))
	if len(in.id) == 0 || late {
		return nil
	}
	if in.ctx.streamed() {
		answer, _ := c.answer(ctx, in, observed, nil, nil)
		return answer
	}
	failure := &Error{Code: CodeInvocationFailed, Message: "handler panicked"}
	if c.cfg.stackTraces {
		failure.Message = fmt.Sprintf("handler panicked: %v", p)
		failure.Stacktrace = stack
	}
	answer, _ := c.answer(ctx, in, observed, nil, failure)
	return answer
}

// encodeAnswer encodes a handler's result or error. It returns the error that was encoded,
// which may be an encoding error instead of err.
func (c *Client) encodeAnswer(ctx context.Context, in *incoming, to origin, result any, err error) (*buffer, error) {
	limit, _ := to.limit()
	b := newBuffer()
	if err == nil {
		err = to.encodeResult(b, in, c.cfg.forUser(result))
		large := err == nil && b.len() >= limit
		switch {
		case large:
			err = tooLarge(to, b.len())
		case err == nil:
			return b, nil
		default:
			err = fmt.Errorf("result does not encode: %w", err)
			if in.function.web {
				err = hiddenError{err}
			}
		}
		b.free()
		b = newBuffer()
		b.tooLarge = large
		c.log.LogAttrs(ctx, slog.LevelError, "iii: result cannot be sent", slog.String("function", in.function.id), slog.Any("error", err))
	}
	code, message, stack := errorParts(err)
	to.encodeError(b, in, code, message, stack)
	if b.len() >= limit {
		b.free()
		b = newBuffer()
		b.tooLarge = true
		_, code := to.limit()
		to.encodeError(b, in, code, "the error is too large to be sent", "")
	}
	return b, err
}

// asError returns the first [*Error] in err's chain. It returns nil if there is none, or if it is
// a nil pointer.
func asError(err error) (e *Error) {
	errors.As(err, &e)
	return e
}

// errorParts returns the code, message and stack trace to send for err.
func errorParts(err error) (code, message, stack string) {
	if _, hidden := err.(hiddenError); hidden {
		return CodeInvocationFailed, hiddenText, ""
	}
	e := asError(err)
	if e == nil {
		return CodeInvocationFailed, err.Error(), ""
	}
	code, message, stack = e.Code, e.Message, e.Stacktrace
	if code == "" {
		code = CodeInvocationFailed
	}
	if err != error(e) {
		message = err.Error()   // wrapped: include the context added by the handler
		if e.FunctionID == "" { // created by the handler: the code is sent separately
			message = strings.Replace(message, e.Error(), e.Message, 1)
		}
	}
	return code, message, stack
}

// turnAway rejects an invocation that may succeed later. For a route, it sends a 503 response
// with a Retry-After header, because the engine would turn an error into a 500.
func (c *Client) turnAway(in *incoming, code string) {
	if len(in.id) == 0 {
		return
	}
	message := "the worker is shutting down"
	if code == CodeOverloaded {
		message = "the worker has too many invocations waiting"
	}
	b := newBuffer()
	if !in.function.web || in.origin.encodeResult(b, in, serviceUnavailable(code, message)) != nil {
		b.reset()
		in.origin.encodeError(b, in, code, message, "")
	}
	in.origin.replyNow(b)
}
