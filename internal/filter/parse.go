// Package filter implements observer filters. A filter selects the calls to a function that an
// observer receives.
//
// [Parse] converts a filter from JSON to its normal form, which is what the engine stores and
// announces. A [Document] describes one call as raw JSON. Matching decodes only the values at
// the filter's paths. An [Index] finds the matching filters among thousands.
package filter

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Error codes.
const (
	InvalidFilter     = "INVALID_FILTER"
	InvalidFilterPath = "INVALID_FILTER_PATH"
)

// Error reports why a filter was rejected. Code and Message are the same as in the engine's
// error.
type Error struct {
	Code    string
	Path    string // the invalid path, or "" if no path is at fault
	Message string
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

func invalid(path, format string, args ...any) *Error {
	return &Error{Code: InvalidFilter, Path: path, Message: fmt.Sprintf(format, args...)}
}

const (
	maxSize          = 8192 // bytes of canonical text
	maxNesting       = 120  // arrays and objects
	maxFilterDepth   = 8
	maxNodes         = 64
	maxItems         = 256 // in the operand of $in or $nin
	maxSegments      = 16  // after the root
	maxLiteralDepth  = 32
	longestExpansion = 5 // bound on growth in canonical form, where 1e15 is spelled out
)

// Root is the first segment of a path.
type Root uint8

const (
	Input Root = iota
	Output
	ErrorRoot
	Caller
	Metadata
	element // the current element of the innermost $any
)

var rootNames = [...]string{"input", "output", "error", "caller", "metadata", "@"}

func (r Root) String() string { return rootNames[r] }

// Filter is a filter in normal form. It is immutable and safe for concurrent use. A nil Filter
// and the zero value match every document.
type Filter struct {
	clauses []clause
	text    string
	roots   uint8 // a bit set of Roots
	paths   int   // number of distinct paths outside $any
}

// clause is one condition of a filter. Clauses are sorted by key, then by text.
type clause struct {
	key  string // a path, "$or" or "$not"
	path *path  // nil for $or and $not
	// same reports whether the previous clause has the same path.
	same    bool
	ops     []op
	filters [][]clause // the operands of $or or the single operand of $not
}

type path struct {
	text     string
	root     Root
	segments []segment
	start    *segment // the first segment, or nil if there is none
}

type segment struct {
	key        string
	next       *segment // nil for the last segment
	hash       uint32
	index      uint64 // the array index, if isIndex is set
	isIndex    bool
	end        int    // where the segment ends in path.text
	word, mask uint64 // the result of keyWord and the bits that it uses, or all bits if it is 0
	first      uint64 // the first byte of the key, eight times
}

type opKind uint8

const (
	opAny opKind = iota
	opEq
	opExists
	opGt
	opGte
	opIn
	opLt
	opLte
	opNe
	opNin
	opPrefix
	opUnknown
)

var opNames = [...]string{"$any", "$eq", "$exists", "$gt", "$gte", "$in", "$lt", "$lte", "$ne", "$nin", "$prefix"}

type op struct {
	kind    opKind
	operand *value // used by all operators except $any
	set     *set   // operand of $in and $nin
	any     *anyOf // operand of $any
}

// anyOf is the operand of $any: a filter for the elements if byFilter is true, otherwise
// operators.
type anyOf struct {
	ops      []op
	filter   []clause
	byFilter bool
	literal  []byte // a quoted string that every matching element contains, or nil
}

// seed is random, so senders of documents cannot provoke hash collisions.
var seed = maphash.MakeSeed()

// secrets makes the hashes of short keys unpredictable.
var secrets = [2]uint64{maphash.String(seed, "0"), maphash.String(seed, "1") | 1}

// Parse parses a filter supplied by an observer. The error is an *[Error].
func Parse(raw []byte) (*Filter, error) { return parse(raw, true) }

// ParseNormalized parses a filter announced by the engine, whether or not it is in normal
// form. The size is not limited, because the normal form of a filter within the size limit may
// exceed that limit. The error is an *[Error].
func ParseNormalized(raw []byte) (*Filter, error) { return parse(raw, false) }

// ParseValue parses the JSON encoding of v as [Parse] does. If v cannot be encoded, the error
// is not an *[Error].
func ParseValue(v any) (*Filter, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("marshal the filter: %w", err)
	}
	return Parse(raw)
}

