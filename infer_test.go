package iii_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"maps"
	"math"
	"math/big"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/jsonschema-go/jsonschema"
	"github.com/google/uuid"
	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// Together, these types cover every way in which a type can encode or decode itself.
type (
	schemaColor      int                // text in both directions
	schemaWritten    int                // text when encoded
	schemaReadText   int                // text when decoded
	schemaByPointer  struct{ N int }    // text, by pointer methods
	schemaCents      struct{ N int }    // JSON, by a value method
	schemaCentsByPtr struct{ N int }    // JSON, by pointer methods
	schemaJSONIn     struct{ N int }    // JSON when decoded
	schemaTextList   []string           // text, of a kind that can be nil
	schemaLetter     byte               // text, based on byte
	schemaByteIn     byte               // JSON when decoded
	schemaBytePtr    byte               // JSON, by pointer methods
	schemaKeyText    string             // text, based on string
	schemaKeyPointer int                // text, by a pointer method
	schemaKeyStruct  struct{ A, B int } // text, based on a struct
)

func (c schemaColor) MarshalText() ([]byte, error) {
	return []byte("color-" + strconv.Itoa(int(c))), nil
}
func (c *schemaColor) UnmarshalText(b []byte) error {
	n, err := strconv.Atoi(strings.TrimPrefix(string(b), "color-"))
	*c = schemaColor(n)
	return err
}
func (schemaWritten) MarshalText() ([]byte, error)       { return []byte("w"), nil }
func (*schemaReadText) UnmarshalText([]byte) error       { return nil }
func (*schemaByPointer) MarshalText() ([]byte, error)    { return []byte("p"), nil }
func (*schemaByPointer) UnmarshalText([]byte) error      { return nil }
func (c schemaCents) MarshalJSON() ([]byte, error)       { return json.Marshal(strconv.Itoa(c.N)) }
func (c *schemaCentsByPtr) MarshalJSON() ([]byte, error) { return json.Marshal([]int{c.N}) }
func (c *schemaCentsByPtr) UnmarshalJSON([]byte) error   { return nil }
func (*schemaJSONIn) UnmarshalJSON([]byte) error         { return nil }
func (*schemaByteIn) UnmarshalJSON([]byte) error         { return nil }
func (*schemaBytePtr) MarshalJSON() ([]byte, error)      { return []byte("true"), nil }
func (*schemaBytePtr) UnmarshalJSON([]byte) error        { return nil }
func (schemaTextList) MarshalText() ([]byte, error)      { return []byte("t"), nil }
func (schemaLetter) MarshalText() ([]byte, error)        { return []byte("l"), nil }
func (*schemaLetter) UnmarshalText([]byte) error         { return nil }
func (k schemaKeyText) MarshalText() ([]byte, error)     { return []byte("other " + k), nil }
func (k *schemaKeyText) UnmarshalText(b []byte) error    { *k = schemaKeyText(b); return nil }
func (k *schemaKeyPointer) MarshalText() ([]byte, error) { return []byte("k"), nil }
func (k schemaKeyStruct) MarshalText() ([]byte, error) {
	return fmt.Appendf(nil, "%d/%d", k.A, k.B), nil
}
func (k *schemaKeyStruct) UnmarshalText(b []byte) error {
	_, err := fmt.Sscanf(string(b), "%d/%d", &k.A, &k.B)
	return err
}

// These types refer to each other or are generic, so they cannot be declared inside a
// function.
type (
	schemaHusband struct{ Wife *schemaWife }
	schemaWife    struct{ Husbands []schemaHusband }

	schemaPage[T any] struct {
		Items []T
		Next  *schemaPage[T] `json:",omitempty"`
	}
	schemaPair[K comparable, V any] struct {
		Key   K
		Value V
	}
)

// schemaError is an error whose JSON is an object.
type schemaError struct{ Text string }

func (e schemaError) Error() string  { return e.Text }
func (e schemaError) String() string { return e.Text }

