package filter

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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

// The order of members does not matter, and neither does the order of $and's operands.
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
			want, got := scan.resolve(p, nil), v.resolve(p)
			if string(got) != string(want) {
				t.Fatalf("%s in %s: scan %s, view %s", text, d.root(p.root), want, got)
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
		var clones []Index[int]
		var contents [][]int
		size := filtertest.Pick(c, 3, 30, 300)
		for i := range 2 * size {
			key := fmt.Sprint(c.IntN(size))
			if c.IntN(4) == 0 {
				delete(want, key)
				x.Remove(key)
			} else {
				f, err := Parse([]byte(filtertest.Pick(c, c.Filter(2), c.Selective(), c.Selective())))
				if err != nil {
					continue
				}
				want[key] = kept{f, i}
				x.Insert(key, f, i)
			}
			if i%size == 0 {
				clones, contents = append(clones, x.Clone()), append(contents, values(&x))
			}
		}
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
		for i := range clones {
			if diff := cmp.Diff(contents[i], values(&clones[i])); diff != "" {
				t.Fatalf("a clone changed (-want +got):\n%s", diff)
			}
		}
		for key := range want {
			x.Remove(key)
		}
		if x.owner = nil; x != (Index[int]{}) {
			t.Fatalf("after all entries are removed: %+v", x)
		}
	}
}

func values(x *Index[int]) (all []int) {
	for _, v := range x.All() {
		all = append(all, v)
	}
	return all
}

func TestClonesOfAnIndexAreIndependent(t *testing.T) {
	f := mustParse(t, `{"input.k":{"$in":[1,2,"x",null,true]}}`)
	d := &Document{Input: json.RawMessage(`{"k":1}`)}
	const n = 200
	key := func(i int) string { return fmt.Sprintf("%03d", i) }
	var clones [n]Index[int]
	var x Index[int]
	for i := range n {
		clones[i] = x.Clone()
		x.Insert(key(i), f, i)
	}
	for i := range n {
		clones[i].Insert(key(n+i), f, n+i)
		x.Remove(key(i))
	}
	for i := range n {
		var want []int
		for j := range i {
			want = append(want, j)
		}
		want = append(want, n+i)
		if diff := cmp.Diff(want, clones[i].AppendMatches(nil, d)); diff != "" || clones[i].Len() != i+1 {
			t.Fatalf("clone %d has %d entries and matches (-want +got):\n%s", i, clones[i].Len(), diff)
		}
	}
	if x.Len() != 0 || x.AppendMatches(nil, d) != nil {
		t.Errorf("the emptied index has %d entries", x.Len())
	}
}

func TestIndexIsReadWhileItsClonesChange(t *testing.T) {
	f := mustParse(t, `{"input.k":{"$eq":1}}`)
	var current atomic.Pointer[Index[int]]
	current.Store(new(Index[int]))
	var readers sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			d := &Document{Input: json.RawMessage(`{"k":1}`)}
			for {
				x := current.Load()
				if got := x.AppendMatches(nil, d); len(got) != x.Len() || !slices.IsSorted(got) {
					t.Errorf("an index with %d entries matches %v", x.Len(), got)
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for i := range 1000 {
		next := current.Load().Clone()
		next.Insert(fmt.Sprintf("%04d", i), f, i)
		if i%3 == 0 {
			next.Remove(fmt.Sprintf("%04d", i/2))
		}
		current.Store(&next)
	}
	close(done)
	readers.Wait()
}

func TestIndexCandidates(t *testing.T) {
	var x Index[int]
	for i := range 1000 {
		x.Insert(fmt.Sprint(i), mustParse(t, fmt.Sprintf(`{"input.k":{"$eq":%d},"input.kind":{"$eq":"order"}}`, i)), i)
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
	// height checks x and the nodes below it, and returns the height of x. The parent of the
	// root is nil.
	var height func(x, parent *tree[string, int]) int
	height = func(x, parent *tree[string, int]) int {
		if x == nil || len(x.children) == 0 {
			return 0
		}
		if n := len(x.children); n > maxChildren || n < 2 || parent != nil && n < minChildren {
			t.Errorf("a node of a tree of %d has %d children", x.len(), n)
		}
		h, size := height(x.children[0], x), 0
		for _, c := range x.children {
			size += c.size
			if height(c, x) != h {
				t.Errorf("the children of a node of a tree of %d have different heights", x.len())
			}
		}
		if x.size != size || x.key != x.children[0].key {
			t.Errorf("a node of %d entries from %s has the size %d and the key %s", size, x.children[0].key, x.size, x.key)
		}
		return h + 1
	}
	c := filtertest.New(5)
	for _, order := range []string{"rising", "falling", "random"} {
		var x *tree[string, int]
		o := new(owner)
		for i := range 4000 {
			switch order {
			case "falling":
				i = 4000 - i
			case "random":
				i = c.IntN(4000)
			}
			x = x.put(o, newEntry(fmt.Sprintf("%04d", i), i))
			if i%100 == 0 {
				height(x, nil)
			}
		}
		if h := height(x, nil); h > 4 {
			t.Errorf("%s keys: height %d of %d entries", order, h, x.len())
		}
		for _, i := range c.Perm(4001)[:3900] {
			x = x.remove(o, fmt.Sprintf("%04d", i))
			if i%100 == 0 {
				height(x, nil)
			}
		}
		if h := height(x, nil); h > 2 {
			t.Errorf("%s keys: height %d of the %d entries that stay", order, h, x.len())
		}
	}
}

func TestTreesHoldWhatMapsHold(t *testing.T) {
	c := filtertest.New(6)
	for _, keys := range []int{5, 200, 3000} {
		var x, held *tree[float64, int]
		o := new(owner)
		want := map[float64]int{}
		var wantHeld map[float64]int
		check := func(x *tree[float64, int], want map[float64]int) {
			t.Helper()
			got := map[float64]int{}
			last := math.Inf(-1)
			var w walk[float64, int]
			for at := w.begin(x); at != nil; at = w.next() {
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
				x = x.remove(o, key)
				delete(want, key)
			} else {
				x = x.put(o, newEntry(key, i))
				want[key] = i
			}
			if _, ok := x.get(math.NaN()); ok {
				t.Fatal("found NaN")
			}
			if i%1000 == 0 {
				check(x, want)
				check(held, wantHeld)
				held, wantHeld, o = x, maps.Clone(want), new(owner)
			}
		}
	}
}