func parse(raw []byte, sized bool) (*Filter, error) {
	v, deepest, err := decode(raw)
	if err != nil {
		return nil, invalid("", "the filter is not JSON: %v", err)
	}
	buf := make([]byte, 0, len(raw)+len(raw)/2+32)
	if sized && len(raw) > maxSize/longestExpansion {
		if buf = v.appendText(buf); len(buf) > maxSize {
			return nil, invalid("", "the filter encodes to more than %d bytes", maxSize)
		}
	}
	if deepest > maxNesting && v.depth() > maxNesting {
		return nil, invalid("", "the filter nests deeper than %d arrays / objects", maxNesting)
	}
	f := new(Filter)
	var c compiler
	var fault *Error
	if f.clauses, fault = c.filter(&v, 1, false); fault != nil {
		return nil, fault
	}
	f.text = string(appendFilter(buf[:0], f.clauses))
	f.roots, f.paths = c.roots, c.paths
	return f, nil
}

// compiler checks a filter and converts it to normal form.
type compiler struct {
	nodes int
	roots uint8
	paths int
	// opRoom, pathRoom and segmentRoom provide preallocated memory; see take.
	opRoom      []op
	pathRoom    []path
	segmentRoom []segment
}

// node counts an operator, $or or $not toward the size limit.
func (c *compiler) node() *Error {
	if c.nodes++; c.nodes > maxNodes {
		return invalid("", "more than %d operator / clause nodes", maxNodes)
	}
	return nil
}

// filter compiles v and the filters in its $and. The returned clauses are sorted and distinct.
// inAny reports whether v is inside an $any.
func (c *compiler) filter(v *value, depth int, inAny bool) ([]clause, *Error) {
	if depth > maxFilterDepth {
		return nil, invalid("", "filters nested deeper than %d levels", maxFilterDepth)
	}
	var all []clause
	var waiting [][]member // operands of $and still to be compiled, the next ones last
	for {
		if v.kind != object {
			return nil, invalid("", "a filter must be a JSON object, found %v", v.kind)
		}
		all = slices.Grow(all, min(len(v.list), maxNodes))
		var conjunction []member
		for i := range v.list {
			m := &v.list[i]
			if m.key == "$and" {
				if fault := checkList(m); fault != nil {
					return nil, fault
				}
				conjunction = m.list
				continue
			}
			all = append(all, clause{key: m.key})
			if fault := c.clause(&all[len(all)-1], m, depth, inAny); fault != nil {
				return nil, fault
			}
		}
		if len(conjunction) > 0 {
			all = slices.Grow(all, min(len(conjunction), maxNodes))
			waiting = append(waiting, conjunction)
		}
		if len(waiting) == 0 {
			break
		}
		next := &waiting[len(waiting)-1]
		v = &(*next)[0].value
		if *next = (*next)[1:]; len(*next) == 0 {
			waiting = waiting[:len(waiting)-1]
		}
	}
	all = sortClauses(all)
	for i := range all {
		if p := all[i].path; p != nil {
			all[i].same = i > 0 && all[i-1].key == all[i].key
			if !all[i].same && p.root != element {
				c.paths++
			}
		}
	}
	return all, nil
}

// sortClauses sorts clauses by key, then by text, and removes duplicates.
func sortClauses(all []clause) []clause {
	i := 1
	for i < len(all) && all[i-1].key < all[i].key {
		i++
	}
	if i >= len(all) {
		return all
	}
	slices.SortFunc(all, func(a, b clause) int { return cmp.Compare(a.key, b.key) })
	kept := all[:0]
	for len(all) > 0 {
		n := 1
		for n < len(all) && all[n].key == all[0].key {
			n++
		}
		kept = append(kept, sortByText(all[:n])...)
		all = all[n:]
	}
	return kept
}

// sortByText is like sortClauses, but all clauses must have the same key.
func sortByText(all []clause) []clause {
	if len(all) == 1 {
		return all
	}
	type spelled struct {
		text []byte
		clause
	}
	texts := make([]spelled, len(all))
	var buf []byte
	for i := range all {
		start := len(buf)
		buf = all[i].appendOperand(buf)
		texts[i] = spelled{buf[start:len(buf):len(buf)], all[i]}
	}
	slices.SortFunc(texts, func(a, b spelled) int { return bytes.Compare(a.text, b.text) })
	texts = slices.CompactFunc(texts, func(a, b spelled) bool { return bytes.Equal(a.text, b.text) })
	for i := range texts {
		all[i] = texts[i].clause
	}
	return all[:len(texts)]
}

