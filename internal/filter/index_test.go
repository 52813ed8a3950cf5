package filter

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii/internal/filter/filtertest"
)

func commas(parts []string) string { return strings.Join(parts, ",") }

func TestNormalFormIsAFixedPoint(t *testing.T) {
	c := filtertest.New(1)
	accepted := 0
	for range 5000 {
		text := c.Filter(3)
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
			if d := documentOf(t, json.RawMessage(c.Document())); f.Matches(d) != again.Matches(d) {
				t.Fatalf("%s and its normal form differ for %s", text, d.Input)
			}
		}
	}
	if accepted < 2500 {
		t.Errorf("only %d filters were accepted", accepted)
	}
}

// The order of members and of the operands of $and does not matter.
func TestNormalFormOfPermutations(t *testing.T) {
	c := filtertest.New(2)
	for range 2000 {
		var clauses []string
		for i := range 2 + c.IntN(5) {
			clauses = append(clauses, fmt.Sprintf(`%q:%s`, fmt.Sprintf("%s.p%d", filtertest.Pick(c, "input", "caller"), i), c.Operators()))
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

func TestViewFindsWhatAScanFinds(t *testing.T) {
	c := filtertest.New(3)
	for range 3000 {
		d := documentOf(t, json.RawMessage(c.Document()))
		v := d.view(viewFrom)
		for range 40 {
			text := c.Path(filtertest.Pick(c, "input", "output", "error", "caller", "metadata"))
			p, fault := new(compiler).path(text, false)
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
	c := filtertest.New(4)
	for range 60 {
		type kept struct {
			filter *Filter
			value  int
		}
		want := map[string]kept{}
		var x Index[int]
		var versions []Index[int]
		size := filtertest.Pick(c, 3, 30, 300)
		for i := range 2 * size {
			key := fmt.Sprint(c.IntN(size))
			if c.IntN(4) == 0 {
				delete(want, key)
				x = x.Remove(key)
			} else {
				f, err := Parse([]byte(filtertest.Pick(c, c.Filter(2), c.Selective(), c.Selective())))
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
			d := documentOf(t, json.RawMessage(c.Document()))
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
		// The first entry may be filed under a different path than the rest.
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
	c := filtertest.New(5)
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

func TestTreesHoldWhatMapsHold(t *testing.T) {
	c := filtertest.New(6)
	for _, keys := range []int{5, 200, 3000} {
		var x, held *tree[float64, int]
		want := map[float64]int{}
		var wantHeld map[float64]int
		check := func(x *tree[float64, int], want map[float64]int) {
			t.Helper()
			got := map[float64]int{}
			last := math.Inf(-1)
			var w walk[float64, int]
			w.begin(x)
			for at := w.next(); at != nil; at = w.next() {
				if at.key <= last {
					t.Fatalf("%v after %v", at.key, last)
				}
				last = at.key
				got[at.key] = at.value
				if v, ok := x.get(at.key); !ok || v != at.value {
					t.Fatalf("get(%v) is %v, %v; want %v", at.key, v, ok, at.value)
				}
			}
			if !maps.Equal(got, want) || x.len() != len(want) {
				t.Fatalf("a tree of %d holds %v, want %v", x.len(), got, want)
			}
		}
		for i := range 20_000 {
			key := float64(c.IntN(keys) - keys/2)
			// Phases of mostly insertions alternate with phases of mostly removals.
			if c.IntN(10) < 2+6*(i/4000%2) {
				x = x.remove(key)
				delete(want, key)
			} else {
				x = x.put(key, i)
				want[key] = i
			}
			if _, ok := x.get(math.NaN()); ok {
				t.Fatal("found NaN")
			}
			if i%1000 == 0 {
				check(x, want)
				check(held, wantHeld)
				held, wantHeld = x, maps.Clone(want)
			}
		}
	}
}