// schemaLeaves returns the basic types from which schemaTypes builds others. Each type in open
// has a part that may be any JSON value.
func schemaLeaves() (closed, open []reflect.Type) {
	// One type of each kind, without methods.
	type (
		flag     bool
		name     string
		count    int
		small    int8
		level    uint16
		ratio    float32
		octet    byte
		names    []name
		digest   [4]byte
		octets   []octet
		labels   map[name]string
		numbered map[int]string
		sized    map[uint8]bool
		rawText  json.RawMessage // has none of the methods of json.RawMessage
		number   json.Number     // has none of the methods of json.Number
		span     time.Duration
		order    struct {
			Item     string `json:"item"`
			Quantity int    `json:"quantity,omitempty"`
		}
		nothing struct{}
		hidden  struct{ _ int }
	)

	type (
		node struct {
			Value int    `json:"value"`
			Next  *node  `json:"next"`
			Kids  []node `json:"kids,omitempty"`
			Named map[string]*node
		}
		tree   map[string]tree
		forest []forest
	)

	type (
		base struct {
			ID string `json:"id"`
		}
		Base struct {
			ID string `json:"id"`
		}
		Other struct {
			ID string `json:"id"`
		}
		Deep   struct{ Base }
		Tagged struct {
			Ident string `json:"id"`
		}
		Text       string
		plainText2 string
		withBase   struct {
			base
			X int
		}
		withNamed struct {
			Base `json:"base"`
			X    int
		}
		withNil struct {
			*Base
			X int
		}
		withNilOf struct {
			*base
			X int
		}
		withDeep struct {
			Deep
			X int
		}
		shadowed struct {
			Base
			ID int
		}
		Untagged  struct{ ID string }
		shadowTag struct {
			Untagged
			Mine int `json:"ID"`
		}
		A1 struct{ Base }
		A2 struct {
			Base
			Y int
		}
		withText struct {
			Text
			X int
		}
		hiddenTxt struct {
			plainText2
			X int
		}
		withSelf struct {
			*withSelf
			X int
		}
		withIface struct {
			fmt.Stringer
			X int
		}
		withAny struct {
			any
			X int
		}
		withList struct {
			names
			X int
		}
		Names     []string
		withNames struct {
			Names
			X int
		}
		WithMap map[string]int
		withMap struct {
			WithMap
			*Names
			X int
		}
		promoted struct {
			schemaCents
			Currency string
		}
		promotedT struct {
			time.Time
			X int
		}
		colorBox  struct{ schemaColor }
		twoCodecs struct {
			schemaCents
			colorBox
			X int
		}
		money1    struct{ schemaCents }
		money2    struct{ schemaCents }
		ambiguous struct {
			money1
			money2
			X int
		}
		pointers struct {
			*Base
			*Other `json:"other"`
			P      **int
			N      *[]*string
			M      *map[string]*int
		}
		mixed struct {
			base
			*Deep `json:",omitempty"`
			Inner struct {
				Base
				Z *struct{ A, B *int } `json:"z,omitempty"`
			} `json:"inner"`
		}
	)

	// Struct tags. The embed option requires Go 1.27.
	type (
		embeds struct {
			Order order `json:",embed"`
			Base  *Base `json:"b,embed"`
			X     int
		}
		embedsMap struct {
			Rest map[name]*int `json:",embed"`
			X    string
		}
		quoted struct {
			I  int           `json:"i,string"`
			I8 int8          `json:",string"`
			U  uint64        `json:"u,string"`
			F  float64       `json:"f,string"`
			G  float32       `json:"g,string"`
			B  bool          `json:"b,string"`
			S  string        `json:"s,string"`
			N  json.Number   `json:"n,string"`
			P  *int          `json:"p,string"`
			O  *bool         `json:"o,omitempty,string"`
			C  schemaColor   `json:"c,string"`
			W  schemaWritten `json:"w,string"`
			T  span          `json:"t,string"`
			Q  name          `json:"q,string"`
		}
		optional struct {
			I int             `json:",omitempty"`
			P *int            `json:",omitempty"`
			Z *int            `json:",omitzero"`
			Q **int           `json:",omitempty"`
			S []int           `json:",omitempty"`
			T []int           `json:",omitzero"`
			M map[string]int  `json:",omitempty"`
			N names           `json:",omitempty"`
			A [0]int          `json:",omitempty"`
			B [2]int          `json:",omitempty"`
			C order           `json:",omitempty"`
			D order           `json:",omitzero"`
			E time.Time       `json:",omitzero"`
			F any             `json:",omitempty"`
			G json.RawMessage `json:",omitempty"`
			H *schemaCents    `json:",omitempty"`
			J *schemaColor    `json:",omitempty"`
			K *iii.ErrorBody  `json:",omitempty"`
			L *Base           `json:",omitempty"`
		}
	)

	_ = []any{hiddenTxt{}.plainText2, withSelf{}.withSelf, withAny{}.any, withList{}.names} // mark the fields as used
	closed = []reflect.Type{
		reflect.TypeFor[bool](), reflect.TypeFor[string](), reflect.TypeFor[int](), reflect.TypeFor[int8](), reflect.TypeFor[int16](),
		reflect.TypeFor[int32](), reflect.TypeFor[int64](), reflect.TypeFor[uint](), reflect.TypeFor[uint8](), reflect.TypeFor[uint16](),
		reflect.TypeFor[uint32](), reflect.TypeFor[uint64](), reflect.TypeFor[uintptr](), reflect.TypeFor[float32](), reflect.TypeFor[float64](),
		reflect.TypeFor[flag](), reflect.TypeFor[name](), reflect.TypeFor[count](), reflect.TypeFor[small](), reflect.TypeFor[level](), reflect.TypeFor[ratio](),
		reflect.TypeFor[json.Number](), reflect.TypeFor[number](), reflect.TypeFor[rawText](), reflect.TypeFor[template.HTML](),
		reflect.TypeFor[time.Duration](), reflect.TypeFor[span](), reflect.TypeFor[time.Time](), reflect.TypeFor[time.Month](), reflect.TypeFor[slog.Level](),
		reflect.TypeFor[big.Int](), reflect.TypeFor[big.Float](), reflect.TypeFor[big.Rat](), reflect.TypeFor[*big.Int](), reflect.TypeFor[*big.Float](), reflect.TypeFor[*big.Rat](),
		reflect.TypeFor[uuid.UUID](), reflect.TypeFor[netip.Addr](), reflect.TypeFor[netip.Prefix](), reflect.TypeFor[net.IP](), reflect.TypeFor[net.IPNet](),
		reflect.TypeFor[url.URL](), reflect.TypeFor[*url.URL](), reflect.TypeFor[http.Header](),
		reflect.TypeFor[[]byte](), reflect.TypeFor[octets](), reflect.TypeFor[[3]byte](), reflect.TypeFor[digest](), reflect.TypeFor[[]schemaLetter](), reflect.TypeFor[[0]int](),
		reflect.TypeFor[names](), reflect.TypeFor[labels](), reflect.TypeFor[numbered](), reflect.TypeFor[sized](),
		reflect.TypeFor[map[schemaColor]int](), reflect.TypeFor[map[schemaKeyText]int](), reflect.TypeFor[map[schemaKeyPointer]int](), reflect.TypeFor[map[schemaKeyStruct]int](), reflect.TypeFor[map[netip.Addr]bool](),
		reflect.TypeFor[map[string][]map[int64]*[]string](), reflect.TypeFor[[][][]int](), reflect.TypeFor[map[string]struct{}](), reflect.TypeFor[***int](),
		reflect.TypeFor[schemaColor](), reflect.TypeFor[schemaByPointer](), reflect.TypeFor[schemaTextList](), reflect.TypeFor[schemaLetter](), reflect.TypeFor[schemaWritten](), reflect.TypeFor[schemaKeyStruct](),
		reflect.TypeFor[order](), reflect.TypeFor[nothing](), reflect.TypeFor[hidden](), reflect.TypeFor[struct{ A, B *order }](), reflect.TypeFor[struct{}](),
		reflect.TypeFor[node](), reflect.TypeFor[tree](), reflect.TypeFor[forest](), reflect.TypeFor[schemaHusband](), reflect.TypeFor[schemaPage[order]](), reflect.TypeFor[schemaPage[schemaPage[big.Int]]](), reflect.TypeFor[schemaPair[name, *node]](),
		reflect.TypeFor[base](), reflect.TypeFor[withBase](), reflect.TypeFor[withNamed](), reflect.TypeFor[withNil](), reflect.TypeFor[withNilOf](), embedding(reflect.TypeFor[Base](), reflect.TypeFor[Other]()), embedding(reflect.TypeFor[Base](), reflect.PointerTo(reflect.TypeFor[Other]())), reflect.TypeFor[withDeep](),
		reflect.TypeFor[shadowed](), reflect.TypeFor[shadowTag](), embedding(reflect.TypeFor[Deep](), reflect.TypeFor[Tagged]()), embedding(reflect.TypeFor[A1](), reflect.TypeFor[A2]()), reflect.TypeFor[withText](), reflect.TypeFor[hiddenTxt](),
		reflect.TypeFor[withSelf](), reflect.TypeFor[withList](), reflect.TypeFor[withNames](), reflect.TypeFor[withMap](), reflect.TypeFor[pointers](), reflect.TypeFor[mixed](), reflect.TypeFor[colorBox](),
		oddTags(), reflect.TypeFor[embeds](), reflect.TypeFor[embedsMap](), reflect.StructOf([]reflect.StructField{{Name: "A", Type: reflect.TypeFor[int](), Tag: "json:\"a"}, {Name: "B", Type: reflect.TypeFor[int](), Tag: "yaml"}}),
		reflect.TypeFor[iii.List[int]](), reflect.TypeFor[iii.List[*order]](), reflect.TypeFor[iii.Map[[]byte]](), reflect.TypeFor[iii.ListMap[big.Int]](), reflect.TypeFor[iii.StringMap](),
		reflect.TypeFor[iii.List[byte]](), reflect.TypeFor[iii.List[octet]](), reflect.TypeFor[iii.List[schemaLetter]](), reflect.TypeFor[iii.List[iii.List[octet]]](),
		reflect.TypeFor[iii.List[octets]](), reflect.TypeFor[iii.List[digest]](), reflect.TypeFor[iii.Map[iii.List[byte]]](), reflect.TypeFor[iii.ListMap[octet]](),
		reflect.TypeFor[*iii.List[byte]](), reflect.TypeFor[[]*byte](), reflect.TypeFor[map[string][]byte](), reflect.TypeFor[[2][]octet](),
		reflect.TypeFor[iii.ErrorBody](), reflect.TypeFor[iii.HTTPRequestTrigger](), reflect.TypeFor[iii.HTTPRequest[order]](), reflect.TypeFor[iii.HTTPRequest[*node]](), reflect.TypeFor[iii.HTTPResponse[[]string]](), reflect.TypeFor[iii.HTTPResponse[big.Int]](),
	}
	open = []reflect.Type{
		reflect.TypeFor[any](), reflect.TypeFor[error](), reflect.TypeFor[fmt.Stringer](), reflect.TypeFor[json.RawMessage](), reflect.TypeFor[*json.RawMessage](),
		reflect.TypeFor[encoding.TextMarshaler](), reflect.TypeFor[map[string]any](), reflect.TypeFor[[]any](),
		reflect.TypeFor[schemaCents](), reflect.TypeFor[twoCodecs](), reflect.TypeFor[schemaCentsByPtr](), reflect.TypeFor[schemaJSONIn](), reflect.TypeFor[schemaReadText](), reflect.TypeFor[promoted](), reflect.TypeFor[promotedT](), reflect.TypeFor[ambiguous](),
		reflect.TypeFor[withIface](), reflect.TypeFor[withAny](), reflect.TypeFor[quoted](), reflect.TypeFor[optional](), reflect.TypeFor[schemaPage[any]](), reflect.TypeFor[iii.HTTPRequest[iii.JSONValue]](),
		reflect.TypeFor[struct{ schemaColor }](), reflect.TypeFor[struct{ A struct{ schemaColor } }](), reflect.TypeFor[struct{ uuid.UUID }](), reflect.TypeFor[map[encoding.TextMarshaler]int](),
		reflect.TypeFor[struct{ A struct{ time.Time } }](), reflect.TypeFor[iii.State[int]](), reflect.TypeFor[iii.StateSetInput](), reflect.TypeFor[iii.UpdateOpError](),
		reflect.TypeFor[[]schemaByteIn](), reflect.TypeFor[iii.List[schemaByteIn]](), reflect.TypeFor[[]schemaBytePtr](), reflect.TypeFor[[2]schemaBytePtr](), reflect.TypeFor[iii.List[schemaBytePtr]](),
	}
	return closed, open
}

