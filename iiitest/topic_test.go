package iiitest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// attempts registers a function that fails the given number of times for each payload. The
// result lists the time and payload of each call.
func (p *peer) attempts(id string, failures int) *[]string {
	start, calls, failed := time.Now(), &[]string{}, map[string]int{}
	p.handleFunc(id, func(data []byte) string {
		*calls = append(*calls, fmt.Sprintf("%v: %s", time.Since(start), data))
		failed[string(data)]++
		if failed[string(data)] <= failures {
			return "!NOPE"
		}
		return ""
	})
	return calls
}

func wantAttempts(t *testing.T, got *[]string, want ...string) {
	t.Helper()
	synctest.Wait()
	if diff := cmp.Diff(want, *got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
	*got = nil
}

func (p *peer) publish(topic, data string) {
	p.t.Helper()
	p.want("", "iii::durable::publish", `{"topic":"`+topic+`","data":`+data+`}`)
}

func TestDurablePublish(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		blue := dial(t, e).register("blue", `,"namespace":"blue"`)
		blue.function("a")
		p.handle("a", `"ignored"`)
		p.handle("b", "")
		p.trigger("t1", "durable:subscriber", "a", `{"topic":"orders"}`, `,"metadata":{"not":"delivered"}`)
		p.trigger("t2", "durable:subscriber", "a", `{"topic":"orders","queue_config":5}`, "") // same target as t1, so no second copy
		p.trigger("t3", "durable:subscriber", "b", `{"topic":"orders"}`, "")
		p.trigger("t4", "durable:subscriber", "a", `{"topic":"orders"}`, `,"namespace":"blue"`)
		p.trigger("t5", "durable:subscriber", "b", `{"topic":"other"}`, "")
		p.trigger("t6", "durable:subscriber", "b", `{"topic":""}`, "")
		p.trigger("t7", "durable:subscriber", "b", `{}`, "")
		p.trigger("t8", "durable:subscriber", "b", `{"topic":1}`, "")
		p.trigger("t9", "durable:subscriber", "b", `null`, "")
		p.fence()
		p.publish("orders", `{"n":[1,2.50]}`)
		got := p.take()
		slices.Sort(got)
		if diff := cmp.Diff([]string{`a {"n":[1,2.5]}`, `b {"n":[1,2.5]}`}, got); diff != "" {
			t.Errorf("called (-want +got):\n%s", diff)
		}
		blue.want(`{"type":"invokefunction","invocation_id":"*","function_id":"a","data":{"n":[1,2.5]},"traceparent":"*"}`)
		p.publish("other", `null`)
		p.wantCalls(`b null`)

		p.publish("nobody", `1`)
		p.want(`{"config":null,"consumer_count":0,"depth":1,"dlq_depth":0}`, "engine::queue::topic_stats", `{"topic":"nobody"}`)
		p.trigger("late", "durable:subscriber", "b", `{"topic":"nobody"}`, "")
		p.fence()
		p.wantCalls() // earlier messages are not delivered
		p.want(`{"config":null,"consumer_count":1,"depth":0,"dlq_depth":0}`, "engine::queue::topic_stats", `{"topic":"nobody"}`)
		p.want("!topic_not_set: Topic is not set", "iii::durable::publish", `{"topic":"","data":1}`)
		p.want("!deserialization_error: Failed to deserialize input for iii::durable::publish: missing field `topic`", "iii::durable::publish", `{"data":1}`)
		p.want("!deserialization_error: Failed to deserialize input for iii::durable::publish: missing field `data`", "iii::durable::publish", `{"topic":"orders"}`)

		// A repeated id replaces the trigger.
		p.trigger("t5", "durable:subscriber", "b", `{"topic":"another"}`, "")
		p.fence()
		p.publish("other", `1`)
		p.publish("another", `2`)
		p.wantCalls(`b 2`)
		p.trigger("t5", "durable:subscriber", "b", `{}`, "")
		p.fence()
		p.publish("another", `3`)
		p.wantCalls()
	})
}

