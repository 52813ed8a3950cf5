// Package iiitest runs a development engine for iii in the calling process, as
// net/http/httptest runs a web server for a test. You do not need an installed engine
// to write, run or test a worker.
//
// This test covers a worker that newGreeter creates:
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
// Outside a test, call New to start an engine and Close to stop it. The command iiidev
// wraps both in a program.
//
// # Features
//
// The engine speaks the worker protocol of engines 0.23, 0.25 and 0.26 (see
// [Protocol]). The default is the newest, which accepts workers of all three
// generations. The tests of the package verify 0.23 by replaying conversations recorded
// from an engine, and 0.26 with the integration tests of the Rust SDK.
//
// The engine supports functions in namespaces, calls between workers, channels, and
// triggers bound to its own types (http, cron, durable:subscriber, state, stream,
// stream:join, stream:leave, subscribe, configuration, log, trace,
// engine::functions-available, engine::workers-available) or to types that workers
// provide. Its built-in functions cover state, streams, publishing, durable topics and
// their dead letters, configuration, logging, channels and introspection. Since
// 0.25, functions can be observed. In 0.26, the engine's trigger types become functions
// to observe: http::on-request, cron::on-tick, queue::on-message, publish,
// state::on-changed and others. The engine keeps everything in memory.
//
// The engine calls functions invoked over HTTP. Their URLs must use https, except on the
// loopback interface. Their secrets are environment variables; see [WithEnv].
//
// Queues do not need a queue worker: the queue named "default" always exists, and
// [WithQueue] adds others. A worker that registers engine::queue::enqueue replaces
// them. A real engine polls its queues; this one delivers a job as soon as it is due.
//
// # Time
//
// In a testing/synctest bubble an engine opens no sockets, and [Engine.DialContext] is
// the only way to reach it. Grace periods and timeouts, both of the engine and of the
// worker, take no real time. Cron triggers follow the bubble's clock: a test that
// sleeps for a year sees a year of them. An engine belongs to the bubble that starts
// it.
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
// # Access control
//
// [WithGuard] opens a second listener for workers, [Engine.GuardedURL], as the engine's
// worker manager does with an rbac section. It supports an auth function, call
// permissions, registration hooks, a function prefix and a middleware. [WithStreamAuth]
// and [WithHTTPMiddleware] name the functions that the engine's other servers consult.
//
// # Other engines
//
// [WithBridge] makes the engine a worker of another engine. Its own workers then call
// the functions of that engine with bridge.invoke.
//
// # Console
//
// [WithConsole] serves a page at [Engine.ConsoleURL] that shows workers, functions,
// triggers, observers, invocations, traces, logs and metrics, and the contents of state,
// streams and queues.
//
// # Faults
//
// [Engine.Drop], [Engine.StopReading], [Engine.RefuseAuth], [Engine.Send] and
// [Engine.Hook] simulate faults of networks and engines. [Engine.Frames] and
// [Engine.Stats] report what went over the wire.
package iiitest
