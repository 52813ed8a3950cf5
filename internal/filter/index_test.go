package filter

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func commas(parts []string) string { return strings.Join(parts, ",") }

// A corpus makes filters, documents and schemas that have much to do with one another.
type corpus struct{ *rand.Rand }

func newCorpus(seed uint64) corpus { return corpus{rand.New(rand.NewPCG(seed, 1))} }

func pick[T any](c corpus, all ...T) T { return all[c.IntN(len(all))] }

func (c corpus) scalar() string {
	return pick(c, "null", "true", "false", "0", "-0.0", "1", "1.0", "2", "-3", "1e2", "0.5", "9007199254740992", `""`, `"a"`, `"b"`, `"ab"`, `"\u0061"`, `"é"`, `"\ud83d\ude00"`, `"\n"`, `"a\"b"`)
}

func (c corpus) key() string {
	return pick(c, "a", "b", "c", "0", "1", "key of twenty bytes.", `q"`, "é")
}

// value returns a value of at most depth levels; keys may be repeated.
func (c corpus) value(depth int) string {
	if depth == 0 || c.IntN(3) == 0 {
		return c.scalar()
	}
	space := pick(c, "", "", " ", "\n\t")
	var parts []string
	if c.IntN(2) == 0 {
		for range c.IntN(4) {
			parts = append(parts, c.value(depth-1))
		}
		return "[" + space + strings.Join(parts, ","+space) + space + "]"
	}
	n := c.IntN(4)
	if c.IntN(20) == 0 {
		n = 20
	}
	for i := range n {
		key := c.key()
		if n > 4 && i > 2 {
			key = fmt.Sprint("k", i/2)
		}
		quoted := string(appendString(nil, key))
		if c.IntN(8) == 0 {
			quoted = `"\u00` + fmt.Sprintf("%02x", quoted[1]) + quoted[2:]
			if key == "é" || key[0] == '"' {
				quoted = `"\u00e9"`
			}
		}
		parts = append(parts, quoted+space+":"+space+c.value(depth-1))
	}
	return "{" + space + strings.Join(parts, space+","+space) + space + "}"
}

func (c corpus) path(root string) string {
	for range c.IntN(4) {
		root += "." + pick(c, "a", "a", "b", "c", "0", "1", `key of twenty bytes\.`, `q"`, "é", "k1", "k7")
	}
	return root
}

func (c corpus) operators(depth int) string {
	var parts []string
	for range 1 + c.IntN(2) {
		op := pick(c, "$eq", "$eq", "$ne", "$in", "$nin", "$gt", "$gte", "$lt", "$lte", "$exists", "$prefix", "$any")
		var operand string
		switch op {
		case "$eq", "$ne":
			operand = c.value(1 + c.IntN(2))
		case "$in", "$nin":
			items := make([]string, c.IntN(4))
			for i := range items {
				items[i] = c.value(c.IntN(2))
			}
			operand = "[" + commas(items) + "]"
		case "$gt", "$gte", "$lt", "$lte":
			operand = pick(c, "0", "1", "2.5", `"a"`, `"é"`, `""`)
		case "$exists":
			operand = pick(c, "true", "false")
		case "$prefix":
			operand = pick(c, `""`, `"a"`, `"ab"`)
		case "$any":
			switch {
			case depth == 0:
				operand = "{}"
			case c.IntN(2) == 0:
				operand = c.operators(depth - 1)
			default:
				operand = c.filter(depth-1, true)
			}
		}
		parts = append(parts, fmt.Sprintf("%q:%s", op, operand))
	}
	return "{" + commas(parts) + "}"
}

func (c corpus) filter(depth int, inAny bool) string {
	var parts []string
	for range c.IntN(4) {
		switch op := pick(c, "", "", "", "", "$and", "$or", "$not"); {
		case op == "" || depth == 0:
			root := pick(c, "input", "input", "input", "output", "error", "caller", "metadata")
			if inAny {
				root = "@"
			}
			parts = append(parts, string(appendString(nil, c.path(root)))+":"+c.operators(depth))
		case op == "$not":
			parts = append(parts, `"$not":`+c.filter(depth-1, inAny))
		default:
			operands := make([]string, 1+c.IntN(3))
			for i := range operands {
				operands[i] = c.filter(depth-1, inAny)
			}
			parts = append(parts, fmt.Sprintf("%q:[%s]", op, commas(operands)))
		}
	}
	return "{" + commas(parts) + "}"
}