func TestDurableRetries(t *testing.T) {
	for _, test := range []struct {
		name, config string
		failures     int
		want         []string
		dead         bool
	}{
		{"default", ``, 9, []string{"0s", "1s", "3s"}, true},
		{"third time lucky", ``, 2, []string{"0s", "1s", "3s"}, false},
		{"no retries", `{"maxRetries":0}`, 9, []string{"0s"}, true},
		{"backoff", `{"maxRetries":4,"backoffDelayMs":10}`, 9, []string{"0s", "10ms", "30ms", "70ms", "150ms"}, true},
		{"fifo", `{"type":"fifo","maxRetries":1,"backoffDelayMs":7}`, 9, []string{"0s", "7ms"}, true},
		{"no backoff", `{"backoffDelayMs":0}`, 9, []string{"0s", "0s", "0s"}, true},
		{"ignored", `{"maxRetries":"9","backoffDelayMs":-1,"concurrency":1.5,"type":7,"max_retries":9}`, 9, []string{"0s", "1s", "3s"}, true},
		{"not an object", `[]`, 9, []string{"0s", "1s", "3s"}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
				calls := p.attempts("f", test.failures)
				config := `{"topic":"t"}`
				if test.config != "" {
					config = `{"topic":"t","queue_config":` + test.config + `}`
				}
				p.trigger("t", "durable:subscriber", "f", config, "")
				p.fence()
				p.publish("t", `1`)
				time.Sleep(time.Hour)
				var want []string
				for _, at := range test.want {
					want = append(want, at+": 1")
				}
				wantAttempts(t, calls, want...)
				dead := p.call("engine::queue::dlq_messages", `{"topic":"t"}`)
				if got := strings.Contains(dead, `"payload":1`); got != test.dead {
					t.Errorf("dead letters: %s", dead)
				}
			})
		})
	}
}

// A message that is waiting for its retry can be overtaken. In a fifo subscription, it blocks
// the lane instead.
func TestDurableOrder(t *testing.T) {
	for _, test := range []struct {
		config string
		want   []string
	}{
		{`{"concurrency":1}`, []string{`0s: "a"`, `0s: "b"`, `1s: "a"`, `1s: "b"`, `3s: "a"`, `3s: "b"`}},
		{`{"type":"fifo","concurrency":5}`, []string{`0s: "a"`, `1s: "a"`, `3s: "a"`, `3s: "b"`, `4s: "b"`, `6s: "b"`}},
	} {
		t.Run(test.config, func(t *testing.T) {
			inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
				calls := p.attempts("f", 2)
				p.trigger("t", "durable:subscriber", "f", `{"topic":"t","queue_config":`+test.config+`}`, "")
				p.fence()
				p.publish("t", `"a"`)
				p.publish("t", `"b"`)
				time.Sleep(time.Hour)
				synctest.Wait()
				if !strings.Contains(test.config, "fifo") {
					slices.Sort(*calls) // concurrent retries may arrive in any order
				}
				wantAttempts(t, calls, test.want...)
			})
		})
	}
}

func TestDurableConcurrency(t *testing.T) {
	for _, test := range []struct {
		config string
		want   int
	}{{``, 10}, {`,"queue_config":{"concurrency":3}`, 3}, {`,"queue_config":{"concurrency":0}`, 0}, {`,"queue_config":{"type":"fifo","concurrency":3}`, 1}} {
		t.Run(test.config, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := Start(t)
				c := dial(t, e).register("c")
				c.function("f")
				c.send(`{"type":"registertrigger","id":"t","trigger_type":"durable:subscriber","function_id":"f","config":{"topic":"t"%s}}`, test.config)
				for i := range 12 {
					c.send(`{"type":"invokefunction","function_id":"iii::durable::publish","data":{"topic":"t","data":%d},"action":{"type":"void"}}`, i)
				}
				synctest.Wait()
				if got := e.Stats().CallsInFlight; got != test.want {
					t.Errorf("%d at once, want %d", got, test.want)
				}
				if test.want == 0 { // nothing is delivered
					c.sync()
					return
				}
				for range 12 {
					m := c.recv()
					c.send(`{"type":"invocationresult","invocation_id":%q,"function_id":"f"}`, m["invocation_id"])
				}
				synctest.Wait()
				if got := e.Stats().CallsInFlight; got != 0 {
					t.Errorf("%d in flight in the end", got)
				}
			})
		})
	}
}

