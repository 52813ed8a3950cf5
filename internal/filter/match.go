package filter

import (
	"bytes"
	"cmp"
	"encoding/json"
	"math"
	"slices"
)

// Document describes one call as raw JSON. A nil field is absent, which is not the same as
// null.
//
// The fields must hold valid JSON. Otherwise, the result of a match is unspecified but
// deterministic.
type Document struct {
	Input, Output, Error, Caller, Metadata json.RawMessage
}

func (d *Document) root(r Root) []byte {
	switch r {
	case Input:
		return d.Input
	case Output:
		return d.Output
	case ErrorRoot:
		return d.Error
	case Caller:
		return d.Caller
	}
	return d.Metadata
}

// Matches reports whether f matches d. It allocates only to compare numbers of more than 32
// characters.
func (f *Filter) Matches(d *Document) bool {
	if f == nil {
		return true
	}
	if f.paths < viewFrom {
		m := match{doc: d}
		if len(f.clauses) == 1 && f.clauses[0].path != nil {
			// Most filters have one clause. For these, m.all is inlined here.
			c := &f.clauses[0]
			v := m.resolve(c.path, nil)
			if o := &c.ops[0]; o.kind == opEq && len(c.ops) == 1 {
				return equal(v, o.operand)
			}
			return m.operators(c.ops, v)
		}
		return m.all(f.clauses, nil)
	}
	v := d.view(f.paths)
	m := match{d, v}
	holds := m.all(f.clauses, nil)
	v.release()
	return holds
}

// match holds the state needed to evaluate filters against one document.
type match struct {
	doc  *Document
	view *view // nil to scan the document for each path
}

// resolve returns the value at p, or an empty slice if it is absent. elem is the current $any
// element.
func (m *match) resolve(p *path, elem []byte) []byte {
	if p.root == element {
		return resolve(elem, p.start)
	}
	if m.view != nil {
		return m.view.resolve(p)
	}
	raw := m.doc.root(p.root)
	if p.start == nil {
		return whole(raw)
	}
	i := skipSpace(raw, 0)
	if i < len(raw) && raw[i] == '{' {
		start, stop, _ := find(raw, i, p.start, true)
		return raw[start:stop]
	}
	start, stop, _ := follow(raw, i, p.start)
	return raw[start:stop]
}

// all reports whether all clauses hold. elem is the current $any element.
func (m *match) all(clauses []clause, elem []byte) bool {
	for i := 0; i < len(clauses); {
		c := &clauses[i]
		i++
		if c.path == nil {
			if !m.combine(c, elem) {
				return false
			}
			continue
		}
		v := m.resolve(c.path, elem)
		for {
			var holds bool
			if o := &c.ops[0]; o.kind == opEq && len(c.ops) == 1 {
				holds = equal(v, o.operand)
			} else {
				holds = m.operators(c.ops, v)
			}
			if !holds || i == len(clauses) {
				return holds
			}
			if c = &clauses[i]; !c.same {
				break
			}
			i++
		}
	}
	return true
}

// combine evaluates $or and $not.
func (m *match) combine(c *clause, elem []byte) bool {
	if c.key == "$not" {
		return !m.all(c.filters[0], elem)
	}
	for _, f := range c.filters {
		if m.all(f, elem) {
			return true
		}
	}
	return false
}

// operators reports whether all operators hold for the value v, which is empty if it is
// absent.
func (m *match) operators(ops []op, v []byte) bool {
	for i := range ops {
		if !m.operator(&ops[i], v) {
			return false
		}
	}
	return true
}