// embedding returns a struct type that embeds the given types and has a field X.
func embedding(types ...reflect.Type) reflect.Type {
	var fields []reflect.StructField
	for _, t := range types {
		f := reflect.StructField{Name: t.Name(), Type: t, Anonymous: true}
		if t.Kind() == reflect.Pointer {
			f.Name = t.Elem().Name()
		}
		fields = append(fields, f)
	}
	return reflect.StructOf(append(fields, reflect.StructField{Name: "X", Type: reflect.TypeFor[int]()}))
}

// oddTags returns a struct type with unusual names in its tags.
func oddTags() reflect.Type {
	var fields []reflect.StructField
	for i, tag := range []string{
		"-", "-,", ",", ",omitempty", "d/e~f", "é 日本 ~!#$%&()*+-./:;<=>?@[]^_{|}", `a"b`, "c'd", `x\y`, "z\u2028", "<>&", " ", "$ref", "type",
		"properties", "additionalProperties", "same", "same", "r, omitempty", "s,omitempty,unknown", "\x01", "`", "'quoted'", "'a,b'", "\x7f", "\u00a0", "ⅷ", "a\u0301",
	} {
		fields = append(fields, reflect.StructField{Name: "F" + strconv.Itoa(i), Type: reflect.TypeFor[int](), Tag: reflect.StructTag("json:" + strconv.Quote(tag))})
	}
	fields = append(fields, reflect.StructField{Name: "Func", Type: reflect.TypeFor[func()](), Tag: `json:"-"`})
	return reflect.StructOf(fields)
}

// schemaTypes returns several hundred types: the leaves, types derived from them, and random
// structs.
func schemaTypes() (closed, open []reflect.Type) {
	closed, open = schemaLeaves()
	derive := func(leaves []reflect.Type) (types []reflect.Type) {
		for _, t := range leaves {
			types = append(types, t, reflect.PointerTo(t), reflect.SliceOf(t), reflect.ArrayOf(2, t), reflect.MapOf(reflect.TypeFor[string](), t))
			for _, tag := range []reflect.StructTag{"", `json:"a,omitempty"`, `json:",omitzero"`, `json:"a b,string"`} {
				types = append(types, reflect.StructOf([]reflect.StructField{{Name: "A", Type: t, Tag: tag}, {Name: "P", Type: reflect.PointerTo(t), Tag: tag[:0]}}))
			}
		}
		return types
	}
	r := rand.New(rand.NewPCG(1, 2))
	random := func(leaves []reflect.Type) (types []reflect.Type) {
		for range 40 {
			var fields []reflect.StructField
			for i := range r.IntN(8) {
				t := leaves[r.IntN(len(leaves))]
				for range r.IntN(3) {
					switch r.IntN(4) {
					case 0:
						t = reflect.PointerTo(t)
					case 1:
						t = reflect.SliceOf(t)
					case 2:
						t = reflect.MapOf(reflect.TypeFor[int16](), t)
					case 3:
						t = reflect.StructOf([]reflect.StructField{{Name: "Inner", Type: t}})
					}
				}
				tag := []string{"", `json:"x"`, `json:"n%d"`, `json:"n%d,omitempty"`, `json:",omitzero"`, `json:",string"`, `json:"-"`, `json:"é%d"`}[r.IntN(8)]
				fields = append(fields, reflect.StructField{Name: "F" + strconv.Itoa(i), Type: t, Tag: reflect.StructTag(strings.ReplaceAll(tag, "%d", strconv.Itoa(i)))})
			}
			types = append(types, reflect.StructOf(fields))
		}
		return types
	}
	closed = append(derive(closed), random(closed)...)
	return closed, append(derive(open), random(append(slices.Clone(open), closed[:50]...))...)
}

// filler fills values. If random is true, parts are left nil or empty at random, and maps and
// slices can have several entries. Otherwise, only the parts at depth nilAt are nil or empty.
type filler struct {
	r      *rand.Rand
	random bool
	nilAt  int
	exact  bool // use only numbers that float64 represents exactly
}

const maxFilled = 7 // maximum depth

