package iiitest

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// registerConfig returns the input for registering an entry. more contains further members,
// each preceded by a comma.
func registerConfig(id, schema, more string) string {
	return `{"id":"` + id + `","name":"N","description":"D","schema":` + schema + more + `}`
}

func TestConfiguration(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		const schema = `{"properties":{"port":{"maximum":65535,"type":"integer"},"url":{"type":"string"}},"type":"object"}`
		p.want(`{"configurations":[]}`, "configuration::list", `{}`)
		p.want(`{"description":"D","id":"web","metadata":{"m":1},"name":"N","schema":`+schema+`,"value":null}`,
			"configuration::register", registerConfig("web", schema, `,"metadata":{"m":1},"initial_value":null`))
		p.want(`!SCHEMA_INVALID: schema validation failed: null is not of type "object"`, "configuration::get", `{"id":"web"}`)
		p.want(`{"id":"web","value":null}`, "configuration::get", `{"id":"web","raw":true}`)
		p.want(`{"description":"D","id":"app_2-x","name":"N","schema":true,"value":[1,2.0,18446744073709551615]}`,
			"configuration::register", registerConfig("app_2-x", `true`, `,"initial_value":[1,2.0,18446744073709551615]`))
		p.want(`{"new_value":{"port":80},"old_value":null}`, "configuration::set", `{"id":"web","value":{"port":80}}`)
		p.want(`{"new_value":{"url":"${SCHEME:http}://${HOST}"},"old_value":{"port":80}}`,
			"configuration::set", `{"id":"web","value":{"url":"${SCHEME:http}://${HOST}"}}`)
		p.want(`{"id":"web","value":{"url":"http://example.org"}}`, "configuration::get", `{"id":"web"}`)
		p.want(`{"id":"web","value":{"url":"${SCHEME:http}://${HOST}"}}`, "configuration::get", `{"id":"web","raw":true}`)

		// Registering an entry again replaces its description. The entry keeps its value
		// unless an initial value is given.
		for _, more := range []string{"", `,"initial_value":null`} {
			p.want(`{"description":"D","id":"web","name":"N","schema":{"type":"object"},"value":{"url":"${SCHEME:http}://${HOST}"}}`,
				"configuration::register", registerConfig("web", `{"type":"object"}`, more))
		}
		p.want(`{"description":"D","id":"web","name":"N","schema":{"type":"object"},"value":{"n":1}}`,
			"configuration::register", registerConfig("web", `{"type":"object"}`, `,"initial_value":{"n":1}`))
		p.want(`{"id":"web","value":{"n":1}}`, "configuration::get", `{"id":"web"}`)
		const app = `{"description":"D","id":"app_2-x","name":"N","schema":true}`
		p.want(`{"configurations":[`+app+`,{"description":"D","id":"web","name":"N","schema":{"type":"object"}}]}`, "configuration::list", `{}`)
		p.want(app, "configuration::schema", `{"id":"app_2-x"}`)
	}, WithEnv(map[string]string{"HOST": "example.org"}))
}

