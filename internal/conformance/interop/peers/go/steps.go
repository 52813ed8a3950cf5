package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/iii-go/iii"
)

// peer is the worker and everything that it has registered for the harness.
type peer struct {
	client    *iii.Client
	telemetry *iii.Telemetry
	shutdown  func()

	mu        sync.Mutex
	functions map[string]*iii.Function
	triggers  map[string]*iii.Trigger
	bindings  map[string]iii.TriggerBinding
	observers map[string]*iii.Observer
}

// step is the input of peer::do. Each step uses only some of the members.
type step struct {
	Step       string          `json:"step"`
	FunctionID string          `json:"function_id"`
	Payload    json.RawMessage `json:"payload"`
	Metadata   json.RawMessage `json:"metadata"`
	Namespace  string          `json:"namespace"`
	TimeoutMs  int             `json:"timeout_ms"`
	Action     struct{ Type, Queue string }
	Reply      json.RawMessage `json:"reply"`
	Failures   int             `json:"failures"`
	Type       string          `json:"type"`
	Config     json.RawMessage `json:"config"`
	Handle     string          `json:"handle"`
	ID         string          `json:"id"`
	Name       string          `json:"name"`
	By         int64           `json:"by"`
	Level      string          `json:"level"`
	Message    string          `json:"message"`
	Data       json.RawMessage `json:"data"`
	URL        string          `json:"url"`
	Method     string          `json:"method"`
	Header     string          `json:"header"`
	Value      string          `json:"value"`
	Secret     string          `json:"secret"`
	Token      string          `json:"token"`
	Allowed    []string        `json:"allowed"`
	Bytes      int             `json:"bytes"`
	observed
	Kind   string          `json:"kind"`
	Schema json.RawMessage `json:"schema"`
}

// do performs a step and returns its outcome: a value, or the error that this worker received.
func (p *peer) do(ctx context.Context, payload json.RawMessage) (any, error) {
	var s step
	if err := json.Unmarshal(payload, &s); err != nil {
		return nil, err
	}
	value, err := p.take(ctx, s)
	if err == nil {
		return map[string]any{"value": value}, nil
	}
	code := "error"
	var e *iii.Error
	switch {
	case errors.As(err, &e):
		code = e.Code
	case errors.Is(err, iii.ErrTimeout):
		code = "TIMEOUT"
	}
	return map[string]any{"error": map[string]string{"code": code, "message": err.Error()}}, nil
}

func (p *peer) take(ctx context.Context, s step) (any, error) {
	switch s.Step {
	case "call":
		return p.call(ctx, s)
	case "listen":
		return nil, p.listen(s)
	case "unregister":
		p.mu.Lock()
		defer p.mu.Unlock()
		return nil, p.functions[s.FunctionID].Unregister()
	case "bind":
		return p.bind(s)
	case "unbind":
		p.mu.Lock()
		defer p.mu.Unlock()
		return nil, p.triggers[s.Handle].Unregister()
	case "provide":
		return nil, p.client.HandleTriggerType(iii.TriggerType{ID: s.Type, Description: "rings"}, p)
	case "fire":
		p.mu.Lock()
		binding := p.bindings[s.ID]
		p.mu.Unlock()
		return binding.Fire(ctx, s.Payload)
	case "observe":
		return p.observe(ctx, s)
	case "observing":
		return p.observing(s)
	case "dispose":
		p.mu.Lock()
		o := p.observers[s.Handle]
		delete(p.observers, s.Handle)
		p.mu.Unlock()
		return nil, o.Dispose(ctx)
	case "relay":
		return nil, p.relay(s)
	case "host":
		return nil, p.host(s)
	case "observers":
		ids := []string{}
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, o := range p.functions[s.FunctionID].Observers() {
			ids = append(ids, o.ID)
		}
		return ids, nil
	case "length":
		var text string
		err := p.client.Call(ctx, s.FunctionID, s.Payload, &text)
		return len(text), err
	case "http-invoked":
		_, err := p.client.HandleHTTPInvoked(s.FunctionID, iii.HTTPInvocationConfig{
			URL: s.URL, Method: iii.HTTPMethod(s.Method), Headers: iii.StringMap{s.Header: s.Value},
			Auth: &iii.HTTPAuthConfig{Auth: iii.HTTPAuthHMAC{SecretKey: s.Secret}},
		})
		return nil, err
	case "channel-in":
		return p.channelIn(ctx, s)
	case "channel-out":
		return p.channelOut(ctx, s)
	case "store-stream":
		return nil, p.client.HandleStream(s.Name, &shelf{items: map[[2]string]json.RawMessage{}})
	case "log":
		log := map[string]func(context.Context, string, any){
			"debug": p.telemetry.Logger().Debug, "warn": p.telemetry.Logger().Warn, "error": p.telemetry.Logger().Error,
		}[s.Level]
		log(context.Background(), s.Message, s.Data)
		return nil, nil
	case "count":
		counter, err := p.telemetry.Meter().Int64Counter(s.Name)
		if err == nil {
			counter.Add(ctx, s.By, metric.WithAttributes())
		}
		return nil, err
	case "guard":
		return nil, p.guard(s)
	case "shutdown":
		time.AfterFunc(50*time.Millisecond, p.shutdown)
		return nil, nil
	}
	return nil, fmt.Errorf("unknown step %q", s.Step)
}

