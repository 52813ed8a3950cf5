package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

type (
	validLine struct {
		Item  string  `json:"item"`
		Price float64 `json:"price"`
	}
	validNode struct {
		Name     string       `json:"name"`
		Children []*validNode `json:"children,omitempty"`
	}
	validOrder struct {
		Lines    []validLine       `json:"lines"`
		Quantity int8              `json:"quantity"`
		Tags     map[string]string `json:"tags,omitempty"`
		Gift     *validLine        `json:"gift,omitempty"`
		Tree     *validNode        `json:"tree,omitempty"`
	}
)

// What the advertised schema forbids does not reach the handler, and its path is told.
func TestInputIsValidatedByTheInferredSchema(t *testing.T) {
	const line = `{"item":"tea","price":1.5}`
	for _, test := range []struct{ name, payload, want string }{
		{"valid", `{"lines":[` + line + `],"quantity":1}`, ""},
		{"with what is optional", `{"lines":null,"quantity":1,"tags":{"a":"b"},"gift":null,"tree":{"name":"x","children":[{"name":"y"}]}}`, ""},
		{"further members", `{"lines":[],"quantity":1,"more":true}`, ""},
		{"empty", `{}`, "payload at lines: it is missing"},
		{"null", `null`, "payload: got null, want object"},
		{"list", `[1]`, "payload: got array, want object"},
		{"missing within", `{"lines":[` + line + `,{"item":"x"}],"quantity":1}`, "payload at lines[1].price: it is missing"},
		{"type", `{"lines":[],"quantity":"s3cret"}`, "payload at quantity: got string, want integer"},
		{"fraction", `{"lines":[],"quantity":1.5}`, "payload at quantity: got number, want integer"},
		{"range", `{"lines":[],"quantity":200}`, "payload at quantity: it violates maximum 127"},
		{"far out of range", `{"lines":[],"quantity":18446744073709551615}`, "payload at quantity: it violates maximum 127"},
		{"value of a map", `{"lines":[],"quantity":1,"tags":{"a b":1}}`, `payload at tags["a b"]: got integer, want string`},
		{"behind a pointer", `{"lines":[],"quantity":1,"gift":{"item":7,"price":1}}`, "payload at gift.item: got integer, want string"},
		{"within itself", `{"lines":[],"quantity":1,"tree":{"name":"x","children":[{"name":"y","children":[{"nam":"z"}]}]}}`, "payload at tree.children[0].children[0].name: it is missing"},
		{"the engine's member alone", `{"_caller_worker_id":"w"}`, "payload at lines: it is missing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			workerBubble(t, func(t *testing.T, c *iii.Client) {
				ran := false
				handle(t, c, "f", func(context.Context, validOrder) (any, error) { ran = true; return nil, nil }, iii.WithInputValidation())
				err := c.Call(t.Context(), "f", json.RawMessage(test.payload), nil)
				checkInvalid(t, err, test.want)
				if ran != (test.want == "") {
					t.Errorf("the handler ran: %t", ran)
				}
			})
		})
	}
}

func checkInvalid(t *testing.T, err error, want string) {
	t.Helper()
	var failure *iii.Error
	switch {
	case want == "":
		if err != nil {
			t.Error(err)
		}
	case !errors.As(err, &failure) || failure.Code != iii.CodeInvalidRequest || failure.Message != want:
		t.Errorf("%v, want %q", err, want)
	}
}

