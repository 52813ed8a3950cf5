// Package iii turns a Go program into a worker of the iii engine. A worker connects
// to the engine over one WebSocket, registers functions and triggers, serves their
// invocations and calls the functions of other workers.
//
// This is a complete worker program:
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
//		context.AfterFunc(ctx, stop) // a second signal ends the program at once
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
//		if err := client.Run(ctx); err != nil { // serves until ctx ends, then shuts down gracefully
//			log.Fatal(err)
//		}
//	}
//
// Package [github.com/iii-go/iii/iiitest] is a development engine that runs inside
// the program, for first steps and for tests.
//
// # Connection
//
// [New] makes a [Client] and does no I/O. From then on the program can register
// functions and triggers and make calls, which wait for the connection.
// [Client.Connect] returns when the worker is ready: the engine has accepted the
// worker and everything registered so far. After that the client maintains the
// connection. It detects a silent engine with pings ([WithKeepalive]), reconnects
// with backoff ([WithReconnection]) and registers everything again: trigger types,
// functions, then triggers, each in the order of the program. The engine rejects a
// function that another worker owns; when that worker leaves, as in a rolling update,
// the client takes the function over ([Function.Err]) and registers its triggers. Any
// other rejection by the engine ends the client with an [*AuthError] or a
// [*RejectedError].
//
// [Client.Run] is the main loop of a worker program: it connects, serves until its
// context ends, then shuts down gracefully. [Client.Shutdown] performs the graceful
// shutdown: the client drains, that is, it takes no new work, lets running handlers
// finish and delivers their results, and then closes the connection. [Client.Close]
// ends the client immediately. [WithStateListener] and [Client.State] report the state of
// the connection, [Client.Stats] returns counters, and [WithLogger] sets the logger.
// The client logs nothing by default.
//
// # Functions
//
// [Handle] registers a function with a typed handler. It decodes the payload into the
// handler's argument and encodes the result with encoding/json, and advertises JSON
// Schemas of both types to the engine. [Client.HandleFunc] registers a
// function that takes raw JSON. [Client.HandleHTTPInvoked] registers a function that
// the engine runs by calling a URL.
//
// Handlers run concurrently, at most [WithMaxConcurrency] at once. The context of a
// handler ends when its result can no longer reach the caller. [InvocationFromContext]
// returns the invocation that a handler serves, and [Stopping] returns a channel that
// is closed when the worker begins to drain. [WithMiddleware] wraps all handlers of a
// client. A panic in a handler fails that call and nothing else.
//
// # Calls
//
// [Call] runs a function on whichever worker serves it and decodes the result;
// [Client.Call] decodes the result into a value you provide. [Client.Send] runs a
// function without waiting for an answer. [Client.Enqueue] adds the call to a queue,
// which runs it later. The engine's own functions are called in the same way:
//
//	result, err := iii.Call[iii.StateSetResult](ctx, client, "state::set", iii.StateSetInput{
//		Scope: "carts", Key: "ada", Value: json.RawMessage(`{"items":[]}`),
//	})
//
// The engine does not guarantee the order of calls, not even of those from one
// caller.
//
// # Errors
//
// An error from the function or the engine is an [*Error] with a code; a handler returns an
// [*Error] to choose the code that its caller receives. A failure in transit is one of
// [ErrTimeout], [ErrConnectionLost], [ErrNotConnected], [ErrBufferFull], [ErrMessageTooLarge]
// and [ErrClosed], or wraps the error of the context that ended the call. [SafeToRetry]
// reports whether the failed request is guaranteed not to have reached the engine. Retry other
// requests only if the function is idempotent.
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
// A trigger runs a function when something happens. [Client.Trigger] binds a trigger
// to a function; the type of the config selects the kind of trigger:
// [HTTPTriggerConfig], [CronTriggerConfig], [StateTriggerConfig],
// [StreamTriggerConfig], [QueueTriggerConfig], [SubscribeTriggerConfig],
// [LogTriggerConfig] and so on, or [CustomTrigger] for a type that a worker provides.
// The function receives the payload of that kind, for example a [StateEvent]. The
// engine does not confirm triggers, but it reports rejections: see [Trigger.Err] and
// [WithTriggerErrorHandler].
//
// [Client.HandleTriggerType] provides a trigger type. The client calls the
// [TriggerProvider] when a trigger is bound or unbound, also across reconnections, and
// the provider calls [TriggerBinding.Fire] when the event happens.
//
// # Observers
//
// An observer runs a function whenever another function has been called.
// [Client.Observe] registers one, on engines since 0.25; [WithObserverHooks] and related
// options configure how a worker hosts functions that are observed. Engines since 0.26
// have observers in place of triggers; there, the client registers each trigger as an
// observer, so programs need not change.
//
// # State, streams, queues
//
// [State] and [Stream] give typed access to data that the engine stores for all
// workers: [State] holds values by key; [Stream] holds items by group and id and
// broadcasts their changes. [Subscribe] follows streams over the socket that browsers
// use, and [Client.HandleStream] makes a worker the store of a stream. [Client.Publish]
// delivers a message at most once, to the current subscribers of a topic.
// [Client.PublishDurable] and [Client.Enqueue] add messages to queues, which deliver
// them at least once, so handlers must be idempotent. [Client.DeadLetters] lists a
// dead-letter queue: the messages whose attempts are used up. [Client.Configuration]
// gives access to the engine's configuration store. [Client.Functions], [Client.Workers] and
// related methods list what is registered.
//
// # HTTP
//
// [HandleHTTP] serves a route of the engine's HTTP server with a typed handler: it
// registers a function and its trigger together. The handler takes an [HTTPRequest] and
// returns an [HTTPResponse], each with the type of its body. An error becomes a response
// with status 500, unless it is an [*HTTPError] or [WithHTTPErrors] maps it to one.
// [Client.MountHTTP] serves a route with any net/http handler, and [Client.MountRouter]
// serves all requests below a path with one handler, such as a router.
//
// # Channels
//
// A channel carries bytes and messages from one worker to another through the engine,
// separately from calls and without their size limit. [Client.CreateChannel] makes a
// channel and returns both of its ends, a [ChannelWriter] and a [ChannelReader]. Use
// one end locally and send the reference of the other end to another worker, which
// opens it with [Client.OpenReader] or [Client.OpenWriter]. A full channel applies
// backpressure: writes wait for the reader.
//
// # Namespaces
//
// A worker belongs to one namespace: that of [WithNamespace], else $III_NAMESPACE,
// else "default". The worker's functions are registered there, and its calls and
// triggers resolve functions there; [InNamespace] and [WithTriggerNamespace] select
// another namespace. The engine's own functions (engine::, state::, stream::,
// configuration::, iii:: and publish) are in "default" for every worker; the client
// addresses them there.
//
// # Access control
//
// An engine can call functions that decide which workers connect and what they may
// call and register. These hooks are ordinary functions: [Handle] with [AuthInput] and
// [AuthResult] (create it with [NewAuthResult]), [OnFunctionRegistrationInput] and its
// result, and so on. [WithHeader] sends the worker's credentials. A call that the
// worker lacks permission for fails with [ErrForbidden]. [VerifySignature] checks that
// the engine has sent a request to a function of [Client.HandleHTTPInvoked].
//
// # Telemetry
//
// [StartTelemetry] creates OpenTelemetry providers that send traces, metrics and logs
// to the engine. With [WithTelemetry] a client records each invocation in a span and
// reports process metrics as gauges. With or without telemetry, calls carry the trace
// context and the baggage of their context, and the contexts of handlers carry those
// of their callers. [Logger] and [Telemetry.SlogHandler] write logs that belong to the
// current trace; [TraceHandler] adds the trace and span ids to any other slog handler.
//
// # Faults and guarantees
//
// A call is at-most-once. If its connection dies after the call may have been sent,
// the call fails at once with [ErrConnectionLost]. A call that was not sent yet goes
// out on the next connection, unless its context has ended by then. [WithSendBuffer]
// bounds the messages that wait for a connection.
//
// [Client.Send] returns nil when the message has been written or buffered. The client
// determines in the background whether the engine has read the message, and counts
// every message in the end: as confirmed, as unknown if the connection died first, or
// as dropped if the client ended first. The state listener also receives a
// [*LostSendsError] for unknown messages.
//
// The result of a handler is sent only over the connection that its invocation came
// from: the engine fails the call when that connection ends. Invocations that arrive
// while all handlers are busy wait in a bounded queue; those that do not fit fail with
// the code overloaded.
//
// Every blocking method returns when its context ends. No input from the engine makes
// the client panic or grow without bound. No header, token or userinfo of a URL appears
// in an error or a log line.
package iii
