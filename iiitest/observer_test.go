package iiitest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/iii-go/iii"
)

const (
	featuresV1 = `,"features":["observe.v1","local-dispatch.v1","large-messages.v1"]`
	featuresV2 = `,"features":["observe.v1","observe.v2","local-dispatch.v1","large-messages.v1"]`
)

// observing connects a worker that supports observe.v2.
func observing(t testing.TB, e *Engine, name string) *client {
	t.Helper()
	return dial(t, e).register(name, featuresV2)
}

// host registers functions and reads the confirmations. The functions must have no observers.
func (c *client) host(ids ...string) *client {
	c.t.Helper()
	for _, id := range ids {
		c.send(`{"type":"registerfunction","id":%q}`, id)
		c.want(fmt.Sprintf(`{"type":"functionregistered","id":%q,"namespace":"default","revision":"*","local_dispatch":true,"observers":[]}`, id))
	}
	return c
}

// observe sends an observe message. The first element of more holds additional fields of the
// source. The others hold additional fields of the message itself.
func (c *client) observe(id, source, target string, more ...string) {
	c.t.Helper()
	in := ""
	if len(more) > 0 {
		in, more = more[0], more[1:]
	}
	c.send(`{"type":"observe","id":%q,"source":{"function_id":%q%s},"target":{"function_id":%q}%s}`, id, source, in, target, strings.Join(more, ""))
}

func (c *client) wantResult(id, state string) {
	c.t.Helper()
	c.want(fmt.Sprintf(`{"type":"observeresult","id":%q,"state":%q}`, id, state))
}

func (c *client) wantRefusal(id, code string) {
	c.t.Helper()
	c.want(fmt.Sprintf(`{"type":"observeresult","id":%q,"state":"error","error":{"code":%q,"message":"*"}}`, id, code))
}

func (c *client) wantState(id, state, reason string, fires int) {
	c.t.Helper()
	if reason != "" {
		reason = fmt.Sprintf(`,"reason":{"code":%q,"message":"*"}`, reason)
	}
	c.want(fmt.Sprintf(`{"type":"observerstatechanged","id":%q,"state":%q%s,"fires":%d}`, id, state, reason, fires))
}

// accept reads and acknowledges an observer's announcement.
func (c *client) accept(function, id string) {
	c.t.Helper()
	m := c.want(fmt.Sprintf(`{"type":"observeradded","function_id":%q,"namespace":"default","revision":"*","observer":{"id":%q,"args":"*","filters":"*","target":"*","capture":"*","on":"*"}}`, function, id))
	c.ack(function, id, m["revision"])
}

func (c *client) ack(function, id string, revision any, more ...string) {
	c.t.Helper()
	c.send(`{"type":"observerack","function_id":%q,"namespace":"default","id":%q,"revision":%v%s}`, function, id, revision, strings.Join(more, ""))
}

// wantActivation reads a call that activates a target, checks the payload, replies to the call
// and returns it.
func (c *client) wantActivation(id, target, data string) map[string]any {
	c.t.Helper()
	m := c.recv()
	var want any
	if err := json.Unmarshal([]byte(data), &want); err != nil {
		c.t.Fatal(err)
	}
	activation, _ := m["activation"].(map[string]any)
	if m["type"] != "invokefunction" || m["function_id"] != target || activation["observer_id"] != id || !like(want, m["data"]) {
		got, _ := json.Marshal(m)
		c.t.Fatalf("got  %s\nwant an activation of %s by %s with %s", got, target, id, data)
	}
	return m
}

func (c *client) reply(call map[string]any, more string) {
	c.t.Helper()
	c.send(`{"type":"invocationresult","invocation_id":%q,"function_id":%q%s}`, call["invocation_id"], call["function_id"], more)
}

// quiet fails if c has received a message.
func (c *client) quiet() {
	c.t.Helper()
	c.sync()
}

// TestObserverConversations plays the conversations in the protocol specification, frame by
// frame.
func TestObserverConversations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		h, o, c := observing(t, e, "shop").host("shop::sell"), observing(t, e, "books").host("log::sale"), observing(t, e, "till")

		o.observe("o1", "shop::sell", "log::sale")
		o.want(`{"type":"observeresult","id":"o1","state":"pending"}`)
		h.want(`{"type":"observeradded","function_id":"shop::sell","namespace":"default","revision":1,"observer":{"id":"o1","args":{},"filters":{},"target":"log::sale","capture":["input","output","caller"],"on":"success"}}`)
		h.send(`{"type":"observerack","function_id":"shop::sell","namespace":"default","id":"o1","revision":1}`)
		o.want(`{"type":"observerstatechanged","id":"o1","state":"active","fires":0}`)

		// A routed call.
		c.send(`{"type":"invokefunction","invocation_id":%q,"function_id":"shop::sell","data":{"n":2}}`, id1)
		call := h.want(`{"type":"invokefunction","invocation_id":"*","function_id":"shop::sell","data":{"n":2,"_caller_worker_id":"` + c.id + `"},"caller":{"worker_id":"` + c.id + `","worker_name":"till"}}`)
		h.reply(call, `,"result":{"ok":true}`)
		c.want(`{"type":"invocationresult","invocation_id":"` + id1 + `","function_id":"shop::sell","result":{"ok":true}}`)
		activation := o.want(`{"type":"invokefunction","invocation_id":"*","function_id":"log::sale","data":{"observer_id":"o1","activation_id":"*","function_id":"shop::sell","namespace":"default","invocation_id":"` + id1 +
			`","status":"success","input":{"n":2},"output":{"ok":true},"caller":{"worker_id":"` + c.id + `","worker_name":"till"},"started_at_ms":"*","duration_ms":"*"},"caller":{"worker_name":"iii-engine"},"observe_depth":1,"activation":{"observer_id":"o1","activation_id":"*"}}`)
		o.reply(activation, `,"result":null`)

		// A local call.
		h.send(`{"type":"invocationsobserved","items":[{"function_id":"shop::sell","namespace":"default","invocation_id":"l1","matched":["o1"],"status":"success","input":{"n":3},"output":{"ok":true},"started_at_ms":1,"duration_ms":0.02,"observe_depth":0}]}`)
		o.wantActivation("o1", "log::sale", `{"observer_id":"o1","activation_id":"*","function_id":"shop::sell","namespace":"default","invocation_id":"l1","status":"success","input":{"n":3},"output":{"ok":true},"caller":{"worker_id":"`+h.id+`","worker_name":"shop"},"started_at_ms":1,"duration_ms":0.02}`)

		// The host reconnects.
		e.Drop("shop")
		o.wantState("o1", "pending", "OWNER_UNAVAILABLE", 2)
		h2 := dial(t, e)
		h2.send(`{"type":"reattach","previous_worker_id":%q,"reattach_token":%q}`, h.id, h.token)
		h2.send(`{"type":"registerfunction","id":"shop::sell"}`)
		h2.send(`{"type":"invokefunction","function_id":"engine::workers::register","data":{"name":"shop"%s},"action":{"type":"void"}}`, featuresV2)
		h2.want(`{"type":"functionregistered","id":"shop::sell","namespace":"default","revision":2,"local_dispatch":true,"observers":[{"id":"o1","args":{},"filters":{},"target":"log::sale","capture":["input","output","caller"],"on":"success"}]}`)
		h2.ack("shop::sell", "o1", 2)
		o.wantState("o1", "active", "", 2)

		// The observer is rejected, so its id can be used again.
		o.observe("s1", "shop::sell", "shop::sell")
		o.send(`{"type":"unobserve","id":"s1"}`)
		o.observe("s1", "shop::sell", "log::sale")
		o.wantRefusal("s1", "SELF_TARGET")
		o.wantResult("s1", "pending")
		h2.accept("shop::sell", "s1")
		o.wantState("s1", "active", "", 0)
	})
}

func TestCallThroughObserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		h, o := observing(t, e, "web").host("web::on-request"), observing(t, e, "site").host("pages::home")
		o.observe("r1", "web::on-request", "pages::home", "", `,"metadata":{"route":"home"},"max_in_flight":1`)
		o.wantResult("r1", "pending")
		through := func(c *client, id string) {
			c.send(`{"type":"invokefunction","invocation_id":%q,"function_id":"anything","data":{"path":"/"},"activation":{"observer_id":"r1"},"caller":{"function_id":"web::on-request","invocation_id":"l9"}}`, id)
		}
		refused := func(c *client, id, code string) {
			t.Helper()
			through(c, id)
			c.want(fmt.Sprintf(`{"type":"invocationresult","invocation_id":%q,"function_id":"anything","error":{"code":%q,"message":"*"}}`, id, code))
		}
		m := h.want(`{"type":"observeradded","function_id":"web::on-request","namespace":"default","revision":1,"observer":"*"}`)
		refused(h, id1, "OBSERVER_NOT_ACTIVE")
		h.ack("web::on-request", "r1", m["revision"])
		o.wantState("r1", "active", "", 0)
		refused(o, id1, "NOT_FUNCTION_OWNER")

		through(h, id1)
		call := o.want(`{"type":"invokefunction","invocation_id":"*","function_id":"pages::home","data":{"path":"/"},"metadata":{"route":"home"},"caller":{"worker_id":"` + h.id +
			`","worker_name":"web","function_id":"web::on-request","invocation_id":"l9"},"observe_depth":1,"activation":{"observer_id":"r1","activation_id":"*"}}`)
		refused(h, id2, "OVERFLOW")
		o.reply(call, `,"result":{"status_code":200}`)
		h.want(`{"type":"invocationresult","invocation_id":"` + id1 + `","function_id":"anything","result":{"status_code":200}}`)

		through(h, id2)
		o.reply(o.recv(), `,"error":{"code":"BROKEN","message":"m","stacktrace":"s"}`)
		h.want(`{"type":"invocationresult","invocation_id":"` + id2 + `","function_id":"anything","error":{"code":"BROKEN","message":"m","stacktrace":"s"}}`)

		h.send(`{"type":"invokefunction","invocation_id":%q,"function_id":"x","data":1,"activation":{"observer_id":"r1"},"observe_depth":8}`, id1)
		h.want(`{"type":"invocationresult","invocation_id":"` + id1 + `","function_id":"x","error":{"code":"LOOP_GUARD","message":"*"}}`)

		o.send(`{"type":"unobserve","id":"r1"}`)
		o.wantState("r1", "disposed", "UNOBSERVED", 2)
		h.want(`{"type":"observerremoved","function_id":"web::on-request","namespace":"default","revision":2,"id":"r1"}`)
		refused(h, id1, "OBSERVER_NOT_FOUND")
	})
}

