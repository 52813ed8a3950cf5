// Package otlpjson encodes spans, metrics and log records as OTLP JSON, in frames for the
// engine's telemetry socket.
package otlpjson

import (
	"bytes"

	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
)

// Encoder encodes spans, metrics and log records as frames of OTLP JSON. It does not use
// reflection. It writes only what the engine accepts, because the engine silently drops a
// whole frame for a single invalid value.
//
// The zero value is not usable; use [NewEncoder]. An Encoder is not safe for concurrent use.
// It builds each frame in its buffer and returns a copy without spare capacity. A large frame
// that fills most of the buffer is returned without a copy.
type Encoder struct {
	signal *signal
	limit  int // maximum bytes of a frame, without its prefix

	buf     []byte
	spare   []byte
	frames  []Frame
	buffers Buffers

	// Records are nested in the levels resource, scope and, for metrics, metric. A level is
	// opened only when a record below it is written. Therefore, no level is ever empty. If a
	// batch is split, the next frame opens its records' levels again.
	levels  [3]level
	depth   int     // number of levels that are set
	open    int     // levels open in buf
	closing int     // bytes needed to close the frame
	comma   [4]bool // whether the list at each level has an element; the last list holds records
	records int     // records in buf

	// mark, start and the fields below hold the state before the current record, so that the
	// record can be moved to the next frame.
	mark, start           int
	markOpen, markClosing int
	markComma             [4]bool

	clock clock
	keys  [64]attributeKey

	caps caps
	stop int  // length of buf at which the record is abandoned because it cannot fit
	cut  bool // part of the record was omitted to make it fit
	lost Losses

	groups []group
	member []int // group index of each record

	counts []uint64 // buckets of a converted histogram
	bounds []float64

	boundsOf   []float64 // bounds encoded in boundsText
	boundsText []byte

	resource     *resource.Resource // resource encoded in resourceText
	resourceText []byte
	hasResource  bool
}

type level struct {
	head []byte
	tail string
}

// caps limits the size of a record's parts. The initial caps have no effect. They are lowered
// for a record that does not fit even in a separate frame.
type caps struct {
	text  int // bytes of a string
	items int // elements of a list
}

// Losses counts the data that was lost because OTLP JSON cannot represent it or because it did
// not fit in a frame. The zero value means that nothing was lost.
type Losses struct {
	Points  int // data points with a NaN or infinite value
	Values  int // NaN or infinite sums, minima and maxima, omitted from their histograms
	Metrics int // metrics of unsupported kinds
	Cut     int // records shortened to fit a frame
	Records int // records that did not fit even when shortened
}

// MaxValueDepth limits the nesting of attribute values. Deeper values are encoded as text. The
// engine drops frames whose JSON is nested 128 or more levels deep, and each level of a value
// takes four levels of JSON.
const MaxValueDepth = 24

// NewEncoder returns an encoder for frames of at most [MaxFrameBytes] bytes, including the
// prefix. It takes the buffers of large frames from k. If k is nil, buffers are not reused.
func NewEncoder(k Buffers) *Encoder {
	return &Encoder{limit: MaxFrameBytes - len(PrefixTraces), buffers: k}
}

// Lost returns the losses since the last call to [Encoder.Done].
func (e *Encoder) Lost() Losses { return e.lost }

// keptBytes is the size up to which an encoder's buffers are worth reusing.
const keptBytes = 4 << 20

// Done invalidates the returned slices of frames, but not the frames' data, and resets
// [Encoder.Lost]. It returns false if e's buffers have grown too large for reuse.
func (e *Encoder) Done() bool {
	clear(e.frames)
	clear(e.groups)
	e.frames, e.groups, e.member = e.frames[:0], e.groups[:0], e.member[:0]
	e.lost = Losses{}
	return cap(e.buf)+cap(e.spare) <= keptBytes
}