func TestDurableConditions(t *testing.T) {
	for _, test := range []struct {
		result string
		runs   bool
	}{
		{"true", true}, {"false", false}, {"null", true}, {"", true}, {`"false"`, true},
	} {
		t.Run(test.result, func(t *testing.T) {
			inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
				p.handle("cond", test.result)
				p.handle("f", "")
				p.trigger("t", "durable:subscriber", "f", `{"topic":"t","condition_function_id":"cond"}`, `,"metadata":1`)
				p.fence()
				p.publish("t", `{"n":1}`)
				want := []string{`cond {"n":1}`}
				if test.runs {
					want = append(want, `f {"n":1}`)
				}
				p.wantCalls(want...)
				p.want(`{"config":null,"consumer_count":1,"depth":0,"dlq_depth":0}`, "engine::queue::topic_stats", `{"topic":"t"}`)
			})
		})
	}
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) { // an error of the condition counts as a failed attempt
		p.handle("cond", "!BROKEN")
		p.trigger("t", "durable:subscriber", "f", `{"topic":"t","condition_function_id":"cond"}`, "")
		p.fence()
		p.publish("t", `1`)
		time.Sleep(time.Hour)
		p.wantCalls(`cond 1`, `cond 1`, `cond 1`)
		dead := p.call("engine::queue::dlq_messages", `{"topic":"t"}`)
		if want := `"error":"Condition function error: ErrorBody { code: \"BROKEN\", message: \"the handler says no\", stacktrace: None }"`; !strings.Contains(dead, want) {
			t.Errorf("dead letter: %s", dead)
		}
	})
}

func TestDurableTriggersOfOneFunctionTakeTurns(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		p.handle("yes", "true")
		p.handle("no", "false")
		p.handle("f", "")
		for _, id := range []string{"yes", "no"} {
			p.trigger(id, "durable:subscriber", "f", `{"topic":"t","condition_function_id":"`+id+`"}`, "")
		}
		p.fence()
		for i := range 6 {
			p.publish("t", strconv.Itoa(i))
			synctest.Wait()
		}
		p.wantCalls("yes 0", "f 0", "no 1", "yes 2", "f 2", "no 3", "yes 4", "f 4", "no 5")
	})
}

// A message that is queued for a subscriber waits if the subscriber disconnects. It is
// delivered to the next subscriber with the same topic, namespace and function.
func TestDurableSubscriberLeavesAndReturns(t *testing.T) {
	for _, config := range []string{`{"topic":"t"}`, `{"topic":"t","queue_config":{"type":"fifo"}}`} {
		t.Run(config, func(t *testing.T) {
			inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
				c := dial(t, e).register("c")
				subscribe := func() {
					c.function("f")
					c.send(`{"type":"registertrigger","id":"t","trigger_type":"durable:subscriber","function_id":"f","config":%s}`, config)
				}
				subscribe()
				c.sync()
				p.publish("t", `1`)
				_ = c.conn.Close() // during the delivery
				time.Sleep(time.Minute)
				p.publish("t", `2`) // without a subscriber
				p.want(`{"config":null,"consumer_count":0,"depth":2,"dlq_depth":0}`, "engine::queue::topic_stats", `{"topic":"t"}`)
				p.handle("other", "")
				p.trigger("other", "durable:subscriber", "other", `{"topic":"t"}`, "")
				p.fence()
				p.publish("t", `2`) // with another subscriber
				p.wantCalls(`other 2`)
				p.send(`{"type":"unregistertrigger","id":"other"}`)
				p.fence()

				c = dial(t, e).register("c")
				subscribe()
				m := c.want(`{"type":"invokefunction","invocation_id":"*","function_id":"f","data":1,"traceparent":"*"}`)
				p.publish("t", `3`)
				c.send(`{"type":"invocationresult","invocation_id":%q,"function_id":"f","error":{"code":"NOPE","message":""}}`, m["invocation_id"])
				seen := ""
				for range 2 {
					m = c.recv()
					c.send(`{"type":"invocationresult","invocation_id":%q,"function_id":"f"}`, m["invocation_id"])
					seen += fmt.Sprint(m["data"])
				}
				want := "31" // message 1 is waiting for its second retry
				if strings.Contains(config, "fifo") {
					want = "13"
				}
				if seen != want {
					t.Errorf("order: %s, want %s", seen, want)
				}
				synctest.Wait()
				p.want(`{"config":null,"consumer_count":1,"depth":1,"dlq_depth":0}`, "engine::queue::topic_stats", `{"topic":"t"}`)
			})
		})
	}
}

