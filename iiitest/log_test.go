package iiitest

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
)

var nanoseconds = regexp.MustCompile(`"(observed_)?timestamp_unix_nano":\d{18,19},|"timestamp":\d{12,13},`)

func (p *peer) wantLogs(want ...string) {
	p.t.Helper()
	got := p.take()
	for i := range got {
		got[i] = nanoseconds.ReplaceAllString(got[i], "")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		p.t.Errorf("called (-want +got):\n%s", diff)
	}
}

func TestLogTrigger(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		for _, id := range []string{"warn", "all", "odd"} {
			p.handle(id, "")
		}
		p.trigger("t1", "log", "warn", `{"level":"warn"}`, `,"metadata":{"m":1}`)
		p.trigger("t1", "log", "odd", `{}`, "") // an existing id keeps the old trigger
		p.trigger("t2", "log", "odd", `{"level":"WARN"}`, "")
		p.fence()
		p.want(``, "engine::log::info", `{"message":"quiet","data":{"n":1}}`)
		p.want(``, "engine::log::error", `{"message":"worse"}`)
		p.wantLogs()

		ids := `"trace_id":"0af7651916cd43dd8448eb211c80319c","span_id":"b7ad6b7169203331"`
		p.want(``, "engine::log::warn", `{"message":"loud","data":{"n":2},`+ids+`,"service_name":"rec"}`)
		p.wantLogs(
			`warn {"attributes":{"data":{"n":2},"module_path":"iii::workers::observability","service":"rec","span_id":"Some(\"b7ad6b7169203331\")","target":"iii::workers::observability","trace_id":"Some(\"0af7651916cd43dd8448eb211c80319c\")"},"body":"loud","instrumentation_scope_name":"tracing","instrumentation_scope_version":null,"resource":{"service.name":"iii"},"service_name":"iii","severity_number":13,"severity_text":"WARN","span_id":null,"trace_id":null} metadata {"m":1}`,
			`warn {"attributes":{"n":2},"body":"loud","instrumentation_scope_name":"iii","instrumentation_scope_version":"`+newestVersion+`","resource":{"service.name":"iii"},"service_name":"rec","severity_number":13,"severity_text":"WARN","span_id":"b7ad6b7169203331","trace_id":"0af7651916cd43dd8448eb211c80319c"} metadata {"m":1}`)

		p.trigger("t3", "log", "all", `{"level":null}`, "")
		p.trigger("t4", "log", "all", `{"level":"all"}`, `,"namespace":"elsewhere"`)
		p.fence()
		p.want(``, "engine::log::trace", `{"message":"m","data":[1],"service_name":null}`)
		record := `all {"attributes":{},"body":"m","instrumentation_scope_name":"iii","instrumentation_scope_version":"` + newestVersion + `","resource":{"service.name":"iii"},"service_name":"unknown","severity_number":1,"severity_text":"TRACE","span_id":null,"trace_id":null}`
		p.wantLogs(record, record)

		p.want("!deserialization_error: Failed to deserialize input for engine::log::info: missing field `message`", "engine::log::info", `{"data":1}`)
		p.wantLogs()
		p.send(`{"type":"unregistertrigger","id":"t3"}`)
		p.send(`{"type":"unregistertrigger","id":"t4"}`)
		p.fence()
		p.want(``, "engine::log::debug", `{"message":"m"}`)
		p.wantLogs()
	})
}

// The engine's own log records also fire log triggers.
func TestLogTriggerSeesTheEngine(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		p.handle("log", "!BROKEN") // this error must not fire the trigger again
		p.trigger("t1", "log", "log", `{"level":"error"}`, "")
		p.trigger("t2", "state", "gone", `{}`, "")
		p.fence()
		p.call("state::set", `{"scope":"s","key":"k","value":1}`)
		calls := p.take()
		if len(calls) != 1 || !strings.Contains(calls[0], `"error":"function_not_found: Function gone not found in namespace default"`) {
			t.Errorf("calls %q, want one about the function that is not there", calls)
		}
	})
}

