package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// visit sends webhooks and prints the results.
type visit struct {
	url, secret string
	consumer    *consumer
	reports     chan string // from provider and consumer, in order
	out         io.Writer
}

// refused reports a rejected trigger.
func (v visit) refused(err error) { v.consumer.report("refused: %v", err) }

// condition returns the id of the function that accepts only pushes to main.
func (v visit) condition() string { return v.consumer.name + "::is-main" }

func (v visit) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	trigger, err := v.consumer.bind(hookConfig{Event: "push", Condition: v.condition()}, v.refused)
	if err != nil {
		return err
	}
	if err := v.await(ctx, "bound push"); err != nil {
		return err
	}
	if _, err := v.consumer.bind(hookConfig{}, v.refused); err != nil {
		return err
	}
	if err := v.await(ctx, "refused"); err != nil {
		return err
	}

	main, topic := `{"ref":"refs/heads/main"}`, `{"ref":"refs/heads/topic"}`
	if err := v.send(ctx, "push", main, v.secret, http.StatusOK); err != nil {
		return err
	}
	if err := v.await(ctx, "deploy refs/heads/main"); err != nil {
		return err
	}
	for _, step := range []struct {
		event, body, secret string
		status              int
	}{
		{"push", topic, v.secret, http.StatusOK},               // the condition returns false
		{"issues", main, v.secret, http.StatusOK},              // no function is bound to this event
		{"push", main, "a guess", http.StatusUnauthorized},     // the secret is wrong
		{"push", `"no push"`, v.secret, http.StatusBadGateway}, // the condition fails on the payload
		{"push", "ref=main", v.secret, http.StatusBadRequest},  // the body is not JSON
	} {
		if err := v.send(ctx, step.event, step.body, step.secret, step.status); err != nil {
			return err
		}
	}

	if err := trigger.Unregister(); err != nil {
		return err
	}
	if err := v.await(ctx, "unbound push"); err != nil {
		return err
	}
	if err := v.send(ctx, "push", main, v.secret, http.StatusOK); err != nil {
		return err
	}
	if len(v.reports) > 0 {
		return fmt.Errorf("after all: %s", <-v.reports)
	}
	return nil
}

// serve prints the reports until ctx is done.
func (v visit) serve(ctx context.Context) error {
	if _, err := v.consumer.bind(hookConfig{Event: "push", Condition: v.condition()}, v.refused); err != nil {
		return err
	}
	secret := v.secret
	if os.Getenv("WEBHOOK_SECRET") != "" {
		secret = `"$WEBHOOK_SECRET"` // the output may be visible to others: do not print the secret
	}
	fmt.Fprintf(v.out, manual, v.url, secret)
	for {
		select {
		case r := <-v.reports:
			fmt.Fprintln(v.out, r)
		case <-ctx.Done():
			return nil
		}
	}
}

const manual = `Webhooks go to %[1]s and are signed with %[2]s. Try:
  body='{"ref":"refs/heads/main"}'
  signature=$(printf %%s "$body" | openssl dgst -sha256 -hmac %[2]s -r | cut -d ' ' -f 1)
  curl -d "$body" -H 'X-GitHub-Event: push' -H "X-Hub-Signature-256: sha256=$signature" %[1]s
`

// send sends a webhook and checks the response's status.
func (v visit) send(ctx context.Context, event, body, secret string, status int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, v.url, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("X-GitHub-Event", event)
	req.Header.Set("X-Hub-Signature-256", sign([]byte(secret), []byte(body)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	fmt.Fprintf(v.out, "%s %s: %s: %s\n", event, body, resp.Status, strings.TrimSpace(string(answer)))
	if resp.StatusCode != status {
		return fmt.Errorf("%s %s: %s, not %d", event, body, resp.Status, status)
	}
	return nil
}

// await prints the next report and checks that it begins with the given string.
func (v visit) await(ctx context.Context, report string) error {
	select {
	case r := <-v.reports:
		fmt.Fprintln(v.out, r)
		if !strings.HasPrefix(r, report) {
			return fmt.Errorf("%q is reported, not %q", r, report)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("nobody reports %q: %w", report, context.Cause(ctx))
	}
}
