package jsoncodec

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"math/rand"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"testing/quick"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii/internal/rawjson"
)

type inner struct {
	N    int8           `json:"n"`
	Text *string        `json:"text,omitempty"`
	Any  any            `json:"any"`
	Map  map[int]string `json:"map"`
}

type Embedded struct{ Deep []inner }

// sample has fields that are decoded in different ways, most of them by encoding/json.
type sample struct {
	Embedded
	Name   string `json:"name"`
	Quoted int    `json:",string"`
	Bytes  []byte
	Array  [2]float32
	Raw    json.RawMessage
	Number json.Number
	When   time.Time
	Span   time.Duration
	Big    *big.Int
	Own    picky
	Twice  string `json:"twice"`
	Again  string `json:"TWICE"`
	Bad    func() `json:"bad"`
}

// picky has its own decoding methods, which reject some values.
type picky struct{ calls, text string }

func (p *picky) UnmarshalJSON(b []byte) error {
	p.calls += "x"
	if p.text = string(b); len(b) > 20 {
		return errors.New("too long")
	}
	return nil
}

type key string

// plain mixes fields that this package encodes and decodes itself with fields that it leaves
// to encoding/json.
type plain struct {
	Bool    bool
	I8      int8
	U64     uint64 `json:"u_64"`
	F32     float32
	F64     float64         `json:"f64,omitempty"`
	S       string          `json:"s"`
	P       *string         `json:"p,omitzero"`
	Any     any             `json:"any"`
	List    []plain         `json:"list,omitempty"`
	Map     map[string]int  `json:",omitempty"`
	Named   map[key]*plain  `json:"named"`
	Raw     json.RawMessage `json:"raw"`
	Zero    struct{ X int } `json:",omitzero"`
	Ints    []int           `json:"ints"`
	Strings *[]string       `json:"strings,omitempty"`
	When    *time.Time      `json:"when"`
	Hidden  int             `json:"-"`
	//lint:ignore SA5008 "-," names the field "-"
	Dash    int              `json:"-,"`
	Array   [2]any           `json:"array"`
	Bytes   []byte           `json:"bytes"`
	IntKeys map[int8]float64 `json:"keys,omitempty"`
	_       int
}

