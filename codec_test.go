package iii

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/iii-go/iii/internal/enginetest"
	"github.com/iii-go/iii/internal/rawjson"
)

const testID = "0c1f6f0e-6d6e-4c41-9d0e-6a7b7a3f2f10"

func encodeInvoke(b *buffer, inv *invocation, in any) error {
	err := encodeCall(b, inv, in)
	if err == nil {
		seal(b, triggerDialect{}, inv)
	}
	return err
}

func TestEncodeInvoke(t *testing.T) {
	id := uuid.MustParse(testID)
	enqueue := &TriggerAction{Action: ActionEnqueue{Type: TriggerActionTypeEnqueue, Queue: "q\"1"}}
	tests := []struct {
		name string
		inv  invocation
		in   any
		want InvokeFunctionMessage
	}{
		{"call", invocation{id: id, functionID: "a::b"}, map[string]any{"x": 1},
			InvokeFunctionMessage{FunctionID: "a::b", InvocationID: testID, Data: JSONValue(`{"x":1}`)}},
		{"void", invocation{functionID: "a::b", action: actionVoid}, []int{1},
			InvokeFunctionMessage{FunctionID: "a::b", Action: &TriggerAction{Action: ActionVoid{Type: TriggerActionTypeVoid}}, Data: JSONValue(`[1]`)}},
		{"enqueue", invocation{id: id, functionID: "a::b", action: actionEnqueue, queue: "q\"1"}, nil,
			InvokeFunctionMessage{FunctionID: "a::b", InvocationID: testID, Action: enqueue, Data: JSONValue(`null`)}},
		{"everything", invocation{id: id, functionID: "é\n\"\\\x00", namespace: "n s", traceparent: "00-t-01", baggage: "a=b\t", metadata: "m", hasMetadata: true}, json.RawMessage(`{ "a" : 1 }`),
			InvokeFunctionMessage{FunctionID: "é\n\"\\\x00", InvocationID: testID, Namespace: "n s", Traceparent: "00-t-01", Baggage: "a=b\t",
				Metadata: JSONValue(`"m"`), Data: JSONValue(`{ "a" : 1 }`)}},
		{"no HTML", invocation{id: id, functionID: "f"}, "<&>", InvokeFunctionMessage{FunctionID: "f", InvocationID: testID, Data: JSONValue(`"<&>"`)}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := newBuffer()
			defer b.free()
			if err := encodeInvoke(b, &test.inv, test.in); err != nil {
				t.Fatal(err)
			}
			if err := validate("InvokeFunctionMessage", b.bytes()); err != nil {
				t.Errorf("%s: %v", b, err)
			}
			var got InvokeFunctionMessage
			if err := json.Unmarshal(b.bytes(), &got); err != nil {
				t.Fatalf("%s: %v", b, err)
			}
			got.Type = ""
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", b, diff)
			}
		})
	}
}

func TestEncodeResult(t *testing.T) {
	b := newBuffer()
	defer b.free()
	if err := encodeResult(b, triggerDialect{}, []byte(testID), "f\"", map[string]int{"a": 1}); err != nil {
		t.Fatal(err)
	}
	want := `{"type":"invocationresult","invocation_id":"` + testID + `","function_id":"f\"","result":{"a":1}}`
	if b.String() != want {
		t.Errorf("result: %s\nwant    %s", b, want)
	}
	for _, stack := range []string{"", "line 1\nline 2"} {
		b.reset()
		encodeError(b, triggerDialect{}, []byte(testID), "f", "C\"", "m\xff", stack)
		if err := validate("InvocationResultMessage", b.bytes()); err != nil {
			t.Errorf("%s: %v", b, err)
		}
		var got InvocationResultMessage
		if err := json.Unmarshal(b.bytes(), &got); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if diff := cmp.Diff(&ErrorBody{Code: "C\"", Message: "m\ufffd", Stacktrace: stack}, got.Error); diff != "" {
			t.Errorf("error (-want +got):\n%s", diff)
		}
	}
}

