// Package filtertest generates random filters, documents and schemas. They are built from a
// few keys and values, so that about half of the conditions hold.
package filtertest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// Corpus generates random test data. The same seed produces the same data. The zero value is
// not usable; use New.
type Corpus struct {
	*rand.Rand
	// Odd controls how often the corpus deliberately breaks the filter language's rules. It
	// does so at each opportunity with a probability of 1/Odd, or never if Odd is 0.
	Odd int
}

// New returns a Corpus with the given seed and with Odd set to 0.
func New(seed uint64) *Corpus { return &Corpus{Rand: rand.New(rand.NewPCG(seed, 1))} }

// Pick returns one of the given values at random.
func Pick[T any](c *Corpus, all ...T) T { return all[c.IntN(len(all))] }

func (c *Corpus) odd() bool { return c.Odd > 0 && c.IntN(c.Odd) == 0 }

// Scalar returns a JSON scalar. Its decimal numbers are chosen so that all parsers convert
// them to the same float64.
func (c *Corpus) Scalar() string {
	if c.odd() {
		return Pick(c, "9007199254740993", "-9007199254740993", "18446744073709551616", "1e300", "-1e17", "9007199254740992.0", "1e15", "1e16")
	}
	return Pick(c,
		"null", "true", "false", "0", "-0", "-0.0", "1", "1.0", "1e0", "10e-1", "2", "-3", "1e2", "0.5", "1.5e-7", "100000", "9007199254740992", "-9007199254740991",
		`""`, `"a"`, `"b"`, `"ab"`, `"abc"`, `"\u0061"`, `"\u0061b"`, `"é"`, `"e\u0301"`, `"\u00e9"`, `"\ud83d\ude00"`, `"😀"`, `"\uff61"`, `"\n"`, `"\u000b\u007f"`, `"a\"b\\"`, `"<&>/"`, `"\/"`, `"text that is longer than a few words"`)
}

// quote encodes key as a JSON string, sometimes with an unnecessary escape.
func (c *Corpus) quote(key string) string {
	b, _ := json.Marshal(key)
	if key != "" && key[0] < 0x80 && c.IntN(8) == 0 {
		rest, _ := json.Marshal(key[1:])
		return fmt.Sprintf(`"\u%04x%s`, key[0], rest[1:])
	}
	return string(b)
}

var keys = []string{"a", "a", "b", "c", "0", "1", "key of twenty bytes.", `q"`, `back\slash`, "é", "eight678", "seven67"}

// Value returns a JSON value nested at most depth levels deep. Objects may repeat keys.
func (c *Corpus) Value(depth int) string {
	if depth <= 0 || c.IntN(3) == 0 {
		return c.Scalar()
	}
	space := Pick(c, "", "", "", " ", "\r\n\t")
	var parts []string
	if c.IntN(2) == 0 {
		for range c.IntN(4) {
			parts = append(parts, c.Value(depth-1))
		}
		return "[" + space + strings.Join(parts, space+","+space) + space + "]"
	}
	n := c.IntN(4)
	if c.IntN(16) == 0 {
		n = 20
	}
	for i := range n {
		key := Pick(c, keys...)
		if n > 4 && i > 2 {
			key = fmt.Sprint("k", i/2)
		}
		parts = append(parts, c.quote(key)+space+":"+space+c.Value(depth-1))
	}
	return "{" + space + strings.Join(parts, space+","+space) + space + "}"
}