// checkList checks that the operand of $and or $or is a nonempty array.
func checkList(m *member) *Error {
	if m.kind != array {
		return invalid("", "`%s` takes an array of filters, found %v", m.key, m.kind)
	}
	if len(m.list) == 0 {
		return invalid("", "`%s` takes a non-empty array of filters", m.key)
	}
	return nil
}

// clause compiles any filter member other than $and.
func (c *compiler) clause(into *clause, m *member, depth int, inAny bool) *Error {
	switch {
	case m.key == "$or":
		if fault := c.node(); fault != nil {
			return fault
		}
		if fault := checkList(m); fault != nil {
			return fault
		}
		into.filters = make([][]clause, len(m.list))
		for i := range m.list {
			var fault *Error
			if into.filters[i], fault = c.filter(&m.list[i].value, depth+1, inAny); fault != nil {
				return fault
			}
		}
	case m.key == "$not":
		if fault := c.node(); fault != nil {
			return fault
		}
		if m.kind != object {
			return invalid("", "`$not` takes a filter object, found %v", m.kind)
		}
		operand, fault := c.filter(&m.value, depth+1, inAny)
		if fault != nil {
			return fault
		}
		into.filters = [][]clause{operand}
	case strings.HasPrefix(m.key, "$"):
		if operator(m.key) != opUnknown {
			return invalid("", "`%[1]s` needs a path: write {\"<path>\": {\"%[1]s\": ...}}", m.key)
		}
		return invalid("", "unknown operator `%s` (a filter holds paths, `$and`, `$or` and `$not`)", m.key)
	default:
		p, fault := c.path(m.key, inAny)
		if fault != nil {
			return fault
		}
		if p.root != element {
			c.roots |= 1 << p.root
		}
		into.path = p
		if fault := checkOperators(p.text, &m.value); fault != nil {
			return fault
		}
		if into.ops, fault = c.operators(p.text, &m.value, depth); fault != nil {
			return fault
		}
	}
	return nil
}

// operator returns the operator with the given name, or opUnknown.
func operator(name string) opKind {
	for k, n := range opNames {
		if n == name {
			return opKind(k)
		}
	}
	return opUnknown
}

// checkOperators checks that a path's operand is a nonempty object of operators.
func checkOperators(path string, v *value) *Error {
	literal := v.kind != object
	if !literal && len(v.list) == 0 {
		return invalid(path, "`%s`: empty operator object", path)
	}
	for i := range v.list {
		literal = literal || !strings.HasPrefix(v.list[i].key, "$")
	}
	if literal {
		return invalid(path, "`%s`: expected an operator object such as {\"$eq\": ...}; literal values are not allowed", path)
	}
	return nil
}

// operators compiles an operator object's members.
func (c *compiler) operators(path string, v *value, depth int) ([]op, *Error) {
	ops := take(&c.opRoom, len(v.list))
	for i := range v.list {
		if fault := c.node(); fault != nil {
			return nil, fault
		}
		if fault := c.operator(&ops[i], path, &v.list[i], depth); fault != nil {
			return nil, fault
		}
	}
	return ops, nil
}

func (c *compiler) operator(into *op, path string, m *member, depth int) *Error {
	into.kind, into.operand = operator(m.key), &m.value
	takes := func(what string) *Error {
		return invalid(path, "`%s`: `%s` takes %s, found %v", path, m.key, what, m.kind)
	}
	switch into.kind {
	case opEq, opNe:
		return checkLiteral(path, m.key, &m.value, 0)
	case opIn, opNin:
		if m.kind != array {
			return takes("an array")
		}
		if len(m.list) > maxItems {
			return invalid(path, "`%s`: `%s` has %d items (limit %d)", path, m.key, len(m.list), maxItems)
		}
		for i := range m.list {
			if fault := checkLiteral(path, m.key, &m.list[i].value, 0); fault != nil {
				return fault
			}
		}
		into.set = newSet(m.list)
	case opGt, opGte, opLt, opLte:
		if m.kind != number && m.kind != text {
			return takes("a number or a string")
		}
		return checkLiteral(path, m.key, &m.value, 0)
	case opExists:
		if m.kind != boolean {
			return takes("a boolean")
		}
	case opPrefix:
		if m.kind != text {
			return takes("a string")
		}
	case opAny:
		return c.any(into, path, m, depth+1)
	default:
		if m.key == "$and" || m.key == "$or" || m.key == "$not" {
			return invalid(path, "`%s`: `%s` combines filters and is not a value operator", path, m.key)
		}
		return invalid(path, "`%s`: unknown operator `%s`", path, m.key)
	}
	return nil
}