func (c corpus) document() *Document {
	var d Document
	for _, root := range []*json.RawMessage{&d.Input, &d.Input, &d.Output, &d.Error, &d.Caller, &d.Metadata} {
		if c.IntN(3) > 0 {
			*root = json.RawMessage(c.value(4))
		}
	}
	return &d
}

func TestNormalFormIsAFixedPoint(t *testing.T) {
	c := newCorpus(1)
	accepted := 0
	for range 20_000 {
		text := c.filter(3, false)
		f, err := Parse([]byte(text))
		if err != nil {
			continue
		}
		accepted++
		again, err := ParseNormalized([]byte(f.String()))
		if err != nil {
			t.Fatalf("%s has the normal form %s: %v", text, f, err)
		}
		if again.String() != f.String() || again.roots != f.roots || again.Indexable() != f.Indexable() {
			t.Fatalf("%s has the normal form\n%s, which has\n%s", text, f, again)
		}
		for range 3 {
			if d := c.document(); f.Matches(d) != again.Matches(d) {
				t.Fatalf("%s and its normal form differ for %s", text, d.Input)
			}
		}
	}
	if accepted < 10_000 {
		t.Errorf("only %d filters were accepted", accepted)
	}
}

// The order of the members of an object and of the filters of $and means nothing.
func TestNormalFormOfPermutations(t *testing.T) {
	c := newCorpus(2)
	for range 2000 {
		var clauses []string
		for i := range 2 + c.IntN(5) {
			clauses = append(clauses, fmt.Sprintf(`%q:%s`, fmt.Sprintf("%s.p%d", pick(c, "input", "caller"), i), c.operators(1)))
		}
		f, err := Parse([]byte("{" + commas(clauses) + "}"))
		if err != nil {
			continue
		}
		c.Shuffle(len(clauses), func(i, j int) { clauses[i], clauses[j] = clauses[j], clauses[i] })
		n := c.IntN(len(clauses))
		permuted := `{"$and":[{` + commas(clauses[:n]) + `},{"$and":[{},{` + commas(clauses[n:]) + "}]}]}"
		g, err := Parse([]byte(permuted))
		if err != nil {
			t.Fatalf("%s: %v", permuted, err)
		}
		if f.String() != g.String() {
			t.Fatalf("%s has the normal form\n%s, not\n%s", permuted, g, f)
		}
	}
}

// A view of a document finds the same values as a scan of it.
func TestViewFindsWhatAScanFinds(t *testing.T) {
	c := newCorpus(3)
	for range 3000 {
		d := c.document()
		v := takeView(d)
		for range 40 {
			text := c.path(pick(c, "input", "output", "error", "caller", "metadata"))
			p, fault := parsePath(text, false)
			if fault != nil {
				t.Fatal(fault)
			}
			scan := match{doc: d}
			want, present := scan.resolve(p, nil)
			got, ok := v.resolve(p)
			if ok != present || string(got) != string(want) {
				t.Fatalf("%s in %s: scan %s (%v), view %s (%v)", text, d.root(p.root), want, present, got, ok)
			}
		}
		v.release()
	}
}

