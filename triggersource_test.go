package iii

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// activate invokes one of the client's functions on behalf of an observer and returns the
// invocation id.
func (c *peerConn) activate(functionID, observerID, data string) string {
	id := newInvocationID().String()
	c.send(fmt.Sprintf(`{"type":"invokefunction","invocation_id":%q,"function_id":%q,"data":%s,"metadata":{"m":1},`+
		`"caller":{"worker_name":"iii-engine"},"observe_depth":1,"activation":{"observer_id":%q,"activation_id":"a"}}`, id, functionID, data, observerID))
	return id
}

// outcome waits for the reply to an invocation and returns its result or error as a string.
func (p *peer) outcome(id string) string {
	p.tb.Helper()
	m := p.answered(id)
	if m.Error != nil {
		return m.Error.Code + ": " + m.Error.Message
	}
	return string(m.Result)
}

func wantJSON(t *testing.T, what, want, got string) {
	t.Helper()
	var w, g any
	if err := errors.Join(json.Unmarshal([]byte(want), &w), json.Unmarshal([]byte(got), &g)); err != nil {
		t.Errorf("%s: %v: %s", what, err, got)
		return
	}
	if diff := cmp.Diff(w, g); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// For each trigger type, the table contains the observer that the engine receives, an event as
// the engine sends it, and the payload that the handler must receive on every engine.
func TestTriggersAreObserversOnEnginesWithoutTriggers(t *testing.T) {
	const request = `{"path":"/a/:id","method":"POST","path_params":{"id":"1"},"query_params":{},"headers":{},"body":{"n":1},` +
		`"request_body":{"channel_id":"c","access_key":"k","direction":"read"},"response":{"channel_id":"c","access_key":"k","direction":"write"}}`
	tests := map[string]struct {
		client  []Option
		config  TriggerConfig
		opts    []TriggerOption
		observe string // source and options of the observe message
		event   string // event from the engine; if "", the test ends without one
		payload string // expected payload; if "", the handler must not run
	}{
		"http": {
			config:  HTTPTriggerConfig{APIPath: "a/:id", HTTPMethod: "post", MiddlewareFunctionIDs: []string{"m"}},
			observe: `"source":{"function_id":"http::on-request","namespace":"default","args":{"path":"/a/:id","method":"POST","middleware_function_ids":["m"]}}`,
			event:   request,
			payload: request[:len(request)-1] + `,"trigger":{"type":"http","path":"/a/:id","method":"POST"}}`,
		},
		"http without a method": {
			config:  HTTPTriggerConfig{APIPath: "/"},
			observe: `"source":{"function_id":"http::on-request","namespace":"default","args":{"path":"/","method":"GET"}}`,
			event:   `{}`, payload: `{"trigger":{"type":"http","method":"GET"}}`,
		},
		"cron": {
			config:  CronTriggerConfig{Expression: "0 */5 * * * *"},
			observe: `"source":{"function_id":"cron::on-tick","namespace":"default","args":{"expression":"0 */5 * * * * *"},"deliver":"output","capture":["output"]}`,
			event:   `{"expression":"0 */5 * * * * *","scheduled_time":"2026-01-01T00:00:00Z","actual_time":"2026-01-01T00:00:01Z"}`,
			payload: `{"trigger":"cron","job_id":"id","scheduled_time":"2026-01-01T00:00:00Z","actual_time":"2026-01-01T00:00:01Z"}`,
		},
		"cron with a year": {
			config:  CronTriggerConfig{Expression: "0 0 0 1 1 * 2030"},
			observe: `"source":{"function_id":"cron::on-tick","namespace":"default","args":{"expression":"0 0 0 1 1 * 2030"},"deliver":"output","capture":["output"]}`,
		},
		"cron shorthand": {
			config:  CronTriggerConfig{Expression: "@daily"},
			observe: `"source":{"function_id":"cron::on-tick","namespace":"default","args":{"expression":"@daily"},"deliver":"output","capture":["output"]}`,
		},
		"queue": {
			config:  QueueTriggerConfig{Topic: "orders", QueueConfig: &QueueConfig{MaxRetries: new(uint64(4)), BackoffDelayMs: new(uint64(50)), Type: "fifo"}},
			observe: `"source":{"function_id":"queue::on-message","namespace":"default","args":{"topic":"orders","max_retries":4,"backoff_ms":50,"queue_config":{"maxRetries":4,"backoffDelayMs":50,"type":"fifo"}}}`,
			event:   `{"n":1}`, payload: `{"n":1}`,
		},
		"queue with a group": {
			config:  CustomTrigger{Type: "durable:subscriber", Config: map[string]any{"topic": "orders", "group": "g", "queue_config": nil}},
			observe: `"source":{"function_id":"queue::on-message","namespace":"default","args":{"topic":"orders","group":"g"}}`,
		},
		"subscribe": {
			config:  SubscribeTriggerConfig{Topic: "news"},
			observe: `"source":{"function_id":"publish","namespace":"default","filters":{"input.topic":{"$eq":"news"}},"deliver":"input"}`,
			event:   `{"topic":"news","data":[1,2]}`, payload: `[1,2]`,
		},
		"subscribe, null": {
			config:  SubscribeTriggerConfig{Topic: "news"},
			observe: `"source":{"function_id":"publish","namespace":"default","filters":{"input.topic":{"$eq":"news"}},"deliver":"input"}`,
			event:   `{"topic":"news"}`, payload: `null`,
		},
		"state": {
			config:  StateTriggerConfig{Scope: new("s"), Key: new("")},
			observe: `"source":{"function_id":"state::on-changed","namespace":"default","filters":{"input.scope":{"$eq":"s"},"input.key":{"$eq":""}},"deliver":"input"},"max_in_flight":1`,
			event:   `{"type":"state","event_type":"state:created","scope":"s","key":"","old_value":null,"new_value":1}`,
			payload: `{"type":"state","event_type":"state:created","scope":"s","key":"","old_value":null,"new_value":1}`,
		},
		"all state": {
			config:  StateTriggerConfig{},
			observe: `"source":{"function_id":"state::on-changed","namespace":"default","filters":{},"deliver":"input"},"max_in_flight":1`,
		},
		"stream": {
			config: StreamTriggerConfig{StreamName: "s", GroupID: "g"},
			observe: `"source":{"function_id":"stream::on-changed","namespace":"default","filters":{"$and":[{"$or":[{"input.stream_name":{"$eq":"s"}},{"input.streamName":{"$eq":"s"}}]},` +
				`{"$or":[{"input.group_id":{"$eq":"g"}},{"input.groupId":{"$eq":"g"}}]}]},"deliver":"input"},"max_in_flight":1`,
			event:   `{"type":"stream","stream_name":"s","group_id":"g","id":"i","timestamp":1,"event":{}}`,
			payload: `{"type":"stream","stream_name":"s","group_id":"g","id":"i","timestamp":1,"event":{},"streamName":"s","groupId":"g"}`,
		},
		"join":  {config: StreamJoinTrigger{}, observe: `"source":{"function_id":"stream::on-join","namespace":"default","deliver":"input"}`, event: `{"id":1}`, payload: `{"id":1}`},
		"leave": {config: StreamLeaveTrigger{}, observe: `"source":{"function_id":"stream::on-leave","namespace":"default","deliver":"input"},"max_in_flight":1`},
		"log": {
			config:  LogTriggerConfig{Level: LogLevelError},
			observe: `"source":{"function_id":"observability::on-log","namespace":"default","filters":{"input.level":{"$eq":"error"}},"deliver":"input"}`,
		},
		"all logs": {config: LogTriggerConfig{Level: "all"}, observe: `"source":{"function_id":"observability::on-log","namespace":"default","deliver":"input"}`},
		"trace": {
			config:  TraceTriggerConfig{ServiceName: new("Shop"), Status: new("error")},
			observe: `"source":{"function_id":"observability::on-span","namespace":"default","deliver":"input"}`,
			event:   `{"trace_id":"t","span_id":"s","service_name":"shop","status":"ERROR"}`, payload: `{"trace_ids":["t"]}`,
		},
		"trace of another service": {
			config:  TraceTriggerConfig{ServiceName: new("shop")},
			observe: `"source":{"function_id":"observability::on-span","namespace":"default","deliver":"input"}`,
			event:   `{"trace_id":"t","service_name":"till","status":"ok"}`,
		},
		"configuration": {
			config: ConfigurationTriggerConfig{ConfigurationID: "c", EventTypes: []ConfigurationEventType{ConfigurationEventTypeUpdated}},
			observe: `"source":{"function_id":"configuration::on-updated","namespace":"default","filters":{"input.id":{"$eq":"c"},` +
				`"input.event_type":{"$in":["configuration:updated"]}},"deliver":"input"},"max_in_flight":1`,
		},
		"workers":   {config: WorkersAvailableTrigger{}, observe: `"source":{"function_id":"engine::on-workers-changed","namespace":"default","deliver":"input"}`},
		"functions": {config: FunctionsAvailableTrigger{}, observe: `"source":{"function_id":"engine::on-functions-changed","namespace":"default","deliver":"input"}`},
		"custom": {
			client:  []Option{WithNamespace("shop")},
			config:  CustomTrigger{Type: "tides", Config: map[string]string{"harbour": "x", "condition_function_id": "asked by the provider"}},
			observe: `"source":{"function_id":"tides","namespace":"shop","args":{"harbour":"x","condition_function_id":"asked by the provider"},"deliver":"input"}`,
			event:   `"high"`, payload: `"high"`,
		},
		"custom without a config": {
			config: CustomTrigger{Type: "tides"}, opts: []TriggerOption{WithTriggerProviderNamespace("sea")},
			observe: `"source":{"function_id":"tides","namespace":"sea","deliver":"input"}`,
		},
		"a type of the engine's elsewhere": {
			config: CustomTrigger{Type: "http", Config: map[string]any{"x": 1}}, opts: []TriggerOption{WithTriggerProviderNamespace("mine")},
			observe: `"source":{"function_id":"http","namespace":"mine","args":{"x":1},"deliver":"input"}`,
		},
		"in a namespace": {
			client: []Option{WithNamespace("shop")}, config: StateTriggerConfig{},
			observe: `"source":{"function_id":"state::on-changed","namespace":"default","filters":{},"deliver":"input"},"max_in_flight":1`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, script{greet: greetAs(withV2), message: accepting(hostsObservers)})
				c := p.client(test.client...)
				payloads := make(chan string, 1)
				if _, err := c.HandleFunc("f", func(ctx context.Context, payload json.RawMessage) (any, error) {
					payloads <- string(payload)
					return "done", nil
				}); err != nil {
					t.Fatal(err)
				}
				trigger, err := c.Trigger("f", test.config, append(test.opts, WithTriggerID("id"), WithTriggerMetadata("m"))...)
				if err != nil {
					t.Fatal(err)
				}
				if err := c.Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
				if trigger.Err() != nil || len(p.messages(0, "registertrigger")) > 0 {
					t.Errorf("Err %v, triggers %d", trigger.Err(), len(p.messages(0, "registertrigger")))
				}
				namespace := ""
				if ns := c.Namespace(); ns != "" {
					namespace = fmt.Sprintf(`,"namespace":%q`, ns)
				}
				wantJSON(t, "sent", `{"type":"observe","id":"id","target":{"function_id":"f"`+namespace+`},"metadata":"m",`+test.observe+`}`, string(p.messages(0, "observe")[0].Raw))
				if test.event == "" {
					return
				}
				result := p.outcome(p.conn(0).activate("f", "id", test.event))
				if test.payload == "" {
					if result != "null" || len(payloads) > 0 {
						t.Errorf("result %s, want null and the handler not run", result)
					}
					return
				}
				wantJSON(t, "payload", test.payload, <-payloads)
				if result != `"done"` {
					t.Errorf("result %s", result)
				}
				// A call that is not for this trigger is passed on unchanged.
				p.outcome(p.conn(0).invoke("f", test.event))
				wantJSON(t, "payload of a call", test.event, <-payloads)
				p.outcome(p.conn(0).activate("f", "somebody else's", test.event))
				wantJSON(t, "payload of another observer", test.event, <-payloads)
			})
		})
	}
	for id := range triggerSources {
		if !slices.ContainsFunc(slices.Collect(func(yield func(string) bool) {
			for _, test := range tests {
				if !yield(test.config.TriggerType()) {
					return
				}
			}
		}), func(tested string) bool { return tested == id }) {
			t.Errorf("type %s is not tested", id)
		}
	}
}

func TestTriggerThatCannotBeAnObserverSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{greet: greetAs(withV2, withoutObservers, withV1), message: accepting(hostsObservers)})
		c := p.client()
		mustHandle(t, c, "f")
		told := make(chan error, 10)
		trigger, err := c.Trigger("f", CustomTrigger{Type: "tides", Config: []int{1}}, WithTriggerID("t"), WithTriggerErrorHandler(func(err error) { told <- err }))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := trigger.Err(); !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "object") {
			t.Errorf("error %v, want ErrUnsupported with the reason", err)
		}
		if err := <-told; !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("told %v", err)
		}
		for n := range 2 { // the next two engines have triggers
			p.conn(n).Cut()
			p.find("trigger", func(m *peerMessage) bool { return m.Conn == n+1 && m.Type == "registertrigger" && m.ID == "t" })
			synctest.Wait()
			if err := trigger.Err(); err != nil {
				t.Errorf("connection %d: %v", n+1, err)
			}
		}
		if err := trigger.Unregister(); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if diff := cmp.Diff([]string{"registerfunction f", "registertrigger t", "unregistertrigger t"}, p.observing(2)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestConditionIsAskedBeforeTheHandlerRuns(t *testing.T) {
	const request = `{"path":"/","method":"GET","body":null,"headers":{},"path_params":{},"query_params":{},"request_body":{"channel_id":"c","access_key":"k","direction":"read"},"response":{}}`
	for name, test := range map[string]struct {
		config            TriggerConfig
		event             string
		verdict           string // result of the condition; "" means an error
		asked             string // expected input of the condition; "" means it is not called
		ran               bool
		result            string
		namespaceOfTarget string
	}{
		"state, true":  {config: StateTriggerConfig{ConditionFunctionID: "cond"}, event: `{"key":"k"}`, verdict: `true`, asked: `{"key":"k"}`, ran: true, result: `"done"`},
		"state, null":  {config: StateTriggerConfig{ConditionFunctionID: "cond"}, event: `{"key":"k"}`, verdict: `null`, asked: `{"key":"k"}`, ran: true, result: `"done"`},
		"state, false": {config: StateTriggerConfig{ConditionFunctionID: "cond"}, event: `{"key":"k"}`, verdict: `false`, asked: `{"key":"k"}`, result: `null`},
		"state, error": {config: StateTriggerConfig{ConditionFunctionID: "cond"}, event: `{"key":"k"}`, asked: `{"key":"k"}`, result: `broken: no verdict`},
		"cron, false": {config: CronTriggerConfig{Expression: "@daily", ConditionFunctionID: "cond"}, event: `{"scheduled_time":"a","actual_time":"b"}`, verdict: `false`,
			asked: `{"trigger":"cron","job_id":"id","scheduled_time":"a","actual_time":"b"}`, result: `null`},
		"queue, error": {config: QueueTriggerConfig{Topic: "t", ConditionFunctionID: "cond"}, event: `1`, asked: `1`, result: `broken: no verdict`},
		"queue, false": {config: QueueTriggerConfig{Topic: "t", ConditionFunctionID: "cond"}, event: `1`, verdict: `false`, asked: `1`, result: `null`},
		"http, false": {config: HTTPTriggerConfig{APIPath: "/", ConditionFunctionID: "cond"}, event: request, verdict: `false`,
			asked:  `{"path":"/","method":"GET","body":null,"headers":{},"path_params":{},"query_params":{},"trigger":{"type":"http","path":"/","method":"GET"}}`,
			result: `{"status_code":422,"headers":["Content-Type: application/json"],"body":{"error":{"code":"CONDITION_NOT_MET","message":"Request condition not met"},"skipped":true}}`},
		"subscribe": {config: SubscribeTriggerConfig{Topic: "t", ConditionFunctionID: "cond"}, event: `{"topic":"t","data":1}`, verdict: `false`, ran: true, result: `"done"`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				asked := ""
				p := newPeer(t, script{greet: greetAs(withV2), message: accepting(func(c *peerConn, m *peerMessage) bool {
					if m.Type == "invokefunction" && m.FunctionID == "cond" {
						mu.Lock()
						asked = string(m.Data)
						mu.Unlock()
						if test.verdict == "" {
							c.fail(m, "broken", "no verdict")
						} else {
							c.result(m, test.verdict)
						}
						return true
					}
					return hostsObservers(c, m)
				})})
				// With only one handler slot, a condition that needed a slot would deadlock.
				c := p.client(WithMaxConcurrency(1))
				ran := false
				if _, err := c.HandleFunc("f", func(context.Context, json.RawMessage) (any, error) { ran = true; return "done", nil }); err != nil {
					t.Fatal(err)
				}
				if _, err := c.Trigger("f", test.config, WithTriggerID("id")); err != nil {
					t.Fatal(err)
				}
				if err := c.Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
				id := p.conn(0).activate("f", "id", test.event)
				result := p.outcome(id)
				if told := strings.HasSuffix(string(p.answered(id).Raw), `,"matched":[]}`); told == test.ran {
					t.Errorf("result %s; should observers be notified? %t", p.answered(id).Raw, test.ran)
				}
				if test.verdict == "" {
					if !strings.HasPrefix(result, "broken: ") || !strings.Contains(result, "no verdict") {
						t.Errorf("result %s, want the error of the condition", result)
					}
				} else {
					wantJSON(t, "result", test.result, result)
				}
				if ran != test.ran {
					t.Errorf("ran: %t", ran)
				}
				mu.Lock()
				defer mu.Unlock()
				if test.asked != "" || asked != "" {
					wantJSON(t, "asked", test.asked, asked)
				}
			})
		})
	}
}

