// Package iiitest runs a development engine for iii inside your process, much like
// net/http/httptest runs a web server inside a test. You can write, run and test
// workers without installing an engine.
//
// This test runs a worker, created by newGreeter, against an engine:
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
// Outside a test, call [New] to start an engine and [Engine.Close] to stop it. The
// command iiidev runs an engine as a separate program.
//
// # Features
//
// The engine speaks the worker protocol of engines 0.23, 0.25 and 0.26 (see
// [Protocol]). The default is 0.26, which also accepts workers that use the older
// versions. Version 0.23 is tested by replaying conversations recorded from an engine,
// and version 0.26 with the integration tests of the Rust SDK.
//
// The engine supports functions in namespaces, calls between workers, channels, and
// triggers bound to its own types (http, cron, durable:subscriber, state, stream,
// stream:join, stream:leave, subscribe, configuration, log, trace,
// engine::functions-available, engine::workers-available) or to types that workers
// provide. Its built-in functions cover state, streams, publishing, durable topics and
// their dead letters, configuration, logging, channels and introspection. In 0.25 and
// later, functions can be observed. In 0.26, the engine's trigger types become functions
// that can be observed: http::on-request, cron::on-tick, queue::on-message, publish,
// state::on-changed and others. The engine keeps everything in memory.
//
// Workers can also register functions that the engine invokes over HTTP. The URLs of
// these functions must use https, except on the loopback interface. Their secrets are
// read from environment variables; see [WithEnv].
//
// Queues work without a queue worker. The queue named "default" always exists, and
// [WithQueue] adds others. A worker that registers engine::queue::enqueue replaces the
// built-in queues. A real engine polls its queues; this engine delivers a job as soon
// as the job is due.
//
// # Time
//
// In a testing/synctest bubble an engine opens no sockets, and [Engine.DialContext] is
// the only way to connect to it. The grace periods and timeouts of the engine and of
// workers take no real time. Cron triggers follow the bubble's clock: in a test that
// sleeps for a year, they fire for a year. An engine can only be used in the bubble in
// which it was started.
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
// [WithGuard] corresponds to the rbac section of the engine's worker manager. It opens a
// second listener for workers, at [Engine.GuardedURL], which supports an auth function,
// call permissions, registration hooks, a function prefix and a middleware.
// [WithStreamAuth] sets an auth function for the stream socket, and
// [WithHTTPMiddleware] sets the middleware of the HTTP server.
//
// # Other engines
//
// [WithBridge] connects the engine to another engine as a worker. The workers of the
// first engine can then call functions of the second with bridge.invoke.
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
// [Engine.Hook] simulate faults of networks and engines. [Engine.Frames] returns the
// messages that were exchanged, and [Engine.Stats] returns counters.
package iiitest
