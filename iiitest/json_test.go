package iiitest

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestCanonical(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{` 1 `, `1`},
		{`9007199254740993`, `9007199254740993`},
		{`[1e-07 ,-0.50,1E5,-0]`, `[1e-7,-0.5,100000.0,-0.0]`},
		{`{"n":18446744073709551616,"m":18446744073709551615}`, `{"m":18446744073709551615,"n":1.8446744073709552e+19}`},
		{`-9223372036854775809`, `-9.223372036854776e+18`},
		{`"\u2028\u2029\\u2028\u007f\u0008\u001f"`, "\"\u2028\u2029\\\\u2028\u007f\\b\\u001f\""},
		{`{"b":1, "a":{"d":[ {"z":null,"y":true} ],"c":"x"}, "B":""}`, `{"B":"","a":{"c":"x","d":[{"y":true,"z":null}]},"b":1}`},
		{`{"a":1,"a":2}`, `{"a":2}`},
		{`"\u00e9\n\/<>&"`, `"é\n/<>&"`},
		{`{"\u0061":"\u0041","é":1}`, `{"a":"A","é":1}`},
		{`[]`, `[]`},
		{`{}`, `{}`},
		{`[ ]`, `[]`},
		{`[{ }]`, `[{}]`},
		{`{"a\"}":"]"}`, `{"a\"}":"]"}`},
	} {
		if got, err := canonical(json.RawMessage(test.in)); err != nil || string(got) != test.want {
			t.Errorf("%s: got %s, %v, want %s", test.in, got, err, test.want)
		}
	}
	for _, in := range []string{``, `{`, `1 2`, `nul`, `{"a"}`, "\"\xff\"", strings.Repeat("[", 128) + strings.Repeat("]", 128)} {
		if got, err := canonical(json.RawMessage(in)); err == nil {
			t.Errorf("%q: got %s, want an error", in, got)
		}
	}
}

func TestWithKey(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{`{}`, `{"k":[1]}`},
		{`{"l":2}`, `{"k":[1],"l":2}`},
		{`{"a":{"k":3,"z":0},"j":"k"}`, `{"a":{"k":3,"z":0},"j":"k","k":[1]}`},
		{`{"a":1,"z":2}`, `{"a":1,"k":[1],"z":2}`},
		{`{"k":{"k":1}}`, `{"k":[1]}`},
		{`{"a":1,"k":"}","z":2}`, `{"a":1,"k":[1],"z":2}`},
		{`{"k":0,"z":2}`, `{"k":[1],"z":2}`},
		{`{"a":1,"k":0}`, `{"a":1,"k":[1]}`},
		{`{"\n":1,"\"}":2}`, `{"\n":1,"\"}":2,"k":[1]}`},
		{`[{}]`, `[{}]`},
		{`null`, `null`},
	} {
		if got := string(withKey(json.RawMessage(test.in), "k", json.RawMessage(`[1]`))); got != test.want {
			t.Errorf("%s: got %s, want %s", test.in, got, test.want)
		}
	}
}

// FuzzCanonical compares canonical with encoding/json.
func FuzzCanonical(f *testing.F) {
	for _, s := range []string{`{"b":[1,{"a":"\u00e9"}],"a":null}`, `"\ud800"`, `[1e400,-0]`, `{"a":1,"a":{}}`, `  true`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := canonical(data)
		if err != nil {
			return
		}
		if !json.Valid(got) {
			t.Fatalf("%q became %q", data, got)
		}
		d := json.NewDecoder(strings.NewReader(string(data)))
		d.UseNumber()
		var v any
		if err := d.Decode(&v); err != nil {
			return
		}
		want, err := canonical(mustEncode(v))
		if err != nil || string(want) != string(got) {
			t.Fatalf("%q: got %s, from its value %s, %v", data, got, want, err)
		}
	})
}

func TestEncodeEscapesOnlyWhatJSONRequires(t *testing.T) {
	const text = "<&>\u2028\u2029\\u2028\x7f\b\f\n\r\t\x01\"é\xff"
	const want = `"<&>` + "\u2028\u2029" + `\\u2028` + "\x7f" + `\b\f\n\r\t\u0001\"é` + "\ufffd" + `"`
	if got := string(mustEncode(text)); got != want {
		t.Errorf("text: got %s, want %s", got, want)
	}
	if got := string(mustEncode(map[string]any{text: []string{text}})); got != "{"+want+":["+want+"]}" {
		t.Errorf("inside a value: got %s", got)
	}
}

