package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/types"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSchemasBecomeGoTypes(t *testing.T) {
	tests := []struct {
		name, schema string
		want         map[string]string
	}{
		{"scalars are aliases", `{"type":"string"}`, map[string]string{"XInput": "string"}},
		{"any value", `{}`, map[string]string{"XInput": "json.RawMessage"}},
		{"true", `true`, map[string]string{"XInput": "json.RawMessage"}},
		{"nothing", `false`, map[string]string{"XInput": "json.RawMessage"}},
		{"null", `{"type":"null"}`, map[string]string{"XInput": "json.RawMessage"}},
		{"nullable", `{"type":["string","null"]}`, map[string]string{"XInput": "*string"}},
		{"empty object", `{"type":"object","properties":{}}`, map[string]string{"XInput": "struct{}"}},
		{"open object", `{"type":"object"}`, map[string]string{"XInput": "iii.Map[json.RawMessage]"}},
		{
			"required, optional, nullable, and both",
			`{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"integer"},"c":{"type":["integer","null"]},"d":{"anyOf":[{"type":"integer"},{"type":"null"}]}},"required":["a","c"]}`,
			map[string]string{"XInput": `struct{A int "json:\"a\""; B *int "json:\"b,omitzero\""; C *int "json:\"c\""; D *int "json:\"d,omitzero\""}`},
		},
		{
			"lists and maps by whether they may be null or absent",
			`{"type":"object","properties":{"a":{"type":"array","items":{"type":"string"}},"b":{"type":"array","items":{"type":"string"}},"c":{"type":["array","null"],"items":{"type":"string"}},"d":{"type":"object","additionalProperties":{"type":"number"}}},"required":["a","c","d"]}`,
			map[string]string{"XInput": `struct{A iii.List[string] "json:\"a\""; B []string "json:\"b,omitzero\""; C []string "json:\"c\""; D iii.Map[float64] "json:\"d\""}`},
		},
		{
			"numbers by their bounds",
			`{"type":"object","required":["a","b","c","d","e","f","g"],"properties":{"a":{"type":"integer","minimum":0,"maximum":255},"b":{"type":"integer","minimum":0},"c":{"type":"integer","minimum":-9223372036854775808,"maximum":9223372036854775807},"d":{"type":"integer","minimum":0,"maximum":18446744073709551615},"e":{"type":"integer","minimum":1,"maximum":100},"f":{"type":"integer","format":"uint32","minimum":0},"g":{"type":"number","format":"float"}}}`,
			map[string]string{"XInput": `struct{A uint8 "json:\"a\""; B uint "json:\"b\""; C int64 "json:\"c\""; D uint64 "json:\"d\""; E int64 "json:\"e\""; F uint32 "json:\"f\""; G float32 "json:\"g\""}`},
		},
		{
			"names that collide, and keywords",
			`{"type":"object","properties":{"user_id":{"type":"string"},"userId":{"type":"string"},"user-id":{"type":"string"},"type":{"type":"string"},"func":{"type":"string"},"-":{"type":"string"},"2fa":{"type":"string"},"日本":{"type":"string"},"ß":{"type":"string"},"marshal_json":{"type":"string"},"json_schema":{"type":"string"}}}`,
			map[string]string{"XInput": `struct{Func *string "json:\"func,omitzero\""; JSONSchemaField *string "json:\"json_schema,omitzero\""; MarshalJSONField *string "json:\"marshal_json,omitzero\""; Type *string "json:\"type,omitzero\""; UserID *string "json:\"user-id,omitzero\""; UserIDField *string "json:\"userId,omitzero\""; UserIDField2 *string "json:\"user_id,omitzero\""; X *string "json:\"-,omitzero\""; X2fa *string "json:\"2fa,omitzero\""; Xß *string "json:\"ß,omitzero\""; X日本 *string "json:\"日本,omitzero\""}`},
		},
		{"name that no tag can hold", `{"type":"object","properties":{"a\"b":{"type":"string"}}}`, map[string]string{"XInput": "iii.Map[json.RawMessage]"}},
		{
			"enumerations", `{"enum":["a","b",null,"c d"]}`,
			map[string]string{"XInput": "string"},
		},
		{"constant", `{"const":5}`, map[string]string{"XInput": "struct{}"}},
		{"constants of one member of oneOf each", `{"oneOf":[{"const":"a","description":"First."},{"const":"b"}]}`, map[string]string{"XInput": "string"}},
		{
			"references to channels, inline, defined, as enum and as constants",
			`{"type":"object","properties":{` +
				`"a":{"type":"object","properties":{"channel_id":{"type":"string"},"access_key":{"type":"string"},"direction":{"type":"string","enum":["read","write"]}},"required":["channel_id","access_key","direction"]},` +
				`"b":{"$ref":"#/$defs/Ref"},"c":{"anyOf":[{"$ref":"#/$defs/Ref"},{"type":"null"}]},"d":{"type":"array","items":{"$ref":"#/$defs/Ref"}}},"required":["a","c","d"],` +
				`"$defs":{"Ref":{"type":"object","title":"Ref","properties":{"channel_id":{"type":"string","title":"Id"},"access_key":{"type":"string"},"direction":{"$ref":"#/$defs/End"}},"required":["direction","access_key","channel_id"],"additionalProperties":false},` +
				`"End":{"oneOf":[{"const":"write"},{"const":"read","description":"Reads."}],"type":"string"}}}`,
			map[string]string{"XInput": `struct{A iii.StreamChannelRef "json:\"a\""; B *iii.StreamChannelRef "json:\"b,omitzero\""; C *iii.StreamChannelRef "json:\"c\""; D iii.List[iii.StreamChannelRef] "json:\"d\""}`},
		},
		{
			"what only resembles a reference to a channel",
			`{"type":"object","properties":{` +
				`"a":{"type":"object","properties":{"channel_id":{"type":"string"},"access_key":{"type":"string"},"direction":{"type":"string","enum":["read","write","both"]}},"required":["channel_id","access_key","direction"]},` +
				`"b":{"type":"object","properties":{"channel_id":{"type":"string"},"access_key":{"type":"string"},"direction":{"type":"string","enum":["read","write"]}},"required":["channel_id","direction"]},` +
				`"c":{"type":"object","properties":{"channel_id":{"type":"integer"},"access_key":{"type":"string"},"direction":{"type":"string"}},"required":["channel_id","access_key","direction"]}},"required":["a","b","c"]}`,
			map[string]string{
				"XInput":           `struct{A XInputA "json:\"a\""; B XInputB "json:\"b\""; C XInputC "json:\"c\""}`,
				"XInputA":          `struct{AccessKey string "json:\"access_key\""; ChannelID string "json:\"channel_id\""; Direction XInputADirection "json:\"direction\""}`,
				"XInputADirection": "string",
				"XInputB":          `struct{AccessKey *string "json:\"access_key,omitzero\""; ChannelID string "json:\"channel_id\""; Direction XInputBDirection "json:\"direction\""}`,
				"XInputBDirection": "string",
				"XInputC":          `struct{AccessKey string "json:\"access_key\""; ChannelID int "json:\"channel_id\""; Direction string "json:\"direction\""}`,
			},
		},
		{"times", `{"type":"string","format":"date-time"}`, map[string]string{"XInput": "time.Time"}},
		{"base64 or null", `{"type":["string","null"],"contentEncoding":"base64"}`, map[string]string{"XInput": "[]byte"}},
		{"list of bytes", `{"type":"array","items":{"type":"integer","minimum":0,"maximum":255}}`, map[string]string{"XInput": "iii.List[uint8]"}},
		{
			"lists of bytes by whether they may be null or absent",
			`{"type":"object","$defs":{"b":{"type":"array","items":{"type":"integer","format":"uint8"}}},"properties":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/b"},"c":{"type":["array","null"],"items":{"type":"integer","format":"uint8"}},"d":{"type":"array","items":{"type":["integer","null"],"format":"uint8"}},"e":{"type":"object","additionalProperties":{"$ref":"#/$defs/b"}},"f":{"type":["string","array"],"items":{"type":"integer","format":"uint8"}}},"required":["a","c"]}`,
			map[string]string{
				"XInput":  `struct{A iii.List[uint8] "json:\"a\""; B *iii.List[uint8] "json:\"b,omitzero\""; C *iii.List[uint8] "json:\"c\""; D []*uint8 "json:\"d,omitzero\""; E map[string]iii.List[uint8] "json:\"e,omitzero\""; F *XInputF "json:\"f,omitzero\""}`,
				"XInputF": "struct{String *string; List *iii.List[uint8]; Raw json.RawMessage}",
			},
		},
		{"array", `{"type":"array","items":{"type":"boolean"},"minItems":3,"maxItems":3}`, map[string]string{"XInput": "[3]bool"}},
		{"array that is too long for one", `{"type":"array","items":{"type":"boolean"},"minItems":1000000000,"maxItems":1000000000}`, map[string]string{"XInput": "iii.List[bool]"}},
		{
			"tuple", `{"type":"array","prefixItems":[{"type":"string"},{"type":"integer"}],"items":{"type":"boolean"},"minItems":1}`,
			map[string]string{"XInput": "struct{V0 string; V1 *int; Rest []bool}"},
		},
		{
			"union by types", `{"type":["string","number","boolean"]}`,
			map[string]string{"XInput": "struct{String *string; Number *float64; Bool *bool; Raw json.RawMessage}"},
		},
		{
			"union of what is one type in Go", `{"anyOf":[{"type":"string","format":"uuid"},{"type":"string","maxLength":3},{"type":"integer"}]}`,
			map[string]string{"XInput": "struct{String *string; Integer *int; Raw json.RawMessage}"},
		},
		{
			"union by tags",
			`{"oneOf":[{"type":"object","properties":{"k":{"const":"a"},"x":{"type":"string"}},"required":["k","x"]},{"type":"object","properties":{"k":{"const":"b"}},"required":["k"]}]}`,
			map[string]string{"XInput": "struct{A *XInputA; B *XInputB; Raw json.RawMessage}", "XInputA": `struct{K XInputAK "json:\"k\""; X string "json:\"x\""}`, "XInputAK": "struct{}", "XInputB": `struct{K XInputBK "json:\"k\""}`, "XInputBK": "struct{}"},
		},
		{
			"allOf", `{"allOf":[{"$ref":"#/$defs/A"},{"type":"object","properties":{"b":{"type":"string"}},"required":["b"]}],"$defs":{"A":{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]}}}`,
			map[string]string{"XInput": `struct{A string "json:\"a\""; B string "json:\"b\""}`},
		},
		{"allOf that nothing satisfies", `{"allOf":[{"type":"string"},{"type":"integer"}]}`, map[string]string{"XInput": "json.RawMessage"}},
		{
			"conditions beside properties", `{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"string"}},"anyOf":[{"required":["a"]},{"required":["b"]}]}`,
			map[string]string{"XInput": `struct{A *string "json:\"a,omitzero\""; B *string "json:\"b,omitzero\""}`},
		},
		{
			"additionalProperties beside properties", `{"type":"object","properties":{"a":{"type":"string"}},"required":["a"],"additionalProperties":{"type":"integer"}}`,
			map[string]string{"XInput": `struct{A string "json:\"a\""; Additional map[string]int "json:\"-\""}`},
		},
		{
			"type that contains itself", `{"type":"object","properties":{"next":{"$ref":"#"}},"required":["next"]}`,
			map[string]string{"XInput": `struct{Next *XInput "json:\"next\""}`},
		},
		{
			"types that contain each other", `{"$ref":"#/$defs/A","$defs":{"A":{"type":"object","properties":{"b":{"$ref":"#/$defs/B"}},"required":["b"]},"B":{"type":"object","properties":{"a":{"$ref":"#/$defs/A"}},"required":["a"]}}}`,
			map[string]string{"XInput": "A", "A": `struct{B B "json:\"b\""}`, "B": `struct{A *A "json:\"a\""}`},
		},
		{"list that contains itself", `{"$ref":"#/$defs/L","$defs":{"L":{"type":"array","items":{"$ref":"#/$defs/L"}}}}`, map[string]string{"XInput": "L", "L": "[]L"}},
		{"list that is all", `{"type":"array","items":{"$ref":"#"}}`, map[string]string{"XInput": "[]XInput"}},
		{"reference to itself", `{"$ref":"#/$defs/A","$defs":{"A":{"$ref":"#/$defs/A"}}}`, map[string]string{"XInput": "json.RawMessage", "A": "json.RawMessage"}},
		{"references in a circle", `{"$ref":"#/$defs/A","$defs":{"A":{"$ref":"#/$defs/B"},"B":{"$ref":"#/$defs/A"}}}`, map[string]string{"XInput": "json.RawMessage", "A": "json.RawMessage"}},
		{"reference to nothing", `{"$ref":"#/$defs/A"}`, map[string]string{"XInput": "json.RawMessage"}},
		{"reference to elsewhere", `{"$ref":"https://example.com/a.json"}`, map[string]string{"XInput": "json.RawMessage"}},
		{"reference into a property", `{"type":"object","properties":{"a":{"type":"object","properties":{"x":{"type":"string"}}},"b":{"$ref":"#/properties/a"}}}`, map[string]string{
			"XInput": `struct{A *XInputA "json:\"a,omitzero\""; B *XInputB "json:\"b,omitzero\""}`, "XInputA": `struct{X *string "json:\"x,omitzero\""}`, "XInputB": `struct{X *string "json:\"x,omitzero\""}`}},
		{"reference to the schema by its own id", `{"$id":"https://example.com/a#","type":"object","properties":{"a":{"$ref":"https://example.com/a#/$defs/B"}},"$defs":{"B":{"type":"string"}}}`, map[string]string{"XInput": `struct{A *string "json:\"a,omitzero\""}`}},
		{"reference of a wrong type", `{"$ref":5}`, map[string]string{"XInput": "json.RawMessage"}},
		{
			"members that conditions name",
			`{"type":"object","properties":{"k":{"type":"string"}},"if":{"properties":{"k":{"const":"a"}}},"then":{"properties":{"x":{"type":"integer"},"y":{"type":"string"}},"required":["x"]},"else":{"properties":{"y":{"type":"boolean"},"k":{"const":"b"}}},"dependentSchemas":{"k":{"$ref":"#/$defs/Z"}},"$defs":{"Z":{"properties":{"z":{"type":"boolean"}}}}}`,
			map[string]string{"XInput": `struct{K *string "json:\"k,omitzero\""; X *int "json:\"x,omitzero\""; Y json.RawMessage "json:\"y,omitzero\""; Z *bool "json:\"z,omitzero\""}`},
		},
		{"length that is no integer", `{"type":"array","items":{"type":"boolean"},"minItems":1.5,"maxItems":1.5}`, map[string]string{"XInput": "iii.List[bool]"}},
		{"arrays of arrays", `{"type":"array","minItems":64,"maxItems":64,"items":{"type":"array","minItems":64,"maxItems":64,"items":{"type":"boolean"}}}`, map[string]string{"XInput": "iii.List[[64]bool]"}},
		{"unknown type", `{"type":"date"}`, map[string]string{"XInput": "json.RawMessage"}},
		{"keywords of wrong types", `{"type":"object","properties":{"a":5,"b":"x"},"required":"a"}`, map[string]string{"XInput": `struct{A json.RawMessage "json:\"a,omitzero\""; B json.RawMessage "json:\"b,omitzero\""}`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			files, _ := generate(t, &catalog{Functions: []function{fn("w::x", test.schema, "")}})
			got := goTypes(compile(t, files))
			for _, fixed := range []string{"W", "shape", "unionVariant"} {
				delete(got, fixed)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("types (-want +got):\n%s", diff)
			}
		})
	}
}

