// Package iii turns a Go program into a worker of the iii engine. A worker connects to the
// engine over a single WebSocket, registers functions and triggers, serves invocations of its
// functions, and calls the functions of other workers.
//
// The following program is a complete worker:
//
//	package main
//
//	import (
//		"context"
//		"log"
//		"log/slog"
//		"os"
//		"os/signal"
//		"syscall"
//
//		"github.com/iii-go/iii"
//	)
//
//	type Person struct {
//		Name string `json:"name"`
//	}
//
//	func main() {
//		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
//		defer stop()
//		context.AfterFunc(ctx, stop) // a second signal terminates the program immediately
//
//		client, err := iii.New("", iii.WithLogger(slog.Default())) // $III_URL, else ws://127.0.0.1:49134
//		if err != nil {
//			log.Fatal(err)
//		}
//		_, err = iii.Handle(client, "greetings::hello", func(ctx context.Context, p Person) (string, error) {
//			return "Hello, " + p.Name, nil
//		})
//		if err != nil {
//			log.Fatal(err)
//		}
//		if err := client.Run(ctx); err != nil { // serves until ctx is done, then shuts down gracefully
//			log.Fatal(err)
//		}
//	}
//
// Package [github.com/iii-go/iii/iiitest] provides a development engine that runs inside your
// program. Use it for first steps and for tests.
//
// # Connection
//
// [New] creates a [Client] and performs no I/O. The program can immediately register functions
// and triggers and make calls; the client sends them once it is connected. [Client.Connect]
// returns when the engine has accepted the worker and everything registered so far.
//
// From then on, the client maintains the connection. It detects an unresponsive engine with
// pings ([WithKeepalive]), reconnects with backoff ([WithReconnection]), and registers
// everything again: first trigger types, then functions, then triggers, each in the order of
// their registration. If another worker owns a function, the engine rejects the registration.
// When that worker disconnects, as in a rolling update, the client takes over the function
// ([Function.Err]) and registers its triggers. Any other rejection by the engine ends the
// client with an [*AuthError] or a [*RejectedError].
//
// [Client.Run] is the main loop of a worker program: it connects, serves until its context is
// done, and then shuts down gracefully. [Client.Shutdown] performs only the graceful shutdown.
// The client stops accepting work, waits for running handlers, delivers their results, and
// closes the connection. [Client.Close] ends the client immediately. [WithStateListener] and
// [Client.State] report the state of the connection, and [Client.Stats] returns counters. The
// client logs almost nothing unless [WithLogger] is set.
//
// # Functions
//
// [Handle] registers a function with a typed handler. It decodes the payload into the
// handler's argument and encodes the result, both with encoding/json, and advertises JSON
// Schemas of the two types to the engine. [Client.HandleFunc] registers a function that takes
// raw JSON. [Client.HandleHTTPInvoked] registers a function that the engine runs by calling a
// URL.
//
// Handlers run concurrently, up to [WithMaxConcurrency] at a time. A handler's context is
// canceled when its result can no longer reach the caller. [InvocationFromContext] returns the
// invocation that a handler serves, and [Stopping] returns a channel that is closed when the
// worker begins to drain. [WithMiddleware] wraps all handlers of a client. A panic in a
// handler fails only that call.
//
// # Calls
//
// [Call] runs a function on whichever worker serves it and decodes the result. [Client.Call]
// decodes the result into a value you provide. [Client.Send] runs a function without waiting
// for its result. [Client.Enqueue] adds the call to a queue, which runs it later. Call the
// engine's own functions in the same way:
//
//	result, err := iii.Call[iii.StateSetResult](ctx, client, "state::set", iii.StateSetInput{
//		Scope: "carts", Key: "ada", Value: json.RawMessage(`{"items":[]}`),
//	})
//
// The engine does not guarantee the order of calls, even between calls from the same caller.
//
// # Errors
//
// An error from a function or from the engine is an [*Error] with a code. To choose the code
// that its caller receives, a handler returns an [*Error]. If a request could not be delivered
// or received no response, the error is [ErrTimeout], [ErrConnectionLost], [ErrNotConnected],
// [ErrBufferFull], [ErrMessageTooLarge] or [ErrClosed], or wraps the error of the context.
// [SafeToRetry] reports whether retrying the failed request is guaranteed not to run the
// function twice. Retry other requests only if the function is idempotent.
//
//	var refusal *iii.Error
//	switch _, err := iii.Call[Quote](ctx, client, "shop::quote", order); {
//	case err == nil:
//	case errors.Is(err, iii.ErrFunctionNotFound): // no worker serves shop::quote
//	case errors.As(err, &refusal): // the function or the engine returned an error
//		fmt.Println(refusal.Code)
//	case iii.SafeToRetry(err): // it did not run
//	default: // it may have run
//	}
//
// # Triggers
//
// A trigger runs a function when an event occurs. [Client.Trigger] binds a trigger to a
// function. The type of its config selects the kind of trigger: [HTTPTriggerConfig],
// [CronTriggerConfig], [StateTriggerConfig], [StreamTriggerConfig], [QueueTriggerConfig],
// [SubscribeTriggerConfig], [LogTriggerConfig] and others, or [CustomTrigger] for a type that
// a worker provides. The payload of the function depends on the kind of trigger; for example,
// a state trigger sends a [StateEvent]. The engine does not confirm triggers, but it reports
// rejections: see [Trigger.Err] and [WithTriggerErrorHandler].
//
// [Client.HandleTriggerType] provides a trigger type. The client calls the [TriggerProvider]
// when a trigger is bound or unbound, including after a reconnect. The provider calls
// [TriggerBinding.Fire] when the event occurs.
//
// # Observers
//
// An observer runs a function whenever another function has been called. [Client.Observe]
// registers an observer, on engine 0.25 and later. [WithObserverHooks] and related options
// configure how a worker hosts observed functions. On engine 0.26 and later, observers replace
// triggers: the client registers each trigger as an observer, so programs do not need to
// change.
//
// # State, streams, queues
//
// [State] and [Stream] provide typed access to data that the engine stores for all workers.
// [State] holds values by key. [Stream] holds items by group and id and broadcasts changes to
// them. [Subscribe] follows streams over the same socket that browsers use, and
// [Client.HandleStream] makes a worker the storage backend of a stream.
//
// [Client.Publish] delivers a message at most once to the current subscribers of a topic.
// [Client.PublishDurable] and [Client.Enqueue] add messages to queues. Queues deliver messages
// at least once, so make handlers idempotent. [Client.DeadLetters] lists a dead-letter queue,
// which holds the messages that failed on every attempt.
//
// [Client.Configuration] provides access to the engine's configuration store.
// [Client.Functions], [Client.Workers] and related methods list what is registered.
//
// # HTTP
//
// [HandleHTTP] serves a route of the engine's HTTP server with a typed handler. It registers a
// function and its trigger together. The handler takes an [HTTPRequest] and returns an
// [HTTPResponse], each with a typed body. An error becomes a response with status 500, unless
// it is an [*HTTPError] or [WithHTTPErrors] maps it to one. [Client.MountHTTP] serves a route
// with any net/http handler, and [Client.MountRouter] serves all requests below a path with a
// single handler, such as a router.
//
// # Channels
//
// A channel carries bytes and messages from one worker to another through the engine,
// separately from calls and without their size limit. [Client.CreateChannel] creates a channel
// and returns both of its ends, a [ChannelWriter] and a [ChannelReader]. Use one end locally
// and send the reference of the other end to another worker, which opens it with
// [Client.OpenReader] or [Client.OpenWriter]. Writes block while the channel is full.
//
// # Namespaces
//
// A worker belongs to a single namespace: that of [WithNamespace], or $III_NAMESPACE, or
// "default". Its functions are registered in this namespace, and its calls and triggers look
// up functions there. [InNamespace] and [WithTriggerNamespace] select a different namespace.
// The engine's own functions (engine::, state::, stream::, configuration::, iii:: and publish)
// are always in "default", and the client calls them there automatically.
//
// # Access control
//
// An engine can call functions that decide which workers may connect, and what they may call
// and register. These hooks are ordinary functions. Register them using [Handle] with
// [AuthInput] and [AuthResult] (created by [NewAuthResult]), with
// [OnFunctionRegistrationInput] and its result, and so on. [WithHeader] sends the worker's
// credentials. A call fails with [ErrForbidden] if the worker lacks permission.
// [VerifySignature] checks that a request to a function of [Client.HandleHTTPInvoked] was sent
// by the engine.
//
// # Telemetry
//
// [StartTelemetry] creates OpenTelemetry providers that send traces, metrics and logs to the
// engine. With [WithTelemetry], a client records a span for each invocation and reports
// process metrics as gauges. Even without telemetry, calls propagate the trace context and
// baggage of their context, and handlers receive those of their callers. [Logger] and
// [Telemetry.SlogHandler] write logs that belong to the current trace. [TraceHandler] adds the
// trace and span ids to any other slog handler.
//
// # Faults and guarantees
//
// A call runs at most once. If the connection is lost after the call may have been sent, the
// call fails immediately with [ErrConnectionLost]. A call that has not been sent is sent on
// the next connection, unless its context is done by then. [WithSendBuffer] limits the
// messages that wait for a connection.
//
// [Client.Send] returns nil when the message has been written or buffered. In the background,
// the client determines whether the engine has read the message. It counts each message
// exactly once: as confirmed, as unknown if the connection was lost first, or as dropped if
// the client ended first. The state listener also receives a [*LostSendsError] for unknown
// messages.
//
// A result is sent only on the connection on which its invocation arrived, because the engine
// fails the call when that connection ends. Invocations that arrive while all handlers are
// busy wait in a bounded queue. If the queue is full, they fail with the code overloaded.
//
// Every blocking method returns when its context is done. No input from the engine can make
// the client panic or use unbounded memory. Errors and logs never contain headers, tokens or
// the userinfo of a URL.
package iii
