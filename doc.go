// Package iii turns a Go program into a worker of the iii engine: it holds one
// WebSocket to the engine, registers functions and triggers, serves their
// invocations and calls the functions of other workers.
//
// This is a whole worker program:
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
//		if err := client.Run(ctx); err != nil { // serves until ctx ends, then drains
//			log.Fatal(err)
//		}
//	}
//
// The engine for a first try, and for tests, is package
// [github.com/iii-go/iii/iiitest]: it runs inside the program.
//
// # Connection
//
// [New] makes a [Client] and does no input or output. Functions and triggers can be
// registered from then on, and calls can be made; they wait for the connection.
// [Client.Connect] returns when the engine has accepted the worker and everything
// registered so far. From then on the client keeps the connection up by itself:
// it notices a silent engine by pings ([WithKeepalive]), connects again
// ([WithReconnection]) and registers everything anew: trigger types, functions, then
// triggers, each in the order of the program. A function that another worker owns is
// refused, and taken over when that worker has gone ([Function.Err]); its triggers wait
// for that. Any other refusal by the engine ends the client, as [*AuthError] or
// [*RejectedError].
//
// [Client.Run] is the main loop of a worker program: Connect, serve until the
// context ends, drain. [Client.Shutdown] drains a client: it takes no new work, lets
// running handlers finish and their results leave, and closes. [Client.Close] ends
// it at once. [WithStateListener] and [Client.State] tell how the connection is,
// [Client.Stats] counts, and [WithLogger] says what the client says, which is
// nothing by default.
//
// # Functions
//
// [Handle] registers a function with a typed handler. The payload is decoded into
// the handler's argument and the result encoded with encoding/json, and JSON Schemas
// of both types are advertised to the engine. [Client.HandleFunc] does it
// with JSON as it is. [Client.HandleHTTPInvoked] registers a function that the
// engine runs by calling a URL.
//
// Handlers run concurrently, at most [WithMaxConcurrency] at once. A handler's
// context ends when its answer can reach nobody any more; [InvocationFromContext]
// tells what it serves, and [Stopping] that the worker is about to end.
// [WithMiddleware] wraps all handlers of a client. A handler that panics fails its
// call and nothing else.
//
// # Calls
//
// [Call] runs a function, whichever worker serves it, and decodes its result;
// [Client.Call] is the same for a result that has its memory already.
// [Client.Send] runs a function without waiting for an answer, and
// [Client.Enqueue] hands the call to a queue, which runs it later. The engine's own
// functions are called the same way:
//
//	result, err := iii.Call[iii.StateSetResult](ctx, client, "state::set", iii.StateSetInput{
//		Scope: "carts", Key: "ada", Value: json.RawMessage(`{"items":[]}`),
//	})
//
// The engine promises no order between calls, not even between those of one caller.
//
// # Errors
//
// What the other side said is an [*Error] with its code; a handler returns one to
// choose the code its caller sees. What went wrong on the way is one of
// [ErrTimeout], [ErrConnectionLost], [ErrNotConnected], [ErrBufferFull],
// [ErrMessageTooLarge] and [ErrClosed], or wraps the error of the context that ended
// the call. [SafeToRetry] tells of an error whether the request certainly did not
// reach the engine.
//
//	var refusal *iii.Error
//	switch _, err := iii.Call[Quote](ctx, client, "shop::quote", order); {
//	case err == nil:
//	case errors.Is(err, iii.ErrFunctionNotFound): // nobody serves shop::quote
//	case errors.As(err, &refusal): // the function said no: refusal.Code
//		fmt.Println(refusal.Code)
//	case iii.SafeToRetry(err): // it has not run
//	default: // it may have run
//	}
//
// # Triggers
//
// A trigger runs a function when something happens. [Client.Trigger] binds one; the
// type of its config says which kind it is: [HTTPTriggerConfig],
// [CronTriggerConfig], [StateTriggerConfig], [StreamTriggerConfig],
// [QueueTriggerConfig], [SubscribeTriggerConfig], [LogTriggerConfig] and so on, or
// [CustomTrigger] for a type that a worker provides. The function gets the payload
// of that kind, a [StateEvent] for example. The engine confirms no trigger, but says
// if it refuses one: see [Trigger.Err] and [WithTriggerErrorHandler].
//
// [Client.HandleTriggerType] provides a type: a [TriggerProvider] is told what is
// bound, over reconnections too, and calls [TriggerBinding.Fire] when it happens.
//
// # State, streams, queues
//
// [State] and [Stream] give typed access to what the engine stores for all workers:
// values by key, and values by group and item whose changes are broadcast.
// [Subscribe] follows streams over the socket that browsers use, and
// [Client.HandleStream] makes a worker the store of a stream. [Client.Publish] hands
// a message to whoever listens now, [Client.PublishDurable] and [Client.Enqueue] to
// queues; [Client.DeadLetters] lists what has failed there for good.
// [Client.Configuration] is the engine's configuration store, and [Client.Functions],
// [Client.Workers] and their kin list what there is.
//
// # HTTP
//
// [HandleHTTP] serves a route of the engine's HTTP server with a typed handler: it
// registers a function and its trigger as one. It takes an [HTTPRequest] and returns
// an [HTTPResponse], each with the type of its body. When the handler returns an
// error, the engine answers with status 500 and the error's code; every other answer
// is a response. [Client.MountHTTP] serves a route with any net/http handler.
//
// # Channels
//
// A channel carries bytes and messages from one worker to another through the
// engine, beside calls and without their limit of size. [Client.CreateChannel] makes
// one. One of its ends, a [ChannelWriter] and a [ChannelReader], is used here; the
// reference of the other is sent to another worker, who opens it with
// [Client.OpenReader] or [Client.OpenWriter].
//
// # Namespaces
//
// A worker lives in one namespace, "default" unless [WithNamespace] or
// $III_NAMESPACE says otherwise. Its functions are found there, and its calls and
// triggers look there; [InNamespace] and [WithTriggerNamespace] look elsewhere. The
// engine's own functions (engine::, state::, stream::, configuration::, iii:: and
// publish) are in "default" for everybody, which the client knows.
//
// # Access control
//
// An engine may ask functions about who connects and what he may call and register.
// They are ordinary ones: [Handle] with [AuthInput] and [AuthResult], which
// [NewAuthResult] makes, [OnFunctionRegistrationInput] and its result, and so on.
// [WithHeader] presents a worker to them. What a worker may not call is an
// [ErrForbidden]. [VerifySignature] checks that the engine has made a request to a
// function of [Client.HandleHTTPInvoked].
//
// # Telemetry
//
// [StartTelemetry] makes providers of OpenTelemetry that send traces, metrics and
// logs to the engine; [WithTelemetry] has a client record each invocation in a span
// and the figures of its process as gauges. With or without it, calls carry the
// trace context and the baggage of their context, and handlers get those of their
// caller. [Logger] and [Telemetry.SlogHandler] write logs that belong to the trace
// they are written in.
//
// # Faults and guarantees
//
// A call is sent at most once. If its connection dies after it may have been sent,
// it fails at once with [ErrConnectionLost]; if it was not sent yet, it goes out on
// the next connection, unless its context has ended by then. What waits for a
// connection is bounded by [WithSendBuffer].
//
// Send reports success when the message has been written or buffered. Whether the
// engine has read it is found out in the background, and every message is counted
// in the end: as confirmed, as unknown when a connection died before that, or as
// dropped when the client ended first. The state listener is told as well
// ([*LostSendsError]).
//
// The answer of a handler goes over the connection its invocation came from and over
// no other: the engine fails the call when that connection ends. Invocations that
// find all handlers busy wait in a bounded queue; what does not fit is answered with
// the code overloaded.
//
// Every method that waits returns when its context ends. What the engine sends cannot
// make the client panic or grow without bound, and no header, token or userinfo of a
// URL is in an error or a log line.
package iii