func (f filler) fill(v reflect.Value, depth int) {
	if v.CanInterface() {
		if own, ok := f.own(v.Type()); ok {
			v.Set(reflect.ValueOf(own))
			return
		}
	}
	empty, length := depth == f.nilAt || depth > maxFilled, 1
	if f.random {
		empty, length = f.r.IntN(5) == 0 || depth > maxFilled/2, f.r.IntN(3)
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(f.r.IntN(2) == 0)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		most := int64(math.MaxInt64) >> (64 - v.Type().Bits())
		if n := []int64{0, 1, -1, most, -most - 1, f.r.Int64() >> (64 - v.Type().Bits())}[f.r.IntN(6)]; f.exact {
			v.SetInt(n >> 11)
		} else {
			v.SetInt(n)
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		most := uint64(math.MaxUint64) >> (64 - v.Type().Bits())
		if n := []uint64{0, 1, most, f.r.Uint64() & most}[f.r.IntN(4)]; f.exact {
			v.SetUint(n >> 11)
		} else {
			v.SetUint(n)
		}
	case reflect.Float32:
		v.SetFloat([]float64{0, -1.5, math.MaxFloat32, 1e-30, 3}[f.r.IntN(5)])
	case reflect.Float64:
		v.SetFloat([]float64{0, -1.5, math.MaxFloat64, 1e-300, 1e21, 3}[f.r.IntN(6)])
	case reflect.String:
		v.SetString([]string{"", "a", "é\n\"\\</script>\u2028\x00\xff", "7"}[f.r.IntN(4)])
	case reflect.Pointer:
		if !empty {
			p := reflect.New(v.Type().Elem())
			f.fill(p.Elem(), depth+1)
			v.Set(p)
		}
	case reflect.Slice:
		if !empty {
			v.Set(reflect.MakeSlice(v.Type(), length, 3))
			for i := range v.Len() {
				f.fill(v.Index(i), depth+1)
			}
		}
	case reflect.Array:
		for i := range v.Len() {
			f.fill(v.Index(i), depth+1)
		}
	case reflect.Map:
		if !empty {
			v.Set(reflect.MakeMap(v.Type()))
			for range length {
				key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
				switch {
				case f.random || key.Kind() == reflect.Interface || key.Kind() == reflect.Struct:
					filler{r: f.r, nilAt: -1}.fill(key, 0)
				case key.CanInt():
					key.SetInt(7)
				case key.CanUint():
					key.SetUint(7)
				}
				f.fill(value, depth+1)
				v.SetMapIndex(key, value)
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			field := v.Type().Field(i)
			switch {
			case field.IsExported():
				f.fill(v.Field(i), depth+1)
			case field.Anonymous && field.Type.Kind() == reflect.Struct: // exported fields of an embedded struct can be set
				f.fill(v.Field(i), depth)
			}
		}
	case reflect.Interface:
		if empty {
			return
		}
		for _, i := range f.r.Perm(6) {
			x := []any{schemaColor(4), schemaError{"e"}, []any{1, "a", nil}, map[string]any{"x": true}, 5, "s"}[i]
			if reflect.TypeOf(x).AssignableTo(v.Type()) {
				v.Set(reflect.ValueOf(x))
			}
		}
	}
}

// own returns a value for a type that needs special values. For other types, it returns false.
func (f filler) own(t reflect.Type) (any, bool) {
	n := f.r.Int64N(1000) - 100
	switch t {
	case reflect.TypeFor[json.Number]():
		return []json.Number{"", "7", "-1.5e9"}[f.r.IntN(3)], true
	case reflect.TypeFor[json.RawMessage]():
		return []json.RawMessage{nil, json.RawMessage(`{"a":[1]}`), json.RawMessage(`null`), json.RawMessage(`"s"`)}[f.r.IntN(4)], true
	case reflect.TypeFor[time.Time]():
		return []time.Time{{}, time.Unix(n, n).UTC(), time.Unix(n, 0).In(time.FixedZone("", 3600))}[f.r.IntN(3)], true
	case reflect.TypeFor[big.Int]():
		if f.exact {
			return *big.NewInt(n), true
		}
		return *new(big.Int).Lsh(big.NewInt(n), 70), true
	case reflect.TypeFor[big.Float]():
		return *big.NewFloat(float64(n)), true
	case reflect.TypeFor[big.Rat]():
		return *big.NewRat(n, 7), true
	case reflect.TypeFor[netip.Addr]():
		if !f.random {
			return netip.MustParseAddr("::1"), true
		}
		return []netip.Addr{{}, netip.MustParseAddr("::1"), netip.MustParseAddr("10.0.0.1")}[f.r.IntN(3)], true
	case reflect.TypeFor[schemaKeyStruct]():
		if !f.random {
			return schemaKeyStruct{1, 2}, true
		}
	case reflect.TypeFor[netip.Prefix]():
		return []netip.Prefix{{}, netip.MustParsePrefix("10.0.0.0/8")}[f.r.IntN(2)], true
	case reflect.TypeFor[net.IP]():
		return []net.IP{nil, net.IPv4(10, 0, 0, 1), net.IPv6loopback}[f.r.IntN(3)], true
	case reflect.TypeFor[iii.StreamChannelRef]():
		return iii.StreamChannelRef{Direction: iii.StreamChannelDirectionRead}, true
	}
	return nil, false
}

// valuesOf returns a zero value, one value for each depth at which parts can be nil, and
// random values.
func valuesOf(t reflect.Type, r *rand.Rand, exact bool) (systematic, random []reflect.Value) {
	systematic = append(systematic, reflect.New(t).Elem())
	for nilAt := -1; nilAt <= maxFilled; nilAt++ {
		v := reflect.New(t).Elem()
		filler{r: r, nilAt: nilAt, exact: exact}.fill(v, 0)
		systematic = append(systematic, v)
	}
	for range 4 {
		v := reflect.New(t).Elem()
		filler{r: r, random: true, exact: exact}.fill(v, 0)
		random = append(random, v)
	}
	return systematic, random
}

// samples contains one value of each JSON type, and a second number.
var samples = []any{nil, true, 3.0, 1.5, "AAAA", []any{}, map[string]any{}}

func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case float64:
		return "number"
	case string:
		return "string"
	case []any:
		return "array"
	}
	return "object"
}

// place is a location in a document. All elements of an array have the same path.
type place struct {
	path string
	v    any
	with func(any) any // returns the document with the value here replaced
}

func places(doc any) (list []place) {
	var walk func(p place)
	walk = func(p place) {
		list = append(list, p)
		if strings.Count(p.path, "\x00") == 3 {
			return // deeper values belong to recursive types
		}
		switch v := p.v.(type) {
		case []any:
			for i, e := range v {
				walk(place{p.path + "\x00", e, func(x any) any { c := slices.Clone(v); c[i] = x; return p.with(c) }})
			}
		case map[string]any:
			for k, e := range v {
				walk(place{p.path + "\x00" + k, e, func(x any) any { c := maps.Clone(v); c[k] = x; return p.with(c) }})
			}
		}
	}
	walk(place{"", doc, func(x any) any { return x }})
	return list
}

func resolveSchema(t *testing.T, raw json.RawMessage) *jsonschema.Resolved {
	t.Helper()
	var schema jsonschema.Schema
	if err := json.Unmarshal(raw, &schema); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	resolved, err := schema.Resolve(nil)
	if err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	return resolved
}

func encodedDoc(t *testing.T, v any) (doc any) {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatalf("%T: %v", v, err)
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatalf("%T: %v", v, err)
	}
	return doc
}

// Everything that encoding/json writes for a type satisfies the type's result schema. The
// schema is also tight: replacing a value with one of a JSON type that encoding/json never
// writes there makes the document invalid.
func TestEncodedValuesSatisfyTheirSchema(t *testing.T) {
	closed, open := schemaTypes()
	r := rand.New(rand.NewPCG(3, 4))
	distinct, values, refused := map[reflect.Type]bool{}, 0, 0
	for i, typ := range slices.Concat(closed, open) {
		if distinct[typ] {
			continue
		}
		distinct[typ] = true
		raw, err := iii.SchemaOf(typ, false)
		if err != nil {
			t.Errorf("%v: %v", typ, err)
			continue
		}
		schema := resolveSchema(t, raw)
		systematic, random := valuesOf(typ, r, false)
		var docs []any
		for _, v := range slices.Concat(systematic, random) {
			doc := encodedDoc(t, v.Interface())
			if err := schema.Validate(doc); err != nil {
				t.Errorf("%v: %v does not satisfy %s: %v", typ, doc, raw, err)
				break
			}
			docs = append(docs, doc)
			values++
		}
		if i >= len(closed) || len(docs) == 0 {
			continue
		}
		all, seen, count := []place{}, map[string]bool{}, map[string]int{}
		for _, doc := range docs[:min(len(docs), len(systematic))] {
			for _, p := range places(doc) {
				all = append(all, p)
				seen[p.path+" "+kindOf(p.v)] = true
				count[p.path]++
				if _, ok := p.v.(map[string]any); ok {
					count[p.path+" objects"]++
				}
			}
		}
		done := map[string]bool{}
		for _, p := range all {
			optional := false // the value or one of its ancestors may be missing
			for path := p.path; path != ""; path = path[:strings.LastIndexByte(path, 0)] {
				optional = optional || count[path] < count[path[:strings.LastIndexByte(path, 0)]+" objects"]
			}
			for _, sample := range samples {
				key := p.path + " " + kindOf(sample)
				if seen[key] || done[key] || sample == nil && optional {
					continue
				}
				done[key] = true
				doc := p.with(sample)
				if schema.Validate(doc) == nil {
					t.Errorf("%v: %v satisfies %s", typ, doc, raw)
				}
				refused++
			}
		}
	}
	t.Logf("%d types, %d values, %d other documents", len(distinct), values, refused)
	if len(distinct) < 200 {
		t.Errorf("only %d types", len(distinct))
	}
}