// any compiles the operand of $any.
func (c *compiler) any(into *op, path string, m *member, depth int) *Error {
	if m.kind != object {
		return invalid(path, "`%s`: `$any` takes an operator object or a filter over `@`, found %v", path, m.kind)
	}
	if depth > maxFilterDepth {
		return invalid("", "filters nested deeper than %d levels", maxFilterDepth)
	}
	a := &anyOf{byFilter: len(m.list) == 0}
	for i := range m.list {
		a.byFilter = a.byFilter || operator(m.list[i].key) == opUnknown
	}
	var fault *Error
	if a.byFilter {
		a.filter, fault = c.filter(&m.value, depth, true)
	} else {
		a.ops, fault = c.operators(path, &m.value, depth)
	}
	a.literal = literal(a.ops, nil)
	for i := range a.filter {
		a.literal = literal(a.filter[i].ops, a.literal)
	}
	into.any = a
	return fault
}

// literal returns the longest quoted string that a value must equal to satisfy ops, or longest
// if that is at least as long. Strings that need escapes are ignored.
func literal(ops []op, longest []byte) []byte {
	for i := range ops {
		o := &ops[i]
		if o.kind != opEq || o.operand.kind != text || len(o.operand.text)+2 <= len(longest) {
			continue
		}
		if quoted := o.operand.appendText(nil); bytes.IndexByte(quoted, '\\') < 0 {
			longest = quoted
		}
	}
	return longest
}

// checkLiteral checks a literal within an operand. depth is the number of arrays and objects
// that enclose it.
func checkLiteral(path, name string, v *value, depth int) *Error {
	switch v.kind {
	case number:
		if v.beyond {
			return invalid(path, "`%s`: `%s` holds the number %s, outside ±2^53", path, name, v.text)
		}
	case array, object:
		if depth == maxLiteralDepth {
			return invalid(path, "`%s`: `%s` nests a literal deeper than %d arrays / objects", path, name, maxLiteralDepth)
		}
		for i := range v.list {
			if fault := checkLiteral(path, name, &v.list[i].value, depth+1); fault != nil {
				return fault
			}
		}
	}
	return nil
}

// appendOperand appends the normal form of the clause's operand.
func (c *clause) appendOperand(dst []byte) []byte {
	switch c.key {
	case "$not":
		return appendFilter(dst, c.filters[0])
	case "$or":
		dst = append(dst, '[')
		for i, f := range c.filters {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendFilter(dst, f)
		}
		return append(dst, ']')
	}
	return appendOperators(dst, c.ops)
}

// appendFilter appends a filter's normal form.
func appendFilter(dst []byte, clauses []clause) []byte {
	if len(clauses) == 0 {
		return append(dst, "{}"...)
	}
	dst = append(dst, `{"$and":[`...)
	for i := range clauses {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendString(append(dst, '{'), clauses[i].key), ':')
		dst = append(clauses[i].appendOperand(dst), '}')
	}
	return append(dst, "]}"...)
}

func appendOperators(dst []byte, ops []op) []byte {
	dst = append(dst, '{')
	for i := range ops {
		o := &ops[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(append(dst, '"'), opNames[o.kind]...), `":`...)
		switch {
		case o.kind != opAny:
			dst = o.operand.appendText(dst)
		case o.any.byFilter:
			dst = appendFilter(dst, o.any.filter)
		default:
			dst = appendOperators(dst, o.any.ops)
		}
	}
	return append(dst, '}')
}

