package iii

import (
	"bytes"
	"encoding/json"
	"math"
	"math/big"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii/internal/secret"
)

func TestRedactReplacesSecrets(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"substring", `{"api_key":"sk-abc","model":"m"}`, `{"api_key":"[REDACTED]","model":"m"}`},
		{"any case, nested", `{"headers":{"Authorization":"Bearer x","Content-Type":"application/json"}}`, `{"headers":{"Authorization":"[REDACTED]","Content-Type":"application/json"}}`},
		{"whole value", `{"credentials":[{"username":"a","token":"t"}]}`, `{"credentials":"[REDACTED]"}`},
		{"tokens", `[{"id_token":1},{"tokens":5,"token":null}]`, `[{"id_token":"[REDACTED]"},{"tokens":5,"token":"[REDACTED]"}]`},
		{"all words", `{"xapi_keyx":1,"apikey":1,"x-api-key":1,"PassWord":1,"SECRETS":1,"Credential":1,"proxy-authorization":1,"auth_tokens":1,"access_token1":1,"refresh_token_":1,"bearers":1,"my_private_key":1,"client_secret":1}`,
			strings.ReplaceAll(`{"xapi_keyx":1,"apikey":1,"x-api-key":1,"PassWord":1,"SECRETS":1,"Credential":1,"proxy-authorization":1,"auth_tokens":1,"access_token1":1,"refresh_token_":1,"bearers":1,"my_private_key":1,"client_secret":1}`, ":1", `:"[REDACTED]"`)},
		{"channels and cookies", `{"access_key":1,"Cookie":["a=b"],"Set-Cookie":1,"cookies":1,"cookie_name":1,"keys":1}`,
			`{"access_key":"[REDACTED]","Cookie":"[REDACTED]","Set-Cookie":"[REDACTED]","cookies":1,"cookie_name":1,"keys":1}`},
		{"not sensitive", `{"notification":1,"tokens":1,"token_count":1,"max_tokens":1,"accessToken":1,"privateKey":1,"":1,"_tokenx":1,"authtoken":1}`,
			`{"notification":1,"tokens":1,"token_count":1,"max_tokens":1,"accessToken":1,"privateKey":1,"":1,"_tokenx":1,"authtoken":1}`},
		{"token endings", `{"TOKEN":true,"x-auth-token":{},"id_token":[],"-token":1.5e3}`, `{"TOKEN":"[REDACTED]","x-auth-token":"[REDACTED]","id_token":"[REDACTED]","-token":"[REDACTED]"}`},
		{"escaped key", `{"pass\u0077ord":"x","a\"b":"y"}`, `{"pass\u0077ord":"[REDACTED]","a\"b":"y"}`},
		{"letters outside ASCII are not folded", "{\"to\u212Aen\":1,\"pas\u017Fword\":1}", "{\"to\u212Aen\":1,\"pas\u017Fword\":1}"},
		{"values stay", `{"a":"password: x","b":["secret","token"]}`, `{"a":"password: x","b":["secret","token"]}`},
		{"string with colon", `["password",":",{"k":"password\":"}]`, `["password",":",{"k":"password\":"}]`},
		{"backslashes", `{"password":"a\\","b":"\\\"","secret":"\\\\\"}"}`, `{"password":"[REDACTED]","b":"\\\"","secret":"[REDACTED]"}`},
		{"white space", " { \"password\" :\n[ 1 , {\"a\":\"]\"} ] ,\t\"b\" : [ 1 , \" \" ] } ", `{"password":"[REDACTED]","b":[1," "]}`},
		{"no HTML escapes", `{"a":"<&>"}`, `{"a":"<&>"}`},
		{"large integer", `{"n":9007199254740993}`, `{"n":9007199254740993}`},
		{"scalar", `"password"`, `"password"`},
		{"null", `null`, `null`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, truncated := RedactAndTruncate(json.RawMessage(tt.in), 0)
			if diff := cmp.Diff(tt.want, got); diff != "" || truncated {
				t.Errorf("RedactAndTruncate (-want +got), truncated %v:\n%s", truncated, diff)
			}
			b := newBuffer()
			defer b.free()
			if err := b.value(Redact(json.RawMessage(tt.in))); err != nil {
				t.Fatal(err)
			}
			if !jsonEqual(t, tt.want, b.String()) {
				t.Errorf("Redact = %s, want %s", b, tt.want)
			}
		})
	}
}

