package iii

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"runtime"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/iii-go/iii/internal/secret"
	"github.com/iii-go/iii/internal/wsconn"
)

func TestInSpan(t *testing.T) {
	failure := &unreachable{"unreachable"}
	tests := []struct {
		name        string
		f           func(context.Context) error
		status      codes.Code
		description string
		exception   []string // type and message of the exception
	}{
		{"success", func(context.Context) error { return nil }, codes.Ok, "", nil},
		{"error", func(context.Context) error { return failure }, codes.Error, "unreachable", []string{"*iii.unreachable", "unreachable"}},
		{"status of its own", func(ctx context.Context) error {
			trace.SpanFromContext(ctx).SetStatus(codes.Error, "own")
			return nil
		}, codes.Error, "own", nil},
		{"status of its own and error", func(ctx context.Context) error {
			trace.SpanFromContext(ctx).SetStatus(codes.Error, "own")
			return failure
		}, codes.Error, "own", []string{"*iii.unreachable", "unreachable"}},
		{"ok and error", func(ctx context.Context) error {
			trace.SpanFromContext(ctx).SetStatus(codes.Ok, "")
			return failure
		}, codes.Ok, "", []string{"*iii.unreachable", "unreachable"}},
		{"panic", func(context.Context) error { panic("oh no") }, codes.Error, "panic: oh no", []string{"panic", "panic: oh no"}},
		{"exit", func(context.Context) error { runtime.Goexit(); return nil }, codes.Error, "the goroutine exited with runtime.Goexit",
			[]string{"panic", "the goroutine exited with runtime.Goexit"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, recorder, parent := recordedSpans()
			var err error
			var panicked any
			done := make(chan struct{})
			go func() {
				defer close(done)
				defer func() { panicked = recover() }()
				err = InSpan(ctx, "work", trace.SpanKindProducer, tt.f)
			}()
			<-done
			if want := tt.exception != nil && tt.exception[0] != "panic"; (err == error(failure)) != want {
				t.Errorf("error is %v", err)
			}
			if want := tt.name == "panic"; (panicked == "oh no") != want {
				t.Errorf("the panic value is %v", panicked)
			}
			span := recorder.Ended()[0]
			if span.Name() != "work" || span.SpanKind() != trace.SpanKindProducer || span.Parent().SpanID() != parent.SpanContext().SpanID() {
				t.Errorf("span is %s %q in %v", span.SpanKind(), span.Name(), span.Parent().SpanID())
			}
			if s := span.Status(); s.Code != tt.status || s.Description != tt.description {
				t.Errorf("status is %v, want %v %q", s, tt.status, tt.description)
			}
			var exception []string
			for _, e := range span.Events() {
				a := attributeMap(e.Attributes)
				exception = append(exception, a["exception.type"].(string), a["exception.message"].(string))
				if stack := a["exception.stacktrace"].(string); !strings.Contains(stack, "otel_span_test.go") {
					t.Errorf("the stack is not that of the recording site:\n%s", stack)
				}
			}
			if diff := cmp.Diff(tt.exception, exception); diff != "" {
				t.Errorf("exception (-want +got):\n%s", diff)
			}
		})
	}
}

type unreachable struct{ text string }

func (e *unreachable) Error() string { return e.text }

