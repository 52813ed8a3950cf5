package filter

import "cmp"

// tree is an immutable, weight-balanced ordered map. put and remove return a new tree that
// shares all but O(log n) nodes with the old one. The nil tree is empty.
type tree[K cmp.Ordered, V any] struct {
	key         K
	value       V
	left, right *tree[K, V]
	size        int
}

func (t *tree[K, V]) len() int {
	if t == nil {
		return 0
	}
	return t.size
}

func (t *tree[K, V]) get(key K) (v V, ok bool) {
	for t != nil {
		switch {
		case key < t.key:
			t = t.left
		case key > t.key:
			t = t.right
		case key == t.key:
			return t.value, true
		default: // a NaN
			return v, false
		}
	}
	return v, false
}

// getText is like get, but takes a string key as bytes. It does not allocate.
func getText[V any](t *tree[string, V], key []byte) (v V, ok bool) {
	for t != nil {
		switch {
		case string(key) == t.key:
			return t.value, true
		case string(key) < t.key:
			t = t.left
		default:
			t = t.right
		}
	}
	return v, false
}

func (t *tree[K, V]) put(key K, v V) *tree[K, V] {
	switch {
	case t == nil:
		return &tree[K, V]{key: key, value: v, size: 1}
	case key < t.key:
		return balance(t, t.left.put(key, v), t.right)
	case key > t.key:
		return balance(t, t.left, t.right.put(key, v))
	}
	return join(&tree[K, V]{key: key, value: v}, t.left, t.right)
}

func (t *tree[K, V]) remove(key K) *tree[K, V] {
	switch {
	case t == nil:
		return nil
	case key < t.key:
		return balance(t, t.left.remove(key), t.right)
	case key > t.key:
		return balance(t, t.left, t.right.remove(key))
	case t.left == nil:
		return t.right
	case t.right == nil:
		return t.left
	}
	next := t.right
	for next.left != nil {
		next = next.left
	}
	return balance(next, t.left, t.right.remove(next.key))
}

// join returns a tree with the entry of t and the given subtrees.
func join[K cmp.Ordered, V any](t, left, right *tree[K, V]) *tree[K, V] {
	return &tree[K, V]{t.key, t.value, left, right, left.len() + right.len() + 1}
}

// balance is like join, but rebalances the tree after one subtree has gained or lost an entry.
// The factors 3 and 2 are known to keep such trees balanced.
func balance[K cmp.Ordered, V any](t, left, right *tree[K, V]) *tree[K, V] {
	l, r := left.len(), right.len()
	switch {
	case l+r < 2:
	case r > 3*l:
		if right.left.len() >= 2*right.right.len() {
			middle := right.left
			return join(middle, join(t, left, middle.left), join(right, middle.right, right.right))
		}
		return join(right, join(t, left, right.left), right.right)
	case l > 3*r:
		if left.right.len() >= 2*left.left.len() {
			middle := left.right
			return join(middle, join(left, left.left, middle.left), join(t, middle.right, right))
		}
		return join(left, left.left, join(t, left.right, right))
	}
	return join(t, left, right)
}

// walk iterates over a tree in key order.
type walk[K cmp.Ordered, V any] struct {
	path [maxHeight]*tree[K, V]
	n    int
}

// maxHeight bounds the height of a tree. A subtree holds at most three quarters of its
// parent's entries, so 88 levels suffice for 10^11 entries.
const maxHeight = 88

func (w *walk[K, V]) begin(t *tree[K, V]) {
	for ; t != nil; t = t.left {
		w.path[w.n] = t
		w.n++
	}
}

// next returns the next node, or nil after the last one.
func (w *walk[K, V]) next() *tree[K, V] {
	if w.n == 0 {
		return nil
	}
	w.n--
	t := w.path[w.n]
	w.begin(t.right)
	return t
}