// Encoding an invalid value returns an error and leaves the buffer unchanged and usable.
func TestEncodeRefuses(t *testing.T) {
	for name, v := range map[string]any{
		"channel": make(chan int), "function": func() {}, "NaN": nan(), "raw": json.RawMessage("{"), "empty raw": json.RawMessage{},
		"error": unencodable{}, "panic": panicJSON{}, "raw that is no UTF-8": json.RawMessage("\"\xff\""), "marshaler that is no UTF-8": latin1{},
		"nested": []any{1, panicJSON{}}, "key that is no UTF-8 inside raw": map[string]any{"a": json.RawMessage("{\"\xe9\":1}")},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBuffer()
			defer b.free()
			b.writeString("before")
			if err := b.value(v); err == nil {
				t.Errorf("encodes as %s", b)
			}
			if b.String() != "before" {
				t.Errorf("buffer holds %q after the error", b)
			}
			if err := b.value([]string{"<a>"}); err != nil || b.String() != `before["<a>"]` {
				t.Errorf("after the error: %s, %v", b, err)
			}
			if err := encodeInvoke(newBuffer(), &invocation{functionID: "f"}, v); err == nil {
				t.Error("no error for a payload")
			}
			if err := encodeInvoke(newBuffer(), &invocation{functionID: "f", hasMetadata: true, metadata: v}, nil); err == nil {
				t.Error("no error for metadata")
			}
		})
	}
}

func nan() float64 { zero := 0.0; return zero / zero }

// latin1 marshals to invalid UTF-8.
type latin1 struct{}

func (latin1) MarshalJSON() ([]byte, error) { return []byte("\"caf\xe9\""), nil }

func TestAppendID(t *testing.T) {
	for range 100 {
		id := newInvocationID()
		if got := string(appendID(nil, id)); got != id.String() {
			t.Fatalf("%s, want %s", got, id)
		}
		if back, ok := parseInvocationID(appendID(nil, id)); !ok || back != id {
			t.Fatalf("%s is parsed as %s, %v", id, back, ok)
		}
	}
	for _, text := range []string{"", "x", strings.Repeat("x", 36), strings.ReplaceAll(testID, "-", "_")} {
		if id, ok := parseInvocationID([]byte(text)); ok {
			t.Errorf("%q is parsed as %s", text, id)
		}
	}
}

// cut holds the parts of a message that parse extracts.
type cut struct {
	Kind                                                            messageType
	ID, Function, Data, Result, Err, Traceparent, Baggage, Metadata string
}

func cutOf(m *received) cut {
	return cut{m.kind, string(m.id), string(m.functionID), string(m.data), string(m.result), string(m.err), string(m.traceparent), string(m.baggage), string(m.metadata)}
}

