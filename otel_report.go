package iii

import (
	"sync"
	"time"
)

// reportInterval is how often dropped telemetry is said at most.
const reportInterval = time.Minute

// dropReport says that something was dropped: at once, then once an interval.
type dropReport struct {
	say func() // must not block

	mu    sync.Mutex
	next  time.Time   // not before
	timer *time.Timer // runs when there is something to say
	ended bool
}

// note is called at each drop, and does not block.
func (r *dropReport) note() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer != nil || r.ended {
		return
	}
	r.timer = time.AfterFunc(time.Until(r.next), func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.timer == nil {
			return
		}
		r.timer = nil
		r.next = time.Now().Add(reportInterval)
		r.say()
	})
}

// finish says what is left to say.
func (r *dropReport) finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
		r.say()
	}
}
