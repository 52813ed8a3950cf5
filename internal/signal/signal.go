// Package signal lets goroutines signal each other by closing channels.
package signal

// Broadcast wakes all goroutines that are waiting for a state to change. The lock that guards
// the state must also guard the Broadcast. The zero value is ready to use.
type Broadcast struct{ changed chan struct{} }

// Wait returns a channel that is closed by the next Send.
func (b *Broadcast) Wait() <-chan struct{} {
	if b.changed == nil {
		b.changed = make(chan struct{})
	}
	return b.changed
}

// Send wakes all waiting goroutines.
func (b *Broadcast) Send() {
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
}

// IsClosed reports whether c is closed. It must not be used with a channel on which values are
// sent.
func IsClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