// Engine 0.25 represents a trigger as an observer if a worker's function has claimed the
// trigger's type. The worker then sends the trigger's own payload and checks the condition.
func TestActivationsOfTriggersOnEnginesWithTriggers(t *testing.T) {
	for name, test := range map[string]struct {
		config  TriggerConfig
		payload string
	}{
		"subscribe": {SubscribeTriggerConfig{Topic: "news"}, `{"title":"x"}`},
		"trace":     {TraceTriggerConfig{ServiceName: new("shop")}, `{"trace_ids":["t"]}`},
		"cron":      {CronTriggerConfig{Expression: "@daily"}, `{"trigger":"cron","job_id":"j"}`},
		"http":      {HTTPTriggerConfig{APIPath: "/a", ConditionFunctionID: "cond"}, `{"path":"/a","method":"GET"}`},
		"custom":    {CustomTrigger{Type: "bell"}, `1`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, script{greet: greetAs(withV1), message: accepting(hostsObservers), call: func(_ *peerConn, m *peerMessage) string {
					t.Errorf("the client has called %s", m.FunctionID)
					return "false"
				}})
				c := p.client()
				if _, err := c.HandleFunc("f", func(_ context.Context, payload json.RawMessage) (any, error) { return payload, nil }); err != nil {
					t.Fatal(err)
				}
				if _, err := c.Trigger("f", test.config, WithTriggerID("id")); err != nil {
					t.Fatal(err)
				}
				if err := c.Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
				if got := p.outcome(p.conn(0).activate("f", "id", test.payload)); got != test.payload {
					t.Errorf("the handler got %s, want %s", got, test.payload)
				}
			})
		})
	}
}

