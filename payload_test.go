package iii

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

// The path in a decoding error is meant for the caller, so it consists of JSON keys rather
// than Go field names.
func TestPayloadErrorNamesTheField(t *testing.T) {
	type line struct {
		Quantity int `json:"quantity"`
	}
	type order struct {
		Lines []line           `json:"lines"`
		Tags  map[string][]int `json:"tags"`
		When  []*time.Time     `json:"when"`
		Named map[int]string
	}
	type embedded struct {
		order
		Ops []UpdateOp `json:"ops"`
	}
	for _, test := range []struct {
		name, payload, want string
		into                any
	}{
		{"field", `{"quantity":"two"}`, "payload at quantity: got string, want integer (int)", new(line)},
		{"nested", `{"lines":[{"quantity":true}]}`, "payload at lines[0].quantity: got bool, want integer (int)", new(order)},
		{"index", `{"lines":[{"quantity":1},{"quantity":2},{"quantity":"x"},{"quantity":[]}]}`, "payload at lines[2].quantity: got string, want integer (int)", new(order)},
		{"list", `[[1],[2,"x"]]`, "payload at [1][1]: got string, want integer (int)", new([][]int)},
		{"map key", `{"tags":{"b":[1],"a b":[2,true]}}`, `payload at tags["a b"][1]: got bool, want integer (int)`, new(order)},
		{"map key that is no integer", `{"named":{"1":"a","x":"b"}}`, `payload at named["x"]: got number, want integer (int)`, new(order)},
		{"error of a type's own", `{"when":["2026-11-25T00:00:00Z","today"]}`, `payload at when[1]: `, new(order)},
		{"time", `{"when":["s3cret"]}`, `payload at when[0]: want a date and time in RFC 3339 format`, new(order)},
		{"object that a type's own decoding rejects", `{"when":[{"a":1}]}`, `payload at when[0]: `, new(order)},
		{"list that a type's own decoding rejects", `{"when":[[1]]}`, `payload at when[0]: `, new(order)},
		{"long error of a type's own", `"` + strings.Repeat("é", 1000) + `"`, `payload: no ` + strings.Repeat("é", 98) + "…", new(rejects)},
		{"embedded", `{"ops":[],"tags":{"a":7}}`, `payload at tags["a"]: got number, want array`, new(embedded)},
		{"union", `{"ops":[{"type":"set","path":"a","value":1},{"type":"set","path":7}]}`, `payload at ops[1].path: got number, want `, new(embedded)},
		{"large", `{"lines":7,"x":"` + strings.Repeat("x", maxLocated) + `"}`, "payload at lines: got number, want array", new(order)},
		{"parts that panic", `{"a":1,"b":"x"}`, "payload: no", new(wholeOnly)},
		{"fraction", `{"lines":[{"quantity":1.5}]}`, "payload at lines[0].quantity: got number, want integer (int)", new(order)},
		{"list in an HTTP body", `{"body":[{"quantity":1},{"quantity":"two"}]}`, "payload at body[1].quantity: got string, want integer (int)", new(HTTPRequest[[]line])},
		{"HTTP body", `{"method":"POST","body":{"quantity":"two"}}`, "payload at body.quantity: got string, want integer (int)", new(HTTPRequest[line])},
		{"not an object", `[1]`, "payload: got array, want object", new(line)},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := new(config).decodePayload(json.RawMessage(test.payload), test.into)
			var e *Error
			if !errors.As(err, &e) || e.Code != "invalid_request" || !strings.Contains(e.Message, test.want) || strings.Contains(e.Message, "plain") {
				t.Errorf("error = %v, want code invalid_request and %q", err, test.want)
			}
		})
	}
}

// rejects is a type that no string can be decoded into. The error contains the string.
type rejects struct{}

func (*rejects) UnmarshalText(text []byte) error { return errors.New("no " + string(text)) }

// wholeOnly cannot be decoded. UnmarshalJSON even panics if its input does not contain "b".
type wholeOnly map[string]any

func (w *wholeOnly) UnmarshalJSON(b []byte) error {
	if !strings.Contains(string(b), "b") {
		panic("no b")
	}
	return errors.New("no")
}