var texts = []string{
	`{"Bool":true,"I8":-128,"u_64":18446744073709551615,"F32":1.5,"f64":-1e-7,"s":"\"\\\/\b\f\n\r\t\u00e4\ud83d\ude00","p":null,"any":{"a":[1,"2",null,{"b":{}}]}}`,
	`{"bool":true}`, `{"u64":1}`, `{"U-64":1}`, `{"\u0073":"escaped key"}`, `{"ſ":"long s"}`, `{"s":"1","s":"2"}`, `{"any":{"a":1,"a":2},"s":"x"}`, `{"named":{"a":{"s":"x"},"a":{"I8":1}}}`,
	`{"s":"\ud800"}`, `{"s":"\ud800\u0041"}`, "{\"s\":\"\xff\"}", `{"s":null,"I8":null,"Bool":null,"F32":null,"list":null,"Map":null,"p":null,"any":null,"raw":null,"when":null}`,
	`{"I8":128}`, `{"I8":1.0}`, `{"I8":1e0}`, `{"I8":-0}`, `{"u_64":-1}`, `{"F32":1e39}`, `{"f64":1e400}`, `{"any":1e400}`, `{"I8":"1"}`, `{"s":1}`, `{"Bool":"true"}`, `{"Bool":0}`,
	`{"list":[{"list":[{"list":[]},{"s":"deep"}]},null]}`, `{"list":{}}`, `{"Map":{"a":1,"b":2}}`, `{"Map":[]}`, `{"Map":{"a":1.5}}`, `{"named":{"":null,"x":{"named":{}}}}`,
	` { "raw" : { "a" : [ 1 , 2 ] } , "ints" : [ 1 , 2 , 3 ] , "unknown" : { "deep" : [ { } ] } , "strings" : [ "a" ] } `, `{"ints":[]}`, `{"ints":[1,"2"]}`, `{"strings":[null,"x"]}`,
	`{"when":"2026-01-02T03:04:05.5+01:00","-":7,"Hidden":1,"private":1,"array":[1,"2"],"bytes":"aGk=","keys":{"-1":2}}`, `{"array":[1]}`, `{"array":[1,2,3]}`, `{"bytes":[1]}`, `{"keys":{"300":1}}`,
	`{"Zero":{"X":1}}`, `{"Zero":{"x":1,"Y":2}}`, `{"":1}`, `{"s":"` + strings.Repeat("long ", 100) + `\n","any":"` + strings.Repeat("é", 300) + `"}`,
	`[{"s":"a"},{}]`, `[]`, `[null]`, `{"a":1,"b":"2"}`, `{"a":"1","b":"2"}`, `"\u0000"`, `-0`, `1e999`,
	`{}`, `null`, ` {"name":"a\u00e4\ud83d\ude00\ud800","Quoted":"12","Bytes":"aGk=","Array":[1,2,3],"Raw": {"a" : 1},"Number":1e3}`,
	`{"NAME":"b","name":"c","Name":"d","Span":5,"Big":123456789012345678901234567890,"Own":[1, 2],"twice":"1","TWICE":"2","Twice":"3"}`,
	`{"Deep":[{"n":1,"any":{"x":[null,true]},"map":{"1":"a","1":"b"}},{"n":300},{"text":"t","text":null}]}`,
	`{"When":"2026-01-02T03:04:05Z","Array":[1]}`, `{"When":"yesterday","name":"set"}`, `{"When":"2026-01-02T3:04:05,5Z"}`, `{"Span":"5s"}`,
	`{"name":1,"Own":1,"Array":[7,"x"]}`, `{"Quoted":12}`, `{"Quoted":"x"}`, `{"Quoted":null}`, `{"Bytes":"no base64!"}`, `{"Number":"x"}`,
	`{"Own":"longer than it will take","name":"set"}`, `{"Deep":{}}`, `[1,2]`, `"text"`, `12`, `true`, "\"\xff\"", `{"bad":null}`, `{"bad":1}`,
	`{"Deep":[{"map":{"x":"a"}}]}`, `{"Deep":[{"n":1.0}]}`, `{"Deep":[{"n":1e1}]}`, "{\"\xff\":1}",
}

var targets = []func() any{
	func() any { return new(sample) }, func() any { return new(any) }, func() any { return new(map[string]any) },
	func() any { return new(string) }, func() any { return new(int) }, func() any { return new([]int) }, func() any { return new(*[2]inner) },
	func() any {
		return &sample{Name: "before", Embedded: Embedded{Deep: []inner{{N: 1, Map: map[int]string{7: "kept"}}}}}
	},
	func() any { return &sample{Own: picky{calls: "before "}} }, func() any { return new(picky) }, func() any { return &map[string]string{"kept": "x"} },
	func() any { return new(plain) }, func() any { return new(*plain) }, func() any { return new([]plain) }, func() any { return new(map[string]string) }, func() any { return new(map[key]any) },
	func() any { return new([]any) }, func() any { return new(float32) }, func() any { return new(uint8) }, func() any { return new(bool) }, func() any { return new([3]string) },
	func() any { return &plain{S: "before", List: []plain{{S: "kept"}}} }, func() any { return new(json.RawMessage) },
}

func same(t *testing.T, text []byte) {
	t.Helper()
	for i, target := range targets {
		got, want := target(), target()
		gotErr, wantErr := Decode(text, got), json.Unmarshal(text, want)
		if reflect.TypeOf(gotErr) != reflect.TypeOf(wantErr) || gotErr != nil && gotErr.Error() != wantErr.Error() {
			t.Errorf("%s into %T: %v, want %v", text, got, gotErr, wantErr)
		}
		opts := cmp.Options{cmp.AllowUnexported(picky{}), cmp.Comparer(func(a, b *big.Int) bool {
			return a == b || a != nil && b != nil && a.Cmp(b) == 0
		})}
		if diff := cmp.Diff(want, got, opts); diff != "" {
			t.Errorf("%s into target %d, error %v (-want +got):\n%s", text, i, gotErr, diff)
		}
	}
}