func TestCronTickIsSkippedWhileTheHandlerRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{greet: greetAs(withV2), message: accepting(hostsObservers)})
		c := p.client()
		release := make(chan bool)
		if _, err := c.HandleFunc("f", func(context.Context, json.RawMessage) (any, error) {
			if !<-release {
				panic("on purpose")
			}
			return "done", nil
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Trigger("f", CronTriggerConfig{Expression: "* * * * * *"}, WithTriggerID("id")); err != nil {
			t.Fatal(err)
		}
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // until the trigger has been sent
		for _, orderly := range []bool{true, false, true} {
			first := p.conn(0).activate("f", "id", `{}`)
			synctest.Wait()
			id := p.conn(0).activate("f", "id", `{}`)
			if got := p.outcome(id); got != "null" || !strings.HasSuffix(string(p.answered(id).Raw), `,"matched":[]}`) {
				t.Errorf("a tick while the handler runs: %s", p.answered(id).Raw)
			}
			release <- orderly
			want := `"done"`
			if !orderly {
				want = "invocation_failed: handler panicked"
			}
			if got := p.outcome(first); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
	})
}

// replied is an origin that calls a function when it receives a response.
type replied struct {
	*link
	on func()
}

func (r replied) reply(b *buffer)    { r.on(); b.free() }
func (r replied) replyNow(b *buffer) { r.reply(b) }

