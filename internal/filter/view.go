package filter

import (
	"bytes"
	"hash/maphash"
	"math"
	"sync"
)

// viewFrom is the number of paths from which creating a view costs less than scanning the
// document once for each path.
const viewFrom = 3

// view remembers the positions of object members in a document, so that many paths share one
// pass over each object that they lead through. It holds only offsets, so a pooled view keeps
// no document alive.
type view struct {
	texts [element][]byte
	nodes []node  // the roots, followed by the members of all objects read
	slots []int32 // hash tables for the members of large objects: 1 + index into nodes
	buf   []byte  // a key with its escapes decoded
}

// node is a value in the text of a root.
type node struct {
	start, end       int32  // end is 0 if it is not known yet
	keyStart, keyEnd int32  // if it is a member
	word             uint64 // of a member, like segment.word
	hash             uint32
	first, count     int32 // its members in view.nodes
	table, size      int32 // its hash table in view.slots
	again            bool  // a member has been looked up before
	escaped          bool  // the key has escapes
	read             bool  // first and count have been set
}

// maxText is the maximum length of the texts for which a view can be created.
const maxText = math.MaxInt32

// hashFrom is the minimum number of members of an object for which a hash table is created.
// The table is created at the second lookup in the object.
const hashFrom = 9

var views = sync.Pool{New: func() any { return new(view) }}

// view returns a view of the document from the pool. It returns nil if a view would not speed
// up the resolution of about n paths.
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

// release returns the view to the pool. A nil view is ignored.
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

// absent is the index of a missing node.
const absent = -1

// resolve returns the value at a path that begins at a root of the document, not at an element
// of $any.
func (v *view) resolve(p *path) []byte {
	b := v.texts[p.root]
	at := int(p.root)
	if n := &v.nodes[at]; n.end == 0 {
		n.start = int32(skipSpace(b, 0))
		// Reading the members of an object finds its end, too.
		if p.start == nil || int(n.start) == len(b) || b[n.start] != '{' {
			n.end = int32(skipValue(b, int(n.start)))
		}
	}
	if v.nodes[at].end < 0 {
		return nil
	}
	for s := p.start; s != nil; s = s.next {
		if n := &v.nodes[at]; b[n.start] != '{' {
			// An array has only one element with that index, so scanning the remaining path is
			// cheap.
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

// member returns the index of the last member with the key of s in the object at index at, or
// absent.
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

// has reports whether a member has the key of s.
func (n *node) has(b []byte, s *segment) bool {
	if n.word|s.word != 0 && !n.escaped {
		return n.word == s.word
	}
	return sameKey(b[n.keyStart:n.keyEnd], n.escaped, s.key)
}

// hashed looks up the key of s in the hash table of an object.
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

// hash creates the hash table of an object. If several members have the same key, the table
// holds the last of them.
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

// key returns the key of a member. If the key has escapes, it is decoded into v.buf.
func (v *view) key(b []byte, m *node) []byte {
	raw := b[m.keyStart:m.keyEnd]
	if !m.escaped {
		return raw
	}
	v.buf = appendUnescaped(v.buf[:0], raw)
	return v.buf
}

// equalKeys reports whether the key of other equals key, which is the decoded key of m.
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
