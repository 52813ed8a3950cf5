package iiitest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func (p *peer) enqueue(queue, functionID, data string) {
	p.t.Helper()
	p.want(`{"messageReceiptId":"r"}`, "engine::queue::enqueue", enqueueOf(queue, functionID, data))
}

func enqueueOf(queue, functionID, data string) string {
	return fmt.Sprintf(`{"queue":%q,"function_id":%q,"data":%s,"messageReceiptId":"r"}`, queue, functionID, data)
}

func TestNamedQueue(t *testing.T) {
	for _, test := range []struct {
		name   string
		config QueueConfig
		data   [2]string
		want   []string
	}{
		{"default", QueueConfig{}, [2]string{`1`, `2`}, []string{"0s: 1", "0s: 2", "1s: 1", "1s: 2", "3s: 1", "3s: 2"}},
		{"one attempt", QueueConfig{MaxRetries: 1}, [2]string{`1`, `2`}, []string{"0s: 1", "0s: 2"}},
		{"one at a time", QueueConfig{Concurrency: 1, MaxRetries: 2, BackoffMs: 5}, [2]string{`1`, `2`}, []string{"0s: 1", "0s: 2", "5ms: 1", "5ms: 2"}},
		{
			"fifo", QueueConfig{Type: "fifo", MessageGroupField: "g", Concurrency: 4, MaxRetries: 2},
			[2]string{`{"g":1}`, `{"g":2}`},
			[]string{`0s: {"g":1}`, `0s: {"g":2}`, `1s: {"g":1}`, `1s: {"g":2}`}, // overtaken while waiting for a retry
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
				calls := p.attempts("f", 9)
				p.enqueue("q", "f", test.data[0])
				p.enqueue("q", "f", test.data[1])
				time.Sleep(time.Hour)
				synctest.Wait()
				slices.Sort(*calls) // concurrent calls may arrive in any order
				wantAttempts(t, calls, test.want...)
				dead := p.call("engine::queue::dlq_messages", `{"topic":"q"}`)
				if got := strings.Count(dead, `"error":"function call failed"`); got != 2 {
					t.Errorf("dead letters: %s", dead)
				}
			}, WithQueue("q", test.config))
		})
	}
}

func TestNamedQueueFIFO(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t, WithQueue("q", QueueConfig{Type: "fifo", MessageGroupField: "g"}))
		c, sender := dial(t, e).register("c"), dial(t, e)
		c.function("f")
		for i := range 20 {
			sender.call("engine::queue::enqueue", enqueueOf("q", "f", fmt.Sprintf(`{"g":"x","n":%d}`, i)))
		}
		for i := range 20 {
			synctest.Wait()
			if got := e.Stats().CallsInFlight; got != 1 {
				t.Fatalf("%d at once", got)
			}
			m := c.want(fmt.Sprintf(`{"type":"invokefunction","invocation_id":"*","function_id":"f","data":{"g":"x","n":%d},"traceparent":"*"}`, i))
			c.send(`{"type":"invocationresult","invocation_id":%q,"function_id":"f"}`, m["invocation_id"])
		}
	})
}

func TestNamedQueueRefuses(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		const missing = "!enqueue_failed: FIFO queue 'q' requires field 'g' in data, but it was not found"
		for _, test := range []struct{ queue, data, want string }{
			{"none", `1`, "!enqueue_failed: Queue 'none' not found"},
			{"q", `{"h":1}`, missing},
			{"q", `[]`, missing},
			{"q", `null`, missing},
			{"q", `{"g":null}`, "!enqueue_failed: FIFO queue 'q': field 'g' must not be null"},
		} {
			p.want(test.want, "engine::queue::enqueue", enqueueOf(test.queue, "f", test.data))
		}
		p.want("!deserialization_error: Failed to deserialize input for engine::queue::enqueue: missing field `messageReceiptId`",
			"engine::queue::enqueue", `{"queue":"q","function_id":"f","data":1}`)
		if got := p.call("engine::queue::enqueue", `{"queue":"q","function_id":"f","data":1,"messageReceiptId":"r","namespace":" "}`); !strings.HasPrefix(got, "!INVALID_NAMESPACE") {
			t.Errorf("blank namespace: %s", got)
		}
		time.Sleep(time.Hour)
		p.wantCalls()

		// The function's caller receives the provider's error.
		c := dial(t, e).register("c")
		c.send(`{"type":"invokefunction","invocation_id":%q,"function_id":"f","data":1,"action":{"type":"enqueue","queue":"none"}}`, id1)
		c.want(result(id1, "f", `,"error":{"code":"enqueue_error","message":"enqueue_failed: Queue 'none' not found"}`))
	}, WithQueue("q", QueueConfig{Type: "fifo", MessageGroupField: "g"}))
}

// A job keeps its namespace and trace. Its function need not exist until the job runs.
func TestNamedQueueJob(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		p.send(`{"type":"invokefunction","function_id":"late","data":{"n":1},"namespace":"blue","metadata":{"not":"delivered"},` +
			`"action":{"type":"enqueue","queue":"default"},"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","baggage":"k=v"}`)
		p.fence()
		time.Sleep(2 * time.Second) // two attempts
		blue := dial(t, e).register("blue", `,"namespace":"blue"`)
		blue.function("late")
		m := blue.want(`{"type":"invokefunction","invocation_id":"*","function_id":"late","data":{"n":1},"traceparent":"*","baggage":"iii.function.id=late,k=v"}`)
		blue.send(`{"type":"invocationresult","invocation_id":%q,"function_id":"late"}`, m["invocation_id"])
		synctest.Wait()
		const caller = "b7ad6b7169203331 > "
		got := outline(e)
		want := []string{
			caller + "enqueue late → default", caller + "enqueue late → default > call engine::queue::enqueue",
			caller + "fn_queue default", caller + "fn_queue default!", caller + "fn_queue default!",
		}
		if !slices.Equal(got, want) {
			t.Errorf("spans: %q", got)
		}
		p.want(`{"config":null,"consumer_count":10,"depth":0,"dlq_depth":0}`, "engine::queue::topic_stats", `{"topic":"default"}`)
	})
}

// A worker can provide queues in place of the engine.
func TestQueueProvider(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		p.handle("engine::queue::enqueue", `{"accepted":true}`)
		p.handle("f", "")
		p.fence()
		c := dial(t, e).register("c")
		c.send(`{"type":"invokefunction","invocation_id":%q,"function_id":"f","data":1,"action":{"type":"enqueue","queue":"any"}}`, id1)
		m := c.want(result(id1, "f", `,"result":{"messageReceiptId":"*"}`))
		receipt := m["result"].(map[string]any)["messageReceiptId"].(string)
		p.wantCalls(`engine::queue::enqueue {"baggage":"iii.function.id=f","data":1,"function_id":"f","messageReceiptId":"` + receipt + `","queue":"any","traceparent":null}`)
	})
}