func TestParse(t *testing.T) {
	tests := []struct {
		name, in string
		want     cut
	}{
		{"invoke", `{"type":"invokefunction","invocation_id":"` + testID + `","function_id":"a::b","data":{"x":1}}`,
			cut{Kind: messageInvoke, ID: testID, Function: `"a::b"`, Data: `{"x":1}`}},
		{"invoke with everything", `{"data":[ 1 ],"baggage":"b","traceparent":"t","metadata":{"m":1},"function_id":"a\"b","invocation_id":"` + testID + `","type":"invokefunction","new":{}}`,
			cut{Kind: messageInvoke, ID: testID, Function: `"a\"b"`, Data: `[ 1 ]`, Traceparent: `"t"`, Baggage: `"b"`, Metadata: `{"m":1}`}},
		{"invoke without an id", `{"type":"invokefunction","function_id":"f","data":1}`, cut{Kind: messageInvoke, Function: `"f"`, Data: `1`}},
		{"invoke with null", `{"type":"invokefunction","invocation_id":null,"function_id":"f","metadata":null}`, cut{Kind: messageInvoke, Function: `"f"`, Data: `null`}},
		{"result", `{"type":"invocationresult","invocation_id":"` + testID + `","result":{"a":[]}}`, cut{Kind: messageResult, ID: testID, Result: `{"a":[]}`}},
		{"result without one", `{"type":"invocationresult","invocation_id":"` + testID + `","error":null}`, cut{Kind: messageResult, ID: testID, Result: `null`}},
		{"error", `{"type":"invocationresult","invocation_id":"` + testID + `","error":{"code":"C","message":"m"},"result":null}`,
			cut{Kind: messageResult, ID: testID, Result: `null`, Err: `{"code":"C","message":"m"}`}},
		{"ping", `{"type":"ping"}`, cut{Kind: messagePing}},
		{"pong", ` { "type" : "pong" } `, cut{Kind: messagePong}},
		{"greeting", `{"type":"workerregistered","worker_id":"w"}`, cut{Kind: messageWorkerRegistered}},
		{"trigger result", `{"type":"triggerregistrationresult"}`, cut{Kind: messageTriggerResult}},
		{"trigger", `{"type":"registertrigger"}`, cut{Kind: messageRegisterTrigger}},
		{"trigger taken back", `{"type":"unregistertrigger"}`, cut{Kind: messageUnregisterTrigger}},
		{"rejection", `{"type":"registrationrejected"}`, cut{Kind: messageRejected}},
		{"auth error", `{"type":"error","error":{"code":"AUTH_ERROR","message":"no"}}`, cut{Kind: messageError, Err: `{"code":"AUTH_ERROR","message":"no"}`}},
		{"unknown", `{"type":"hello \u00e9"}`, cut{Kind: messageUnknown}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var m received
			if err := m.parse([]byte(test.in)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, cutOf(&m)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if m.kind == messageUnknown && string(m.tag) != `"hello \u00e9"` {
				t.Errorf("tag %q", m.tag)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for _, in := range append([]string{
		`{}`, `[]`, `null`, `"ping"`, `{"type":null}`, `{"type":1}`, `{"type":{"type":"ping"}}`, `{"type":""`,
		`{"type":"invokefunction"}`, `{"type":"invokefunction","function_id":1}`, `{"type":"invokefunction","function_id":null}`,
		`{"type":"invokefunction","function_id":"f","invocation_id":"x"}`, `{"type":"invokefunction","function_id":"f","invocation_id":7}`,
		`{"type":"invocationresult"}`, `{"type":"invocationresult","invocation_id":null}`, `{"type":"invocationresult","invocation_id":""}`,
	}, enginetest.InvalidJSON...) {
		var m received
		if err := m.parse([]byte(in)); err == nil {
			t.Errorf("%s: accepted as %+v", in, cutOf(&m))
		}
	}
}

// TestParseRecordings checks that parse and encoding/json find the same parts in recorded
// messages.
func TestParseRecordings(t *testing.T) {
	seen := map[messageType]int{}
	for _, frame := range recordedFrames(t) {
		if frame.sent || strings.HasPrefix(frame.file, "stream-socket") || !bytes.Contains(frame.raw, []byte(`"type"`)) {
			continue // only worker sockets use this protocol
		}
		var m received
		if err := m.parse(frame.raw); err != nil {
			t.Errorf("%s: %v", frame.at(), err)
			continue
		}
		seen[m.kind]++
		got := cutOf(&m)
		want := cut{Kind: m.kind}
		switch m.kind {
		case messageInvoke:
			var v InvokeFunctionMessage
			if err := json.Unmarshal(frame.raw, &v); err != nil {
				t.Fatalf("%s: %v", frame.at(), err)
			}
			got.Function, _ = rawjson.Unquote(m.functionID)
			got.Traceparent, _ = rawjson.Unquote(m.traceparent)
			got.Baggage, _ = rawjson.Unquote(m.baggage)
			want = cut{Kind: m.kind, ID: v.InvocationID, Function: v.FunctionID, Data: string(v.Data), Traceparent: v.Traceparent, Baggage: v.Baggage, Metadata: string(v.Metadata)}
		case messageResult:
			var v InvocationResultMessage
			if err := json.Unmarshal(frame.raw, &v); err != nil {
				t.Fatalf("%s: %v", frame.at(), err)
			}
			if v.Error != nil {
				var body ErrorBody
				if err := json.Unmarshal(m.err, &body); err != nil || body != *v.Error {
					t.Errorf("%s: error %s, want %+v", frame.at(), m.err, v.Error)
				}
			}
			if v.Result == nil {
				v.Result = JSONValue("null")
			}
			want = cut{Kind: m.kind, ID: v.InvocationID, Result: string(v.Result)}
			got.Err, got.Function, got.Traceparent, got.Baggage = "", "", "", ""
		case messageUnknown:
			t.Errorf("%s: unknown type %q", frame.at(), m.tag)
		default:
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", frame.at(), diff)
		}
	}
	for _, kind := range []messageType{messageInvoke, messageResult, messagePong, messageWorkerRegistered, messageTriggerResult, messageRegisterTrigger, messageRejected} {
		if seen[kind] == 0 {
			t.Errorf("no message of type %d in the recordings", kind)
		}
	}
}

func TestRemoteError(t *testing.T) {
	tests := []struct {
		raw  string
		want Error
	}{
		{`{"code":"C","message":"m","stacktrace":"s"}`, Error{Code: "C", Message: "m", Stacktrace: "s", FunctionID: "f", InvocationID: "i"}},
		{`{"code":"C","message":"m","stacktrace":null}`, Error{Code: "C", Message: "m", FunctionID: "f", InvocationID: "i"}},
		{`{}`, Error{FunctionID: "f", InvocationID: "i"}},
	}
	for _, test := range tests {
		var got *Error
		if err := remoteError([]byte(test.raw), "f", "i"); !errors.As(err, &got) {
			t.Fatalf("%s: %v", test.raw, err)
		}
		if diff := cmp.Diff(test.want, *got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.raw, diff)
		}
	}
	for _, raw := range []string{`"broken"`, `7`, `[]`, `{"code":1}`} {
		var got *Error
		if err := remoteError([]byte(raw), "f", "i"); !errors.As(err, &got) || got.Code != "UNKNOWN" || got.FunctionID != "f" {
			t.Errorf("%s: %v", raw, err)
		}
	}
}

func nestedLists(depth int) string {
	return strings.Repeat("[", depth) + strings.Repeat("]", depth)
}

// TestEncodeForEngine checks that the client rejects values that are valid JSON but would make
// the engine drop the message.
func TestEncodeForEngine(t *testing.T) {
	deep := any(1)
	for range 126 {
		deep = []any{deep}
	}
	huge := new(big.Int).Exp(big.NewInt(10), big.NewInt(400), nil)
	for name, v := range map[string]any{
		"half a pair": json.RawMessage(`"\ud800"`), "number": json.RawMessage(`{"a":1e400}`), "deep": []any{deep},
		"deep and raw": json.RawMessage(nestedLists(127)), "number inside": map[string]any{"a": json.Number("1e400")}, "big": huge,
	} {
		for what, encode := range map[string]func(*buffer) error{
			"payload": func(b *buffer) error { return encodeInvoke(b, &invocation{functionID: "f"}, v) },
			"metadata": func(b *buffer) error {
				return encodeInvoke(b, &invocation{functionID: "f", hasMetadata: true, metadata: v}, nil)
			},
			"result": func(b *buffer) error { return encodeResult(b, triggerDialect{}, []byte(testID), "f", v) },
			"registration": func(*buffer) error {
				raw, err := rawOf(v)
				if err != nil {
					t.Fatal(err)
				}
				err = checkMessage(RegisterFunctionMessage{ID: "f", Metadata: JSONValue(raw)})
				return err
			},
		} {
			b := newBuffer()
			if err := encode(b); err == nil {
				t.Errorf("%s: no error for a %s", name, what)
			}
			b.free()
		}
	}
	b := newBuffer()
	defer b.free()
	if err := encodeResult(b, triggerDialect{}, []byte(testID), "f", deep); err != nil {
		t.Errorf("126 levels of a result: %v", err)
	}
	if err := checkMessage(RegisterFunctionMessage{ID: "f", Metadata: JSONValue(nestedLists(126))}); err != nil {
		t.Errorf("126 levels of metadata: %v", err)
	}
}

// FuzzParse checks that parse does not panic on any message and extracts valid JSON. It also
// checks that parsing a message built from the extracted parts yields the same parts.
func FuzzParse(f *testing.F) {
	for _, seed := range enginetest.JSONSeeds {
		f.Add([]byte(seed))
	}
	for _, kind := range []string{"ping", "pong", "workerregistered", "error", "registrationrejected", "triggerregistrationresult", "x"} {
		f.Add([]byte(`{"type":"` + kind + `","function_id":null,"metadata":{"a":[]},"traceparent":"t","baggage":"b"}`))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m received
		if m.parse(b) != nil {
			return
		}
		if m.kind != messageInvoke && m.kind != messageResult {
			return
		}
		again := append([]byte(`{"type":"`), []string{messageInvoke: "invokefunction", messageResult: "invocationresult"}[m.kind]...)
		again = append(again, '"')
		if len(m.id) > 0 {
			again = append(append(append(again, `,"invocation_id":"`...), m.id...), '"')
		}
		for _, part := range []struct {
			key string
			raw []byte
		}{{"function_id", m.functionID}, {"data", m.data}, {"result", m.result}, {"error", m.err}, {"traceparent", m.traceparent}, {"baggage", m.baggage}, {"metadata", m.metadata}} {
			if len(part.raw) == 0 {
				continue
			}
			if !json.Valid(part.raw) {
				t.Fatalf("%q: %s is not JSON: %q", b, part.key, part.raw)
			}
			again = append(append(append(append(again, `,"`...), part.key...), `":`...), part.raw...)
		}
		var second received
		if err := second.parse(append(again, '}')); err != nil {
			t.Fatalf("%q made %q: %v", b, again, err)
		}
		if diff := cmp.Diff(cutOf(&m), cutOf(&second)); diff != "" {
			t.Errorf("%q (-first +second):\n%s", b, diff)
		}
	})
}

// A large buffer stays pooled only while messages need its capacity.
func TestBuffersWorthKeeping(t *testing.T) {
	use := func(b *buffer, size int) bool {
		b.reset()
		b.p = append(b.p, make([]byte, size)...)
		return b.poolable()
	}
	large := new(buffer)
	for i := range 3 * maxIdleUses {
		if !use(large, 1<<20) || i%2 == 0 && !use(large, 100) {
			t.Fatalf("use %d: a buffer that is still needed is released", i)
		}
	}
	kept := 0
	for use(large, 100) {
		kept++
	}
	if kept != maxIdleUses {
		t.Errorf("a large buffer is kept for %d small messages, want %d", kept, maxIdleUses)
	}
	if use(new(buffer), maxPooledBuffer+1) {
		t.Error("a huge buffer is kept")
	}
	small := new(buffer)
	for range 3 * maxIdleUses {
		if !use(small, 1) {
			t.Fatal("a small buffer is released")
		}
	}
}

const (
	benchInvoke = `{"type":"invokefunction","invocation_id":"0c1f6f0e-6d6e-4c41-9d0e-6a7b7a3f2f10","function_id":"orders::place",` +
		`"data":{"id":7,"buyer":"ann","lines":["book","pen"],"_caller_worker_id":"975d6453-cd80-4c5a-8a14-ce0551566196"},` +
		`"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}`
	benchResult = `{"type":"invocationresult","invocation_id":"0c1f6f0e-6d6e-4c41-9d0e-6a7b7a3f2f10","function_id":"orders::place",` +
		`"result":{"id":7,"buyer":"ann","lines":["book","pen"]}}`
)

func BenchmarkEncode(b *testing.B) {
	payload := struct {
		ID    int      `json:"id"`
		Buyer string   `json:"buyer"`
		Lines []string `json:"lines"`
	}{7, "ann", []string{"book", "pen"}}
	inv := invocation{id: newInvocationID(), functionID: "orders::place"}
	id := []byte(`"0c1f6f0e-6d6e-4c41-9d0e-6a7b7a3f2f10"`)
	for name, encode := range map[string]func(*buffer) error{
		"invoke": func(buf *buffer) error { return encodeInvoke(buf, &inv, &payload) },
		"result": func(buf *buffer) error { return encodeResult(buf, triggerDialect{}, id, "orders::place", &payload) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				buf := newBuffer()
				if err := encode(buf); err != nil {
					b.Fatal(err)
				}
				buf.free()
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	for name, message := range map[string]string{"invoke": benchInvoke, "result": benchResult} {
		b.Run(name, func(b *testing.B) {
			raw := []byte(message)
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				var m received
				if err := m.parse(raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// marking is a JSONCodec that encodes each value as {"marked": value}.
type marking struct{}

func (marking) Marshal(v any) ([]byte, error) {
	switch v {
	case "panic":
		panic("no")
	case "invalid":
		return []byte(`{"a":`), nil
	case "no UTF-8":
		return []byte("\"\xff\""), nil
	case "half":
		return []byte(`"\ud800"`), nil
	}
	return json.Marshal(map[string]any{"marked": v})
}

func (marking) Unmarshal(b []byte, v any) error {
	var m struct{ Marked json.RawMessage }
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	if m.Marked == nil {
		panic("not marked")
	}
	return json.Unmarshal(m.Marked, v)
}

// strict is a JSONCodec that rejects members for which a struct has no field.
type strict struct{}

func (strict) Marshal(v any) ([]byte, error) { return json.Marshal(v) }

func (strict) Unmarshal(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return d.Decode(v)
}

// The engine adds the caller's worker id to payloads. A codec must see this key only if the
// handler's input type has a field for it.
func TestWithJSONHidesTheCaller(t *testing.T) {
	type order = struct{ N int } // aliases: types declared in package iii bypass the codec
	type stamped = struct {
		N      int
		Caller string `json:"_caller_worker_id"`
	}
	p := newPeer(t, script{})
	c := p.client(WithJSON(strict{}))
	_, err := Handle(c, "plain", func(_ context.Context, in order) (int, error) { return in.N, nil })
	_, err2 := Handle(c, "pointer", func(_ context.Context, in *order) (int, error) { return in.N, nil })
	_, err3 := Handle(c, "stamped", func(_ context.Context, in *stamped) (string, error) { return in.Caller, nil })
	if err := errors.Join(err, err2, err3, c.Connect(t.Context())); err != nil {
		t.Fatal(err)
	}
	for function, want := range map[string]string{"plain": "2", "pointer": "2", "stamped": `"w"`} {
		if m := p.answered(p.conn(0).invoke(function, `{"N":2,"_caller_worker_id":"w"}`)); string(m.Result) != want {
			t.Errorf("%s: result %s, error %v, want %s", function, m.Result, m.Error, want)
		}
	}
	if m := p.answered(p.conn(0).invoke("plain", `{"N":2,"M":3}`)); m.Error == nil || m.Error.Code != CodeInvalidRequest {
		t.Errorf("unknown member: result %s, error %v, want invalid_request", m.Result, m.Error)
	}
}

func TestWithJSONEncodesUsersValues(t *testing.T) {
	type item = map[string]int // an alias: types declared in package iii bypass the codec
	p := newPeer(t, script{call: func(_ *peerConn, m *peerMessage) string {
		switch m.FunctionID {
		case "state::set":
			return `{"old_value":null,"new_value":{"marked":{"N":3}}}`
		case "state::get":
			return `{"marked":{"N":3}}`
		}
		return string(m.Data)
	}})
	c := p.client(WithJSON(marking{}))
	double := func(_ context.Context, in item) (item, error) { return item{"N": 2 * in["N"]}, nil }
	if _, err := Handle(c, "typed", double); err != nil {
		t.Fatal(err)
	}
	if _, err := Handle(c, "own", func(_ context.Context, in StateGetInput) (StateGetInput, error) { return in, nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := c.HandleFunc("raw", echo); err != nil {
		t.Fatal(err)
	}
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ function, payload, want string }{
		{"typed", `{"marked":{"N":2}}`, `{"marked":{"N":4}}`},
		{"own", `{"scope":"s","key":"k"}`, `{"key":"k","scope":"s"}`},
		{"raw", ` {"N": 2}`, `{"N": 2}`},
	} {
		if m := p.answered(p.conn(0).invoke(test.function, test.payload)); string(m.Result) != test.want {
			t.Errorf("%s returns %s, error %v", test.function, m.Result, m.Error)
		}
	}
	m := p.answered(p.conn(0).invoke("typed", `{"N":2}`))
	if m.Error == nil || m.Error.Code != CodeInvalidRequest || !strings.Contains(m.Error.Message, "decoding panics: not marked") {
		t.Errorf("panic of the decoder: result %s, error %v", m.Result, m.Error)
	}

	var raw json.RawMessage
	if err := c.Call(t.Context(), "remote", item{"N": 1}, &raw, WithMetadata(item{"N": 9})); err != nil || string(raw) != `{"marked":{"N":1}}` {
		t.Errorf("call: the engine has received %s, error %v", raw, err)
	}
	if out, err := Call[[]item](t.Context(), c, "remote", []item{{"N": 1}, {"N": 2}}); err != nil || len(out) != 2 || out[1]["N"] != 2 {
		t.Errorf("call: %v, error %v", out, err)
	}
	if err := c.Call(t.Context(), "remote", json.RawMessage(`[1]`), &raw); err != nil || string(raw) != `[1]` {
		t.Errorf("raw call: %s, error %v", raw, err)
	}
	state := NewState[item](c, "s")
	if r, err := state.Set(t.Context(), "k", item{"N": 3}); err != nil || r.New["N"] != 3 || r.HadOld {
		t.Errorf("set: %+v, error %v", r, err)
	}
	if v, ok, err := state.Get(t.Context(), "k"); err != nil || !ok || v["N"] != 3 {
		t.Errorf("get: %+v, %v, error %v", v, ok, err)
	}
	for _, text := range []string{"panic", "invalid", "no UTF-8", "half"} {
		if err := c.Call(t.Context(), "remote", text, nil); err == nil {
			t.Errorf("%s: no error", text)
		}
	}
}
