package filter

import (
	"cmp"
	"iter"
	"slices"
)

// Index finds the filters that match a document. It maps keys to filters and values, ordered
// by key. The zero value is an empty index. An Index must not be copied, except with Clone. Its
// methods are safe for concurrent use, except Insert, Remove and Clone.
//
// Insert and Remove take O(log n) time. They copy the nodes that an index shares with a clone,
// and change the other nodes in place.
//
// If possible, an entry is filed under one of its filter's conditions. A condition requires
// the value at a path to equal one of several scalars. Matching resolves each path once, then
// evaluates only the entries filed under the value found there and the entries without a
// condition.
type Index[V any] struct {
	owner *owner // of the nodes that are not shared with a clone, or nil if there are none
	all   *tree[string, *entry[V]]
	rest  *tree[string, *entry[V]]  // entries without a condition
	paths *tree[string, *filing[V]] // filings by path text
}

type entry[V any] struct {
	key    string
	filter *Filter
	value  V
	under  condition
}

// condition is the part of a filter under which an index files it. The condition holds if the
// value at path equals one of the scalars, which are distinct.
type condition struct {
	path    *path
	scalars []*value
	whole   bool // the filter has no other conditions
}

// filing holds the entries filed under one path.
type filing[V any] struct {
	owner                *owner
	path                 *path
	null, truth, falsity *tree[string, *entry[V]]
	numbers              *tree[float64, *tree[string, *entry[V]]]
	texts                *tree[string, *tree[string, *entry[V]]]
	count                int
}

// Indexable reports whether an index can file the filter under a condition.
func (f *Filter) Indexable() bool {
	for range f.conditions() {
		return true
	}
	return false
}

// conditions iterates over a filter's conditions in normal-form order.
func (f *Filter) conditions() iter.Seq[condition] {
	return func(yield func(condition) bool) {
		if f == nil {
			return
		}
		for i := range f.clauses {
			c := &f.clauses[i]
			for j := range c.ops {
				o := &c.ops[j]
				if scalars := o.scalars(); len(scalars) > 0 && !yield(condition{c.path, scalars, len(f.clauses)+len(c.ops) == 2}) {
					return
				}
			}
		}
	}
}

// scalars returns the distinct scalars for which the operator holds. It returns nil if the
// operator also holds for other values.
func (o *op) scalars() []*value {
	switch {
	case o.kind == opEq && o.operand.scalar():
		return []*value{o.operand}
	case o.kind != opIn || len(o.set.others) > 0:
		return nil
	}
	var all []*value
	for i := range o.operand.list {
		all = append(all, &o.operand.list[i].value)
	}
	slices.SortStableFunc(all, compareScalars)
	return slices.CompactFunc(all, func(a, b *value) bool { return compareScalars(a, b) == 0 })
}

func compareScalars(a, b *value) int {
	if a.kind == boolean && b.kind == boolean && a.truth != b.truth {
		if b.truth {
			return -1
		}
		return 1
	}
	if a.kind == text && b.kind == text {
		return cmp.Compare(a.text, b.text)
	}
	return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.num, b.num))
}

// Len returns the number of entries.
func (x *Index[V]) Len() int { return x.all.len() }

// Get returns the value stored under key.
func (x *Index[V]) Get(key string) (v V, ok bool) {
	e, ok := x.all.get(key)
	if !ok {
		return v, false
	}
	return e.value, true
}

// All iterates over keys and values in key order.
func (x *Index[V]) All() iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		var w walk[string, *entry[V]]
		for t := w.begin(x.all); t != nil; t = w.next() {
			if !yield(t.key, t.value.value) {
				return
			}
		}
	}
}

// Clone returns a copy of the index in constant time. Methods that read the index may run
// concurrently with Clone.
func (x *Index[V]) Clone() Index[V] {
	x.owner = nil
	return *x
}

// Insert adds an entry, which replaces any entry with the same key. A nil filter matches every
// document.
func (x *Index[V]) Insert(key string, f *Filter, v V) {
	x.Remove(key)
	if x.owner == nil {
		x.owner = new(owner)
	}
	e := &entry[V]{key: key, filter: f, value: v}
	// Prefer a condition with a single scalar, then the one with the fewest neighbors, then
	// the one with the fewest scalars.
	best := [3]int{}
	for c := range f.conditions() {
		cost := [3]int{0, x.neighbors(c), len(c.scalars)}
		if len(c.scalars) > 1 {
			cost[0] = 1
		}
		if e.under.path == nil || slices.Compare(cost[:], best[:]) < 0 {
			e.under, best = c, cost
		}
	}
	added := newEntry(key, e) // the trees share it
	x.all = x.all.put(x.owner, added)
	if e.under.path == nil {
		x.rest = x.rest.put(x.owner, added)
	} else {
		x.file(e, added)
	}
}