func TestDecodesAsEncodingJSON(t *testing.T) {
	for _, text := range texts {
		if json.Valid([]byte(text)) {
			same(t, []byte(text))
		}
	}
}

// sameJSON fails the test if Append and encoding/json encode v differently.
func sameJSON(t *testing.T, v any) {
	t.Helper()
	var std bytes.Buffer
	e := json.NewEncoder(&std)
	e.SetEscapeHTML(false)
	wantErr := e.Encode(v)
	got, plain, err := Append([]byte("before "), v)
	if (err != nil) != (wantErr != nil) || err != nil && err.Error() != wantErr.Error() {
		t.Fatalf("%#v: error %v, want %v", v, err, wantErr)
	}
	if err != nil {
		return
	}
	got, found := bytes.CutPrefix(got, []byte("before "))
	if !found {
		t.Fatalf("%#v: overwrote what was there: %q", v, got)
	}
	if plain && (!utf8.Valid(got) || rawjson.CheckForEngine(got, MaxLevels) != nil) {
		t.Errorf("%#v: %q is not plain", v, got)
	}
	var want, have any
	if json.Unmarshal(std.Bytes(), &want) != nil { // raw JSON with a number beyond a float64
		want, have = std.String(), string(append(got, '\n'))
	} else if err := json.Unmarshal(got, &have); err != nil {
		t.Fatalf("%#v: %q: %v", v, got, err)
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("%#v: (-want +got):\n%s", v, diff)
	}
	if literal := bytes.TrimSpace(std.Bytes()); !bytes.ContainsAny(literal, "\\\ufffd") && !bytes.ContainsAny(got, " \t\r\n") && !bytes.Equal(got, literal) {
		t.Errorf("%#v: %q, want %q", v, got, literal)
	}
}

type endless *endless

func TestEncodeRejectsPointersToThemselves(t *testing.T) {
	var direct endless
	direct = &direct
	var indirect any
	indirect = &indirect
	for _, v := range []any{direct, &direct, indirect, []any{indirect}, map[string]endless{"a": direct}, struct{ P *any }{&indirect}} {
		if out, _, err := Append([]byte("before"), v); err == nil || string(out) != "before" {
			t.Errorf("%T: %q, error %v", v, out, err)
		}
	}
	var chain any = 1
	for range 150 {
		next := chain
		chain = &next
	}
	sameJSON(t, chain)
}

type node struct {
	Next  *node `json:"next"`
	Value any   `json:"value,omitempty"`
}

type byPointer struct{ n int }

func (p *byPointer) MarshalJSON() ([]byte, error) {
	return []byte(`{"n":` + strconv.Itoa(p.n) + `}`), nil
}

// nilText encodes itself even if it is nil.
type nilText struct{}

func (n *nilText) MarshalJSON() ([]byte, error) { return []byte(`"nil"`), nil }
func (n *nilText) MarshalText() ([]byte, error) { return []byte("nil"), nil }

type byText struct{ s string }

func (b byText) MarshalText() ([]byte, error) {
	if b.s == "" {
		return nil, errors.New("no text")
	}
	return []byte(b.s), nil
}

