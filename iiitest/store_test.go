package iiitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/gorilla/websocket"
)

// peer is a minimal worker that records calls and replies to them.
type peer struct {
	t    testing.TB
	conn *websocket.Conn
	done chan struct{}

	mu       sync.Mutex
	handlers map[string]func(data []byte) string
	got      []string
	waiting  map[string]chan peerFrame
}

type peerFrame struct {
	Type         string           `json:"type"`
	ID           string           `json:"id"`
	InvocationID string           `json:"invocation_id"`
	FunctionID   string           `json:"function_id"`
	Data         json.RawMessage  `json:"data"`
	Metadata     json.RawMessage  `json:"metadata"`
	Traceparent  string           `json:"traceparent"`
	Result       json.RawMessage  `json:"result"`
	Error        *wireError       `json:"error"`
	Other        *json.RawMessage `json:"baggage"`
}

// inBubbleWith runs f in a synctest bubble with an engine and a worker.
func inBubbleWith(t *testing.T, f func(t *testing.T, e *Engine, p *peer), opts ...Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := Start(t, opts...)
		f(t, e, newPeer(t, e))
	})
}

func newPeer(t testing.TB, e *Engine) *peer {
	t.Helper()
	dialer := websocket.Dialer{NetDialContext: e.DialContext}
	conn, _, err := dialer.DialContext(t.Context(), e.URL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{
		t: t, conn: conn, done: make(chan struct{}),
		handlers: map[string]func([]byte) string{}, waiting: map[string]chan peerFrame{},
	}
	go p.read()
	t.Cleanup(p.close)
	p.call("engine::workers::register", `{"name":"`+uuid.NewString()+`"}`)
	return p
}

func (p *peer) close() {
	_ = p.conn.Close()
	<-p.done
}

func (p *peer) read() {
	defer close(p.done)
	for {
		_, message, err := p.conn.ReadMessage()
		if err != nil {
			p.mu.Lock()
			defer p.mu.Unlock()
			for _, answer := range p.waiting {
				close(answer)
			}
			p.waiting = nil
			return
		}
		var f peerFrame
		if err := json.Unmarshal(message, &f); err != nil {
			p.t.Errorf("%v in %s", err, message)
			continue
		}
		switch f.Type {
		case "invocationresult":
			p.mu.Lock()
			answer := p.waiting[f.InvocationID]
			delete(p.waiting, f.InvocationID)
			p.mu.Unlock()
			if answer != nil {
				answer <- f
			}
		case "invokefunction":
			p.answer(f)
		case "triggerregistrationresult":
			p.note(f.ID + " refused: " + f.Error.Code + ": " + f.Error.Message)
		}
	}
}

func (p *peer) note(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got = append(p.got, line)
}

// answer records an invocation and replies with the handler's return value: a result, "" for
// no result, or "!code" for an error.
func (p *peer) answer(f peerFrame) {
	line := f.FunctionID + " " + string(f.Data)
	if f.Metadata != nil {
		line += " metadata " + string(f.Metadata)
	}
	p.note(line)
	p.mu.Lock()
	handler := p.handlers[f.FunctionID]
	p.mu.Unlock()
	reply := message("invocationresult").str("invocation_id", f.InvocationID).str("function_id", f.FunctionID)
	if handler != nil {
		if result := handler(f.Data); strings.HasPrefix(result, "!") {
			reply.raw("error", errorJSON(errorBody(result[1:], "the handler says no")))
		} else if result != "" {
			reply.raw("result", json.RawMessage(result))
		}
	}
	_ = p.write(string(reply.bytes())) // fails if the engine has closed
}

func (p *peer) send(message string) {
	p.t.Helper()
	if err := p.write(message); err != nil {
		p.t.Errorf("send: %v", err)
	}
}

func (p *peer) write(message string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn.WriteMessage(websocket.TextMessage, []byte(message))
}

// handle registers a function with a constant return value; see answer.
func (p *peer) handle(id, result string) {
	p.t.Helper()
	p.handleFunc(id, func([]byte) string { return result })
}

func (p *peer) handleFunc(id string, f func([]byte) string) {
	p.t.Helper()
	p.mu.Lock()
	p.handlers[id] = f
	p.mu.Unlock()
	p.send(`{"type":"registerfunction","id":"` + id + `"}`)
}

// trigger registers a trigger. extra contains additional members of the message, each preceded
// by a comma.
func (p *peer) trigger(id, typ, functionID, config, extra string) {
	p.t.Helper()
	p.send(fmt.Sprintf(`{"type":"registertrigger","id":%q,"trigger_type":%q,"function_id":%q,"config":%s%s}`, id, typ, functionID, config, extra))
}

// call calls a function. It returns the result, "" for no result, or "!code: message" for an
// error.
func (p *peer) call(id, data string) string {
	p.t.Helper()
	invocation, answer := uuid.NewString(), make(chan peerFrame, 1)
	p.mu.Lock()
	if p.waiting == nil {
		p.mu.Unlock()
		p.t.Fatalf("%s: the connection is closed", id)
	}
	p.waiting[invocation] = answer
	p.mu.Unlock()
	p.send(`{"type":"invokefunction","invocation_id":"` + invocation + `","function_id":"` + id + `","data":` + data + `}`)
	select {
	case f, ok := <-answer:
		switch {
		case !ok:
			p.t.Fatalf("%s: the connection broke", id)
		case f.Error != nil:
			return "!" + f.Error.Code + ": " + f.Error.Message
		}
		return string(f.Result)
	case <-time.After(time.Minute):
		p.t.Fatalf("%s: no answer", id)
	}
	return ""
}

// fence waits until all earlier registrations are complete.
func (p *peer) fence() {
	p.t.Helper()
	p.call("engine::functions::list", `{}`)
}

// take waits until the bubble is idle and returns the calls since the previous take, in order.
func (p *peer) take() []string {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	got := p.got
	p.got = nil
	return got
}

func (p *peer) wantCalls(want ...string) {
	p.t.Helper()
	if diff := cmp.Diff(want, p.take()); diff != "" {
		p.t.Errorf("called (-want +got):\n%s", diff)
	}
}

func (p *peer) want(want, id, data string) {
	p.t.Helper()
	if diff := cmp.Diff(want, p.call(id, data)); diff != "" {
		p.t.Errorf("%s %s (-want +got):\n%s", id, data, diff)
	}
}

// TestUpdateVectors applies the recorded operations to state and to a stream.
func TestUpdateVectors(t *testing.T) {
	type vector struct {
		Name           string          `json:"name"`
		Initial        json.RawMessage `json:"initial"`
		InitialMissing bool            `json:"initial_missing"`
		Ops            json.RawMessage `json:"ops"`
		Result         json.RawMessage `json:"result"`
		Error          *wireError      `json:"error"` // instead of a result
		Stored         json.RawMessage `json:"stored"`
	}
	var vectors []vector
	for name, want := range map[string]int{"update-vectors.json": 88, "update-vectors-2.json": 300} {
		file, err := os.ReadFile("../testdata/0.23/" + name)
		if err != nil {
			t.Fatal(err)
		}
		var list []vector
		if err := json.Unmarshal(file, &list); err != nil {
			t.Fatal(err)
		}
		if len(list) != want {
			t.Errorf("%d vectors in %s, want %d", len(list), name, want)
		}
		vectors = append(vectors, list...)
	}
	p := newPeer(t, Start(t))
	stores := []struct{ name, item, value string }{
		{"state", `"scope":"vectors","key":%s`, "value"},
		{"stream", `"stream_name":"vectors","group_id":"g","item_id":%s`, "data"},
	}
	for _, store := range stores {
		for _, v := range vectors {
			t.Run(store.name+"/"+v.Name, func(t *testing.T) {
				item := fmt.Sprintf(store.item, mustEncode(v.Name))
				if !v.InitialMissing {
					p.call(store.name+"::set", `{`+item+`,"`+store.value+`":`+string(v.Initial)+`}`)
				}
				got := p.call(store.name+"::update", `{`+item+`,"ops":`+string(v.Ops)+`}`)
				want := ""
				if v.Error != nil {
					want = "!" + v.Error.Code + ": " + strings.Replace(v.Error.Message, " state::", " "+store.name+"::", 1)
				} else {
					want = withSortedKeys(t, v.Result)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("result (-want +got):\n%s", diff)
				}
				got = p.call(store.name+"::get", `{`+item+`}`)
				if diff := cmp.Diff(withSortedKeys(t, v.Stored), got); diff != "" {
					t.Errorf("stored (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// withSortedKeys re-encodes a document with encoding/json, which sorts keys as the engine
// does.
func withSortedKeys(t testing.TB, doc []byte) string {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(doc))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestUpdateRejectsInvalidOperations(t *testing.T) {
	tests := []struct{ ops, detail string }{
		{`{}`, "invalid type: map, expected a sequence"},
		{`[null]`, "invalid type: null, expected internally tagged enum UpdateOp"},
		{`[{}]`, "missing field `type`"},
		{`[{"type":"SET","path":"a"}]`, "unknown variant `SET`, expected one of `set`, `merge`, `increment`, `decrement`, `append`, `remove`"},
		{`[{"type":"set"}]`, "missing field `path`"},
		{`[{"type":"set","path":["a"]}]`, "invalid type: sequence, expected a string"},
		{`[{"type":"increment","path":1,"by":"x"}]`, "invalid type: string \"x\", expected i64"},
		{`[["increment",1,"x"]]`, "invalid type: integer `1`, expected a string"},
		{`[["set","a",1,2]]`, "invalid length 3, expected 2 elements in sequence"},
		{`[["append",1,1]]`, "data did not match any variant of untagged enum MergePath"},
		{`[{"type":"remove","path":null}]`, "invalid type: null, expected a string"},
		{`[{"type":"increment","path":"a"}]`, "missing field `by`"},
		{`[{"type":"increment","path":"a","by":1.0}]`, "invalid type: floating point `1.0`, expected i64"},
		{`[{"type":"decrement","path":"a","by":"1"}]`, "invalid type: string \"1\", expected i64"},
		{`[{"type":"decrement","path":"a","by":9223372036854775808}]`, "invalid value: integer `9223372036854775808`, expected i64"},
		{`[{"type":"merge"}]`, "missing field `value`"},
		{`[{"type":"append","path":"a"}]`, "missing field `value`"},
		{`[{"type":"merge","path":1,"value":{}}]`, "data did not match any variant of untagged enum MergePath"},
		{`[{"type":"append","path":["a",1],"value":{}}]`, "data did not match any variant of untagged enum MergePath"},
		{`[{"type":"append","path":["a",null],"value":{}}]`, "data did not match any variant of untagged enum MergePath"},
	}
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		for _, test := range tests {
			p.want("!deserialization_error: Failed to deserialize input for state::update: "+test.detail,
				"state::update", `{"scope":"s","key":"k","ops":`+test.ops+`}`)
			p.want("!deserialization_error: Failed to deserialize input for stream::update: "+test.detail,
				"stream::update", `{"stream_name":"s","group_id":"g","item_id":"i","ops":`+test.ops+`}`)
		}
		p.want("!deserialization_error: Failed to deserialize input for state::update: missing field `ops`",
			"state::update", `{"scope":"s","key":"k"}`)
		// The engine checks present members in key order, ops before scope. Missing members
		// are reported last.
		p.want("!deserialization_error: Failed to deserialize input for state::update: missing field `type`",
			"state::update", `{"scope":1,"ops":[{}]}`)
		p.want("!deserialization_error: Failed to deserialize input for state::update: invalid type: integer `1`, expected a string",
			"state::update", `{"scope":1,"ops":[]}`)
		p.want("!deserialization_error: Failed to deserialize input for engine::traces::group_by: invalid type: null, expected a string",
			"engine::traces::group_by", `{"attribute":null}`)
		p.want("", "state::get", `["s","k"]`)
		p.want(`{"new_value":[[],null],"old_value":null}`, "state::update",
			`{"scope":"s","key":"k","ops":[{"type":"append","path":null,"value":[]},{"type":"append","path":[],"value":null}]}`)
	})
}

func FuzzDecodeOps(f *testing.F) {
	f.Add([]byte(`{"type":"set","path":"a","value":1}`))
	f.Add([]byte(`{"type":"append","path":["a",null],"value":{}}`))
	f.Add([]byte(`["merge",["a","b"],{}]`))
	f.Add([]byte(`{"type":"increment","path":"a","by":1e3}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if checkJSON(raw) != nil {
			return
		}
		var ops, again updateOps
		if ops.decodeStrict(slices.Concat([]byte("["), raw, []byte("]"))) != "" {
			return
		}
		encoded, err := json.Marshal(ops)
		if err != nil {
			t.Fatalf("%s was accepted: %v", raw, err)
		}
		if detail := again.decodeStrict(encoded); detail != "" {
			t.Fatalf("%s became %s: %s", raw, encoded, detail)
		}
		reencoded, err := json.Marshal(again)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(encoded), string(reencoded)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}