// A schema of a few lines can describe a type that is too large for the compiler.
func TestTypesHaveABoundedSize(t *testing.T) {
	chain := func(form string) string { // each definition refers to the next one several times
		defs := []string{`"A40":{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]}`}
		for i := range 40 {
			defs = append(defs, fmt.Sprintf("%q:%s", fmt.Sprint("A", i), strings.ReplaceAll(form, "NEXT", fmt.Sprintf("%q:\"#/$defs/A%d\"", "$ref", i+1))))
		}
		return `{"$ref":"#/$defs/A0","$defs":{` + strings.Join(defs, ",") + `}}`
	}
	schemas := map[string]string{
		"arrays":            strings.Repeat(`{"type":"array","minItems":64,"maxItems":64,"items":`, 20) + `{"type":"string"}` + strings.Repeat("}", 20),
		"members":           chain(`{"type":"object","properties":{"a":{NEXT},"b":{NEXT}},"required":["a","b"]}`),
		"arrays of objects": chain(`{"type":"object","properties":{"a":{"type":"array","minItems":3,"maxItems":3,"items":{NEXT}}},"required":["a"]}`),
		"tuples":            chain(`{"type":"array","prefixItems":[{NEXT},{NEXT}],"minItems":2,"items":{NEXT}}`),
		"optional arrays":   chain(`{"type":"object","properties":{"a":{"type":"array","minItems":9,"maxItems":9,"items":{NEXT}}}}`),
		"maps":              chain(`{"type":"object","additionalProperties":{"type":"array","minItems":9,"maxItems":9,"items":{NEXT}}}`),
		"variants":          chain(`{"anyOf":[{"type":"array","minItems":9,"maxItems":9,"items":{NEXT}},{"type":"string"}]}`),
	}
	sizes := types.SizesFor("gc", "amd64")
	for name, schema := range schemas {
		files, _ := generate(t, &catalog{Functions: []function{fn("w::x", schema, "")}})
		pkg := compile(t, files)
		for _, n := range pkg.Scope().Names() {
			if tn, ok := pkg.Scope().Lookup(n).(*types.TypeName); ok {
				if _, generic := tn.Type().(*types.Named); !generic || tn.Type().(*types.Named).TypeParams().Len() == 0 {
					if size := sizes.Sizeof(tn.Type()); size > 2*maxSize*8 || size < 0 {
						t.Errorf("%s: %s has %d bytes", name, n, size)
					}
				}
			}
		}
	}
}

