package fifo

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestQueueOrder(t *testing.T) {
	var q Queue[int]
	var want []int
	random := rand.New(rand.NewPCG(1, 2))
	for n := range 10_000 {
		switch k := random.IntN(20); {
		case k == 0:
			front := make([]int, random.IntN(5))
			for i := range front {
				front[i] = -n - i
			}
			want = append(slices.Clone(front), want...)
			q.PushFront(front...)
		case k == 1 && n%50 == 0:
			want = want[:0]
			q.Clear()
		case k < 11:
			want = append(want, n)
			q.Push(n)
		case len(want) > 0:
			if got := q.Pop(); got != want[0] {
				t.Fatalf("step %d: Pop = %d, want %d", n, got, want[0])
			}
			want = want[1:]
		}
		if q.Len() != len(want) || !slices.Equal(q.All(), want) {
			t.Fatalf("step %d (-want +got):\n%s", n, cmp.Diff(want, q.All()))
		}
		first, last := q.First(), q.Last()
		if len(want) == 0 {
			if first != nil || last != nil {
				t.Fatalf("step %d: an empty queue has a first or a last", n)
			}
		} else if *first != want[0] || *last != want[len(want)-1] {
			t.Fatalf("step %d: %d … %d, want %d … %d", n, *first, *last, want[0], want[len(want)-1])
		}
	}
}

// A queue that never becomes empty must not grow or retain popped elements.
func TestQueueMemory(t *testing.T) {
	var q Queue[*int]
	for range 10 {
		q.Push(new(int))
	}
	for range 100_000 {
		q.Push(new(int))
		q.Pop()
	}
	if n := cap(q.elements); n > 1000 {
		t.Errorf("a queue of 10 has room for %d", n)
	}
	kept := 0
	for _, p := range q.elements[:cap(q.elements)] {
		if p != nil {
			kept++
		}
	}
	if kept != q.Len() {
		t.Errorf("%d elements are referenced, %d are in the queue", kept, q.Len())
	}
}