func TestObserverStates(t *testing.T) {
	tests := map[string]func(t *testing.T, e *Engine){
		"waits for its source": func(t *testing.T, e *Engine) {
			h, o := observing(t, e, "h"), observing(t, e, "o").host("t")
			o.observe("o1", "s", "t")
			o.wantResult("o1", "pending")
			h.send(`{"type":"registerfunction","id":"s"}`)
			m := h.want(`{"type":"functionregistered","id":"s","namespace":"default","revision":1,"local_dispatch":true,"observers":["*"]}`)
			o.quiet()
			h.ack("s", "o1", m["revision"])
			o.wantState("o1", "active", "", 0)
		},
		"is checked when its source comes": func(t *testing.T, e *Engine) {
			h, o := observing(t, e, "h"), observing(t, e, "o").host("t")
			o.observe("o1", "s", "t", `,"args":{"a":1}`)
			o.wantResult("o1", "pending")
			h.host("s")
			o.wantState("o1", "error", "INVALID_ARGS", 0)
		},
		"waits for its target": func(t *testing.T, e *Engine) {
			h, o := observing(t, e, "h").host("s"), observing(t, e, "o")
			o.observe("o1", "s", "t")
			o.wantResult("o1", "pending")
			h.accept("s", "o1")
			h.sync()
			o.quiet()
			o.send(`{"type":"registerfunction","id":"t"}`)
			o.want(`{"type":"functionregistered","id":"t","namespace":"default","revision":0,"local_dispatch":true,"observers":[]}`)
			o.wantState("o1", "active", "", 0)
			o.send(`{"type":"unregisterfunction","id":"t"}`)
			o.wantState("o1", "suspended", "TARGET_UNAVAILABLE", 0)
			h.send(`{"type":"invocationsobserved","items":[{"function_id":"s","invocation_id":"l","matched":["o1"],"status":"success","started_at_ms":1,"duration_ms":0}]}`)
			h.sync()
			o.send(`{"type":"registerfunction","id":"t"}`)
			o.want(`{"type":"functionregistered","id":"t","namespace":"default","revision":0,"local_dispatch":true,"observers":[]}`)
			o.wantState("o1", "active", "", 0)
			o.quiet() // calls made while suspended do not activate the observer
		},
		"source unregisters": func(t *testing.T, e *Engine) {
			h, o := observing(t, e, "h").host("s"), observing(t, e, "o").host("t")
			activeObserver(h, o)
			h.send(`{"type":"unregisterfunction","id":"s"}`)
			o.wantState("o1", "pending", "OWNER_UNAVAILABLE", 0)
		},
		"rejected": func(t *testing.T, e *Engine) {
			h, o := observing(t, e, "h").host("s"), observing(t, e, "o").host("t")
			o.observe("o1", "s", "t")
			o.wantResult("o1", "pending")
			m := h.recv()
			h.ack("s", "o1", m["revision"], `,"error":{"code":"TAKEN","message":"m"}`)
			o.wantState("o1", "error", "TAKEN", 0)
			h.quiet() // the host has not accepted the observer
			o.send(`{"type":"unobserve","id":"o1"}`)
			o.wantState("o1", "disposed", "UNOBSERVED", 0)
			h.quiet()
		},
		"rejected late": func(t *testing.T, e *Engine) {
			h, o := observing(t, e, "h").host("s"), observing(t, e, "o").host("t")
			revision := activeObserver(h, o)
			h.ack("s", "o1", revision, `,"error":{"code":"NO_MORE","message":"m"}`)
			h.want(`{"type":"observerremoved","function_id":"s","namespace":"default","revision":2,"id":"o1"}`)
			o.wantState("o1", "error", "NO_MORE", 0)
		},
		"an old ack does not activate": func(t *testing.T, e *Engine) {
			h, o := observing(t, e, "h").host("s"), observing(t, e, "o").host("t")
			revision := activeObserver(h, o)
			h.send(`{"type":"registerfunction","id":"s"}`)
			m := h.want(`{"type":"functionregistered","id":"s","namespace":"default","revision":2,"local_dispatch":true,"observers":["*"]}`)
			o.wantState("o1", "pending", "", 0)
			h.ack("s", "o1", revision)
			h.sync()
			o.quiet()
			h.ack("s", "o1", m["revision"])
			o.wantState("o1", "active", "", 0)
		},
		"host does not answer": func(t *testing.T, e *Engine) {
			h, o := observing(t, e, "h").host("s"), observing(t, e, "o").host("t")
			o.observe("o1", "s", "t")
			o.wantResult("o1", "pending")
			h.recv()
			time.Sleep(ackTimeout - time.Second)
			o.quiet()
			o.wantState("o1", "error", "OWNER_TIMEOUT", 0)
			h.want(`{"type":"observerremoved","function_id":"s","namespace":"default","revision":2,"id":"o1"}`)
			h.ack("s", "o1", 1) // too late
			h.sync()
			o.quiet()
		},
		"host without observers is not asked": func(t *testing.T, e *Engine) {
			h, o := dial(t, e).register("h"), observing(t, e, "o").host("t")
			h.function("s")
			o.observe("o1", "s", "t")
			o.wantResult("o1", "active")
			h.quiet()
			o.send(`{"type":"invokefunction","invocation_id":%q,"function_id":"s","data":1}`, id1)
			call := h.want(`{"type":"invokefunction","invocation_id":"*","function_id":"s","data":1}`)
			h.reply(call, `,"error":{"code":"C","message":"m"}`)
			o.want(`{"type":"invocationresult","invocation_id":"` + id1 + `","function_id":"s","error":{"code":"C","message":"m"}}`)
			o.quiet() // the observer does not observe failures
		},
		"expires": func(t *testing.T, e *Engine) {
			h, o := observing(t, e, "h").host("s"), observing(t, e, "o").host("t")
			o.observe("o1", "s", "t", "", `,"expires_in_ms":300`)
			o.wantResult("o1", "pending")
			h.accept("s", "o1")
			o.wantState("o1", "active", "", 0)
			o.wantState("o1", "disposed", "EXPIRED", 0)
			h.want(`{"type":"observerremoved","function_id":"s","namespace":"default","revision":2,"id":"o1"}`)
		},
		"its worker stays away": func(t *testing.T, e *Engine) {
			h, o := observing(t, e, "h").host("s"), observing(t, e, "o")
			observing(t, e, "other").host("t")
			activeObserver(h, o)
			e.Drop("o")
			synctest.Wait()
			if list := e.Observers(); len(list) != 1 || list[0].State != "suspended" || list[0].Reason.Code != "OBSERVER_DISCONNECTED" {
				t.Errorf("%+v", list)
			}
			h.want(`{"type":"observerremoved","function_id":"s","namespace":"default","revision":2,"id":"o1"}`)
			if list := e.Observers(); len(list) != 0 {
				t.Errorf("%+v", list)
			}
		},
		"its worker comes back": func(t *testing.T, e *Engine) {
			h, o := observing(t, e, "h").host("s"), observing(t, e, "o")
			observing(t, e, "other").host("t")
			activeObserver(h, o)
			e.Drop("o")
			o2 := dial(t, e)
			o2.send(`{"type":"reattach","previous_worker_id":%q,"reattach_token":%q}`, o.id, o.token)
			o2.register("o", featuresV2)
			if list := e.Observers(); len(list) != 1 || list[0].State != iii.ObserverStateActive {
				t.Errorf("%+v", list)
			}
			o2.observe("o1", "s", "t")
			o2.wantResult("o1", "active")
			time.Sleep(2 * observerGrace)
			h.quiet() // the host is not notified
			o2.send(`{"type":"unobserve","id":"o1"}`)
			o2.wantState("o1", "disposed", "UNOBSERVED", 0)
		},
		"a refused one is replayed": func(t *testing.T, e *Engine) {
			h, o := observing(t, e, "h").host("s"), observing(t, e, "o").host("t")
			o.observe("o1", "s", "t")
			o.wantResult("o1", "pending")
			m := h.recv()
			h.ack("s", "o1", m["revision"], `,"error":{"code":"TAKEN","message":"m"}`)
			o.wantState("o1", "error", "TAKEN", 0)
			e.Drop("o")
			synctest.Wait() // the name of the worker is free again
			o2 := observing(t, e, "o").host("t")
			o2.observe("o1", "s", "t")
			o2.wantRefusal("o1", "TAKEN")
			if got := errorCode(o2.call("engine::observers::get", `{"id":"o1"}`)); got != "OBSERVER_NOT_FOUND" {
				t.Errorf("get: %s", got)
			}
			o2.observe("o1", "s", "t")
			o2.wantResult("o1", "pending")
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, Start(t)) })
		})
	}
}

// activeObserver creates an active observer o1 with source s and target t.
func activeObserver(h, o *client) (revision any) {
	h.t.Helper()
	o.observe("o1", "s", "t")
	o.wantResult("o1", "pending")
	m := h.recv()
	h.ack("s", "o1", m["revision"])
	o.wantState("o1", "active", "", 0)
	return m["revision"]
}

func TestObserverIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		h, o, other := observing(t, e, "h").host("s"), observing(t, e, "o").host("t"), observing(t, e, "other")
		activeObserver(h, o)
		other.observe("o1", "s", "t")
		other.wantRefusal("o1", "OBSERVER_ID_CONFLICT")
		other.send(`{"type":"unobserve","id":"o1"}`)
		other.send(`{"type":"unobserve","id":"unknown"}`)
		other.quiet()

		// Sending an observer again has no effect unless it has changed.
		o.observe("o1", "s", "t")
		o.wantResult("o1", "active")
		h.quiet()
		o.observe("o1", "s", "t", `,"on":"error"`)
		o.wantResult("o1", "pending")
		h.want(`{"type":"observerremoved","function_id":"s","namespace":"default","revision":2,"id":"o1"}`)
		h.accept("s", "o1")
		o.wantState("o1", "active", "", 0)
		o.observe("o1", "s", "t", `,"on":"error"`, `,"max_fires":1`) // max_fires is not sent to the host
		o.wantResult("o1", "active")
		h.quiet()

		// Results are in request order.
		for i := range 5 {
			o.observe(fmt.Sprint("n", i), "nobody", "t")
		}
		for i := range 5 {
			o.wantResult(fmt.Sprint("n", i), "pending")
		}
	})
}