// If a fifo subscription ends while a message is waiting for its retry, the message is
// delivered to the next consumer without delay.
func TestDurableFIFOJobMovesOnWhenItsSubscriberLeaves(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		calls := p.attempts("f", 1)
		p.trigger("t1", "durable:subscriber", "f", `{"topic":"t","queue_config":{"type":"fifo","backoffDelayMs":3600000}}`, "")
		p.fence()
		p.publish("t", `1`)
		p.publish("t", `2`)
		wantAttempts(t, calls, "0s: 1")
		p.trigger("t2", "durable:subscriber", "f", `{"topic":"t","queue_config":{"type":"fifo","backoffDelayMs":1000}}`, "")
		p.fence()
		time.Sleep(time.Second)
		wantAttempts(t, calls) // message 1 still blocks the lane
		p.send(`{"type":"unregistertrigger","id":"t1"}`)
		p.fence()
		time.Sleep(time.Minute)
		wantAttempts(t, calls, "1s: 1", "1s: 2", "2s: 2")
	})
}

func TestDurableTraceAndSpans(t *testing.T) {
	const trace = "0af7651916cd43dd8448eb211c80319c"
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		c := dial(t, e).register("c")
		c.function("f")
		c.send(`{"type":"registertrigger","id":"t","trigger_type":"durable:subscriber","function_id":"f","config":{"topic":"t"}}`)
		c.send(`{"type":"invokefunction","function_id":"iii::durable::publish","data":{"topic":"t","data":1},"action":{"type":"void"},"traceparent":"00-%s-b7ad6b7169203331-01","baggage":"k=v"}`, trace)
		m := c.recv()
		c.send(`{"type":"invocationresult","invocation_id":%q,"function_id":"f","error":{"code":"X","message":"no"}}`, m["invocation_id"])
		if got, _ := m["traceparent"].(string); !strings.HasPrefix(got, "00-"+trace+"-") || !strings.Contains(fmt.Sprint(m["baggage"]), "k=v") {
			t.Errorf("context of the message: %v", m)
		}
		synctest.Wait()
		want := []string{"b7ad6b7169203331 > call iii::durable::publish", "b7ad6b7169203331 > call iii::durable::publish > queue t!"}
		if diff := cmp.Diff(want, outline(e)); diff != "" {
			t.Errorf("spans (-want +got):\n%s", diff)
		}
	})
}

func TestDebugText(t *testing.T) {
	for _, test := range []struct {
		err  wireError
		want string
	}{
		{wireError{Code: "NOPE", Message: "always fails"}, `ErrorBody { code: "NOPE", message: "always fails", stacktrace: None }`},
		{wireError{Code: `a"b\c`, Message: "\n\r\t\x00\x1bé", Stacktrace: "s"}, `ErrorBody { code: "a\"b\\c", message: "\n\r\t\0\u{1b}é", stacktrace: Some("s") }`},
	} {
		if got := debugText(&test.err); got != test.want {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
	}
}

func TestBackoff(t *testing.T) {
	for _, test := range []struct {
		base     time.Duration
		attempts int
		want     time.Duration
	}{{time.Second, 1, time.Second}, {time.Second, 4, 8 * time.Second}, {0, 90, 0}, {1, 63, 1 << 62}, {time.Hour, 90, 1<<63 - 1}} {
		if got := backoff(test.base, test.attempts); got != test.want {
			t.Errorf("%v after %d: %v, want %v", test.base, test.attempts, got, test.want)
		}
	}
}