func (m *match) operator(o *op, v []byte) bool {
	switch o.kind {
	case opEq:
		return equal(v, o.operand)
	case opExists:
		return len(v) > 0 == o.operand.truth
	case opNe:
		return !equal(v, o.operand)
	case opNin:
		return len(v) == 0 || !o.set.has(v)
	}
	if len(v) == 0 {
		return false
	}
	switch o.kind {
	case opIn:
		return o.set.has(v)
	case opPrefix:
		return v[0] == '"' && hasPrefix(inner(v), o.operand.text)
	case opAny:
		return v[0] == '[' && m.any(o, v)
	}
	var order int
	switch {
	case kindOf(v) != o.operand.kind:
		return false
	case v[0] == '"':
		order = compareText(inner(v), o.operand.text)
	default:
		f := toFloat(v)
		if math.IsNaN(f) {
			return false
		}
		order = cmp.Compare(f, o.operand.num) // -0.0 equals 0
	}
	switch o.kind {
	case opGt:
		return order > 0
	case opGte:
		return order >= 0
	case opLt:
		return order < 0
	}
	return order <= 0
}

// any evaluates $any for the array v.
func (m *match) any(o *op, v []byte) bool {
	a := o.any
	l := searchFor(a.literal, v)
	if p := a.only(); p != nil {
		return m.anyMember(a.filter, v, p, l)
	}
	elements := elementsOf(v)
	for {
		at := elements.next
		elem, ok := elements.take()
		switch {
		case !ok || !l.in(v, at):
			return false
		case l.next >= at+len(elem):
		case a.byFilter && m.all(a.filter, elem), !a.byFilter && m.operators(a.ops, elem):
			return true
		}
	}
}

// search finds the elements of an array that contain a literal. Searching the array's text is
// faster than reading every element.
type search struct {
	literal []byte // nil to accept every element
	next    int    // the position of the next literal
}

// searchFor returns a search for the literal in the array b. If b contains escapes, the
// literal might be spelled differently, so the search accepts every element.
func searchFor(literal, b []byte) search {
	if literal != nil && bytes.IndexByte(b, '\\') >= 0 {
		literal = nil
	}
	return search{literal: literal}
}

// in reports whether the literal occurs in b at or after i, and advances the search to that
// occurrence.
func (s *search) in(b []byte, i int) bool {
	if s.next >= i || s.literal == nil {
		return true
	}
	n := bytes.Index(b[i:], s.literal)
	s.next = i + n
	return n >= 0
}

func (a *anyOf) only() *path {
	if !a.byFilter || len(a.filter) == 0 {
		return nil
	}
	p := a.filter[0].path
	if p == nil || p.start == nil {
		return nil
	}
	// All clauses must have the same path.
	for i := range a.filter[1:] {
		if !a.filter[i+1].same {
			return nil
		}
	}
	return p
}

// anyMember evaluates $any for a filter whose clauses share the path p. Looking up p in an
// object also finds the object's end, so each element is read only once.
func (m *match) anyMember(clauses []clause, b []byte, p *path, l search) bool {
	i, empty := firstItem(b, 0, ']')
	for !empty {
		if i < 0 || !l.in(b, i) {
			return false
		}
		if l.next > i {
			end := skipValue(b, i)
			if end < 0 {
				return false
			}
			if end <= l.next {
				i, empty = afterItem(b, end, ']')
				continue
			}
		}
		var v []byte
		var end int
		if i < len(b) && b[i] == '{' {
			var start, stop int
			start, stop, end = find(b, i, p.start, false)
			v = b[start:stop]
			if end < 0 { // members are malformed: skip the object
				end = skipValue(b, i)
			}
		} else if end = skipValue(b, i); end > 0 {
			v = resolve(b[i:end], p.start)
		}
		if end < 0 {
			return false
		}
		holds := true
		for j := range clauses {
			holds = holds && m.operators(clauses[j].ops, v)
		}
		if holds {
			return true
		}
		i, empty = afterItem(b, end, ']')
	}
	return false
}

// equal reports whether the raw JSON value deeply equals x. An empty raw equals nothing.
func equal(raw []byte, x *value) bool {
	if len(raw) == 0 {
		return false
	}
	if x.kind == number {
		if n, ok := integer(raw); ok {
			return float64(n) == x.num
		}
	}
	if kindOf(raw) != x.kind {
		return false
	}
	switch x.kind {
	case null:
		return true
	case boolean:
		return raw[0] == 't' == x.truth
	case number:
		return parseNumber(raw) == x.num
	case text:
		return equalText(inner(raw), x.text)
	case array:
		return equalArray(raw, x.list)
	}
	if len(x.list) <= 64 {
		var seen [1]uint64
		return equalObject(raw, x.list, seen[:])
	}
	return equalLargeObject(raw, x.list)
}