func TestConfigurationRefuses(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		p.call("configuration::register", registerConfig("str", `{"type":"string","minLength":3}`, ""))
		p.call("configuration::set", `{"id":"str","value":"${NOTSET} ${ALSO} ${NOTSET} ${SET:x}"}`)
		p.call("configuration::register", registerConfig("kept", `true`, `,"initial_value":5`))
		p.call("configuration::register", registerConfig("kept", `{"type":"string"}`, ""))
		const must = "': must match [a-z0-9_-]{1,64}"
		long := strings.Repeat("x", 65)
		for _, test := range []struct{ id, data, want string }{
			{"configuration::register", registerConfig("", `{}`, ""), "INVALID_ID: invalid configuration id '" + must},
			{"configuration::register", registerConfig("Big", `{}`, ""), "INVALID_ID: invalid configuration id 'Big" + must},
			{"configuration::register", registerConfig("a.b", `null`, ""), "INVALID_ID: invalid configuration id 'a.b" + must},
			{"configuration::register", registerConfig(long, `{}`, ""), "INVALID_ID: invalid configuration id '" + long + must},
			{"configuration::register", registerConfig("x", `null`, ""), `SCHEMA_INVALID: schema validation failed: invalid JSON Schema: null is not of types "boolean", "object"`},
			{"configuration::register", registerConfig("x", `{"type":"string"}`, `,"initial_value":1`), `SCHEMA_INVALID: schema validation failed: 1 is not of type "string"`},
			{"configuration::register", `{"id":"x","name":"N","description":"D"}`, "deserialization_error: Failed to deserialize input for configuration::register: missing field `schema`"},
			{"configuration::set", `{"id":"x","value":1}`, "NOT_REGISTERED: configuration 'x' is not registered; call configuration::register first"},
			{"configuration::set", `{"id":"X","value":1}`, "INVALID_ID: invalid configuration id 'X" + must},
			{"configuration::set", `{"id":"str","value":1}`, `SCHEMA_INVALID: schema validation failed: 1 is not of type "string"`},
			{"configuration::set", `{"id":"str","value":null}`, `SCHEMA_INVALID: schema validation failed: null is not of type "string"`},
			{"configuration::set", `{"id":"str","value":"${SHORT}"}`, `SCHEMA_INVALID: schema validation failed: "ab" is shorter than 3 characters`}, // the expanded value is validated
			{"configuration::set", `{"id":"str"}`, "deserialization_error: Failed to deserialize input for configuration::set: missing field `value`"},
			{"configuration::get", `{"id":"x"}`, "NOT_FOUND: configuration 'x' not found"},
			{"configuration::get", `{"id":"X"}`, "NOT_FOUND: configuration 'X' not found"},
			{"configuration::get", `{"id":"str"}`, "EXPAND_FAILED: configuration 'str' references unset environment variable(s) with no default: NOTSET, ALSO"},
			{"configuration::get", `{"id":"kept"}`, `SCHEMA_INVALID: schema validation failed: 5 is not of type "string"`},
			{"configuration::get", `{}`, "deserialization_error: Failed to deserialize input for configuration::get: missing field `id`"},
			{"configuration::schema", `{"id":"x"}`, "NOT_FOUND: configuration 'x' not found"},
			{"configuration::schema", `{}`, "deserialization_error: Failed to deserialize input for configuration::schema: missing field `id`"},
			{"configuration::list", `1`, "deserialization_error: Failed to deserialize input for configuration::list: invalid type: integer `1`, expected struct ConfigurationListInput"},
		} {
			p.want("!"+test.want, test.id, test.data)
		}
		p.want(`{"id":"str","value":"${NOTSET} ${ALSO} ${NOTSET} ${SET:x}"}`, "configuration::get", `{"id":"str","raw":true}`)
		p.want(`{"id":"kept","value":5}`, "configuration::get", `{"id":"kept","raw":true}`)
	}, WithEnv(map[string]string{"SHORT": "ab"}))
}