func TestLargeEnumerationsTakeLinearTime(t *testing.T) {
	list := func(from int) string {
		var all []string
		for i := range 20000 {
			all = append(all, fmt.Sprintf("%q", fmt.Sprint("v", from+i)))
		}
		return `{"enum":[` + strings.Join(all, ",") + `]}`
	}
	begin := time.Now()
	files, _ := generate(t, &catalog{Functions: []function{fn("w::x", list(0), "")}})
	compareSchemas("request", json.RawMessage(list(0)), json.RawMessage(list(5)), true)
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	compile(t, files)
}

func TestPlacesThatGoCannotTypeAreExplained(t *testing.T) {
	files, g := generate(t, &catalog{Functions: []function{fn("w::x", `{"type":"object","properties":{"a/b":{"enum":["x",1]},"c":{"$ref":"#/nowhere"},"d":{"not":{"type":"string"}},"e":{"type":7},"f":{"$dynamicRef":"#x"},"g":{"const":[1]}}}`, "")}})
	var got []string
	for _, n := range g.notes {
		got = append(got, n.String())
	}
	want := []string{
		`w::x: request: /properties/a~1b: the values have several types: ["x",1]`,
		`w::x: request: /properties/c: $ref "#/nowhere" has no target`,
		`w::x: request: /properties/d: the schema has no type, only not`,
		`w::x: request: /properties/e: the value of type is a number`,
		`w::x: request: /properties/f: $dynamicRef is not supported here`,
		`w::x: request: /properties/g: the values are objects or arrays: [[1]]`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
	for _, comment := range []string{`because the values have several types: ["x",1].`, `because $ref "#/nowhere" has no target.`} {
		if !strings.Contains(unwrapped(files["w_gen.go"]), comment) {
			t.Errorf("no comment says %q:\n%s", comment, files["w_gen.go"])
		}
	}
}

// unwrapped joins the lines of each comment.
func unwrapped(source []byte) string {
	var b strings.Builder
	for line := range strings.Lines(string(source)) {
		b.WriteString(strings.TrimPrefix(strings.TrimSpace(line), "// ") + " ")
	}
	return b.String()
}

// hostileCatalog returns a catalog with hostile text wherever another worker controls the
// text.
func hostileCatalog(t *testing.T) *catalog {
	t.Helper()
	hostile := "*/ x\n//go:build ignore\n+build ignore\n\x00\u202eevil\u2028func init() { panic(1) }\r//line a.go:1\n`\" `````````````  \\ \xff %s %d"
	text, err := json.Marshal(hostile)
	if err != nil {
		t.Fatal(err)
	}
	schema := fmt.Sprintf(`{"type":"object","description":%[1]s,"title":%[1]s,"properties":{%[1]s:{"type":"string"},"ok":{"type":"string","description":%[1]s}},"$defs":{%[1]s:{"enum":[%[1]s,"b"],"description":%[1]s}}}`, text)
	other := fmt.Sprintf(`{"type":"object","description":%[1]s,"properties":{"ok":{"type":"string","description":%[1]s},"e":{"oneOf":[{"const":%[1]s,"description":%[1]s},{"const":"b"}]},"c":{"const":%[1]s},"u":{"anyOf":[{"type":"string","description":%[1]s},{"type":"object","properties":{"t":{"const":%[1]s}}}]}}}`, text)
	ids := []string{"../../etc/passwd::x", "a/b::c", "con::x", "w_test::x", "w_linux::x", "W::x", "w::x", "w::X", "w::send_x", "w::x-y", "w::check_schemas", "w::client", "new_w::x", hostile + "::" + hostile, "::", "x", "日本::語", "iiigen::x", "json::x", "context::x", "string::x", "type::func", "w::x::y", "w::xY"}
	c := &catalog{}
	for i, id := range ids {
		f := fn(id, schema, other)
		f.Worker = []string{"w", hostile}[i%2]
		f.Description = hostile
		f.Namespace = []string{"default", hostile}[i%2]
		f.Metadata = json.RawMessage(fmt.Sprintf(`{"errors":[%[1]s,{"code":"a","description":%[1]s},"A","a-"]}`, text))
		c.Functions = append(c.Functions, f)
		c.TriggerTypes = append(c.TriggerTypes, triggerType{ID: id, Namespace: f.Namespace, Worker: f.Worker, Description: hostile, Config: f.Request, Payload: f.Response})
	}
	return c
}

// Text from other workers appears only in comments, literals and file names.
func TestHostileTextStaysText(t *testing.T) {
	files, _ := generate(t, hostileCatalog(t))
	compile(t, files)
	for name, content := range files {
		if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != "." && name != catalogFile && strings.TrimSuffix(strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_"), ".") != "" {
			t.Errorf("file name %q", name)
		}
		if name == catalogFile {
			continue
		}
		if !strings.HasSuffix(name, "_gen.go") {
			t.Errorf("file name %q may have a meaning for the go command", name)
		}
		for line := range strings.Lines(string(content)) {
			trimmed := strings.TrimSpace(line)
			for _, directive := range []string{"//go:", "//line", "// +build", "func init"} {
				if strings.HasPrefix(trimmed, directive) && trimmed != "//go:embed "+catalogFile {
					t.Errorf("%s: %s", name, trimmed)
				}
			}
		}
		if i := bytes.IndexFunc(content, func(r rune) bool {
			return r < ' ' && r != '\n' && r != '\t' || r == 0x202e || r == 0x2028 || r == 0xfeff
		}); i >= 0 {
			t.Errorf("%s: a control character at %q", name, content[max(0, i-20):i+5])
		}
	}
}

func TestOutputDoesNotDependOnTheOrderOfTheCatalog(t *testing.T) {
	raw, err := os.ReadFile("internal/recorded/pydantic/iiigen_catalog.json")
	if err != nil {
		t.Fatal(err)
	}
	c, err := parseCatalog(raw)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := generate(t, c)
	for range 5 {
		rand.Shuffle(len(c.Functions), func(i, j int) { c.Functions[i], c.Functions[j] = c.Functions[j], c.Functions[i] })
		shuffled := &catalog{Functions: c.Functions}
		shuffled.normalize()
		got, _ := generate(t, shuffled)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("files (-first +shuffled):\n%s", diff)
		}
	}
}

