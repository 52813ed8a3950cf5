// Package fifo provides a first-in, first-out queue.
package fifo

// minCompact is the number of popped elements above which Push may move the remaining elements
// to the front.
const minCompact = 64

// Queue is a first-in, first-out queue. Its memory stays proportional to its length, even if
// it never becomes empty. The zero value is an empty queue. A Queue is not safe for concurrent
// use.
type Queue[T any] struct {
	elements []T
	head     int // elements[:head] have been popped
}

// Len returns the number of elements.
func (q *Queue[T]) Len() int { return len(q.elements) - q.head }

// Push appends v.
func (q *Queue[T]) Push(v T) {
	if q.head > minCompact && q.head > len(q.elements)/2 {
		n := copy(q.elements, q.elements[q.head:])
		clear(q.elements[n:])
		q.elements, q.head = q.elements[:n], 0
	}
	q.elements = append(q.elements, v)
}

// PushFront inserts elements before the oldest element, keeping their order.
func (q *Queue[T]) PushFront(elements ...T) {
	q.elements, q.head = append(elements, q.elements[q.head:]...), 0
}

// Pop removes and returns the oldest element. The queue must not be empty.
func (q *Queue[T]) Pop() T {
	var zero T
	v := q.elements[q.head]
	q.elements[q.head] = zero
	if q.head++; q.head == len(q.elements) {
		q.elements, q.head = q.elements[:0], 0
	}
	return v
}

// First returns a pointer to the oldest element, or nil if the queue is empty. The
// pointer is valid until the queue changes.
func (q *Queue[T]) First() *T {
	if q.Len() == 0 {
		return nil
	}
	return &q.elements[q.head]
}

// Last returns a pointer to the newest element, or nil if the queue is empty. The
// pointer is valid until the queue changes.
func (q *Queue[T]) Last() *T {
	if q.Len() == 0 {
		return nil
	}
	return &q.elements[len(q.elements)-1]
}

// All returns the elements, oldest first. The slice is valid until the queue changes.
func (q *Queue[T]) All() []T { return q.elements[q.head:] }

// Clear removes all elements but keeps the allocated memory.
func (q *Queue[T]) Clear() {
	clear(q.elements)
	q.elements, q.head = q.elements[:0], 0
}