// equalText reports whether raw, the contents of a JSON string, equals s.
func equalText(raw []byte, s string) bool {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw) == s
	}
	order, _ := compareEscaped(raw, s)
	return order == 0
}

func equalArray(raw []byte, items []member) bool {
	elements := elementsOf(raw)
	for i := range items {
		v, ok := elements.take()
		if !ok || !equal(v, &items[i].value) {
			return false
		}
	}
	_, more := elements.take()
	return !more
}

// maxMembers is the maximum number of members that an object can have in a filter accepted by
// Parse. Each member takes at least four bytes. Only filters announced by the engine can
// contain larger objects.
const maxMembers = maxSize / 4

func equalLargeObject(raw []byte, members []member) bool {
	if len(members) > maxMembers {
		return equalObject(raw, members, make([]uint64, (len(members)+63)/64))
	}
	var seen [maxMembers / 64]uint64
	return equalObject(raw, members, seen[:(len(members)+63)/64])
}

// equalObject reports whether raw, an object, equals the object with the given members. It
// makes one pass over raw. Bit j of equals records whether the latest member of raw with the
// key of members[j] has an equal value. All bits must initially be 0.
func equalObject(raw []byte, members []member, equals []uint64) bool {
	i, last := firstItem(raw, 0, '}')
	for !last {
		keyEnd, _, start, end := nextMember(raw, i)
		if end < 0 {
			return false
		}
		j, ok := slices.BinarySearchFunc(members, raw[i+1:keyEnd], func(m member, key []byte) int { return -compareText(key, m.key) })
		if !ok {
			return false
		}
		equals[j/64] &^= 1 << (j % 64)
		if equal(raw[start:end], &members[j].value) {
			equals[j/64] |= 1 << (j % 64)
		}
		i, last = afterItem(raw, end, '}')
	}
	if i < 0 {
		return false
	}
	for j := range members {
		if equals[j/64]&(1<<(j%64)) == 0 {
			return false
		}
	}
	return true
}

// set is the operand of $in or $nin. Its scalars are sorted for binary search.
type set struct {
	null, truth, falsity bool
	numbers              []float64
	texts                []string
	others               []*value
}

func newSet(items []member) *set {
	s := new(set)
	for i := range items {
		switch x := &items[i].value; x.kind {
		case null:
			s.null = true
		case boolean:
			s.truth = s.truth || x.truth
			s.falsity = s.falsity || !x.truth
		case number:
			s.numbers = append(slices.Grow(s.numbers, len(items)-i), x.num)
		case text:
			s.texts = append(slices.Grow(s.texts, len(items)-i), x.text)
		default:
			s.others = append(s.others, x)
		}
	}
	slices.Sort(s.numbers)
	slices.Sort(s.texts)
	return s
}

// has reports whether raw equals an item in the set.
func (s *set) has(raw []byte) bool {
	switch kindOf(raw) {
	case null:
		return s.null
	case boolean:
		return raw[0] == 't' && s.truth || raw[0] == 'f' && s.falsity
	case number:
		if len(s.numbers) == 0 {
			return false
		}
		f := toFloat(raw)
		low, high := 0, len(s.numbers)
		for low < high {
			if middle := (low + high) / 2; s.numbers[middle] < f {
				low = middle + 1
			} else {
				high = middle
			}
		}
		return low < len(s.numbers) && s.numbers[low] == f
	case text:
		low, high := 0, len(s.texts)
		for low < high {
			if middle := (low + high) / 2; compareText(inner(raw), s.texts[middle]) > 0 {
				low = middle + 1
			} else {
				high = middle
			}
		}
		return low < len(s.texts) && compareText(inner(raw), s.texts[low]) == 0
	}
	for _, x := range s.others {
		if equal(raw, x) {
			return true
		}
	}
	return false
}
