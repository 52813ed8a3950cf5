package schemas

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"time"

	"github.com/iii-go/iii"
)

// fullness selects the values that a filler sets.
type fullness int

const (
	empty    fullness = iota // zero values, except for enumerations, tags and unions
	ordinary                 // a nonzero value in every field
	extreme                  // the largest unsigned and the smallest signed integers
)

// unionSamples holds values of types that cannot be filled field by field.
var unionSamples = map[reflect.Type][]any{
	reflect.TypeFor[iii.HTTPAuthConfig](): {
		iii.HTTPAuthConfig{Auth: iii.HTTPAuthHMAC{SecretKey: "SECRET"}},
		iii.HTTPAuthConfig{Auth: iii.HTTPAuthBearer{TokenKey: "TOKEN"}},
		iii.HTTPAuthConfig{Auth: iii.HTTPAuthAPIKey{Header: "X-Key", ValueKey: "KEY"}},
	},
	reflect.TypeFor[iii.TriggerAction](): {
		iii.TriggerAction{Action: iii.ActionVoid{}},
		iii.TriggerAction{Action: iii.ActionEnqueue{Queue: "jobs"}},
	},
	reflect.TypeFor[iii.UpdateOp](): {
		iii.UpdateOp{Op: iii.UpdateSet{Path: "a"}},
		iii.UpdateOp{Op: iii.UpdateMerge{Value: iii.JSONValue(`{"a":1}`)}},
		iii.UpdateOp{Op: iii.UpdateMerge{Path: &iii.MergePath{Segments: []string{"a", "b"}}, Value: iii.JSONValue(`1`)}},
		iii.UpdateOp{Op: iii.UpdateIncrement{Path: "n", By: math.MinInt64}},
		iii.UpdateOp{Op: iii.UpdateDecrement{Path: "n", By: math.MaxInt64}},
		iii.UpdateOp{Op: iii.UpdateAppend{Path: &iii.MergePath{Single: "log"}, Value: iii.JSONValue(`null`)}},
		iii.UpdateOp{Op: iii.UpdateRemove{}},
	},
	reflect.TypeFor[iii.MergePath](): {
		iii.MergePath{},
		iii.MergePath{Single: "a"},
		iii.MergePath{Segments: []string{}},
		iii.MergePath{Segments: []string{"a", "b"}},
	},
	reflect.TypeFor[iii.FunctionInfoEntry](): {
		iii.FunctionInfoEntry{Detail: &iii.FunctionDetail{FunctionID: "a"}},
		iii.FunctionInfoEntry{Error: &iii.FunctionInfoError{FunctionID: "a", Error: "not_found"}},
	},
	reflect.TypeFor[iii.MetricDataPoint](): {
		iii.MetricDataPoint{Number: &iii.NumberDataPoint{Value: -0.5}},
		iii.MetricDataPoint{Histogram: &iii.HistogramDataPoint{BucketCounts: []uint64{1}}},
	},
}

// samples is the largest number of samples that any union has.
const samples = 7

type filler struct {
	definitions map[string]definition
	fullness    fullness
	sample      int // index of the sample of each union
}

func (f filler) value(typ reflect.Type) reflect.Value {
	v := reflect.New(typ).Elem()
	f.fill(v, 0)
	return v
}

func (f filler) fill(v reflect.Value, depth int) {
	if union, ok := unionSamples[v.Type()]; ok {
		v.Set(reflect.ValueOf(union[f.sample%len(union)]))
		return
	}
	switch v.Type() {
	case reflect.TypeFor[json.RawMessage]():
		if f.fullness != empty {
			v.SetBytes([]byte(`{"a":[18446744073709551615,1.0,"b",null,true]}`))
		}
		return
	case reflect.TypeFor[time.Time]():
		if f.fullness != empty {
			v.Set(reflect.ValueOf(time.Date(2026, 11, 23, 9, 46, 4, 2061387, time.FixedZone("", 3600))))
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		f.fillStruct(v, depth)
	case reflect.Array:
		for i := range v.Len() {
			f.fill(v.Index(i), depth)
		}
	case reflect.Pointer:
		if f.fullness != empty && depth < 6 {
			v.Set(reflect.New(v.Type().Elem()))
			f.fill(v.Elem(), depth+1)
		}
	case reflect.Slice:
		if f.fullness != empty && depth < 6 { // tree nodes are recursive
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			f.fill(v.Index(0), depth+1)
		}
	case reflect.Map:
		if f.fullness != empty {
			member := reflect.New(v.Type().Elem()).Elem()
			f.fill(member, depth+1)
			v.Set(reflect.MakeMap(v.Type()))
			v.SetMapIndex(reflect.ValueOf("k"), member)
		}
	default:
		f.fillScalar(v)
	}
}

// fillStruct fills a struct's fields. A field whose schema allows only a constant is set to
// the constant.
func (f filler) fillStruct(v reflect.Value, depth int) {
	constants := f.definitions[v.Type().Name()].constants()
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		if constant, ok := constants[name]; ok {
			v.Field(i).SetString(constant)
			continue
		}
		f.fill(v.Field(i), depth)
	}
}

func (f filler) fillScalar(v reflect.Value) {
	if v.Kind() == reflect.String {
		if enum := f.definitions[v.Type().Name()].enum(); enum != nil {
			v.SetString(enum[f.sample%len(enum)])
		} else if f.fullness != empty {
			v.SetString("text \x00 <&> \u2028")
		}
		return
	}
	switch f.fullness {
	case ordinary:
		switch {
		case v.CanInt():
			v.SetInt(1)
		case v.CanUint():
			v.SetUint(1)
		case v.CanFloat():
			v.SetFloat(0.5)
		default:
			v.SetBool(true)
		}
	case extreme:
		bits := v.Type().Bits
		switch {
		case v.CanInt():
			v.SetInt(-1 << (bits() - 1))
		case v.CanUint():
			v.SetUint(math.MaxUint64 >> (64 - bits()))
		case v.Kind() == reflect.Float32:
			v.SetFloat(math.MaxFloat32)
		case v.CanFloat():
			v.SetFloat(math.MaxFloat64)
		default:
			v.SetBool(true)
		}
	}
}