// A document that satisfies the argument schema can be decoded. An encoded value that can be
// decoded again satisfies the argument schema.
func TestArgumentSchemaDescribesDecodableValues(t *testing.T) {
	closed, _ := schemaTypes()
	r := rand.New(rand.NewPCG(5, 6))
	same, accepted, refused := 0, 0, 0
	for _, typ := range closed {
		raw, err := iii.SchemaOf(typ, true)
		if err != nil {
			t.Errorf("%v: %v", typ, err)
			continue
		}
		schema := resolveSchema(t, raw)
		decode := func(doc any) error {
			raw, err := json.Marshal(doc)
			if err != nil {
				t.Fatal(err)
			}
			return json.Unmarshal(raw, reflect.New(typ).Interface())
		}
		custom := decodesItself(typ, map[reflect.Type]bool{})
		systematic, random := valuesOf(typ, r, true)
		done := map[string]bool{}
		for i, v := range slices.Concat(systematic, random) {
			doc := encodedDoc(t, v.Interface())
			failure, mismatch := decode(doc), schema.Validate(doc)
			if failure == nil && mismatch != nil || failure != nil && mismatch == nil && !custom {
				t.Errorf("%v: %v: decoding: %v; %s: %v", typ, doc, failure, raw, mismatch)
				break
			}
			same++
			if i >= len(systematic) || failure != nil {
				continue
			}
			for _, p := range places(doc) {
				for _, sample := range samples {
					key := fmt.Sprint(p.path, sample)
					if done[key] || custom && kindOf(sample) == "string" {
						continue
					}
					done[key] = true
					doc := p.with(sample)
					if schema.Validate(doc) != nil {
						refused++
						continue
					}
					accepted++
					if err := decode(doc); err != nil {
						t.Errorf("%v: %v satisfies %s, but: %v", typ, doc, raw, err)
					}
				}
			}
		}
	}
	t.Logf("%d values, %d other documents that can be decoded, %d that are rejected", same, accepted, refused)
}

// decodesItself reports whether t or a type inside it has an Unmarshal method. Such a method
// may reject some strings.
func decodesItself(t reflect.Type, seen map[reflect.Type]bool) bool {
	if seen[t] {
		return false
	}
	seen[t] = true
	p := reflect.PointerTo(t)
	if p.Implements(reflect.TypeFor[json.Unmarshaler]()) || p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return true
	}
	switch t.Kind() {
	case reflect.Map:
		return decodesItself(t.Key(), seen) || decodesItself(t.Elem(), seen)
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return decodesItself(t.Elem(), seen)
	case reflect.Struct:
		for i := range t.NumField() {
			if decodesItself(t.Field(i).Type, seen) {
				return true
			}
		}
	}
	return false
}

// These types have a JSONSchema method.
type (
	schemaSuit     string                 // an enumeration
	schemaRange    struct{ From, To int } // pointer method that returns any
	schemaEven     int                    // returns a string
	schemaDoc      struct{ A int }        // returns another package's schema type and an error
	schemaOwnRefs  struct{ A int }        // contains references
	schemaIdentity struct{ A int }        // contains $id
	schemaJSON     struct{ A int }        // also has its own encoding
	schemaBase     struct{ A int }        // embedded in other types
	schemaAnything struct{}               // the schema true
	schemaNothing  struct{}               // the schema false
	schemaEmbeds   struct {
		schemaBase
		B int
	} // ignores the embedded type's schema
	schemaEmbedsP struct {
		*schemaBase
		B int
	} // the same, with a nil pointer
	schemaOverride struct {
		schemaBase
		B int
	} // has its own JSONSchema method
	schemaPromoted struct {
		schemaJSON
		B int
	} // inherits the embedded type's encoding
	schemaArgument struct{ A int } // JSONSchema has a different signature
)

func (schemaSuit) JSONSchema() json.RawMessage {
	return json.RawMessage(`{"type":"string","enum":["hearts","spades"]}`)
}
func (r *schemaRange) JSONSchema() any {
	return map[string]any{"type": "object", "properties": map[string]any{"From": map[string]any{"type": "integer", "default": json.Number("2.0")}}, "additionalProperties": false}
}
func (schemaEven) JSONSchema() string { return ` {"type":"integer","multipleOf":2} ` }
func (schemaDoc) JSONSchema() (*jsonschema.Schema, error) {
	return jsonschema.For[struct{ A struct{ B *int } }](nil)
}
func (schemaOwnRefs) JSONSchema() []byte {
	return []byte(`{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","properties":{"A":{"$ref":"#/$defs/a"},"const":{"$ref":"#"},"x":{"const":{"$ref":"#"}}},"$defs":{"a":{"type":"integer"}}}`)
}
func (schemaIdentity) JSONSchema() []byte {
	return []byte(`{"$id":"https://example.com/identity","properties":{"A":{"$ref":"#/$defs/a"}},"$defs":{"a":{"type":"integer"}}}`)
}
func (schemaJSON) JSONSchema() string           { return `{"type":["array","string"]}` }
func (schemaJSON) MarshalJSON() ([]byte, error) { return []byte(`[]`), nil }
func (*schemaJSON) UnmarshalJSON([]byte) error  { return nil }
func (schemaBase) JSONSchema() string           { return `{"title":"base"}` }
func (schemaAnything) JSONSchema() any          { return true }
func (schemaNothing) JSONSchema() bool          { return false }
func (schemaOverride) JSONSchema() string       { return `{"title":"override"}` }
func (schemaArgument) JSONSchema(string) string { return `{"title":"never"}` }

// These types' JSONSchema methods return no usable schema.
type (
	schemaPanics  struct{}
	schemaFails   struct{}
	schemaNil     struct{}
	schemaNumber  struct{}
	schemaTwice   struct{}
	schemaInvalid struct{}
	schemaHuge    struct{}
)

func (schemaPanics) JSONSchema() string           { panic("no") }
func (schemaFails) JSONSchema() (any, error)      { return nil, errors.New("no schema today") }
func (schemaNil) JSONSchema() any                 { return nil }
func (schemaNumber) JSONSchema() string           { return "5" }
func (schemaTwice) JSONSchema() string            { return "{} {}" }
func (schemaInvalid) JSONSchema() json.RawMessage { return json.RawMessage("{") }
func (schemaHuge) JSONSchema() string             { return `{"maximum":1e999}` }