func (p *peer) call(ctx context.Context, s step) (any, error) {
	var options []iii.CallOption
	if s.Metadata != nil {
		options = append(options, iii.WithMetadata(s.Metadata))
	}
	if s.Namespace != "" {
		options = append(options, iii.InNamespace(s.Namespace))
	}
	if s.TimeoutMs > 0 {
		options = append(options, iii.WithTimeout(time.Duration(s.TimeoutMs)*time.Millisecond))
	}
	switch s.Action.Type {
	case "void":
		return nil, p.client.Send(ctx, s.FunctionID, s.Payload, options...)
	case "enqueue":
		return p.client.Enqueue(ctx, s.Action.Queue, s.FunctionID, s.Payload, options...)
	}
	var out json.RawMessage
	err := p.client.Call(ctx, s.FunctionID, s.Payload, &out, options...)
	return out, err
}

// listen registers a function that reports its calls to go::seen.
func (p *peer) listen(s step) error {
	f, err := p.client.HandleFunc(s.FunctionID, func(ctx context.Context, payload json.RawMessage) (any, error) {
		inv, _ := iii.InvocationFromContext(ctx)
		if err := p.tell(ctx, s.FunctionID, payload, inv.Metadata); err != nil {
			return nil, err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if s.Failures--; s.Failures >= 0 {
			return nil, errors.New("not yet")
		}
		return s.Reply, nil
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.functions[s.FunctionID] = f
	return err
}

func (p *peer) tell(ctx context.Context, functionID string, payload, metadata any) error {
	return p.client.Call(ctx, "go::seen", map[string]any{"function_id": functionID, "payload": payload, "metadata": metadata}, nil)
}

func (p *peer) bind(s step) (any, error) {
	var options []iii.TriggerOption
	if s.Metadata != nil {
		options = append(options, iii.WithTriggerMetadata(s.Metadata))
	}
	t, err := p.client.Trigger(s.FunctionID, iii.CustomTrigger{Type: s.Type, Config: s.Config}, options...)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.triggers[t.ID()] = t
	return t.ID(), nil
}

// Bind is called for each new trigger of the type that this worker provides.
func (p *peer) Bind(ctx context.Context, b iii.TriggerBinding) error {
	var config struct{ Refuse bool }
	if err := json.Unmarshal(b.Config, &config); err != nil {
		return err
	}
	if config.Refuse {
		return errors.New("not this one")
	}
	p.mu.Lock()
	p.bindings[b.ID] = b
	p.mu.Unlock()
	return p.tell(ctx, "bound", map[string]any{"id": b.ID, "function_id": b.FunctionID, "config": b.Config, "metadata": b.Metadata}, nil)
}

// Unbind is called when a trigger of the type that this worker provides is removed.
func (p *peer) Unbind(ctx context.Context, id string) error {
	return p.tell(ctx, "unbound", map[string]any{"id": id}, nil)
}

// channelIn creates a channel, calls a function that writes to it, and reads it.
func (p *peer) channelIn(ctx context.Context, s step) (any, error) {
	w, r, err := p.client.CreateChannel(ctx)
	if err != nil {
		return nil, err
	}
	called := make(chan error, 1)
	go func() {
		called <- p.client.Call(ctx, s.FunctionID, map[string]any{"writer": w.Ref(), "bytes": s.Bytes}, nil)
	}()
	out, err := drain(ctx, r)
	return out, errors.Join(err, <-called)
}

// channelOut creates a channel, writes to it, and returns the report from the function that
// reads it.
func (p *peer) channelOut(ctx context.Context, s step) (any, error) {
	w, r, err := p.client.CreateChannel(ctx)
	if err != nil {
		return nil, err
	}
	written := make(chan error, 1)
	go func() { written <- fill(ctx, w, s.Bytes) }()
	var out json.RawMessage
	err = p.client.Call(ctx, s.FunctionID, map[string]any{"reader": r.Ref()}, &out)
	return out, errors.Join(err, <-written)
}

// guard registers an auth function that requires a token.
func (p *peer) guard(s step) error {
	f, err := iii.Handle(p.client, s.FunctionID, func(_ context.Context, in iii.AuthInput) (iii.AuthResult, error) {
		if in.Headers[s.Header] != s.Token {
			return iii.AuthResult{}, errors.New("no entry")
		}
		result := iii.NewAuthResult()
		result.AllowedFunctions = s.Allowed
		return result, nil
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.functions[s.FunctionID] = f
	return err
}

// shelf is a stream stored by this worker.
type shelf struct {
	mu    sync.Mutex
	items map[[2]string]json.RawMessage // by group and item
}

func (s *shelf) Get(_ context.Context, in iii.StreamGetInput) (json.RawMessage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.items[[2]string{in.GroupID, in.ItemID}], nil
}

func (s *shelf) Set(_ context.Context, in iii.StreamSetInput) (iii.StreamSetResult, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := [2]string{in.GroupID, in.ItemID}
	old := s.items[at]
	s.items[at] = json.RawMessage(in.Data)
	return iii.StreamSetResult{OldValue: old, NewValue: in.Data}, nil
}

func (s *shelf) Delete(_ context.Context, in iii.StreamDeleteInput) (iii.StreamDeleteResult, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := [2]string{in.GroupID, in.ItemID}
	old := s.items[at]
	delete(s.items, at)
	return iii.StreamDeleteResult{OldValue: old}, nil
}

func (s *shelf) List(_ context.Context, in iii.StreamListInput) ([]json.RawMessage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []json.RawMessage
	for at, value := range s.items {
		if at[0] == in.GroupID {
			list = append(list, value)
		}
	}
	return list, nil
}

func (s *shelf) Groups(context.Context, iii.StreamListGroupsInput) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[string]bool{}
	var groups []string
	for at := range s.items {
		if !seen[at[0]] {
			seen[at[0]] = true
			groups = append(groups, at[0])
		}
	}
	return groups, nil
}
