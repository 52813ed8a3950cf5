package filter

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// The cases and their names match those of bench/filter-rs, which measures the reference
// implementation.

func mustParse(tb testing.TB, v any) *Filter {
	tb.Helper()
	parse := ParseValue
	if s, ok := v.(string); ok {
		parse = func(any) (*Filter, error) { return Parse([]byte(s)) }
	}
	f, err := parse(v)
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

func mustMarshal(tb testing.TB, v any) json.RawMessage {
	tb.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

type fields = map[string]any

const (
	oneNode   = `{"input.amount":{"$eq":100}}`
	fiveNodes = `{"input.amount":{"$gte":100,"$lt":500},"$or":[{"input.city":{"$in":["Rome","Oslo"]}},{"caller.worker_name":{"$prefix":"shop-"}}]}`
)

func BenchmarkParse(b *testing.B) {
	clauses := fields{}
	for i := range 32 {
		clauses[fmt.Sprintf("input.k%d", i)] = fields{"$gte": i, "$lt": i + 100}
	}
	many := mustMarshal(b, clauses)
	for name, text := range map[string]string{"1": oneNode, "5": fiveNodes, "64": string(many), "normalized": mustParse(b, string(many)).String()} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			raw := []byte(text)
			for b.Loop() {
				if _, err := ParseNormalized(raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func rows() []fields {
	var all []fields
	for i := range 50 {
		all = append(all, fields{"sku": fmt.Sprintf("sku-%d", i), "n": i, "price": 9.5})
	}
	return all
}

func words(n int) []string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("word-%d", i))
	}
	return all
}

func BenchmarkMatch(b *testing.B) {
	small := json.RawMessage(`{"amount":100,"city":"Rome","id":"c-17"}`)
	for _, c := range []struct {
		name   string
		filter any
		input  json.RawMessage
		want   bool
	}{
		{"eq-holds", fields{"input.amount": fields{"$eq": 100}}, small, true},
		{"eq-fails", fields{"input.amount": fields{"$eq": 101}}, small, false},
		{"four-segments", fields{"input.a.b.1.c": fields{"$eq": 1}}, json.RawMessage(`{"a":{"b":[0,{"c":1}]}}`), true},
		{"any-50-rows", fields{"input.rows": fields{"$any": fields{"@.sku": fields{"$eq": "sku-49"}}}}, mustMarshal(b, fields{"rows": rows()}), true},
		{"in-256", fields{"input.city": fields{"$in": words(256)}}, small, false},
	} {
		f := mustParse(b, c.filter)
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			d := Document{Input: c.input}
			for b.Loop() {
				if f.Matches(&d) != c.want {
					b.Fatal("wrong verdict")
				}
			}
		})
	}
}

func BenchmarkTen(b *testing.B) {
	change := mustMarshal(b, fields{"table": "orders", "kind": "update", "rows": rows()})
	var ten []*Filter
	var index Index[int]
	for i, f := range []string{
		`{"input.table": {"$eq": "users"}}`,
		`{"input.kind": {"$in": ["insert", "delete"]}}`,
		`{"input.table": {"$prefix": "archive_"}}`,
		`{"input.rows": {"$any": {"@.sku": {"$eq": "none"}}}}`,
		`{"input.rows.0.n": {"$gt": 10}}`,
		`{"output.ok": {"$eq": true}}`,
		`{"$not": {"input.kind": {"$eq": "update"}}}`,
		`{"$or": [{"input.a": {"$exists": true}}, {"input.b": {"$exists": true}}]}`,
		`{"caller.worker_name": {"$eq": "shop"}}`,
		`{"metadata.tenant": {"$ne": null}, "input.kind": {"$eq": "none"}}`,
	} {
		ten = append(ten, mustParse(b, f))
		index.Insert(fmt.Sprintf("o%05d", i), ten[i], i)
	}
	d := Document{Input: change}
	b.Run("scan", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			for _, f := range ten {
				if f.Matches(&d) {
					b.Fatal("matches")
				}
			}
		}
	})
	benchmarkIndex(b, "index", &index, 0, d)
}

func benchmarkIndex(b *testing.B, name string, x *Index[int], want int, docs ...Document) {
	b.Run(name, func(b *testing.B) {
		b.ReportAllocs()
		buf := make([]int, 0, 256)
		for i := 0; b.Loop(); i = (i + 7) % len(docs) {
			if buf = x.AppendMatches(buf[:0], &docs[i]); len(buf) != want {
				b.Fatalf("%d matches", len(buf))
			}
		}
	})
}

func BenchmarkIndex(b *testing.B) {
	for _, n := range []int{16, 1000, 4000} {
		var x Index[int]
		var docs []Document
		for i := range n {
			x.Insert(fmt.Sprintf("o%05d", i), mustParse(b, fields{"input.k": fields{"$eq": i}}), i)
			docs = append(docs, Document{Input: fmt.Appendf(nil, `{"k":%d}`, i)})
		}
		name := fmt.Sprint(n)
		benchmarkIndex(b, name, &x, 1, docs...)
		benchmarkIndex(b, name+"-none", &x, 0, Document{Input: json.RawMessage(`{"k":-1}`)})
		extra := mustParse(b, fields{"input.k": fields{"$eq": n + 1}})
		b.Run(name+"-insert-remove", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				x.Insert("p", extra, 0)
				if x.Remove("p"); x.Len() != n {
					b.Fatal("wrong length")
				}
			}
		})
		b.Run(name+"-insert-held", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				next := x.Clone()
				if next.Insert("p", extra, 0); next.Len() != n+1 {
					b.Fatal("wrong length")
				}
			}
		})
	}
}

func BenchmarkPaths(b *testing.B) {
	for _, n := range []int{4, 16, 128} {
		var x Index[int]
		var members []string
		for i := range n {
			x.Insert(fmt.Sprintf("o%05d", i), mustParse(b, fields{fmt.Sprintf("input.k%d", i): fields{"$eq": i}}), i)
			members = append(members, fmt.Sprintf(`"k%d":%d`, i, i))
		}
		benchmarkIndex(b, fmt.Sprint(n), &x, n, Document{Input: json.RawMessage("{" + strings.Join(members, ",") + "}")})
	}
}

func BenchmarkLargeDocument(b *testing.B) {
	large := mustMarshal(b, fields{"a": strings.Repeat("text ", 2000), "k": 1, "rows": append(rows(), rows()...)})
	d := Document{Input: large}
	f := mustParse(b, `{"input.k": {"$eq": 1}}`)
	b.Run("match", func(b *testing.B) {
		b.SetBytes(int64(len(large)))
		for b.Loop() {
			if !f.Matches(&d) {
				b.Fatal("does not match")
			}
		}
	})
}