func TestNamesDoNotDependOnWhoComesFirst(t *testing.T) {
	address := `{"$ref":"#/$defs/Address","$defs":{"Address":{"type":"object","properties":{"street":{"type":"string"}}}}}`
	other := `{"$ref":"#/$defs/Address","$defs":{"Address":{"type":"object","properties":{"zip":{"type":"string"}}}}}`
	files, _ := generate(t, &catalog{Functions: []function{fn("a::get", address, address), fn("b::get", address, other)}})
	got := goTypes(compile(t, files))
	want := map[string]string{
		"A": got["A"], "B": got["B"],
		"AGetInput": `struct{Street *string "json:\"street,omitzero\""}`, "AGetOutput": `struct{Street *string "json:\"street,omitzero\""}`,
		"BGetInput": `struct{Street *string "json:\"street,omitzero\""}`, "BGetOutput": `struct{Zip *string "json:\"zip,omitzero\""}`,
		"AGetInputAddress": `struct{Street *string "json:\"street,omitzero\""}`, "BGetOutputAddress": `struct{Zip *string "json:\"zip,omitzero\""}`,
	}
	for name, typ := range got { // resolve aliases
		if strings.HasSuffix(typ, "Address") {
			got[name] = got[typ]
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("types (-want +got):\n%s", diff)
	}
}

func TestRecordedClientsAreCurrent(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-config", "internal/recorded/iiigen.json", "-check"}, &out, &out); err != nil {
		t.Errorf("%v; go run . -config internal/recorded/iiigen.json generates them again\n%s", err, &out)
	}
}

