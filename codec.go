package iii

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/iii-go/iii/internal/jsoncodec"
	"github.com/iii-go/iii/internal/rawjson"
)

// This file reads and writes what all generations of the protocol have in common: the parts of
// a call and of its answer, and the tags of messages. The rest is up to the dialects
// (dialect.go). Messages that are sent or received for every call are appended and parsed by
// hand; the rare ones use the generated types.

// messageType is the tag of a received message.
type messageType uint8

const (
	messageUnknown messageType = iota
	messageInvoke
	messageResult
	messagePing
	messagePong
	messageWorkerRegistered
	messageTriggerResult
	messageRegisterTrigger
	messageUnregisterTrigger
	messageRejected
	messageError

	// For engines with observers.
	messageFunctionRegistered
	messageObserverAdded
	messageObserverRemoved
	messageObserveResult
	messageObserverStateChanged
)

// engineDepth is the number of JSON levels that the engine reads in a message, including the
// message itself.
const engineDepth = 127

// received is a received message, split into parts but not decoded. The slices share the
// memory of the message; the slice of an absent or null optional field is empty.
type received struct {
	kind messageType
	tag  []byte // of a rare kind, the raw JSON string

	id          []byte // invocation_id, the text between the quotes
	functionID  []byte // the raw JSON string
	data        []byte
	result      []byte
	err         []byte
	traceparent []byte
	baggage     []byte
	metadata    []byte

	// For engines with observers.
	caller     []byte
	depth      []byte
	activation []byte
}

// parse splits the message in b.
func (m *received) parse(b []byte) error {
	*m = received{}
	var tag []byte
	err := rawjson.ScanObject(b, func(key, value []byte) {
		switch string(key) {
		case "type":
			tag = value
		case "invocation_id":
			m.id = value
		case "function_id":
			m.functionID = value
		case "data":
			m.data = value
		case "result":
			m.result = value
		case "error":
			m.err = value
		case "traceparent":
			m.traceparent = value
		case "baggage":
			m.baggage = value
		case "metadata":
			m.metadata = value
		case "caller":
			m.caller = value
		case "observe_depth":
			m.depth = value
		case "activation":
			m.activation = value
		}
	})
	if err != nil {
		return err
	}
	if len(tag) < 2 || tag[0] != '"' {
		return errors.New("message has no type")
	}
	switch string(tag[1 : len(tag)-1]) {
	case "invokefunction":
		m.kind = messageInvoke
		return m.checkInvoke()
	case "invocationresult":
		m.kind = messageResult
		return m.checkResult()
	case "ping":
		m.kind = messagePing
	case "pong":
		m.kind = messagePong
	case "workerregistered":
		m.kind = messageWorkerRegistered
	case "triggerregistrationresult":
		m.kind = messageTriggerResult
	case "registertrigger":
		m.kind = messageRegisterTrigger
	case "unregistertrigger":
		m.kind = messageUnregisterTrigger
	case "registrationrejected":
		m.kind = messageRejected
	case "error":
		m.kind = messageError
	case "functionregistered":
		m.kind = messageFunctionRegistered
	case "observeradded":
		m.kind = messageObserverAdded
	case "observerremoved":
		m.kind = messageObserverRemoved
	case "observeresult":
		m.kind = messageObserveResult
	case "observerstatechanged":
		m.kind = messageObserverStateChanged
	}
	m.tag = tag
	return nil
}

func (m *received) checkInvoke() error {
	if rawjson.Absent(m.id) { // older engines send no id for calls that want no answer
		m.id = nil
	} else if err := m.cutID(); err != nil {
		return err
	}
	if len(m.functionID) == 0 || m.functionID[0] != '"' {
		return errors.New("invokefunction has no function_id")
	}
	if len(m.data) == 0 {
		m.data = []byte("null")
	}
	for _, optional := range []*[]byte{&m.metadata, &m.caller, &m.depth, &m.activation} {
		if rawjson.Absent(*optional) {
			*optional = nil
		}
	}
	return nil
}

