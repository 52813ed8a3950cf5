package main

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/iii-go/iii"
)

// observed holds the members that only the step "observe" uses.
type observed struct {
	Target      string             `json:"target"`
	Args        json.RawMessage    `json:"args"`
	Filters     json.RawMessage    `json:"filters"`
	Capture     []iii.Capture      `json:"capture"`
	On          iii.ObserveOn      `json:"on"`
	Deliver     iii.ObserveDeliver `json:"deliver"`
	MaxFires    uint64             `json:"max_fires"`
	MaxInFlight uint32             `json:"max_in_flight"`
}

// observe registers an observer and waits until it is active.
func (p *peer) observe(ctx context.Context, s step) (any, error) {
	source := iii.Source{FunctionID: s.FunctionID, Capture: s.Capture, On: s.On, Deliver: s.Deliver}
	if s.Args != nil {
		source.Args = s.Args
	}
	if s.Filters != nil {
		source.Filters = s.Filters
	}
	var options []iii.ObserveOption
	if s.ID != "" {
		options = append(options, iii.WithObserverID(s.ID))
	}
	if s.Metadata != nil {
		options = append(options, iii.WithObserverMetadata(s.Metadata))
	}
	if s.MaxFires > 0 {
		options = append(options, iii.WithMaxFires(s.MaxFires))
	}
	if s.MaxInFlight > 0 {
		options = append(options, iii.WithMaxInFlight(s.MaxInFlight))
	}
	o, err := p.client.Observe(source, s.Target, options...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := o.Ready(ctx); err != nil {
		return nil, errors.Join(err, o.Dispose(context.WithoutCancel(ctx)))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.observers[o.ID()] = o
	return o.ID(), nil
}

// observing returns the state of one of this worker's observers and, if the observer failed,
// the error code.
func (p *peer) observing(s step) (any, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.observers[s.Handle]
	state := map[string]any{"state": o.State()}
	var e *iii.Error
	if errors.As(o.Err(), &e) {
		state["code"] = e.Code
	}
	return state, nil
}

// host registers a function that returns its payload. The step's kind selects the function's
// options.
func (p *peer) host(s step) error {
	var options []iii.FunctionOption
	switch s.Kind {
	case "hooks":
		options = append(options, iii.WithObserverHooks(iii.ObserverHooks{
			Added: func(ctx context.Context, o *iii.FunctionObserver) error {
				if o.Target == "go::unwanted" {
					return &iii.Error{Code: "UNWANTED", Message: "not this one"}
				}
				return p.tell(ctx, "added", map[string]any{"id": o.ID, "target": o.Target}, nil)
			},
			Removed: func(ctx context.Context, o *iii.FunctionObserver) {
				_ = p.tell(ctx, "removed", map[string]any{"id": o.ID}, nil) // if the report is lost, the scenario fails
			},
		}))
	case "args":
		options = append(options, iii.WithArgsSchema(s.Schema), iii.WithObserverHooks(iii.ObserverHooks{
			Match: func(o *iii.FunctionObserver, call *iii.ObservedCall) bool {
				return topic(o.Args()) == topic(call.Input)
			},
		}))
	case "through":
		options = append(options, iii.WithArgsSchema(s.Schema), iii.WithObserverHooks(iii.ObserverHooks{
			Deliver: func(ctx context.Context, call *iii.ObservedCall, observers []*iii.FunctionObserver) (any, error) {
				for _, o := range observers {
					if topic(o.Args()) == topic(call.Input) && o.Matches(call) {
						var out json.RawMessage
						err := o.Call(ctx, call.Input, &out)
						return out, err
					}
				}
				return nil, nil
			},
		}))
	case "private":
		options = append(options, iii.WithPrivate())
	}
	f, err := p.client.HandleFunc(s.FunctionID, func(_ context.Context, payload json.RawMessage) (any, error) { return payload, nil }, options...)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.functions[s.FunctionID] = f
	p.mu.Unlock()
	return f.Err()
}

// relay registers a function that reports each call to go::seen, then calls another function.
func (p *peer) relay(s step) error {
	f, err := p.client.HandleFunc(s.FunctionID, func(ctx context.Context, payload json.RawMessage) (any, error) {
		if err := p.tell(ctx, s.FunctionID, payload, nil); err != nil {
			return nil, err
		}
		return nil, p.client.Call(ctx, s.Target, map[string]any{}, nil)
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.functions[s.FunctionID] = f
	return err
}

// topic returns the topic in a call's payload or an observer's arguments.
func topic(raw json.RawMessage) string {
	var v struct{ Topic string }
	_ = json.Unmarshal(raw, &v) // the topic remains "" if there is none
	return v.Topic
}