// If an observer is sent again with other content, the new content replaces the old, whichever
// part differs. The host receives the observer again if the part concerns it.
func TestChangedObserversAreReplaced(t *testing.T) {
	const base = `"source":{"function_id":"s"},"target":{"function_id":"t"}`
	tests := map[string]struct {
		message  string // without type and id
		announce bool
		want     string // part of what the engine lists, or of the activation
	}{
		"target":           {`"source":{"function_id":"s"},"target":{"function_id":"t2"}`, true, `"function_id":"t2"`},
		"target namespace": {`"source":{"function_id":"s"},"target":{"function_id":"t","namespace":"other"}`, true, `"t","namespace":"other"`},
		"filters":          {`"source":{"function_id":"s","filters":{"input":{"$eq":1}}},"target":{"function_id":"t"}`, true, `{"input":{"$eq":1}}`},
		"capture":          {`"source":{"function_id":"s","capture":["error"]},"target":{"function_id":"t"}`, true, `"capture":["error"]`},
		"on":               {`"source":{"function_id":"s","on":"complete"},"target":{"function_id":"t"}`, true, `"on":"complete"`},
		"deliver":          {`"source":{"function_id":"s","deliver":"input"},"target":{"function_id":"t"}`, false, `"deliver":"input"`},
		"nothing":          {base, false, `"state":"active"`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := Start(t)
				h, o := observing(t, e, "h").host("s"), observing(t, e, "o").host("t", "t2")
				other := dial(t, e).register("other", `,"namespace":"other"`)
				other.send(`{"type":"registerfunction","id":"t"}`)
				other.sync()
				activeObserver(h, o)
				o.send(`{"type":"observe","id":"o1",%s}`, test.message)
				if test.announce {
					o.wantResult("o1", "pending")
					h.want(`{"type":"observerremoved","function_id":"s","namespace":"default","revision":2,"id":"o1"}`)
					h.accept("s", "o1")
					o.wantState("o1", "active", "", 0)
				} else {
					o.wantResult("o1", "active")
					h.quiet()
				}
				if got, _ := json.Marshal(o.call("engine::observers::get", `{"id":"o1"}`)); !strings.Contains(string(got), test.want) {
					t.Errorf("%s\ndoes not contain %s", got, test.want)
				}
			})
		})
	}
	t.Run("limits", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			e := Start(t)
			h, o := observing(t, e, "h").host("s"), observing(t, e, "o").host("t")
			o.observe("o1", "s", "t", "", `,"max_in_flight":1`)
			o.wantResult("o1", "pending")
			h.accept("s", "o1")
			o.wantState("o1", "active", "", 0)
			h.send(`{"type":"invocationsobserved","items":[{"function_id":"s","invocation_id":"a","matched":["o1"],"status":"success","started_at_ms":1,"duration_ms":0},` +
				`{"function_id":"s","invocation_id":"b","matched":["o1"],"status":"success","started_at_ms":1,"duration_ms":0}]}`)
			o.wantActivation("o1", "t", `"*"`)
			o.quiet()
			o.observe("o1", "s", "t", "", `,"max_in_flight":2,"expires_in_ms":60000`)
			o.wantResult("o1", "active")
			o.wantActivation("o1", "t", `"*"`)
			time.Sleep(30 * time.Second)
			o.observe("o1", "s", "t", "", `,"max_in_flight":2,"expires_in_ms":60000`) // the deadline stays
			o.wantResult("o1", "active")
			time.Sleep(29 * time.Second)
			o.observe("o1", "s", "t", "", `,"expires_in_ms":40000`)
			o.wantResult("o1", "active")
			time.Sleep(39 * time.Second)
			o.quiet()
			o.observe("o1", "s", "t")
			o.wantResult("o1", "active")
			time.Sleep(time.Hour)
			o.quiet()
			o.observe("o1", "s", "t", "", `,"max_fires":2`)
			o.wantResult("o1", "active")
			o.wantState("o1", "disposed", "MAX_FIRES", 2)
		})
	})
}

func TestObserveIsChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		h, o := observing(t, e, "h").host("plain"), observing(t, e, "o").host("t")
		for id, more := range map[string]string{
			"shut": `,"observable":false`, "private": `,"private":true`,
			"args":  `,"args_format":{"type":"object","required":["a"],"additionalProperties":false,"properties":{"a":{"type":"string"}}}`,
			"typed": `,"request_format":{"type":"object","properties":{"n":{"type":"integer"}},"additionalProperties":false}`,
		} {
			h.send(`{"type":"registerfunction","id":%q%s}`, id, more)
			h.recv()
		}
		h.send(`{"type":"registerfunction","id":"broken","args_format":{"type":"nothing"}}`)
		h.want(`{"type":"registrationrejected","code":"INVALID_ARGS_FORMAT","namespace":"default","function_id":"broken","owner_worker_id":"*"}`)
		for _, test := range []struct{ source, more, target, code string }{
			{"shut", "", "t", "NOT_OBSERVABLE"},
			{"plain", `,"args":{}`, "t", "INVALID_ARGS"},
			{"plain", `,"args":1`, "t", "INVALID_ARGS"},
			{"args", "", "t", "INVALID_ARGS"},
			{"args", `,"args":{"a":1}`, "t", "INVALID_ARGS"},
			{"args", `,"args":{"a":"x","b":1}`, "t", "INVALID_ARGS"},
			{"plain", "", "plain", "SELF_TARGET"},
			{"plain", "", "private", "FORBIDDEN"},
			{"plain", `,"filters":{"input.a":1}`, "t", "INVALID_FILTER"},
			{"typed", `,"filters":{"input.m":{"$eq":1}}`, "t", "INVALID_FILTER_PATH"},
			{"plain", `,"namespace":" "`, "t", "INVALID_NAMESPACE"},
		} {
			o.observe("o1", test.source, test.target, test.more)
			o.wantRefusal("o1", test.code)
		}
		h.quiet()
		o.observe("o1", "args", "t", `,"args":{"a":"x"}`)
		o.wantResult("o1", "pending")
		h.accept("args", "o1")
		o.wantState("o1", "active", "", 0)
		o.observe("o2", "private", "t")
		o.wantResult("o2", "pending") // private functions can be observed
		h.accept("private", "o2")
		o.wantState("o2", "active", "", 0)
		if got := errorCode(o.call("private", "{}")); got != "FORBIDDEN" {
			t.Errorf("call of another worker's private function: %s", got)
		}
		h.send(`{"type":"invokefunction","invocation_id":%q,"function_id":"private","data":1}`, id1)
		h.want(`{"type":"invokefunction","invocation_id":"*","function_id":"private","data":1,"caller":"*"}`)
	})
}

func TestObserverPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		h, o, p := observing(t, e, "h").host("s"), observing(t, e, "o").host("t"), dial(t, e).register("p")
		o.observe("o1", "s", "t", `,"deliver":"input","filters":{"input":{"$lt":8}}`, `,"max_fires":4,"max_in_flight":2`)
		o.wantResult("o1", "pending")
		h.accept("s", "o1")
		o.wantState("o1", "active", "", 0)
		for i := range 10 {
			p.send(`{"type":"invokefunction","invocation_id":"00000000-0000-4000-8000-%012d","function_id":"s","data":%d}`, i, 9-i)
			m := h.recv()
			if m["type"] == "observerremoved" {
				m = h.recv()
			}
			h.reply(m, `,"result":null`)
			p.recv() // result of the call
		}
		o.wantActivation("o1", "t", "7")
		first := o.wantActivation("o1", "t", "6")
		o.wantState("o1", "disposed", "MAX_FIRES", 4)
		o.quiet()
		o.reply(first, `,"result":null`)
		o.reply(o.wantActivation("o1", "t", "5"), `,"error":{"code":"C","message":"m"}`)
		o.reply(o.wantActivation("o1", "t", "4"), `,"result":null`)
		o.quiet()

		// Waiting activations are dropped with the observer.
		o.observe("o2", "s", "t", `,"deliver":"output","on":"complete"`, `,"max_in_flight":1`)
		o.wantResult("o2", "pending")
		h.accept("s", "o2")
		o.wantState("o2", "active", "", 0)
		h.send(`{"type":"invocationsobserved","items":[{"function_id":"s","invocation_id":"a","matched":["o2","gone"],"status":"error","error":{"code":"C","message":"m","stacktrace":"x"},"started_at_ms":1,"duration_ms":0},` +
			`{"function_id":"s","invocation_id":"b","matched":["o2"],"status":"success","input":1,"output_is_input":true,"started_at_ms":1,"duration_ms":0}]}`)
		last := o.wantActivation("o2", "t", "null")
		o.send(`{"type":"unobserve","id":"o2"}`)
		o.wantState("o2", "disposed", "UNOBSERVED", 2)
		o.reply(last, `,"result":null`)
		o.quiet()
	})
}

// A 0.26 host can select observers or deliver to them itself.
func TestHostMatchesAndDelivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		h, o := observing(t, e, "h").host("s"), observing(t, e, "o").host("t")
		for _, id := range []string{"a", "b"} {
			o.observe(id, "s", "t", `,"deliver":"input","filters":{"input":{"$gt":1}}`)
			o.wantResult(id, "pending")
			h.accept("s", id)
			o.wantState(id, "active", "", 0)
		}
		call := func(data int, more string) {
			t.Helper()
			h.send(`{"type":"invokefunction","invocation_id":%q,"function_id":"s","data":%d}`, id1, data)
			h.reply(h.recv(), `,"result":1`+more)
			h.want(`{"type":"invocationresult","invocation_id":"` + id1 + `","function_id":"s","result":1}`)
		}
		call(2, `,"matched":["b","unknown"]`)
		o.wantActivation("b", "t", "2")
		call(1, `,"matched":["b"]`) // the filters of b do not match
		call(2, `,"matched":[]`)
		call(2, `,"delivered":true`)
		call(3, "")
		o.wantActivation("a", "t", "3")
		o.wantActivation("b", "t", "3")
		o.quiet()
	})
}

func TestObserveDepth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		h, o := observing(t, e, "h").host("s"), observing(t, e, "o").host("t")
		activeObserver(h, o)
		report := func(depth int) {
			h.send(`{"type":"invocationsobserved","items":[{"function_id":"s","invocation_id":"a","matched":["o1"],"status":"success","started_at_ms":1,"duration_ms":0,"observe_depth":%d}]}`, depth)
		}
		report(7)
		if m := o.recv(); m["observe_depth"] != 8.0 {
			t.Errorf("%v", m)
		}
		report(8)
		h.sync()
		o.quiet()
	})
}

// A 0.25 host with owner delivery selects observers only for the events that it reports. The
// engine ignores a selection in the result of a call.
func TestOwnerDelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		h, o := dial(t, e).register("h", featuresV1), dial(t, e).register("o", featuresV1)
		o.host("t")
		h.send(`{"type":"registerfunction","id":"s","observe":{"delivery":"owner","args_format":{"type":"object","required":["topic"]},"legacy_trigger_type":"tides"}}`)
		h.want(`{"type":"functionregistered","id":"s","namespace":"default","revision":0,"local_dispatch":true,"observers":[]}`)
		o.observe("o1", "s", "t", `,"args":{"topic":"x"}`)
		o.wantResult("o1", "pending")
		h.accept("s", "o1")
		o.wantState("o1", "active", "", 0)

		o.send(`{"type":"invokefunction","invocation_id":%q,"function_id":"s","data":1}`, id1)
		h.reply(h.recv(), `,"result":1,"matched":["o1"]`) // no real 0.25 worker sends this
		o.want(`{"type":"invocationresult","invocation_id":"` + id1 + `","function_id":"s","result":1}`)
		o.quiet() // calls do not activate observers

		h.send(`{"type":"invocationsobserved","items":[{"function_id":"s","namespace":"default","invocation_id":"e","matched":["o1"],"status":"success","input":{"turn":1},"started_at_ms":1,"duration_ms":0}]}`)
		o.wantActivation("o1", "t", `{"observer_id":"o1","activation_id":"*","function_id":"s","namespace":"default","invocation_id":"e","status":"success","input":{"turn":1},"caller":"*","started_at_ms":1,"duration_ms":0}`)
		h.send(`{"type":"invokefunction","invocation_id":%q,"function_id":"t","data":2,"activation":{"observer_id":"o1"}}`, id1)
		o.reply(o.wantActivation("o1", "t", "2"), `,"result":3`)
		h.want(`{"type":"invocationresult","invocation_id":"` + id1 + `","function_id":"t","result":3}`)

		// A trigger of a type claimed by the function becomes an observer of the function.
		o.send(`{"type":"registertrigger","id":"t1","trigger_type":"tides","function_id":"t","config":{"topic":"y"},"metadata":{"m":1}}`)
		m := h.want(`{"type":"observeradded","function_id":"s","namespace":"default","revision":2,"observer":{"id":"t1","args":{"topic":"y"},"filters":{},"target":"t","capture":["input","output","caller"],"on":"success","legacy":{"trigger_type":"tides","config":{"topic":"y"}}}}`)
		h.ack("s", "t1", m["revision"])
		h.sync()
		if list := e.Observers(); len(list) != 2 || list[1].State != "active" {
			t.Errorf("%+v", list)
		}
		o.quiet()
		o.send(`{"type":"unregistertrigger","id":"t1"}`)
		h.want(`{"type":"observerremoved","function_id":"s","namespace":"default","revision":3,"id":"t1"}`)
		o.send(`{"type":"registertrigger","id":"t2","trigger_type":"tides","function_id":"t","config":{}}`)
		o.want(`{"type":"triggerregistrationresult","id":"t2","trigger_type":"*","function_id":"t","error":{"code":"INVALID_ARGS","message":"*"}}`)

		// A 0.25 host is not notified of an invalid args_format. After an observer has been
		// rejected, its id can be used again.
		h.send(`{"type":"registerfunction","id":"broken","observe":{"delivery":"owner","args_format":{"type":"nothing"}}}`)
		h.quiet()
		for range 2 {
			o.observe("bad", "s", "t")
			o.wantRefusal("bad", "INVALID_ARGS")
			o.send(`{"type":"unobserve","id":"bad"}`)
		}
		o.quiet()
	})
}