// Schemas that the program gives are enforced for untyped functions, too.
func TestInputIsValidatedByAGivenSchema(t *testing.T) {
	for _, test := range []struct{ name, schema, payload, want string }{
		{"enum", `{"properties":{"suit":{"enum":["hearts","spades"]}}}`, `{"suit":"clubs"}`, `payload at suit: it violates enum ["hearts","spades"]`},
		{"const", `{"properties":{"v":{"const":1}}}`, `{"v":2}`, `payload at v: it violates const 1`},
		{"pattern", `{"properties":{"id":{"pattern":"^[a-z]+$"}}}`, `{"id":"A"}`, `payload at id: it violates pattern "^[a-z]+$"`},
		{"pattern of a number", `{"properties":{"id":{"pattern":"^[a-z]+$"}}}`, `{"id":7}`, ``},
		{"closed", `{"additionalProperties":false,"properties":{"a":true}}`, `{"a":1,"b":2}`, `payload at b: it is not allowed`},
		{"closed, with the engine's member", `{"additionalProperties":false,"properties":{"a":true}}`, `{"a":1,"_caller_worker_id":"w"}`, ``},
		{"the member is asked for", `{"required":["_caller_worker_id"],"properties":{"_caller_worker_id":{"type":"string"}}}`, `{"a":1}`, ``},
		{"a false member", `{"properties":{"old":false}}`, `{"old":1}`, `payload at old: it is not allowed`},
		{"false", `false`, `1`, `payload: it is not allowed`},
		{"true", `true`, `1`, ``},
		{"reference", `{"$defs":{"p/q~ é":{"type":"string"}},"properties":{"a":{"$ref":"#/$defs/p~1q~0%20%C3%A9"}}}`, `{"a":1}`, `payload at a: got integer, want string`},
		{"reference by anchor", `{"$defs":{"n":{"$anchor":"n","minimum":3}},"properties":{"a":{"$ref":"#n"}}}`, `{"a":1}`, `payload at a: it does not match the schema of the function`},
		{"all of", `{"allOf":[{"required":["a"]},{"properties":{"b":{"minLength":2}}}]}`, `{"a":1,"b":"x"}`, `payload at b: it violates minLength 2`},
		{"any of", `{"properties":{"a":{"anyOf":[{"type":"string","maxLength":1},{"type":"integer"}]}}}`, `{"a":"xy"}`, `payload at a: it violates maxLength 1`},
		{"none of several", `{"properties":{"a":{"anyOf":[{"required":["x"]},{"required":["y"]}]}}}`, `{"a":{}}`, `payload at a: it violates anyOf`},
		{"two of one", `{"properties":{"a":{"oneOf":[{"type":"integer"},{"minimum":1}]}}}`, `{"a":2}`, `payload at a: it violates oneOf`},
		{"not", `{"properties":{"a":{"not":{"type":"string"}}}}`, `{"a":""}`, `payload at a: it violates not`},
		{"tuple", `{"prefixItems":[{"type":"string"}],"items":{"type":"integer"}}`, `["a",1,"b"]`, `payload at [2]: got string, want integer`},
		{"draft-07", `{"$schema":"http://json-schema.org/draft-07/schema#","definitions":{"n":{"type":"integer"}},"properties":{"a":{"items":[{"$ref":"#/definitions/n"}],"additionalItems":false}}}`, `{"a":[1,2]}`, `payload at a[1]: it is not allowed`},
		{"draft-07, reference", `{"$schema":"http://json-schema.org/draft-07/schema#","definitions":{"n":{"type":"integer"}},"properties":{"a":{"items":[{"$ref":"#/definitions/n"}]}}}`, `{"a":["x"]}`, `payload at a[0]: got string, want integer`},
		{"an id of its own", `{"$id":"https://example.com/order","$defs":{"n":{"type":"integer"}},"properties":{"a":{"$ref":"#/$defs/n"}}}`, `{"a":"x"}`, `payload at a: got string, want integer`},
		{"unique", `{"uniqueItems":true}`, `[1,1]`, `payload: it violates uniqueItems true`},
		{"pattern of members", `{"patternProperties":{"^x-":{"type":"string"}}}`, `{"x-a":1}`, `payload at x-a: got integer, want string`},
		{"names of members", `{"propertyNames":{"maxLength":1}}`, `{"ab":1}`, `payload: it violates propertyNames`},
		{"whole numbers", `{"type":"integer"}`, `1.0`, ``},
		{"64 bits", `{"type":"integer","maximum":9007199254740992}`, `9007199254740993`, `payload: it violates maximum 9007199254740992`},
		{"case of letters", `{"properties":{"price":{"minimum":0}}}`, `{"PRICE":-5}`, `payload at PRICE: it is spelled price`},
		{"case of letters beside the member", `{"properties":{"price":{"minimum":0}}}`, `{"price":1,"Price":-5}`, `payload at Price: it is spelled price`},
		{"case of letters by folding", `{"properties":{"kind":{"enum":["a"]}}}`, "{\"\u212aind\":\"b\"}", "payload at \u212aind: it is spelled kind"},
		{"case of letters below", `{"$defs":{"line":{"properties":{"sku":{"type":"string"}}}},"properties":{"lines":{"items":{"allOf":[{"$ref":"#/$defs/line"}]}}}}`, `{"lines":[{"sku":"a"},{"SKU":7}]}`, `payload at lines[1].SKU: it is spelled sku`},
		{"both are named", `{"properties":{"a":true,"A":true}}`, `{"a":1,"A":2}`, ``},
		{"both are named, in alternatives", `{"anyOf":[{"properties":{"a":true}},{"properties":{"A":true}}]}`, `{"A":2}`, ``},
		{"members of a map", `{"additionalProperties":{"type":"integer"}}`, `{"a":1,"A":2}`, ``},
		{"condition", `{"if":{"required":["a"]},"then":{"required":["b"]}}`, `{"a":1}`, `payload: it violates if`},
	} {
		t.Run(test.name, func(t *testing.T) {
			workerBubble(t, func(t *testing.T, c *iii.Client) {
				var got json.RawMessage
				if _, err := c.HandleFunc("f", func(_ context.Context, payload json.RawMessage) (any, error) { got = payload; return nil, nil },
					iii.WithInputValidation(), iii.WithSchemas(json.RawMessage(test.schema), nil)); err != nil {
					t.Fatal(err)
				}
				checkInvalid(t, c.Call(t.Context(), "f", json.RawMessage(test.payload), nil), test.want)
				if test.want == "" && test.payload[0] == '{' && !strings.Contains(string(got), "_caller_worker_id") {
					t.Errorf("the handler lacks the member of the engine: %s", got)
				}
			})
		})
	}
}