// A message with a duplicate known key is rejected. An array in place of an object is
// accepted.
func TestDecodeMessage(t *testing.T) {
	for _, test := range []struct {
		message string
		ok      bool
	}{
		{`{"type":"invokefunction","function_id":"f","data":{"a":1,"a":2},"extra":1,"extra":2}`, true},
		{`{"type":"invokefunction","function_id":"f","data":1,"data":2}`, false},
		{`{"type":"invokefunction","function_id":"f","function_id":"f","data":1}`, false},
		{`{"type":"invokefunction","function_id":"f","data":1,"type":"invokefunction"}`, false},
		{`{"type":"invokefunction","function_id":"f","data":1,"d\u0061ta":2}`, false},
		{`{"type":"ping","type":"ping"}`, false},
		{`{"t\u0079pe":"ping"}`, true},
		{` {"ty\u0070e":"ping","x":"\/\n"} `, true},
		{`{"type":"invocationresult","invocation_id":"` + strings.ToUpper(id1) + `","function_id":"f"}`, true},
		{`{"type":"invocationresult","invocation_id":"` + strings.ReplaceAll(id1, "-", "") + `","function_id":"f"}`, true},
		{`{"type":"invocationresult","invocation_id":"` + strings.ReplaceAll(id1, "-", "0") + `","function_id":"f"}`, false},
		{`{"type":"ping","data":1,"data":1}`, true},
		{`{"type":"invokefunction","function_id":"f","data":1,"action":["void"]}`, true},
		{`{"type":"invokefunction","function_id":"f","data":1,"action":["enqueue","q"]}`, true},
		{`{"type":"invokefunction","function_id":"f","data":1,"action":["enqueue"]}`, false},
		{`{"type":"invokefunction","function_id":"f","data":1,"action":[]}`, false},
		{`{"type":"invokefunction","function_id":"f","data":1,"action":{"type":"void","type":"void"}}`, false},
		{`{"type":"invokefunction","function_id":"f","data":1,"action":{"type":"void","x":1,"x":1}}`, true},
		{`{"type":"invokefunction","function_id":"f","data":1,"action":{"Type":"void"}}`, false},
		{`{"type":"invokefunction","function_id":"f","data":1e400}`, false},
		{`{"type":"invocationresult","invocation_id":"` + id1 + `","function_id":"f","error":["C","m",null]}`, true},
		{`{"type":"invocationresult","invocation_id":"` + id1 + `","function_id":"f","error":["C"]}`, false},
		{`{"type":"invocationresult","invocation_id":"` + id1 + `","function_id":"f","error":{"code":"C","message":"m","code":"C"}}`, false},
		{`{"type":"invocationresult","invocation_id":"` + id1 + `","function_id":"f","result":1,"result":1}`, false},
	} {
		if m, err := (&dialect{protocol: Protocol026}).decode([]byte(test.message)); (err == nil) != test.ok {
			t.Errorf("%s: %+v, %v", test.message, m, err)
		}
	}
}

