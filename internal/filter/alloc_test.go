//go:build !race

package filter

import (
	"encoding/json"
	"fmt"
	"testing"
)

// The race detector makes sync.Pool drop items at random, so these tests would fail under it.

func TestMatchDoesNotAllocate(t *testing.T) {
	doc := &Document{
		Input: json.RawMessage(`{"amount": 12.5, "big": 9007199254740993, "exp": 1.5e-7, "city": "Ro\u006de\n", "tags": ["a", "b\\", {"k": [1, {"x": null}]}],
			"o": {"b": 2, "a": {"c": "\ud83d\ude00"}}, "rows": [{"n": 1, "s": "x"}, {"n": 2, "s": "y"}], "long key of more than eight bytes": true}`),
		Output: json.RawMessage(` "done" `),
		Caller: json.RawMessage(`{"worker_name": "shop", "parent": {"function_id": "f"}}`),
	}
	var large, members []string
	for i := range 100 {
		large = append(large, fmt.Sprintf(`"k%d":%d`, i, i))
		members = append(members, fmt.Sprintf(`"v%d"`, i))
	}
	doc.Metadata = json.RawMessage("{" + commas(large) + "}")
	for _, text := range []string{
		`{}`,
		`{"input.amount": {"$gt": 12, "$lte": 12.5}}`,
		`{"input.big": {"$eq": 9007199254740992}, "input.exp": {"$lt": 1}}`,
		`{"input.city": {"$eq": "Rome\n"}}`,
		`{"input.city": {"$prefix": "Rom"}, "output": {"$gte": "done"}}`,
		`{"input.tags": {"$any": {"@.k.1.x": {"$eq": null}}}}`,
		`{"input.tags": {"$any": {"$in": ["z", "b\\"]}}}`,
		`{"input.o": {"$eq": {"a": {"c": "😀"}, "b": 2.0}}}`,
		`{"input.rows": {"$any": {"@.n": {"$eq": 2}, "@.s": {"$eq": "y"}}}}`,
		`{"input.rows": {"$any": {"$eq": {"n": 2, "s": "y"}}}}`,
		`{"input.long key of more than eight bytes": {"$eq": true}}`,
		`{"$or": [{"error.code": {"$exists": true}}, {"caller.worker_name": {"$in": [` + commas(members) + `, "shop"]}}]}`,
		`{"$not": {"caller.parent.function_id": {"$nin": ["f"]}}}`,
		`{"metadata": {"$eq": {` + commas(large) + `}}}`,
		`{"metadata.k1": {"$eq": 1}, "metadata.k2": {"$eq": 2}, "metadata.k50": {"$eq": 50}, "metadata.none": {"$exists": false}}`,
	} {
		f := mustParse(t, text)
		if !f.Matches(doc) {
			t.Errorf("%s does not match", text)
		}
		if n := testing.AllocsPerRun(100, func() {
			d := *doc // on the stack, unless Matches retains it
			f.Matches(&d)
		}); n != 0 {
			t.Errorf("%v allocations to match %s", n, text)
		}
	}
}

func TestIndexMatchDoesNotAllocate(t *testing.T) {
	for _, n := range []int{1, 16, 1000} {
		var one, paths Index[int]
		for i := range n {
			key := fmt.Sprint(i)
			one.Insert(key, mustParse(t, fmt.Sprintf(`{"input.k": {"$eq": %d}, "input.a": {"$ne": 1}}`, i)), i)
			paths.Insert(key, mustParse(t, fmt.Sprintf(`{"input.k%d": {"$eq": %d}}`, i%5, i)), i)
		}
		doc := &Document{Input: json.RawMessage(`{"k": 0, "k0": 0, "k1": "x", "k3": [1]}`)}
		for name, x := range map[string]*Index[int]{"one path": &one, "five paths": &paths} {
			buf := x.AppendMatches(make([]int, 0, n), doc)
			if len(buf) != 1 {
				t.Errorf("%s, %d entries: matches %v", name, n, buf)
			}
			if got := testing.AllocsPerRun(100, func() {
				d := *doc
				x.AppendMatches(buf[:0], &d)
			}); got != 0 {
				t.Errorf("%v allocations to match %d entries with %s", got, n, name)
			}
		}
	}
}
