package iiitest

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestTraceTrigger sends spans at given times, in milliseconds, and checks the times of the
// calls.
func TestTraceTrigger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		p := newPeer(t, e)
		began := time.Now()
		var calls []string
		for _, id := range []string{"all", "shop", "failed", "broken"} {
			p.handleFunc(id, func(data []byte) string {
				calls = append(calls, fmt.Sprintf("%d %s %s", time.Since(began).Milliseconds(), id, data))
				return `null`
			})
		}
		p.trigger("t1", "trace", "all", `{}`, "")
		p.trigger("t2", "trace", "shop", `{"service_name":"SHOP","status":null}`, "")
		p.trigger("t3", "trace", "failed", `{"service_name":"shop","status":"Error"}`, "")
		p.trigger("t4", "trace", "broken", `{"status":7}`, "")
		p.fence()
		at := func(ms int64, spans ...testSpan) {
			time.Sleep(time.Until(began.Add(time.Duration(ms) * time.Millisecond)))
			take(t, e, spanFrame(spans...))
		}
		function := func(id string) map[string]string { return map[string]string{"function_id": id} }
		at(0, testSpan{trace: "2", id: "a", service: "shop", start: 1}) // announcement
		at(100, testSpan{trace: "1", id: "b", service: "bank", start: 1, end: 2, status: 2})
		at(299, testSpan{trace: "2", id: "a", service: "shop", start: 1, end: 2})
		at(400,
			testSpan{trace: "3", id: "c", service: "shop", start: 1, end: 2, status: 2},
			testSpan{trace: "4", id: "d", service: "shop", start: 1, end: 2, attributes: map[string]string{"iii.function.kind": "internal"}},
			testSpan{trace: "5", id: "e", parent: "x", service: "shop", start: 1, end: 2, attributes: function("engine::logs::list")},
			testSpan{trace: "6", id: "f", parent: "x", service: "shop", start: 1, end: 2, attributes: function("all")},
			testSpan{trace: "7", id: "g", parent: "x", service: "zoo", start: 1, end: 2, attributes: function("engine::x")},
		)
		// A span that fires no trigger does not open a window.
		at(1000, testSpan{trace: "8", id: "h", service: "shop", start: 1, end: 2, attributes: function("shop")})
		at(2000, testSpan{trace: "9", id: "i", service: "shop", start: 1, end: 2})
		time.Sleep(100 * time.Millisecond)
		e.unregisterTrigger("t1")
		time.Sleep(time.Hour)
		synctest.Wait()
		want := []string{
			`300 all {"trace_ids":["1","2"]}`, `300 shop {"trace_ids":["2"]}`, `300 broken {"trace_ids":["1","2"]}`,
			`700 all {"trace_ids":["3","7"]}`, `700 shop {"trace_ids":["3"]}`, `700 failed {"trace_ids":["3"]}`, `700 broken {"trace_ids":["3","7"]}`,
			`2300 shop {"trace_ids":["9"]}`, `2300 broken {"trace_ids":["9"]}`,
		}
		if diff := cmp.Diff(want, calls); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		p.close()
	})
}