// signal holds the prefix of a signal's frames and the keys of the lists in them, including
// punctuation.
type signal struct{ prefix, top, scopes, records string }

func (e *Encoder) batch(s *signal) {
	e.signal, e.depth = s, 0
	e.reset()
}

func (e *Encoder) reset() {
	e.buf, e.open, e.closing, e.comma, e.records = e.buf[:0], 0, len("]}"), [4]bool{}, 0
}

// level prepares a new head for level i. It closes that level and the levels below it, and
// returns an empty buffer. The caller appends the head to the buffer and stores the buffer in
// levels.
func (e *Encoder) level(i int) []byte {
	for e.open > i {
		e.open--
		e.closing -= len(e.levels[e.open].tail)
		e.buf = append(e.buf, e.levels[e.open].tail...)
	}
	e.depth = i + 1
	return e.levels[i].head[:0]
}

// head stores the text appended by write as the head of level i. If necessary, it shortens the
// text, so that the three heads together leave room for a record.
func (e *Encoder) head(i int, tail string, write func(b []byte) []byte) {
	b := e.level(i)
	e.caps, e.stop, e.cut = e.uncapped(), e.limit/4, false
	for {
		b = write(b[:0])
		if len(b) <= e.limit/4 || !e.tighten() {
			break
		}
	}
	if e.cut {
		e.lost.Cut++
	}
	e.levels[i] = level{b, tail}
}

func (e *Encoder) uncapped() caps { return caps{e.limit, e.limit} }

// tighten lowers the cap for strings or, if that is already low, the cap for lists. It returns
// false if neither can be lowered.
func (e *Encoder) tighten() bool {
	e.cut = true
	switch c := &e.caps; {
	case c.text > 64:
		c.text /= 4
	case c.items > 0:
		c.items /= 4
	default:
		return false
	}
	return true
}

// begin opens the next record's levels. The caller must then append the record to buf.
func (e *Encoder) begin() {
	e.caps, e.cut = e.uncapped(), false
	e.place()
}

func (e *Encoder) place() {
	e.mark, e.markOpen, e.markClosing, e.markComma = len(e.buf), e.open, e.closing, e.comma
	if len(e.buf) == 0 {
		e.buf = append(e.buf, e.signal.top...)
	}
	for ; ; e.open++ {
		if e.comma[e.open] {
			e.buf = append(e.buf, ',')
		}
		e.comma[e.open] = true
		if e.open == e.depth {
			break
		}
		e.buf = append(e.buf, e.levels[e.open].head...)
		e.closing += len(e.levels[e.open].tail)
		e.comma[e.open+1] = false
	}
	e.start = len(e.buf)
	e.stop = e.start + e.limit
}

// end accepts the record appended since begin. If the frame has become too large, the record
// is moved to the next frame. If the record does not fit even in a separate frame, end lowers
// the caps and returns false. The caller must then append the record again.
func (e *Encoder) end() bool {
	if !e.fits() && e.records > 0 {
		e.spare = append(e.spare[:0], e.buf[e.start:]...)
		e.buf, e.open, e.closing, e.comma = e.buf[:e.mark], e.markOpen, e.markClosing, e.markComma
		e.finish()
		e.place()
		e.buf = append(e.buf, e.spare...)
	}
	if !e.fits() {
		e.reset()
		if e.tighten() {
			e.place()
			return false
		}
		e.lost.Records++
		return true
	}
	e.records++
	if e.cut {
		e.lost.Cut++
	}
	return true
}

// fits reports whether the frame can be closed within the limit.
func (e *Encoder) fits() bool { return len(e.buf)+e.closing <= e.limit }