func (m *received) checkResult() error {
	if err := m.cutID(); err != nil {
		return err
	}
	if len(m.result) == 0 {
		m.result = []byte("null")
	}
	if rawjson.Absent(m.err) {
		m.err = nil
	}
	return nil
}

func (m *received) cutID() error {
	if len(m.id) != len(invocationID{})*2+4+2 || m.id[0] != '"' {
		return errors.New("invocation_id is no UUID")
	}
	m.id = m.id[1 : len(m.id)-1]
	return nil
}

// invocationID identifies a call. The engine keeps the ids of all workers in one table, so
// they must be unique, and unguessable, because anyone who knows an id could answer the call.
type invocationID = uuid.UUID

func newInvocationID() (id invocationID) {
	_, _ = rand.Read(id[:])      // it never fails
	id[6] = id[6]&0x0f | 4<<4    // version 4
	id[8] = id[8]&0x3f | 0b10<<6 // variant of RFC 9562
	return id
}

// parseInvocationID parses the text form. It returns no error, because no caller treats an id
// of a different form as an error.
func parseInvocationID(text []byte) (id invocationID, ok bool) {
	id, err := uuid.ParseBytes(text)
	return id, err == nil
}

const hexDigits = "0123456789abcdef"

func appendID(dst []byte, id invocationID) []byte {
	for i, c := range id {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			dst = append(dst, '-')
		}
		dst = append(dst, hexDigits[c>>4], hexDigits[c&15])
	}
	return dst
}

// buffer holds one outgoing message. Buffers are pooled; users' values are encoded directly
// after the envelope.
type buffer struct {
	p       []byte // the message is p[skipped:]
	skipped int
	result  [2]int // the result inside an encoded answer; both 0 for an error

	tooLarge bool // the encoded answer replaces one that was too large
	idle     int  // number of consecutive uses with little content
}

// Buffers larger than largeBuffer are pooled only while messages make use of their size, and
// buffers larger than maxPooledBuffer are never pooled, so that one large message does not
// occupy memory forever.
const (
	largeBuffer     = 64 << 10
	maxPooledBuffer = 4 << 20
	maxIdleUses     = 8
)

var buffers = sync.Pool{New: func() any { return new(buffer) }}

func newBuffer() *buffer { return buffers.Get().(*buffer) }

func (b *buffer) writeString(s string) { b.p = append(b.p, s...) }

func (b *buffer) bytes() []byte { return b.p[b.skipped:] }

func (b *buffer) String() string { return string(b.bytes()) }

func (b *buffer) len() int { return len(b.p) - b.skipped }

// truncate removes all but the first n bytes.
func (b *buffer) truncate(n int) { b.p = b.p[:b.skipped+n] }

// reset makes b empty.
func (b *buffer) reset() {
	b.p, b.skipped = b.p[:0], 0
	b.result, b.tooLarge = [2]int{}, false
}

func (b *buffer) free() {
	if b != nil && b.poolable() {
		b.reset()
		buffers.Put(b)
	}
}

// poolable counts a use, and reports whether the memory is worth keeping.
func (b *buffer) poolable() bool {
	if b.idle++; cap(b.p) <= largeBuffer || len(b.p) > cap(b.p)/8 {
		b.idle = 0
	}
	return cap(b.p) <= maxPooledBuffer && b.idle <= maxIdleUses
}

// value appends v as JSON. On an error, the buffer is unchanged. value rejects text that is
// not valid UTF-8, because the engine drops the connection when it receives such a message.
// Raw values and marshalers can produce such text.
func (b *buffer) value(v any) error {
	_, err := b.encode(v)
	return err
}

// part appends v, as value does, as a member of a message to the engine.
func (b *buffer) part(v any) error {
	start := b.len()
	plain, err := b.encode(v)
	if err == nil && !plain {
		err = rawjson.CheckForEngine(b.bytes()[start:], engineDepth-1)
	}
	if err != nil {
		b.truncate(start)
	}
	return err
}

var errNoUTF8 = errors.New("text is no valid UTF-8")

