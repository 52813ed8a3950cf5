package iiitest_test

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// lostEvents collects the log lines about events that reached no worker.
type lostEvents struct {
	slog.Handler
	mu    sync.Mutex
	lines []string
}

func (l *lostEvents) Enabled(context.Context, slog.Level) bool { return true }
func (l *lostEvents) Handle(_ context.Context, r slog.Record) error {
	if !strings.HasPrefix(r.Message, "event found no worker") {
		return nil
	}
	line := r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "function" || a.Key == "topic" || a.Key == "queue" {
			line += " " + a.Key + "=" + a.Value.String()
		}
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	return nil
}

// since returns the lines logged since the previous call.
func (l *lostEvents) since() []string {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := l.lines
	l.lines = nil
	return lines
}

// Once a trigger's worker has disconnected, events are logged as lost, whether or not the
// worker unregistered its triggers first. Logging stops when another worker provides the
// function.
func TestEventsForDisconnectedWorkersAreLogged(t *testing.T) {
	scope, topic := "orders", "sold"
	sources := map[string]struct {
		config iii.TriggerConfig
		occur  func(ctx context.Context, c *iii.Client, e *iiitest.Engine) error
		only   iiitest.Protocol // 0 for all
	}{
		"state": {config: iii.StateTriggerConfig{Scope: &scope}, occur: func(ctx context.Context, c *iii.Client, _ *iiitest.Engine) error {
			_, err := iii.NewState[int](c, scope).Set(ctx, "ada", 1)
			return err
		}},
		"stream": {config: iii.StreamTriggerConfig{StreamName: "chat"}, occur: func(ctx context.Context, c *iii.Client, _ *iiitest.Engine) error {
			_, err := iii.NewStream[int](c, "chat").Set(ctx, "lobby", "1", 1)
			return err
		}},
		"stream:join": {config: iii.StreamJoinTrigger{}, occur: func(ctx context.Context, _ *iii.Client, e *iiitest.Engine) error {
			next, leave := iter.Pull2(iii.SubscribeWith(ctx, iii.SubscribeOptions{URL: e.StreamURL(), DialContext: e.DialContext}, iii.StreamSubscription{StreamName: "chat", GroupID: "lobby"}))
			defer leave()
			_, err, _ := next()
			return err
		}},
		"stream:leave": {config: iii.StreamLeaveTrigger{}, occur: func(ctx context.Context, _ *iii.Client, e *iiitest.Engine) error {
			next, leave := iter.Pull2(iii.SubscribeWith(ctx, iii.SubscribeOptions{URL: e.StreamURL(), DialContext: e.DialContext}, iii.StreamSubscription{StreamName: "chat", GroupID: "lobby"}))
			defer leave()
			_, err, _ := next()
			return err
		}},
		"configuration": {config: iii.ConfigurationTriggerConfig{}, occur: func(ctx context.Context, c *iii.Client, _ *iiitest.Engine) error {
			return c.Call(ctx, "configuration::register", map[string]any{"id": "shop", "name": "shop", "description": "the shop", "schema": map[string]any{"type": "object"}}, nil)
		}},
		"cron": {config: iii.CronTriggerConfig{Expression: "0 * * * * *"}, occur: func(context.Context, *iii.Client, *iiitest.Engine) error {
			time.Sleep(time.Minute)
			return nil
		}},
		"log": {config: iii.LogTriggerConfig{}, occur: func(ctx context.Context, c *iii.Client, _ *iiitest.Engine) error {
			return errors.Join(c.Call(ctx, "engine::log::info", map[string]string{"message": "hello"}, nil),
				c.Call(ctx, "engine::log::info", map[string]string{"message": "hello"}, nil)) // both calls produce one log line
		}},
		"subscribe": {config: iii.SubscribeTriggerConfig{Topic: topic}, occur: func(ctx context.Context, c *iii.Client, _ *iiitest.Engine) error {
			return c.Publish(ctx, topic, 1)
		}, only: iiitest.Protocol023},
		"durable:subscriber": {config: iii.QueueTriggerConfig{Topic: topic}, occur: func(ctx context.Context, c *iii.Client, _ *iiitest.Engine) error {
			return c.PublishDurable(ctx, topic, 1)
		}, only: iiitest.Protocol023},
	}
	for name, source := range sources {
		for _, protocol := range []iiitest.Protocol{iiitest.Protocol023, iiitest.Protocol026} {
			if source.only != 0 && source.only != protocol {
				continue
			}
			for _, end := range []string{"killed", "shut down", "long away"} {
				t.Run(name+"/"+protocol.String()+"/"+end, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						lost := new(lostEvents)
						e := iiitest.Start(t, iiitest.WithProtocol(protocol), iiitest.WithLogger(slog.New(lost)))
						start := func(name string, triggers bool) *iii.Client {
							c, err := iii.New(e.URL(), iii.WithName(name), iii.WithDialContext(e.DialContext))
							if err != nil {
								t.Fatal(err)
							}
							t.Cleanup(func() { _ = c.Close() })
							if triggers {
								_, err1 := iii.HandleEvent(c, "mail::send", func(context.Context, any) error { return nil })
								_, err2 := c.Trigger("mail::send", source.config)
								err = errors.Join(err1, err2)
							}
							if err := errors.Join(err, c.Connect(t.Context())); err != nil {
								t.Fatal(err)
							}
							synctest.Wait()
							return c
						}
						caller, mail := start("caller", false), start("mail", true)
						occur := func() {
							t.Helper()
							if err := source.occur(t.Context(), caller, e); err != nil {
								t.Fatal(err)
							}
						}
						if occur(); len(lost.since()) > 0 {
							t.Error("an event with its worker there")
						}
						if end == "shut down" {
							_ = mail.Shutdown(t.Context())
						} else {
							_ = mail.Close()
						}
						if end == "long away" {
							time.Sleep(50 * time.Second) // longer than observers outlive their worker
						}
						lost.since()
						occur()
						lines := lost.since()
						if len(lines) == 0 || !strings.HasSuffix(lines[0], " function=mail::send") || len(lines) > 1 && name != "cron" && name != "subscribe" {
							t.Errorf("without its worker: %q", lines)
						}
						start("mail-2", true)
						lost.since()
						if occur(); len(lost.since()) > 0 {
							t.Error("an event with another worker there")
						}
					})
				})
			}
		}
	}
}

