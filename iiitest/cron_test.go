package iiitest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii/internal/cronexpr"
)

// tick returns the payload of a cron trigger. In a synctest bubble, time starts at midnight
// UTC on 2000-01-01.
func tick(id, scheduled, actual string) string {
	return `{"actual_time":"2000-01-01T` + actual + `+00:00","job_id":"` + id + `","scheduled_time":"2000-01-01T` + scheduled + `+00:00","trigger":"cron"}`
}

func TestCron(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		p.handle("f", "null")
		time.Sleep(300 * time.Millisecond) // register between two ticks
		p.trigger("c1", "cron", "f", `{"expression":"*/2 * * * * *"}`, `,"metadata":{"m":1}`)
		p.trigger("c2", "cron", "f", `{"expression":"3 * * * * *"}`, "")
		p.trigger("c3", "cron", "f", `{"expression":"0 0 0 31 2 *"}`, "")     // never
		p.trigger("c4", "cron", "f", `{"expression":"0 0 0 1 1 * 1999"}`, "") // in the past
		p.fence()
		time.Sleep(4 * time.Second)
		p.wantCalls(`f `+tick("c1", "00:00:02", "00:00:02")+` metadata {"m":1}`,
			`f `+tick("c2", "00:00:03", "00:00:03"),
			`f `+tick("c1", "00:00:04", "00:00:04")+` metadata {"m":1}`)

		// A job with an existing id is rejected. The old job keeps running.
		p.trigger("c1", "cron", "f", `{"expression":"5 * * * * *"}`, "")
		p.wantCalls("c1 refused: trigger_registration_failed: Cron job 'c1' is already registered")
		p.send(`{"type":"unregistertrigger","id":"c2"}`)
		p.fence()
		time.Sleep(2 * time.Second)
		p.wantCalls(`f ` + tick("c1", "00:00:06", "00:00:06") + ` metadata {"m":1}`)
		p.send(`{"type":"unregistertrigger","id":"c1"}`)
		p.trigger("c1", "cron", "f", `{"expression":"5 * * * * *"}`, "")
		p.fence()
		time.Sleep(time.Minute)
		p.wantCalls(`f ` + tick("c1", "00:01:05", "00:01:05"))
	})
}

func TestCronRefusesTrigger(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		for _, config := range []string{`{}`, `null`, `{"expression":""}`, `{"expression":1}`} {
			p.trigger("c1", "cron", "f", config, "")
			p.wantCalls("c1 refused: trigger_registration_failed: Cron expression is required")
		}
		p.trigger("c1", "cron", "f", `{"expression":"* * * * *"}`, "")
		p.wantCalls("c1 refused: trigger_registration_failed: Invalid cron expression '* * * * *': * * * * *\n         ^\n")
		if got := p.call("engine::registered-triggers::list", `{}`); strings.Contains(got, "c1") {
			t.Errorf("refused and listed: %s", got)
		}
	})
}

// A slow function delays only its own job, which skips the runs that were due in the meantime.
func TestCronDoesNotOverlap(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		slow := dial(t, e).register("slow")
		slow.function("slow")
		slow.send(`{"type":"registertrigger","id":"s","trigger_type":"cron","function_id":"slow","config":{"expression":"*/2 * * * * *"}}`)
		slow.sync()
		p.handle("quick", "!FAILS")
		p.trigger("q", "cron", "quick", `{"expression":"*/10 * * * * *"}`, "")
		p.fence()
		first := slow.recv()
		if got := first["data"].(map[string]any)["scheduled_time"]; got != "2000-01-01T00:00:02+00:00" {
			t.Errorf("first run: %v", got)
		}
		time.Sleep(19*time.Second + 250*time.Microsecond)
		p.wantCalls(`quick `+tick("q", "00:00:10", "00:00:10"), `quick `+tick("q", "00:00:20", "00:00:20"))
		slow.send(`{"type":"invocationresult","invocation_id":%q,"function_id":"slow"}`, first["invocation_id"])
		second := slow.recv()
		if diff := cmp.Diff(tick("s", "00:00:22", "00:00:22"), string(mustEncode(second["data"]))); diff != "" {
			t.Errorf("second run (-want +got):\n%s", diff)
		}
		// If the trigger's worker disconnects during a run, the job is removed.
		_ = slow.conn.Close()
		synctest.Wait()
		time.Sleep(time.Minute)
		if got := len(p.take()); got != 6 {
			t.Errorf("%d runs of the other job in a minute", got)
		}
	})
}