// A schema that cannot be enforced is an error of the registration.
func TestSchemasThatCannotBeEnforced(t *testing.T) {
	for name, test := range map[string]struct {
		schema any
		want   string
	}{
		"none":                      {nil, "the function has no request schema"},
		"pattern":                   {json.RawMessage(`{"pattern":"("}`), "does not compile"},
		"look-around":               {json.RawMessage(`{"properties":{"a":{"pattern":"(?=x)"}}}`), "does not compile"},
		"type":                      {json.RawMessage(`{"type":7}`), "does not compile"},
		"reference to nothing":      {json.RawMessage(`{"$ref":"#/$defs/none"}`), "does not compile"},
		"reference to elsewhere":    {json.RawMessage(`{"$ref":"https://example.com/schema"}`), "does not compile"},
		"another draft":             {json.RawMessage(`{"$schema":"http://json-schema.org/draft-04/schema#"}`), "only draft 2020-12 and draft-07"},
		"circle":                    {json.RawMessage(`{"$ref":"#"}`), "refers to itself in a cycle"},
		"circle of two":             {json.RawMessage(`{"$defs":{"a":{"allOf":[{"$ref":"#/$defs/b"}]},"b":{"anyOf":[{"$ref":"#/$defs/a"}]}},"properties":{"x":{"$ref":"#/$defs/a"}}}`), "refers to itself in a cycle"},
		"circle through the value":  {json.RawMessage(`{"properties":{"next":{"$ref":"#"}}}`), ""},
		"circle that is only named": {json.RawMessage(`{"const":{"$ref":"#"}}`), ""},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := iii.New("ws://127.0.0.1:1")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, err = c.HandleFunc("f", func(context.Context, json.RawMessage) (any, error) { return nil, nil }, iii.WithInputValidation(), iii.WithSchemas(test.schema, nil))
			if (err == nil) != (test.want == "") || err != nil && (!strings.HasPrefix(err.Error(), `iii: function "f": WithInputValidation: `) || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

// Of a route the body alone is validated, and a request without one is not.
func TestBodiesAreValidated(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		c := newWorker(t, e)
		ran := 0
		var middle []string
		route := func(path string, opts ...iii.FunctionOption) {
			if _, err := iii.HandleHTTP(c, "POST", path, func(_ context.Context, r *iii.HTTPRequest[validLine]) (*iii.HTTPResponse[string], error) {
				ran++
				return &iii.HTTPResponse[string]{StatusCode: 200, Body: r.Body.Item}, nil
			}, append(opts, iii.WithInputValidation(), iii.WithFunctionMiddleware(func(next iii.HandlerFunc) iii.HandlerFunc {
				return func(ctx context.Context, payload json.RawMessage) (any, error) {
					middle = append(middle, path)
					return next(ctx, payload)
				}
			}))...); err != nil {
				t.Fatal(err)
			}
		}
		route("/inferred")
		route("/given", iii.WithSchemas(json.RawMessage(`{"properties":{"body":{"properties":{"item":{"enum":["tea"]}}}}}`), nil))
		mustConnect(t, c)
		for _, test := range []struct {
			path, contentType, body string
			status                  int
			want                    string
		}{
			{"/inferred", "application/json", `{"item":"tea","price":1}`, 200, `"tea"`},
			{"/inferred", "application/json", `{"item":"tea"}`, 400, "payload at body.price: it is missing"},
			{"/inferred", "application/json", `{"item":1,"price":1}`, 400, "payload at body.item: got integer, want string"},
			{"/inferred", "application/json", `null`, 400, "payload at body: got null, want object"},
			{"/inferred", "a/b+json", `{"item":"tea"}`, 400, "payload at body.price: it is missing"},
			{"/inferred", "", ``, 200, `""`},
			{"/given", "application/json", `{"item":"tea"}`, 200, `"tea"`},
			{"/given", "application/json", `{"item":"coffee"}`, 400, `payload at body.item: it violates enum [\"tea\"]`},
		} {
			before := ran
			status, body, _ := request(t, e, "POST", test.path, test.contentType, test.body)
			want := test.want
			if status == 400 {
				want = fmt.Sprintf(`{"error":{"code":"invalid_request","message":"%s"}}`, test.want)
			}
			if status != test.status || body != want {
				t.Errorf("%s %s: %d %s, want %d %s", test.path, test.body, status, body, test.status, want)
			}
			if (ran > before) != (test.status == 200) {
				t.Errorf("%s %s: the handler ran: %t", test.path, test.body, ran > before)
			}
		}
		if len(middle) != 8 {
			t.Errorf("the middleware ran %d times: validation comes after it", len(middle))
		}
	})
	c, err := iii.New("ws://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := iii.HandleHTTP(c, "GET", "/", func(context.Context, *iii.HTTPRequest[any]) (*iii.HTTPResponse[any], error) { return nil, nil },
		iii.WithInputValidation(), iii.WithSchemas(json.RawMessage(`{"type":"object"}`), nil)); err == nil || !strings.Contains(err.Error(), "no member body") {
		t.Error(err)
	}
}