func TestEncodesAsEncodingJSON(t *testing.T) {
	loop := &node{}
	loop.Next = loop
	self := map[string]any{}
	self["self"] = self
	list := []any{nil}
	list[0] = list
	deep := &node{}
	for range 200 {
		deep = &node{Next: deep}
	}
	text := "x"
	for _, v := range []any{
		nil, true, 1, -1.5, "a<b>&\"\\\n\u2028é\x00\x7f", "\xff", []any(nil), []any{}, map[string]any(nil), map[string]any{"b": 1, "a": []any{nil, "x"}},
		map[key]int{"z": 1, "a": 2}, map[int]string{2: "b", 1: "a"}, []string{"a"}, []byte("bytes"), []byte(nil), []byte{}, [2]byte{1, 2}, [0]int{}, &text, (*string)(nil), new(any),
		1e21, 1e20, 1e-6, 9.9e-7, 1e-9, 123456789.0, math.Copysign(0, -1), math.MaxFloat64, math.SmallestNonzeroFloat64, float32(3.4e38), float32(1e-7), float32(0.1), math.NaN(), math.Inf(-1),
		uint64(math.MaxUint64), int64(math.MinInt64), uintptr(7), int8(-1), time.Second, time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), time.Date(12026, 1, 2, 3, 4, 5, 6, time.UTC),
		json.Number("12"), json.Number("x"), json.RawMessage(`{"a":1}`), json.RawMessage(nil), json.RawMessage(`{`), struct{ R json.RawMessage }{json.RawMessage("nope")},
		struct {
			F func() `json:",omitempty"`
		}{}, struct {
			C complex128 `json:",omitempty"`
		}{}, struct{ J json.Marshaler }{(*nilText)(nil)}, map[string]json.Marshaler{"a": (*nilText)(nil)}, [1]encoding.TextMarshaler{(*nilText)(nil)}, &struct{ J json.Marshaler }{(*nilText)(nil)},
		loop, self, list, deep, byPointer{1}, &byPointer{2}, []byPointer{{3}}, []any{byPointer{4}, &byPointer{5}}, map[string]byPointer{"a": {6}}, struct{ B byPointer }{}, &struct{ B byPointer }{byPointer{7}},
		byText{"t"}, byText{}, map[byText]int{{"k"}: 1}, struct {
			A any `json:"a,omitempty"`
			B func()
		}{}, make(chan int), func() {}, complex(1, 2), struct {
			F float64  `json:",omitempty"`
			S struct{} `json:",omitempty"`
			A [0]int   `json:",omitempty"`
			B bool     `json:",omitempty"`
			P *int     `json:",omitempty"`
			N int      `json:"n,string"`
		}{}, struct {
			X int
			Y int `json:"X"`
			Z int `json:"z"`
		}{1, 2, 3}, struct {
			X int `json:"a<b"`
			Y int `json:"ä"`
			Z int `json:"with space"`
			Q int `json:"'quoted'"`
		}{1, 2, 3, 4}, sample{}, &sample{Name: "n", Embedded: Embedded{Deep: []inner{{N: 1}}}, Raw: json.RawMessage(`[ 1 ]`)}, plain{}, &plain{S: "s", Named: map[key]*plain{"k": nil, "j": {}}, Array: [2]any{1, plain{}}},
		errors.New("no fields"), any(&node{Value: map[string]any{"n": []node{{}}}}), [][]int{nil, {}, {1}}, map[string]*int{"nil": nil},
	} {
		sameJSON(t, v)
	}
	if err := quick.Check(func(p plain, n node, names map[string][]string) bool {
		p.Raw = nil
		sameJSON(t, p)
		sameJSON(t, []any{&p, names})
		return !t.Failed()
	}, &quick.Config{MaxCount: 300, Values: values}); err != nil {
		t.Error(err)
	}
}

// values replaces package quick's generator, which cannot create values of interface types.
func values(args []reflect.Value, r *rand.Rand) {
	for i, t := range []reflect.Type{reflect.TypeFor[plain](), reflect.TypeFor[node](), reflect.TypeFor[map[string][]string]()} {
		args[i] = random(t, r, 3)
	}
}