func TestSchemaOfType(t *testing.T) {
	type tagged struct {
		Name  string       `json:"name" jsonschema:"what it is called"`
		Order *schemaRange `json:",omitempty" jsonschema:"description"`
		Other int          `jsonschema:"title=Other,required"`
	}
	type own struct {
		A, B schemaOwnRefs
		C    *schemaOwnRefs
		D    schemaIdentity
		E    map[schemaSuit]schemaSuit
	}
	type calledBack struct {
		Caller string `json:"_caller_worker_id"`
		N      int    `json:"n"`
	}
	type node struct{ Next *node }
	type ErrorBody struct{ Mine int }
	const anything = `{}`
	for _, tt := range []struct {
		t             reflect.Type
		reads, writes string // if writes is empty, both schemas are the same
	}{
		{reflect.TypeFor[any](), anything, ""},
		{reflect.TypeFor[*any](), anything, ""},
		{reflect.TypeFor[json.RawMessage](), anything, ""},
		{reflect.TypeFor[int](), `{"type":"integer"}`, ""},
		{reflect.TypeFor[uint](), `{"type":"integer","minimum":0}`, ""},
		{reflect.TypeFor[int8](), `{"type":"integer","minimum":-128,"maximum":127}`, ""},
		{reflect.TypeFor[int64](), `{"type":"integer","minimum":-9223372036854775808,"maximum":9223372036854775807}`, ""},
		{reflect.TypeFor[uint64](), `{"type":"integer","minimum":0,"maximum":18446744073709551615}`, ""},
		{reflect.TypeFor[*bool](), `{"type":["boolean","null"]}`, ""},
		{reflect.TypeFor[[]string](), `{"type":["array","null"],"items":{"type":"string"}}`, ""},
		{reflect.TypeFor[[]byte](), `{"type":["string","null"],"contentEncoding":"base64"}`, ""},
		{reflect.TypeFor[[2]bool](), `{"type":"array","items":{"type":"boolean"},"minItems":2,"maxItems":2}`, ""},
		{reflect.TypeFor[map[string]any](), `{"type":["object","null"],"additionalProperties":{}}`, ""},
		{reflect.TypeFor[map[int]bool](), `{"type":["object","null"],"additionalProperties":{"type":"boolean"},"propertyNames":{"pattern":"^-?[0-9]+$"}}`, ""},
		{reflect.TypeFor[map[uint8]bool](), `{"type":["object","null"],"additionalProperties":{"type":"boolean"},"propertyNames":{"pattern":"^[0-9]+$"}}`, ""},
		{reflect.TypeFor[map[netip.Addr]bool](), `{"type":["object","null"],"additionalProperties":{"type":"boolean"}}`, ""},
		{reflect.TypeFor[time.Time](), `{"type":"string","format":"date-time"}`, ""},
		{reflect.TypeFor[uuid.UUID](), `{"type":"string"}`, ""},
		{reflect.TypeFor[json.Number](), `{"type":"number"}`, ""},
		{reflect.TypeFor[big.Int](), `{"type":"integer"}`, `{"type":"object"}`}, // the methods need an addressable value
		{reflect.TypeFor[*big.Int](), `{"type":["integer","null"]}`, ""},
		{reflect.TypeFor[[]big.Float](), `{"type":["array","null"],"items":{"type":"string"}}`, ""},
		{reflect.TypeFor[fmt.Stringer](), `{"type":"null"}`, anything},
		{reflect.TypeFor[schemaColor](), `{"type":"string"}`, ""},
		{reflect.TypeFor[schemaWritten](), `{"type":"integer"}`, `{"type":"string"}`},
		{reflect.TypeFor[schemaReadText](), `{"type":"string"}`, `{"type":"integer"}`},
		{reflect.TypeFor[schemaCents](), `{"type":"object","properties":{"N":{"type":"integer"}},"required":["N"]}`, anything},
		{reflect.TypeFor[*schemaCentsByPtr](), anything, ""},
		{reflect.TypeFor[schemaCentsByPtr](), anything, `{"type":"object","properties":{"N":{"type":"integer"}},"required":["N"]}`},
		{reflect.TypeFor[struct {
			A *int     `json:",omitempty"`
			B []int    `json:",omitzero"`
			C *bool    `json:",omitempty,string"`
			D **string `json:",omitempty"`
		}](), `{"type":"object","properties":{"A":{"type":["integer","null"]},"B":{"type":["array","null"],"items":{"type":"integer"}},"C":{"type":["string","null"],"pattern":"^(true|false)$"},"D":{"type":["string","null"]}}}`,
			`{"type":"object","properties":{"A":{"type":"integer"},"B":{"type":"array","items":{"type":"integer"}},"C":{"type":"string","pattern":"^(true|false)$"},"D":{"type":["string","null"]}}}`},
		{reflect.TypeFor[tagged](), `{"type":"object","properties":{"name":{"type":"string","description":"what it is called"},
			"Order":{"type":["object","null"],"properties":{"From":{"type":"integer","default":2.0}},"description":"description"},"Other":{"type":"integer"}},"required":["Other","name"]}`,
			`{"type":"object","properties":{"name":{"type":"string","description":"what it is called"},
			"Order":{"type":"object","properties":{"From":{"type":"integer","default":2.0}},"description":"description"},"Other":{"type":"integer"}},"required":["Other","name"]}`},
		{reflect.TypeFor[calledBack](), `{"type":"object","properties":{"_caller_worker_id":{"type":"string"},"n":{"type":"integer"}},"required":["n"]}`,
			`{"type":"object","properties":{"_caller_worker_id":{"type":"string"},"n":{"type":"integer"}},"required":["_caller_worker_id","n"]}`},
		{reflect.TypeFor[node](), `{"type":"object","properties":{"Next":{"anyOf":[{"$ref":"#"},{"type":"null"}]}},"required":["Next"]}`, ""},
		{reflect.TypeFor[[]node](), `{"type":["array","null"],"items":{"$ref":"#/$defs/node"},
			"$defs":{"node":{"type":"object","properties":{"Next":{"anyOf":[{"$ref":"#/$defs/node"},{"type":"null"}]}},"required":["Next"]}}}`, ""},
		{reflect.TypeFor[struct {
			A *iii.EmptyInput
			B [2]ErrorBody
			C struct{ D ErrorBody }
		}](), `{"type":"object","properties":{"A":{"anyOf":[{"$ref":"#/$defs/EmptyInput"},{"type":"null"}]},"B":{"type":"array","items":{"$ref":"#/$defs/ErrorBody"},"minItems":2,"maxItems":2},
			"C":{"type":"object","properties":{"D":{"$ref":"#/$defs/ErrorBody"}},"required":["D"]}},"required":["A","B","C"],
			"$defs":{"EmptyInput":{"type":"object","properties":{},"description":"EmptyInput is the input of functions without parameters, such as state::list_groups and engine::health::check. It encodes as {}."},"ErrorBody":{"type":"object","properties":{"Mine":{"type":"integer"}},"required":["Mine"]}}}`, ""},
		{reflect.TypeFor[iii.List[int8]](), `{"type":"array","items":{"type":"integer","minimum":-128,"maximum":127}}`, ""},

		{reflect.TypeFor[schemaSuit](), `{"type":"string","enum":["hearts","spades"]}`, ""},
		{reflect.TypeFor[*schemaSuit](), `{"anyOf":[{"type":"string","enum":["hearts","spades"]},{"type":"null"}]}`, ""},
		{reflect.TypeFor[schemaRange](), `{"type":"object","properties":{"From":{"type":"integer","default":2.0}}}`, ""},
		{reflect.TypeFor[[]schemaEven](), `{"type":["array","null"],"items":{"type":"integer","multipleOf":2}}`, ""},
		{reflect.TypeFor[schemaDoc](), `{"type":"object","properties":{"A":{"type":"object","properties":{"B":{"type":["null","integer"]}},"required":["B"]}},"required":["A"]}`, ""},
		{reflect.TypeFor[schemaJSON](), `{"type":["array","string"]}`, ""},
		{reflect.TypeFor[*schemaJSON](), `{"type":["array","string","null"]}`, ""},
		{reflect.TypeFor[schemaAnything](), anything, ""},
		{reflect.TypeFor[*schemaNothing](), `{"anyOf":[{"not":{}},{"type":"null"}]}`, ""},
		{reflect.TypeFor[schemaEmbeds](), `{"type":"object","properties":{"A":{"type":"integer"},"B":{"type":"integer"}},"required":["A","B"]}`, ""},
		{reflect.TypeFor[schemaEmbedsP](), `{"type":"object","properties":{"B":{"type":"integer"}},"required":["B"]}`, `{"type":"object","properties":{"A":{"type":"integer"},"B":{"type":"integer"}},"required":["B"]}`},
		{reflect.TypeFor[schemaOverride](), `{"title":"override"}`, ""},
		{reflect.TypeFor[schemaPromoted](), anything, ""},
		{reflect.TypeFor[schemaArgument](), `{"type":"object","properties":{"A":{"type":"integer"}},"required":["A"]}`, ""},
		{reflect.TypeFor[schemaOwnRefs](), string(schemaOwnRefs{}.JSONSchema()), ""},
		{reflect.TypeFor[own](), `{"type":"object","required":["A","B","C","D","E"],"properties":{"A":{"$ref":"#/$defs/schemaOwnRefs"},"B":{"$ref":"#/$defs/schemaOwnRefs"},"C":{"anyOf":[{"$ref":"#/$defs/schemaOwnRefs"},{"type":"null"}]},
			"D":{"$ref":"#/$defs/schemaIdentity"},"E":{"type":["object","null"],"additionalProperties":{"type":"string","enum":["hearts","spades"]}}},
			"$defs":{"schemaIdentity":` + string(schemaIdentity{}.JSONSchema()) + `,"schemaOwnRefs":{"type":"object","properties":{"A":{"$ref":"#/$defs/schemaOwnRefs/$defs/a"},"const":{"$ref":"#/$defs/schemaOwnRefs"},"x":{"const":{"$ref":"#"}}},"$defs":{"a":{"type":"integer"}}}}}`, ""},
	} {
		for _, reads := range []bool{true, false} {
			want := tt.reads
			if !reads {
				want = cmp.Or(tt.writes, tt.reads)
			}
			got, err := iii.SchemaOf(tt.t, reads)
			if err != nil {
				t.Errorf("%v, reads %v: %v", tt.t, reads, err)
				continue
			}
			if diff := gocmp.Diff(indented(t, []byte(want)), indented(t, got)); diff != "" {
				t.Errorf("%v, reads %v (-want +got):\n%s", tt.t, reads, diff)
			}
			resolveSchema(t, got)
		}
	}
}

