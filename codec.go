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

// This file reads and writes the parts of the protocol that all dialects share: the contents
// of calls and results, and the type tags of messages. The dialects (dialect.go) add the rest.
// For speed, the messages sent or received for every call are encoded and parsed by hand. All
// other messages use the generated types.

// messageType identifies the type of a received message.
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

	// Only used by engines with observers.
	messageFunctionRegistered
	messageObserverAdded
	messageObserverRemoved
	messageObserveResult
	messageObserverStateChanged
)

// engineDepth is the maximum nesting depth of the JSON messages that the engine accepts. The
// message itself is the first level.
const engineDepth = 127

// received is a received message, split into its members but not decoded. The members share
// memory with the message. An optional member is empty if it is absent or null.
type received struct {
	kind messageType
	tag  []byte // the type as a raw JSON string; nil for invocations and results

	id          []byte // invocation_id without the quotes
	functionID  []byte // a raw JSON string
	data        []byte
	result      []byte
	err         []byte
	traceparent []byte
	baggage     []byte
	metadata    []byte

	// Only used by engines with observers.
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
	if rawjson.Absent(m.id) { // older engines omit the id if the call needs no result
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

// invocationID identifies a call. The engine keeps all workers' invocation ids in one table,
// so they must be unique. They must also be unguessable, because any worker that knows an id
// could send a result for the call.
type invocationID = uuid.UUID

func newInvocationID() (id invocationID) {
	_, _ = rand.Read(id[:])      // never fails
	id[6] = id[6]&0x0f | 4<<4    // version 4
	id[8] = id[8]&0x3f | 0b10<<6 // RFC 9562 variant
	return id
}

// parseInvocationID parses the string form of an id. It returns a bool instead of an error
// because no caller reports a malformed id.
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

// buffer holds one outgoing message. User values are encoded directly into the buffer, after
// the envelope. Buffers are pooled.
type buffer struct {
	p       []byte // the message is p[skipped:]
	skipped int
	result  [2]int // start and end of the encoded result; zero for an error

	tooLarge bool // the encoded result was too large and has been replaced with an error
	idle     int  // number of consecutive uses that needed only a small part of the capacity
}

// Limits that prevent one large message from occupying memory indefinitely. Buffers larger
// than largeBuffer stay pooled only while messages need their capacity. Buffers larger than
// maxPooledBuffer are never pooled.
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

// poolable records one use of b and reports whether b should be pooled.
func (b *buffer) poolable() bool {
	if b.idle++; cap(b.p) <= largeBuffer || len(b.p) > cap(b.p)/8 {
		b.idle = 0
	}
	return cap(b.p) <= maxPooledBuffer && b.idle <= maxIdleUses
}

// value appends v as JSON. On failure, the buffer is unchanged. Invalid UTF-8, which a raw
// value or a marshaler can produce, is an error, because the engine would drop the connection
// if it received any.
func (b *buffer) value(v any) error {
	_, err := b.encode(v)
	return err
}

// part is like [buffer.value], but also checks that the engine can parse the output as a
// member of a message.
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

// encode appends v and converts a panic in MarshalJSON to an error. If plain is true, the
// output needs no further checks.
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

// codecValue is a user value to be encoded with the [WithJSON] codec.
type codecValue struct {
	codec JSONCodec
	v     any
}

// forUser prepares v for [buffer.value]. If the [WithJSON] codec applies to v, the result is a
// codecValue.
func (c *config) forUser(v any) any {
	if c.json == nil || v == nil || ownType(reflect.TypeOf(v)) {
		return v
	}
	return codecValue{c.json, v}
}

// marshal encodes the value with its codec. The output is not validated.
func (v codecValue) marshal() (raw json.RawMessage, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("encoding panics: %v", p)
		}
	}()
	return v.codec.Marshal(v.v)
}

// decode decodes b, which must be valid JSON, into the user value out.
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

// rawForUser encodes a user value that will become part of a message.
func (c *config) rawForUser(v any) (json.RawMessage, error) { return rawOf(c.forUser(v)) }

// ownType reports whether values of type t are always encoded with encoding/json, regardless
// of [WithJSON]. This applies to raw JSON and to this package's types, whose struct tags and
// methods are written for encoding/json.
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
	id          invocationID // zero if the call needs no result
	functionID  string
	namespace   string
	action      actionKind
	queue       string
	traceparent string
	baggage     string
	metadata    any
	hasMetadata bool
	caller      *incoming // the invocation whose handler makes the call; nil outside of handlers
	observerID  string    // the observer whose target is called; "" for an ordinary call
	room        int       // number of bytes that encodeCall reserves for the envelope
}

// envelopeRoom is an upper bound for the total size of the keys and fixed parts of an
// envelope.
const envelopeRoom = 320

var blanks = bytes.Repeat([]byte{' '}, 1<<10)

// encodeCall writes the parts of a call that are the same in every dialect (metadata and
// payload) and reserves room for the envelope in front of them. The envelope is written when
// the call is sent, because the connection's dialect is not known until then.
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
	return newestDialect.checkCall(inv, sealedSize(b, inv)) // the limits of the connection's dialect are checked when the call is sent
}

// maxQuoted returns an upper bound for the length of s as a JSON string, without the quotes.
func maxQuoted(s string) int {
	n := len(s)
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			n += 5 // an escape takes six bytes
		}
	}
	return n
}

// sealedSize returns the size of a call's message. Far below the message limit, the size is
// only an estimate.
func sealedSize(b *buffer, inv *invocation) int {
	size := b.len() - inv.room
	if size > messageTooLarge/2 {
		return size + len(newestDialect.appendCall(nil, inv))
	}
	const usual = len(`{"type":"invokefunction","function_id":"","invocation_id":"00000000-0000-0000-0000-000000000000",`)
	return size + usual + len(inv.functionID)
}

// seal writes the envelope of a call in front of the parts that encodeCall has written.
func seal(b *buffer, d dialect, inv *invocation) {
	text := b.bytes()
	head := d.appendCall(text[:0:inv.room], inv)
	copy(text[inv.room-len(head):inv.room], head)
	b.skipped += inv.room - len(head)
}

// encodeResult appends the message that carries an invocation's result to b.
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

// encodeError appends the message that carries an invocation's error to b.
func encodeError(b *buffer, d dialect, id []byte, functionID, code, message, stack string) {
	b.p = d.appendAnswer(b.p, id, functionID)
	b.writeString(`,"error":`)
	b.p = append(appendError(b.p, code, message, stack), '}')
}

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

// appendTrace adds the handler's trace context to an encoded result, unless the message would
// become too large.
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

// encodeMessage encodes a message into a buffer from the pool. It fails only if a user value
// in the message cannot be encoded.
func encodeMessage(m any) (*buffer, error) {
	b := newBuffer()
	if err := b.value(m); err != nil {
		b.free()
		return nil, err
	}
	return b, nil
}

// remoteError converts an error received from the engine to an [*Error].
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
