package iii

import (
	"encoding/json"
	"maps"
	"reflect"

	"github.com/google/jsonschema-go/jsonschema"
)

// inferSchema is the JSON Schema of a handler's type for listings: of a
// generated type its own, of any other what its encoding looks like. A type that
// cannot be described is registered without, since a schema is a help and not a
// condition.
func (c *Client) inferSchema(functionID string, t reflect.Type) json.RawMessage {
	if t == nil {
		return nil
	}
	raw, err := schemaOf(t)
	if err != nil {
		c.log.Debug("iii: no schema for a handler's type", "function", functionID, "type", t.String(), "error", err)
		return nil
	}
	return raw
}

func schemaOf(t reflect.Type) (json.RawMessage, error) {
	if raw, ok := schemaFor(t); ok {
		return raw, nil
	}
	own := map[reflect.Type]*jsonschema.Schema{
		reflect.TypeFor[json.RawMessage](): {},
		reflect.TypeFor[[]byte]():          {Type: "string", ContentEncoding: "base64"},
	}
	defs := map[string]any{}
	if err := generatedTypes(t, map[reflect.Type]bool{}, own, defs); err != nil {
		return nil, err
	}
	schema, err := jsonschema.ForType(t, &jsonschema.ForOptions{TypeSchemas: own})
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(schema)
	if err != nil {
		return nil, err
	}
	var doc any
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	openObjects(doc)
	if object, ok := doc.(map[string]any); ok && len(defs) > 0 {
		object["$defs"] = defs
	}
	return json.Marshal(doc)
}

// generatedTypes finds the generated types inside t. In the inferred schema they
// are references, and defs takes what these lead to.
func generatedTypes(t reflect.Type, seen map[reflect.Type]bool, own map[reflect.Type]*jsonschema.Schema, defs map[string]any) error {
	if seen[t] {
		return nil
	}
	seen[t] = true
	if raw, ok := schemaFor(t); ok {
		var doc map[string]any
		if err := json.Unmarshal(raw, &doc); err != nil {
			return err
		}
		if inner, ok := doc["$defs"].(map[string]any); ok {
			maps.Copy(defs, inner)
			delete(doc, "$defs")
		}
		delete(doc, "$schema")
		defs[t.Name()] = doc
		own[t] = &jsonschema.Schema{Ref: "#/$defs/" + t.Name()}
		return nil
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		return generatedTypes(t.Elem(), seen, own, defs)
	case reflect.Struct:
		for i := range t.NumField() {
			if err := generatedTypes(t.Field(i).Type, seen, own, defs); err != nil {
				return err
			}
		}
	}
	return nil
}

// openObjects removes additionalProperties: false, which inference puts on every
// struct: the engine adds a key to each object.
func openObjects(v any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			openObjects(e)
		}
	case map[string]any:
		switch closed := v["additionalProperties"].(type) {
		case bool:
			if !closed {
				delete(v, "additionalProperties")
			}
		case map[string]any:
			if _, ok := closed["not"]; ok && len(closed) == 1 {
				delete(v, "additionalProperties")
			}
		}
		for _, e := range v {
			openObjects(e)
		}
	}
}
