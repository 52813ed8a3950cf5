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

// hookConfig is what a trigger is registered with.
type hookConfig struct {
	// Event is the one to run for, "push" for example.
	Event string `json:"event"`
	// Condition is a function that may keep an event from the trigger's, by false. The
	// package calls it; a provider has only to let the key be there.
	Condition string `json:"condition_function_id,omitempty"`
}

// hookEvent is what the functions get.
type hookEvent struct {
	Event   string          `json:"event"`
	Payload json.RawMessage `json:"payload"`
}

// webhooks is the provider of the trigger type, and the HTTP server that webhooks are
// sent to.
type webhooks struct {
	secret []byte
	report func(format string, args ...any)

	mu    sync.Mutex
	hooks map[string]hook // by the id of the trigger
}

type hook struct {
	config  hookConfig
	binding iii.TriggerBinding
}

func newWebhooks(secret string, report func(format string, args ...any)) *webhooks {
	return &webhooks{secret: []byte(secret), report: report, hooks: map[string]hook{}}
}

// triggerType tells other workers what the type takes and gives.
func (w *webhooks) triggerType(id string) iii.TriggerType {
	return iii.TriggerType{
		ID: id, Description: "Webhooks in the form of GitHub's",
		ConfigSchema:  json.RawMessage(`{"type":"object","required":["event"],"properties":{"event":{"type":"string"},"condition_function_id":{"type":"string"}}}`),
		PayloadSchema: json.RawMessage(`{"type":"object","required":["event","payload"],"properties":{"event":{"type":"string"},"payload":{}}}`),
	}
}

// Bind implements iii.TriggerProvider: a trigger begins, or begins anew. An error refuses
// it, and the worker that has registered it is told why.
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

// Unbind implements iii.TriggerProvider: a trigger ends.
func (w *webhooks) Unbind(_ context.Context, id string) error {
	w.mu.Lock()
	event := w.hooks[id].config.Event
	delete(w.hooks, id)
	w.mu.Unlock()
	w.report("unbound %s", event)
	return nil
}

// of returns the triggers for an event.
func (w *webhooks) of(event string) (found []iii.TriggerBinding) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range w.hooks {
		if h.config.Event == event {
			found = append(found, h.binding)
		}
	}
	return found
}

// ServeHTTP takes a webhook and runs the functions that are bound to its event. The
// sender is told when they have run; many senders try again after an error.
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
	bindings := w.of(event.Event)
	for _, b := range bindings {
		if _, err := b.Fire(r.Context(), event); err != nil {
			http.Error(rw, "a function has failed", http.StatusBadGateway)
			return
		}
	}
	fmt.Fprintf(rw, "triggers: %d\n", len(bindings))
}

// sign is the signature of a webhook.
func sign(secret, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}
