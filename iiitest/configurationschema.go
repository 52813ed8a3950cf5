package iiitest

import (
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/big"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// configurationSchema is the JSON Schema of a configuration entry. Its parser and validator
// report errors in the order and wording of the engine's JSON Schema library.
type configurationSchema struct {
	text json.RawMessage
	root *schemaNode
}

// errSchema is the prefix of errors about invalid schemas.
const errSchema = "invalid JSON Schema: "

// parseConfigurationSchema parses a schema according to the draft in $schema, by default
// 2020-12. As in a real engine, references to other documents are rejected. Patterns are
// limited to the syntax of package regexp, so, unlike in a real engine, look-around and
// backreferences are not supported.
func parseConfigurationSchema(text json.RawMessage) (*configurationSchema, error) {
	text = canonicalValid(text)
	draft, err := draftOf(text)
	if err != nil {
		return nil, errors.New(errSchema + err.Error())
	}
	s := newSchemaSet(draft)
	s.add(defaultSchemaURI, text)
	if err := s.checkReferences(); err != nil {
		return nil, errors.New(errSchema + err.Error())
	}
	if wrong := metaErrors(draft, parseSchemaValue(text)); len(wrong) > 0 {
		return nil, errors.New(errSchema + wrong[0])
	}
	root := s.node(s.document, "", text)
	if err := root.check(); err != nil {
		return nil, errors.New(errSchema + err.Error())
	}
	if err := s.checkLoops(); err != nil {
		return nil, errors.New(errSchema + err.Error())
	}
	return &configurationSchema{text, root}, nil
}

// validate returns all violations joined into one error.
func (s *configurationSchema) validate(value json.RawMessage) error {
	if value == nil {
		value = json.RawMessage("null")
	}
	if wrong := s.root.errors(parseSchemaValue(canonicalValid(value))); len(wrong) > 0 {
		return errors.New(strings.Join(wrong, "; "))
	}
	return nil
}

type schemaDraft int

const (
	draft4    schemaDraft = 4
	draft6    schemaDraft = 6
	draft7    schemaDraft = 7
	draft2019 schemaDraft = 2019
	draft2020 schemaDraft = 2020
)

var schemaDrafts = map[string]schemaDraft{
	"http://json-schema.org/draft-04/schema":       draft4,
	"http://json-schema.org/draft-06/schema":       draft6,
	"http://json-schema.org/draft-07/schema":       draft7,
	"https://json-schema.org/draft/2019-09/schema": draft2019,
	"https://json-schema.org/draft/2020-12/schema": draft2020,
}

func draftOf(schema json.RawMessage) (schemaDraft, error) {
	named := membersOf(schema)["$schema"]
	if kindOf(named) != '"' {
		return draft2020, nil
	}
	uri := strings.TrimRight(unquote(named), "#")
	draft, known := schemaDrafts[uri]
	if !known {
		return 0, engineText(fmt.Sprintf("Unknown specification: %s", uri))
	}
	return draft, nil
}

// metaschemasJSON contains the drafts' meta-schemas, by URI.
//
//go:embed metaschemas.json
var metaschemasJSON []byte

var metaschemas = sync.OnceValue(func() map[string]json.RawMessage { return membersOf(canonicalValid(metaschemasJSON)) })

// metaNodes caches meta-schemas. Its lock is also held during validation, because validating
// adds nodes and patterns to the meta-schema.
var metaNodes = struct {
	sync.Mutex
	of map[schemaDraft]*schemaNode
}{of: map[schemaDraft]*schemaNode{}}

// metaErrors validates a schema against its draft's meta-schema and returns the violations.
func metaErrors(draft schemaDraft, schema *schemaValue) []string {
	metaNodes.Lock()
	defer metaNodes.Unlock()
	node := metaNodes.of[draft]
	if node == nil {
		s := newSchemaSet(draft)
		for uri, d := range schemaDrafts {
			if d == draft {
				s.add(uri, metaschemas()[uri])
			}
		}
		node = s.node(s.document, "", s.document.root)
		if err := node.check(); err != nil {
			panic("iiitest: " + s.document.uri + ": " + err.Error())
		}
		metaNodes.of[draft] = node
	}
	return node.errors(schema)
}

// defaultSchemaURI is the URI of a schema that declares none.
const defaultSchemaURI = "json-schema:///"

// schemaSet is a schema together with all schemas that it can refer to.
type schemaSet struct {
	draft     schemaDraft
	document  *schemaResource
	resources map[string]*schemaResource // by URI
	nodes     map[string]*schemaNode     // by URI and path

	patterns map[string]*schemaPattern
	dynamic  bool // the schema has references whose target depends on the evaluation path
}

// schemaResource is a schema with a URI.
type schemaResource struct {
	uri       string
	root      json.RawMessage
	anchors   map[string]string // anchor → path
	dynamic   map[string]string // $dynamicAnchor → path
	recursive bool              // $recursiveAnchor
}

func newSchemaSet(draft schemaDraft) *schemaSet {
	return &schemaSet{
		draft: draft, resources: map[string]*schemaResource{}, nodes: map[string]*schemaNode{}, patterns: map[string]*schemaPattern{},
	}
}

// add adds a document. The first document is the schema itself.
func (s *schemaSet) add(uri string, root json.RawMessage) *schemaResource {
	if id := s.idOf(membersOf(root)); id != "" {
		uri = resolveURI(uri, id)
	}
	r := &schemaResource{uri: uri, root: root, anchors: map[string]string{}, dynamic: map[string]string{}}
	if s.document == nil {
		s.document = r
	}
	s.resources[uri] = r
	s.index(r, "", root)
	return r
}

// idOf returns the URI declared by a schema, or "".
func (s *schemaSet) idOf(members map[string]json.RawMessage) string {
	if s.draft <= draft7 && members["$ref"] != nil {
		return ""
	}
	id := stringOf(members[s.idKeyword()])
	if strings.HasPrefix(id, "#") {
		return ""
	}
	id, _, _ = strings.Cut(id, "#")
	return id
}

func (s *schemaSet) idKeyword() string {
	if s.draft == draft4 {
		return "id"
	}
	return "$id"
}

// index adds the anchors and nested resources below a path.
func (s *schemaSet) index(r *schemaResource, path string, schema json.RawMessage) {
	members := membersOf(schema)
	if members == nil {
		return
	}
	if path != "" {
		if id := s.idOf(members); id != "" {
			s.add(resolveURI(r.uri, id), schema)
			return
		}
	}
	if s.draft <= draft7 {
		if anchor, ok := strings.CutPrefix(stringOf(members[s.idKeyword()]), "#"); ok && anchor != "" {
			r.anchors[anchor] = path
		}
	} else if anchor := stringOf(members["$anchor"]); anchor != "" {
		r.anchors[anchor] = path
	}
	if anchor := stringOf(members["$dynamicAnchor"]); anchor != "" && s.draft == draft2020 {
		r.anchors[anchor], r.dynamic[anchor] = path, path
	}
	if path == "" && s.draft == draft2019 && string(members["$recursiveAnchor"]) == "true" {
		r.recursive = true
	}
	for keyword, value := range members {
		if !s.holds(keyword) {
			continue
		}
		for sub, schema := range subschemas(keyword, value) {
			s.index(r, path+"/"+escapePath(keyword)+sub, schema)
		}
	}
}

// holds reports whether, in the draft that the schema uses, a keyword's value contains
// schemas. For draft 4, it accepts keywords from all drafts, as the engine's library does.
func (s *schemaSet) holds(keyword string) bool {
	draft := s.draft
	switch keyword {
	case "additionalItems":
		return draft != draft2020
	case "if", "then", "else":
		return draft != draft6
	case "prefixItems":
		return draft == draft2020 || draft == draft4
	case "$defs", "dependentSchemas", "contentSchema", "unevaluatedItems", "unevaluatedProperties":
		return draft >= draft2019 || draft == draft4
	case "dependencies":
		return draft <= draft7
	}
	return true
}

// Keywords that contain a schema, an array of schemas or an object of schemas. Some keywords
// accept more than one of these forms.
var (
	holdSchema = []string{
		"additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not", "propertyNames", "then",
		"unevaluatedItems", "unevaluatedProperties",
	}
	holdList   = []string{"allOf", "anyOf", "oneOf", "prefixItems", "items"}
	holdObject = []string{"$defs", "definitions", "dependentSchemas", "dependencies", "patternProperties", "properties"}
)

// subschemas returns the schemas in a keyword's value, by relative path.
func subschemas(keyword string, value json.RawMessage) map[string]json.RawMessage {
	schemas := map[string]json.RawMessage{}
	switch kind := kindOf(value); {
	case kind == '[' && slices.Contains(holdList, keyword):
		for i, item := range itemsOf(value) {
			schemas["/"+strconv.Itoa(i)] = item
		}
	case kind == '{' && slices.Contains(holdObject, keyword):
		for name, member := range membersOf(value) {
			schemas["/"+escapePath(name)] = member
		}
	case slices.Contains(holdSchema, keyword):
		schemas[""] = value
	}
	return schemas
}

func resolveURI(base, ref string) string {
	b, err := url.Parse(base)
	if err != nil {
		return ref
	}
	r, err := url.Parse(ref)
	if err != nil {
		return ref
	}
	return b.ResolveReference(r).String()
}

var (
	pathEscaper   = strings.NewReplacer("~", "~0", "/", "~1")
	pathUnescaper = strings.NewReplacer("~1", "/", "~0", "~")
)

func escapePath(name string) string { return pathEscaper.Replace(name) }

// resource finds a resource, which may be a meta-schema, by its URI. ref may be relative to
// base.
func (s *schemaSet) resource(base, ref string) (*schemaResource, error) {
	uri := resolveURI(base, ref)
	if r := s.resources[uri]; r != nil {
		return r, nil
	}
	if root, known := metaschemas()[uri]; known {
		return s.add(uri, root), nil
	}
	scheme, _, _ := strings.Cut(uri, ":")
	reason := "Unknown scheme " + scheme
	if strings.HasPrefix(uri, defaultSchemaURI) {
		uri, scheme, reason = ref, "", "No base URI is available"
	}
	switch scheme {
	case "http", "https":
		reason = "`resolve-http` feature or a custom resolver is required to resolve external schemas via HTTP"
	case "file":
		reason = "`resolve-file` feature or a custom resolver is required to resolve external schemas via files"
	}
	return nil, fmt.Errorf("Resource '%s' is not present in a registry and retrieving it failed: %s", uri, reason) //nolint:staticcheck // the engine's words
}

// checkReferences rejects references to unavailable documents.
func (s *schemaSet) checkReferences() error {
	var walk func(base string, schema json.RawMessage) error
	walk = func(base string, schema json.RawMessage) error {
		members := membersOf(schema)
		if id := s.idOf(members); id != "" {
			base = resolveURI(base, id)
		}
		for _, keyword := range slices.Sorted(maps.Keys(members)) {
			if ref := stringOf(members[keyword]); keyword == "$ref" && ref != "" && ref[0] != '#' {
				uri, _, _ := strings.Cut(ref, "#")
				if _, err := s.resource(base, uri); err != nil {
					return err
				}
			}
			if !s.holds(keyword) {
				continue
			}
			schemas := subschemas(keyword, members[keyword])
			for _, sub := range slices.Sorted(maps.Keys(schemas)) {
				if err := walk(base, schemas[sub]); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return walk(defaultSchemaURI, s.document.root)
}

// resolve returns the target of a reference in a resource.
func (s *schemaSet) resolve(from *schemaResource, ref string) (*schemaNode, error) {
	uri, fragment, _ := strings.Cut(ref, "#")
	r := from
	if uri != "" {
		var err error
		if r, err = s.resource(from.uri, uri); err != nil {
			return nil, err
		}
	}
	if fragment == "" {
		return s.node(r, "", r.root), nil
	}
	if fragment[0] != '/' {
		path, known := r.anchors[fragment]
		switch {
		case known:
			fragment = path
		case strings.Contains(fragment, "/"):
			return nil, engineText(fmt.Sprintf("Anchor '%s' is invalid", fragment))
		default:
			return nil, engineText(fmt.Sprintf("Anchor '%s' does not exist", fragment))
		}
	}
	return s.atPath(r, fragment)
}

// atPath returns the schema at a path of a resource. If the path leads into a nested resource,
// the schema belongs to that resource.
func (s *schemaSet) atPath(r *schemaResource, pointer string) (*schemaNode, error) {
	decoded, err := url.PathUnescape(pointer)
	if err != nil || !utf8.ValidString(decoded) {
		return nil, engineText(fmt.Sprintf("Invalid percent encoding in pointer '%s': the decoded bytes do not represent valid UTF-8", pointer))
	}
	at, path := r.root, ""
	for _, part := range strings.Split(decoded, "/")[1:] {
		part = pathUnescaper.Replace(part)
		var next json.RawMessage
		switch kindOf(at) {
		case '{':
			next = membersOf(at)[part]
		case '[':
			i, err := strconv.ParseUint(part, 10, 32)
			if err != nil {
				return nil, engineText(fmt.Sprintf("Failed to parse array index '%s' in pointer '%s'", part, pointer))
			}
			if items := itemsOf(at); i < uint64(len(items)) {
				next = items[i]
			}
		}
		if next == nil {
			return nil, engineText(fmt.Sprintf("Pointer '%s' does not exist", pointer))
		}
		at, path = next, path+"/"+escapePath(part)
		if id := s.idOf(membersOf(at)); id != "" {
			if inner := s.resources[resolveURI(r.uri, id)]; inner != nil {
				r, path = inner, ""
			}
		}
	}
	return s.node(r, path, at), nil
}

// schemaNode is a schema and its location.
type schemaNode struct {
	set      *schemaSet
	resource *schemaResource
	path     string
	raw      json.RawMessage
	members  map[string]json.RawMessage
	keywords []string // sorted
	checked  bool
	loop     loopState
}

func (s *schemaSet) node(r *schemaResource, path string, raw json.RawMessage) *schemaNode {
	key := r.uri + "#" + path
	if n := s.nodes[key]; n != nil {
		return n
	}
	n := &schemaNode{set: s, resource: r, path: path, raw: raw, members: membersOf(raw)}
	if ref := n.members["$ref"]; ref != nil && s.draft <= draft7 {
		n.members = map[string]json.RawMessage{"$ref": ref}
	}
	n.keywords = slices.Sorted(maps.Keys(n.members))
	s.dynamic = s.dynamic || n.members["$dynamicRef"] != nil || n.members["$recursiveRef"] != nil
	s.nodes[key] = n
	return n
}

// at returns a schema in a keyword's value. sub is the schema's path within the value.
func (n *schemaNode) at(keyword string, sub ...string) *schemaNode {
	path, raw := n.path+"/"+escapePath(keyword), n.members[keyword]
	for _, part := range sub {
		path += "/" + escapePath(part)
		if kindOf(raw) == '[' {
			i, _ := strconv.Atoi(part)
			raw = itemsOf(raw)[i]
		} else {
			raw = membersOf(raw)[part]
		}
	}
	r := n.resource
	if id := n.set.idOf(membersOf(raw)); id != "" {
		if inner := n.set.resources[resolveURI(r.uri, id)]; inner != nil {
			r, path = inner, ""
		}
	}
	return n.set.node(r, path, raw)
}

// list returns the schemas in a keyword's array value.
func (n *schemaNode) list(keyword string) (nodes []*schemaNode) {
	for i := range itemsOf(n.members[keyword]) {
		nodes = append(nodes, n.at(keyword, strconv.Itoa(i)))
	}
	return nodes
}

// names returns the sorted member names of a keyword's object value.
func (n *schemaNode) names(keyword string) []string {
	return slices.Sorted(maps.Keys(membersOf(n.members[keyword])))
}

// is reports whether a keyword's raw value equals value.
func (n *schemaNode) is(keyword, value string) bool { return string(n.members[keyword]) == value }

// hasEffect reports whether a keyword has an effect in the JSON Schema draft that the schema
// uses.
func (n *schemaNode) hasEffect(keyword string) bool {
	draft := n.set.draft
	switch keyword {
	case "const", "contains", "propertyNames", "exclusiveMaximum", "exclusiveMinimum":
		return draft >= draft6
	case "contentMediaType", "contentEncoding":
		return draft == draft6 || draft == draft7
	case "format":
		return draft <= draft7
	case "if":
		return draft >= draft7 && (n.members["then"] != nil || n.members["else"] != nil)
	case "then", "else":
		return draft >= draft7 && n.members["if"] != nil
	case "contentSchema":
		return false
	case "additionalItems":
		kind := kindOf(n.members["items"])
		return kind == '[' || kind == 'f'
	case "$recursiveRef":
		return draft == draft2019
	case "dependentRequired", "dependentSchemas", "unevaluatedItems", "unevaluatedProperties":
		return draft >= draft2019
	case "prefixItems", "$dynamicRef":
		return draft == draft2020
	}
	return true
}

// keywordKind is the JSON type that a keyword requires.
type keywordKind struct {
	name  string
	first byte
}

// keywordKinds maps each keyword to the type that its value must have. The values must be
// checked again because the meta-schema does not cover every location that a reference can
// reach.
var keywordKinds = func() map[string]keywordKind {
	kinds := map[string]keywordKind{}
	for keywords, kind := range map[string]keywordKind{
		"$ref $dynamicRef $recursiveRef pattern":                                       {"string", '"'},
		"maximum minimum multipleOf":                                                   {"number", '0'},
		"maxLength minLength maxItems minItems maxProperties minProperties":            {"integer", '0'},
		"enum required allOf anyOf oneOf prefixItems":                                  {"array", '['},
		"properties patternProperties dependencies dependentSchemas dependentRequired": {"object", '{'},
	} {
		for keyword := range strings.FieldsSeq(keywords) {
			kinds[keyword] = kind
		}
	}
	return kinds
}()

// check rejects schemas that the meta-schema allows but that are unusable because a reference
// has no target, a pattern is invalid, or a keyword has the wrong type.
func (n *schemaNode) check() error {
	if n.checked {
		return nil
	}
	n.checked = true
	if kind := kindOf(n.raw); kind != '{' && kind != 't' && kind != 'f' {
		return fmt.Errorf(`%s is not of types "boolean", "object"`, n.raw)
	}
	for _, keyword := range n.keywords {
		if !n.hasEffect(keyword) {
			continue
		}
		value := n.members[keyword]
		if kind := keywordKinds[keyword]; kind.name != "" && kindOf(value) != kind.first {
			return fmt.Errorf(`%s is not of type "%s"`, value, kind.name)
		}
		switch keyword {
		case "$ref", "$dynamicRef", "$recursiveRef":
			target, err := n.set.resolve(n.resource, unquote(value))
			if err != nil {
				return err
			}
			if err := target.check(); err != nil {
				return err
			}
			continue
		case "type":
			for _, item := range itemsOf(value) {
				if kindOf(item) != '"' {
					return fmt.Errorf(`%s is not of type "string"`, item)
				}
			}
		case "pattern":
			if n.set.pattern(stringOf(value)).re == nil {
				return fmt.Errorf("%s is not a \"regex\"", value)
			}
		case "patternProperties":
			for _, name := range n.names(keyword) {
				if n.set.pattern(name).re == nil {
					wrong := value
					if members := membersOf(value); len(members) > 1 {
						wrong = members[name]
					}
					return fmt.Errorf("%s is not a \"regex\"", wrong)
				}
			}
		case "$defs", "definitions":
			continue // only checked if a reference uses them
		}
		schemas := subschemas(keyword, value)
		paths := slices.Sorted(maps.Keys(schemas))
		if kindOf(value) == '[' {
			slices.SortFunc(paths, func(a, b string) int { return len(a) - len(b) })
		}
		for _, sub := range paths {
			if kindOf(schemas[sub]) == '[' { // property names of a dependency
				continue
			}
			var parts []string
			if sub != "" {
				parts = []string{pathUnescaper.Replace(sub[1:])}
			}
			if err := n.at(keyword, parts...).check(); err != nil {
				return err
			}
		}
	}
	return nil
}

// loopState is the result of the search for loops below a schema.
type loopState int

const (
	loopUnknown loopState = iota
	loopBelow
	loopNone
)

// checkLoops rejects schemas with endless recursion: references that lead from a schema back
// to the same schema without descending into the value. A real engine follows such a loop
// until it crashes.
func (s *schemaSet) checkLoops() error {
	for _, key := range slices.Sorted(maps.Keys(s.nodes)) {
		if n := s.nodes[key]; n.checked && n.loops() {
			return fmt.Errorf("%q leads back to itself, which would crash a real engine", "#"+n.path)
		}
	}
	return nil
}

func (n *schemaNode) loops() bool {
	if n.loop != loopUnknown {
		return n.loop == loopBelow
	}
	n.loop = loopBelow
	for _, keyword := range n.keywords {
		if !n.hasEffect(keyword) {
			continue
		}
		var subs []*schemaNode
		switch keyword {
		case "$ref", "$dynamicRef", "$recursiveRef":
			if to := n.refersTo(keyword); to != nil {
				subs = append(subs, to)
			}
		case "allOf", "anyOf", "oneOf":
			subs = n.list(keyword)
		case "not", "if", "then", "else":
			subs = append(subs, n.at(keyword))
		case "dependentSchemas", "dependencies":
			for _, name := range n.names(keyword) {
				if kindOf(membersOf(n.members[keyword])[name]) != '[' {
					subs = append(subs, n.at(keyword, name))
				}
			}
		}
		if slices.ContainsFunc(subs, (*schemaNode).loops) {
			return true
		}
	}
	n.loop = loopNone
	return false
}

// refersTo returns the target of a reference. It returns nil if the target contains the same
// reference, which is the case if a schema refers to itself. Such a reference has no effect.
func (n *schemaNode) refersTo(keyword string) *schemaNode {
	ref := n.members[keyword]
	to, err := n.set.resolve(n.resource, stringOf(ref))
	if err != nil || string(to.members[keyword]) == string(ref) { // check reports errors
		return nil
	}
	return to
}

type schemaPattern struct {
	re    *regexp.Regexp // nil if the pattern is invalid
	shown string         // as printed by the engine, with character classes expanded
}

func (s *schemaSet) pattern(text string) *schemaPattern {
	if p := s.patterns[text]; p != nil {
		return p
	}
	expression, shown := translatePattern(text)
	p := &schemaPattern{shown: shown}
	p.re, _ = regexp.Compile(expression)
	s.patterns[text] = p
	return p
}

// patternClasses contains ECMAScript's character classes.
var patternClasses = map[byte]string{
	'd': "0-9", 'w': "A-Za-z0-9_", 's': " \t\n\r\u000b\u000c\u00a0\ufeff\u2003\u2029",
}

// translatePattern converts an ECMAScript pattern to the syntax of package regexp, and to the
// form that the engine prints.
func translatePattern(pattern string) (expression, shown string) {
	var e, out strings.Builder
	within := false
	for i := 0; i < len(pattern); i++ {
		c := pattern[i]
		if c != '\\' || i+1 == len(pattern) {
			switch c {
			case '[':
				within = true
			case ']':
				within = false
			}
			e.WriteByte(c)
			out.WriteByte(c)
			continue
		}
		i++
		next := pattern[i]
		class := patternClasses[next|0x20]
		switch {
		case class != "" && next|0x20 == next:
			out.WriteString("[" + class + "]")
			if within {
				e.WriteString(class)
			} else {
				e.WriteString("[" + class + "]")
			}
		case class != "":
			out.WriteString("[^" + class + "]")
			if within {
				e.WriteString(pattern[i-1 : i+1])
			} else {
				e.WriteString("[^" + class + "]")
			}
		case next == 'c' && i+1 < len(pattern) && isLetter(pattern[i+1]):
			i++
			e.WriteByte(pattern[i] % 32)
			out.WriteByte(pattern[i] % 32)
		default:
			e.WriteString(pattern[i-1 : i+1])
			out.WriteString(pattern[i-1 : i+1])
		}
	}
	return e.String(), out.String()
}

// schemaValue is a parsed JSON value.
type schemaValue struct {
	raw     json.RawMessage // canonical JSON
	kind    byte            // see kindOf
	names   []string        // sorted member names of an object
	members map[string]*schemaValue
	items   []*schemaValue
	text    string
	number  *big.Rat // see numberOf
	float   bool     // stored by the engine as a float
}

func parseSchemaValue(raw json.RawMessage) *schemaValue {
	v := &schemaValue{raw: raw, kind: kindOf(raw)}
	switch v.kind {
	case '{':
		members := membersOf(raw)
		v.names, v.members = slices.Sorted(maps.Keys(members)), make(map[string]*schemaValue, len(members))
		for name, member := range members {
			v.members[name] = parseSchemaValue(member)
		}
	case '[':
		for _, item := range itemsOf(raw) {
			v.items = append(v.items, parseSchemaValue(item))
		}
	case '"':
		v.text = unquote(raw)
	case '0':
		v.number, v.float = numberOf(raw)
	}
	return v
}

// numberOf returns a number as the engine stores it: as a 64-bit integer if possible,
// otherwise as a float.
func numberOf(raw json.RawMessage) (n *big.Rat, float bool) {
	if i, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		return new(big.Rat).SetInt64(i), string(raw) == "-0"
	}
	if u, err := strconv.ParseUint(string(raw), 10, 64); err == nil {
		return new(big.Rat).SetUint64(u), false
	}
	f, _ := strconv.ParseFloat(string(raw), 64)
	return new(big.Rat).SetFloat64(f), true // JSON has no infinities
}

// equal implements equality as defined by JSON Schema, in which 1 equals 1.0.
func (v *schemaValue) equal(w *schemaValue) bool {
	switch {
	case v.kind != w.kind:
		return false
	case v.kind == '0':
		return v.number.Cmp(w.number) == 0
	case v.kind == '[':
		return slices.EqualFunc(v.items, w.items, (*schemaValue).equal)
	case v.kind == '{':
		return maps.EqualFunc(v.members, w.members, (*schemaValue).equal)
	}
	return string(v.raw) == string(w.raw)
}

// hasType reports whether v has the given type.
func (v *schemaValue) hasType(typ string, draft schemaDraft) bool {
	switch typ {
	case "array":
		return v.kind == '['
	case "boolean":
		return v.kind == 't' || v.kind == 'f'
	case "integer":
		return v.kind == '0' && (!v.float || draft > draft4 && v.number.IsInt())
	case "null":
		return v.kind == 'n'
	case "number":
		return v.kind == '0'
	case "object":
		return v.kind == '{'
	case "string":
		return v.kind == '"'
	}
	return false
}

// evaluation is the state of a validation.
type evaluation struct {
	scopes []*schemaResource // outermost first
	active map[schemaStep]bool
	known  map[schemaStep][]string // cached violations, because unevaluated keywords validate repeatedly
}

type schemaStep struct {
	node  *schemaNode
	value *schemaValue
	marks bool // collects evaluated locations instead of violations
}

func (n *schemaNode) errors(v *schemaValue) []string {
	return (&evaluation{active: map[schemaStep]bool{}, known: map[schemaStep][]string{}}).errors(n, v)
}

func (e *evaluation) valid(n *schemaNode, v *schemaValue) bool { return len(e.errors(n, v)) == 0 }

// enter runs f in the scope of the step's resource. If the step is already in progress, enter
// does nothing, because validating the same value against the same schema again finds no
// further violations.
func (e *evaluation) enter(step schemaStep, f func()) {
	if e.active[step] {
		return
	}
	e.active[step] = true
	e.scopes = append(e.scopes, step.node.resource)
	f()
	e.scopes = e.scopes[:len(e.scopes)-1]
	delete(e.active, step)
}

func (e *evaluation) errors(n *schemaNode, v *schemaValue) (wrong []string) {
	switch kindOf(n.raw) {
	case 't':
		return nil
	case 'f':
		return []string{"False schema does not allow " + string(v.raw)}
	}
	step := schemaStep{n, v, false}
	if wrong, known := e.known[step]; known {
		return wrong
	}
	e.enter(step, func() {
		for _, keyword := range n.keywords {
			if n.hasEffect(keyword) {
				wrong = append(wrong, e.keyword(n, keyword, v)...)
			}
		}
		if !n.set.dynamic {
			e.known[step] = wrong
		}
	})
	return wrong
}

// target returns the target of a reference, resolving dynamic references in the current scope.
func (e *evaluation) target(n *schemaNode, keyword string) *schemaNode {
	to := n.refersTo(keyword)
	if to == nil {
		return nil
	}
	switch keyword {
	case "$dynamicRef":
		_, anchor, _ := strings.Cut(stringOf(n.members[keyword]), "#")
		if path, is := to.resource.dynamic[anchor]; anchor == "" || !is || path != to.path {
			break
		}
		for _, r := range e.scopes {
			if path, is := r.dynamic[anchor]; is {
				if dynamic, err := n.set.atPath(r, path); err == nil {
					return dynamic
				}
			}
		}
	case "$recursiveRef":
		if !to.resource.recursive {
			break
		}
		for _, r := range e.scopes {
			if r.recursive {
				return n.set.node(r, "", r.root)
			}
		}
	}
	return to
}

// one returns a slice with one error if wrong is true, and nil otherwise.
func one(wrong bool, format string, args ...any) []string {
	if !wrong {
		return nil
	}
	return []string{fmt.Sprintf(format, args...)}
}

// plural returns singular if n is "1", and otherwise pluralForm.
func plural(n string, singular, pluralForm string) string {
	if n == "1" {
		return singular
	}
	return pluralForm
}

// keyword validates a value against one keyword and returns the violations.
func (e *evaluation) keyword(n *schemaNode, keyword string, v *schemaValue) (wrong []string) {
	value := n.members[keyword]
	switch keyword {
	case "$ref", "$dynamicRef", "$recursiveRef":
		if to := e.target(n, keyword); to != nil {
			return e.errors(to, v)
		}
	case "allOf":
		for _, sub := range n.list(keyword) {
			wrong = append(wrong, e.errors(sub, v)...)
		}
		return wrong
	case "anyOf":
		any := slices.ContainsFunc(n.list(keyword), func(sub *schemaNode) bool { return e.valid(sub, v) })
		return one(!any, "%s is not valid under any of the schemas listed in the 'anyOf' keyword", v.raw)
	case "oneOf":
		switch valid := e.validOnes(n, keyword, v); {
		case len(valid) == 0:
			return one(true, "%s is not valid under any of the schemas listed in the 'oneOf' keyword", v.raw)
		case len(valid) > 1:
			return one(true, "%s is valid under more than one of the schemas listed in the 'oneOf' keyword", v.raw)
		}
	case "not":
		return one(e.valid(n.at(keyword), v), "%s is not allowed for %s", value, v.raw)
	case "if":
		branch := "else"
		if e.valid(n.at(keyword), v) {
			branch = "then"
		}
		if n.members[branch] != nil {
			return e.errors(n.at(branch), v)
		}
	case "type":
		return e.typed(n, v)
	case "enum":
		options := itemsOf(value)
		is := slices.ContainsFunc(options, func(option json.RawMessage) bool { return parseSchemaValue(option).equal(v) })
		return one(!is, "%s is not one of %s", v.raw, listOptions(options))
	case "const":
		return one(!parseSchemaValue(value).equal(v), "%s was expected", value)
	case "format":
		f, known := schemaFormats[stringOf(value)]
		return one(v.kind == '"' && known && n.set.draft >= f.since && !f.check(v.text), "%s is not a \"%s\"", v.raw, stringOf(value))
	case "contentEncoding", "contentMediaType":
		return content(n, keyword, v)
	case "additionalItems":
		if kindOf(n.members["items"]) == 'f' { // like the engine's library, for any value
			return []string{"False schema does not allow " + string(v.raw)}
		}
	}
	switch v.kind {
	case '0':
		return e.numberKeyword(n, keyword, value, v)
	case '"':
		return e.textKeyword(n, keyword, value, v)
	case '[':
		return e.listKeyword(n, keyword, value, v)
	case '{':
		return e.objectKeyword(n, keyword, value, v)
	}
	return nil
}

// validOnes returns the schemas in a keyword's value that accept v.
func (e *evaluation) validOnes(n *schemaNode, keyword string, v *schemaValue) []*schemaNode {
	return slices.DeleteFunc(n.list(keyword), func(sub *schemaNode) bool { return !e.valid(sub, v) })
}

// typed validates the type keyword.
func (e *evaluation) typed(n *schemaNode, v *schemaValue) []string {
	value := n.members["type"]
	types := []string{stringOf(value)}
	if kindOf(value) == '[' {
		types = nil
		for _, item := range itemsOf(value) {
			types = append(types, stringOf(item))
		}
	}
	draft := n.set.draft
	if len(types) > 1 {
		draft = draft4 // if there are several types, the engine's library does not accept 1.0 as an integer
	}
	if slices.ContainsFunc(types, func(typ string) bool { return v.hasType(typ, draft) }) {
		return nil
	}
	if len(types) == 1 {
		return one(true, "%s is not of type \"%s\"", v.raw, types[0])
	}
	slices.Sort(types)
	return one(true, "%s is not of types \"%s\"", v.raw, strings.Join(slices.Compact(types), `", "`))
}

// listOptions formats the values of an enum: all of them if there are at most three, otherwise
// the first two and the number of remaining values.
func listOptions(options []json.RawMessage) string {
	var texts []string
	for _, option := range options {
		texts = append(texts, string(option))
	}
	if len(texts) > 3 {
		return fmt.Sprintf("%s or %d other candidates", strings.Join(texts[:2], ", "), len(texts)-2)
	}
	if last := len(texts) - 1; last > 0 {
		return strings.Join(texts[:last], ", ") + " or " + texts[last]
	}
	return strings.Join(texts, "")
}

func (e *evaluation) numberKeyword(n *schemaNode, keyword string, value json.RawMessage, v *schemaValue) []string {
	if kindOf(value) != '0' {
		return nil
	}
	limit, _ := numberOf(value)
	order := v.number.Cmp(limit)
	switch keyword {
	case "maximum":
		if n.set.draft == draft4 && n.is("exclusiveMaximum", "true") {
			return one(order >= 0, "%s is greater than or equal to the maximum of %s", v.raw, value)
		}
		return one(order > 0, "%s is greater than the maximum of %s", v.raw, value)
	case "minimum":
		if n.set.draft == draft4 && n.is("exclusiveMinimum", "true") {
			return one(order <= 0, "%s is less than or equal to the minimum of %s", v.raw, value)
		}
		return one(order < 0, "%s is less than the minimum of %s", v.raw, value)
	case "exclusiveMaximum":
		return one(order >= 0, "%s is greater than or equal to the maximum of %s", v.raw, value)
	case "exclusiveMinimum":
		return one(order <= 0, "%s is less than or equal to the minimum of %s", v.raw, value)
	case "multipleOf":
		step, _ := limit.Float64()
		return one(!multipleOf(v.number, step), "%s is not a multiple of %s", v.raw, strconv.FormatFloat(step, 'f', -1, 64))
	}
	return nil
}

// multipleOf reports whether n is a multiple of step. It compares the shortest decimal
// representations, in which 0.3 is a multiple of 0.1.
func multipleOf(n *big.Rat, step float64) bool {
	f, _ := n.Float64()
	switch {
	case step == math.Trunc(step):
		return f == math.Trunc(f) && math.Mod(f, step) == 0
	case f == 0:
		return true
	case f < step:
		return false
	}
	decimal := func(f float64) *big.Rat {
		r, _ := new(big.Rat).SetString(strconv.FormatFloat(f, 'g', -1, 64))
		return r
	}
	return new(big.Rat).Quo(decimal(f), decimal(step)).IsInt()
}

// limitOf returns the limit set by a keyword such as maxItems, as a number and as text.
func limitOf(value json.RawMessage) (limit uint64, text string) {
	n, _ := numberOf(value)
	if n == nil || n.Sign() < 0 {
		return 0, "0"
	}
	whole := new(big.Int).Quo(n.Num(), n.Denom())
	if !whole.IsUint64() {
		return math.MaxUint64, strconv.FormatUint(math.MaxUint64, 10)
	}
	return whole.Uint64(), whole.String()
}

func (e *evaluation) textKeyword(n *schemaNode, keyword string, value json.RawMessage, v *schemaValue) []string {
	switch keyword {
	case "maxLength":
		limit, text := limitOf(value)
		return one(uint64(utf8.RuneCountInString(v.text)) > limit, "%s is longer than %s character%s", v.raw, text, plural(text, "", "s"))
	case "minLength":
		limit, text := limitOf(value)
		return one(uint64(utf8.RuneCountInString(v.text)) < limit, "%s is shorter than %s character%s", v.raw, text, plural(text, "", "s"))
	case "pattern":
		p := n.set.pattern(stringOf(value))
		return one(p.re != nil && !p.re.MatchString(v.text), "%s does not match \"%s\"", v.raw, p.shown)
	}
	return nil
}

func (e *evaluation) listKeyword(n *schemaNode, keyword string, value json.RawMessage, v *schemaValue) (wrong []string) {
	switch keyword {
	case "maxItems":
		limit, text := limitOf(value)
		return one(uint64(len(v.items)) > limit, "%s has more than %s item%s", v.raw, text, plural(text, "", "s"))
	case "minItems":
		limit, text := limitOf(value)
		return one(uint64(len(v.items)) < limit, "%s has less than %s item%s", v.raw, text, plural(text, "", "s"))
	case "uniqueItems":
		return one(n.is(keyword, "true") && !unique(v.items), "%s has non-unique elements", v.raw)
	case "contains":
		return e.contains(n, v)
	case "prefixItems":
		for i, sub := range n.list(keyword) {
			if i < len(v.items) {
				wrong = append(wrong, e.errors(sub, v.items[i])...)
			}
		}
	case "items":
		if kindOf(value) == '[' {
			for i, sub := range n.list(keyword) {
				if i < len(v.items) {
					wrong = append(wrong, e.errors(sub, v.items[i])...)
				}
			}
			break
		}
		skip := 0
		if n.hasEffect("prefixItems") {
			skip = min(len(itemsOf(n.members["prefixItems"])), len(v.items))
		}
		for _, item := range v.items[skip:] {
			wrong = append(wrong, e.errors(n.at(keyword), item)...)
		}
	case "additionalItems":
		return e.additionalItems(n, value, v)
	case "unevaluatedItems":
		if kindOf(value) == 't' {
			break
		}
		seen := make([]bool, len(v.items))
		e.markItems(n, v, seen)
		var left []string
		for i, item := range v.items {
			if !seen[i] && !e.valid(n.at(keyword), item) {
				left = append(left, "'"+string(item.raw)+"'")
			}
		}
		return one(len(left) > 0, "Unevaluated items are not allowed (%s%s", strings.Join(left, ", "), unexpected(len(left)))
	}
	return wrong
}

// unexpected returns the end of the error message about n unexpected items.
func unexpected(n int) string {
	if n == 1 {
		return " was unexpected)"
	}
	return " were unexpected)"
}

func unique(items []*schemaValue) bool {
	for i, v := range items {
		if slices.ContainsFunc(items[:i], v.equal) {
			return false
		}
	}
	return true
}

// contains validates a value against the keywords contains, minContains and maxContains.
func (e *evaluation) contains(n *schemaNode, v *schemaValue) []string {
	var matches, least, most uint64 = 0, 1, math.MaxUint64
	if n.set.draft >= draft2019 {
		if value := n.members["minContains"]; value != nil {
			least, _ = limitOf(value)
		}
		if value := n.members["maxContains"]; value != nil {
			most, _ = limitOf(value)
		}
	}
	for _, item := range v.items {
		if e.valid(n.at("contains"), item) {
			matches++
		}
	}
	return one(matches < least || matches > most, "None of %s are valid under the given schema", v.raw)
}

func (e *evaluation) additionalItems(n *schemaNode, value json.RawMessage, v *schemaValue) (wrong []string) {
	var more []string
	for _, item := range v.items[min(len(itemsOf(n.members["items"])), len(v.items)):] {
		more = append(more, string(item.raw))
		wrong = append(wrong, e.errors(n.at("additionalItems"), item)...)
	}
	if kindOf(value) == 'f' {
		return one(len(more) > 0, "Additional items are not allowed (%s%s", strings.Join(more, ", "), unexpected(len(more)))
	}
	return wrong
}

func (e *evaluation) objectKeyword(n *schemaNode, keyword string, value json.RawMessage, v *schemaValue) (wrong []string) {
	switch keyword {
	case "maxProperties":
		limit, text := limitOf(value)
		return one(uint64(len(v.names)) > limit, "%s has more than %s propert%s", v.raw, text, plural(text, "y", "ies"))
	case "minProperties":
		limit, text := limitOf(value)
		return one(uint64(len(v.names)) < limit, "%s has less than %s propert%s", v.raw, text, plural(text, "y", "ies"))
	case "required":
		return missing(value, v)
	case "properties":
		if n.coversProperties() {
			break // done by additionalProperties
		}
		for _, name := range n.names(keyword) {
			if member := v.members[name]; member != nil {
				wrong = append(wrong, e.errors(n.at(keyword, name), member)...)
			}
		}
	case "patternProperties":
		if n.coversProperties() {
			break
		}
		for _, pattern := range n.names(keyword) {
			for _, name := range v.names {
				if n.set.pattern(pattern).re.MatchString(name) {
					wrong = append(wrong, e.errors(n.at(keyword, pattern), v.members[name])...)
				}
			}
		}
	case "additionalProperties":
		return e.additionalProperties(n, v)
	case "propertyNames":
		switch kindOf(value) {
		case 'f':
			return one(len(v.names) > 0, "False schema does not allow %s", v.raw)
		case '{':
			for _, name := range v.names {
				wrong = append(wrong, e.errors(n.at(keyword), parseSchemaValue(mustEncode(name)))...)
			}
		}
	case "dependencies", "dependentRequired", "dependentSchemas":
		for _, name := range n.names(keyword) {
			if v.members[name] == nil {
				continue
			}
			if names := membersOf(value)[name]; kindOf(names) == '[' {
				wrong = append(wrong, missing(names, v)...)
			} else {
				wrong = append(wrong, e.errors(n.at(keyword, name), v)...)
			}
		}
	case "unevaluatedProperties":
		if kindOf(value) == 't' {
			break
		}
		seen := map[string]bool{}
		e.markProperties(n, v, seen)
		var left []string
		for _, name := range v.names {
			if !seen[name] && !e.valid(n.at(keyword), v.members[name]) {
				left = append(left, "'"+name+"'")
			}
		}
		return one(len(left) > 0, "Unevaluated properties are not allowed (%s%s", strings.Join(left, ", "), unexpected(len(left)))
	}
	return wrong
}

// coversProperties reports whether additionalProperties validates all members, in order, and
// thereby replaces properties and patternProperties.
func (n *schemaNode) coversProperties() bool {
	kind := kindOf(n.members["additionalProperties"])
	return kind == 'f' || kind == '{'
}

// missing returns an error for each name that v lacks.
func missing(names json.RawMessage, v *schemaValue) (wrong []string) {
	for _, name := range itemsOf(names) {
		if v.members[stringOf(name)] == nil {
			wrong = append(wrong, string(mustEncode(stringOf(name)))+" is a required property")
		}
	}
	return wrong
}

func (e *evaluation) additionalProperties(n *schemaNode, v *schemaValue) (wrong []string) {
	if !n.coversProperties() {
		return nil
	}
	closed := n.is("additionalProperties", "false")
	properties, patterns := membersOf(n.members["properties"]), n.names("patternProperties")
	if closed && n.members["properties"] == nil && n.members["patternProperties"] == nil {
		if len(v.names) == 0 {
			return nil
		}
		return []string{"False schema does not allow " + string(v.members[v.names[0]].raw)}
	}
	var left []string
	for _, name := range v.names {
		member, matched := v.members[name], false
		if _, matched = properties[name]; matched {
			wrong = append(wrong, e.errors(n.at("properties", name), member)...)
		}
		for _, pattern := range patterns {
			if n.set.pattern(pattern).re.MatchString(name) {
				matched = true
				wrong = append(wrong, e.errors(n.at("patternProperties", pattern), member)...)
			}
		}
		switch {
		case matched:
		case closed:
			left = append(left, "'"+name+"'")
		default:
			wrong = append(wrong, e.errors(n.at("additionalProperties"), member)...)
		}
	}
	return append(wrong, one(len(left) > 0, "Additional properties are not allowed (%s%s", strings.Join(left, ", "), unexpected(len(left)))...)
}

// below calls f for each schema that n applies to v: the target of a reference, the condition
// of a conditional (if v satisfies it), the selected branch, and the subschemas in allOf,
// anyOf and oneOf. For oneOf, that is only the subschema that accepts v. The function anyOf
// decides whether f is called for the subschemas in anyOf. Its arguments are the number of
// subschemas that accept v and the total number.
func (e *evaluation) below(n *schemaNode, v *schemaValue, anyOf func(valid, all int) bool, f func(*schemaNode)) {
	for _, keyword := range []string{"$ref", "$dynamicRef", "$recursiveRef"} {
		if n.members[keyword] != nil && n.hasEffect(keyword) {
			if to := e.target(n, keyword); to != nil {
				f(to)
			}
		}
	}
	if n.members["if"] != nil && n.hasEffect("if") {
		branch := "else"
		if condition := n.at("if"); e.valid(condition, v) {
			f(condition)
			branch = "then"
		}
		if n.members[branch] != nil {
			f(n.at(branch))
		}
	}
	for _, keyword := range []string{"allOf", "anyOf", "oneOf"} {
		all, valid := n.list(keyword), e.validOnes(n, keyword, v)
		switch {
		case keyword == "allOf" && len(valid) == len(all), keyword == "anyOf" && anyOf(len(valid), len(all)):
			for _, sub := range all {
				f(sub)
			}
		case keyword == "oneOf" && len(valid) == 1:
			f(valid[0])
		}
	}
}

// markProperties marks the properties of v that n evaluates.
func (e *evaluation) markProperties(n *schemaNode, v *schemaValue, seen map[string]bool) {
	e.enter(schemaStep{n, v, true}, func() {
		for _, name := range v.names {
			member := v.members[name]
			if _, is := membersOf(n.members["properties"])[name]; is && e.valid(n.at("properties", name), member) {
				seen[name] = true
			}
			for _, keyword := range []string{"additionalProperties", "unevaluatedProperties"} {
				if n.members[keyword] != nil && n.hasEffect(keyword) && e.valid(n.at(keyword), member) {
					seen[name] = true
				}
			}
			for _, pattern := range n.names("patternProperties") {
				if n.set.pattern(pattern).re.MatchString(name) {
					seen[name] = true
				}
			}
		}
		for _, name := range n.names("dependentSchemas") {
			if v.members[name] != nil {
				e.markProperties(n.at("dependentSchemas", name), v, seen)
			}
		}
		e.below(n, v, func(valid, _ int) bool { return valid > 0 }, func(sub *schemaNode) { e.markProperties(sub, v, seen) })
	})
}

// markItems marks the items of v that n evaluates.
func (e *evaluation) markItems(n *schemaNode, v *schemaValue, seen []bool) {
	e.enter(schemaStep{n, v, true}, func() {
		count := 0
		switch items := n.members["items"]; {
		case kindOf(items) == '[':
			count = len(itemsOf(items))
			if n.members["additionalItems"] != nil {
				count = len(seen)
			}
		case items != nil:
			count = len(seen)
		case n.hasEffect("prefixItems"):
			count = len(itemsOf(n.members["prefixItems"]))
		}
		for i := range min(count, len(seen)) {
			seen[i] = true
		}
		e.below(n, v, func(valid, all int) bool { return valid == all }, func(sub *schemaNode) { e.markItems(sub, v, seen) })
		for i, item := range v.items {
			for _, keyword := range []string{"contains", "unevaluatedItems"} {
				if !seen[i] && n.members[keyword] != nil && e.valid(n.at(keyword), item) {
					seen[i] = true
				}
			}
		}
	})
}

// content validates a value against contentEncoding and contentMediaType. It supports base64
// and JSON.
func content(n *schemaNode, keyword string, v *schemaValue) []string {
	encoded, typed := n.is("contentEncoding", `"base64"`), n.is("contentMediaType", `"application/json"`)
	if v.kind != '"' || keyword == "contentEncoding" && !encoded || keyword == "contentMediaType" && !typed ||
		keyword == "contentEncoding" && typed { // contentMediaType reports both
		return nil
	}
	text := v.text
	if encoded {
		decoded, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return one(true, `%s is not compliant with "base64" content encoding`, v.raw)
		}
		text = string(decoded)
	}
	return one(typed && checkJSON([]byte(text)) != nil, `%s is not compliant with "application/json" media type`, v.raw)
}

// schemaFormats contains the formats that are validated in drafts up to 7.
var schemaFormats = map[string]struct {
	since schemaDraft
	check func(string) bool
}{
	"date":                  {draft4, parsesAs("2006-01-02")},
	"date-time":             {draft4, func(s string) bool { return parsesAs(time.RFC3339Nano)(strings.ToUpper(s)) }},
	"time":                  {draft4, func(s string) bool { return parsesAs("15:04:05.999999999Z07:00")(strings.ToUpper(s)) }},
	"email":                 {draft4, isEmail},
	"idn-email":             {draft4, isEmail},
	"hostname":              {draft4, hostnamePattern.MatchString},
	"idn-hostname":          {draft7, func(s string) bool { return s != "" && !strings.ContainsAny(s, " /@") }},
	"ipv4":                  {draft4, func(s string) bool { a, err := netip.ParseAddr(s); return err == nil && a.Is4() }},
	"ipv6":                  {draft4, func(s string) bool { a, err := netip.ParseAddr(s); return err == nil && a.Is6() && a.Zone() == "" }},
	"uri":                   {draft4, func(s string) bool { u, err := url.Parse(s); return err == nil && u.IsAbs() && isURIText(s) }},
	"uri-reference":         {draft6, func(s string) bool { _, err := url.Parse(s); return err == nil && isURIText(s) }},
	"iri":                   {draft7, func(s string) bool { u, err := url.Parse(s); return err == nil && u.IsAbs() }},
	"iri-reference":         {draft7, func(s string) bool { _, err := url.Parse(s); return err == nil }},
	"uri-template":          {draft6, templatePattern.MatchString},
	"json-pointer":          {draft6, pointerPattern.MatchString},
	"relative-json-pointer": {draft7, relativePattern.MatchString},
	"regex":                 {draft4, func(s string) bool { e, _ := translatePattern(s); _, err := regexp.Compile(e); return err == nil }},
}

var (
	hostnamePattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`)
	templatePattern = regexp.MustCompile(`^([^{}]|\{[^{}]+\})*$`)
	pointerPattern  = regexp.MustCompile(`^(/([^~/]|~[01])*)*$`)
	relativePattern = regexp.MustCompile(`^(0|[1-9][0-9]*)(#|(/([^~/]|~[01])*)*)$`)
)

func parsesAs(layout string) func(string) bool {
	return func(s string) bool {
		_, err := time.Parse(layout, s)
		return err == nil
	}
}

func isEmail(s string) bool {
	at := strings.LastIndexByte(s, '@')
	return at > 0 && at < len(s)-1 && !strings.ContainsAny(s[at:], " \t\r\n")
}

func isURIText(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune(`"<>\^`+"`{|}", c) })
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