// encode appends v. If plain is true, the engine can read the text. A panic in MarshalJSON
// becomes an error.
func (b *buffer) encode(v any) (plain bool, err error) {
	if c, ok := v.(codecValue); ok {
		raw, err := c.marshal()
		if err != nil {
			return false, err
		}
		v = raw
	}
	if raw, ok := v.(json.RawMessage); ok && raw != nil {
		plain = rawjson.Plain(raw, engineDepth-1)
		switch {
		case plain:
		case !rawjson.Valid(raw):
			return false, errors.New("json.RawMessage holds no valid JSON")
		case !utf8.Valid(raw):
			return false, errNoUTF8
		}
		b.p = append(b.p, raw...)
		return plain, nil
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("encoding panics: %v", p)
		}
	}()
	p, plain, err := jsoncodec.Append(b.p, v)
	if err != nil {
		return false, err
	}
	if !plain && !utf8.Valid(p[len(b.p):]) {
		return false, errNoUTF8
	}
	b.p = p
	return plain, nil
}

// codecValue is a user's value that the codec of [WithJSON] encodes.
type codecValue struct {
	codec JSONCodec
	v     any
}

// forUser prepares v for [buffer.value]: if the codec of [WithJSON] applies to v, the result
// is encoded by it.
func (c *config) forUser(v any) any {
	if c.json == nil || v == nil || ownType(reflect.TypeOf(v)) {
		return v
	}
	return codecValue{c.json, v}
}

// marshal returns the codec's output, which the caller must validate.
func (v codecValue) marshal() (raw json.RawMessage, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("encoding panics: %v", p)
		}
	}()
	return v.codec.Marshal(v.v)
}

// decode decodes b, which must be valid JSON, into a user's value.
func (c *config) decode(b []byte, out any) (err error) {
	if c.json == nil || ownType(reflect.TypeOf(out)) {
		return jsoncodec.Decode(b, out)
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("decoding panics: %v", p)
		}
	}()
	return c.json.Unmarshal(b, out)
}

// rawForUser encodes a user's value that becomes part of one of this package's messages.
func (c *config) rawForUser(v any) (json.RawMessage, error) { return rawOf(c.forUser(v)) }

// ownType reports whether encoding/json encodes values of type t regardless of [WithJSON].
// This applies to raw JSON and to the types of this package, whose tags and methods are
// written for encoding/json.
func ownType(t reflect.Type) bool {
	for {
		switch t.Kind() {
		case reflect.Pointer:
			t = t.Elem()
			continue
		case reflect.Slice, reflect.Array, reflect.Map:
			if t.Name() == "" {
				t = t.Elem()
				continue
			}
		}
		return t == rawType || t.PkgPath() == ownPackage
	}
}

var rawType = reflect.TypeFor[json.RawMessage]()

// actionKind selects how the engine handles a call.
type actionKind uint8

const (
	actionNone actionKind = iota
	actionVoid
	actionEnqueue
)

// invocation is an outgoing call.
type invocation struct {
	id          invocationID // zero for void
	functionID  string
	namespace   string
	action      actionKind
	queue       string
	traceparent string
	baggage     string
	metadata    any
	hasMetadata bool
	caller      *incoming // the invocation whose handler makes the call; nil outside of handlers
	observerID  string    // the observer whose target the call runs; "" for an ordinary call
	room        int       // bytes reserved before the output of encodeCall
}

// envelopeRoom is an upper limit for the size of the keys and the fixed parts of a call's
// envelope.
const envelopeRoom = 320

var blanks = bytes.Repeat([]byte{' '}, 1<<10)

// encodeCall writes the parts of a call that are the same in every dialect (metadata and
// payload), and leaves room for the envelope before them. The envelope is written when the
// call is sent, because only then is the dialect of the connection known.
func encodeCall(b *buffer, inv *invocation, in any) error {
	inv.room = envelopeRoom + inv.caller.callerRoom() + maxQuoted(inv.observerID) + maxQuoted(inv.functionID) + maxQuoted(inv.queue) + maxQuoted(inv.namespace) + maxQuoted(inv.baggage)
	for n := inv.room; n > 0; n -= len(blanks) {
		b.p = append(b.p, blanks[:min(n, len(blanks))]...)
	}
	if inv.hasMetadata {
		b.writeString(`,"metadata":`)
		if err := b.part(inv.metadata); err != nil {
			return fmt.Errorf("encode metadata: %w", err)
		}
	}
	b.writeString(`,"data":`)
	if err := b.part(in); err != nil {
		return fmt.Errorf("encode payload: %w", err)
	}
	b.p = append(b.p, '}')
	return newestDialect.checkCall(inv, sealedSize(b, inv)) // with the limits of the dialect in use when the call is sent
}