// When the engine has the result, the handler has ended: the next tick is not skipped.
func TestCronTickIsNotSkippedAfterTheResult(t *testing.T) {
	for _, test := range []struct {
		name    string
		handler HandlerFunc // nil if the condition prevents the call
		verdict string      // of the condition; "" if it fails
	}{
		{"result", func(context.Context, json.RawMessage) (any, error) { return 1, nil }, "true"},
		{"error", func(context.Context, json.RawMessage) (any, error) { return nil, errors.New("no") }, "true"},
		{"panic", func(context.Context, json.RawMessage) (any, error) { panic("on purpose") }, "true"},
		{"condition not met", nil, "false"},
		{"condition fails", nil, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, script{greet: greetAs(withV2), message: accepting(func(c *peerConn, m *peerMessage) bool {
					switch {
					case m.FunctionID != "condition":
						return hostsObservers(c, m)
					case test.verdict == "":
						c.fail(m, "broken", "no verdict")
					default:
						c.result(m, test.verdict)
					}
					return true
				})})
				c := p.client()
				if _, err := c.HandleFunc("f", func(ctx context.Context, payload json.RawMessage) (any, error) {
					return test.handler(ctx, payload)
				}); err != nil {
					t.Fatal(err)
				}
				trigger, err := c.Trigger("f", CronTriggerConfig{Expression: "* * * * * *", ConditionFunctionID: "condition"})
				if err != nil {
					t.Fatal(err)
				}
				if err := c.Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				replies := 0
				to := replied{c.registry.link, func() {
					replies++
					if trigger.busy.Load() {
						t.Error("the result is sent while ticks are skipped")
					}
				}}
				c.execute(&incoming{origin: to, function: c.registry.functionNamed("f"), trigger: trigger, id: []byte("1"), data: json.RawMessage(`{}`)})
				if replies != 1 || trigger.busy.Load() {
					t.Errorf("%d results; busy: %t", replies, trigger.busy.Load())
				}
			})
		})
	}
}

