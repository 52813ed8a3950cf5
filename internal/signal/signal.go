// Package signal has what goroutines tell each other with channels that are closed.
package signal

// Broadcast wakes every goroutine that waits for a change. The lock of what changes guards
// it. The zero value is ready for use.
type Broadcast struct{ changed chan struct{} }

// Wait returns a channel that is closed by the next Send.
func (b *Broadcast) Wait() <-chan struct{} {
	if b.changed == nil {
		b.changed = make(chan struct{})
	}
	return b.changed
}

// Send wakes those who wait.
func (b *Broadcast) Send() {
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
}

// IsClosed reports whether c, on which nothing is sent, is closed.
func IsClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