func BenchmarkDecodeMessage(b *testing.B) {
	data := `{"user":"u-1","amount":1,"note":"` + strings.Repeat("x", 350) + `","tags":["a","b"]}`
	for name, message := range map[string]string{
		"call":   `{"type":"invokefunction","invocation_id":"` + id1 + `","function_id":"f::g","data":` + data + `,"caller":{"function_id":"f::h","invocation_id":"` + id1 + `"}}`,
		"result": `{"type":"invocationresult","invocation_id":"` + id1 + `","function_id":"f::g","result":` + data + `}`,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := (&dialect{protocol: Protocol026}).decode([]byte(message)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func FuzzDecodeMessage(f *testing.F) {
	for _, s := range []string{
		`{"type":"ping"}`,
		`{"type":"invokefunction","invocation_id":"0c1f6f0e-6d6e-4c41-9d0e-6a7b7a3f2f10","function_id":"a","data":{"a":[1]},"action":{"type":"enqueue","queue":"q"}}`,
		`{"type":"invocationresult","invocation_id":"0c1f6f0e-6d6e-4c41-9d0e-6a7b7a3f2f10","function_id":"a","error":{"code":"c","message":"m"}}`,
		`{"type":"registertrigger","id":"a","trigger_type":"b","function_id":"c","config":null,"namespace":""}`,
		`{"type":"registertriggertype","id":"a","description":"b","call_request_format":{}}`,
		`{"type":"registerfunction","id":"a","invocation":{"url":"x"}}`,
		`{"type":"registerfunction","id":"a","args_format":{},"private":true,"observable":null,"observe":{"delivery":"owner"}}`,
		`{"type":"observe","id":"a","source":{"function_id":"b","args":{},"filters":{"input.a":{"$eq":1}},"capture":[],"on":"x"},"target":{"function_id":"c"},"max_fires":1}`,
		`{"type":"observerack","function_id":"a","id":"b","revision":1,"error":{"code":"c","message":"m"}}`,
		`{"type":"invocationsobserved","items":[{"function_id":"a","invocation_id":"b","matched":["c"],"status":"success","input":null,"caller":{"parent":{}},"started_at_ms":1,"duration_ms":0.5}]}`,
		`{"type":"localinvocationstats","window_ms":1,"functions":[{"function_id":"a","count":1}],"dropped_reports":null}`,
		`{"type":"invocationresult","invocation_id":"0c1f6f0e-6d6e-4c41-9d0e-6a7b7a3f2f10","function_id":"a","result":null,"matched":[],"delivered":true}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := (&dialect{protocol: Protocol026}).decode(data)
		if err != nil {
			return
		}
		if m, ok := m.(*invokeFunctionMessage); ok && (!json.Valid(m.Data) || m.Metadata != nil && !json.Valid(m.Metadata)) {
			t.Errorf("%q became %+v", data, m)
		}
	})
}

func TestDecodeInput(t *testing.T) {
	type Input struct {
		Name    string          `json:"name"`
		Count   *uint32         `json:"count"`
		Any     json.RawMessage `json:"any"`
		Flag    bool            `json:"flag,omitempty"`
		Strings []string        `json:"strings,omitempty"`
		Size    *uint           `json:"size"`
	}
	for _, test := range []struct{ in, want string }{
		{`{"name":"n","any":null}`, ``},
		{`{"name":"n","any":[1],"count":null,"more":{}}`, ``},
		{`{"name":"n","any":1,"count":4294967295,"flag":true,"strings":["a"]}`, ``},
		{`{"any":1}`, "missing field `name`"},
		{`{"name":"n"}`, "missing field `any`"},
		{`{"name":null,"any":1}`, "invalid type: null, expected a string"},
		{`{"name":1,"any":1}`, "invalid type: integer `1`, expected a string"},
		{`{"name":1.5,"any":1}`, "invalid type: floating point `1.5`, expected a string"},
		{`{"name":true,"any":1}`, "invalid type: boolean `true`, expected a string"},
		{`{"name":{},"any":1}`, "invalid type: map, expected a string"},
		{`{"name":[],"any":1}`, "invalid type: sequence, expected a string"},
		{`{"name":"n","any":1,"count":"x"}`, `invalid type: string "x", expected u32`},
		{`{"name":"n","any":1,"count":-1}`, "invalid value: integer `-1`, expected u32"},
		{`{"name":"n","any":1,"count":1.0}`, "invalid type: floating point `1.0`, expected u32"},
		{`{"name":"n","any":1,"flag":null}`, "invalid type: null, expected a boolean"},
		{`{"name":"n","any":1,"strings":["a",1]}`, "invalid type: integer `1`, expected a string"},
		{`{"name":1,"count":"x"}`, `invalid type: string "x", expected u32`}, // known keys are checked in order, before missing ones
		{`null`, "invalid type: null, expected struct Input"},
		{`["n",7,null,true,["a"]]`, ``},
		{`["n",null,1]`, ``},
		{`[]`, "invalid length 0, expected struct Input with 6 elements"},
		{`["n"]`, "invalid length 2, expected struct Input with 6 elements"},
		{`[1]`, "invalid type: integer `1`, expected a string"},
		{`["n",1,2,true,[],0,"more"]`, "invalid length 7, expected fewer elements in array"},
		{`{"name":"n","name":"m","any":1}`, "duplicate field `name`"},
		{`{"name":"n","any":1,"more":1,"more":2}`, ``},
		{`{"name":"n","any":1,"size":-1}`, "invalid value: integer `-1`, expected usize"},
		{`{"name":"n","any":1,"size":"\u0000\u0008é\n\"\u0301\u00a0"}`, `invalid type: string "\0\u{8}é\n\"\u{301}\u{a0}", expected usize`},
	} {
		_, err := decodeInput[Input]("f::g", json.RawMessage(test.in))
		got := ""
		if err != nil {
			got = strings.TrimPrefix(err.Message, "Failed to deserialize input for f::g: ")
		}
		if got != test.want {
			t.Errorf("%s: got %q, want %q", test.in, got, test.want)
		}
	}
}
