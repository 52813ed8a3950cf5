package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"strings"
	"time"
)

// visitor is an API client that keeps cookies like a browser.
type visitor struct {
	base   string
	out    io.Writer
	client *http.Client
}

func newVisitor(base string, out io.Writer) *visitor {
	jar, _ := cookiejar.New(nil) // never fails
	return &visitor{base: base, out: out, client: &http.Client{Jar: jar}}
}

// visit is a request and the expected status of its response.
type visit struct {
	method, path, contentType, body string
	ranged                          string // Range header; "" requests the entire body
	status                          int
}

const (
	asJSON = "application/json"
	asForm = "application/x-www-form-urlencoded"
)

// run requests every route. It stops at the first unexpected response.
func (v *visitor) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	events, err := v.watch(ctx)
	if err != nil {
		return err
	}
	defer events.Close()
	for _, step := range []visit{
		{method: "POST", path: "/notes", contentType: asJSON, body: `{"text":"Buy tea"}`, status: http.StatusUnauthorized},
		{method: "POST", path: "/login", contentType: asForm, body: "user=ada", status: http.StatusNoContent},
		{method: "POST", path: "/notes", contentType: asJSON, body: `{"text":"Buy tea"}`, status: http.StatusCreated},
		{method: "POST", path: "/notes", contentType: asJSON, body: `{"text":"Bake a cake"}`, status: http.StatusCreated},
		{method: "GET", path: "/notes", status: http.StatusOK},
		{method: "GET", path: "/notes/2", status: http.StatusOK},
		{method: "GET", path: "/notes/3", status: http.StatusNotFound},
		{method: "GET", path: "/notes.csv", status: http.StatusOK},
		{method: "GET", path: "/notes.csv", ranged: "bytes=15-", status: http.StatusPartialContent},
	} {
		if err := v.do(ctx, step); err != nil {
			return err
		}
	}
	// Both notes added above arrive as events. An empty line ends each event.
	lines := bufio.NewScanner(events)
	for ends := 0; ends < 2 && lines.Scan(); {
		if lines.Text() == "" {
			ends++
			continue
		}
		fmt.Fprintf(v.out, "event | %s\n", lines.Text())
	}
	return lines.Err()
}

// do sends one request and prints the response.
func (v *visitor) do(ctx context.Context, step visit) error {
	req, err := http.NewRequestWithContext(ctx, step.method, v.base+step.path, strings.NewReader(step.body))
	if err != nil {
		return err
	}
	if step.contentType != "" {
		req.Header.Set("Content-Type", step.contentType)
	}
	if step.ranged != "" {
		req.Header.Set("Range", step.ranged)
	}
	resp, err := v.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	fmt.Fprintf(v.out, "%s %s: %s\n", step.method, step.path, resp.Status)
	for _, name := range []string{"Location", "Content-Disposition", "Content-Range", "Set-Cookie"} {
		for _, value := range resp.Header.Values(name) {
			fmt.Fprintf(v.out, "      %s: %s\n", name, value)
		}
	}
	for line := range strings.Lines(string(body)) {
		fmt.Fprintf(v.out, "    | %s\n", strings.TrimSpace(line))
	}
	if resp.StatusCode != step.status {
		return fmt.Errorf("%s %s: %s, not %d", step.method, step.path, resp.Status, step.status)
	}
	return nil
}

// watch requests the events. The engine's HTTP server may not serve a new route until shortly
// after Connect has returned, so watch retries after a 404.
func (v *visitor) watch(ctx context.Context) (io.ReadCloser, error) {
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, v.base+"/events", nil)
		if err != nil {
			return nil, err
		}
		resp, err := v.client.Do(req)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode == http.StatusOK {
			return resp.Body, nil
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			return nil, fmt.Errorf("GET /events: %s", resp.Status)
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("GET /events: %s: %w", resp.Status, context.Cause(ctx))
		}
	}
}