func TestIndexFindsWhatAScanFinds(t *testing.T) {
	c := newCorpus(4)
	for range 60 {
		type kept struct {
			filter *Filter
			value  int
		}
		want := map[string]kept{}
		var x Index[int]
		var versions []Index[int]
		size := pick(c, 3, 30, 300)
		for i := range 2 * size {
			key := fmt.Sprint(c.IntN(size))
			if c.IntN(4) == 0 {
				delete(want, key)
				x = x.Remove(key)
			} else {
				f, err := Parse([]byte(pick(c,
					c.filter(2, false),
					fmt.Sprintf(`{"input.a":{"$eq":%s}}`, c.scalar()),
					fmt.Sprintf(`{"input.b":{"$in":[%s,%s]},"input.a":{"$exists":true}}`, c.scalar(), c.scalar()),
					fmt.Sprintf(`{"input.b":{"$in":[%s,%s]},"input.a":{"$eq":%s}}`, c.scalar(), c.scalar(), c.scalar()),
				)))
				if err != nil {
					continue
				}
				want[key] = kept{f, i}
				x = x.Insert(key, f, i)
			}
			if i == size {
				versions = append(versions, x)
			}
		}
		before := slices.Clone(versions)
		if x.Len() != len(want) {
			t.Fatalf("%d entries, want %d", x.Len(), len(want))
		}
		for key, v := range x.All() {
			if got, ok := x.Get(key); !ok || got != v || want[key].value != v {
				t.Fatalf("entry %s has the value %d, Get returns %d, %v", key, v, got, ok)
			}
		}
		for range 200 {
			d := c.document()
			if c.IntN(2) == 0 {
				d.Input = json.RawMessage(fmt.Sprintf(`{"a":%s,"b":%s}`, c.value(1), c.value(1)))
			}
			var held []int
			for key := range x.All() {
				if want[key].filter.Matches(d) {
					held = append(held, want[key].value)
				}
			}
			if diff := cmp.Diff(held, x.AppendMatches(nil, d)); diff != "" {
				t.Fatalf("document %s (-scan +index):\n%s", d.Input, diff)
			}
			if n := x.Candidates(d); n < len(held) || n > x.Len() {
				t.Fatalf("%d candidates of %d entries, of which %d match", n, x.Len(), len(held))
			}
		}
		for i, v := range versions {
			if diff := cmp.Diff(slices.Collect(values(before[i])), slices.Collect(values(v))); diff != "" {
				t.Fatalf("an index changed:\n%s", diff)
			}
		}
		for key := range want {
			x = x.Remove(key)
		}
		if x != (Index[int]{}) {
			t.Fatalf("after all entries are removed: %+v", x)
		}
	}
}

func values(x Index[int]) func(func(int) bool) {
	return func(yield func(int) bool) {
		for _, v := range x.All() {
			if !yield(v) {
				return
			}
		}
	}
}

// A version stays as it was while others come from it.
func TestIndexVersionsAreIndependent(t *testing.T) {
	f := mustParse(t, `{"input.k":{"$in":[1,2,"x",null,true]}}`)
	d := &Document{Input: json.RawMessage(`{"k":1}`)}
	var versions []Index[int]
	var x Index[int]
	for i := range 200 {
		versions = append(versions, x)
		x = x.Insert(fmt.Sprintf("%03d", i), f, i)
	}
	for i := range 200 {
		x = x.Remove(fmt.Sprintf("%03d", i))
	}
	for n, v := range versions {
		got := v.AppendMatches(nil, d)
		if len(got) != n || !slices.IsSorted(got) || v.Len() != n {
			t.Fatalf("version %d has %d entries and matches %v", n, v.Len(), got)
		}
	}
	if x.Len() != 0 || x.AppendMatches(nil, d) != nil {
		t.Errorf("the emptied index has %d entries", x.Len())
	}
}

// Lookups leave few candidates, whatever the number of entries.
func TestIndexCandidates(t *testing.T) {
	var x Index[int]
	for i := range 1000 {
		x = x.Insert(fmt.Sprint(i), mustParse(t, fmt.Sprintf(`{"input.k":{"$eq":%d},"input.kind":{"$eq":"order"}}`, i)), i)
	}
	for input, want := range map[string]int{
		`{"k":5,"kind":"order"}`: 1,
		`{"k":5.0}`:              1,
		`{"k":-1}`:               0,
		`{"kind":"order"}`:       0,
		`{"k":[5]}`:              0,
		`[]`:                     0,
	} {
		// The first entry is filed under one path and all others under the same.
		if got := x.Candidates(&Document{Input: json.RawMessage(input)}); got > want+1 {
			t.Errorf("%d candidates for %s, want %d", got, input, want)
		}
	}
}

func TestTreesStayBalanced(t *testing.T) {
	var height func(*tree[string, int]) int
	height = func(n *tree[string, int]) int {
		if n == nil {
			return 0
		}
		return 1 + max(height(n.left), height(n.right))
	}
	c := newCorpus(5)
	for _, order := range []string{"rising", "falling", "random"} {
		var x *tree[string, int]
		for i := range 4000 {
			switch order {
			case "falling":
				i = 4000 - i
			case "random":
				i = c.IntN(4000)
			}
			x = x.put(fmt.Sprintf("%04d", i), i)
		}
		if h := height(x); h > 20 {
			t.Errorf("%s keys: height %d of %d entries", order, h, x.len())
		}
		for i := range 3900 {
			x = x.remove(fmt.Sprintf("%04d", i))
		}
		if h := height(x); h > 10 {
			t.Errorf("%s keys: height %d of the %d entries that stay", order, h, x.len())
		}
	}
}