// A marshaler cannot modify the caller's value, and integers keep their digits.
func TestRedactOfValuesThatAreNotPlain(t *testing.T) {
	tests := []struct {
		name string
		in   any
		want any
		text string
	}{
		{"unsigned", map[string]any{"n": uint64(math.MaxUint64), "token": uint64(1)}, map[string]any{"n": json.Number("18446744073709551615"), "token": redacted}, `{"n":18446744073709551615,"token":"[REDACTED]"}`},
		{"big integer", new(big.Int).Lsh(big.NewInt(1), 70), json.Number("1180591620717411303424"), "1180591620717411303424"},
		{"panic", map[string]any{"v": panics{}}, nil, "null"},
		{"nil pointer", (*panics)(nil), nil, "null"},
		{"NaN", []float64{math.NaN()}, nil, "null"},
		{"function", func() {}, nil, "null"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Redact(tt.in)); diff != "" {
				t.Errorf("Redact (-want +got):\n%s", diff)
			}
			if got, cut := RedactAndTruncate(tt.in, 0); got != tt.text || cut {
				t.Errorf("RedactAndTruncate = %s, %v, want %s", got, cut, tt.text)
			}
		})
	}
}

func jsonEqual(t *testing.T, a, b string) bool {
	t.Helper()
	decode := func(s string) (v any) {
		d := json.NewDecoder(strings.NewReader(s))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		return v
	}
	return cmp.Equal(decode(a), decode(b))
}

func TestRedactOfStructsAndOfUnencodableValues(t *testing.T) {
	type login struct {
		User     string `json:"user"`
		Password string `json:"password"`
		N        int64
	}
	got := Redact([]login{{"a", "x", math.MaxInt64}})
	want := []any{map[string]any{"user": "a", "password": "[REDACTED]", "N": json.Number("9223372036854775807")}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Redact of a struct (-want +got):\n%s", diff)
	}
	cycle := map[string]any{}
	cycle["self"], cycle["other"] = cycle, cycle
	for name, v := range map[string]any{"function": func() {}, "NaN": math.NaN(), "cycle": cycle, "bad JSON": json.RawMessage(`{"a":`)} {
		if got := Redact(v); got != nil {
			t.Errorf("Redact of %s = %v, want nil", name, got)
		}
		if text, cut := RedactAndTruncate(v, 100); text != "null" || cut {
			t.Errorf("RedactAndTruncate of %s = %s, %v, want null", name, text, cut)
		}
	}
}

func TestRedactAndTruncateKeepsTheLimit(t *testing.T) {
	tests := []struct {
		name, in string
		max      int
		want     string
		cut      bool
	}{
		{"cut", `{"blob":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}`, 24, `{"blob":..."[TRUNCATED]"`, true},
		{"shorter than the marker", `{"blob":"xxxxxxxxxxxxxxxxxxxx"}`, 5, `..."[`, true},
		{"marker alone", `{"blob":"xxxxxxxxxxxxxxxxxxxx"}`, 16, `..."[TRUNCATED]"`, true},
		{"fits", `{"a":1}`, 7, `{"a":1}`, false},
		{"one too long", `{"a":12}`, 7, `..."[TR`, true},
		{"fits without the white space", ` { "a" : 1 } `, 7, `{"a":1}`, false},
		{"fits when redacted", `{"secret":"` + strings.Repeat("x", 100) + `"}`, 23, `{"secret":"[REDACTED]"}`, false},
		{"redaction makes it longer", `{"secret":1,"b":2}`, 20, `{"se..."[TRUNCATED]"`, true},
		{"character boundary", `"ääääääääääää"`, 20, `"ä..."[TRUNCATED]"`, true},
		{"no limit", `"xxxxxxxxxxxxxxxxxxxxxx"`, 0, `"xxxxxxxxxxxxxxxxxxxxxx"`, false},
		{"negative is none", `"xxxxxxxxxxxxxxxxxxxxxx"`, -1, `"xxxxxxxxxxxxxxxxxxxxxx"`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, cut := RedactAndTruncate(json.RawMessage(tt.in), tt.max)
			if got != tt.want || cut != tt.cut {
				t.Errorf("%s of %d bytes: %q, %v, want %q, %v", tt.in, tt.max, got, cut, tt.want, tt.cut)
			}
		})
	}
}