func TestConfigurationTrigger(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		p.handle("all", "!FAILS") // does not affect other triggers
		p.handle("web", "")
		p.handle("set", "")
		p.handle("no", "false")
		p.trigger("t1", "configuration", "all", `{}`, `,"metadata":{"m":1}`)
		p.trigger("t2", "configuration", "web", `{"configuration_id":"web","event_types":null}`, "")
		p.trigger("t3", "configuration", "set", `{"event_types":["configuration:updated","configuration:deleted"]}`, "")
		p.trigger("t4", "configuration", "never", `{"condition_function_id":"no","configuration_id":"web","event_types":["configuration:updated"]}`, "")
		p.fence()
		event := func(kind, id, more, old, value string) string {
			return `{"description":"D","event_type":"configuration:` + kind + `","id":"` + id + `",` + more + `"name":"N","new_value":` + value +
				`,"old_value":` + old + `,"schema":{},"type":"configuration"}`
		}
		p.call("configuration::register", registerConfig("web", `{}`, `,"metadata":{"k":1}`))
		registered := event("registered", "web", `"metadata":{"k":1},`, "null", "null")
		p.wantCalls(`all `+registered+` metadata {"m":1}`, `web `+registered)

		p.call("configuration::set", `{"id":"web","value":"${A:x}"}`)
		updated := event("updated", "web", `"metadata":{"k":1},`, "null", `"x"`)
		p.wantCalls(`all `+updated+` metadata {"m":1}`, `web `+updated, `set `+updated, `no `+updated)

		p.call("configuration::set", `{"id":"web","value":"${NOTSET}"}`) // cannot be expanded
		updated = event("updated", "web", `"metadata":{"k":1},`, `"x"`, `"${NOTSET}"`)
		p.wantCalls(`all `+updated+` metadata {"m":1}`, `web `+updated, `set `+updated, `no `+updated)

		p.call("configuration::register", registerConfig("other", `{}`, `,"initial_value":1`))
		p.wantCalls(`all ` + event("registered", "other", "", "null", "1") + ` metadata {"m":1}`)
		p.call("configuration::register", registerConfig("other", `{}`, "")) // registering again is an update
		again := event("updated", "other", "", "1", "1")
		p.wantCalls(`all `+again+` metadata {"m":1}`, `set `+again)

		p.call("configuration::set", `{"id":"none","value":1}`) // rejected: no event
		p.send(`{"type":"unregistertrigger","id":"t1"}`)
		p.trigger("t3", "configuration", "set", `{"event_types":["configuration:registered"]}`, "") // replaces the trigger with this id
		p.fence()
		p.call("configuration::set", `{"id":"other","value":2}`)
		p.wantCalls()

		for _, test := range []struct{ config, want string }{
			{`5`, "invalid type: integer `5`, expected struct ConfigurationTriggerConfig"},
			{`{"configuration_id":1}`, "invalid type: integer `1`, expected a string"},
			{`{"event_types":"configuration:updated"}`, "invalid type: string \"configuration:updated\", expected a sequence"},
		} {
			p.trigger("bad", "configuration", "all", test.config, "")
			p.wantCalls("bad refused: trigger_registration_failed: Failed to parse configuration trigger config: " + test.want)
		}
	}, WithEnv(nil))
}

func TestExpand(t *testing.T) {
	env := func(name string) (string, bool) {
		v, ok := map[string]string{"A": "1", "EMPTY": "", "REF": "${A}", "Q": `"<` + "\n"}[name]
		return v, ok
	}
	for _, test := range []struct{ value, want string }{
		{`"plain"`, `"plain"`},
		{`"${A}"`, `"1"`}, // remains a string
		{`"a${A}b${A}c"`, `"a1b1c"`},
		{`"${EMPTY:default}"`, `""`}, // set to ""
		{`"${B:}"`, `""`},
		{`"${B:http://x:1}"`, `"http://x:1"`},
		{`"${REF} ${Q}"`, `"${A} \"<\n"`}, // replacements are not expanded again
		{`"$A ${} ${1} ${A-B} $${A} ${A"`, `"$A ${} ${1} ${A-B} $1 ${A"`},
		{`{"${A}":["${A}",{"k":"${A:2}"}],"n":1.50,"t":true,"z":null}`, `{"${A}":["1",{"k":"1"}],"n":1.50,"t":true,"z":null}`},
		{`[]`, `[]`},
		{`"${B}"`, `unset: [B]`},
		{`["${A}",{"k":"${C:} ${C} ${B}","j":"${D}${D}"}]`, `unset: [D C B]`},
	} {
		got, unset := expand(json.RawMessage(test.value), env)
		if len(unset) > 0 {
			got = fmt.Appendf(nil, "unset: %v", unset)
		}
		if diff := cmp.Diff(test.want, string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.value, diff)
		}
	}
}