// indented indents a document without reordering its members.
func indented(t *testing.T, raw []byte) string {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var doc any
	if err := d.Decode(&doc); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	b, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The schemas of deeply nested types are small, and shallow enough for the engine.
func TestNestedTypesHaveFlatSchemas(t *testing.T) {
	type (
		l0 struct{ A, B int }
		l1 struct{ A, B l0 }
		l2 struct{ A, B l1 }
		l3 struct{ A, B l2 }
		l4 struct{ A, B l3 }
		l5 struct{ A, B l4 }
		l6 struct{ A, B l5 }
		l7 struct{ A, B l6 }
		l8 struct{ A, B l7 }
	)
	deep := reflect.TypeFor[int]()
	for range 100 {
		deep = reflect.StructOf([]reflect.StructField{{Name: "A", Type: deep}})
	}
	for _, typ := range []reflect.Type{reflect.TypeFor[l8](), deep} {
		raw, err := iii.SchemaOf(typ, true)
		if err != nil || len(raw) > 16<<10 {
			t.Fatalf("%d bytes, %v", len(raw), err)
		}
		if err := resolveSchema(t, raw).Validate(encodedDoc(t, reflect.Zero(typ).Interface())); err != nil {
			t.Error(err)
		}
	}
}

// A handler can be registered even if one of its types has no schema.
func TestTypesWithoutASchema(t *testing.T) {
	type loop *loop
	for typ, want := range map[reflect.Type]string{
		reflect.TypeFor[chan int]():                          "chan int has no JSON encoding",
		reflect.TypeFor[struct{ A, B struct{ F func() } }](): "A: F: func() has no JSON encoding",
		reflect.TypeFor[map[string][]complex128]():           "complex128 has no JSON encoding",
		reflect.TypeFor[*unsafe.Pointer]():                   "unsafe.Pointer has no JSON encoding",
		reflect.TypeFor[map[bool]int]():                      "bool cannot be the key of a JSON object",
		reflect.TypeFor[loop]():                              "is a pointer to itself",
		reflect.TypeFor[schemaPanics]():                      "JSONSchema of iii_test.schemaPanics: panic: no",
		reflect.TypeFor[[]schemaFails]():                     "JSONSchema of iii_test.schemaFails: no schema today",
		reflect.TypeFor[schemaNil]():                         "JSONSchema of iii_test.schemaNil",
		reflect.TypeFor[schemaNumber]():                      "a JSON Schema is an object or a boolean",
		reflect.TypeFor[schemaTwice]():                       "more than one JSON value",
		reflect.TypeFor[schemaInvalid]():                     "JSONSchema of iii_test.schemaInvalid",
		reflect.TypeFor[schemaHuge]():                        "out of range",
	} {
		for range 2 {
			if raw, err := iii.SchemaOf(typ, true); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v: %s, %v, want %q", typ, raw, err, want)
			}
		}
	}

	var log lockedBuffer
	e := iiitest.Start(t)
	c := connect(t, e, iii.WithLogger(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))))
	handle(t, c, "f", func(context.Context, schemaHuge) (*unsafe.Pointer, error) { return nil, nil })
	if err := c.Call(t.Context(), "f", schemaHuge{}, nil); err != nil {
		t.Fatal(err)
	}
	info, err := c.FunctionInfo(t.Context(), "f")
	if err != nil || info.RequestSchema != nil || info.ResponseSchema != nil {
		t.Errorf("schemas %s and %s, %v", info.RequestSchema, info.ResponseSchema, err)
	}
	if text := log.String(); strings.Count(text, "level=DEBUG msg=\"iii: no schema for a handler's type\" function=f") != 2 {
		t.Errorf("log: %s", text)
	}
}