// The environment is read at each call.
func TestPayloadCaptureFollowsEnvironment(t *testing.T) {
	for _, tt := range []struct {
		disable, limit string
		want           int
	}{
		{"", "", maxCapturedPayload},
		{"0", "unlimited", maxCapturedPayload},
		{"false", "UNLIMITED", maxCapturedPayload},
		{"what", "0", maxCapturedPayload},
		{"", "-5", maxCapturedPayload},
		{"", "many", maxCapturedPayload},
		{"", " 100 ", 100},
		{"", "99999999999", maxCapturedPayload},
		{"", "99999999999999999999", maxCapturedPayload},
		{"1", "100", 0},
		{" TRUE ", "", 0},
		{"yes", "", 0},
	} {
		t.Setenv("III_DISABLE_TRACE_PAYLOADS", tt.disable)
		t.Setenv("III_TRACE_PAYLOAD_MAX_BYTES", tt.limit)
		if got := capturedPayload(); got != tt.want {
			t.Errorf("disabled %q, limit %q: %d, want %d", tt.disable, tt.limit, got, tt.want)
		}
	}
}

// FuzzRedact compares the text scanner with decoding, redacting and encoding.
func FuzzRedact(f *testing.F) {
	f.Add([]byte(`{"password":[1,{"a":"]\\\""}],"b" : {"x_token":{}},"c":"\u0041"}`), 24)
	f.Add([]byte(` [ "secret" : 1 ]`), 3)
	f.Fuzz(func(t *testing.T, raw []byte, limit int) {
		if !json.Valid(raw) {
			return
		}
		whole := redactJSON(raw, -1)
		var v any
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			return
		}
		want := redactValue(v)
		var got any
		d = json.NewDecoder(bytes.NewReader(whole))
		d.UseNumber()
		if err := d.Decode(&got); err != nil {
			t.Fatalf("%s became %s: %v", raw, whole, err)
		}
		if !cmp.Equal(want, got) {
			t.Errorf("%s became %s", raw, whole)
		}
		text, cut := redactAndTruncate(raw, limit)
		switch {
		case limit < 0 || len(whole) <= limit:
			if cut || text != string(whole) {
				t.Errorf("%s with limit %d became %s, %v", raw, limit, text, cut)
			}
		case !cut || len(text) > limit || utf8.Valid(raw) && !utf8.ValidString(text):
			t.Errorf("%s with limit %d became %q, %v", raw, limit, text, cut)
		}
	})
}

// redactValue applies the rule to decoded values.
func redactValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if secret.Named([]byte(key)) {
				v[key] = redacted
			} else {
				v[key] = redactValue(value)
			}
		}
	case []any:
		for i := range v {
			v[i] = redactValue(v[i])
		}
	}
	return v
}

func BenchmarkRedact(b *testing.B) {
	raw := []byte(`{"user":"u-1","amount":12,"note":"` + strings.Repeat("x", 256) + `","tags":["a","b"]}`)
	b.ReportAllocs()
	for b.Loop() {
		redactAndTruncate(raw, maxCapturedPayload)
	}
}