func TestConfigurationSchema(t *testing.T) {
	for _, test := range []struct{ schema, good, bad string }{
		{`true`, `1`, ``},
		{`false`, ``, `1`},
		{`{}`, `null`, ``},
		{`{"type":["string","null"]}`, `null`, `1`},
		{`{"type":"integer","minimum":0.0,"format":"uint16"}`, `5`, `-1`},
		{`{"required":["a"],"properties":{"a":{"enum":[1,"x"]},"type":{"type":"string"}}}`, `{"a":"x"}`, `{"a":2}`},
		{`{"$schema":"http://json-schema.org/draft-07/schema#","definitions":{"a":{"type":"string"}},"items":{"$ref":"#/definitions/a"}}`, `["x"]`, `[1]`},
		{`{"$schema":"http://json-schema.org/draft-04/schema","type":"string"}`, `"x"`, `1`},
		{`{"$schema":"https://json-schema.org/draft/2019-09/schema","type":"string"}`, `"x"`, `1`},
		{`{"$id":"https://example.invalid/tree","properties":{"child":{"$ref":"#"},"n":{"type":"integer"}}}`, `{"child":{"child":{"n":1}}}`, `{"child":{"child":{"n":"1"}}}`},
		{`{"allOf":[{"properties":{"next":{"$ref":"#"}}}],"type":"object"}`, `{"next":{"next":{}}}`, `{"next":{"next":1}}`},
		{`{"$defs":{"a/b~c":{"type":"integer"}},"$ref":"#/$defs/a~1b~0c"}`, `1`, `"x"`},
		{`{"$defs":{"a b":{"type":"integer"}},"$ref":"#/$defs/a%20b"}`, `1`, `"x"`},
		{`{"enum":[{"type":"dog"}],"default":{"type":"cat"}}`, `{"type":"dog"}`, `{"type":"cat"}`},
	} {
		s, err := parseConfigurationSchema(json.RawMessage(test.schema))
		if err != nil {
			t.Errorf("%s: %v", test.schema, err)
			continue
		}
		if test.good != "" {
			if err := s.validate(json.RawMessage(test.good)); err != nil {
				t.Errorf("%s: %s refused: %v", test.schema, test.good, err)
			}
		}
		if test.bad != "" {
			if err := s.validate(json.RawMessage(test.bad)); err == nil {
				t.Errorf("%s: %s accepted", test.schema, test.bad)
			}
		}
	}
}

