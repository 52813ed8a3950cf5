package iii

import (
	"bytes"
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/iii-go/iii/internal/rawjson"
	"github.com/iii-go/iii/internal/secret"
)

// The span of an invocation carries its input and output as events, unless
// $III_DISABLE_TRACE_PAYLOADS is set. Values of keys that name secrets are replaced;
// other values are not inspected.
const (
	eventInput  = "iii.invocation.input"
	eventOutput = "iii.invocation.output"

	attributePayload   = attribute.Key("iii.payload.json")
	attributeTruncated = attribute.Key("iii.payload.truncated")
	attributeOK        = attribute.Key("iii.payload.ok")
)

const (
	redacted        = "[REDACTED]"
	truncatedMarker = `..."[TRUNCATED]"`

	// maxCapturedPayload is the limit unless the environment sets a lower one:
	// telemetry frames must stay far below the size at which the engine ends a
	// connection.
	maxCapturedPayload = 1 << 20
)

// capturedPayload returns the limit in bytes for a captured payload, or 0 if payloads
// are not captured. It reads the environment each time, because the environment can
// change while the process runs.
func capturedPayload() int {
	switch strings.ToLower(strings.TrimSpace(os.Getenv("III_DISABLE_TRACE_PAYLOADS"))) {
	case "1", "true", "yes", "on":
		return 0
	}
	text := os.Getenv("III_TRACE_PAYLOAD_MAX_BYTES")
	if text == "" {
		return maxCapturedPayload
	}
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil || n <= 0 || n > maxCapturedPayload {
		return maxCapturedPayload // includes "unlimited"
	}
	return n
}

// payloadEvent holds the attributes and options of a payload event. A span copies
// attributes, so one payloadEvent can be used for many events.
type payloadEvent struct {
	attributes [3]attribute.KeyValue
	input      [1]trace.EventOption // the first two attributes
	output     [1]trace.EventOption // all attributes
}

var payloadEvents = sync.Pool{New: func() any {
	e := new(payloadEvent)
	e.input[0] = trace.WithAttributes(e.attributes[:2]...)
	e.output[0] = trace.WithAttributes(e.attributes[:]...)
	return e
}}

func newPayloadEvent(payload []byte, limit int) *payloadEvent {
	text, cut := redactAndTruncate(payload, limit)
	e := payloadEvents.Get().(*payloadEvent)
	e.attributes[0], e.attributes[1] = attributePayload.String(text), attributeTruncated.Bool(cut)
	return e
}

func (e *payloadEvent) free() {
	e.attributes = [3]attribute.KeyValue{}
	payloadEvents.Put(e)
}

// recordInput records an invocation's payload, valid JSON, on its span.
func recordInput(span trace.Span, payload []byte, limit int) {
	e := newPayloadEvent(payload, limit)
	span.AddEvent(eventInput, e.input[:]...)
	e.free()
}

// recordOutput records an invocation's result or error, valid JSON, on its span.
func recordOutput(span trace.Span, payload []byte, limit int, ok bool) {
	e := newPayloadEvent(payload, limit)
	e.attributes[2] = attributeOK.Bool(ok)
	span.AddEvent(eventOutput, e.output[:]...)
	e.free()
}

// Redact returns v as JSON values (map[string]any, []any, string, bool, nil, numbers as
// json.Number), with the value of every key that names a secret replaced by the text
// "[REDACTED]". A key names a secret if it contains, in any case, api_key, apikey,
// api-key, access_key, password, secret, credential, authorization, auth_token,
// access_token, refresh_token, bearer or private_key; if it is token, cookie or
// set-cookie; or if it ends in _token or -token. access_key is the key that opens a
// channel. Values are not inspected: a secret under another key stays. A value that
// cannot be encoded as JSON becomes nil.
func Redact(v any) any {
	b := newBuffer()
	defer b.free()
	if b.value(v) != nil {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(redactJSON(b.Bytes(), -1)))
	d.UseNumber()
	var out any
	if d.Decode(&out) != nil {
		return nil
	}
	return out
}

// RedactAndTruncate returns v as JSON, redacted as by [Redact]. If the text is longer
// than maxBytes, it is cut between characters and ends in the marker ..."[TRUNCATED]";
// with the marker it is at most maxBytes long. A maxBytes of 0 or less sets no limit. A
// value that cannot be encoded as JSON becomes null.
func RedactAndTruncate(v any, maxBytes int) (text string, truncated bool) {
	if maxBytes <= 0 {
		maxBytes = -1
	}
	b := newBuffer()
	defer b.free()
	if b.value(v) != nil {
		b.WriteString("null") // b is empty after an error
	}
	return redactAndTruncate(b.Bytes(), maxBytes)
}

// redactAndTruncate redacts and truncates valid JSON. A negative limit is none.
func redactAndTruncate(raw []byte, limit int) (text string, truncated bool) {
	out := redactJSON(raw, limit)
	if limit < 0 || len(out) <= limit {
		return string(out), false
	}
	return truncateJSON(out, limit), true
}

// truncateJSON cuts text, which must be longer than limit, and adds the marker.
func truncateJSON(text []byte, limit int) string {
	if limit <= len(truncatedMarker) {
		return truncatedMarker[:limit]
	}
	cut := limit - len(truncatedMarker)
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return string(text[:cut]) + truncatedMarker
}

// redactJSON returns raw, which must be valid JSON, without white space between tokens
// and with the values of sensitive keys replaced. The result may share memory with raw.
// With a limit, the result ends shortly after it.
func redactJSON(raw []byte, limit int) []byte {
	var out []byte
	from, i := 0, 0 // raw[from:i] is not in out yet
	for i < len(raw) {
		switch raw[i] {
		case '"':
			end := stringEnd(raw, i)
			colon := rawjson.SkipSpace(raw, end)
			if colon == len(raw) || raw[colon] != ':' || !sensitiveKey(raw[i:end]) {
				i = end
				break
			}
			out = append(out, raw[from:end]...)
			out = append(out, `:"`+redacted+`"`...)
			i = valueEnd(raw, rawjson.SkipSpace(raw, colon+1))
			from = i
		case ' ', '\n', '\r', '\t':
			out = append(out, raw[from:i]...)
			i = rawjson.SkipSpace(raw, i)
			from = i
		default:
			i++
		}
		if limit >= 0 && len(out)+i-from > limit {
			i = from + max(0, min(i-from, limit+1-len(out)))
			break
		}
	}
	if out == nil {
		return raw[from:i]
	}
	return append(out, raw[from:i]...)
}

// stringEnd returns the index after the JSON string that begins at i of valid JSON.
func stringEnd(b []byte, i int) int {
	for j := i + 1; ; j++ {
		n := bytes.IndexByte(b[j:], '"')
		if n < 0 {
			return len(b)
		}
		j += n
		escapes := 0
		for b[j-1-escapes] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return j + 1
		}
	}
}

// valueEnd returns the index after the value that begins at i of valid JSON.
func valueEnd(b []byte, i int) int {
	depth := 0
	for i < len(b) {
		switch b[i] {
		case '"':
			if i = stringEnd(b, i); depth == 0 {
				return i
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i // after a number or a literal
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\n', '\r', '\t':
			if depth == 0 {
				return i
			}
		}
		i++
	}
	return i
}

// sensitiveKey reports whether the key, a raw JSON string, names a secret.
func sensitiveKey(raw []byte) bool {
	if bytes.IndexByte(raw, '\\') >= 0 {
		key, _ := rawjson.Unquote(raw)
		return secret.Named([]byte(key))
	}
	return secret.Named(raw[1 : len(raw)-1])
}
