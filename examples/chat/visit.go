package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"time"

	"github.com/iii-go/iii"
)

// visit plays a short conversation between two people. It sends the requests that their pages
// would send.
type visit struct {
	name, page, streamURL string
	out                   io.Writer
}

// guest is a subscriber of a room.
type guest struct {
	next func() (iii.StreamMessage, error, bool)
	stop func()
}

func (v visit) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := v.post(ctx, "lobby", message{Author: "Ada", Text: "Is anybody here?"}); err != nil {
		return err
	}
	// A new subscriber first receives the existing messages, then each new one.
	ada := v.join(ctx, v.name+"-messages", "lobby")
	defer ada.stop()
	if err := v.expect(ada, "ada", "sync"); err != nil {
		return err
	}
	grace := v.join(ctx, v.name+"-messages", "lobby")
	defer grace.stop()
	if err := v.expect(grace, "grace", "sync"); err != nil {
		return err
	}
	if err := v.post(ctx, "lobby", message{Author: "Grace", Text: "Hello, Ada"}); err != nil {
		return err
	}
	if err := errors.Join(v.expect(ada, "ada", "create"), v.expect(grace, "grace", "create")); err != nil {
		return err
	}
	// The presence stream counts the people in each room.
	watch := v.join(ctx, v.name+"-presence", "lobby")
	defer watch.stop()
	if err := v.expect(watch, "count", "sync"); err != nil {
		return err
	}
	grace.stop()
	if err := v.expect(watch, "count", "update"); err != nil {
		return err
	}
	mallory := v.join(ctx, v.name+"-messages", "cellar")
	defer mallory.stop()
	if _, err, _ := mallory.next(); !errors.Is(err, iii.ErrForbidden) {
		return fmt.Errorf("mallory joins the cellar: %v, and should not", err)
	}
	fmt.Fprintf(v.out, "%-5s is refused\n", "mallory")
	return nil
}

// join subscribes to a room. The connection is not opened until guest.next is first called.
func (v visit) join(ctx context.Context, stream, room string) guest {
	next, stop := iter.Pull2(iii.Subscribe(ctx, v.streamURL, iii.StreamSubscription{StreamName: stream, GroupID: room}))
	return guest{next, stop}
}

// expect waits for the guest's next message, checks its type and prints it.
func (v visit) expect(g guest, who string, want iii.StreamEventType) error {
	m, err, ok := g.next()
	switch {
	case err != nil:
		return fmt.Errorf("%s waits for a %s: %w", who, want, err)
	case !ok:
		return fmt.Errorf("%s waits for a %s: it ended", who, want)
	case m.Event.Type != want:
		return fmt.Errorf("%s got a %s, not a %s", who, m.Event.Type, want)
	}
	fmt.Fprintf(v.out, "%-5s %-6s %s\n", who, m.Event.Type, m.Event.Data)
	return nil
}

// post posts a message as the page does. The engine's HTTP server may not serve a new route
// until shortly after Connect has returned, so post retries after a 404.
func (v visit) post(ctx context.Context, room string, m message) error {
	body, err := json.Marshal(m)
	if err != nil {
		return err
	}
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, v.page+"/"+room, bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusCreated {
			return nil
		}
		if resp.StatusCode != http.StatusNotFound {
			return fmt.Errorf("POST %s: %s", req.URL.Path, resp.Status)
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return fmt.Errorf("POST %s: %s: %w", req.URL.Path, resp.Status, context.Cause(ctx))
		}
	}
}