// Path returns a path that begins with root.
func (c *Corpus) Path(root string) string {
	if c.odd() {
		return Pick(c, "", ".", "input", "input.", ".input", "input..a", `input.a\b`, `input.a\`, `input.\é`, "@.a", "@", "@x", "x.a", "Input.a", `\.input`, `input\.a`,
			"input"+strings.Repeat(".a", 16), "input"+strings.Repeat(".a", 17), "x"+strings.Repeat(".a", 17), "@"+strings.Repeat(".a", 17), "input.*", "input.a[0]", "input. a", "input.18446744073709551615", "input.18446744073709551616", "input.01")
	}
	for range c.IntN(4) {
		root += "." + Pick(c, "a", "a", "b", "c", "0", "1", "00", `key of twenty bytes\.`, `q"`, `back\\slash`, "é", "k1", "k7", "eight678", "seven67")
	}
	return root
}

func (c *Corpus) operators(depth int) string {
	if c.odd() {
		return Pick(c, "{}", "5", "null", `"x"`, "[]", `{"a":1}`, `{"$eq":1,"a":2}`)
	}
	var parts []string
	for range 1 + c.IntN(2) {
		op := Pick(c, "$eq", "$eq", "$ne", "$in", "$nin", "$gt", "$gte", "$lt", "$lte", "$exists", "$prefix", "$any", "$any")
		operand := c.operand(op, depth)
		if c.odd() {
			operand = c.Value(2)
		}
		if c.odd() {
			op = Pick(c, "$bogus", "$and", "$or", "$not", "$", "$EQ", "$eq ")
		}
		parts = append(parts, c.quote(op)+":"+operand)
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func (c *Corpus) operand(op string, depth int) string {
	switch op {
	case "$eq", "$ne":
		if c.odd() {
			n := Pick(c, 31, 32, 33)
			return strings.Repeat("[", n) + strings.Repeat("]", n)
		}
		return c.Value(c.IntN(3))
	case "$in", "$nin":
		n := c.IntN(4)
		if c.odd() {
			n = Pick(c, 255, 256, 257)
		}
		items := make([]string, n)
		for i := range items {
			if items[i] = c.Value(c.IntN(2)); n > 4 {
				items[i] = strconv.Itoa(i)
			}
		}
		return "[" + strings.Join(items, ",") + "]"
	case "$exists":
		return Pick(c, "true", "false")
	case "$prefix":
		return Pick(c, `""`, `"a"`, `"ab"`, `"e"`, `"\ud83d\ude00"`, `"text that"`)
	case "$any":
		switch {
		case depth <= 0:
			return Pick(c, "{}", `{"$exists":true}`)
		case c.IntN(2) == 0:
			return c.operators(depth - 1)
		}
		return c.filter(depth-1, true)
	}
	return Pick(c, "0", "1", "1.0", "2.5", "-1e2", `"a"`, `"é"`, `""`, `"\uff61"`)
}

// Filter returns a filter nested roughly depth levels deep.
func (c *Corpus) Filter(depth int) string { return c.filter(depth, false) }

func (c *Corpus) filter(depth int, inAny bool) string {
	if c.odd() {
		return Pick(c, "null", "5", `"x"`, "[]", "true")
	}
	var parts []string
	for range c.IntN(4) {
		op := Pick(c, "", "", "", "", "$and", "$or", "$not")
		switch {
		case c.odd():
			op = Pick(c, "$and", "$or", "$not", "$eq", "$any", "$nor", "$")
			parts = append(parts, c.quote(op)+":"+Pick(c, "[]", "{}", "5", "[{}]", "[5]", "[[]]", "null", c.Value(2)))
		case op == "" || depth <= 0:
			root := Pick(c, "input", "input", "input", "output", "error", "caller", "metadata")
			if inAny {
				root = "@"
			}
			parts = append(parts, c.quote(c.Path(root))+":"+c.operators(depth))
		case op == "$not":
			parts = append(parts, `"$not":`+c.filter(depth-1, inAny))
		default:
			operands := make([]string, 1+c.IntN(3))
			if c.odd() {
				operands = make([]string, 40)
			}
			for i := range operands {
				operands[i] = c.filter(depth-1, inAny)
			}
			parts = append(parts, c.quote(op)+":["+strings.Join(operands, ",")+"]")
		}
	}
	return "{" + strings.Join(parts, ",") + "}"
}

// Selective returns a filter that an index can file under a condition on input.a or input.b.
func (c *Corpus) Selective() string {
	return Pick(c,
		fmt.Sprintf(`{"input.a":{"$eq":%s}}`, c.Scalar()),
		fmt.Sprintf(`{"input.a":{"$eq":%s},"output":{"$exists":false}}`, c.Scalar()),
		fmt.Sprintf(`{"input.b":{"$in":[%s,%s]},"input.a":{"$exists":true}}`, c.Scalar(), c.Scalar()),
		fmt.Sprintf(`{"input.b":{"$in":[%s,%s]},"input.a":{"$eq":%s}}`, c.Scalar(), c.Scalar(), c.Scalar()),
		fmt.Sprintf(`{"input.a":{"$in":[%s,%s],"$eq":%s},"caller.0":{"$ne":1}}`, c.Scalar(), c.Scalar(), c.Scalar()),
	)
}

// Roots lists the roots of documents.
var Roots = []string{"input", "output", "error", "caller", "metadata"}

// Document returns an object whose members are a random subset of Roots, in the same order.
func (c *Corpus) Document() string {
	var parts []string
	for i, root := range Roots {
		switch {
		case c.IntN(3) == 0:
		case i == 0 && c.IntN(2) == 0:
			parts = append(parts, fmt.Sprintf(`"input":{"a":%s,"b":%s}`, c.Value(1), c.Value(1)))
		default:
			parts = append(parts, fmt.Sprintf("%q:%s", root, c.Value(4)))
		}
	}
	return "{" + strings.Join(parts, ",") + "}"
}

// Schema returns a JSON Schema nested roughly depth levels deep. It may contain references to
// its own parts.
func (c *Corpus) Schema(depth int) string {
	s := c.schema(depth)
	if s[0] != '{' || s == "{}" {
		return s
	}
	if c.IntN(2) == 0 && !strings.Contains(s, "$ref") {
		return `{"properties":{"a":` + c.schema(depth-1) + `,"b":` + c.schema(depth-1) + `,"c":` + s + `},"additionalProperties":false}`
	}
	return `{"$defs":{"a":` + c.schema(depth-1) + `,"b":` + c.schema(1) + `},` + s[1:]
}

func (c *Corpus) schema(depth int) string {
	if depth <= 0 {
		return Pick(c, "{}", "true", "false", "null", "5", `{"type":"string"}`, `{"type":"object"}`, `{"additionalProperties":false}`, `{"$ref":"#/$defs/a"}`)
	}
	var parts []string
	add := func(key, value string) { parts = append(parts, fmt.Sprintf("%q:%s", key, value)) }
	for range 1 + c.IntN(3) {
		switch key := Pick(c, "properties", "properties", "properties", "properties", "items", "items", "type", "additionalProperties", "additionalProperties", "anyOf", "oneOf", "allOf", "$ref", "rare", "description"); key {
		case "properties":
			var members []string
			for range c.IntN(5) {
				members = append(members, c.quote(Pick(c, keys...))+":"+c.schema(depth-1))
			}
			add(key, "{"+strings.Join(members, ",")+"}")
		case "items", "additionalProperties":
			add(key, Pick(c, "false", "false", "true", "[]", "null", c.schema(depth-1), c.schema(depth-1), c.schema(depth-1)))
		case "type":
			add(key, Pick(c, `"object"`, `"array"`, `"string"`, `""`, `["string","null"]`, `["object","array"]`, `["array"]`, "[]", `["string",3]`, "5", "null"))
		case "anyOf", "oneOf", "allOf":
			members := make([]string, c.IntN(3))
			for i := range members {
				members[i] = Pick(c, `{"type":"null"}`, `{"type":["null"]}`, c.schema(depth-1), c.schema(depth-1))
			}
			add(key, Pick(c, "{}", "["+strings.Join(members, ",")+"]", "["+strings.Join(members, ",")+"]", "["+c.schema(depth-1)+"]"))
		case "$ref":
			add(key, Pick(c, `"#"`, `"#/"`, `"#/$defs/a"`, `"#/$defs/b"`, `"#/$defs/none"`, `"#a"`, `"other.json"`, "5", `"#/properties/a"`, `"#/properties/q~0"`, `"#/anyOf/0"`, `"#/allOf/00"`, `"#/properties/key of twenty bytes."`))
		case "rare":
			add(Pick(c, "patternProperties", "prefixItems", "if", "not", "dependentSchemas", "unevaluatedProperties", "additionalItems", "$dynamicRef", "then"), Pick(c, "{}", "false", "[]", "null"))
		default:
			add(key, `"x"`)
		}
	}
	return "{" + strings.Join(parts, ",") + "}"
}

// Operators returns an operator object. Its $any operators take operators rather than filters.
func (c *Corpus) Operators() string { return c.operators(0) }
