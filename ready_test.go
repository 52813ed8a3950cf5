package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// probed is the answer of a probe.
type probed struct {
	Status  int
	Ready   bool
	Standby []string
	Reasons int
}

func probe(t *testing.T, c *iii.Client, target string) probed {
	t.Helper()
	w := httptest.NewRecorder()
	c.ReadyHandler().ServeHTTP(w, httptest.NewRequest("GET", target, nil))
	var body struct {
		Ready   bool
		Standby []string
		Reasons []string
	}
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || body.Standby == nil || body.Reasons == nil || w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("%s, %v", w.Body, err)
	}
	return probed{w.Code, body.Ready, body.Standby, len(body.Reasons)}
}

// checkReady compares what Ready and both forms of the probe say.
func checkReady(t *testing.T, when string, c *iii.Client, want probed, wantStrict int, is ...error) {
	t.Helper()
	if diff := cmp.Diff(want, probe(t, c, "/ready")); diff != "" {
		t.Errorf("%s: probe (-want +got):\n%s%v", when, diff, c.Ready())
	}
	if got := probe(t, c, "/ready?strict=1"); got.Status != wantStrict {
		t.Errorf("%s: strict probe: %d, want %d", when, got.Status, wantStrict)
	}
	err := c.Ready()
	if (err == nil) != want.Ready {
		t.Errorf("%s: %v", when, err)
	}
	for _, target := range is {
		if !errors.Is(err, target) {
			t.Errorf("%s: %v is not %v", when, err, target)
		}
	}
}

// A worker is ready from when the engine has accepted all of it until it drains.
func TestReadyFromConnectToDrain(t *testing.T) {
	generations(t, func(t *testing.T, e *iiitest.Engine) {
		none := []string{}
		refusal := "INVALID_CRON_EXPRESSION"
		if hasTriggers(e) {
			refusal = iii.CodeTriggerRegistrationFailed
		}
		c := newWorker(t, e)
		release := make(chan struct{})
		if _, err := iii.HandleEvent(c, "f", func(context.Context, any) error { <-release; return nil }); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Trigger("f", iii.CronTriggerConfig{Expression: "@daily"}); err != nil {
			t.Fatal(err)
		}
		checkReady(t, "before Connect", c, probed{503, false, none, 1}, 503, iii.ErrNotConnected)
		mustConnect(t, c)
		checkReady(t, "connected", c, probed{200, true, none, 0}, 200)

		if _, err := c.MountHTTP("GET", "/late", http.NotFoundHandler()); err != nil {
			t.Fatal(err)
		}
		if err := c.Ready(); err == nil || !strings.Contains(err.Error(), "has not answered the registration yet") {
			t.Errorf("right after a registration: %v", err)
		}
		synctest.Wait()
		checkReady(t, "later", c, probed{200, true, none, 0}, 200)

		bad, err := c.Trigger("f", iii.CronTriggerConfig{Expression: "x x x x x x"})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		checkReady(t, "with a refused trigger", c, probed{503, false, none, 1}, 503, &iii.Error{Code: refusal})
		if err := bad.Unregister(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Trigger("f", iii.CustomTrigger{Type: "nobody-provides-it"}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		checkReady(t, "with a trigger that waits for a provider", c, probed{200, true, none, 0}, 200)

		e.Drop(c.Name())
		synctest.Wait()
		checkReady(t, "away", c, probed{503, false, none, 1}, 503, iii.ErrNotConnected)
		time.Sleep(10 * time.Second)
		checkReady(t, "back", c, probed{200, true, none, 0}, 200)

		if err := c.Send(t.Context(), "f", nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		drained := make(chan error, 1)
		if c.Draining() {
			t.Error("it drains")
		}
		go func() { drained <- c.Shutdown(context.Background()) }()
		synctest.Wait()
		if !c.Draining() {
			t.Error("it does not drain")
		}
		checkReady(t, "draining", c, probed{503, false, none, 1}, 503, iii.ErrDraining)
		checkLive(t, c, http.StatusOK)
		close(release)
		if err := <-drained; err != nil {
			t.Error(err)
		}
		checkReady(t, "ended", c, probed{503, false, none, 1}, 503, iii.ErrClosed)
		checkLive(t, c, http.StatusServiceUnavailable)
		if !c.Draining() {
			t.Error("Draining has become false")
		}
	})
}

func checkLive(t *testing.T, c *iii.Client, want int) {
	t.Helper()
	w := httptest.NewRecorder()
	c.LiveHandler().ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	var body struct{ Live bool }
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || w.Code != want || body.Live != (want == 200) {
		t.Errorf("live: %d %s, want %d", w.Code, w.Body, want)
	}
}

// A standby lets an orchestrator go on, and is not ready.
func TestStandbyIsNoReasonToWait(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		setup := func(parameter string) func(*replica) {
			return func(r *replica) {
				serveName(t, "orders::create", "orders::cancel")(r)
				if _, err := r.Trigger("orders::create", iii.CronTriggerConfig{Expression: "@daily"}); err != nil {
					t.Fatal(err)
				}
				if _, err := r.MountHTTP("POST", "/orders/:"+parameter, http.NotFoundHandler()); err != nil {
					t.Fatal(err)
				}
			}
		}
		a := startReplica(t, e, "a", setup("id"))
		b := startReplica(t, e, "b", setup("id"))
		synctest.Wait()
		ids := []string{"orders::create", "orders::cancel", "http::POST/orders/:id"}
		checkReady(t, "standby", b.Client, probed{200, false, ids, 5}, 503)
		var refused *iii.RejectedError
		if err := b.Ready(); !errors.As(err, &refused) || refused.OwnerWorkerID != a.WorkerID() {
			t.Errorf("%v", err)
		}
		c := startReplica(t, e, "c", setup("order")) // the same route with another name
		synctest.Wait()
		checkReady(t, "standby of a route", c.Client, probed{200, false, []string{"orders::create", "orders::cancel", "http::POST/orders/:order"}, 4}, 503)
		_ = c.Close()

		// A reason besides it counts.
		bad, err := b.Trigger("elsewhere", iii.CronTriggerConfig{Expression: "x x x x x x"})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		checkReady(t, "standby with a refused trigger", b.Client, probed{503, false, ids, 6}, 503)
		if err := bad.Unregister(); err != nil {
			t.Fatal(err)
		}

		if err := a.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 300 { // never a 503 while it takes over
			if got := probe(t, b.Client, "/"); got.Status != 200 {
				t.Fatalf("during the takeover: %+v, %v", got, b.Ready())
			}
			time.Sleep(10 * time.Millisecond)
		}
		checkReady(t, "taken over", b.Client, probed{200, true, []string{}, 0}, 200)
	})
}

func TestProbesAnswerGetAndHead(t *testing.T) {
	c, err := iii.New("ws://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for name, h := range map[string]http.Handler{"ready": c.ReadyHandler(), "live": c.LiveHandler()} {
		for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS"} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(method, "/", nil))
			if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: %d", method, name, w.Code)
			}
		}
		server := httptest.NewServer(h)
		for target, want := range map[string]int{"/": 200, "/?strict=0": 200, "/?strict=true": 200, "/?strict": 200} {
			if name == "ready" {
				want = 503
			}
			resp, err := http.Head(server.URL + target)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("HEAD %s%s: %d, want %d", name, target, resp.StatusCode, want)
			}
		}
		server.Close()
	}
}
