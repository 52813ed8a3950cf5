package iii

import (
	"errors"
	"time"
)

// observeDialect is spoken by engines since 0.26: observers stand for triggers.
type observeDialect struct{ triggerDialect }

// answers reports true: each registration is answered.
func (observeDialect) answers(*claim) bool { return true }

var errNoObservers = errors.New("the engine does not support observers (no observe.v1 in its features); upgrade it to 0.25 or later")

func (d observeDialect) registerFunction(f *functionSpec) (any, error) {
	if f.adapter { // the engine calls it for the observers of this worker, nobody else does
		return RegisterFunctionMessage{ID: f.id, Private: true, Observable: new(false)}, nil
	}
	return d.triggerDialect.registerFunction(f)
}

func (observeDialect) unregisterFunction(f *functionSpec) any {
	return UnregisterFunctionMessage{ID: f.id}
}

// registerTrigger returns the message for an observer, or for that which stands for a trigger
// (triggersource.go).
func (observeDialect) registerTrigger(t *triggerSpec) (any, error) {
	if t.observe != nil {
		return observeMessage(t), nil
	}
	observer, err := t.asObserver()
	if err != nil {
		return nil, err
	}
	return observeMessage(observer), nil
}

func (observeDialect) unregisterTrigger(t *triggerSpec) any {
	return UnobserveMessage{ID: t.idOfObserver()}
}

// observeMessage returns the message for an observer, with what is left of its time.
func observeMessage(t *triggerSpec) ObserveMessage {
	o := t.observe
	m := ObserveMessage{ID: t.idOfObserver(), Source: o.source, Target: ObserveTarget{FunctionID: t.functionID, Namespace: t.namespace},
		Metadata: JSONValue(t.metadata), MaxFires: o.maxFires, MaxInFlight: o.maxInFlight}
	if o.expiry > 0 {
		left := o.expiry
		if !o.deadline.IsZero() {
			left = max(time.Until(o.deadline), time.Millisecond)
		}
		m.ExpiresInMs = new(uint64((left + time.Millisecond - 1) / time.Millisecond))
	}
	return m
}
