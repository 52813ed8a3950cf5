package console

import (
	"encoding/json"
	"hash/maphash"
	"net/http"
	"slices"
	"time"
)

const (
	// tick is the interval at which an event stream checks for changes.
	tick = 100 * time.Millisecond
	// maxPerTick is the maximum number of changed invocations sent in one tick. The rest are
	// sent in later ticks, unless the Recorder drops them first.
	maxPerTick = 200
	// slowEvery is the number of ticks between checks of the stores. pulseEvery is the number
	// of ticks between pulses.
	slowEvery  = 5
	pulseEvery = 10
	// patience is the maximum time that sending an event may take.
	patience = 10 * time.Second
)

// pulse is an event that is sent every second.
type pulse struct {
	ActivitySecond
	Running int `json:"running"`
}

// serveEvents sends changes to a page until the page closes or the engine shuts down. It polls
// the engine, so the engine never waits for a page.
func (c *console) serveEvents(w http.ResponseWriter, r *http.Request) {
	select {
	case c.viewers <- struct{}{}:
		defer func() { <-c.viewers }()
	default:
		http.Error(w, "too many pages are open", http.StatusServiceUnavailable)
		return
	}
	s := stream{w: w, control: http.NewResponseController(w)}
	w.Header().Set("Content-Type", "text/event-stream")
	seen, stored, registered := c.recorder.latest(), c.source.Changes(), c.registryHash()
	if !s.send("engine", c.source.Engine()) {
		return
	}
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for n := 1; ; n++ {
		var now time.Time
		select {
		case now = <-ticker.C:
		case <-r.Context().Done():
			return
		case <-c.ended.Done():
			return
		}
		var list []Invocation
		if list, seen = c.recorder.since(seen, maxPerTick); len(list) > 0 && !s.send("invocations", summaries(list)) {
			return
		}
		if n%slowEvery == 0 {
			if changes := c.source.Changes(); changes != stored {
				what := stored.differences(changes)
				if stored = changes; !s.send("changed", what) {
					return
				}
			}
		}
		if n%pulseEvery == 0 {
			if hash := c.registryHash(); hash != registered {
				if registered = hash; !s.send("changed", []string{"registry"}) {
					return
				}
			}
			last, running := c.recorder.pulse(now)
			if !s.send("pulse", pulse{last, running}) {
				return
			}
		}
	}
}

// differences returns the sorted names of the counters that differ between a and b.
func (a Changes) differences(b Changes) []string {
	var what []string
	for name, changed := range map[string]bool{
		"spans": a.Spans != b.Spans, "logs": a.Logs != b.Logs, "metrics": a.Metrics != b.Metrics,
		"state": a.State != b.State, "streams": a.Streams != b.Streams, "queues": a.Queues != b.Queues,
	} {
		if changed {
			what = append(what, name)
		}
	}
	slices.Sort(what)
	return what
}

var seed = maphash.MakeSeed()

// registryHash returns a hash for detecting changes to the registry.
func (c *console) registryHash() uint64 {
	b, _ := json.Marshal(c.source.Registry())
	return maphash.Bytes(seed, b)
}

// stream writes server-sent events.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

// send sends an event. It returns false if the page has closed or is too slow.
func (s stream) send(event string, v any) bool {
	data, err := json.Marshal(v)
	if err != nil {
		return false
	}
	_ = s.control.SetWriteDeadline(time.Now().Add(patience))
	b := append([]byte("event: "+event+"\ndata: "), data...)
	if _, err := s.w.Write(append(b, "\n\n"...)); err != nil {
		return false
	}
	return s.control.Flush() == nil
}
