package iiitest

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

const (
	id1 = "0c1f6f0e-6d6e-4c41-9d0e-6a7b7a3f2f10"
	id2 = "1c1f6f0e-6d6e-4c41-9d0e-6a7b7a3f2f10"
)

func result(id, functionID, more string) string {
	return `{"type":"invocationresult","invocation_id":"` + id + `","function_id":"` + functionID + `"` + more + `}`
}

func TestInvocationReachesTheCallee(t *testing.T) {
	e := Start(t)
	callee, caller := dial(t, e).register("callee"), dial(t, e).register("caller")
	callee.function("f::g")
	for _, test := range []struct {
		name, sent, want string
	}{
		{
			"object data get the caller's id, overwriting",
			`"invocation_id":"` + id1 + `","data":{"_caller_worker_id":"me","a":1}`,
			`"invocation_id":"` + id1 + `","data":{"_caller_worker_id":"` + caller.id + `","a":1}`,
		}, {
			"other data are left alone",
			`"invocation_id":"` + id1 + `","data":[{"a":1}]`,
			`"invocation_id":"` + id1 + `","data":[{"a":1}]`,
		}, {
			"an id in another form",
			`"invocation_id":"{0C1F6F0E-6D6E-4C41-9D0E-6A7B7A3F2F10}","data":null`,
			`"invocation_id":"` + id1 + `","data":null`,
		}, {
			"metadata pass, the action does not",
			`"data":1,"metadata":{"b":1,"a":[]},"action":{"type":"void"},"namespace":"default"`,
			`"invocation_id":"*","data":1,"metadata":{"a":[],"b":1}`,
		}, {
			"trace context names the callee",
			`"data":1,"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"`,
			`"invocation_id":"*","data":1,"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","baggage":"iii.function.id=f::g"`,
		}, {
			"baggage alone",
			`"data":1,"baggage":"a=1, iii.function.id=old ,b=2"`,
			`"invocation_id":"*","data":1,"baggage":"iii.function.id=f::g,a=1,b=2"`,
		}, {
			"null is absent",
			`"invocation_id":null,"data":1,"metadata":null,"traceparent":null,"baggage":null,"action":null,"namespace":null`,
			`"invocation_id":"*","data":1`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			caller.send(`{"type":"invokefunction","function_id":"f::g",%s}`, test.sent)
			callee.want(`{"type":"invokefunction","function_id":"f::g",` + test.want + `}`)
		})
	}
}

func TestResultReachesTheCaller(t *testing.T) {
	e := Start(t)
	callee, caller := dial(t, e).register("callee"), dial(t, e).register("caller")
	callee.function("f::g")
	for _, test := range []struct {
		name, sent, want string
	}{
		{"a value", `,"result":[1.50]`, `,"result":[1.5]`},
		{"null is no result", `,"result":null,"error":null`, ``},
		{"nothing", ``, ``},
		{"the error wins", `,"result":1,"error":{"code":"c","message":"m"}`, `,"error":{"code":"c","message":"m"}`},
		{"with a stack", `,"error":{"code":"c","message":"m","stacktrace":"s","more":1}`, `,"error":{"code":"c","message":"m","stacktrace":"s"}`},
		{"trace context of the executor is ignored", `,"result":1,"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","baggage":"a=1"`, `,"result":1`},
	} {
		t.Run(test.name, func(t *testing.T) {
			caller.send(`{"type":"invokefunction","invocation_id":%q,"function_id":"f::g","data":1}`, id1)
			callee.recv()
			callee.send("%s", result(id1, "whatever", test.sent))
			caller.want(result(id1, "f::g", test.want))
			callee.send("%s", result(id1, "f::g", `,"result":"late"`)) // the first result wins
			callee.sync()
			caller.sync()
		})
	}
	t.Run("void gets none", func(t *testing.T) {
		caller.send(`{"type":"invokefunction","invocation_id":%q,"function_id":"f::g","data":1,"action":{"type":"void"}}`, id1)
		callee.recv()
		callee.send("%s", result(id1, "f::g", `,"error":{"code":"c","message":"m"}`))
		callee.sync()
		caller.sync()
		caller.send(`{"type":"invokefunction","function_id":"none","data":1,"action":{"type":"void"}}`)
		caller.sync()
	})
	t.Run("anybody may answer", func(t *testing.T) {
		caller.send(`{"type":"invokefunction","invocation_id":%q,"function_id":"f::g","data":1}`, id1)
		callee.recv()
		caller.send("%s", result(id1, "f::g", `,"result":"mine"`))
		caller.want(result(id1, "f::g", `,"result":"mine"`))
	})
	t.Run("an id used again ends the earlier call", func(t *testing.T) {
		caller.send(`{"type":"invokefunction","invocation_id":%q,"function_id":"f::g","data":1}`, id1)
		callee.recv()
		caller.send(`{"type":"invokefunction","invocation_id":%q,"function_id":"f::g","data":2}`, id1)
		callee.recv()
		caller.want(result(id1, "f::g", `,"error":{"code":"invocation_error","message":"*"}`))
		callee.send("%s", result(id1, "f::g", `,"result":2`))
		caller.want(result(id1, "f::g", `,"result":2`))
	})
}

