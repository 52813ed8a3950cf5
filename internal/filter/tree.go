package filter

import (
	"cmp"
	"slices"
)

// tree is an ordered map. A nil tree is empty.
//
// A tree is either an entry or a node. The entries below a node all have the same distance
// from it, and each node below the root has at least minChildren children. Entries are
// immutable, and trees may share them.
//
// put and remove affect O(log n) nodes. They modify those that belong to the given owner in
// place, and replace the others with modified copies. Trees with different owners can
// therefore share nodes.
type tree[K cmp.Ordered, V any] struct {
	key      K // the lowest key below a node
	value    V // of an entry
	children []*tree[K, V]
	size     int // number of entries, 1 for an entry
	owner    *owner
}

// owner identifies an owner of nodes by its address. It has a field because pointers to
// distinct zero-size variables may be equal.
type owner struct{ _ byte }

// Bounds for the number of a node's children. A node with more than maxChildren children is
// split so that the left part stays almost full if keys are inserted in ascending order.
const (
	minChildren = 8
	maxChildren = 32
	kept        = maxChildren - minChildren // children of the left part
)

func newEntry[K cmp.Ordered, V any](key K, v V) *tree[K, V] {
	return &tree[K, V]{key: key, value: v, size: 1}
}

func (t *tree[K, V]) len() int {
	if t == nil {
		return 0
	}
	return t.size
}

// child returns the index of the last child whose key is not greater than key, or 0.
func (t *tree[K, V]) child(key K) int {
	low, high := 0, len(t.children)
	for high-low > 1 {
		middle := int(uint(low+high) / 2)
		if key < t.children[middle].key {
			high = middle
		} else {
			low = middle
		}
	}
	return low
}

func (t *tree[K, V]) get(key K) (v V, ok bool) {
	if t == nil {
		return v, false
	}
	for len(t.children) > 0 {
		t = t.children[t.child(key)]
	}
	if t.key == key {
		return t.value, true
	}
	return v, false
}

// getText is like get, for a string key that is given as bytes.
func getText[V any](t *tree[string, V], key []byte) (v V, ok bool) {
	if t == nil {
		return v, false
	}
	for len(t.children) > 0 {
		low, high := 0, len(t.children)
		for high-low > 1 {
			middle := int(uint(low+high) / 2)
			if string(key) < t.children[middle].key {
				high = middle
			} else {
				low = middle
			}
		}
		t = t.children[low]
	}
	if t.key == string(key) {
		return t.value, true
	}
	return v, false
}

// put adds the entry e, replacing any entry with the same key, and returns the tree.
func (t *tree[K, V]) put(o *owner, e *tree[K, V]) *tree[K, V] {
	if t == nil {
		return e
	}
	left, right := t.insert(o, e)
	if right == nil {
		return left
	}
	return &tree[K, V]{key: left.key, children: []*tree[K, V]{left, right}, size: left.size + right.size, owner: o}
}

// insert is like put, but if a single node cannot hold all children, right is a second node.
func (t *tree[K, V]) insert(o *owner, e *tree[K, V]) (left, right *tree[K, V]) {
	if len(t.children) == 0 {
		switch {
		case e.key < t.key:
			return e, t
		case e.key > t.key:
			return t, e
		}
		return e, nil
	}
	t = t.own(o)
	i := t.child(e.key)
	t.size -= t.children[i].size
	left, right = t.children[i].insert(o, e)
	t.children[i] = left
	t.key = t.children[0].key
	t.size += left.size
	if right == nil {
		return t, nil
	}
	t.children = slices.Insert(t.children, i+1, right)
	t.size += right.size
	if len(t.children) <= maxChildren {
		return t, nil
	}
	return t, t.split(o)
}

// own returns t if it belongs to o, and otherwise a copy that does.
func (t *tree[K, V]) own(o *owner) *tree[K, V] {
	if t.owner == o {
		return t
	}
	children := append(make([]*tree[K, V], 0, len(t.children)+1), t.children...)
	return &tree[K, V]{key: t.key, children: children, size: t.size, owner: o}
}

// split moves the last children of t, which belongs to o, to a new node.
func (t *tree[K, V]) split(o *owner) *tree[K, V] {
	rest := &tree[K, V]{key: t.children[kept].key, children: slices.Clone(t.children[kept:]), owner: o}
	for _, c := range rest.children {
		rest.size += c.size
	}
	t.children = slices.Delete(t.children, kept, len(t.children))
	t.size -= rest.size
	return rest
}

// remove removes the entry for the key, and returns the tree.
func (t *tree[K, V]) remove(o *owner, key K) *tree[K, V] {
	if _, ok := t.get(key); !ok {
		return t
	}
	t = t.without(o, key)
	if t != nil && len(t.children) == 1 {
		return t.children[0]
	}
	return t
}

// without is like remove, but may return a node with too few children. There must be an entry
// for the key.
func (t *tree[K, V]) without(o *owner, key K) *tree[K, V] {
	if len(t.children) == 0 {
		return nil
	}
	t = t.own(o)
	t.size--
	i := t.child(key)
	child := t.children[i].without(o, key)
	if child == nil {
		t.children = slices.Delete(t.children, i, i+1)
	} else if t.children[i] = child; len(child.children) < minChildren {
		t.combine(o, max(i, 1))
	}
	t.key = t.children[0].key
	return t
}

// combine merges child i into the previous child. If the result has too many children, it is
// split again. t must belong to o.
func (t *tree[K, V]) combine(o *owner, i int) {
	left, right := t.children[i-1].own(o), t.children[i]
	left.children = append(left.children, right.children...)
	left.size += right.size
	t.children[i-1] = left
	if len(left.children) > maxChildren {
		t.children[i] = left.split(o)
	} else {
		t.children = slices.Delete(t.children, i, i+1)
	}
}

// walk is an iteration over a tree in key order.
type walk[K cmp.Ordered, V any] struct {
	path [maxHeight][]*tree[K, V] // the remaining children of the nodes on the way to an entry
	n    int
}

// maxHeight bounds the height of a tree: a node below the root has at least eight children,
// so this suffices for 10^9 entries.
const maxHeight = 12

// begin returns the first entry, or nil if the tree is empty.
func (w *walk[K, V]) begin(t *tree[K, V]) *tree[K, V] {
	for t != nil && len(t.children) > 0 {
		w.path[w.n] = t.children[1:]
		w.n++
		t = t.children[0]
	}
	return t
}

// next returns the next entry, or nil at the end.
func (w *walk[K, V]) next() *tree[K, V] {
	for w.n > 0 {
		rest := w.path[w.n-1]
		if len(rest) > 0 {
			w.path[w.n-1] = rest[1:]
			return w.begin(rest[0])
		}
		w.n--
	}
	return nil
}