// finish closes the frame if it contains a record.
func (e *Encoder) finish() {
	if e.records == 0 {
		e.reset()
		return
	}
	for e.open > 0 {
		e.open--
		e.buf = append(e.buf, e.levels[e.open].tail...)
	}
	e.buf = append(e.buf, "]}"...)
	f := Frame{Prefix: e.signal.prefix, Records: e.records}
	if n := len(e.buf); n >= minReusedBytes && cap(e.buf) <= n+n/2 {
		f.Data, f.reused = e.buf, true
		e.buf = e.buffers.get(n + n/8)
	} else {
		f.Data = bytes.Clone(e.buf)
	}
	e.frames = append(e.frames, f)
	e.reset()
}

// group is a resource and a scope shared by several records.
type group struct {
	resource *resource.Resource
	scope    instrumentation.Scope
	done     bool
}

// group assigns the next record to a group. It reports whether that is the first group, whose
// records are written immediately. Most records belong to the first group.
func (e *Encoder) group(r *resource.Resource, s instrumentation.Scope) (first bool) {
	for i := len(e.groups) - 1; i >= 0; i-- { // start with the group of the previous record, the most likely one
		if g := &e.groups[i]; sameScope(&g.scope, &s) && sameResource(g.resource, r) {
			e.member = append(e.member, i)
			return i == 0
		}
	}
	n := len(e.groups)
	e.member = append(e.member, n)
	e.groups = append(e.groups, group{resource: r, scope: s, done: n == 0})
	if n == 0 {
		e.setResource(r)
		e.setScope(&e.groups[0].scope)
	}
	return n == 0
}

// rest calls write with the index of each record that was not written immediately, then closes
// the last frame. Records are grouped by resource and, within a resource, by scope, in the
// order of first appearance.
func (e *Encoder) rest(write func(i int)) {
	for i := range e.groups {
		r := e.groups[i].resource
		if i > 0 {
			if e.groups[i].done {
				continue
			}
			e.setResource(r)
		}
		for j := i; j < len(e.groups); j++ {
			g := &e.groups[j]
			if g.done || !sameResource(g.resource, r) {
				continue
			}
			g.done = true
			e.setScope(&g.scope)
			for n, m := range e.member {
				if m == j {
					write(n)
				}
			}
		}
	}
	e.finish()
}

func sameScope(a, b *instrumentation.Scope) bool {
	return a.Name == b.Name && a.Version == b.Version && a.SchemaURL == b.SchemaURL &&
		a.Attributes.Equivalent() == b.Attributes.Equivalent()
}

func sameResource(a, b *resource.Resource) bool {
	return a == b || a.Equivalent() == b.Equivalent() && a.SchemaURL() == b.SchemaURL()
}

// setResource sets the first level. It caches the resource's text, because a resource is
// immutable and usually shared by all of a process's records.
func (e *Encoder) setResource(r *resource.Resource) {
	if !e.hasResource || e.resource != r {
		e.head(0, "", func(b []byte) []byte {
			b = append(b, `{"resource":{`...)
			b = e.set(b, `"attributes":[`, r.Set(), "]")
			b = append(b, '}')
			return e.schemaURL(b, r.SchemaURL())
		})
		e.resourceText = append(e.resourceText[:0], e.levels[0].head...)
		e.resource, e.hasResource = r, true
	}
	b := append(e.level(0), e.resourceText...)
	e.levels[0] = level{append(b, e.signal.scopes...), "]}"}
}

func (e *Encoder) setScope(s *instrumentation.Scope) {
	e.head(1, "]}", func(b []byte) []byte {
		b = append(b, `{"scope":{"name":`...)
		b = e.text(b, s.Name)
		if s.Version != "" {
			b = append(b, `,"version":`...)
			b = e.text(b, s.Version)
		}
		b = e.set(b, `,"attributes":[`, &s.Attributes, "]")
		b = append(b, '}')
		b = e.schemaURL(b, s.SchemaURL)
		return append(b, e.signal.records...)
	})
}

func (e *Encoder) schemaURL(b []byte, url string) []byte {
	if url == "" {
		return b
	}
	b = append(b, `,"schemaUrl":`...)
	return e.text(b, url)
}