func TestCronConditions(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		answers := []string{"true", "false", "!BROKEN", "null"}
		p.handleFunc("cond", func([]byte) string {
			answer := answers[0]
			answers = answers[1:]
			return answer
		})
		p.handle("f", "")
		p.trigger("c", "cron", "f", `{"expression":"* * * * * *","condition_function_id":"cond"}`, `,"metadata":1`)
		p.fence()
		time.Sleep(4*time.Second + time.Millisecond)
		one, four := tick("c", "00:00:01", "00:00:01"), tick("c", "00:00:04", "00:00:04")
		p.wantCalls(`cond `+one, `f `+one+` metadata 1`,
			`cond `+tick("c", "00:00:02", "00:00:02"), `cond `+tick("c", "00:00:03", "00:00:03"),
			`cond `+four, `f `+four+` metadata 1`)
		p.send(`{"type":"unregistertrigger","id":"c"}`)
		p.fence()
		logs := p.call("engine::logs::list", `{"severity_text":"error"}`)
		if got := strings.Count(logs, "cron job failed"); got != 1 || !strings.Contains(logs, "BROKEN: the handler says no") {
			t.Errorf("logged: %s", logs)
		}
	})
}

func TestCronTargetAndSpan(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		blue := dial(t, e).register("blue", `,"namespace":"blue"`)
		blue.function("f")
		p.trigger("c", "cron", "f", `{"expression":"1 0 0 * * *"}`, `,"namespace":"blue"`)
		p.trigger("d", "cron", "gone", `{"expression":"2 0 0 * * *"}`, "")
		p.fence()
		m := blue.want(`{"type":"invokefunction","invocation_id":"*","function_id":"f","traceparent":"*","data":` + tick("c", "00:00:01", "00:00:01") + `}`)
		blue.send(`{"type":"invocationresult","invocation_id":%q,"function_id":"f","result":1}`, m["invocation_id"])
		time.Sleep(2 * time.Second)
		if diff := cmp.Diff([]string{"call f", "call gone!"}, outline(e)); diff != "" {
			t.Errorf("spans (-want +got):\n%s", diff)
		}
	})
}

// A worker that registers the cron trigger type takes over the jobs, and the engine stops
// running them.
func TestCronTakenOver(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		p.handle("f", "")
		p.trigger("c", "cron", "f", `{"expression":"* * * * * *"}`, "")
		p.fence()
		provider := dial(t, e).register("provider")
		provider.send(`{"type":"registertriggertype","id":"cron","description":"d"}`)
		provider.want(`{"type":"registertrigger","id":"c","trigger_type":"cron","function_id":"f","config":{"expression":"* * * * * *"}}`)
		time.Sleep(time.Minute)
		p.wantCalls()
	})
}

// A job runs at every tick after its registration, even if its goroutine starts late.
func TestCronMissesNoTickAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		schedule, err := cronexpr.Parse("* * * * * *")
		if err != nil {
			t.Fatal(err)
		}
		registered := time.Now().Add(-time.Millisecond)
		ctx, cancel := context.WithCancel(t.Context())
		e.cron.run(ctx, schedule, registered, func(_ context.Context, due time.Time) {
			if want := registered.Add(time.Millisecond); !due.Equal(want) {
				t.Errorf("first run due at %v, want %v", due, want)
			}
			cancel()
		})
	})
}

func TestCronRealClock(t *testing.T) {
	c := dial(t, Start(t)).register("c")
	c.function("f")
	c.send(`{"type":"registertrigger","id":"t","trigger_type":"cron","function_id":"f","config":{"expression":"* * * * * *"}}`)
	data, _ := c.recv()["data"].(map[string]any)
	scheduled, err := time.Parse(time.RFC3339, fmt.Sprint(data["scheduled_time"]))
	if err != nil {
		t.Fatal(err)
	}
	actual, err := time.Parse(time.RFC3339, fmt.Sprint(data["actual_time"]))
	if err != nil || scheduled.Nanosecond() != 0 || actual.Before(scheduled.Add(-time.Second)) || time.Since(scheduled) < -time.Second {
		t.Errorf("%v: %v", data, err)
	}
}

func TestRFC3339(t *testing.T) {
	at := time.Date(2026, 11, 23, 1, 2, 3, 0, time.FixedZone("", 3600))
	for ns, want := range map[time.Duration]string{
		0: "03+00:00", 120 * time.Millisecond: "03.120+00:00", 2061 * time.Microsecond: "03.002061+00:00", 2061387: "03.002061387+00:00",
	} {
		if got := rfc3339(at.Add(ns)); got != "2026-11-23T00:02:"+want {
			t.Errorf("%v: got %s", ns, got)
		}
	}
}

// TestCronVectors checks the cron parser against results recorded from a real engine.
func TestCronVectors(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "testdata", "0.23", "cron-vectors.json"))
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Expression string `json:"expression"`
		Accepted   bool   `json:"accepted"`
		Error      string `json:"error"`
	}
	if err := json.Unmarshal(data, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) < 388 {
		t.Fatalf("%d vectors", len(vectors))
	}
	for _, v := range vectors {
		got := ""
		if err := checkCron(v.Expression); err != nil {
			got = err.Error()
		}
		if diff := cmp.Diff(v.Error, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", v.Expression, diff)
		}
	}
}

// checkCron returns the error with which the cron trigger type rejects expression, or nil.
func checkCron(expression string) error {
	c := &cron{engine: &Engine{ctx: context.Background(), closed: true}, jobs: map[string]runningJob{}}
	return c.bind(context.Background(), binding{config: mustEncode(map[string]string{"expression": expression})})
}
