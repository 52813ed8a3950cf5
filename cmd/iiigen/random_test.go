package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// soup generates schemas with random, possibly contradictory keywords.
type soup struct {
	r *rand.Rand
}

var soupNames = []string{"a", "b", "user_id", "userId", "type", "Raw", "additional", "x-y", "1", "ä", "JSONSchema", "a\"b"}

func (s soup) schema(depth int) any {
	if depth == 0 || s.r.IntN(12) == 0 {
		return []any{true, false, map[string]any{}, map[string]any{"type": "string"}, map[string]any{"type": "null"}, map[string]any{"$ref": s.ref()}}[s.r.IntN(6)]
	}
	m := map[string]any{}
	for range 1 + s.r.IntN(3) {
		switch s.r.IntN(16) {
		case 0:
			m["type"] = []any{"string", "integer", "number", "boolean", "null", "array", "object", "moon", []any{"string", "null"}, []any{"integer", "object", "array"}}[s.r.IntN(10)]
		case 1, 2, 3:
			properties := map[string]any{}
			var required []any
			for range s.r.IntN(4) {
				name := soupNames[s.r.IntN(len(soupNames))]
				properties[name] = s.schema(depth - 1)
				if s.r.IntN(2) == 0 {
					required = append(required, name)
				}
			}
			m["type"], m["properties"] = "object", properties
			if required != nil {
				m["required"] = required
			}
		case 4:
			m["additionalProperties"] = s.schema(depth - 1)
		case 5:
			m["items"] = s.schema(depth - 1)
		case 6:
			m["prefixItems"] = s.list(depth - 1)
			m["minItems"] = json.Number(fmt.Sprint(s.r.IntN(3)))
		case 7:
			m["anyOf"] = s.list(depth - 1)
		case 8:
			m["oneOf"] = s.list(depth - 1)
		case 9:
			m["allOf"] = s.list(depth - 1)
		case 10:
			m["enum"] = []any{[]any{"a", "b"}, []any{"a", nil}, []any{1, 2, 1.5}, []any{true, false}, []any{"a", 1}, []any{"", "-", "_", "A", "a"}, []any{}}[s.r.IntN(7)]
		case 11:
			m["const"] = []any{"a", 1, nil, true, map[string]any{"x": 1}}[s.r.IntN(5)]
		case 12:
			m["$ref"] = s.ref()
		case 13:
			m["description"] = "It is */ `this`."
		case 14:
			m["items"], m["minItems"], m["maxItems"] = s.schema(depth-1), 2, 2
		case 15:
			m["nullable"] = true
		}
	}
	return m
}

func (s soup) list(depth int) []any {
	var list []any
	for range 1 + s.r.IntN(3) {
		list = append(list, s.schema(depth))
	}
	return list
}

func (s soup) ref() string {
	return []string{"#", "#/$defs/D0", "#/$defs/D1", "#/$defs/D2", "#/$defs/none", "#/properties/a", "https://example.com", "#/allOf/0"}[s.r.IntN(8)]
}

func (s soup) catalog(t *testing.T) *catalog {
	t.Helper()
	c := &catalog{}
	for i := range 20 {
		doc, ok := s.schema(3).(map[string]any)
		if !ok {
			doc = map[string]any{}
		}
		doc["$defs"] = map[string]any{"D0": s.schema(3), "D1": s.schema(3), "D2": s.schema(2)}
		raw, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		c.Functions = append(c.Functions, fn(fmt.Sprintf("w%d::f%d", i%3, i), string(raw), string(raw)))
	}
	return c
}

func TestAnySchemaMakesCodeThatCompiles(t *testing.T) {
	for seed := range uint64(8) {
		c := soup{r: rand.New(rand.NewPCG(seed, 0))}.catalog(t)
		begin := time.Now()
		files, _ := generate(t, c)
		if took := time.Since(begin); took > 20*time.Second {
			t.Errorf("seed %d: took %v", seed, took)
		}
		compile(t, files)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func TestAnySchemasCompare(t *testing.T) {
	for seed := range uint64(300) {
		s := soup{r: rand.New(rand.NewPCG(seed, 1))}
		var raws []json.RawMessage
		for range 2 {
			raw, err := json.Marshal(map[string]any{"allOf": []any{s.schema(3)}, "$defs": map[string]any{"D0": s.schema(3), "D1": s.schema(3), "D2": s.schema(2)}})
			if err != nil {
				t.Fatal(err)
			}
			raws = append(raws, raw)
		}
		if same := compareSchemas("request", raws[0], raws[0], true); same != nil {
			t.Errorf("%s differs from itself: %v", raws[0], same)
		}
		if string(raws[0]) != string(raws[1]) && compareSchemas("request", raws[0], raws[1], true) == nil {
			t.Errorf("%s is said to be %s", raws[0], raws[1])
		}
	}
}

// A short schema can describe an unbounded number of types. Generation and comparison must
// still terminate.
func TestGrowingSchemasTerminate(t *testing.T) {
	doubling := func(keyword string) string {
		defs := map[string]any{"A40": map[string]any{"type": "object", "properties": map[string]any{"x": true}}, "B40": map[string]any{"type": "object"}}
		for i := range 40 {
			next := func(extra string) any {
				return map[string]any{keyword: []any{map[string]any{"$ref": fmt.Sprintf("#/$defs/A%d", i+1)}, map[string]any{"$ref": fmt.Sprintf("#/$defs/B%d", i+1)},
					map[string]any{"type": "object", "properties": map[string]any{fmt.Sprintf("%s%d", extra, i): true}}}}
			}
			defs[fmt.Sprintf("A%d", i)], defs[fmt.Sprintf("B%d", i)] = next("a"), next("b")
		}
		raw, err := json.Marshal(map[string]any{"$ref": "#/$defs/A0", "$defs": defs})
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	for name, schema := range map[string]string{
		"allOf":    doubling("allOf"),
		"anyOf":    doubling("anyOf"),
		"beside":   `{"type":"object","properties":{"a":{"$ref":"#","type":"object","required":["a"]},"b":{"$ref":"#","type":"object","required":["b"]}}}`,
		"products": `{"allOf":[{"oneOf":[{"properties":{"a":{"const":1}}},{"properties":{"a":{"const":2}}},{"properties":{"a":{"const":3}}},{"properties":{"a":{"const":4}}}]},{"oneOf":[{"properties":{"b":{"const":1}}},{"properties":{"b":{"const":2}}},{"properties":{"b":{"const":3}}},{"properties":{"b":{"const":4}}}]},{"oneOf":[{"properties":{"c":{"const":1}}},{"properties":{"c":{"const":2}}},{"properties":{"c":{"const":3}}},{"properties":{"c":{"const":4}}}]}]}`,
		"numbers":  `{"type":"integer","minimum":-1e999999999,"maximum":1e999999999}`,
		"itself":   `{"anyOf":[{"$ref":"#"}]}`,
		"itself2":  `{"allOf":[{"$ref":"#"},{"type":"object"}]}`,
		"enum":     `{"enum":[1e999999999,2]}`,
	} {
		t.Run(name, func(t *testing.T) {
			files, _ := generate(t, &catalog{Functions: []function{fn("w::x", schema, schema)}})
			compile(t, files)
			other := strings.Replace(schema, "{", `{"minProperties":1,`, 1)
			if compareSchemas("request", json.RawMessage(schema), json.RawMessage(other), true) == nil {
				t.Error("a comparison finds no difference")
			}
		})
	}
}