func TestProtocols(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t, WithProtocol(Protocol023))
		if err := e.SetProtocol(24); err == nil || e.Protocol() != Protocol023 {
			t.Errorf("SetProtocol(24): %v, %v", err, e.Protocol())
		}
		greeting := func(p Protocol, features string) *client {
			t.Helper()
			if err := e.SetProtocol(p); err != nil {
				t.Fatal(err)
			}
			c := dialURL(t, e, e.URL())
			m := c.want(`{"type":"workerregistered","worker_id":"*","reattach_token":"*"` + features + `}`)
			c.id, _ = m["worker_id"].(string)
			return c
		}
		old := greeting(Protocol023, "").register("old", featuresV2)
		v1 := greeting(Protocol025, `,"features":["observe.v1","local-dispatch.v1"]`).register("v1", featuresV2)
		v2 := greeting(Protocol026, `,"features":["observe.v1","observe.v2","local-dispatch.v1"]`).register("v2", featuresV2)

		// Messages that a connection does not support are dropped if received, and never sent.
		before := e.Stats().Undecodable
		old.observe("o1", "s", "t")
		old.function("s")
		if got := e.Stats().Undecodable - before; got != 1 {
			t.Errorf("%d undecodable messages", got)
		}
		unlisted := greeting(Protocol026, `,"features":"*"`).register("unlisted")
		unlisted.function("u")
		unlisted.observe("o1", "s", "t")
		unlisted.quiet()
		v2.host("t")
		v2.observe("o1", "s", "t")
		v2.wantResult("o1", "active")

		for name, c := range map[string]*client{"http::on-request": v2, "engine::observers::list": v1, "engine::triggers::list": old} {
			visible := func(c *client) bool {
				return errorCode(c.call("engine::functions::info", fmt.Sprintf(`{"function_id":%q}`, name))) == ""
			}
			if !visible(c) || visible(old) != (c == old) {
				t.Errorf("%s: visible to %v, to 0.23 %v", name, visible(c), visible(old))
			}
		}
		if got := errorCode(v1.call("state::on-changed", "{}")); got != "function_not_found" {
			t.Errorf("a source of 0.26 on a connection of 0.25: %s", got)
		}
		if got := errorCode(v2.call("state::on-changed", "{}")); got != "FORBIDDEN" {
			t.Errorf("a source of the engine: %s", got)
		}
		// A change made over a 0.23 connection fires a trigger registered over a 0.26
		// connection.
		v2.send(`{"type":"registertrigger","id":"t1","trigger_type":"state","function_id":"t","config":{}}`)
		v2.sync()
		old.call("state::set", `{"scope":"s","key":"k","value":1}`)
		v2.want(`{"type":"invokefunction","invocation_id":"*","function_id":"t","data":"*","caller":"*","traceparent":"*"}`)
	})
	synctest.Test(t, func(t *testing.T) {
		e := Start(t, WithStrictProtocol())
		c := observing(t, e, "w").host("t")
		c.send(`{"type":"registertrigger","id":"t1","trigger_type":"state","function_id":"t","config":{}}`)
		c.sync()
		if got := e.Stats().Undecodable; got != 1 {
			t.Errorf("%d undecodable messages", got)
		}
		if got := errorCode(c.call("engine::triggers::list", "{}")); got != "function_not_found" {
			t.Errorf("a function that 0.26 does not have: %s", got)
		}
	})
}

// On a 0.25 connection, observers of the sources that 0.26 adds stay pending, as if the
// sources were not registered yet.
func TestSourcesOfANewerProtocol(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		other := dial(t, e).register("other") // causes the events
		connect := func(p Protocol, previous *client) *client {
			t.Helper()
			if err := e.SetProtocol(p); err != nil {
				t.Fatal(err)
			}
			c := dial(t, e)
			if previous != nil {
				c.send(`{"type":"reattach","previous_worker_id":%q,"reattach_token":%q}`, previous.id, previous.token)
			}
			return c.register("w", featuresV2).host("t")
		}
		observe := func(c *client, state string) {
			t.Helper()
			for id, source := range map[string][2]string{
				"state": {"state::on-changed", `,"deliver":"input"`},
				"http":  {"http::on-request", `,"args":{"path":"/p"}`},
				"queue": {"queue::on-message", `,"args":{"topic":"x"}`},
				"own":   {"source", `,"args":{"any":1}`},
			} {
				want := state
				if id == "own" {
					want = "pending"
				}
				c.observe(id, source[0], "t", source[1])
				c.wantResult(id, want)
			}
		}
		fires := func(c *client, active bool) {
			t.Helper()
			other.call("state::set", `{"scope":"s","key":"k","value":1}`)
			if active {
				c.reply(c.wantActivation("state", "t", `"*"`), `,"result":null`)
				other.call("iii::durable::publish", `{"topic":"x","data":1}`)
				c.reply(c.wantActivation("queue", "t", `1`), `,"result":null`)
			}
			synctest.Wait()
			c.quiet()
		}

		old := connect(Protocol025, nil)
		old.observe("bad", "http::on-request", "t")
		old.wantResult("bad", "pending")
		old.observe("target", "source", "http::on-request")
		old.wantResult("target", "pending")
		for _, id := range []string{"bad", "target"} {
			old.send(`{"type":"unobserve","id":%q}`, id)
			old.wantState(id, "disposed", "UNOBSERVED", 0)
		}
		observe(old, "pending")
		fires(old, false)

		upgraded := connect(Protocol026, old)
		fires(upgraded, false) // the observers have not been sent again
		observe(upgraded, "active")
		fires(upgraded, true)

		downgraded := connect(Protocol025, upgraded)
		fires(downgraded, false)
		observe(downgraded, "pending")
		fires(downgraded, false)

		_ = downgraded.conn.Close() // without reattach, within the grace period
		synctest.Wait()
		again := connect(Protocol026, nil)
		observe(again, "active")
		fires(again, true)
	})
}

func TestLocalDispatchIsRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t, WithLocalDispatch(false))
		h, o := observing(t, e, "h"), observing(t, e, "o")
		h.send(`{"type":"registerfunction","id":"s"}`)
		h.want(`{"type":"functionregistered","id":"s","namespace":"default","revision":0,"local_dispatch":false,"observers":[]}`)
		e.SetLocalDispatch(true)
		h.want(`{"type":"functionregistered","id":"s","namespace":"default","revision":0,"local_dispatch":true,"observers":[]}`)
		o.host("t")
		activeObserver(h, o)
		e.SetLocalDispatch(false)
		h.want(`{"type":"functionregistered","id":"s","namespace":"default","revision":2,"local_dispatch":false,"observers":["*"]}`)
		o.want(`{"type":"functionregistered","id":"t","namespace":"default","revision":0,"local_dispatch":false,"observers":[]}`)
		o.quiet() // the observer stays active

		h.send(`{"type":"localinvocationstats","window_ms":10000,"functions":[{"function_id":"s","count":2,"errors":1,"duration_ms_sum":1.5}],"dropped_reports":[{"function_id":"s","reason":"BUFFER_FULL","count":3}]}`)
		h.sync()
		if got := fmt.Sprint(e.LocalCalls()); got != "[{s default 2 1 1.5ms map[BUFFER_FULL:3]}]" {
			t.Error(got)
		}
	})
}

