package signal

import "testing"

func TestBroadcast(t *testing.T) {
	var b Broadcast
	b.Send() // no goroutine is waiting
	first, second := b.Wait(), b.Wait()
	if IsClosed(first) || IsClosed(second) {
		t.Fatal("closed before the first change that was waited for")
	}
	b.Send()
	later := b.Wait()
	if !IsClosed(first) || !IsClosed(second) || IsClosed(later) {
		t.Errorf("after a change: %v %v, want true true; the next: %v, want false", IsClosed(first), IsClosed(second), IsClosed(later))
	}
	b.Send()
	if !IsClosed(later) {
		t.Error("the second change was not reported")
	}
}
