package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/iii-go/iii"
)

// hookConfig is a trigger's config.
type hookConfig struct {
	// Event is the event that fires the trigger, for example "push".
	Event string `json:"event"`
	// Condition is the id of a function that returns false to suppress the trigger.
	// TriggerBinding.Fire calls the function, so the provider itself does not use this field.
	Condition string `json:"condition_function_id,omitempty"`
}

// hookEvent is the payload that bound functions receive.
type hookEvent struct {
	Event   string          `json:"event"`
	Payload json.RawMessage `json:"payload"`
}

// webhooks provides the trigger type. It is also the HTTP handler that receives webhooks.
type webhooks struct {
	secret []byte
	report func(format string, args ...any)

	mu    sync.Mutex
	hooks map[string]hook // by trigger id
}

type hook struct {
	config  hookConfig
	binding iii.TriggerBinding
}

func newWebhooks(secret string, report func(format string, args ...any)) *webhooks {
	return &webhooks{secret: []byte(secret), report: report, hooks: map[string]hook{}}
}

// triggerType describes the trigger type to other workers, including the schemas of its
// configs and payloads.
func (w *webhooks) triggerType(id string) iii.TriggerType {
	return iii.TriggerType{
		ID: id, Description: "Webhooks in the form of GitHub's",
		ConfigSchema:  json.RawMessage(`{"type":"object","required":["event"],"properties":{"event":{"type":"string"},"condition_function_id":{"type":"string"}}}`),
		PayloadSchema: json.RawMessage(`{"type":"object","required":["event","payload"],"properties":{"event":{"type":"string"},"payload":{}}}`),
	}
}

// Bind implements iii.TriggerProvider. It starts or restarts a trigger. If it returns an
// error, the engine rejects the trigger and sends the error to the worker that registered it.
func (w *webhooks) Bind(_ context.Context, b iii.TriggerBinding) error {
	var config hookConfig
	d := json.NewDecoder(bytes.NewReader(b.Config))
	d.DisallowUnknownFields()
	if err := d.Decode(&config); err != nil {
		return fmt.Errorf("config of the webhook: %w", err)
	}
	if config.Event == "" {
		return errors.New("config of the webhook: no event")
	}
	w.mu.Lock()
	w.hooks[b.ID] = hook{config, b}
	w.mu.Unlock()
	w.report("bound %s", config.Event)
	return nil
}

// Unbind implements iii.TriggerProvider. It stops a trigger.
func (w *webhooks) Unbind(_ context.Context, id string) error {
	w.mu.Lock()
	event := w.hooks[id].config.Event
	delete(w.hooks, id)
	w.mu.Unlock()
	w.report("unbound %s", event)
	return nil
}

// boundTo returns the triggers bound to an event.
func (w *webhooks) boundTo(event string) (found []iii.TriggerBinding) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range w.hooks {
		if h.config.Event == event {
			found = append(found, h.binding)
		}
	}
	return found
}

// ServeHTTP receives a webhook and runs the functions bound to its event. It responds only
// after they have run, so that it can report a failure; many senders retry a failed webhook.
func (w *webhooks) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, 1<<20))
	if err != nil || r.Method != http.MethodPost || !json.Valid(body) {
		http.Error(rw, "want a POST of at most 1 MiB of JSON", http.StatusBadRequest)
		return
	}
	if !hmac.Equal([]byte(r.Header.Get("X-Hub-Signature-256")), []byte(sign(w.secret, body))) {
		http.Error(rw, "the signature is wrong", http.StatusUnauthorized)
		return
	}
	event := hookEvent{Event: r.Header.Get("X-GitHub-Event"), Payload: body}
	bindings := w.boundTo(event.Event)
	for _, b := range bindings {
		if _, err := b.Fire(r.Context(), event); err != nil {
			http.Error(rw, "a function has failed", http.StatusBadGateway)
			return
		}
	}
	fmt.Fprintf(rw, "triggers: %d\n", len(bindings))
}

// sign returns the signature of a webhook's body.
func sign(secret, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}