// If a worker unregisters a trigger and stays connected, later events are not logged as lost.
func TestEventsForUnregisteredTriggersAreNotLogged(t *testing.T) {
	for _, protocol := range []iiitest.Protocol{iiitest.Protocol023, iiitest.Protocol026} {
		synctest.Test(t, func(t *testing.T) {
			lost := new(lostEvents)
			e := iiitest.Start(t, iiitest.WithProtocol(protocol), iiitest.WithLogger(slog.New(lost)))
			c, err := iii.New(e.URL(), iii.WithDialContext(e.DialContext))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			scope := "orders"
			_, err1 := iii.HandleEvent(c, "mail::send", func(context.Context, any) error { return nil })
			trigger, err2 := c.Trigger("mail::send", iii.StateTriggerConfig{Scope: &scope})
			if err := errors.Join(err1, err2, c.Connect(t.Context()), trigger.Unregister()); err != nil {
				t.Fatal(err)
			}
			if _, err := iii.NewState[int](c, scope).Set(t.Context(), "ada", 1); err != nil {
				t.Fatal(err)
			}
			if lines := lost.since(); len(lines) > 0 {
				t.Errorf("%v: %q", protocol, lines)
			}
		})
	}
}

// Messages on topics without subscribers and jobs for functions that do not exist are logged.
func TestUndeliverableMessagesAreLogged(t *testing.T) {
	for _, protocol := range []iiitest.Protocol{iiitest.Protocol023, iiitest.Protocol026} {
		synctest.Test(t, func(t *testing.T) {
			lost := new(lostEvents)
			e := iiitest.Start(t, iiitest.WithProtocol(protocol), iiitest.WithLogger(slog.New(lost)))
			c, err := iii.New(e.URL(), iii.WithDialContext(e.DialContext))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			_, err2 := c.Enqueue(t.Context(), "default", "nobody::serves", 1)
			if err := errors.Join(c.PublishDurable(t.Context(), "nobody", 1), err2); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
			got := strings.Join(lost.since(), "\n")
			for line, times := range map[string]int{
				"event found no worker: the topic has no subscriber topic=nobody": 1,
				"event found no worker queue=default function=nobody::serves":     3,
			} {
				if n := strings.Count(got, line); n != times {
					t.Errorf("%v: %d × %q in:\n%s", protocol, n, line, got)
				}
			}
		})
	}
}