// maxQuoted returns an upper limit for the length of s between the quotes of a JSON string.
func maxQuoted(s string) int {
	n := len(s)
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			n += 5 // an escape takes six bytes
		}
	}
	return n
}

// sealedSize returns the size of a call's message. The result is approximate unless the size
// is near the limit of messages.
func sealedSize(b *buffer, inv *invocation) int {
	size := b.len() - inv.room
	if size > messageTooLarge/2 {
		return size + len(newestDialect.appendCall(nil, inv))
	}
	const usual = len(`{"type":"invokefunction","function_id":"","invocation_id":"00000000-0000-0000-0000-000000000000",`)
	return size + usual + len(inv.functionID)
}

// seal writes the envelope of a call before the parts that encodeCall has written to b.
func seal(b *buffer, d dialect, inv *invocation) {
	text := b.bytes()
	head := d.appendCall(text[:0:inv.room], inv)
	copy(text[inv.room-len(head):inv.room], head)
	b.skipped += inv.room - len(head)
}

// encodeResult appends the answer to an invocation to b.
func encodeResult(b *buffer, d dialect, id []byte, functionID string, result any) error {
	b.p = d.appendAnswer(b.p, id, functionID)
	b.writeString(`,"result":`)
	start := b.len()
	if err := b.part(result); err != nil {
		return err
	}
	b.result = [2]int{start, b.len()}
	b.p = append(b.p, '}')
	return nil
}

// encodeError appends the failure of an invocation to b.
func encodeError(b *buffer, d dialect, id []byte, functionID, code, message, stack string) {
	b.p = d.appendAnswer(b.p, id, functionID)
	b.writeString(`,"error":`)
	b.p = append(appendError(b.p, code, message, stack), '}')
}

// appendError appends an error body.
func appendError(p []byte, code, message, stack string) []byte {
	p = append(p, `{"code":`...)
	p = rawjson.AppendString(p, code)
	p = append(p, `,"message":`...)
	p = rawjson.AppendString(p, message)
	if stack != "" {
		p = append(p, `,"stacktrace":`...)
		p = rawjson.AppendString(p, stack)
	}
	return append(p, '}')
}

// appendTrace adds the trace context of the handler to an encoded answer, unless that would
// make the answer too large.
func appendTrace(b *buffer, traceparent []byte, baggage string) {
	p := append(b.p[:len(b.p)-1], `,"traceparent":"`...)
	p = append(append(p, traceparent...), '"')
	if baggage != "" {
		p = append(p, `,"baggage":`...)
		p = rawjson.AppendString(p, baggage)
	}
	if p = append(p, '}'); len(p)-b.skipped < messageTooLarge {
		b.p = p
	} else {
		b.p[len(b.p)-1] = '}'
	}
}

// encodeMessage encodes a rare message into its own buffer. It fails only if a user's value in
// the message cannot be encoded.
func encodeMessage(m any) (*buffer, error) {
	b := newBuffer()
	if err := b.value(m); err != nil {
		b.free()
		return nil, err
	}
	return b, nil
}

// remoteError converts the error body of a result to this package's error.
func remoteError(raw []byte, functionID, id string) error {
	var body ErrorBody
	if err := json.Unmarshal(raw, &body); err != nil {
		return &Error{Code: CodeUnknown, Message: "the error body does not decode: " + err.Error(), FunctionID: functionID, InvocationID: id}
	}
	return &Error{Code: body.Code, Message: body.Message, Stacktrace: body.Stacktrace, FunctionID: functionID, InvocationID: id}
}

var (
	pingMessage = []byte(`{"type":"ping"}`)
	pongMessage = []byte(`{"type":"pong"}`)
)