func TestInSpanKind(t *testing.T) {
	ctx, recorder, _ := recordedSpans()
	if err := InSpan(ctx, "work", 0, func(context.Context) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if kind := recorder.Ended()[0].SpanKind(); kind != trace.SpanKindInternal {
		t.Errorf("kind is %v", kind)
	}
}

// InSpan uses the provider of the span in ctx. If there is none, it uses the provider of the
// client whose handler is running, or else the global provider.
func TestInSpanChoosesItsProvider(t *testing.T) {
	recorders := map[string]*tracetest.SpanRecorder{}
	provider := func(name string, opts ...sdktrace.TracerProviderOption) *sdktrace.TracerProvider {
		recorders[name] = tracetest.NewSpanRecorder()
		return sdktrace.NewTracerProvider(append(opts, sdktrace.WithSpanProcessor(recorders[name]))...)
	}
	withoutGlobal(t)
	otel.SetTracerProvider(provider("global"))
	own, other, never := provider("client"), provider("other"), provider("never", sdktrace.WithSampler(sdktrace.NeverSample()))

	remote := ExtractContext(t.Context(), testParent, "")
	in := &incoming{function: &Function{}, traceparent: []byte(`"` + testParent + `"`)}
	handler := &invocationContext{Context: t.Context(), client: &Client{tracing: newTracing(own)}, in: in}
	untraced := &invocationContext{Context: t.Context(), client: &Client{}, in: in}
	begun := func(ctx context.Context, p *sdktrace.TracerProvider) context.Context {
		ctx, _ = p.Tracer("t").Start(ctx, "outer")
		return ctx
	}
	_, ended := other.Tracer("t").Start(t.Context(), "ended")
	ended.End()

	tests := []struct {
		name string
		ctx  context.Context
		want string
	}{
		{"nowhere", t.Context(), "global"},
		{"remote parent", remote, "global"},
		{"span", begun(t.Context(), other), "other"},
		{"span that has ended", trace.ContextWithSpan(t.Context(), ended), "other"},
		{"span that is not sampled", begun(t.Context(), never), ""},
		{"handler", handler, "client"},
		{"handler's span", begun(handler, own), "client"},
		{"other span in a handler", begun(handler, other), "other"},
		{"handler without telemetry", untraced, "global"},
		{"captured in a handler", CaptureContext(begun(handler, own)).Attach(t.Context()), "client"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, r := range recorders {
				r.Reset()
			}
			traceID := ""
			if err := InSpan(tt.ctx, "work", 0, func(ctx context.Context) error { traceID = TraceID(ctx); return nil }); err != nil {
				t.Fatal(err)
			}
			if outer := TraceID(tt.ctx); outer != "" && traceID != outer {
				t.Errorf("f runs in trace %q, want %q", traceID, outer)
			}
			for name, r := range recorders {
				if got, want := len(r.Ended()), 0; name == tt.want && got != 1 || name != tt.want && got != want {
					t.Errorf("%s recorded %d spans", name, got)
				}
			}
		})
	}
}

// Without telemetry, f still runs in the trace of ctx.
func TestInSpanWithoutTelemetryKeepsTheTrace(t *testing.T) {
	withoutGlobal(t)
	failure := errors.New("f's")
	err := InSpan(ExtractContext(t.Context(), testParent, "a=1"), "work", 0, func(ctx context.Context) error {
		if InjectTraceparent(ctx) != testParent || InjectBaggage(ctx) != "a=1" {
			t.Errorf("f runs in %q with %q", InjectTraceparent(ctx), InjectBaggage(ctx))
		}
		return failure
	})
	if err != failure {
		t.Errorf("error is %v", err)
	}
}