// At level debug, the engine logs that a worker has registered and that it has left, and
// whether it closed its connection. The logged reason for a lost event is the same whether or
// not the worker removed its trigger before it left.
func TestConnectionsOfWorkersAreLogged(t *testing.T) {
	tests := map[string]struct {
		leave      func(c *iii.Client, e *iiitest.Engine)
		want, none string
	}{
		"shutdown": {
			leave: func(c *iii.Client, _ *iiitest.Engine) { _ = c.Shutdown(context.Background()) },
			want:  `msg="worker closed its connection"`, none: "error=websocket",
		},
		"crash": {
			leave: func(c *iii.Client, e *iiitest.Engine) {
				e.Hook(func(f iiitest.Frame) iiitest.Verdict {
					return iiitest.Verdict{Drop: f.WorkerName == "", Cut: f.WorkerName == ""}
				}) // cannot return
				e.Drop("visitor")
			},
			want: `msg="worker connection lost"`, none: "worker closed",
		},
	}
	for _, protocol := range []iiitest.Protocol{iiitest.Protocol023, iiitest.Protocol025, iiitest.Protocol026} {
		for name, test := range tests {
			t.Run(protocol.String()+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var text bytes.Buffer
					e := iiitest.Start(t, iiitest.WithProtocol(protocol), iiitest.WithLogger(slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug}))))
					c, err := iii.New(e.URL(), iii.WithName("visitor"), iii.WithNamespace("blue"), iii.WithDialContext(e.DialContext))
					if err != nil {
						t.Fatal(err)
					}
					defer c.Close()
					if _, err := iii.HandleEvent(c, "tick", func(context.Context, iii.CronEvent) error { return nil }); err != nil {
						t.Fatal(err)
					}
					if _, err := c.Trigger("tick", iii.CronTriggerConfig{Expression: "* * * * * *"}); err != nil {
						t.Fatal(err)
					}
					if err := c.Connect(t.Context()); err != nil {
						t.Fatal(err)
					}
					test.leave(c, e)
					time.Sleep(8 * time.Second) // longer than observers are kept
					_ = c.Close()
					if err := e.Close(); err != nil {
						t.Fatal(err)
					}
					got := text.String()
					for _, line := range []string{"level=DEBUG msg=\"worker registered\" worker=", "name=visitor namespace=blue", "level=DEBUG " + test.want, "error=\"the worker that registered the trigger has left\""} {
						if !strings.Contains(got, line) {
							t.Errorf("%q is missing in:\n%s", line, got)
						}
					}
					if strings.Contains(got, test.none) || strings.Contains(got, "disposed by") {
						t.Errorf("%q is in:\n%s", test.none, got)
					}
				})
			})
		}
	}
}

