package iiitest

import (
	"slices"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

// outline returns the path of each stored span, with "!" after the names of failed spans.
func outline(e *Engine) []string {
	v := e.spans.view()
	var lines []string
	for _, s := range v.spans {
		line := s.Name
		if s.Status == "error" {
			line += "!"
		}
		for p := s.ParentSpanID; p != nil; {
			i, stored := v.at[spanID{s.TraceID, *p}]
			if !stored {
				line = *p + " > " + line
				break
			}
			line, p = v.spans[i].Name+" > "+line, v.spans[i].ParentSpanID
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

func TestEngineSpans(t *testing.T) {
	inBubble := func(t *testing.T, f func(e *Engine, c *client), opts ...Option) []string {
		var lines []string
		synctest.Test(t, func(t *testing.T) {
			e := Start(t, opts...)
			c := dial(t, e).register("c")
			f(e, c)
			synctest.Wait()
			lines = outline(e)
		})
		return lines
	}
	const caller = `,"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0`
	for name, test := range map[string]struct {
		f    func(e *Engine, c *client)
		want []string
	}{
		"request": {
			func(e *Engine, c *client) {
				c.function("f")
				c.route("r", "f", "GET", "/orders/:id")
				c.sync()
				answer := newWeb(c.t, e).do("GET", "/orders/7", "")
				c.answer(`,"result":{"status_code":200,"body":1}`)
				<-answer
			},
			[]string{"GET /orders/:id"},
		},
		"state trigger": {
			func(e *Engine, c *client) {
				c.function("f")
				c.send(`{"type":"registertrigger","id":"s","trigger_type":"state","function_id":"f","config":{}}`)
				c.sync()
				c.send(`{"type":"invokefunction","function_id":"state::set","data":{"scope":"s","key":"k","value":1},"action":{"type":"void"}%s1"}`, caller)
				c.answer(`,"result":null`)
			},
			[]string{"b7ad6b7169203331 > call state::set", "b7ad6b7169203331 > call state::set > state_triggers"},
		},
		"builtin that fails": {
			func(e *Engine, c *client) { c.call("state::get", `{}`, caller+`1"`) },
			[]string{"b7ad6b7169203331 > call state::get!"},
		},
		"builtin without a caller's span": {func(e *Engine, c *client) { c.call("state::get", `{"scope":"s","key":"k"}`) }, nil},
		"telemetry function":              {func(e *Engine, c *client) { c.call("engine::traces::list", `{}`, caller+`1"`) }, nil},
		"not sampled": {
			func(e *Engine, c *client) { c.call("state::get", `{"scope":"s","key":"k"}`, caller+`0"`) }, nil,
		},
		"enqueue": {
			func(e *Engine, c *client) {
				c.function("f")
				c.send(`{"type":"invokefunction","function_id":"f","data":{},"action":{"type":"enqueue","queue":"default"},"invocation_id":%q}`, uuid.NewString())
				for range 2 { // the receipt and the job
					if m := c.recv(); m["type"] == "invokefunction" {
						c.send(`{"type":"invocationresult","invocation_id":"%s","function_id":"f","result":null}`, m["invocation_id"])
					}
				}
			},
			[]string{"enqueue f → default", "enqueue f → default > call engine::queue::enqueue", "fn_queue default"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, inBubble(t, test.f)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