func TestGuardedObservers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t, WithGuard(Guard{Expose: []string{"open", "mine::*"}, OnObserver: "hook", AuthFunctionID: "auth"}))
		asked := judge(dial(t, e), map[string]string{"auth": `{"function_registration_prefix":"mine"}`, "hook": `{}`, "open": "1", "shut": "1"})
		guarded := enter(t, e)
		<-asked
		guarded.register("g", featuresV2).host("t")
		guarded.observe("o1", "shut", "t")
		<-asked
		guarded.wantRefusal("o1", "FORBIDDEN")
		guarded.observe("o1", "open", "t")
		if input := <-asked; !strings.Contains(input, `"observer_id":"o1"`) || !strings.Contains(input, `"function_id":"open"`) {
			t.Errorf("hook: %s", input)
		}
		guarded.wantResult("o1", "active")
		if list := e.Observers(); len(list) != 1 || list[0].Target.FunctionID != "mine::t" {
			t.Errorf("%+v", list)
		}
	})
}

func TestEngineSources(t *testing.T) {
	t.Run("http", func(t *testing.T) {
		e := Start(t)
		w := observing(t, e, "w").host("page")
		get := func(path string) (status int) {
			t.Helper()
			response, err := http.Get(e.HTTPURL() + path)
			if err != nil {
				t.Error(err)
				return 0
			}
			_ = response.Body.Close()
			return response.StatusCode
		}
		if got := get("/p/1"); got != http.StatusNotFound {
			t.Errorf("before: %d", got)
		}
		w.observe("r1", "http::on-request", "page", `,"args":{"path":"/p/:id"},"filters":{"input.path_params.id":{"$ne":"no"}}`, `,"metadata":{"m":1}`)
		w.wantResult("r1", "active")
		w.observe("r2", "http::on-request", "page", `,"args":{"path":"/p/:name"}`)
		w.wantRefusal("r2", "HTTP_ROUTE_CONFLICT")
		w.observe("r2", "http::on-request", "page")
		w.wantRefusal("r2", "INVALID_ARGS")
		w.send(`{"type":"registertrigger","id":"t1","trigger_type":"http","function_id":"page","config":{"api_path":"/old"}}`)
		w.sync()
		done := make(chan int, 2)
		go func() { done <- get("/p/1") }()
		call := w.wantActivation("r1", "page", `{"body":"*","headers":"*","method":"GET","path":"/p/:id","path_params":{"id":"1"},"query_params":{},"request_body":"*","response":"*"}`)
		if metadata, _ := json.Marshal(call["metadata"]); string(metadata) != `{"m":1}` {
			t.Errorf("metadata %s", metadata)
		}
		w.reply(call, `,"result":{"status_code":201}`)
		if got := <-done; got != 201 {
			t.Errorf("observer: %d", got)
		}
		go func() { done <- get("/old") }()
		w.reply(w.recv(), `,"result":{"status_code":202}`)
		if got := <-done; got != 202 {
			t.Errorf("trigger: %d", got)
		}
		if got := get("/p/no"); got != http.StatusUnprocessableEntity {
			t.Errorf("filters refuse: %d", got)
		}
		w.send(`{"type":"unobserve","id":"r1"}`)
		w.wantState("r1", "disposed", "UNOBSERVED", 1)
		if got := get("/p/1"); got != http.StatusNotFound {
			t.Errorf("after: %d", got)
		}
	})
	t.Run("cron", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			e := Start(t)
			w := observing(t, e, "w").host("job")
			w.observe("bad", "cron::on-tick", "job", `,"args":{"expression":"never"}`)
			w.wantRefusal("bad", "INVALID_CRON_EXPRESSION")
			for _, id := range []string{"c1", "c2"} {
				w.observe(id, "cron::on-tick", "job", `,"args":{"expression":"0 * * * * * *"},"deliver":"output"`)
				w.wantResult(id, "active")
			}
			for _, id := range []string{"c1", "c2", "c1", "c2"} { // two ticks
				w.wantActivation(id, "job", `{"expression":"0 * * * * * *","scheduled_time":"*","actual_time":"*"}`)
			}
			for _, id := range []string{"c1", "c2"} {
				w.send(`{"type":"unobserve","id":%q}`, id)
				w.wantState(id, "disposed", "UNOBSERVED", 2)
			}
			time.Sleep(time.Hour)
			w.quiet()
		})
	})
	t.Run("queue", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			e := Start(t)
			w, p := observing(t, e, "w").host("work"), dial(t, e).register("p")
			publish := func(n int) {
				t.Helper()
				if m := p.call("iii::durable::publish", fmt.Sprintf(`{"topic":"jobs","data":%d}`, n)); errorCode(m) != "" {
					t.Fatal(m)
				}
			}
			w.observe("q1", "queue::on-message", "work", `,"args":{"topic":"jobs","max_retries":1,"backoff_ms":1000}`)
			w.wantResult("q1", "active")
			publish(1)
			w.reply(w.wantActivation("q1", "work", "1"), `,"error":{"code":"C","message":"m"}`)
			began := time.Now()
			w.reply(w.wantActivation("q1", "work", "1"), `,"result":null`)
			if waited := time.Since(began); waited != time.Second {
				t.Errorf("retried after %v", waited)
			}
			// Messages for an inactive observer are kept until their retention period ends.
			w.send(`{"type":"unregisterfunction","id":"work"}`)
			w.wantState("q1", "suspended", "TARGET_UNAVAILABLE", 2)
			time.Sleep(20 * time.Second)
			publish(2)
			w.host("work")
			w.wantState("q1", "active", "", 2)
			w.reply(w.wantActivation("q1", "work", "2"), `,"result":null`)
		})
	})
	t.Run("groups", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			e := Start(t)
			w := observing(t, e, "w").host("work", "other")
			for id, more := range map[string]string{"g1": `,"group":"g"`, "g2": `,"group":"g"`, "alone": ""} {
				w.observe(id, "queue::on-message", "work", `,"args":{"topic":"jobs"`+more+`}`)
				w.wantResult(id, "active")
			}
			w.send(`{"type":"invokefunction","function_id":"iii::durable::publish","data":{"topic":"jobs","data":1},"action":{"type":"void"}}`)
			seen := map[string]int{}
			for range 2 {
				m := w.recv()
				id, _ := m["activation"].(map[string]any)["observer_id"].(string)
				seen[id[:1]]++
				w.reply(m, `,"result":null`)
			}
			if seen["a"] != 1 || seen["g"] != 1 {
				t.Errorf("%v", seen)
			}
			w.quiet()
		})
	})
	t.Run("publish and state", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			e := Start(t)
			w, p := observing(t, e, "w").host("sub", "changed", "old"), dial(t, e).register("p")
			w.observe("p1", "publish", "sub", `,"filters":{"input.topic":{"$eq":"a"}},"deliver":"input"`)
			w.wantResult("p1", "active")
			w.observe("s1", "state::on-changed", "changed", `,"filters":{"input.scope":{"$eq":"x"}},"deliver":"input"`)
			w.wantResult("s1", "active")
			p.call("publish", `{"topic":"b","data":1}`)
			p.call("publish", `{"topic":"a","data":2}`)
			w.wantActivation("p1", "sub", `{"topic":"a","data":2}`)
			p.call("state::set", `{"scope":"y","key":"k","value":1}`)
			p.call("state::set", `{"scope":"x","key":"k","value":1}`)
			w.wantActivation("s1", "changed", `{"type":"state","event_type":"state:created","scope":"x","key":"k","old_value":null,"new_value":1}`)
		})
	})
	t.Run("engine", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			e := Start(t)
			w, p := observing(t, e, "w").host("f"), dial(t, e).register("p")
			for id, source := range map[string]string{
				"streams": "stream::on-changed", "logs": "observability::on-log", "configurations": "configuration::on-updated",
				"functions": "engine::on-functions-changed", "observers": "engine::on-observers-changed",
			} {
				filters := ""
				if id == "logs" {
					filters = `,"filters":{"input.level":{"$eq":"error"},"input.body":{"$eq":"oh"}}`
				}
				if id == "observers" {
					filters = `,"filters":{"input.observer_id":{"$eq":"later"}}`
				}
				w.observe(id, source, "f", `,"deliver":"input"`+filters)
				w.wantResult(id, "active")
			}
			p.call("stream::set", `{"stream_name":"s","group_id":"g","item_id":"i","data":1}`)
			w.wantActivation("streams", "f", `{"type":"stream","timestamp":"*","streamName":"s","groupId":"g","stream_name":"s","group_id":"g","id":"i","event":{"type":"create","data":1}}`)
			p.call("engine::log::error", `{"message":"oh"}`)
			for range 2 { // the record and the engine's own record about the call
				if m := w.recv(); m["activation"].(map[string]any)["observer_id"] != "logs" {
					t.Errorf("%v", m)
				}
			}
			p.call("configuration::register", `{"id":"c","name":"n","description":"d","schema":{},"initial_value":1}`)
			if m := w.recv(); m["activation"].(map[string]any)["observer_id"] != "configurations" {
				t.Errorf("%v", m)
			}
			w.observe("later", "nothing", "f")
			w.wantResult("later", "pending")
			w.send(`{"type":"unobserve","id":"later"}`)
			w.wantState("later", "disposed", "UNOBSERVED", 0)
			w.wantActivation("observers", "f", `{"observer_id":"later","function_id":"nothing","target":"f","state":"disposed","reason":"*"}`)
			if m := w.recv(); m["activation"].(map[string]any)["observer_id"] != "functions" { // at the next poll
				t.Errorf("%v", m)
			}
		})
	})
}