// random returns a random value of t.
func random(t reflect.Type, r *rand.Rand, levels int) reflect.Value {
	levels = max(levels, 0)
	v := reflect.New(t).Elem()
	switch t.Kind() {
	case reflect.Interface:
		if levels > 0 && t.NumMethod() == 0 {
			of := []reflect.Type{reflect.TypeFor[string](), reflect.TypeFor[float64](), reflect.TypeFor[[]any](), reflect.TypeFor[map[string]any](), reflect.TypeFor[plain](), reflect.TypeFor[*node]()}
			v.Set(random(of[r.Intn(len(of))], r, levels-1))
		}
	case reflect.Pointer:
		if levels > 0 && r.Intn(2) == 0 {
			v.Set(reflect.New(t.Elem()))
			v.Elem().Set(random(t.Elem(), r, levels-1))
		}
	case reflect.Slice:
		for range r.Intn(levels + 1) {
			v.Set(reflect.Append(v, random(t.Elem(), r, levels-1)))
		}
	case reflect.Map:
		if levels > 0 {
			v.Set(reflect.MakeMap(t))
			for range r.Intn(levels) {
				v.SetMapIndex(random(t.Key(), r, levels-1), random(t.Elem(), r, levels-1))
			}
		}
	case reflect.Array:
		for i := range v.Len() {
			v.Index(i).Set(random(t.Elem(), r, levels-1))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				v.Field(i).Set(random(t.Field(i).Type, r, levels-1))
			}
		}
	case reflect.String:
		alphabet := []string{"a", "b", " ", "\"", "\\", "\n", "é", "日", "😀", "\x01", "<", "\u2028"}
		text := ""
		for range r.Intn(20) {
			text += alphabet[r.Intn(len(alphabet))]
		}
		v.SetString(text)
	default:
		if x, ok := quick.Value(t, r); ok {
			v.Set(x)
		}
	}
	return v
}

func FuzzEncode(f *testing.F) {
	for _, text := range texts {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, target := range targets {
			v := target()
			if json.Unmarshal(text, v) == nil {
				sameJSON(t, v)
				sameJSON(t, reflect.ValueOf(v).Elem().Interface())
			}
		}
	})
}

// Decode requires valid JSON, but must not panic on anything else.
func TestDecodeOfInvalidJSONDoesNotPanic(t *testing.T) {
	for _, text := range texts {
		for i := range text {
			for _, target := range targets {
				_ = Decode([]byte(text[:i]), target())
			}
		}
	}
}

func TestDecodeRejectsInvalidNumbers(t *testing.T) {
	for _, number := range []string{"01", "+1", "1.", ".5", "-", "1e", "007", "1.e2"} {
		for _, target := range []any{new(int), new(uint8), new(float64), new(any)} {
			if err := Decode([]byte(number), target); err == nil {
				t.Errorf("%s into %T: no error", number, target)
			}
		}
	}
}