// checkAdvertised registers a function that returns its argument, calls it with v, and
// validates the result against the schemas that the engine lists.
func checkAdvertised[T any](t *testing.T, c *iii.Client, v T) {
	t.Helper()
	id := strings.ReplaceAll(fmt.Sprintf("returns::%T", v), " ", "-")
	handle(t, c, id, func(_ context.Context, v T) (T, error) { return v, nil })
	result, err := iii.Call[any](t.Context(), c, id, v)
	if err != nil {
		t.Errorf("%s: %v", id, err)
	}
	info, err := c.FunctionInfo(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	for name, schema := range map[string]json.RawMessage{"argument": info.RequestSchema, "result": info.ResponseSchema} {
		if err := resolveSchema(t, schema).Validate(result); err != nil {
			t.Errorf("%s: %v does not satisfy the schema of the %s %s: %v", id, result, name, schema, err)
		}
		if bytes.Contains(schema, []byte(`"additionalProperties":false`)) {
			t.Errorf("%s: closed: %s", id, schema)
		}
	}
}

type (
	SchemaBase struct {
		ID string `json:"id"`
	}
	schemaInner struct {
		ID string `json:"id"`
	}
)

func TestAdvertisedSchemaOfEmbeddedStructs(t *testing.T) {
	c := connect(t, iiitest.Start(t))
	type named struct {
		SchemaBase `json:"base"`
		X          int `json:"x"`
	}
	type pointer struct {
		*SchemaBase
		X int `json:"x"`
	}
	type filled pointer
	type plain struct {
		schemaInner
		X int `json:"x"`
	}
	checkAdvertised(t, c, named{SchemaBase{"a"}, 1})
	checkAdvertised(t, c, pointer{nil, 1})
	checkAdvertised(t, c, filled{&SchemaBase{"a"}, 1})
	checkAdvertised(t, c, plain{schemaInner{"a"}, 1})
}

func TestAdvertisedSchemaOfSelfEncodingTypes(t *testing.T) {
	c := connect(t, iiitest.Start(t))
	type price struct {
		schemaJSON
		Currency string
	}
	checkAdvertised(t, c, uuid.New())
	checkAdvertised(t, c, struct{ ID uuid.UUID }{uuid.New()})
	checkAdvertised(t, c, netip.MustParseAddr("::1"))
	checkAdvertised(t, c, schemaColor(2))
	checkAdvertised(t, c, []schemaColor{1, 2})
	checkAdvertised(t, c, &schemaByPointer{350})
	checkAdvertised(t, c, schemaJSON{350})
	checkAdvertised(t, c, &schemaJSON{350})
	checkAdvertised(t, c, price{schemaJSON{350}, "EUR"})
	checkAdvertised(t, c, schemaSuit("hearts"))
	checkAdvertised(t, c, (*schemaSuit)(nil))
}

// Requests from the engine satisfy a typed route's request schema. Responses, including error
// responses, satisfy its response schema.
func TestAdvertisedSchemasOfTypedRoutes(t *testing.T) {
	e := iiitest.Start(t)
	c := connect(t, e)
	type order struct{ Quantity int }
	type receipt struct{ Total big.Int } // its methods have pointer receivers
	var (
		mu                sync.Mutex
		requests, results []any
	)
	keep := iii.WithMiddleware(func(next iii.HandlerFunc) iii.HandlerFunc {
		return func(ctx context.Context, payload json.RawMessage) (any, error) {
			result, err := next(ctx, payload)
			mu.Lock()
			defer mu.Unlock()
			requests, results = append(requests, slices.Clone(payload)), append(results, result)
			return result, err
		}
	})
	worker := connect(t, e, keep)
	f, err := iii.HandleHTTP(worker, "POST", "/orders/:id", func(_ context.Context, r *iii.HTTPRequest[order]) (*iii.HTTPResponse[receipt], error) {
		if r.Body.Quantity == 0 {
			return nil, nil
		}
		return &iii.HTTPResponse[receipt]{StatusCode: 201, Body: receipt{*big.NewInt(7)}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := worker.FunctionInfo(t.Context(), f.ID()); err != nil { // returns after the route is registered
		t.Fatal(err)
	}
	for body, status := range map[string]int{`{"Quantity":1}`: 201, ``: 204, `{"Quantity":"one"}`: 400} {
		contentType := "application/json"
		if body == "" {
			contentType = ""
		}
		if got := fetch(t, e.HTTPURL(), "POST", "/orders/5?a=b", contentType, body); got.Status != status {
			t.Errorf("%q: status %d, want %d", body, got.Status, status)
		}
	}
	info, err := c.FunctionInfo(t.Context(), f.ID())
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(requests) != 3 {
		t.Fatalf("%d requests", len(requests))
	}
	request, response := resolveSchema(t, info.RequestSchema), resolveSchema(t, info.ResponseSchema)
	for i := range requests {
		sent, result := encodedDoc(t, requests[i]), encodedDoc(t, results[i])
		body := sent.(map[string]any)["body"]
		if err := request.Validate(sent); (err == nil) != (body == nil || reflect.DeepEqual(body, map[string]any{"Quantity": 1.0})) {
			t.Errorf("request %v: %v", sent, err)
		}
		if err := response.Validate(result); err != nil {
			t.Errorf("result %v: %v", result, err)
		}
	}
	for _, wrong := range []string{`{"status_code":201,"headers":{},"body":{}}`, `{"status_code":201,"headers":{},"body":null}`, `{"status_code":"201","headers":{},"body":{"Total":7}}`, `null`} {
		var doc any
		if err := json.Unmarshal([]byte(wrong), &doc); err != nil {
			t.Fatal(err)
		}
		if response.Validate(doc) == nil {
			t.Errorf("the response schema accepts %s", wrong)
		}
	}
}

// Recorded requests from a real engine satisfy a typed route's request schema.
func TestRecordedRequestsSatisfyRouteSchema(t *testing.T) {
	raw, err := iii.SchemaOf(reflect.TypeFor[iii.HTTPRequest[any]](), true)
	if err != nil {
		t.Fatal(err)
	}
	schema := resolveSchema(t, raw)
	files, err := filepath.Glob("testdata/0.23/*.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	requests := 0
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			var record struct {
				Frame struct {
					Type string         `json:"type"`
					Data map[string]any `json:"data"`
				} `json:"frame"`
			}
			if json.Unmarshal(line, &record) != nil || record.Frame.Type != "invokefunction" || record.Frame.Data["path_params"] == nil {
				continue
			}
			requests++
			if err := schema.Validate(record.Frame.Data); err != nil {
				t.Errorf("%s: %v: %s", file, err, line)
			}
		}
	}
	if requests < 10 {
		t.Errorf("only %d recorded requests", requests)
	}
}

func TestSchemasAreInferredOnceConcurrent(t *testing.T) {
	type order struct {
		Item  schemaSuit
		Parts []schemaPage[uuid.UUID]
	}
	var wg sync.WaitGroup
	raws := make([]json.RawMessage, 16)
	for i := range raws {
		wg.Go(func() {
			raw, err := iii.SchemaOf(reflect.TypeFor[order](), i%2 == 0)
			if err != nil {
				t.Error(err)
			}
			raws[i] = raw
		})
	}
	wg.Wait()
	for i, raw := range raws {
		if !bytes.Equal(raw, raws[i%2]) {
			t.Errorf("%s and %s", raw, raws[i%2])
		}
	}
	once, _ := iii.SchemaOf(reflect.TypeFor[order](), true)
	again, _ := iii.SchemaOf(reflect.TypeFor[order](), true)
	if &once[0] != &again[0] {
		t.Error("the schema of a known type is inferred again")
	}
}

// BenchmarkSchemaOfKnownType measures the lookup of an already inferred schema.
func BenchmarkSchemaOfKnownType(b *testing.B) {
	typ := reflect.TypeFor[iii.HTTPRequest[schemaPage[schemaRange]]]()
	if _, err := iii.SchemaOf(typ, true); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		_, _ = iii.SchemaOf(typ, true)
	}
}