// schemaTests lists invalid schemas, and invalid values for valid schemas, with the expected
// error.
var schemaTests = []struct{ schema, value, want string }{
	// The error of each keyword.
	{`{"type":"integer"}`, `1.5`, `1.5 is not of type "integer"`},
	{`{"type":"integer"}`, `1.0`, ``},
	{`{"$schema":"http://json-schema.org/draft-04/schema#","type":"integer"}`, `1.0`, `1.0 is not of type "integer"`},
	{`{"type":["string","null","array"]}`, `{}`, `{} is not of types "array", "null", "string"`},
	{`{"type":["integer"]}`, `1.0`, ``},
	{`{"type":["integer","null"]}`, `1.0`, `1.0 is not of types "integer", "null"`},
	{`{"enum":[1]}`, `2`, `2 is not one of 1`},
	{`{"enum":[1,"a",null]}`, `2`, `2 is not one of 1, "a" or null`},
	{`{"enum":[1,2,3,4,5]}`, `6`, `6 is not one of 1, 2 or 3 other candidates`},
	{`{"enum":[1.0]}`, `1`, ``},
	{`{"const":{"b":1,"a":[]}}`, `{}`, `{"a":[],"b":1} was expected`},
	{`{"maximum":3}`, `3.5`, `3.5 is greater than the maximum of 3`},
	{`{"minimum":-1}`, `-2`, `-2 is less than the minimum of -1`},
	{`{"exclusiveMaximum":3}`, `3`, `3 is greater than or equal to the maximum of 3`},
	{`{"exclusiveMinimum":3}`, `3`, `3 is less than or equal to the minimum of 3`},
	{`{"$schema":"http://json-schema.org/draft-04/schema#","maximum":3,"exclusiveMaximum":true}`, `3`, `3 is greater than or equal to the maximum of 3`},
	{`{"multipleOf":2}`, `3`, `3 is not a multiple of 2`},
	{`{"multipleOf":0.1}`, `0.3`, ``},
	{`{"multipleOf":0.1}`, `0.35`, `0.35 is not a multiple of 0.1`},
	{`{"minLength":2}`, `"é"`, `"é" is shorter than 2 characters`},
	{`{"maxLength":1}`, `"éé"`, `"éé" is longer than 1 character`},
	{`{"pattern":"^\\d[\\w-]$"}`, `"x"`, `"x" does not match "^[0-9][[A-Za-z0-9_]-]$"`},
	{`{"pattern":"^\\d[\\w-]$"}`, `"1-"`, ``},
	{`{"minItems":1}`, `[]`, `[] has less than 1 item`},
	{`{"maxItems":0}`, `[1,2]`, `[1,2] has more than 0 items`},
	{`{"uniqueItems":true}`, `[{"a":1,"b":2},{"b":2.0,"a":1}]`, `[{"a":1,"b":2},{"a":1,"b":2.0}] has non-unique elements`},
	{`{"contains":{"minimum":5}}`, `[2,3]`, `None of [2,3] are valid under the given schema`},
	{`{"contains":true,"minContains":0}`, `[]`, ``},
	{`{"contains":true,"maxContains":1}`, `[1,2]`, `None of [1,2] are valid under the given schema`},
	{`{"items":{"type":"string"}}`, `[1,"a",2]`, `1 is not of type "string"; 2 is not of type "string"`},
	{`{"prefixItems":[true,{"type":"string"}],"items":false}`, `[1,2,3,4]`, `False schema does not allow 3; False schema does not allow 4; 2 is not of type "string"`},
	{`{"$schema":"http://json-schema.org/draft-07/schema#","items":[true],"additionalItems":false}`, `[1,2,"x"]`, `Additional items are not allowed (2, "x" were unexpected)`},
	{`{"minProperties":2}`, `{"a":1}`, `{"a":1} has less than 2 properties`},
	{`{"maxProperties":1}`, `{"a":1,"b":2}`, `{"a":1,"b":2} has more than 1 property`},
	{`{"required":["b","a"]}`, `{}`, `"b" is a required property; "a" is a required property`},
	{`{"properties":{"b":{"type":"string"},"a":{"type":"null"}},"required":["c"]}`, `{"a":1,"b":2}`, `1 is not of type "null"; 2 is not of type "string"; "c" is a required property`},
	{`{"additionalProperties":false}`, `{"a":1,"b":2}`, `False schema does not allow 1`},
	{`{"properties":{"b":false},"additionalProperties":false}`, `{"a":1,"b":2,"c":3}`, `False schema does not allow 2; Additional properties are not allowed ('a', 'c' were unexpected)`},
	{`{"patternProperties":{"^x":{"type":"string"}},"additionalProperties":{"type":"null"}}`, `{"a":1,"x":2}`, `1 is not of type "null"; 2 is not of type "string"`},
	{`{"propertyNames":{"maxLength":1}}`, `{"ab":1,"cd":2}`, `"ab" is longer than 1 character; "cd" is longer than 1 character`},
	{`{"dependentRequired":{"a":["b"]}}`, `{"a":1}`, `"b" is a required property`},
	{`{"dependentSchemas":{"a":{"maxProperties":1}}}`, `{"a":1,"b":2}`, `{"a":1,"b":2} has more than 1 property`},
	{`{"allOf":[{"minimum":2},{"type":"string"}]}`, `1`, `1 is less than the minimum of 2; 1 is not of type "string"`},
	{`{"anyOf":[{"minimum":2},{"type":"string"}]}`, `1`, `1 is not valid under any of the schemas listed in the 'anyOf' keyword`},
	{`{"oneOf":[{"minimum":2},{"type":"string"}]}`, `1`, `1 is not valid under any of the schemas listed in the 'oneOf' keyword`},
	{`{"oneOf":[true,{"type":"number"}]}`, `1`, `1 is valid under more than one of the schemas listed in the 'oneOf' keyword`},
	{`{"not":{"type":"number","minimum":0}}`, `1`, `{"minimum":0,"type":"number"} is not allowed for 1`},
	{`{"if":{"minimum":0},"then":{"maximum":5},"else":{"type":"string"}}`, `-1`, `-1 is not of type "string"`},
	{`{"if":{"minimum":0},"then":{"maximum":5},"else":{"type":"string"}}`, `6`, `6 is greater than the maximum of 5`},
	{`{"allOf":[{"properties":{"a":true}}],"unevaluatedProperties":false}`, `{"a":1,"b":2}`, `Unevaluated properties are not allowed ('b' was unexpected)`},
	{`{"prefixItems":[true],"unevaluatedItems":{"type":"null"}}`, `[1,null,"x"]`, `Unevaluated items are not allowed ('"x"' was unexpected)`},
	{`{"format":"ipv4"}`, `"x"`, ``}, // only an annotation in this draft
	{`{"$schema":"http://json-schema.org/draft-07/schema#","format":"ipv4"}`, `"x"`, `"x" is not a "ipv4"`},
	{`{"$schema":"http://json-schema.org/draft-07/schema#","$ref":"#/definitions/a","type":"null","definitions":{"a":{"minimum":5}}}`, `1`, `1 is less than the minimum of 5`},
	{`{"$ref":"#name","$defs":{"a":{"$anchor":"name","type":"null"}},"type":"string"}`, `1`, `1 is not of type "null"; 1 is not of type "string"`},
	{`{"$ref":"a","$defs":{"x":{"$id":"a","type":"null"}}}`, `1`, `1 is not of type "null"`},
	{`{"$id":"https://example.invalid/tree","$dynamicAnchor":"node","properties":{"child":{"$dynamicRef":"#node"},"n":{"type":"null"}}}`, `{"child":{"n":1}}`, `1 is not of type "null"`},
	{`{"$ref":"#"}`, `1`, ``},

	// Invalid schemas.
	{`null`, ``, `invalid JSON Schema: null is not of types "boolean", "object"`},
	{`[]`, ``, `invalid JSON Schema: [] is not of types "boolean", "object"`},
	{`{"type":1}`, ``, `invalid JSON Schema: 1 is not valid under any of the schemas listed in the 'anyOf' keyword`},
	{`{"properties":{"a":{"items":{"type":"dog"}}}}`, ``, `invalid JSON Schema: "dog" is not valid under any of the schemas listed in the 'anyOf' keyword`},
	{`{"properties":{"a":null}}`, ``, `invalid JSON Schema: null is not of types "boolean", "object"`},
	{`{"maxLength":-1}`, ``, `invalid JSON Schema: -1 is less than the minimum of 0`},
	{`{"maxLength":1.5}`, ``, `invalid JSON Schema: 1.5 is not of type "integer"`},
	{`{"required":["a","a"]}`, ``, `invalid JSON Schema: ["a","a"] has non-unique elements`},
	{`{"multipleOf":0}`, ``, `invalid JSON Schema: 0 is less than or equal to the minimum of 0`},
	{`{"anyOf":[]}`, ``, `invalid JSON Schema: [] has less than 1 item`},
	{`{"items":[{}]}`, ``, `invalid JSON Schema: [{}] is not of types "boolean", "object"`},
	{`{"$schema":"http://json-schema.org/draft-04/schema#","minimum":0,"exclusiveMinimum":1}`, ``, `invalid JSON Schema: 1 is not of type "boolean"`},
	{`{"pattern":"["}`, ``, `invalid JSON Schema: "[" is not a "regex"`},
	{`{"patternProperties":{"(":true}}`, ``, `invalid JSON Schema: {"(":true} is not a "regex"`},
	{`{"$schema":"nope#"}`, ``, `invalid JSON Schema: Unknown specification: nope`},
	{`{"$ref":"#/x"}`, ``, `invalid JSON Schema: Pointer '/x' does not exist`},
	{`{"$ref":"#/allOf/x","allOf":[true]}`, ``, `invalid JSON Schema: Failed to parse array index 'x' in pointer '/allOf/x'`},
	{`{"$ref":"#x"}`, ``, `invalid JSON Schema: Anchor 'x' does not exist`},
	{`{"properties":{"a":{"$ref":"other.json"}}}`, ``, `invalid JSON Schema: Resource 'other.json' is not present in a registry and retrieving it failed: No base URI is available`},
	{`{"$ref":"https://example.invalid/x#/y"}`, ``, "invalid JSON Schema: Resource 'https://example.invalid/x' is not present in a registry and retrieving it failed: `resolve-http` feature or a custom resolver is required to resolve external schemas via HTTP"},
	{`{"$ref":"file:///etc/passwd"}`, ``, "invalid JSON Schema: Resource 'file:///etc/passwd' is not present in a registry and retrieving it failed: `resolve-file` feature or a custom resolver is required to resolve external schemas via files"},
	{`{"$ref":"urn:x:y"}`, ``, "invalid JSON Schema: Resource 'urn:x:y' is not present in a registry and retrieving it failed: Unknown scheme urn"},
}

