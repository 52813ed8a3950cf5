// Package otlp uses OpenTelemetry's own decoder to check the telemetry that reaches the
// engine. Every frame must decode, and every recorded value must arrive.
package otlp

import (
	"encoding/base64"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// connect starts an engine and opens a connection to it.
func connect(t *testing.T) (*iiitest.Engine, *iii.SharedEngineConnection) {
	t.Helper()
	e := iiitest.Start(t, iiitest.WithTelemetryLimit(1_000_000, 1<<30))
	s, err := iii.NewSharedEngineConnection(e.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Shutdown(t.Context()); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	return e, s
}

// frames waits until the engine has received all telemetry, then returns the frames with the
// given prefix.
func frames(t *testing.T, e *iiitest.Engine, s *iii.SharedEngineConnection, prefix string) (data [][]byte) {
	t.Helper()
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if lost := s.Stats().Lost; lost.Shortened+lost.TooLarge+lost.Unknown+lost.Overflowed != 0 {
		t.Fatalf("lost %+v", lost)
	}
	if rejected := e.Stats().TelemetryRejected; rejected != 0 {
		t.Errorf("the development engine rejected %d frames", rejected)
	}
	for _, f := range e.Telemetry() {
		if f.Prefix == prefix {
			data = append(data, f.Data)
		}
	}
	return data
}

// origin describes a record's resource and scope.
type origin struct {
	Resource        map[string]any
	ResourceSchema  string
	Scope, Version  string
	ScopeAttributes map[string]any
	ScopeSchema     string
}

func recordedOrigin(r *resource.Resource, s instrumentation.Scope) origin {
	return origin{
		Resource: recordedAttributes(r.Attributes()), ResourceSchema: r.SchemaURL(),
		Scope: s.Name, Version: s.Version, ScopeAttributes: recordedAttributes(s.Attributes.ToSlice()), ScopeSchema: s.SchemaURL,
	}
}

func decodedOrigin(r pcommon.Resource, resourceSchema string, s pcommon.InstrumentationScope, scopeSchema string) origin {
	return origin{
		Resource: r.Attributes().AsRaw(), ResourceSchema: resourceSchema,
		Scope: s.Name(), Version: s.Version(), ScopeAttributes: s.Attributes().AsRaw(), ScopeSchema: scopeSchema,
	}
}

// recordedAttributes returns the expected values of attrs.
func recordedAttributes(attrs []attribute.KeyValue) map[string]any {
	m := map[string]any{}
	for _, kv := range attrs {
		m[string(kv.Key)] = recordedValue(kv.Value, 0)
	}
	return m
}

// maxDepth is the nesting depth beyond which attribute values become text.
const maxDepth = 24

// recordedValue returns the expected value of v, which is nested depth levels deep. Bytes
// become base64, because the engine does not support them. Numbers that JSON cannot represent
// become text.
func recordedValue(v attribute.Value, depth int) any {
	list := func(n int, element func(i int) attribute.Value) any {
		if depth >= maxDepth {
			return v.String()
		}
		values := make([]any, n)
		for i := range n {
			values[i] = recordedValue(element(i), depth+1)
		}
		return values
	}
	switch v.Type() {
	case attribute.EMPTY:
		return nil
	case attribute.BOOL:
		return v.AsBool()
	case attribute.INT64:
		return v.AsInt64()
	case attribute.STRING:
		return strings.ToValidUTF8(v.AsString(), "\uFFFD")
	case attribute.FLOAT64:
		switch f := v.AsFloat64(); {
		case math.IsNaN(f):
			return "NaN"
		case math.IsInf(f, 1):
			return "Infinity"
		case math.IsInf(f, -1):
			return "-Infinity"
		default:
			return f
		}
	case attribute.BYTESLICE:
		return base64.StdEncoding.EncodeToString(v.AsByteSlice())
	case attribute.BOOLSLICE:
		s := v.AsBoolSlice()
		return list(len(s), func(i int) attribute.Value { return attribute.BoolValue(s[i]) })
	case attribute.INT64SLICE:
		s := v.AsInt64Slice()
		return list(len(s), func(i int) attribute.Value { return attribute.Int64Value(s[i]) })
	case attribute.FLOAT64SLICE:
		s := v.AsFloat64Slice()
		return list(len(s), func(i int) attribute.Value { return attribute.Float64Value(s[i]) })
	case attribute.STRINGSLICE:
		s := v.AsStringSlice()
		return list(len(s), func(i int) attribute.Value { return attribute.StringValue(s[i]) })
	case attribute.SLICE:
		s := v.AsSlice()
		return list(len(s), func(i int) attribute.Value { return s[i] })
	case attribute.MAP:
		if depth >= maxDepth {
			return v.String()
		}
		m := map[string]any{}
		for _, kv := range v.AsMap() {
			m[string(kv.Key)] = recordedValue(kv.Value, depth+1)
		}
		return m
	}
	panic(fmt.Sprintf("attribute of type %v", v.Type()))
}

func nanos(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixNano())
}

// diff is like cmp.Diff, but distinguishes 0 from -0.
func diff(want, got any) string {
	return cmp.Diff(want, got, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b float64) bool {
		return math.Float64bits(a) == math.Float64bits(b)
	}))
}

