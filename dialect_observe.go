package iii

import (
	"errors"
	"time"

	"github.com/iii-go/iii/internal/rawjson"
)

// observeDialect is spoken by engines since 0.26: observers stand for triggers.
type observeDialect struct{ triggerDialect }

// answers reports true: each registration is answered.
func (observeDialect) answers(*claim) bool { return true }

var errNoObservers = errors.New("the engine does not support observers (no observe.v1 in its features); upgrade it to 0.25 or later")

// registerTriggerType returns nil: a type is a function ([Client.HandleTriggerType]).
func (observeDialect) registerTriggerType(*triggerTypeSpec) any { return nil }

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

func (observeDialect) hooks() bool { return true }

func (observeDialect) tooLarge() string { return CodePayloadTooLarge }

func (observeDialect) registerFunction(f *functionSpec) (any, error) {
	m := RegisterFunctionMessage{ID: f.id, Description: f.description, Metadata: f.metadata, RequestFormat: f.request,
		ResponseFormat: f.response, Invocation: f.invocation, ArgsFormat: f.args, Private: f.private}
	if f.unobservable {
		m.Observable = new(bool)
	}
	return m, nil
}

func (observeDialect) appendMatched(p []byte, observers []*FunctionObserver) []byte {
	p = append(p, `,"matched":`...)
	return appendIDs(p, observers)
}

func (observeDialect) appendDelivered(p []byte) []byte { return append(p, `,"delivered":true`...) }

func (observeDialect) appendReports(p []byte, reports []*report) []byte {
	return appendReports(p, reports, true)
}

// appendIDs appends the list of the observers' ids.
func appendIDs(p []byte, observers []*FunctionObserver) []byte {
	p = append(p, '[')
	for i, o := range observers {
		if i > 0 {
			p = append(p, ',')
		}
		p = rawjson.AppendString(p, o.ID)
	}
	return append(p, ']')
}
