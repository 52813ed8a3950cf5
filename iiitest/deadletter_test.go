package iiitest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// letters returns the payload, attempts and age of each dead letter in a topic.
func (p *peer) letters(input string) (list []string, ids map[string]string) {
	p.t.Helper()
	var dead []struct {
		ID       string          `json:"id"`
		Payload  json.RawMessage `json:"payload"`
		Error    string          `json:"error"`
		FailedAt int64           `json:"failed_at"`
		Retries  int             `json:"retries"`
		Size     int             `json:"size_bytes"`
	}
	answer := p.call("engine::queue::dlq_messages", input)
	if err := json.Unmarshal([]byte(answer), &dead); err != nil {
		p.t.Fatalf("%s: %v", answer, err)
	}
	ids = map[string]string{}
	for _, d := range dead {
		if d.Size < len(d.Payload) || d.Error == "" {
			p.t.Errorf("size %d, error %q of %s", d.Size, d.Error, d.Payload)
		}
		list = append(list, fmt.Sprintf("%s %d %v", d.Payload, d.Retries, time.Since(time.Unix(d.FailedAt, 0))))
		ids[string(d.Payload)] = d.ID
	}
	return list, ids
}

func (p *peer) wantLetters(input string, want ...string) map[string]string {
	p.t.Helper()
	got, ids := p.letters(input)
	if diff := cmp.Diff(want, got); diff != "" {
		p.t.Errorf("dead letters of %s (-want +got):\n%s", input, diff)
	}
	return ids
}

// TestDeadLetters covers the life cycle of dead letters in topics and named queues.
func TestDeadLetters(t *testing.T) {
	for name, send := range map[string]func(p *peer, data string){
		"topic": func(p *peer, data string) { p.publish("topic", data) },
		"queue": func(p *peer, data string) { p.enqueue("queue", "f", data) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
				fail, calls := true, []string{}
				p.handleFunc("f", func(data []byte) string {
					calls = append(calls, string(data))
					if fail {
						return "!NOPE"
					}
					return ""
				})
				p.trigger("t", "durable:subscriber", "f", `{"topic":"topic","queue_config":{"maxRetries":1,"type":"fifo"}}`, "")
				p.fence()
				topic := `{"topic":"` + name + `"}`
				p.want(`[]`, "engine::queue::dlq_messages", topic)
				for i := range 4 {
					send(p, fmt.Sprint(i))
					time.Sleep(10 * time.Second)
				}
				ids := p.wantLetters(topic, "3 2 9s", "2 2 19s", "1 2 29s", "0 2 39s")
				p.wantLetters(`{"topic":"`+name+`","offset":1,"limit":2}`, "2 2 19s", "1 2 29s")
				p.wantLetters(`{"topic":"` + name + `","offset":9}`)
				p.wantLetters(`{"topic":"` + name + `","limit":0}`)
				p.wantLetters(`{"queue":"`+name+`","offset":3}`, "0 2 39s")
				stats := func(depth, dead int) string {
					return fmt.Sprintf(`{"config":null,"consumer_count":1,"depth":%d,"dlq_depth":%d}`, depth, dead)
				}
				p.want(stats(0, 4), "engine::queue::topic_stats", topic)

				one := func(payload string) string { return `{"queue":"` + name + `","message_id":"` + ids[payload] + `"}` }
				answer := func(payload string, n int) string {
					return fmt.Sprintf(`{"message_id":%q,"queue":%q,"redriven":%d}`, ids[payload], name, n)
				}
				p.want(answer("1", 1), "iii::queue::discard_message", one("1"))
				p.want(answer("1", 0), "iii::queue::discard_message", one("1"))
				p.want(answer("1", 0), "iii::queue::redrive_message", one("1"))
				p.take()
				calls = nil
				p.want(answer("2", 1), "iii::queue::redrive_message", one("2"))
				p.take() // waits until the engine is idle
				p.want(stats(1, 2), "engine::queue::topic_stats", topic)
				time.Sleep(10 * time.Second) // the attempts start over
				p.take()
				if diff := cmp.Diff([]string{"2", "2"}, calls); diff != "" {
					t.Errorf("calls of a redriven message (-want +got):\n%s", diff)
				}
				p.wantLetters(topic, "2 2 9s", "3 2 19s", "0 2 49s")

				fail, calls = false, nil
				p.want(`{"queue":"`+name+`","redriven":3}`, "iii::queue::redrive", `{"queue":"`+name+`"}`)
				p.take()
				if diff := cmp.Diff([]string{"0", "3", "2"}, calls); diff != "" { // oldest first
					t.Errorf("calls of redriven messages (-want +got):\n%s", diff)
				}
				p.want(`{"queue":"`+name+`","redriven":0}`, "iii::queue::redrive", topic)
				p.want(stats(0, 0), "engine::queue::topic_stats", `{"queue":"`+name+`"}`)
			}, WithQueue("queue", QueueConfig{MaxRetries: 2, Concurrency: 1}))
		})
	}
}