func TestDecodeStructReportsUnknownMembers(t *testing.T) {
	type in struct {
		A int `json:"a"`
		B struct{ C int }
	}
	for _, test := range []struct {
		text     string
		complete bool
		want     []string
	}{
		{`{"a":1,"x":2,"B":{"x":3},"y":{"a":4}}`, true, []string{"x=2", `y={"a":4}`}},
		{`{}`, true, nil},
		{`{"x":1,"A":2}`, false, []string{"x=1"}},
	} {
		var got []string
		complete, err := DecodeStruct([]byte(test.text), new(in), func(key, value []byte) { got = append(got, string(key)+"="+string(value)) })
		if err != nil || complete != test.complete {
			t.Errorf("%s: %v, %v", test.text, complete, err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: (-want +got):\n%s", test.text, diff)
		}
	}
	if complete, err := DecodeStruct([]byte(`{"x":1}`), new(map[string]int), func([]byte, []byte) {}); complete || err != nil {
		t.Errorf("map: %v, %v", complete, err)
	}
}

// keeper retains the text that it decodes, which [json.Unmarshaler] forbids.
type keeper struct{ text []byte }

func (k *keeper) UnmarshalJSON(b []byte) error { k.text = b; return nil }

func TestIndependent(t *testing.T) {
	type list struct {
		Next *list
		K    []map[string]*keeper
	}
	for _, test := range []struct {
		v    any
		want bool
	}{
		{plain{}, false}, // arrays, and maps whose keys are not strings, are left to encoding/json
		{struct {
			A []map[string]*string
			T time.Time
			R json.RawMessage
			X any
		}{}, true},
		{keeper{}, false}, {[]keeper{}, false}, {list{}, false}, {new(list), false}, {node{}, true}, {sample{}, false},
	} {
		if got := Independent(reflect.TypeOf(test.v)); got != test.want {
			t.Errorf("%T: %v", test.v, got)
		}
	}
}

// Decoding allocates only the decoded values themselves, and encoding allocates nothing.
func TestDecodeAllocations(t *testing.T) {
	type order struct {
		User   string   `json:"user"`
		Amount int      `json:"amount"`
		Note   string   `json:"note"`
		Tags   []string `json:"tags"`
	}
	text := []byte(`{"_caller_worker_id":"w","user":"u-1","amount":12,"note":"` + strings.Repeat("x", 1000) + `","tags":["a","bc"]}`)
	allocs := testing.AllocsPerRun(100, func() {
		var in order
		if err := Decode(text, &in); err != nil {
			t.Fatal(err)
		}
	})
	if limit := 7.0; allocs > limit {
		t.Errorf("%v allocations, not %v", allocs, limit)
	}
	in, room := order{"u", 1, "note", []string{"a"}}, make([]byte, 0, 1000)
	allocs = testing.AllocsPerRun(100, func() {
		if _, _, err := Append(room, &in); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 0 {
		t.Errorf("%v allocations of encoding", allocs)
	}
}

func FuzzDecode(f *testing.F) {
	for _, text := range texts {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if json.Valid(text) {
			same(t, text)
		}
	})
}

type item struct {
	SKU   string            `json:"sku"`
	Count int               `json:"count"`
	Price float64           `json:"price"`
	Flags []bool            `json:"flags"`
	Notes map[string]string `json:"notes,omitempty"`
}

// BenchmarkCodec compares this package with encoding/json, for payloads of different shapes.
func BenchmarkCodec(b *testing.B) {
	items := make([]item, 100)
	for i := range items {
		items[i] = item{"sku-" + strconv.Itoa(i), i, float64(i) * 1.25, []bool{true, false}, map[string]string{"color": "red", "size": "\"L\""}}
	}
	var document any
	text, err := json.Marshal(items)
	if err == nil {
		err = json.Unmarshal(text, &document)
	}
	if err != nil {
		b.Fatal(err)
	}
	for _, shape := range []struct {
		name string
		v    any
		out  func() any
	}{
		{"items", items, func() any { return new([]item) }},
		{"any", document, func() any { return new(any) }},
		{"text", strings.Repeat("word ", 4000), func() any { return new(string) }},
		{"escapes", strings.Repeat("two\nlines \"quoted\" ", 1000), func() any { return new(string) }},
		{"beyond ASCII", strings.Repeat("größer 日本 ", 1000), func() any { return new(string) }},
	} {
		text, err := json.Marshal(shape.v)
		if err != nil {
			b.Fatal(err)
		}
		var room []byte
		for _, codec := range []struct {
			name   string
			encode func() error
			decode func(out any) error
		}{
			{"encoding-json", func() error { _, err := json.Marshal(shape.v); return err }, func(out any) error { return json.Unmarshal(text, out) }},
			{"jsoncodec", func() (err error) { room, _, err = Append(room[:0], shape.v); return err }, func(out any) error { return Decode(text, out) }},
		} {
			b.Run(shape.name+"/encode/"+codec.name, func(b *testing.B) {
				b.SetBytes(int64(len(text)))
				for b.Loop() {
					if err := codec.encode(); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run(shape.name+"/decode/"+codec.name, func(b *testing.B) {
				b.SetBytes(int64(len(text)))
				for b.Loop() {
					if err := codec.decode(shape.out()); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