// FuzzDecodePayload checks that decodePayload agrees with encoding/json on whether a payload
// is valid, and that its error locates the invalid part.
func FuzzDecodePayload(f *testing.F) {
	type node struct {
		Next *node            `json:"next"`
		List []node           `json:"list"`
		Map  map[string]node  `json:"map"`
		Keys map[int8]float32 `json:"keys"`
		Ops  []UpdateOp       `json:"ops"`
		Text string           `json:",string"`
	}
	for _, seed := range []string{`{"next":{"list":[{"map":{"a":{"keys":{"1":1,"300":2}}}}]}}`, `{"ops":[{"type":"set","path":7}]}`, `[1]`, `{"Text":"x"}`, `{"LIST":[{},7]}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		if !json.Valid(payload) {
			return
		}
		want := json.Unmarshal(payload, new(node))
		got := new(config).decodePayload(payload, new(node))
		var e *Error
		if (got == nil) != (want == nil) || got != nil && (!errors.As(got, &e) || e.Code != CodeInvalidRequest || !strings.HasPrefix(e.Message, "payload")) {
			t.Errorf("%s: %v; encoding/json returns %v", payload, got, want)
		}
	})
}

func TestWithoutCallerRemovesTheMemberOfTheTop(t *testing.T) {
	for payload, want := range map[string]string{
		`{"_caller_worker_id":"w"}`:                                    `{}`,
		`{"_caller_worker_id":"w","a":1}`:                              `{"a":1}`,
		`{"a":1,"_caller_worker_id":"w"}`:                              `{"a":1}`,
		`{"a":1,"_caller_worker_id":"w","b":2}`:                        `{"a":1,"b":2}`,
		" { \"a\" : [ 1 ] ,\n\"_caller_worker_id\" : \"w\" , \"b\":2}": `{"a":[ 1 ],"b":2}`,
		`{"_caller_worker_id":"w","a":1,"_caller_worker_id":"v"}`:      `{"a":1}`,
		`{"\u005fcaller\u005fworker_id":"w","a":1}`:                    `{"a":1}`,
		`{"_caller_worker_id":{"_caller_worker_id":1},"\u0061":"\""}`:  `{"\u0061":"\""}`,
	} {
		if got := string(withoutCaller(json.RawMessage(payload))); got != want {
			t.Errorf("%s: got %s, want %s", payload, got, want)
		}
	}
	for _, payload := range []string{
		``, ` `, `null`, `1`, `"_caller_worker_id"`, `["_caller_worker_id"]`, `{}`, ` { } `,
		`{"a":{"_caller_worker_id":"w"}}`, `{"_caller_worker_id\u0000":1}`, `{"_CALLER_WORKER_ID":1}`,
	} {
		before := json.RawMessage(payload)
		got := withoutCaller(before)
		if string(got) != payload || len(got) > 0 && &got[0] != &before[0] {
			t.Errorf("%s: got %s, want the same bytes", payload, got)
		}
	}
}

// A payload is searched for _caller_worker_id only if that key could affect how the target
// type is decoded.
func TestPlainStructsIgnoreTheCaller(t *testing.T) {
	type plain struct {
		Values  map[string]int
		Any     any
		Decoder json.RawMessage
	}
	type embeds struct {
		plain
		*ErrorBody
	}
	for _, v := range []any{new(plain), new(*plain), new(embeds), new(struct{}), new([]map[string]int), new(string), new([]byte), new(*int), new(error)} {
		if in := reflect.TypeOf(v).Elem(); mustRemoveCaller(in, false) {
			t.Errorf("payloads for %v are searched", in)
		}
	}
	type inlined struct {
		Rest map[string]int `json:",inline"` // encoding/json/v2 puts unknown members here
	}
	for _, v := range []any{new(map[string]int), new(*map[int]any), new(any), new(json.RawMessage), new(wholeOnly), new(**wholeOnly), new(inlined)} {
		if in := reflect.TypeOf(v).Elem(); !mustRemoveCaller(in, false) {
			t.Errorf("payloads for %v are not searched", in)
		}
	}
}
