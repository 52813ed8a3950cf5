package jsoncodec

import (
	"encoding/json"
	"errors"
	"math/big"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type inner struct {
	N    int8           `json:"n"`
	Text *string        `json:"text,omitempty"`
	Any  any            `json:"any"`
	Map  map[int]string `json:"map"`
}

type Embedded struct{ Deep []inner }

// sample has fields of all kinds that are decoded in different ways.
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

// picky implements decoding itself, and rejects some values.
type picky struct{ calls, text string }

func (p *picky) UnmarshalJSON(b []byte) error {
	p.calls += "x"
	if p.text = string(b); len(b) > 20 {
		return errors.New("too long")
	}
	return nil
}

var texts = []string{
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
	func() any { return &sample{Own: picky{calls: "before "}} }, func() any { return new(picky) }, func() any { return &map[string]string{"kept": "x"} }, func() any { return new(json.RawMessage) },
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