func TestInvocationStopped(t *testing.T) {
	e := Start(t)
	callee, caller := dial(t, e).register("callee"), dial(t, e).register("caller")
	callee.function("f::g")
	caller.send(`{"type":"invokefunction","invocation_id":%q,"function_id":"f::g","data":1}`, id1)
	callee.recv()
	_ = callee.conn.Close()
	caller.want(result(id1, "f::g", `,"error":{"code":"invocation_stopped","message":"Invocation stopped"}`))

	callee = dial(t, e).register("callee")
	callee.function("f::g")
	caller.send(`{"type":"invokefunction","invocation_id":%q,"function_id":"f::g","data":1}`, id2)
	callee.recv()
	_ = caller.conn.Close()
	for e.Stats().CallsInFlight > 0 {
		callee.sync() // the callee is not notified
	}
	callee.send("%s", result(id2, "f::g", `,"result":1`))
	callee.sync()
}

func TestEnqueueNeedsAQueueProvider(t *testing.T) {
	e := Start(t)
	callee, caller := dial(t, e).register("callee", `,"namespace":"blue"`), dial(t, e).register("caller")
	callee.function("f::g")
	caller.send(`{"type":"invokefunction","invocation_id":%q,"function_id":"f::g","data":{"n":1},"namespace":"blue","action":{"type":"enqueue","queue":"default"},"metadata":1}`, id1)
	caller.want(result(id1, "f::g", `,"result":{"messageReceiptId":"*"}`))
	callee.want(`{"type":"invokefunction","invocation_id":"*","function_id":"f::g","data":{"n":1},"traceparent":"*","baggage":"iii.function.id=f::g"}`)

	e = Start(t, WithQueueProvider(false))
	caller = dial(t, e)
	caller.send(`{"type":"invokefunction","invocation_id":%q,"function_id":"f::g","data":1,"action":{"type":"enqueue","queue":"default"}}`, id1)
	if got := fmt.Sprint(caller.recv()["error"]); !strings.Contains(got, "code:enqueue_error") || !strings.Contains(got, "iii worker add queue") {
		t.Errorf("without a provider: %s", got)
	}
}

// Once a connection's namespace is known, calls on the connection find every function
// registered before them, and each call gets its own result.
func TestCallsConcurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const workers, calls = 8, 100
		e := Start(t)
		var all sync.WaitGroup
		for i := range workers {
			c := dial(t, e).register(fmt.Sprint("w", i))
			c.function(fmt.Sprint("echo::", i))
			all.Go(func() {
				answered := 0
				for n := range calls {
					id := fmt.Sprintf("%08d-0000-4000-8000-%012d", i, n)
					c.send(`{"type":"invokefunction","invocation_id":%q,"function_id":"echo::%d","data":"%d-%d"}`, id, i, i, n)
				}
				for answered < calls {
					m := c.recv()
					if m["type"] == "invokefunction" {
						c.send(`{"type":"invocationresult","invocation_id":%q,"function_id":"x","result":%q}`, m["invocation_id"], m["data"])
						continue
					}
					answered++
					id := m["invocation_id"].(string)
					if want := fmt.Sprintf("%d-%d", i, atoi(id[24:])); m["result"] != want {
						t.Errorf("answer to %s: %v", id, m)
					}
				}
			})
		}
		all.Wait()
		synctest.Wait()
		if got := e.Stats().CallsInFlight; got != 0 {
			t.Errorf("calls in flight at the end: %d", got)
		}
	})
}

func atoi(s string) (n int) {
	for _, c := range s {
		n = n*10 + int(c-'0')
	}
	return n
}