// generator generates random values of every kind. Each run generates the same sequence.
type generator struct{ *rand.Rand }

func newGenerator() *generator { return &generator{rand.New(rand.NewPCG(11, 12))} }

func pick[T any](g *generator, list ...T) T { return list[g.IntN(len(list))] }

func (g *generator) text() string {
	return pick(g, "", "plain", "two words", `{"json":"a\\b","n":[1,2]}`, "control \x00\x1b\n\t\r\x7f", "☕ ü \U0001F600", "\u2028\u2029", "<&>'",
		fmt.Sprintf("%x", g.Uint64()), strings.Repeat("long ", g.IntN(300)))
}

func (g *generator) integer() int64 {
	return pick(g, 0, 1, -1, 42, math.MaxInt64, math.MinInt64, 1<<53, 1<<53+1, -1<<53, -1<<53-1, int64(g.Uint64()))
}

func (g *generator) double() float64 {
	return pick(g, 0, math.Copysign(0, -1), 1, 0.1, 1e20, 1e21, 1e-6, 1e-7, 1<<53+2, math.MaxFloat64, math.SmallestNonzeroFloat64,
		math.NaN(), math.Inf(1), math.Inf(-1), g.NormFloat64(), math.Float64frombits(g.Uint64()))
}

func several[T any](g *generator, most int, one func() T) []T {
	list := make([]T, g.IntN(most+1))
	for i := range list {
		list[i] = one()
	}
	return list
}

func (g *generator) value(depth int) attribute.Value {
	kinds := 10
	if depth < 3 {
		kinds = 13
	}
	switch g.IntN(kinds) {
	case 0:
		return attribute.StringValue(g.text())
	case 1:
		return attribute.Int64Value(g.integer())
	case 2:
		return attribute.Float64Value(g.double())
	case 3:
		return attribute.BoolValue(g.IntN(2) == 0)
	case 4:
		return attribute.ByteSliceValue([]byte(g.text()))
	case 5:
		return attribute.StringSliceValue(several(g, 5, g.text))
	case 6:
		return attribute.Int64SliceValue(several(g, 5, g.integer))
	case 7:
		return attribute.Float64SliceValue(several(g, 5, g.double))
	case 8:
		return attribute.BoolSliceValue(several(g, 5, func() bool { return g.IntN(2) == 0 }))
	case 9:
		return attribute.Value{}
	case 10:
		return attribute.SliceValue(several(g, 7, func() attribute.Value { return g.value(depth + 1) })...)
	case 11:
		return attribute.MapValue(g.attributes(7, depth+1)...)
	default:
		v := g.value(depth + 1)
		for range g.IntN(60) {
			v = attribute.MapValue(attribute.KeyValue{Key: "in", Value: v})
		}
		return v
	}
}

func (g *generator) attributes(most, depth int) []attribute.KeyValue {
	n := 0
	return several(g, most, func() attribute.KeyValue {
		n++
		return attribute.KeyValue{Key: attribute.Key(fmt.Sprintf("%d %s", n, g.text())), Value: g.value(depth)}
	})
}

func (g *generator) time() time.Time {
	return time.Unix(1767225600+g.Int64N(1e6), g.Int64N(1e9))
}