func TestQueueTopics(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		p.trigger("a1", "durable:subscriber", "gone", `{"topic":"a","queue_config":{"maxRetries":0}}`, "")
		p.trigger("a2", "durable:subscriber", "lost", `{"topic":"a","queue_config":{"maxRetries":0}}`, `,"namespace":"blue"`)
		p.trigger("a3", "durable:subscriber", "gone", `{"topic":"a","queue_config":{"maxRetries":0}}`, "")
		p.trigger("b1", "durable:subscriber", "gone", `{"topic":"b"}`, "")
		p.send(`{"type":"unregistertrigger","id":"b1"}`)
		p.fence()
		p.publish("a", "1")
		p.publish("c", "1")
		p.publish("c", "2")
		p.enqueue("jobs", "gone", "1")
		time.Sleep(time.Hour)
		p.want(`[{"broker_type":"builtin","name":"a","subscriber_count":3},{"broker_type":"builtin","name":"b","subscriber_count":0},`+
			`{"broker_type":"builtin","name":"c","subscriber_count":0},{"broker_type":"builtin","name":"default","subscriber_count":10},`+
			`{"broker_type":"builtin","name":"jobs","subscriber_count":2}]`, "engine::queue::list_topics", `null`)
		p.want(`[{"broker_type":"builtin","message_count":2,"topic":"a"},{"broker_type":"builtin","message_count":0,"topic":"b"},`+
			`{"broker_type":"builtin","message_count":0,"topic":"c"},{"broker_type":"builtin","message_count":0,"topic":"__fn_queue::default"},`+
			`{"broker_type":"builtin","message_count":1,"topic":"__fn_queue::jobs"},{"broker_type":"function_queue","message_count":0,"topic":"default"},`+
			`{"broker_type":"function_queue","message_count":1,"topic":"jobs"}]`, "engine::queue::dlq_topics", `{}`)
		for topic, want := range map[string]string{
			"a":                `{"config":null,"consumer_count":3,"depth":0,"dlq_depth":2}`,
			"c":                `{"config":null,"consumer_count":0,"depth":2,"dlq_depth":0}`,
			"jobs":             `{"config":null,"consumer_count":2,"depth":0,"dlq_depth":1}`,
			"__fn_queue::jobs": `{"config":null,"consumer_count":2,"depth":0,"dlq_depth":1}`,
			"unheard of":       `{"config":null,"consumer_count":0,"depth":0,"dlq_depth":0}`,
		} {
			p.want(want, "engine::queue::topic_stats", `{"topic":"`+topic+`"}`)
		}
		if got, _ := p.letters(`{"topic":"a"}`); len(got) != 2 || !strings.HasPrefix(got[0], "1 1 ") {
			t.Errorf("dead letters of two targets: %q", got)
		}
		p.want(`{"queue":"a","redriven":2}`, "iii::queue::redrive", `{"queue":"a"}`)
	}, WithQueue("jobs", QueueConfig{Concurrency: 2, MaxRetries: 1}))
}

func TestQueueFunctionsRefuseInput(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		for _, test := range []struct{ id, data, want string }{
			{"iii::queue::redrive", `{"queue":""}`, "queue_not_set: Queue is not set"},
			{"iii::queue::redrive", `{}`, "deserialization_error: Failed to deserialize input for iii::queue::redrive: missing field `queue`"},
			{"iii::queue::redrive", `{"queue":"a","topic":"a"}`, "deserialization_error: Failed to deserialize input for iii::queue::redrive: duplicate field `queue`"},
			{"iii::queue::redrive", `{"queue":"a","topic":1}`, "deserialization_error: Failed to deserialize input for iii::queue::redrive: duplicate field `queue`"},
			{"iii::queue::redrive", `{"queue":1,"topic":"a"}`, "deserialization_error: Failed to deserialize input for iii::queue::redrive: invalid type: integer `1`, expected a string"},
			{"engine::queue::topic_stats", `{"queue":true,"topic":"a"}`, "deserialization_error: Failed to deserialize input for engine::queue::topic_stats: invalid type: boolean `true`, expected a string"},
			{"iii::queue::redrive", `{"topic":1}`, "deserialization_error: Failed to deserialize input for iii::queue::redrive: invalid type: integer `1`, expected a string"},
			{"iii::queue::redrive", `[]`, "deserialization_error: Failed to deserialize input for iii::queue::redrive: invalid length 0, expected struct RedriveInput with 1 element"},
			{"iii::queue::redrive_message", `{"queue":"","message_id":"x"}`, "queue_not_set: Queue name is required"},
			{"iii::queue::redrive_message", `{"queue":"q","message_id":""}`, "message_id_not_set: Message ID is required"},
			{"iii::queue::discard_message", `{"queue":"q"}`, "deserialization_error: Failed to deserialize input for iii::queue::discard_message: missing field `message_id`"},
			{"engine::queue::topic_stats", `{"topic":""}`, "topic_required: Topic is required"},
			{"engine::queue::topic_stats", `{}`, "deserialization_error: Failed to deserialize input for engine::queue::topic_stats: missing field `topic`"},
			{"engine::queue::dlq_messages", `{"topic":""}`, "topic_required: Topic is required"},
			{"engine::queue::dlq_messages", `{"topic":"t","limit":-1}`, "deserialization_error: Failed to deserialize input for engine::queue::dlq_messages: invalid value: integer `-1`, expected u64"},
		} {
			p.want("!"+test.want, test.id, test.data)
		}
	})
}