// The engine calls another worker's function directly if possible. If the payload must be
// adapted, the engine calls a private function of this worker, which calls the target.
func TestForeignTargetsAreCalledThroughAnAdapterWhereNeeded(t *testing.T) {
	for name, test := range map[string]struct {
		config  TriggerConfig
		adapted bool
		event   string
		data    string // expected payload of the target
	}{
		"state":                  {config: StateTriggerConfig{}},
		"http":                   {config: HTTPTriggerConfig{APIPath: "/"}},
		"queue":                  {config: QueueTriggerConfig{Topic: "t"}},
		"stream":                 {config: StreamTriggerConfig{StreamName: "s"}},
		"subscribe":              {SubscribeTriggerConfig{Topic: "t"}, true, `{"topic":"t","data":5}`, `5`},
		"cron":                   {CronTriggerConfig{Expression: "@daily"}, true, `{"scheduled_time":1,"actual_time":2}`, `{"trigger":"cron","job_id":"id","scheduled_time":1,"actual_time":2}`},
		"state with a condition": {StateTriggerConfig{ConditionFunctionID: "cond"}, true, `{"key":"k"}`, `{"key":"k"}`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, script{greet: greetAs(withV2, withV1), message: accepting(hostsObservers), call: func(_ *peerConn, m *peerMessage) string {
					return `{"of":"` + m.FunctionID + `"}`
				}})
				c := p.client()
				early, err := c.Trigger("far::away", test.config, WithTriggerID("id"), WithTriggerNamespace("far"))
				if err != nil {
					t.Fatal(err)
				}
				if err := c.Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
				late, err := c.Trigger("far::away", test.config, WithTriggerID("late"), WithTriggerNamespace("far"))
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				functions, observers := p.messages(0, "registerfunction"), p.messages(0, "observe")
				if len(observers) != 2 || early.Err() != nil || late.Err() != nil {
					t.Fatalf("%d observers, errors %v, %v", len(observers), early.Err(), late.Err())
				}
				if !test.adapted {
					if !strings.Contains(string(observers[0].Raw), `"target":{"function_id":"far::away","namespace":"far"}`) || len(functions) > 0 {
						t.Errorf("sent %s and %d functions", observers[0].Raw, len(functions))
					}
					return
				}
				if len(functions) != 2 {
					t.Fatalf("%d functions, want an adapter for each", len(functions))
				}
				for i, m := range functions {
					var f RegisterFunctionMessage
					var o ObserveMessage
					if err := errors.Join(json.Unmarshal(m.Raw, &f), json.Unmarshal(observers[i].Raw, &o)); err != nil {
						t.Fatal(err)
					}
					if !f.Private || f.Observable == nil || *f.Observable || o.Target != (ObserveTarget{FunctionID: f.ID}) {
						t.Errorf("adapter %s, observer %s", m.Raw, observers[i].Raw)
					}
				}
				if got := p.outcome(p.conn(0).activate(functions[0].ID, "id", test.event)); got != `{"of":"far::away"}` {
					t.Errorf("result %s", got)
				}
				call := p.find("call", func(m *peerMessage) bool { return m.FunctionID == "far::away" && m.Type == "invokefunction" })
				wantJSON(t, "data", test.data, string(call.Data))
				if call.Namespace != "far" || string(call.Metadata) != `{"m":1}` {
					t.Errorf("call %s", call.Raw)
				}
				if err := late.Unregister(); err != nil {
					t.Error(err)
				}
				synctest.Wait()
				if gone := p.messages(0, "unobserve", "unregisterfunction"); len(gone) != 2 || gone[0].ID != "late" || gone[1].ID != functions[1].ID {
					t.Errorf("removal: %d messages", len(gone))
				}
				p.conn(0).Cut() // no adapter is needed on an engine with triggers
				p.find("trigger", func(m *peerMessage) bool { return m.Conn == 1 && m.Type == "registertrigger" })
				synctest.Wait()
				if diff := cmp.Diff([]string{"unobserve id", "registertrigger id"}, p.observing(1)); diff != "" {
					t.Errorf("on the older engine (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestContestedTriggersAreRetried(t *testing.T) {
	for name, test := range map[string]struct {
		config TriggerConfig
		code   string
		final  bool
	}{
		"route":           {HTTPTriggerConfig{APIPath: "/:a"}, "HTTP_ROUTE_CONFLICT", false},
		"route, at once":  {HTTPTriggerConfig{APIPath: "/:a"}, "HTTP_ROUTE_CONFLICT", true},
		"id of a replica": {QueueTriggerConfig{Topic: "t"}, "OBSERVER_ID_CONFLICT", true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				refused, attempts := true, 0
				p := newPeer(t, script{greet: greetAs(withV2), message: accepting(func(c *peerConn, m *peerMessage) bool {
					mu.Lock()
					defer mu.Unlock()
					if m.Type == "observe" && refused {
						attempts++
						if test.final {
							c.send(observeRefused(m.ID, test.code))
						} else {
							c.send(observeResult(m.ID, "pending"))
							c.send(observerState(m.ID, "error", test.code))
						}
						return true
					}
					return hostsObservers(c, m)
				})})
				c := p.client()
				mustHandle(t, c, "f")
				told := make(chan error, 100)
				trigger, err := c.Trigger("f", test.config, WithTriggerID("id"), WithTriggerErrorHandler(func(err error) { told <- err }))
				if err != nil {
					t.Fatal(err)
				}
				if err := c.Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
				for range 300 { // Err never returns nil in between
					time.Sleep(100 * time.Millisecond)
					if code := codeOf(trigger.Err()); code != test.code {
						t.Fatalf("Err: %s", code)
					}
				}
				mu.Lock()
				if attempts < 15 || attempts > 40 {
					t.Errorf("%d attempts in 30 s", attempts)
				}
				refused = false
				mu.Unlock()
				if len(told) != 1 {
					t.Errorf("the error handler was called %d times", len(told))
				}
				time.Sleep(3 * time.Second)
				if err := trigger.Err(); err != nil {
					t.Errorf("accepted, but Err is %v", err)
				}
				n := 0 // every attempt first removes the previous observer
				for _, m := range p.messages(0, "observe", "unobserve") {
					if m.Type == "observe" {
						n++
					} else {
						n--
					}
					if !test.final && (n < 0 || n > 1) {
						t.Fatalf("%d observers of one id at once", n)
					}
				}
				if test.final && len(p.messages(0, "unobserve")) > 0 {
					t.Error("a refused observer is removed")
				}
			})
		})
	}
}