// Remove removes the entry for key, if there is one.
func (x *Index[V]) Remove(key string) {
	e, ok := x.all.get(key)
	if !ok {
		return
	}
	if x.owner == nil {
		x.owner = new(owner)
	}
	x.all = x.all.remove(x.owner, key)
	if e.under.path == nil {
		x.rest = x.rest.remove(x.owner, key)
	} else {
		x.file(e, nil)
	}
}

// neighbors returns the number of entries already filed under c's scalars.
func (x *Index[V]) neighbors(c condition) int {
	f, ok := x.paths.get(c.path.text)
	if !ok {
		return 0
	}
	n := 0
	for _, s := range c.scalars {
		n += f.under(s).len()
	}
	return n
}

// under returns the entries filed under s.
func (f *filing[V]) under(s *value) (t *tree[string, *entry[V]]) {
	switch {
	case s.kind == number:
		t, _ = f.numbers.get(s.num)
	case s.kind == text:
		t, _ = f.texts.get(s.text)
	case s.kind == null:
		t = f.null
	case s.truth:
		t = f.truth
	default:
		t = f.falsity
	}
	return t
}

// file adds e to the list of each scalar in e's condition. All of these lists share one tree,
// added, which holds e. If added is nil, file removes e from the lists instead.
func (x *Index[V]) file(e *entry[V], added *tree[string, *entry[V]]) {
	key := e.under.path.text
	f, ok := x.paths.get(key)
	if !ok || f.owner != x.owner {
		owned := filing[V]{path: e.under.path}
		if ok {
			owned = *f
		}
		owned.owner = x.owner
		f = &owned
		x.paths = x.paths.put(x.owner, newEntry(key, f))
	}
	if added != nil {
		f.count++
	} else if f.count--; f.count == 0 {
		x.paths = x.paths.remove(x.owner, key)
		return
	}
	for _, s := range e.under.scalars {
		list := f.under(s)
		if added != nil {
			list = list.put(x.owner, added)
		} else {
			list = list.remove(x.owner, e.key)
		}
		switch {
		case s.kind == number:
			f.numbers = replace(x.owner, f.numbers, s.num, list)
		case s.kind == text:
			f.texts = replace(x.owner, f.texts, s.text, list)
		case s.kind == null:
			f.null = list
		case s.truth:
			f.truth = list
		default:
			f.falsity = list
		}
	}
}

// replace stores a list under a scalar. If the list is empty, it removes the scalar instead.
func replace[K cmp.Ordered, V any](o *owner, lists *tree[K, *tree[string, V]], scalar K, list *tree[string, V]) *tree[K, *tree[string, V]] {
	if list == nil {
		return lists.remove(o, scalar)
	}
	return lists.put(o, newEntry(scalar, list))
}

// lookup returns the entries filed under raw, a value from a document.
func (f *filing[V]) lookup(raw []byte) (t *tree[string, *entry[V]]) {
	switch kindOf(raw) {
	case null:
		return f.null
	case boolean:
		if raw[0] == 't' {
			return f.truth
		}
		return f.falsity
	case number:
		if f.numbers != nil {
			t, _ = f.numbers.get(toFloat(raw))
		}
	case text:
		if f.texts == nil {
			return nil
		}
		key := inner(raw)
		if slices.Contains(key, '\\') {
			var buf [64]byte
			key = appendUnescaped(buf[:0], key)
		}
		t, _ = getText(f.texts, key)
	}
	return t
}

// found collects the candidate lists that the lookups for a document yield.
type found[V any] struct {
	count int // number of entries
	lists int
	few   [8]*tree[string, *entry[V]]
	more  []*tree[string, *entry[V]]
}

func (r *found[V]) add(t *tree[string, *entry[V]]) {
	if t == nil {
		return
	}
	if r.lists < len(r.few) {
		r.few[r.lists] = t
	} else {
		r.more = append(r.more, t)
	}
	r.lists++
	r.count += t.size
}

func (r *found[V]) list(i int) *tree[string, *entry[V]] {
	if i < len(r.few) {
		return r.few[i]
	}
	return r.more[i-len(r.few)]
}

func (r *found[V]) lookup(m *match, f *filing[V]) {
	if v := m.resolve(f.path, nil); len(v) > 0 {
		r.add(f.lookup(v))
	}
}

