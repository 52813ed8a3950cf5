package schemas

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// valueExceptions maps values that violate their schema to the reasons. A key consists of the
// type's name and the number of the [fullness] with which the value was filled.
var valueExceptions = map[string]string{
	"OtelMessage 0": "nil bytes are null; the socket carries no such message as JSON",
}

func TestWrittenValuesAreValid(t *testing.T) {
	s := schemas(t)
	exceptions := newExceptions(valueExceptions)
	values := 0
	for name, typ := range types {
		for fullness := empty; fullness <= extreme; fullness++ {
			for sample := range samples {
				doc, err := json.Marshal(filler{s.definitions, fullness, sample}.value(typ).Interface())
				if err == nil {
					if err = s.validate(name, doc); err != nil {
						err = fmt.Errorf("%s: %w", doc, err)
					}
				}
				exceptions.check(t, fmt.Sprint(name, " ", fullness), err)
				values++
			}
		}
	}
	exceptions.checkUnused(t)
	t.Logf("%d values of %d types, %d exceptions", values, len(types), len(valueExceptions))
}

func TestEnumerations(t *testing.T) {
	s := schemas(t)
	for name, def := range s.definitions {
		if def.enum() == nil {
			continue
		}
		for _, value := range def.enum() {
			doc, err := json.Marshal(reflect.ValueOf(value).Convert(types[name]).Interface())
			if err != nil {
				t.Fatal(err)
			}
			if err := s.validate(name, doc); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if s.validate(name, []byte(`"no such value"`)) == nil {
			t.Errorf("%s takes any string", name)
		}
	}
}

// object returns the members of an ordinary value of the named type. It returns false if the
// value is not encoded as a JSON object.
func object(t *testing.T, s *schemaSet, name string, sample int) (map[string]json.RawMessage, bool) {
	t.Helper()
	doc, err := json.Marshal(filler{s.definitions, ordinary, sample}.value(types[name]).Interface())
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if err := s.validate(name, doc); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	var members map[string]json.RawMessage
	if doc[0] != '{' {
		return nil, false
	}
	if err := json.Unmarshal(doc, &members); err != nil {
		t.Fatal(err)
	}
	return members, true
}

// with returns a copy of the object in which one member is replaced or, if value is empty,
// removed.
func with(t *testing.T, members map[string]json.RawMessage, key, value string) []byte {
	t.Helper()
	changed := make(map[string]json.RawMessage)
	for k, v := range members {
		changed[k] = v
	}
	if value == "" {
		delete(changed, key)
	} else {
		changed[key] = json.RawMessage(value)
	}
	doc, err := json.Marshal(changed)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestMissingKeysAreRejected(t *testing.T) {
	s := schemas(t)
	keys := 0
	for name, def := range s.definitions {
		for _, key := range def.required() {
			members, _ := object(t, s, name, 0)
			if members[key] == nil {
				t.Errorf("%s does not write %s", name, key)
			}
			if s.validate(name, with(t, members, key, "")) == nil {
				t.Errorf("%s: %s may be missing", name, key)
			}
			keys++
		}
	}
	t.Logf("%d required keys", keys)
}

func TestWrongTagsAreRejected(t *testing.T) {
	s := schemas(t)
	tags := 0
	for name, def := range s.definitions {
		for key := range def.constants() {
			members, _ := object(t, s, name, 0)
			for _, tag := range []string{`"nope"`, `""`, `null`, `1`} {
				if s.validate(name, with(t, members, key, tag)) == nil {
					t.Errorf("%s: takes %s for %s", name, tag, key)
				}
			}
			tags++
		}
	}
	for typ, values := range unionSamples {
		for sample := range values {
			members, ok := object(t, s, typ.Name(), sample)
			if !ok || members["type"] == nil {
				continue
			}
			for _, tag := range []string{`"nope"`, `""`, `null`, `1`, ``} {
				doc := with(t, members, "type", tag)
				if s.validate(typ.Name(), doc) == nil {
					t.Errorf("%s: the schema takes %s", typ.Name(), doc)
				}
				if json.Unmarshal(doc, reflect.New(typ).Interface()) == nil {
					t.Errorf("%s: the type takes %s", typ.Name(), doc)
				}
			}
			tags++
		}
	}
	t.Logf("%d tags", tags)
	for _, union := range []string{"FunctionInfoEntry", "MetricDataPoint", "MergePath"} { // unions without tags
		for _, doc := range []string{`{}`, `null`, `1`, `[1]`, `{"type":"set"}`} {
			if s.validate(union, []byte(doc)) == nil {
				t.Errorf("%s takes %s", union, doc)
			}
		}
	}
}

// Each property is set to a value of each JSON type. The schema of a property that may hold
// any JSON must accept all of these values; any other schema must reject most of them. The Go
// type must accept every value that the schema accepts.
func TestWrongTypesAreRejected(t *testing.T) {
	s := schemas(t)
	candidates := []string{`true`, `0.5`, `"some text"`, `[0.5]`, `{"k":0.5}`}
	properties, anything := 0, 0
	for name, def := range s.definitions {
		for key := range def.properties() {
			members, _ := object(t, s, name, 0)
			var taken []string
			for _, candidate := range candidates {
				doc := with(t, members, key, candidate)
				if s.validate(name, doc) != nil {
					continue
				}
				taken = append(taken, candidate)
				if err := json.Unmarshal(doc, reflect.New(types[name]).Interface()); err != nil {
					t.Errorf("%s: the schema takes %s, the type does not: %v", name, doc, err)
				}
			}
			properties++
			switch isAny := fieldType(t, name, key) == reflect.TypeFor[json.RawMessage](); {
			case isAny && !slices.Equal(taken, candidates):
				t.Errorf("%s: %s is any JSON, but only %s is taken", name, key, strings.Join(taken, ", "))
			case isAny:
				anything++
			case len(taken) > 2:
				t.Errorf("%s: %s takes %s", name, key, strings.Join(taken, ", "))
			}
		}
	}
	t.Logf("%d properties, %d of them any JSON", properties, anything)
}

// fieldType returns the type of the field for a key.
func fieldType(t *testing.T, name, key string) reflect.Type {
	t.Helper()
	for i := range types[name].NumField() {
		field := types[name].Field(i)
		if tag, _, _ := strings.Cut(field.Tag.Get("json"), ","); tag == key {
			return field.Type
		}
	}
	t.Fatalf("%s has no field for %s", name, key)
	return nil
}