func TestConfigurationSchemaWords(t *testing.T) {
	for _, test := range schemaTests {
		got := ""
		s, err := parseConfigurationSchema(json.RawMessage(test.schema))
		if err == nil {
			err = s.validate(json.RawMessage(test.value))
		}
		if err != nil {
			got = err.Error()
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", test.schema, test.value, diff)
		}
	}
}

// Validation time must not grow exponentially with the schema's depth.
func TestConfigurationSchemaRepeatedAtEachLevel(t *testing.T) {
	schema := `{"properties":{"a":true}}`
	for range 50 {
		schema = `{"allOf":[` + schema + `],"unevaluatedProperties":false}`
	}
	s, err := parseConfigurationSchema(json.RawMessage(schema))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.validate(json.RawMessage(`{"a":1}`)); err != nil {
		t.Error(err)
	}
	if err := s.validate(json.RawMessage(`{"b":1}`)); err == nil {
		t.Error("b accepted")
	}
}

// All engines in a process share the meta-schemas, so validation must be safe for concurrent
// use.
func TestConfigurationSchemaConcurrently(t *testing.T) {
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for _, test := range schemaTests {
				if s, err := parseConfigurationSchema(json.RawMessage(test.schema)); err == nil {
					_ = s.validate(json.RawMessage(test.value))
				}
			}
		})
	}
	all.Wait()
}

