package main

import (
	"context"
	"encoding/json"

	"github.com/iii-go/iii"
)

// consumer is a worker whose functions run when a webhook arrives.
type consumer struct {
	client       *iii.Client
	name, typeID string
	report       func(format string, args ...any)
}

// push contains the fields of a push event that the consumer uses.
type push struct {
	Ref string `json:"ref"`
}

func newConsumer(url, name string, report func(format string, args ...any)) (*consumer, error) {
	client, err := iii.New(url, iii.WithName(name+"-consumer"))
	if err != nil {
		return nil, err
	}
	c := &consumer{client: client, name: name, typeID: name, report: report}
	if _, err := iii.Handle(client, name+"::deploy", c.deploy); err != nil {
		return nil, err
	}
	if _, err := iii.Handle(client, name+"::is-main", c.isMain); err != nil {
		return nil, err
	}
	return c, nil
}

// bind binds deploy to an event. If the provider later rejects the trigger, the client calls
// onReject.
func (c *consumer) bind(config hookConfig, onReject func(error)) (*iii.Trigger, error) {
	return c.client.Trigger(c.name+"::deploy", iii.CustomTrigger{Type: c.typeID, Config: config}, iii.WithTriggerErrorHandler(onReject))
}

// deploy runs when a webhook arrives.
func (c *consumer) deploy(_ context.Context, e hookEvent) (any, error) {
	var p push
	if err := json.Unmarshal(e.Payload, &p); err != nil {
		return nil, err
	}
	c.report("deploy %s after a %s", p.Ref, e.Event)
	return nil, nil
}

// isMain is the condition of deploy's triggers.
func (c *consumer) isMain(_ context.Context, e hookEvent) (bool, error) {
	var p push
	err := json.Unmarshal(e.Payload, &p)
	return p.Ref == "refs/heads/main", err
}
