// Package iiitest is a development engine of iii in the process of its caller,
// as net/http/httptest is a web server in the process of a test: nobody needs
// an installed engine to write, run or test a worker.
//
// This is a test of a worker that newGreeter makes:
//
//	func TestGreeter(t *testing.T) {
//		engine := iiitest.Start(t) // closed when the test ends
//		greeter, err := newGreeter(engine.URL())
//		if err != nil {
//			t.Fatal(err)
//		}
//		defer greeter.Close()
//		if err := greeter.Connect(t.Context()); err != nil {
//			t.Fatal(err)
//		}
//
//		got, err := iii.Call[string](t.Context(), greeter, "greet", Person{Name: "Ada"})
//		if err != nil || got != "Hello, Ada" {
//			t.Errorf("got %q, %v", got, err)
//		}
//	}
//
// Outside of tests New starts an engine and Close ends it; command iiidev is a
// program around that.
//
// # What it does
//
// It speaks the worker protocol of engines 0.23, 0.25 and 0.26, see [Protocol]; the
// default is the newest, in which workers of all three generations can connect. For
// 0.23 it is tested by replaying conversations that were recorded from an engine, for
// 0.26 by the integration tests of the Rust SDK. It has functions
// in namespaces, calls between workers, triggers bound to the engine's own
// types (http, cron, durable:subscriber, state, stream, stream:join,
// stream:leave, subscribe, configuration, log, trace,
// engine::functions-available, engine::workers-available) or to those of other
// workers, channels, and the engine's functions for state, streams, publishing,
// durable topics and their dead letters, configuration, logging, channels and
// introspection. Since 0.25 functions have observers, and in 0.26 the trigger types of
// the engine are functions to observe: http::on-request, cron::on-tick,
// queue::on-message, publish, state::on-changed and others. Everything is in memory.
//
// Functions that are invoked over HTTP are called through https, on the loopback
// interface through http too; [WithEnv] holds their secrets.
//
// Queues work without a queue worker: the one named "default" exists, and more
// with [WithQueue]. A worker that registers engine::queue::enqueue takes their
// place. Unlike the engine, this one does not poll its queues: what is due is
// handed out at once.
//
// # Time
//
// In a testing/synctest bubble an engine has no sockets: it is reached by
// [Engine.DialContext] alone, and the grace periods and timeouts, its own and
// those of the worker, take no time; cron triggers go by the bubble's clock, and
// a year of them passes while a test sleeps for a year. It belongs to the bubble
// in which it is started.
//
//	synctest.Test(t, func(t *testing.T) {
//		engine := iiitest.Start(t) // in a bubble there are no sockets
//		greeter, err := newGreeter(engine.URL(), iii.WithDialContext(engine.DialContext))
//		// …
//		time.Sleep(7 * 24 * time.Hour) // takes no time
//		synctest.Wait()
//		// …
//	})
//
// # Rights
//
// [WithGuard] opens a second listener for workers, [Engine.GuardedURL], as the
// engine's worker manager does with an rbac section: an auth function, rights to
// call, registration hooks, a prefix and a middleware. [WithStreamAuth] and
// [WithHTTPMiddleware] name the functions that the engine's other servers ask.
//
// # Other engines
//
// [WithBridge] makes the engine a worker of another one, whose functions its own
// workers then call by bridge.invoke.
//
// # Console
//
// [WithConsole] serves a page, [Engine.ConsoleURL], that shows what happens:
// workers, functions, triggers, invocations, traces, logs and metrics.
//
// # Faults
//
// [Engine.Drop], [Engine.StopReading], [Engine.RefuseAuth], [Engine.Send] and
// [Engine.Hook] misbehave as networks and engines do; [Engine.Frames] and
// [Engine.Stats] tell what really went over the wire.
package iiitest