// find looks up the document's value at every path in the index.
func (x *Index[V]) find(m *match, r *found[V]) {
	r.add(x.rest)
	if x.paths.len() == 1 {
		r.lookup(m, x.paths.value)
		return
	}
	var w walk[string, *filing[V]]
	for t := w.begin(x.paths); t != nil; t = w.next() {
		r.lookup(m, t.value)
	}
}

// Candidates returns the number of entries left to evaluate after the lookups for a document.
// If the index has many paths for its size, or if the lookups rule out too few entries,
// [Index.AppendMatches] evaluates every entry instead.
func (x *Index[V]) Candidates(d *Document) int {
	v := d.view(x.paths.len())
	defer v.release()
	var r found[V]
	x.find(&match{d, v}, &r)
	return r.count
}

// AppendMatches appends the values of the entries that match the document, in key order. If a
// single lookup yields all candidates, as in an index whose conditions all concern one path,
// AppendMatches allocates only to grow dst.
func (x *Index[V]) AppendMatches(dst []V, d *Document) []V {
	if x.all == nil {
		return dst
	}
	var v *view
	m := match{doc: d}
	var r found[V]
	n := x.all.len()
	scan := 2*x.paths.len() > n
	if !scan {
		v = d.view(x.paths.len())
		m.view = v
		x.find(&m, &r)
		scan = r.count > 0 && 2*r.count >= n
	}
	if scan {
		r.count = n
	}
	if v == nil {
		v = d.view(r.count)
		m.view = v
	}
	switch {
	case scan:
		dst = appendHeld(dst, &m, x.all, false)
	case r.lists == 1:
		dst = appendHeld(dst, &m, r.few[0], true)
	case r.lists > 1:
		dst = appendMerged(dst, &m, &r)
	}
	v.release()
	return dst
}

// holds reports whether e's filter matches. lookedUp reports whether e was found under
// its condition, which then need not be checked again.
func (e *entry[V]) holds(m *match, lookedUp bool) bool {
	return lookedUp && e.under.whole || e.filter == nil || m.all(e.filter.clauses, nil)
}

// appendHeld appends the values of a list's matching entries.
func appendHeld[V any](dst []V, m *match, list *tree[string, *entry[V]], lookedUp bool) []V {
	if list.size == 1 {
		if e := list.value; e.holds(m, lookedUp) {
			dst = append(dst, e.value)
		}
		return dst
	}
	var w walk[string, *entry[V]]
	for t := w.begin(list); t != nil; t = w.next() {
		if t.value.holds(m, lookedUp) {
			dst = append(dst, t.value.value)
		}
	}
	return dst
}

// appendMerged is like appendHeld, but for several lists. The result is ordered by key.
func appendMerged[V any](dst []V, m *match, r *found[V]) []V {
	var buf [16]*entry[V]
	matched := buf[:0]
	runs := make([]int, 0, 8) // the end of each list's matches
	for i := range r.lists {
		var w walk[string, *entry[V]]
		for t := w.begin(r.list(i)); t != nil; t = w.next() {
			if t.value.holds(m, true) {
				matched = append(matched, t.value)
			}
		}
		runs = append(runs, len(matched))
	}
	merge(matched, runs)
	for _, e := range matched {
		dst = append(dst, e.value)
	}
	return dst
}

// merge sorts entries by key. The entries form sorted runs, and runs holds the end of each
// run.
func merge[V any](entries []*entry[V], runs []int) {
	if len(entries) <= 16 {
		for i := 1; i < len(entries); i++ {
			for j := i; j > 0 && entries[j].key < entries[j-1].key; j-- {
				entries[j], entries[j-1] = entries[j-1], entries[j]
			}
		}
		return
	}
	merged := make([]*entry[V], 0, len(entries))
	for len(runs) > 1 {
		merged = merged[:0]
		start := 0
		for i := range (len(runs) + 1) / 2 {
			end := runs[min(2*i+1, len(runs)-1)]
			a, b := entries[start:runs[2*i]], entries[runs[2*i]:end]
			for len(a) > 0 && len(b) > 0 {
				if a[0].key < b[0].key {
					merged, a = append(merged, a[0]), a[1:]
				} else {
					merged, b = append(merged, b[0]), b[1:]
				}
			}
			merged = append(append(merged, a...), b...)
			start, runs[i] = end, end
		}
		runs = runs[:(len(runs)+1)/2]
		copy(entries, merged)
	}
}
