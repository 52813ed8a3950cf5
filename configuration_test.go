package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// configurations implements the configuration::* functions that the client calls.
type configurations struct {
	mu      sync.Mutex
	entries map[string]iii.ConfigurationEntry
	inputs  []string // every call, in order
}

func (s *configurations) handle(t *testing.T, c *iii.Client) {
	t.Helper()
	for id, f := range map[string]func(payload json.RawMessage) (any, error){
		"configuration::register": s.register,
		"configuration::get":      s.get,
		"configuration::set":      s.set,
		"configuration::list":     s.list,
		"configuration::schema":   s.schema,
	} {
		if _, err := c.HandleFunc(id, func(_ context.Context, payload json.RawMessage) (any, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			var in map[string]json.RawMessage
			if err := json.Unmarshal(payload, &in); err != nil {
				return nil, err
			}
			delete(in, "_caller_worker_id")
			doc, err := json.Marshal(in)
			if err != nil {
				return nil, err
			}
			s.inputs = append(s.inputs, id+" "+string(doc))
			return f(payload)
		}, iii.WithBuiltinOverride()); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *configurations) register(payload json.RawMessage) (any, error) {
	var in iii.ConfigurationRegisterInput
	if err := json.Unmarshal(payload, &in); err != nil {
		return nil, err
	}
	value := in.InitialValue
	if old, ok := s.entries[in.ID]; ok {
		value = old.Value
	}
	e := iii.ConfigurationEntry{ID: in.ID, Name: in.Name, Description: in.Description, Schema: in.Schema, Metadata: in.Metadata, Value: value}
	s.entries[in.ID] = e
	return e, nil
}

func (s *configurations) get(payload json.RawMessage) (any, error) {
	var in iii.ConfigurationGetInput
	if err := json.Unmarshal(payload, &in); err != nil {
		return nil, err
	}
	e, ok := s.entries[in.ID]
	if !ok {
		return nil, &iii.Error{Code: "NOT_FOUND", Message: "no entry " + in.ID}
	}
	return iii.ConfigurationGetResult{ID: in.ID, Value: e.Value}, nil
}

func (s *configurations) set(payload json.RawMessage) (any, error) {
	var in iii.ConfigurationSetInput
	if err := json.Unmarshal(payload, &in); err != nil {
		return nil, err
	}
	e, ok := s.entries[in.ID]
	if !ok {
		return nil, &iii.Error{Code: "NOT_REGISTERED", Message: "no entry " + in.ID}
	}
	result := iii.ConfigurationSetResult{OldValue: e.Value, NewValue: in.Value}
	e.Value = in.Value
	s.entries[in.ID] = e
	return result, nil
}

func (s *configurations) list(json.RawMessage) (any, error) {
	var result iii.ConfigurationListResult
	for _, e := range s.entries {
		result.Configurations = append(result.Configurations, schemaOfEntry(e))
	}
	return result, nil
}

func (s *configurations) schema(payload json.RawMessage) (any, error) {
	var in iii.ConfigurationSchemaInput
	if err := json.Unmarshal(payload, &in); err != nil {
		return nil, err
	}
	return schemaOfEntry(s.entries[in.ID]), nil
}

func schemaOfEntry(e iii.ConfigurationEntry) iii.ConfigurationSchema {
	return iii.ConfigurationSchema{ID: e.ID, Name: e.Name, Description: e.Description, Schema: e.Schema, Metadata: e.Metadata}
}

func TestConfiguration(t *testing.T) {
	e := iiitest.Start(t)
	store := &configurations{entries: map[string]iii.ConfigurationEntry{}}
	server := connect(t, e)
	store.handle(t, server)
	if err := server.Call(t.Context(), "engine::health::check", struct{}{}, nil); err != nil {
		t.Fatal(err)
	}
	// The configuration functions are called in the engine's namespace, not in the worker's.
	configuration := connect(t, e, iii.WithNamespace("shop")).Configuration()
	ctx := t.Context()
	type billing struct {
		Currency string `json:"currency"`
	}

	schema := json.RawMessage(`{"type":"object"}`)
	entry, err := configuration.Register(ctx, iii.ConfigurationRegisterInput{ID: "billing", Name: "Billing", Description: "of this shop", Schema: schema, InitialValue: json.RawMessage(`{"currency":"EUR"}`)})
	check(t, "register", iii.ConfigurationEntry{ID: "billing", Name: "Billing", Description: "of this shop", Schema: schema, Value: json.RawMessage(`{"currency":"EUR"}`)}, entry, err)
	var value billing
	err = configuration.Get(ctx, "billing", &value)
	check(t, "get", billing{"EUR"}, value, err)
	set, err := configuration.Set(ctx, "billing", billing{"CHF"})
	check(t, "set", iii.ConfigurationSetResult{OldValue: json.RawMessage(`{"currency":"EUR"}`), NewValue: json.RawMessage(`{"currency":"CHF"}`)}, set, err)
	described := iii.ConfigurationSchema{ID: "billing", Name: "Billing", Description: "of this shop", Schema: schema}
	list, err := configuration.List(ctx)
	check(t, "list", []iii.ConfigurationSchema{described}, list, err)
	one, err := configuration.Schema(ctx, "billing")
	check(t, "schema", described, one, err)

	var remote *iii.Error
	if err := configuration.Get(ctx, "none", &value); !errors.As(err, &remote) || remote.Code != "NOT_FOUND" {
		t.Errorf("get of a missing entry: %v", err)
	}
	if _, err := configuration.Set(ctx, "none", 1); !errors.As(err, &remote) || remote.Code != "NOT_REGISTERED" {
		t.Errorf("set of a missing entry: %v", err)
	}
	var number int
	if err := configuration.Get(ctx, "billing", &number); err == nil || iii.SafeToRetry(err) {
		t.Errorf("get of another type: %v", err)
	}
	if _, err := configuration.Set(ctx, "billing", func() {}); err == nil || !iii.SafeToRetry(err) {
		t.Errorf("set of a value that cannot be encoded: %v", err)
	}
	want := []string{
		`configuration::register {"description":"of this shop","id":"billing","initial_value":{"currency":"EUR"},"name":"Billing","schema":{"type":"object"}}`,
		`configuration::get {"id":"billing"}`,
		`configuration::set {"id":"billing","value":{"currency":"CHF"}}`,
		`configuration::list {}`,
		`configuration::schema {"id":"billing"}`,
		`configuration::get {"id":"none"}`,
		`configuration::set {"id":"none","value":1}`,
		`configuration::get {"id":"billing"}`,
	}
	if diff := cmp.Diff(want, store.inputs); diff != "" {
		t.Errorf("inputs (-want +sent):\n%s", diff)
	}
}