// An invocation that expects no reply gets a span like any other.
func TestInvocationSpanWithoutAnswer(t *testing.T) {
	recorder := tracetest.NewSpanRecorder()
	c, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	c.tracing = newTracing(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)))
	l := &link{Conn: wsconn.Over(nil), handlers: t.Context()}
	tests := []struct {
		name   string
		f      HandlerFunc
		status codes.Code
		output string
	}{
		{"result", func(context.Context, json.RawMessage) (any, error) { return map[string]any{"secret": 1, "n": 2}, nil }, codes.Ok, `{"n":2,"secret":"[REDACTED]"}`},
		{"error", func(context.Context, json.RawMessage) (any, error) { return nil, errors.New("no") }, codes.Error, `{"error":"no"}`},
		{"panic", func(context.Context, json.RawMessage) (any, error) { panic("oh no") }, codes.Error, `{"error":"handler panicked"}`},
		{"unencodable", func(context.Context, json.RawMessage) (any, error) { return func() {}, nil }, codes.Error, `{"error":"json: unsupported type: func()"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			recorder.Reset()
			c.execute(&incoming{origin: l, function: &Function{id: "f", spanName: "execute f", handler: tt.f}, data: []byte(`{"password":1}`)})
			span := recorder.Ended()[0]
			if span.Status().Code != tt.status {
				t.Errorf("status is %v", span.Status())
			}
			if in := attributeMap(span.Events()[0].Attributes)[string(attributePayload)]; in != `{"password":"[REDACTED]"}` {
				t.Errorf("input is %v", in)
			}
			if out := attributeMap(span.Events()[1].Attributes)[string(attributePayload)]; out != tt.output {
				t.Errorf("output is %v, want %s", out, tt.output)
			}
		})
	}
}

// holdsNil is an error whose chain contains a nil *Error.
type holdsNil struct{}

func (holdsNil) Error() string { return "no" }
func (holdsNil) Unwrap() error { return (*Error)(nil) }

// The type of the exception is an error code only if the handler's error has one.
func TestExceptionTypeOfHandlerErrors(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{errors.New("no"), "InvocationError"}, {&Error{Code: "declined"}, "declined"}, {holdsNil{}, "InvocationError"},
	} {
		ctx, recorder, _ := recordedSpans()
		_ = InSpan(ctx, "work", 0, func(ctx context.Context) error {
			invocationSpan{span: trace.SpanFromContext(ctx)}.failed(test.err)
			return nil
		})
		if got := attributeMap(recorder.Ended()[0].Events()[0].Attributes)["exception.type"]; got != test.want {
			t.Errorf("%v: exception.type is %v, want %q", test.err, got, test.want)
		}
	}
}

// The payload of an unsampled invocation is not read, so it may even be invalid JSON.
func TestUnsampledPayloadIsNotRead(t *testing.T) {
	t.Setenv("OTEL_TRACES_SAMPLER", "always_off") // not parent-based, so the span is started
	own := newTracing(sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample())))
	in := &incoming{function: &Function{spanName: "execute f"}, data: []byte("\xff"), traceparent: []byte(`"` + testParent + `"`)}
	ctx := &invocationContext{Context: t.Context(), in: in}
	if !own.wants(in) {
		t.Fatal("no span was started: the test proves nothing")
	}
	inner, s := own.begin(ctx, in)
	if s != (invocationSpan{}) {
		t.Errorf("payloads are captured: %+v", s)
	}
	s.answered(nil, nil) // would panic if the result were recorded
	s.returned(func() {}, nil)
	s.panicked("p", "stack")
	s.end(inner, in, nil)
	if trace.SpanFromContext(inner).IsRecording() || TraceID(inner) != testTraceID {
		t.Errorf("the handler runs in %v", trace.SpanContextFromContext(inner))
	}
}

// No span is started if the caller is not sampled and the sampler follows the caller, or if
// the function does not run in this worker.
func TestTracingSkipsUnsampledInvocations(t *testing.T) {
	function, elsewhere := &Function{}, &Function{untraced: true}
	for _, tt := range []struct {
		sampler, traceparent string
		function             *Function
		want                 bool
	}{
		{"", testParent, function, true},
		{"", testParent[:54] + "0", function, false},
		{"", testParent[:54] + "2", function, true}, // the sampler decides
		{"", "", function, true},
		{"", "nonsense-00", function, true},
		{"", strings.Repeat("x", 52) + "-00", function, true},
		{"ParentBased_TraceIdRatio", testParent[:54] + "0", function, false},
		{"always_on", testParent[:54] + "0", function, true},
		{"", testParent, elsewhere, false},
	} {
		t.Setenv("OTEL_TRACES_SAMPLER", tt.sampler)
		tracing := newTracing(sdktrace.NewTracerProvider())
		in := &incoming{function: tt.function, traceparent: []byte(`"` + tt.traceparent + `"`)}
		if got := tracing.wants(in); got != tt.want {
			t.Errorf("sampler %q, traceparent %q: %v, want %v", tt.sampler, tt.traceparent, got, tt.want)
		}
	}
}

// benchmarkInvocation measures the cost of tracing an invocation, excluding export.
func benchmarkInvocation(b *testing.B, traceparent string) {
	t := newTracing(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(NewBaggageSpanProcessor())))
	payload := []byte(`{"user":"u-1","amount":12,"note":"` + strings.Repeat("x", 256) + `","tags":["a","b"]}`)
	in := &incoming{function: &Function{id: "bench::echo", spanName: "execute bench::echo"}, data: payload,
		id: []byte("00000000-0000-4000-8000-000000000001"), traceparent: []byte(traceparent)}
	b.ReportAllocs()
	for b.Loop() {
		ctx, span := t.begin(&invocationContext{Context: context.Background(), in: in}, in)
		answer := newBuffer()
		_ = encodeResult(answer, triggerDialect{}, in.id, in.function.id, nil)
		answer.truncate(answer.len() - len("null}"))
		answer.p = append(answer.p, payload...)
		answer.p = append(answer.p, '}')
		span.answered(answer, nil)
		span.end(ctx, in, answer)
		answer.free()
	}
}

func BenchmarkInvocationSampled(b *testing.B)   { benchmarkInvocation(b, `"`+testParent+`"`) }
func BenchmarkInvocationUnsampled(b *testing.B) { benchmarkInvocation(b, `"`+testParent[:54]+`0"`) }

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

// Integers keep every digit. A value that cannot be encoded becomes nil, or null as text.
func TestRedactUnusualValues(t *testing.T) {
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

// $III_DISABLE_TRACE_PAYLOADS and $III_TRACE_PAYLOAD_MAX_BYTES are read on each call.
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

// FuzzRedact compares the redaction of raw JSON with the result of decoding, redacting and
// encoding it.
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

// redactValue is a reference implementation of redaction. It operates on decoded JSON.
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
