package iiitest

import "slices"

// recent keeps the newest items, up to a maximum number and a maximum total size. It is not
// safe for concurrent use.
type recent[T any] struct {
	maxItems, maxBytes int
	size               func(T) int
	forget             func(T) // called for each dropped item if not nil

	list      []T
	bytes     int
	forgotten uint64
}

func (r *recent[T]) add(v T) {
	r.list = append(r.list, v)
	r.grown(r.size(v))
}

// grown adds n to the total size. n is the size of a new item or the growth of an existing
// one.
func (r *recent[T]) grown(n int) {
	r.bytes += n
	drop := 0
	for drop < len(r.list) && (len(r.list)-drop > r.maxItems || r.bytes > r.maxBytes) {
		r.bytes -= r.size(r.list[drop])
		if r.forget != nil {
			r.forget(r.list[drop])
		}
		drop++
	}
	clear(r.list[:drop])
	r.list = r.list[drop:]
	r.forgotten += uint64(drop)
}

func (r *recent[T]) clear() { r.list, r.bytes = nil, 0 }

func (r *recent[T]) all() []T { return slices.Clone(r.list) }