func TestConsoleShowsObservers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t, WithConsole("127.0.0.1:0"))
		h, o := observing(t, e, "h").host("s"), observing(t, e, "o").host("t")
		activeObserver(h, o)
		o.observe("o2", "s", "t", `,"filters":{"input.n":{"$gt":1}}`)
		o.wantResult("o2", "pending")
		h.ack("s", "o2", h.recv()["revision"], `,"error":{"code":"TAKEN","message":"m"}`)
		o.wantState("o2", "error", "TAKEN", 0)
		h.send(`{"type":"localinvocationstats","window_ms":10000,"functions":[{"function_id":"s","count":2}]}`)
		h.sync()
		registry := consoleSource{e}.Registry()
		got, _ := json.Marshal([]any{registry.Observers, registry.Local})
		want := `[[{"filters":{},"fires":0,"id":"o1","source":{"args":{},"capture":["input","output","caller"],"deliver":"envelope","filters":{},"function_id":"s","namespace":"default","on":"success"},"state":"active","target":{"function_id":"t","namespace":"default"},"worker_name":"o"},` +
			`{"filters":{"$and":[{"input.n":{"$gt":1}}]},"fires":0,"id":"o2","reason":{"code":"TAKEN","message":"m"},"source":{"args":{},"capture":["input","output","caller"],"deliver":"envelope","filters":{"$and":[{"input.n":{"$gt":1}}]},"function_id":"s","namespace":"default","on":"success"},"state":"error","target":{"function_id":"t","namespace":"default"},"worker_name":"o"}],` +
			`[{"count":2,"dropped":{},"duration_ms":0,"errors":0,"function_id":"s","namespace":"default"}]]`
		if string(got) != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

// A hook can delay results, drop acknowledgments and add unknown messages.
func TestHookWithholdsObserveFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		h, o := observing(t, e, "h").host("s"), observing(t, e, "o").host("t")
		e.Hook(func(f Frame) Verdict {
			switch f.Type() {
			case "observeresult":
				return Verdict{Delay: time.Second}
			case "observerack":
				return Verdict{Drop: f.Direction == ToEngine}
			case "observeradded":
				return Verdict{Replace: []json.RawMessage{f.Message, json.RawMessage(`{"type":"unheardof"}`)}}
			}
			return Verdict{}
		})
		began := time.Now()
		o.observe("o1", "s", "t")
		o.wantResult("o1", "pending")
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("answered after %v", waited)
		}
		h.accept("s", "o1")
		h.want(`{"type":"unheardof"}`)
		h.sync()
		o.quiet()
		e.Hook(nil)
		e.Send("o", json.RawMessage(`{"type":"observerstatechanged","id":"o1","state":"curious","reason":null,"fires":null}`))
		o.want(`{"type":"observerstatechanged","id":"o1","state":"curious","reason":null,"fires":null}`)
	})
}

// An observer receives no event from before it was added, even if the event has not been
// delivered to other observers yet.
func TestObserverMissesEarlierEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Start(t)
		w := observing(t, e, "w").host("first", "second")
		w.observe("o1", "state::on-changed", "first", `,"deliver":"input"`)
		w.wantResult("o1", "active")
		event := func(n string) {
			e.observers.queueEvent(t.Context(), "state::on-changed", func() json.RawMessage { return json.RawMessage(n) }, nil)
		}
		added := observeMessage{ID: "o2"}
		added.Source.FunctionID, added.Target.FunctionID = "state::on-changed", "second"
		deliver := "input"
		added.Source.Deliver = &deliver
		conn := e.find("w")[0]
		func() {
			e.observers.mu.Lock() // holds back the delivery
			defer e.observers.mu.Unlock()
			event("1")
			o, warnings, bad := e.observers.build(conn, added)
			if bad != nil {
				t.Fatal(bad)
			}
			e.observers.add(conn, o, warnings)
		}()
		event("2")
		w.wantResult("o2", "active")
		w.wantActivation("o1", "first", "1")
		w.wantActivation("o1", "first", "2")
		w.wantActivation("o2", "second", "2")
	})
}
