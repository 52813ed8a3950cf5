package iiitest

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// registerConfig registers an entry; more is more of the input, with a comma.
func registerConfig(id, schema, more string) string {
	return `{"id":"` + id + `","name":"N","description":"D","schema":` + schema + more + `}`
}

func TestConfiguration(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		const schema = `{"properties":{"port":{"maximum":65535,"type":"integer"},"url":{"type":"string"}},"type":"object"}`
		p.want(`{"configurations":[]}`, "configuration::list", `{}`)
		p.want(`{"description":"D","id":"web","metadata":{"m":1},"name":"N","schema":`+schema+`,"value":null}`,
			"configuration::register", registerConfig("web", schema, `,"metadata":{"m":1},"initial_value":null`))
		p.want(`{"id":"web","value":null}`, "configuration::get", `{"id":"web"}`)
		p.want(`{"description":"D","id":"app_2-x","name":"N","schema":true,"value":[1,2.0,18446744073709551615]}`,
			"configuration::register", registerConfig("app_2-x", `true`, `,"initial_value":[1,2.0,18446744073709551615]`))
		p.want(`{"new_value":{"port":80},"old_value":null}`, "configuration::set", `{"id":"web","value":{"port":80}}`)
		p.want(`{"new_value":{"url":"${SCHEME:http}://${HOST}"},"old_value":{"port":80}}`,
			"configuration::set", `{"id":"web","value":{"url":"${SCHEME:http}://${HOST}"}}`)
		p.want(`{"id":"web","value":{"url":"http://example.org"}}`, "configuration::get", `{"id":"web"}`)
		p.want(`{"id":"web","value":{"url":"${SCHEME:http}://${HOST}"}}`, "configuration::get", `{"id":"web","raw":true}`)

		// Registering again describes anew and keeps the value.
		p.want(`{"description":"D","id":"web","name":"N","schema":{"type":"object"},"value":{"url":"${SCHEME:http}://${HOST}"}}`,
			"configuration::register", registerConfig("web", `{"type":"object"}`, `,"initial_value":{}`))
		const app = `{"description":"D","id":"app_2-x","name":"N","schema":true}`
		p.want(`{"configurations":[`+app+`,{"description":"D","id":"web","name":"N","schema":{"type":"object"}}]}`, "configuration::list", `{}`)
		p.want(app, "configuration::schema", `{"id":"app_2-x"}`)
	}, WithEnv(map[string]string{"HOST": "example.org"}))
}

func TestConfigurationRefuses(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		p.call("configuration::register", registerConfig("str", `{"type":"string","minLength":3}`, ""))
		p.call("configuration::set", `{"id":"str","value":"${NOTSET}"}`)
		p.call("configuration::register", registerConfig("kept", `true`, `,"initial_value":5`))
		p.call("configuration::register", registerConfig("kept", `{"type":"string"}`, ""))
		for _, test := range []struct{ id, data, want string }{
			{"configuration::register", registerConfig("", `{}`, ""), "INVALID_ID: "},
			{"configuration::register", registerConfig("Big", `{}`, ""), "INVALID_ID: "},
			{"configuration::register", registerConfig("a.b", `{}`, ""), "INVALID_ID: "},
			{"configuration::register", registerConfig(strings.Repeat("x", 65), `{}`, ""), "INVALID_ID: "},
			{"configuration::register", registerConfig("x", `null`, ""), "SCHEMA_INVALID: "},
			{"configuration::register", registerConfig("x", `{"type":"sting"}`, ""), "SCHEMA_INVALID: "},
			{"configuration::register", registerConfig("x", `{"type":"string"}`, `,"initial_value":1`), "SCHEMA_INVALID: "},
			{"configuration::register", `{"id":"x","name":"N","description":"D"}`, "deserialization_error: Failed to deserialize input for configuration::register: missing field `schema`"},
			{"configuration::set", `{"id":"x","value":1}`, "NOT_REGISTERED: "},
			{"configuration::set", `{"id":"str","value":1}`, "SCHEMA_INVALID: "},
			{"configuration::set", `{"id":"str","value":null}`, "SCHEMA_INVALID: "},
			{"configuration::set", `{"id":"str","value":"ab"}`, "SCHEMA_INVALID: "},
			{"configuration::set", `{"id":"str","value":"${SHORT}"}`, "SCHEMA_INVALID: "}, // what it stands for counts
			{"configuration::set", `{"id":"str"}`, "deserialization_error: Failed to deserialize input for configuration::set: missing field `value`"},
			{"configuration::get", `{"id":"x"}`, "NOT_FOUND: "},
			{"configuration::get", `{"id":"str"}`, "EXPAND_FAILED: Value of configuration 'str' cannot be expanded: environment variable 'NOTSET' is not set"},
			{"configuration::get", `{"id":"kept"}`, "SCHEMA_INVALID: "},
			{"configuration::get", `{}`, "deserialization_error: Failed to deserialize input for configuration::get: missing field `id`"},
			{"configuration::schema", `{"id":"x"}`, "NOT_FOUND: "},
			{"configuration::schema", `{}`, "deserialization_error: Failed to deserialize input for configuration::schema: missing field `id`"},
			{"configuration::list", `1`, "deserialization_error: Failed to deserialize input for configuration::list: invalid type: integer `1`, expected struct ConfigurationListInput"},
		} {
			if got := p.call(test.id, test.data); !strings.HasPrefix(got, "!"+test.want) {
				t.Errorf("%s %s: got %s, want %s", test.id, test.data, got, test.want)
			}
		}
		p.want(`{"id":"str","value":"${NOTSET}"}`, "configuration::get", `{"id":"str","raw":true}`)
		p.want(`{"id":"kept","value":5}`, "configuration::get", `{"id":"kept","raw":true}`)
	}, WithEnv(map[string]string{"SHORT": "ab"}))
}