// path parses a path. Its segments are separated by dots, and the first one names the root. A
// backslash escapes a dot or a backslash.
func (c *compiler) path(s string, inAny bool) (*path, *Error) {
	if s == "" {
		return nil, invalid("", "empty path")
	}
	p := &take(&c.pathRoom, 1)[0]
	p.text = s
	root, first := "", true
	p.segments = take(&c.segmentRoom, min(strings.Count(s, "."), maxSegments))[:0]
	start, escapes := 0, 0
	for i := 0; ; i++ {
		if i == len(s) || s[i] == '.' {
			if i == start {
				return nil, invalid(s, "path `%s`: empty segment", s)
			}
			key := s[start:i]
			if escapes > 0 {
				key = unescapeSegment(key, escapes)
			}
			if first {
				root, first = key, false
			} else {
				p.segments = append(p.segments, segment{key: key, end: i})
			}
			if start, escapes = i+1, 0; i == len(s) {
				break
			}
			continue
		}
		if s[i] != '\\' {
			continue
		}
		i++
		if i == len(s) {
			return nil, invalid(s, "path `%s`: dangling `\\` at the end", s)
		}
		if s[i] != '.' && s[i] != '\\' {
			_, size := utf8.DecodeRuneInString(s[i:])
			return nil, invalid(s, "path `%s`: invalid escape `\\%s` (only `\\.` and `\\\\` are allowed)", s, s[i:i+size])
		}
		escapes++
	}
	r := Root(max(0, slices.Index(rootNames[:], root)))
	known := rootNames[r] == root
	switch {
	case inAny && (!known || r != element):
		return nil, invalid(s, "path `%s`: inside `$any` paths start at `@`, the current element", s)
	case !inAny && known && r == element:
		return nil, invalid(s, "path `%s`: `@` paths are only allowed inside `$any`", s)
	case !known:
		return nil, invalid(s, "path `%s`: unknown root `%s` (expected input, output, error, caller or metadata)", s, root)
	case len(p.segments) > maxSegments:
		return nil, invalid(s, "path `%s`: %d segments after the root (limit %d)", s, len(p.segments), maxSegments)
	}
	p.root = r
	for i := range p.segments {
		g := &p.segments[i]
		if i == 0 {
			p.start = g
		} else {
			p.segments[i-1].next = g
		}
		g.index, g.isIndex = canonicalIndex(g.key)
		g.first = uint64(g.key[0]) * ones
		if g.word = keyWord(g.key); g.word != 0 {
			g.hash, g.mask = hashWord(g.word), math.MaxUint64>>(8*(7-len(g.key)))
		} else {
			g.hash, g.mask = uint32(maphash.String(seed, g.key)), math.MaxUint64
		}
	}
	return p, nil
}

// keyWord packs a key of up to seven bytes and the closing quote into a word. For a longer
// key, or one that contains a quote or a backslash, it returns 0.
func keyWord[T string | []byte](key T) uint64 {
	if len(key) > 7 {
		return 0
	}
	w := uint64('"')
	for i := len(key) - 1; i >= 0; i-- {
		if key[i] == '"' || key[i] == '\\' {
			return 0
		}
		w = w<<8 | uint64(key[i])
	}
	return w
}

// hashWord returns a key's hash, given the word that keyWord returns for the key.
func hashWord(w uint64) uint32 {
	high, low := bits.Mul64(w^secrets[0], secrets[1])
	return uint32(high ^ low)
}

func unescapeSegment(s string, escapes int) string {
	b := make([]byte, 0, len(s)-escapes)
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' {
			i++
		}
		b = append(b, s[i])
	}
	return string(b)
}

// canonicalIndex parses an array index: a decimal integer of at most 64 bits, without a sign
// or leading zeros.
func canonicalIndex(s string) (uint64, bool) {
	if s == "" || !isDigit(s[0]) || s[0] == '0' && len(s) > 1 {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil
}

// String returns the normal form of f.
func (f *Filter) String() string {
	if f == nil || f.text == "" {
		return "{}"
	}
	return f.text
}

// MatchAll reports whether f is the empty filter, which matches every document.
func (f *Filter) MatchAll() bool { return f == nil || len(f.clauses) == 0 }

// Uses reports whether f has a path that begins at r. A document need not set roots that no
// filter uses.
func (f *Filter) Uses(r Root) bool { return f != nil && f.roots&(1<<r) != 0 }
