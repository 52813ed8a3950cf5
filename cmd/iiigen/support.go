package main

import "strings"

// support returns the source code of the helpers that the generated code uses.
func (g *generation) support() string {
	var b strings.Builder
	for _, part := range []string{"options", "observe", "schema", "constant", "open", "union", "tuple"} {
		if g.helpers[part] {
			b.WriteString(helperSources[part])
		}
	}
	return b.String()
}

// helperSources maps the names of helpers to their source code.
var helperSources = map[string]string{
	"options": `
// callOptions returns the client's options followed by those of the call.
func callOptions(client, call []iii.CallOption) []iii.CallOption {
	if len(client) == 0 {
		return call
	}
	return append(append([]iii.CallOption(nil), client...), call...)
}
`,
	"observe": `
// observe registers handler as the function named target, and registers an observer of source
// that invokes this function. If it cannot register the observer, it unregisters the function.
func observe[In any](c *iii.Client, source iii.Source, target string, handler func(context.Context, In) (any, error), opts []iii.ObserveOption) (*iii.Function, *iii.Observer, error) {
	function, err := iii.Handle(c, target, handler)
	if err != nil {
		return nil, nil, err
	}
	observer, err := c.Observe(source, target, opts...)
	if err != nil {
		return nil, nil, errors.Join(err, function.Unregister())
	}
	return function, observer, nil
}
`,
	"schema": `
//go:embed ` + catalogFile + `
var catalogJSON []byte

// schemasOfCatalog returns the schemas in the catalog, keyed by part and id.
var schemasOfCatalog = sync.OnceValue(func() map[[2]string]json.RawMessage {
	var catalog struct {
		Functions []struct {
			ID       string          ` + "`json:\"id\"`" + `
			Request  json.RawMessage ` + "`json:\"request_schema\"`" + `
			Response json.RawMessage ` + "`json:\"response_schema\"`" + `
			Args     json.RawMessage ` + "`json:\"args_schema\"`" + `
		} ` + "`json:\"functions\"`" + `
		TriggerTypes []struct {
			ID      string          ` + "`json:\"id\"`" + `
			Config  json.RawMessage ` + "`json:\"config_schema\"`" + `
			Payload json.RawMessage ` + "`json:\"payload_schema\"`" + `
		} ` + "`json:\"trigger_types\"`" + `
	}
	schemas := make(map[[2]string]json.RawMessage)
	if json.Unmarshal(catalogJSON, &catalog) != nil {
		return schemas // schemaOf returns {} for all of them
	}
	for _, f := range catalog.Functions {
		schemas[[2]string{"request", f.ID}], schemas[[2]string{"response", f.ID}] = f.Request, f.Response
		schemas[[2]string{"args", f.ID}] = f.Args
	}
	for _, t := range catalog.TriggerTypes {
		schemas[[2]string{"config", t.ID}], schemas[[2]string{"payload", t.ID}] = t.Config, t.Payload
	}
	return schemas
})

// schemaOf returns a schema from the catalog, or {} if it is missing.
func schemaOf(part, id string) json.RawMessage {
	if raw := schemasOfCatalog()[[2]string{part, id}]; raw != nil {
		return raw
	}
	return json.RawMessage("{}")
}
`,
	"constant": `
// checkConstant returns an error unless b and want encode the same JSON value.
func checkConstant(name string, b []byte, want string) error {
	var got, expected any
	if err := json.Unmarshal(b, &got); err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(want), &expected); err != nil {
		return err
	}
	if got != expected {
		return fmt.Errorf("%s: got %.100s, want %s", name, b, want)
	}
	return nil
}
`,
	"open": `
// marshalOpen encodes own together with the members in further. It returns an error if further
// contains one of the known members.
func marshalOpen[T any](name string, own any, further map[string]T, known ...string) ([]byte, error) {
	b, err := json.Marshal(own)
	if err != nil || len(further) == 0 {
		return b, err
	}
	for _, k := range known {
		if _, ok := further[k]; ok {
			return nil, fmt.Errorf("%s: Additional contains %q, which has its own field", name, k)
		}
	}
	rest, err := json.Marshal(further)
	if err != nil || len(b) == len("{}") {
		return rest, err
	}
	return append(append(b[:len(b)-1], ','), rest[1:]...), nil
}

// unmarshalOpen decodes the known members of b into own, and stores all others in further.
func unmarshalOpen[T any](b []byte, own any, further *map[string]T, known ...string) error {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(b, &all); err != nil {
		return err
	}
	// Pass only the known members to own, because encoding/json would also match names that
	// differ from them in case.
	members := make(map[string]json.RawMessage, len(known))
	for _, k := range known {
		if raw, ok := all[k]; ok {
			members[k] = raw
			delete(all, k)
		}
	}
	delete(all, "_caller_worker_id") // added to payloads by the engine
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(members); err != nil {
		return err
	}
	if err := json.Unmarshal(buffer.Bytes(), own); err != nil {
		return err
	}
	*further = nil
	if len(all) > 0 {
		*further = make(map[string]T, len(all))
	}
	for k, raw := range all {
		var v T
		if err := json.Unmarshal(raw, &v); err != nil {
			return fmt.Errorf("member %q: %w", k, err)
		}
		(*further)[k] = v
	}
	return nil
}
`,
	"union": `
// shape describes the JSON values that a variant accepts.
type shape struct {
	kind            string
	required, known []string
	tags            map[string]string
	values          []string
	closed          bool

	// Arrays have at least minItems elements and, if hasMax is set, at most maxItems.
	minItems, maxItems int
	hasMax             bool
}

// unionVariant decodes JSON values of one shape into a field of a union.
type unionVariant struct {
	shape  shape
	decode func(b []byte) error
}

// variant returns a unionVariant that decodes values of shape s into field.
func variant[T any](field **T, s shape) unionVariant {
	return unionVariant{s, func(b []byte) error {
		v := new(T)
		if err := json.Unmarshal(b, v); err != nil {
			return err
		}
		*field = v
		return nil
	}}
}

// marshalUnion encodes the only value that is set. It returns an error unless exactly one of
// raw and variants is non-nil.
func marshalUnion(name string, raw json.RawMessage, variants ...any) ([]byte, error) {
	var set []any
	if raw != nil {
		set = append(set, raw)
	}
	for _, v := range variants {
		if !reflect.ValueOf(v).IsNil() {
			set = append(set, v)
		}
	}
	if len(set) != 1 {
		return nil, fmt.Errorf("%s: %d fields are set; want 1", name, len(set))
	}
	return json.Marshal(set[0])
}

// unmarshalUnion decodes b into the variant that matches its shape. If several match, it
// prefers those with fewer unknown members. If no variant can decode b, it copies b to raw.
func unmarshalUnion(b []byte, raw *json.RawMessage, variants ...unionVariant) error {
	type candidate struct {
		variant unionVariant
		unknown int
	}
	var candidates []candidate
	for _, v := range variants {
		if unknown, ok := v.shape.matches(b); ok {
			candidates = append(candidates, candidate{v, unknown})
		}
	}
	slices.SortStableFunc(candidates, func(a, b candidate) int { return cmp.Compare(a.unknown, b.unknown) })
	for _, c := range candidates {
		if c.variant.decode(b) == nil {
			return nil
		}
	}
	*raw = append(json.RawMessage(nil), b...)
	return nil
}

// matches reports whether b has shape s, and returns the number of members unknown to s.
func (s shape) matches(b []byte) (unknown int, ok bool) {
	b = bytes.TrimSpace(b)
	if len(b) == 0 {
		return 0, false
	}
	kind := "number"
	switch b[0] {
	case '{':
		kind = "object"
	case '[':
		kind = "array"
	case '"':
		kind = "string"
	case 't', 'f':
		kind = "boolean"
	case 'n':
		kind = "null"
	}
	switch {
	case s.kind == "integer":
		if kind != "number" || bytes.ContainsAny(b, ".eE") {
			return 0, false
		}
	case s.kind != "" && s.kind != kind:
		return 0, false
	}
	if len(s.values) > 0 && !slices.ContainsFunc(s.values, func(v string) bool { return equalJSON(b, v) }) {
		return 0, false
	}
	if s.kind == "array" && (s.minItems > 0 || s.hasMax) {
		var elements []json.RawMessage
		if json.Unmarshal(b, &elements) != nil || len(elements) < s.minItems || s.hasMax && len(elements) > s.maxItems {
			return 0, false
		}
	}
	if s.kind != "object" {
		return 0, true
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(b, &members) != nil {
		return 0, false
	}
	for _, name := range s.required {
		if members[name] == nil {
			return 0, false
		}
	}
	for name, want := range s.tags {
		if got, ok := members[name]; ok && !equalJSON(got, want) {
			return 0, false
		}
	}
	for name := range members {
		if !slices.Contains(s.known, name) && name != "_caller_worker_id" {
			unknown++
		}
	}
	return unknown, !s.closed || unknown == 0
}

// equalJSON reports whether b and want encode the same JSON value.
func equalJSON(b []byte, want string) bool {
	var x, y any
	return json.Unmarshal(b, &x) == nil && json.Unmarshal([]byte(want), &y) == nil && reflect.DeepEqual(x, y)
}
`,
	"tuple": `
// marshalTuple encodes elements, followed by those of rest, as a JSON array. If rest is empty,
// it omits trailing nil elements, but keeps at least minimum elements.
func marshalTuple(minimum int, rest any, elements ...any) ([]byte, error) {
	further := 0
	if rest != nil {
		v := reflect.ValueOf(rest)
		further = v.Len()
		for i := range further {
			elements = append(elements, v.Index(i).Interface())
		}
	}
	for further == 0 && len(elements) > minimum {
		v := reflect.ValueOf(elements[len(elements)-1])
		if (v.Kind() != reflect.Pointer && v.Kind() != reflect.Slice && v.Kind() != reflect.Map) || !v.IsNil() {
			break
		}
		elements = elements[:len(elements)-1]
	}
	return json.Marshal(elements)
}

// unmarshalTuple decodes the array b into the pointers in elements. It decodes additional
// elements into rest, a pointer to a slice, or ignores them if rest is nil. It returns an
// error if b has fewer than minimum elements.
func unmarshalTuple(name string, b []byte, minimum int, rest any, elements ...any) error {
	var all []json.RawMessage
	if err := json.Unmarshal(b, &all); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if len(all) < minimum {
		return fmt.Errorf("%s: %d elements; want %d", name, len(all), minimum)
	}
	for i, e := range elements {
		if i < len(all) {
			if err := json.Unmarshal(all[i], e); err != nil {
				return fmt.Errorf("%s: element %d: %w", name, i, err)
			}
		}
	}
	if rest == nil || len(all) <= len(elements) {
		return nil
	}
	further, err := json.Marshal(all[len(elements):])
	if err != nil {
		return err
	}
	return json.Unmarshal(further, rest)
}
`,
}
