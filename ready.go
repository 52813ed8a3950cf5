package iii

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// Ready returns nil when this worker serves all that it has registered: it is connected, it does
// not drain, and the engine has accepted every function and trigger. Otherwise the error joins
// all reasons, in the order of the program, among them an [ErrNotConnected] with the latest
// failure, [ErrDraining], [ErrClosed], the *[RejectedError] of each function that another worker
// holds and the *[Error] of each refused trigger. What the engine has not answered yet is a
// reason as well, for a moment after a registration. A trigger whose type nobody provides, and
// one whose function belongs to another worker, are accepted. Of observers, those in error are a
// reason, and those that are pending or suspended are none.
//
// It waits for nothing. [Client.ReadyHandler] is made of it.
func (c *Client) Ready() error {
	return c.readiness().err()
}

// Draining reports whether the client has begun to end: since [Client.Shutdown] or
// [Client.Close] was called, the context of [Client.Run] ended, or a fatal error occurred. It
// stays true. [Stopping] has the same for handlers, as a channel.
func (c *Client) Draining() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.draining
}

// ReadyHandler serves the readiness probe of an orchestrator: 200 if [Client.Ready] returns nil,
// else 503, with the body
//
//	{"ready":false,"standby":["orders::create"],"reasons":["…"]}
//
// If the only reasons are functions that another live worker holds, and triggers that wait for
// them, the status is 200, too: in a rolling update the old instance holds them until it ends,
// and an orchestrator that waits for the readiness of the new one would never end it. "standby"
// has their ids; "ready" is false then. With ?strict=1 a standby is a 503.
//
// The reasons name functions, triggers and workers: serve it on an internal port. GET and HEAD
// are answered. It may be called at any time, from several goroutines at once.
func (c *Client) ReadyHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		state := c.readiness()
		answer := struct {
			Ready   bool     `json:"ready"`
			Standby []string `json:"standby"`
			Reasons []string `json:"reasons"`
		}{len(state.reasons) == 0, append([]string{}, state.standby...), []string{}}
		for _, reason := range state.reasons {
			answer.Reasons = append(answer.Reasons, trimmed(reason).Error())
		}
		strict, _ := strconv.ParseBool(strings.TrimSpace(r.URL.Query().Get("strict")))
		probe(w, r, answer.Ready || !strict && !state.blocked, answer)
	})
}

// LiveHandler serves the liveness probe of an orchestrator: 200 until the client has ended for
// good, then 503, with the body {"live":true}, or {"live":false,"reason":"…"}. A client that is
// not connected, or drains, lives: to restart it would help nobody. GET and HEAD are answered.
func (c *Client) LiveHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := struct {
			Live   bool   `json:"live"`
			Reason string `json:"reason,omitempty"`
		}{Live: true}
		select {
		case <-c.done:
			answer.Live, answer.Reason = false, trimmed(c.endError()).Error()
		default:
		}
		probe(w, r, answer.Live, answer)
	})
}

// probe answers a probe.
func probe(w http.ResponseWriter, r *http.Request, good bool, answer any) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
		return
	}
	body, err := json.Marshal(answer)
	if err != nil { // texts and flags always encode
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !good {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = w.Write(append(body, '\n')) // the prober may have gone; net/http sends no body to HEAD
}

// readiness is why a client is not ready.
type readiness struct {
	reasons []error
	standby []string // ids of functions that another live worker holds
	blocked bool     // there is another reason than these
}

func (r *readiness) add(reason error) { r.reasons, r.blocked = append(r.reasons, reason), true }

// hold adds a reason that ends when another worker does.
func (r *readiness) hold(functionID string, reason error) {
	r.reasons = append(r.reasons, reason)
	for _, id := range r.standby {
		if id == functionID {
			return
		}
	}
	r.standby = append(r.standby, functionID)
}

// err joins the reasons.
func (r *readiness) err() error { return errors.Join(r.reasons...) }

func (c *Client) readiness() *readiness {
	state := &readiness{}
	c.mu.Lock()
	ended, draining, connected, cause := c.ended, c.draining, c.state == ConnectionStateConnected, c.lastError
	c.mu.Unlock()
	switch {
	case ended:
		state.add(c.endError())
		return state
	case draining:
		state.add(fmt.Errorf("iii: not ready: %w", trimmed(ErrDraining)))
	}
	switch {
	case connected:
	case cause != nil:
		state.add(fmt.Errorf("%w: %w", ErrNotConnected, trimmed(cause)))
	default:
		state.add(ErrNotConnected)
	}
	if !draining { // the registrations are taken back
		c.registry.addReasons(state, connected)
	}
	return state
}

// addReasons adds what the engine has refused and, while the client is connected, what it has
// not accepted.
func (r *registry) addReasons(state *readiness, connected bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, f := range r.functions {
		refusal := f.refused.Load()
		switch {
		case f.quiet && refusal != nil && refusal.Code == CodeUnsupported: // engines with triggers need no such function
		case refusal != nil && refusal.OwnerWorkerID != "":
			state.hold(f.id, refusal)
		case refusal != nil:
			state.add(refusal)
		case connected && f.standing != accepted:
			state.add(fmt.Errorf("iii: function %q: the engine has not answered the registration yet", f.id))
		}
	}
	for _, t := range r.triggers {
		if o := t.observer; o != nil {
			if o.state == ObserverStateError {
				state.add(fmt.Errorf("iii: observer %q with target %s: %w", t.id, t.functionID, trimmed(o.reason)))
			}
			continue
		}
		refusal, f := t.refused.Load(), r.target(t)
		switch {
		case refusal != nil && t.contested:
			state.hold(t.functionID, fmt.Errorf("iii: trigger %q of %s: another worker holds its route or id: %w", t.id, t.functionID, trimmed(refusal)))
		case refusal != nil:
			state.add(fmt.Errorf("iii: trigger %q of %s: %w", t.id, t.functionID, trimmed(refusal)))
		case !connected:
		case !t.sent && f != nil && (f.refused.Load() != nil && f.refused.Load().OwnerWorkerID != "" || f.standing == accepted):
			state.hold(t.functionID, fmt.Errorf("iii: trigger %q of %s waits for the former owner of the function to go", t.id, t.functionID))
		case !t.sent || t.standing != accepted:
			state.add(fmt.Errorf("iii: trigger %q of %s: the engine has not answered the registration yet", t.id, t.functionID))
		}
	}
}