// These schemas crash a real engine.
func TestConfigurationSchemaLoops(t *testing.T) {
	for _, schema := range []string{
		`{"allOf":[{"$ref":"#"}]}`, `{"not":{"$ref":"#"}}`, `{"then":{"$ref":"#"},"if":true}`, `{"anyOf":[{"type":"string"},{"$ref":"#"}]}`,
		`{"oneOf":[true,{"anyOf":[{"$ref":"#/oneOf/1"}]}]}`, `{"dependentSchemas":{"a":{"$ref":"#"}}}`, `{"dependencies":{"a":{"$ref":"#"}}}`,
		`{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}`, `{"properties":{"x":{"allOf":[{"$ref":"#/properties/x"}]}}}`,
	} {
		_, err := parseConfigurationSchema(json.RawMessage(schema))
		if err == nil || !strings.Contains(err.Error(), "leads back to itself") {
			t.Errorf("%s: %v", schema, err)
		}
	}
	for _, schema := range []string{
		`{"if":{"$ref":"#"}}`, `{"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}`, `{"items":{"$ref":"#"},"additionalProperties":{"$ref":"#"}}`,
	} {
		if _, err := parseConfigurationSchema(json.RawMessage(schema)); err != nil {
			t.Errorf("%s: %v", schema, err)
		}
	}
}

// FuzzConfigurationSchema checks that no schema or value crashes the process, and that
// expanded values are JSON.
func FuzzConfigurationSchema(f *testing.F) {
	f.Add([]byte(`{"properties":{"a":{"$ref":"#/$defs/x"}},"$defs":{"x":{"type":"integer"}}}`), []byte(`{"a":1}`))
	f.Add([]byte(`{"$REF":"#"}`), []byte(`1`))
	f.Add([]byte(`{"allOf":[{"$ref":"#"}]}`), []byte(`["${A:b}","${B}"]`))
	f.Add([]byte(`{"patternProperties":{"^a":{"dependencies":{"b":["c"]}}},"unevaluatedProperties":false}`), []byte(`{"a":{"b":1}}`))
	f.Fuzz(func(t *testing.T, schema, value []byte) {
		if checkJSON(schema) != nil || checkJSON(value) != nil {
			return
		}
		expanded, _ := expand(canonicalValid(value), func(name string) (string, bool) { return name, name < "N" })
		if checkJSON(expanded) != nil {
			t.Errorf("%s expanded to %s", value, expanded)
		}
		if s, err := parseConfigurationSchema(schema); err == nil {
			_ = s.validate(value)
		}
	})
}
