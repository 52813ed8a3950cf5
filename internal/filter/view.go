package filter

import (
	"bytes"
	"hash/maphash"
	"sync"
)

// viewFrom is the number of paths from which a view of the document costs less than a scan
// for each of them.
const viewFrom = 3

// view remembers where the members of a document's objects and the elements of its arrays
// are, so that many paths cost one pass over each object or array that they lead through.
// It holds offsets alone: what is in the pool keeps no document alive.
type view struct {
	texts [element][]byte
	nodes []node  // the roots, then the members and elements of all that was read
	slots []int32 // hash tables of the members of large objects: 1 + index into nodes
	buf   []byte  // a key without its escapes
}

// node is a value in the text of a root.
type node struct {
	start, end       int
	keyStart, keyEnd int // of a member
	hash             uint64
	first, count     int // its members or elements in view.nodes
	table, size      int // its hash table in view.slots
	lookups          int
	escaped          bool // the key has escapes
	read             bool // first and count are set
}

// hashFrom is the number of members from which a hash table is made, at the second lookup.
const hashFrom = 9

var views = sync.Pool{New: func() any { return new(view) }}

// takeView returns a view of d from the pool.
func takeView(d *Document) *view {
	v := views.Get().(*view)
	v.texts = [element][]byte{d.Input, d.Output, d.Error, d.Caller, d.Metadata}
	v.nodes = append(v.nodes, make([]node, element)...)
	return v
}

// maxKept is the number of nodes that a view in the pool may have room for.
const maxKept = 1 << 14

// release gives the view back to the pool.
func (v *view) release() {
	if cap(v.nodes) > maxKept {
		v.nodes, v.slots = nil, nil
	}
	*v = view{nodes: v.nodes[:0], slots: v.slots[:0], buf: v.buf[:0]}
	views.Put(v)
}

// absent is the index of a node that is not there.
const absent = -1

// resolve returns the value at a path that does not begin at an element.
func (v *view) resolve(p *path) ([]byte, bool) {
	b := v.texts[p.root]
	at := int(p.root)
	if n := &v.nodes[at]; n.end == 0 {
		n.start = skipSpace(b, 0)
		n.end = skipValue(b, n.start)
	}
	if v.nodes[at].end < 0 {
		return nil, false
	}
	for i := range p.segments {
		s := &p.segments[i]
		switch c := b[v.nodes[at].start]; {
		case c == '{':
			at = v.member(b, at, s)
		case c == '[' && s.isIndex:
			at = v.element(b, at, s.index)
		default:
			return nil, false
		}
		if at == absent {
			return nil, false
		}
	}
	n := &v.nodes[at]
	return b[n.start:n.end], true
}

// element returns an element of the array at.
func (v *view) element(b []byte, at int, index uint64) int {
	if !v.nodes[at].read {
		v.readArray(b, at)
	}
	if n := &v.nodes[at]; index < uint64(n.count) {
		return n.first + int(index)
	}
	return absent
}

func (v *view) readArray(b []byte, at int) {
	first, base := len(v.nodes), v.nodes[at].start
	elements := elementsOf(b[base:v.nodes[at].end])
	for {
		start := base + elements.next
		elem, ok := elements.take()
		if !ok {
			break
		}
		v.nodes = append(v.nodes, node{start: start, end: start + len(elem)})
	}
	v.setChildren(at, first)
}

// setChildren makes the nodes from first on the members or elements of the value at.
func (v *view) setChildren(at, first int) {
	n := &v.nodes[at]
	n.first, n.count, n.read = first, len(v.nodes)-first, true
}

func (v *view) readObject(b []byte, at int) {
	first := len(v.nodes)
	b = b[:v.nodes[at].end]
	i, last := firstItem(b, v.nodes[at].start, '}')
	for !last {
		keyEnd, escaped, start, end := nextMember(b, i)
		if end < 0 {
			i = malformed
			break
		}
		v.nodes = append(v.nodes, node{start: start, end: end, keyStart: i + 1, keyEnd: keyEnd, escaped: escaped})
		i, last = afterItem(b, end, '}')
	}
	if i < 0 {
		v.nodes = v.nodes[:first]
	}
	v.setChildren(at, first)
}

// member returns the last member of the object at with the key of s.
func (v *view) member(b []byte, at int, s *segment) int {
	if !v.nodes[at].read {
		v.readObject(b, at)
	}
	n := &v.nodes[at]
	n.lookups++
	if n.count >= hashFrom && n.lookups > 1 {
		return v.hashed(b, n, s)
	}
	for i := n.first + n.count - 1; i >= n.first; i-- {
		if v.nodes[i].has(b, s.key) {
			return i
		}
	}
	return absent
}

// has reports whether the key of a member is key.
func (n *node) has(b []byte, key string) bool {
	return sameKey(b[n.keyStart:n.keyEnd], n.escaped, key)
}

// hashed looks the key of s up in the hash table of an object.
func (v *view) hashed(b []byte, n *node, s *segment) int {
	if n.size == 0 {
		v.hash(b, n)
	}
	table := v.slots[n.table : n.table+n.size]
	for i := s.hash; ; i++ {
		at := table[i&uint64(n.size-1)]
		if at == 0 {
			return absent
		}
		if m := &v.nodes[at-1]; m.hash == s.hash && m.has(b, s.key) {
			return int(at - 1)
		}
	}
}

// hash makes the hash table of an object. The last member of a key is the one in it.
func (v *view) hash(b []byte, n *node) {
	n.size = 16
	for n.size < 2*n.count {
		n.size *= 2
	}
	n.table = len(v.slots)
	for range n.size {
		v.slots = append(v.slots, 0)
	}
	table := v.slots[n.table:]
	for i := n.first + n.count - 1; i >= n.first; i-- {
		m := &v.nodes[i]
		key := v.key(b, m)
		m.hash = maphash.Bytes(seed, key)
		for j := m.hash; ; j++ {
			slot := &table[j&uint64(n.size-1)]
			if *slot == 0 {
				*slot = int32(i + 1)
				break
			}
			if other := &v.nodes[*slot-1]; other.hash == m.hash && v.equalKeys(b, other, m, key) {
				break
			}
		}
	}
}

// key returns the key of a member without its escapes, in v.buf if there are any.
func (v *view) key(b []byte, m *node) []byte {
	raw := b[m.keyStart:m.keyEnd]
	if !m.escaped {
		return raw
	}
	v.buf = appendUnescaped(v.buf[:0], raw)
	return v.buf
}

// equalKeys reports whether the key of other is key, the key of m.
func (v *view) equalKeys(b []byte, other, m *node, key []byte) bool {
	if !other.escaped {
		return string(b[other.keyStart:other.keyEnd]) == string(key)
	}
	kept := len(key)
	if !m.escaped {
		return string(appendUnescaped(v.buf[:0], b[other.keyStart:other.keyEnd])) == string(key)
	}
	v.buf = appendUnescaped(v.buf[:kept], b[other.keyStart:other.keyEnd])
	return bytes.Equal(v.buf[kept:], v.buf[:kept])
}
