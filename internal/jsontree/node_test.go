package jsontree

import (
	"testing"
)

func parse(t *testing.T, doc string) *Node {
	t.Helper()
	n, err := Parse([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Encode sorts the keys of objects whose members were accessed. Otherwise, it changes only the
// format of numbers.
func TestNodeKeepsUntouchedText(t *testing.T) {
	n := parse(t, ` { "z" : 1.50e+01 , "a" : { "y" : 12345678901234567890123 , "x" : "\u00e9" } , "l" : [ 1.0 ] } `)
	members, err := n.Members()
	if err != nil {
		t.Fatal(err)
	}
	if err := members["l"].Push(Number("2")); err != nil {
		t.Fatal(err)
	}
	members["n"] = Null()
	got, err := n.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"a":{"y":1.2345678901234568e+22,"x":"\u00e9"},"l":[1.0,2],"n":null,"z":15.0}`; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestNodeKindAndDepth(t *testing.T) {
	for _, test := range []struct {
		doc, kind string
		depth     int
	}{
		{`{}`, "object", 1}, {`[]`, "array", 1}, {`"[{"`, "string", 0}, {`"\"["`, "string", 0}, {`true`, "boolean", 0}, {`null`, "null", 0},
		{`-1e3`, "number", 0}, {`{"a":[[],{"b":[1]}],"c":{}}`, "object", 4},
	} {
		n := parse(t, test.doc)
		if n.Kind() != test.kind || n.Depth() != test.depth {
			t.Errorf("%s: %s of depth %d, want %s of %d", test.doc, n.Kind(), n.Depth(), test.kind, test.depth)
		}
	}
	for _, doc := range []string{``, `{`, `1 2`, `nul`} {
		if n, err := Parse([]byte(doc)); err == nil {
			t.Errorf("%q is accepted as a %s", doc, n.Kind())
		}
	}
}

func TestNodeMembersAreThoseOfObjects(t *testing.T) {
	for _, doc := range []string{`[]`, `"{}"`, `1`, `null`} {
		if members, err := parse(t, doc).Members(); members != nil || err != nil {
			t.Errorf("%s has the members %v, %v", doc, members, err)
		}
	}
	members, err := parse(t, `{"a":1,"a":2}`).Members()
	if err != nil || len(members) != 1 || members["a"].Text() != "2" {
		t.Errorf("a key that occurs twice: %v, %v", members, err)
	}
}

func TestNodeConcatAndReplace(t *testing.T) {
	n := parse(t, `"a\u00e9"`)
	n.Concat(parse(t, `"\"b"`))
	if got := n.Text(); got != `"a\u00e9\"b"` {
		t.Errorf("concatenated: %s", got)
	}
	n.Replace(NewList(NewObject()))
	if got, err := n.Encode(); string(got) != `[{}]` || err != nil {
		t.Errorf("replaced: %s, %v", got, err)
	}
}
