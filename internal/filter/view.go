package filter

import (
	"bytes"
	"hash/maphash"
	"math"
	"sync"
)

// viewFrom is the smallest number of paths for which building a view is cheaper than scanning
// the document once per path.
const viewFrom = 3

// view caches the positions of object members in a document. Each object is scanned at most
// once, however many paths lead through it.
type view struct {
	texts [element][]byte
	nodes []node  // the roots, then the members of every object scanned so far
	slots []int32 // hash tables of large objects: 1 + index into nodes
	buf   []byte  // scratch space for a decoded key
}

// node locates a value in the JSON text of a root.
type node struct {
	start, end       int32  // end is 0 until it is known
	keyStart, keyEnd int32  // set for members of objects
	word             uint64 // the key of a member, like segment.word
	hash             uint32
	first, count     int32 // the members, a range of view.nodes
	table, size      int32 // the hash table, a range of view.slots
	again            bool  // set by the first lookup of a member
	escaped          bool  // the key contains escapes
	read             bool  // first and count are set
}

// maxText is the maximum size of a root in bytes. Positions in a larger root might not fit in
// an int32.
const maxText = math.MaxInt32

// hashFrom is the minimum number of members for which an object gets a hash table. The table
// is built on the second lookup in the object.
const hashFrom = 9

var views = sync.Pool{New: func() any { return new(view) }}

// view returns a pooled view of the document, for resolving about n paths. It returns nil if a
// view would not pay off or the document is too large.
func (d *Document) view(n int) *view {
	if n < viewFrom || max(len(d.Input), len(d.Output), len(d.Error), len(d.Caller), len(d.Metadata)) > maxText {
		return nil
	}
	v := views.Get().(*view)
	v.texts = [element][]byte{d.Input, d.Output, d.Error, d.Caller, d.Metadata}
	v.nodes = append(v.nodes, make([]node, element)...)
	return v
}

// maxKept is the maximum capacity, in nodes, of a pooled view.
const maxKept = 1 << 14

// release returns v to the pool. It does nothing if v is nil.
func (v *view) release() {
	if v == nil {
		return
	}
	if cap(v.nodes) > maxKept {
		v.nodes, v.slots = nil, nil
	}
	*v = view{nodes: v.nodes[:0], slots: v.slots[:0], buf: v.buf[:0]}
	views.Put(v)
}

// absent is returned instead of the index of a missing node.
const absent = -1

// resolve returns the value at p. The path must start at a root of the document, not at @.
func (v *view) resolve(p *path) []byte {
	b := v.texts[p.root]
	at := int(p.root)
	if n := &v.nodes[at]; n.end == 0 {
		n.start = int32(skipSpace(b, 0))
		// The end of an object is not needed to read its members.
		if p.start == nil || int(n.start) == len(b) || b[n.start] != '{' {
			n.end = int32(skipValue(b, int(n.start)))
		}
	}
	if v.nodes[at].end < 0 {
		return nil
	}
	for s := p.start; s != nil; s = s.next {
		if n := &v.nodes[at]; b[n.start] != '{' {
			// Array elements are not cached. Scan for the rest of the path.
			return resolve(b[n.start:n.end], s)
		}
		if at = v.member(b, at, s); at == absent {
			return nil
		}
	}
	n := &v.nodes[at]
	return b[n.start:n.end]
}

func (v *view) readObject(b []byte, at int) {
	first := len(v.nodes)
	if end := v.nodes[at].end; end > 0 {
		b = b[:end]
	}
	i, last := firstItem(b, int(v.nodes[at].start), '}')
	for !last {
		keyEnd, escaped, start, end := nextMember(b, i)
		if end < 0 {
			i = malformed
			break
		}
		w := uint64(0)
		if n := keyEnd - i; n <= 8 && !escaped {
			w = word(b, i+1) & (math.MaxUint64 >> (64 - 8*n))
		}
		v.nodes = append(v.nodes, node{start: int32(start), end: int32(end), keyStart: int32(i + 1), keyEnd: int32(keyEnd), word: w, escaped: escaped})
		i, last = afterItem(b, end, '}')
	}
	if i < 0 {
		v.nodes = v.nodes[:first]
	}
	n := &v.nodes[at]
	n.first, n.count, n.read = int32(first), int32(len(v.nodes)-first), true
}

// member looks up a key in an object and returns the index of the member's node. If the key is
// repeated, the last member wins.
func (v *view) member(b []byte, at int, s *segment) int {
	if !v.nodes[at].read {
		v.readObject(b, at)
	}
	n := &v.nodes[at]
	if n.count >= hashFrom && n.again {
		return v.hashed(b, n, s)
	}
	n.again = true
	for i := n.first + n.count - 1; i >= n.first; i-- {
		if v.nodes[i].has(b, s) {
			return int(i)
		}
	}
	return absent
}

func (n *node) has(b []byte, s *segment) bool {
	if n.word|s.word != 0 && !n.escaped {
		return n.word == s.word
	}
	return sameKey(b[n.keyStart:n.keyEnd], n.escaped, s.key)
}

// hashed is like member, but uses a hash table, which it builds if necessary.
func (v *view) hashed(b []byte, n *node, s *segment) int {
	if n.size == 0 {
		v.hash(b, n)
	}
	table := v.slots[n.table : n.table+n.size]
	for i := s.hash; ; i++ {
		at := table[i&uint32(n.size-1)]
		if at == 0 {
			return absent
		}
		if m := &v.nodes[at-1]; m.hash == s.hash && m.has(b, s) {
			return int(at - 1)
		}
	}
}

// hash builds an object's hash table. If several members have the same key, only the last one
// is added.
func (v *view) hash(b []byte, n *node) {
	n.size = 16
	for n.size < 2*n.count {
		n.size *= 2
	}
	n.table = int32(len(v.slots))
	v.slots = append(v.slots, make([]int32, n.size)...)
	table := v.slots[n.table:]
	for i := n.first + n.count - 1; i >= n.first; i-- {
		m := &v.nodes[i]
		key := v.key(b, m)
		w := m.word
		if m.escaped {
			w = keyWord(key)
		}
		if w != 0 {
			m.hash = hashWord(w)
		} else {
			m.hash = uint32(maphash.Bytes(seed, key))
		}
		for j := m.hash; ; j++ {
			slot := &table[j&uint32(n.size-1)]
			if *slot == 0 {
				*slot = i + 1
				break
			}
			if other := &v.nodes[*slot-1]; other.hash == m.hash && v.equalKeys(b, other, m, key) {
				break
			}
		}
	}
}

// key returns the decoded key of m. The result may alias v.buf.
func (v *view) key(b []byte, m *node) []byte {
	raw := b[m.keyStart:m.keyEnd]
	if !m.escaped {
		return raw
	}
	v.buf = appendUnescaped(v.buf[:0], raw)
	return v.buf
}

// equalKeys reports whether other and m have the same key. key is the decoded key of m.
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