func TestConfigurationTrigger(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		p.handle("all", "!FAILS") // which does not stop the others
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

		p.call("configuration::set", `{"id":"none","value":1}`) // refused: nothing changes
		p.send(`{"type":"unregistertrigger","id":"t1"}`)
		p.trigger("t3", "configuration", "set", `{"event_types":["configuration:registered"]}`, "") // the same id again replaces
		p.fence()
		p.call("configuration::set", `{"id":"other","value":2}`)
		p.wantCalls()

		for _, test := range []struct{ config, want string }{
			{`"x"`, "invalid type: string \"x\", expected struct ConfigurationTriggerConfig"},
			{`{"configuration_id":1}`, "invalid type: integer `1`, expected a string"},
			{`{"event_types":["configuration:moved"]}`, "unknown variant `configuration:moved`, expected one of `configuration:registered`, `configuration:updated`, `configuration:deleted`"},
		} {
			p.trigger("bad", "configuration", "all", test.config, "")
			p.wantCalls("bad refused: trigger_registration_failed: Failed to parse trigger config: " + test.want)
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
		{`"${A}"`, `"1"`}, // it stays a string
		{`"a${A}b${A}c"`, `"a1b1c"`},
		{`"${EMPTY:default}"`, `""`}, // it is set
		{`"${B:}"`, `""`},
		{`"${B:http://x:1}"`, `"http://x:1"`},
		{`"${REF} ${Q}"`, `"${A} \"<\n"`}, // what comes in is not looked at again
		{`"$A ${} ${1} ${A-B} $${A} ${A"`, `"$A ${} ${1} ${A-B} $1 ${A"`},
		{`{"${A}":["${A}",{"k":"${A:2}"}],"n":1.50,"t":true,"z":null}`, `{"${A}":["1",{"k":"1"}],"n":1.50,"t":true,"z":null}`},
		{`[]`, `[]`},
		{`"${B}"`, `environment variable 'B' is not set`},
		{`["${A}",{"k":"${B:} ${B}"}]`, `environment variable 'B' is not set`},
	} {
		got, err := expand(json.RawMessage(test.value), env)
		if err != nil {
			got = json.RawMessage(err.Error())
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

func TestConfigurationSchemaRefused(t *testing.T) {
	for _, schema := range []string{
		`null`, `1`, `"x"`, `[]`, `{"type":1}`, `{"minimum":"x"}`, `{"properties":{"a":null}}`, `{"pattern":"("}`,
		`{"type":"sting"}`, `{"type":["string","dog"]}`, `{"properties":{"a":{"items":{"type":"dog"}}}}`,
		`{"$ref":"#/$defs/none"}`, `{"$ref":"https://example.invalid/x"}`, `{"$ref":"#name","$defs":{"a":{"$anchor":"name"}}}`,
		`{"$dynamicRef":"#"}`, `{"$defs":{"a":{"$id":"https://example.invalid/a"}}}`,
		// They lead back to themselves.
		`{"$ref":"#"}`, `{"allOf":[{"$ref":"#"}]}`, `{"not":{"$ref":"#"}}`, `{"if":{"$ref":"#"}}`, `{"then":{"$ref":"#"},"if":true}`,
		`{"oneOf":[true,{"anyOf":[{"$ref":"#/oneOf/1"}]}]}`, `{"dependentSchemas":{"a":{"$ref":"#"}}}`, `{"dependencies":{"a":{"$ref":"#"}}}`,
		`{"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}`, `{"properties":{"x":{"allOf":[{"$ref":"#/properties/x"}]}}}`,
	} {
		if s, err := parseConfigurationSchema(json.RawMessage(schema)); err == nil {
			t.Errorf("%s accepted: %v", schema, s.validate(json.RawMessage(`{}`)))
		}
	}
}

// FuzzConfigurationSchema wants no schema and no value to end the process, and
// every value that is expanded to be JSON.
func FuzzConfigurationSchema(f *testing.F) {
	f.Add([]byte(`{"properties":{"a":{"$ref":"#/$defs/x"}},"$defs":{"x":{"type":"integer"}}}`), []byte(`{"a":1}`))
	f.Add([]byte(`{"$REF":"#"}`), []byte(`1`))
	f.Add([]byte(`{"allOf":[{"$ref":"#"}]}`), []byte(`["${A:b}","${B}"]`))
	f.Add([]byte(`{"patternProperties":{"^a":{"dependencies":{"b":["c"]}}},"unevaluatedProperties":false}`), []byte(`{"a":{"b":1}}`))
	f.Fuzz(func(t *testing.T, schema, value []byte) {
		if checkJSON(schema) != nil || checkJSON(value) != nil {
			return
		}
		expanded, err := expand(canonicalValid(value), func(name string) (string, bool) { return name, name < "N" })
		if err == nil && checkJSON(expanded) != nil {
			t.Errorf("%s expanded to %s", value, expanded)
		}
		if s, err := parseConfigurationSchema(schema); err == nil {
			_ = s.validate(value)
		}
	})
}