func TestOtherRefusalsOfTriggersAreToldOnEachConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{greet: greetAs(withV2), message: accepting(func(c *peerConn, m *peerMessage) bool {
			if m.Type == "observe" {
				c.send(observeResult(m.ID, "pending"))
				c.send(observerState(m.ID, "error", "INVALID_CRON_EXPRESSION"))
			}
			return m.Type == "observe"
		})})
		c := p.client()
		mustHandle(t, c, "f")
		told := make(chan error, 10)
		trigger, err := c.Trigger("f", CronTriggerConfig{Expression: "0 0 25 * * *"}, WithTriggerErrorHandler(func(err error) { told <- err }))
		if err != nil {
			t.Fatal(err)
		}
		for n := range 2 {
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-told; codeOf(err) != "INVALID_CRON_EXPRESSION" || codeOf(trigger.Err()) != "INVALID_CRON_EXPRESSION" {
				t.Errorf("connection %d: reported %v, Err %v", n, err, trigger.Err())
			}
			time.Sleep(time.Minute)
			if got := len(p.messages(n, "observe")); got != 1 {
				t.Errorf("sent %d times", got)
			}
			p.conn(n).Cut()
			p.conn(n + 1)
		}
	})
}

func TestSubscribersOfDurableTopicsHaveStableIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ids := func(p *peer, opts ...Option) (list []string) {
			c := p.client(opts...)
			defer c.Close()
			mustHandle(t, c, "f/g")
			for _, topic := range []string{"orders", "orders", "a b"} {
				if _, err := c.Trigger("f/g", QueueTriggerConfig{Topic: topic}); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := c.Trigger("f/g", QueueTriggerConfig{Topic: "orders"}, WithTriggerID("mine")); err != nil {
				t.Fatal(err)
			}
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, m := range p.messages(-1, "observe") {
				list = append(list, m.ID)
			}
			return list
		}
		newEngine := func() *peer { return newPeer(t, script{greet: greetAs(withV2), message: accepting(hostsObservers)}) }
		want := []string{"subscriber/w/shop/f%2Fg/orders", "subscriber/w/shop/f%2Fg/orders#2", "subscriber/w/shop/f%2Fg/a%20b", "mine"}
		for range 2 {
			if diff := cmp.Diff(want, ids(newEngine(), WithName("w"), WithNamespace("shop"))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
		var log syncBuffer
		want = []string{"subscriber/default/f%2Fg/orders", "subscriber/default/f%2Fg/orders#2", "subscriber/default/f%2Fg/a%20b", "mine"}
		if diff := cmp.Diff(want, ids(newEngine(), WithLogger(slog.New(slog.NewTextHandler(&log, nil))))); diff != "" {
			t.Errorf("without a name (-want +got):\n%s", diff)
		}
		if n := strings.Count(log.String(), "has no name"); n != 1 {
			t.Errorf("%d warnings, want one", n)
		}
	})
}

// syncBuffer is a strings.Builder that is safe for concurrent use.
type syncBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// The client connects to engines of different generations, one after the other.
func TestTriggersAreReplayedForEachEngineGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		generations := []generation{withoutObservers, withV1, withV2, withoutObservers, withV2, withV1}
		p := newPeer(t, script{greet: greetAs(generations...), message: accepting(hostsObservers)})
		c := p.client()
		mustHandle(t, c, "f")
		mustTrigger(t, c, "f", "a")
		mustTrigger(t, c, "f", "b")
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		for n, g := range generations {
			var want []string
			switch {
			case !slices.Contains(g, FeatureObserveV2) && n == 5: // the engine may still have the observers
				want = []string{"registerfunction f", "unobserve a", "unobserve b", "registertrigger a", "registertrigger b"}
			case slices.Contains(g, FeatureObserveV2):
				want = []string{"registerfunction f", "observe a", "observe b"}
			default:
				want = []string{"registerfunction f", "registertrigger a", "registertrigger b"}
			}
			p.find("last", func(m *peerMessage) bool { return m.Conn == n && m.ID == "b" && m.Type != "unobserve" })
			synctest.Wait()
			if diff := cmp.Diff(want, p.observing(n)); diff != "" {
				t.Errorf("connection %d (-want +got):\n%s", n, diff)
			}
			p.conn(n).Cut()
		}
	})
}