// manyFunctions returns a catalog of n functions with schemas recorded from other SDKs.
func manyFunctions(t testing.TB, n int) *catalog {
	t.Helper()
	var recorded []function
	for _, name := range []string{"pydantic", "schemars", "zod"} {
		c, err := loadCatalog(filepath.Join("internal", "recorded", name, catalogFile))
		if err != nil {
			t.Fatal(err)
		}
		recorded = append(recorded, c.Functions...)
	}
	c := &catalog{}
	for i := range n {
		f := recorded[i%len(recorded)]
		f.ID = fmt.Sprintf("worker%d::%s%d", i%20, strings.ReplaceAll(f.ID, "::", "_"), i)
		c.Functions = append(c.Functions, f)
	}
	c.normalize()
	return c
}

func TestManyFunctionsCompile(t *testing.T) {
	files, _ := generate(t, manyFunctions(t, 300))
	compile(t, files)
}

func BenchmarkGenerate1000Functions(b *testing.B) {
	for name, observable := range map[string]bool{"called": false, "observed": true} {
		b.Run(name, func(b *testing.B) {
			c := manyFunctions(b, 1000)
			for i := range c.Functions {
				c.Functions[i].Observable = observable
			}
			for b.Loop() {
				generate(b, c)
			}
		})
	}
}

func FuzzGenerate(f *testing.F) {
	for _, name := range []string{"pydantic", "schemars", "zod"} {
		c, err := loadCatalog(filepath.Join("internal", "recorded", name, catalogFile))
		if err != nil {
			f.Fatal(err)
		}
		for _, fn := range c.Functions {
			f.Add(string(fn.Request), fn.ID, fn.Description)
		}
	}
	f.Fuzz(func(t *testing.T, schema, id, text string) {
		if strings.TrimSpace(id) == "" {
			return
		}
		function := fn(id, schema, schema)
		function.Description = text
		function.Args, function.Observable, function.Private = function.Request, true, len(text)%2 == 0
		g := &generation{pkg: "clients", catalog: &catalog{Functions: []function_{function}}}
		if err := g.prepare(); err != nil {
			return // schema is invalid
		}
		files, err := g.files()
		if err != nil {
			t.Fatal(err)
		}
		compile(t, files)
	})
}

// function_ lets FuzzGenerate refer to the type function, which a variable shadows.
type function_ = function