func TestLogList(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		bodies := func(query string) string {
			t.Helper()
			var answer struct {
				Logs []struct {
					Body  string `json:"body"`
					Scope string `json:"instrumentation_scope_name"`
				} `json:"logs"`
				Total int `json:"total"`
			}
			if err := json.Unmarshal([]byte(p.call("engine::logs::list", query)), &answer); err != nil {
				t.Fatal(err)
			}
			text := fmt.Sprint(answer.Total)
			for _, l := range answer.Logs {
				text += " " + l.Body + "/" + l.Scope
			}
			return text
		}
		p.call("engine::logs::clear", `{}`)
		p.call("engine::log::debug", `{"message":"a","trace_id":"t"}`)
		time.Sleep(time.Second)
		second := time.Now().UnixMilli()
		p.call("engine::log::warn", `{"message":"b","span_id":"s"}`)
		time.Sleep(time.Second)
		p.call("engine::log::debug", `{"message":"c"}`)
		for query, want := range map[string]string{
			`{}`:                                     "4 c/iii b/tracing b/iii a/iii",
			`{"offset":1,"limit":2}`:                 "4 b/tracing b/iii",
			`{"offset":9,"limit":9}`:                 "4",
			`{"trace_id":"t"}`:                       "1 a/iii",
			`{"span_id":"s"}`:                        "1 b/iii",
			`{"severity_min":6}`:                     "2 b/tracing b/iii",
			`{"severity_text":"Debug"}`:              "2 c/iii a/iii",
			fmt.Sprintf(`{"start_time":%d}`, second): "3 c/iii b/tracing b/iii",
			fmt.Sprintf(`{"end_time":%d}`, second):   "3 b/tracing b/iii a/iii",
			fmt.Sprintf(`{"start_time":%d,"limit":null}`, second+1): "1 c/iii",
		} {
			if diff := cmp.Diff(want, bodies(query)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", query, diff)
			}
		}
		got := nanoseconds.ReplaceAllString(p.call("engine::logs::list", `{"trace_id":"t"}`), "")
		want := `{"logs":[{"attributes":{},"body":"a","instrumentation_scope_name":"iii","instrumentation_scope_version":"` + newestVersion + `","resource":{"service.name":"iii"},"service_name":"unknown","severity_number":5,"severity_text":"DEBUG","span_id":null,"trace_id":"t"}],` +
			`"query":{"end_time":null,"limit":null,"offset":null,"severity_min":null,"severity_text":null,"span_id":null,"start_time":null,"trace_id":"t"},"total":1}`
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		p.want(`{"success":true}`, "engine::logs::clear", `{}`)
		if got := bodies(`{}`); got != "0" {
			t.Errorf("%s after clear", got)
		}
		for i := range maxLogs + 5 {
			p.call("engine::log::debug", fmt.Sprintf(`{"message":"m%d"}`, i))
			time.Sleep(time.Nanosecond)
		}
		if diff := cmp.Diff(fmt.Sprintf("%d m%d/iii", maxLogs, maxLogs+4), bodies(`{"limit":1}`)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// A worker that does not read misses log records, but all other workers receive them.
func TestSlowWorkerSkipsLogRecords(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		dialer := websocket.Dialer{NetDialContext: e.DialContext}
		slow, _, err := dialer.DialContext(t.Context(), e.URL(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer slow.Close()
		for _, m := range []string{
			`{"type":"invokefunction","function_id":"engine::workers::register","data":{"name":"slow"},"action":{"type":"void"}}`,
			`{"type":"registerfunction","id":"slow"}`,
			`{"type":"registertrigger","id":"t1","trigger_type":"log","function_id":"slow","config":{}}`,
		} {
			if err := slow.WriteMessage(websocket.TextMessage, []byte(m)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		message := strings.Repeat("x", 2000)
		const sent = maxLogsBehind + 300
		for range sent {
			p.call("engine::log::debug", `{"message":"`+message+`"}`)
		}
		received := make(chan int)
		go func() {
			n := 0
			for {
				_, frame, err := slow.ReadMessage()
				if err != nil {
					received <- n
					return
				}
				if strings.Contains(string(frame), message) {
					n++
				}
			}
		}()
		synctest.Wait()
		_ = e.Close()
		if n := <-received; n < maxLogsBehind || n >= sent {
			t.Errorf("%d records of %d arrived, want %d and some", n, sent, maxLogsBehind)
		}
	})
}

// newestVersion is the version reported by an engine without options.
const newestVersion = "0.26.0-rc.4"
