package iii

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// Ready returns nil when this worker serves everything it has registered: it is connected, it is
// not draining, and the engine has accepted every function and trigger. Otherwise the error
// joins all reasons, in the order of the program. Among them are an [ErrNotConnected] with the
// latest failure, [ErrDraining], [ErrClosed], the *[RejectedError] of each function that another
// worker holds and the *[Error] of each rejected trigger. A registration that the engine has not
// answered yet is also a reason, for a moment after it is made. A trigger counts as accepted
// even if no worker provides its type, or if its function belongs to another worker. An observer
// in error is a reason; a pending or suspended observer is not.
//
// Ready does not block. [Client.ReadyHandler] is built on it.
func (c *Client) Ready() error {
	return c.readiness().err()
}

// Draining reports whether the client has begun to end: [Client.Shutdown] or [Client.Close] was
// called, the context of [Client.Run] ended, or a fatal error occurred. Once true, it stays
// true. For handlers, [Stopping] provides the same as a channel.
func (c *Client) Draining() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.draining
}

// ReadyHandler returns a handler for an orchestrator's readiness probe. It responds with 200 if
// [Client.Ready] returns nil and with 503 otherwise, with the body
//
//	{"ready":false,"standby":["orders::create"],"reasons":["…"]}
//
// If the only reasons are functions that another live worker holds, and triggers that wait for
// them, the status is 200 as well: in a rolling update the old instance holds the functions
// until it ends, and an orchestrator that waited for the new instance to become ready would
// never end the old one. "standby" then lists their ids, and "ready" is false. With ?strict=1, a
// standby is a 503.
//
// The reasons name functions, triggers and workers, so serve the handler on an internal port. It
// accepts GET and HEAD. It is safe for concurrent use and may be created at any time.
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

// LiveHandler returns a handler for an orchestrator's liveness probe. It responds with 200 until
// the client has ended permanently, and with 503 after that; the body is {"live":true} or
// {"live":false,"reason":"…"}. A client that is disconnected or draining is live, because a
// restart would not help. The handler accepts GET and HEAD.
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

// probe writes the response to a probe.
func probe(w http.ResponseWriter, r *http.Request, good bool, answer any) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
		return
	}
	body, err := json.Marshal(answer)
	if err != nil { // texts and booleans always encode
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !good {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = w.Write(append(body, '\n')) // the prober may have left; net/http sends no body for HEAD
}

// readiness collects the reasons why a client is not ready.
type readiness struct {
	reasons []error
	standby []string // ids of functions that another live worker holds
	blocked bool     // there is a reason other than these
}

func (r *readiness) add(reason error) { r.reasons, r.blocked = append(r.reasons, reason), true }

// hold adds a reason that ends when another worker ends.
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
	if !draining { // registrations are being removed
		c.registry.addReasons(state, connected)
	}
	return state
}

// addReasons adds the registrations that the engine has rejected and, while the client is
// connected, those that it has not accepted yet.
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
			state.hold(t.functionID, fmt.Errorf("iii: trigger %q of %s waits for the previous owner of the function to leave", t.id, t.functionID))
		case !t.sent || t.standing != accepted:
			state.add(fmt.Errorf("iii: trigger %q of %s: the engine has not answered the registration yet", t.id, t.functionID))
		}
	}
}
