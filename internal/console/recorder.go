package console

import (
	"cmp"
	"encoding/json"
	"slices"
	"sync"
	"time"
)

const (
	// maxInvocations is the maximum number of recorded invocations. Invocations of the
	// engine's own functions have a separate limit, so that they do not displace the others.
	maxInvocations = 1000
	// DefaultLimit is the default limit on the total size of recorded payloads, in bytes.
	DefaultLimit = 16 << 20
	// maxPayload is the maximum size of a recorded payload. For larger payloads, only the size
	// is recorded.
	maxPayload = 1 << 20
)

// Call describes an invocation at its start.
type Call struct {
	Namespace, Function string
	Worker              string // the worker that runs the function; "" for the engine itself
	Caller              string // the calling worker; "" for the engine
	Cause               string // the type of the trigger that caused the call
	Trigger             string // the id of that trigger
	Internal            bool   // the function is one of the engine's own
	Data, Metadata      json.RawMessage
	TraceID             string
}

// Invocation is a call that is in progress or has completed. It is guarded by its Recorder's
// lock.
type Invocation struct {
	Call
	seq, changed    uint64
	began           time.Time
	took            time.Duration // set once the call has ended
	ended           bool
	result          json.RawMessage
	code, message   string // of an error
	httpStatus      int    // of the response to an HTTP request; 0 if there is none or it is unknown
	size, resultLen int
}

// Recorder records an engine's latest invocations. It bounds their number and the total size
// of their payloads. A nil Recorder records nothing. The methods are safe for concurrent use
// and do not block.
type Recorder struct {
	mu              sync.Mutex
	seq, changes    uint64
	users, internal ring
	running         int
	activity        activity
}

// Responded records the HTTP status of the response to a call. Call it before End.
func (r *Recorder) Responded(i *Invocation, httpStatus int) {
	if r == nil || i == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !i.ended {
		i.httpStatus = httpStatus
	}
}

// NewRecorder returns a Recorder that keeps at most limit bytes of payloads for workers'
// functions, and as many again for the engine's own functions.
func NewRecorder(limit int) *Recorder {
	r := &Recorder{activity: newActivity()}
	r.users.limit, r.internal.limit = limit, limit
	return r
}

// Begin records the start of a call. The payloads in c must not change afterward.
func (r *Recorder) Begin(c Call) *Invocation {
	if r == nil {
		return nil
	}
	i := &Invocation{Call: c, began: time.Now(), size: len(c.Data)}
	if i.size > maxPayload {
		i.Data = nil
	}
	if len(i.Metadata) > maxPayload {
		i.Metadata = nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seq++
	r.changes++
	i.seq, i.changed = r.seq, r.changes
	r.ringOf(i).add(i)
	if !c.Internal {
		r.running++
		r.activity.began(i.began)
	}
	return i
}

// End records a call's outcome. If the call succeeded, code and message are empty. Only the
// first call to End for an invocation has an effect. A nil invocation is ignored.
func (r *Recorder) End(i *Invocation, result json.RawMessage, code, message string) {
	if r == nil || i == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if i.ended {
		return
	}
	r.changes++
	i.ended, i.took, i.changed = true, time.Since(i.began), r.changes
	i.code, i.message, i.resultLen = code, message, len(result)
	if i.resultLen <= maxPayload {
		i.result = result
		r.ringOf(i).grown(i, len(result))
	}
	if !i.Internal {
		r.running--
		r.activity.ended(i)
	}
}

func (r *Recorder) ringOf(i *Invocation) *ring {
	if i.Internal {
		return &r.internal
	}
	return &r.users
}

// latest returns the number of changes so far.
func (r *Recorder) latest() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changes
}

// since returns copies of the invocations that have changed since the given change number, in
// the order in which they changed. It returns at most limit copies, and the change number for
// the next call.
func (r *Recorder) since(changes uint64, limit int) ([]Invocation, uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if changes == r.changes {
		return nil, changes
	}
	var changed []*Invocation
	for _, list := range []*ring{&r.users, &r.internal} {
		for _, i := range list.list {
			if i.changed > changes {
				changed = append(changed, i)
			}
		}
	}
	slices.SortFunc(changed, func(a, b *Invocation) int { return cmp.Compare(a.changed, b.changed) })
	next := r.changes
	if len(changed) > limit {
		changed = changed[:limit]
		next = changed[limit-1].changed
	}
	list := make([]Invocation, len(changed))
	for n, i := range changed {
		list[n] = *i
	}
	return list, next
}

// one returns a copy of the invocation with the given number. It returns false if the
// invocation is no longer recorded.
func (r *Recorder) one(seq uint64) (Invocation, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, list := range []*ring{&r.users, &r.internal} {
		if i := list.find(seq); i != nil {
			return *i, true
		}
	}
	return Invocation{}, false
}

// ring keeps the newest invocations in order, within limits on their number and size.
type ring struct {
	limit int // maximum number of bytes
	list  []*Invocation
	bytes int
}

func (i *Invocation) kept() int { return len(i.Data) + len(i.Metadata) + len(i.result) }

func (l *ring) add(i *Invocation) {
	l.list = append(l.list, i)
	l.bytes += i.kept()
	l.trim()
}

// grown adds n bytes, the size of i's result, to the ring's size. If i is no longer in the
// ring, grown drops the result instead.
func (l *ring) grown(i *Invocation, n int) {
	if l.find(i.seq) == nil {
		i.result = nil
		return
	}
	l.bytes += n
	l.trim()
}

func (l *ring) trim() {
	drop := 0
	for drop < len(l.list) && (len(l.list)-drop > maxInvocations || l.bytes > l.limit) {
		l.bytes -= l.list[drop].kept()
		l.list[drop] = nil
		drop++
	}
	l.list = l.list[drop:]
}

func (l *ring) find(seq uint64) *Invocation {
	low, high := 0, len(l.list)
	for low < high {
		middle := (low + high) / 2
		if l.list[middle].seq < seq {
			low = middle + 1
		} else {
			high = middle
		}
	}
	if low < len(l.list) && l.list[low].seq == seq {
		return l.list[low]
	}
	return nil
}