// While another worker serves the function, this worker must not register triggers that would
// take over its queues, cron ticks or routes.
func TestTriggersAreHeldWithTheirFunctionOnEnginesWithObservers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		held, listed := true, true
		p := newPeer(t, script{greet: greetAs(withV2), message: accepting(func(c *peerConn, m *peerMessage) bool {
			mu.Lock()
			defer mu.Unlock()
			if m.Type == "registerfunction" && m.ID != "free" && held {
				c.send(fmt.Sprintf(`{"type":"registrationrejected","code":"FUNCTION_NAMESPACE_CONFLICT","namespace":"default","function_id":%q,"owner_worker_id":"w"}`, m.ID))
				return true
			}
			if m.FunctionID == "engine::registered-triggers::list" { // not served by an engine with observers
				c.fail(m, "function_not_found", "no")
				return true
			}
			return hostsObservers(c, m)
		}), call: func(_ *peerConn, m *peerMessage) string {
			mu.Lock()
			defer mu.Unlock()
			if listed {
				return `{"workers":[{"id":"w","name":"other"}]}`
			}
			return `{"workers":[]}`
		}})
		c := p.client(WithName("w"))
		mustHandle(t, c, "free")
		mustHandle(t, c, "f")
		var triggers []*Trigger
		for id, config := range map[string]TriggerConfig{"cron": CronTriggerConfig{Expression: "@daily"}, "queue": QueueTriggerConfig{Topic: "t"}, "state": StateTriggerConfig{}} {
			trigger, err := c.Trigger("f", config, WithTriggerID(id))
			if err != nil {
				t.Fatal(err)
			}
			triggers = append(triggers, trigger)
		}
		route, err := HandleHTTP(c, "GET", "/", func(context.Context, *HTTPRequest[any]) (*HTTPResponse[any], error) { return nil, nil })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Trigger("free", StateTriggerConfig{}, WithTriggerID("free")); err != nil {
			t.Fatal(err)
		}
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if sent := p.messages(0, "observe"); len(sent) != 1 || sent[0].ID != "free" {
			t.Errorf("%d observers were sent, want only that of the free function", len(sent))
		}
		var rejected *RejectedError
		for _, trigger := range triggers {
			if !errors.As(trigger.Err(), &rejected) {
				t.Errorf("trigger %s: %v", trigger.ID(), trigger.Err())
			}
		}
		mu.Lock()
		held = false // the engine removes functions first
		mu.Unlock()
		for route.Err() != nil {
			time.Sleep(10 * time.Millisecond)
		}
		mu.Lock()
		listed = false
		mu.Unlock()
		time.Sleep(time.Second)
		count := map[string]int{}
		for _, m := range p.messages(0, "observe", "unobserve") {
			count[m.Type+" "+m.ID]++
		}
		if len(count) != 5 || len(p.messages(0, "observe")) != 5 {
			t.Errorf("sent %v, want each observer once", count)
		}
		if err := c.Ready(); err != nil {
			t.Error(err)
		}
	})
}

func FuzzTriggerPayload(f *testing.F) {
	for _, data := range []string{`{"path":"/","method":"GET","trigger":null}`, `{"topic":"t","data":{"a":[1]}}`, ` { "stream_name" : "s" , "group_id":"g"} `,
		`{"trace_id":"t","service_name":5,"status":"ok"}`, `[]`, `null`, `"text"`, `{}`, ` {  } `, `{"a\"b":1}`} {
		f.Add([]byte(data))
	}
	configs := map[string]json.RawMessage{}
	for id := range triggerSources {
		configs[id] = json.RawMessage(`{"api_path":"/","expression":"@daily","topic":"t","stream_name":"s","http_method":"get","service_name":"s"}`)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if !json.Valid(data) {
			return
		}
		before := string(data)
		for id, source := range triggerSources {
			if source.payload == nil {
				continue
			}
			payload, ok := source.payload(&triggerSpec{id: "i", triggerType: id, config: configs[id]}, data)
			if ok && !json.Valid(payload) {
				t.Errorf("%s: %q becomes %q", id, data, payload)
			}
			if source.conditionInput != nil && !json.Valid(source.conditionInput(payload)) {
				t.Errorf("%s: condition of %q gets %q", id, data, source.conditionInput(payload))
			}
			if string(data) != before {
				t.Fatalf("%s changes its input", id)
			}
		}
	})
}