// A message for a missing function has no reply, so the engine logs it.
func TestDroppedMessagesAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text bytes.Buffer
		e := iiitest.Start(t, iiitest.WithLogger(slog.New(slog.NewTextHandler(&text, nil))))
		c, err := iii.New(e.URL(), iii.WithDialContext(e.DialContext), iii.WithName("sender"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.Send(t.Context(), "no::one", 1); err != nil {
			t.Fatal(err)
		}
		if err := c.Call(t.Context(), "no::one", 1, nil); err == nil {
			t.Error("a call of a missing function succeeds")
		}
		synctest.Wait()
		want := `level=WARN msg="message dropped" function=no::one namespace=default worker=sender error="Function no::one not found in namespace default."`
		if got := text.String(); strings.Count(got, "no::one") != 2 || !strings.Contains(got, want) {
			t.Errorf("log:\n%s\nwant one line with %s", got, want)
		}
	})
}

// When a message or a job becomes a dead letter, the engine logs its queue, the function that
// failed, the number of attempts, and the last error.
func TestDeadLettersAreLogged(t *testing.T) {
	setting := iii.QueueTriggerConfig{Topic: "sold", QueueConfig: &iii.QueueConfig{MaxRetries: new(uint64(1))}}
	conditional := setting
	conditional.ConditionFunctionID = "mail::wanted"
	tests := map[string]struct {
		bind func(c *iii.Client) error
		send func(ctx context.Context, c *iii.Client) error
		want string
	}{
		"topic": {
			bind: func(c *iii.Client) error { _, err := c.Trigger("mail::send", setting); return err },
			send: func(ctx context.Context, c *iii.Client) error { return c.PublishDurable(ctx, "sold", 1) },
			want: `queue=sold function=mail::send attempt=2 code=NO_POST error="the post is closed"`,
		},
		"condition": {
			bind: func(c *iii.Client) error { _, err := c.Trigger("mail::send", conditional); return err },
			send: func(ctx context.Context, c *iii.Client) error { return c.PublishDurable(ctx, "sold", 1) },
			want: `queue=sold function=mail::wanted attempt=2 code=NO_IDEA error="cannot decide"`,
		},
		"queue": {
			send: func(ctx context.Context, c *iii.Client) error {
				_, err := c.Enqueue(ctx, "payments", "mail::send", 1)
				return err
			},
			want: `queue=payments function=mail::send attempt=2 code=NO_POST error="the post is closed"`,
		},
	}
	for name, tt := range tests {
		for _, protocol := range []iiitest.Protocol{iiitest.Protocol023, iiitest.Protocol026} {
			if name == "condition" && protocol == iiitest.Protocol026 {
				continue // the worker checks the condition
			}
			t.Run(name+"/"+protocol.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var text bytes.Buffer
					e := iiitest.Start(t, iiitest.WithProtocol(protocol), iiitest.WithLogger(slog.New(slog.NewTextHandler(&text, nil))),
						iiitest.WithQueue("payments", iiitest.QueueConfig{MaxRetries: 2}))
					c, err := iii.New(e.URL(), iii.WithDialContext(e.DialContext))
					if err != nil {
						t.Fatal(err)
					}
					defer c.Close()
					_, err1 := iii.HandleEvent(c, "mail::send", func(context.Context, any) error {
						return &iii.Error{Code: "NO_POST", Message: "the post is closed"}
					})
					_, err2 := iii.Handle(c, "mail::wanted", func(context.Context, any) (bool, error) {
						return false, &iii.Error{Code: "NO_IDEA", Message: "cannot decide"}
					})
					if err := errors.Join(err1, err2); err != nil {
						t.Fatal(err)
					}
					if tt.bind != nil {
						if err := tt.bind(c); err != nil {
							t.Fatal(err)
						}
					}
					if err := errors.Join(c.Connect(t.Context()), tt.send(t.Context(), c)); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Minute)
					synctest.Wait()
					want := `level=WARN msg="job moved to the dead-letter queue" ` + tt.want + "\n"
					if n := strings.Count(text.String(), want); n != 1 {
						t.Errorf("%d × %q in:\n%s", n, want, text.String())
					}
				})
			})
		}
	}
}
