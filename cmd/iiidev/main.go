// Command iiidev runs the development engine of package iiitest, for writing and testing
// workers. It keeps all data in memory.
//
//	iiidev [flags]
//
// -listen, -http and -stream set the addresses for workers, HTTP triggers and the stream
// socket. They default to the engine's standard ports on the loopback interface.
//
// -console sets the address of the engine's console, a web page that shows what the engine is
// doing. The default is http://127.0.0.1:3113/, and "" disables the console. The address must
// be on the loopback interface unless -console-exposed is set. An exposed console has no
// password: anyone who can reach it sees all workers' payloads, traces and logs.
//
// Each -queue adds a named queue. The queue's config is JSON with the keys of the engine's
// queue_configs, which [iiitest.QueueConfig] describes, for example
//
//	-queue 'payments={"type":"fifo","message_group_field":"account"}'
//
// -guard opens a second listener for workers, with access control. Its config is JSON with the
// keys of the engine's worker manager, for example
//
//	-guard '{"port":49135,"rbac":{"auth_function_id":"gate::auth","expose_functions":["match(\"public::*\")"]}}'
//
// The keys are host (default 127.0.0.1), port (default 49135), middleware_function_id and rbac.
// Without rbac, everything is permitted. The keys of rbac, which [iiitest.Guard] describes, are
// auth_function_id, expose_functions, on_function_registration_function_id,
// on_trigger_registration_function_id, on_trigger_type_registration_function_id and
// on_observer_registration_function_id. An element of expose_functions is a pattern, or an
// object with the key match or metadata and, optionally, namespace.
//
// -stream-auth names the function that authenticates connections to the stream socket. Each
// -http-middleware names a function that the engine calls for every request to an HTTP
// trigger, in the order of the flags. -http-timeout limits the duration of these requests.
//
// -queue-provider=false removes engine::queue::enqueue, so a worker can provide it. With
// -bridge, the functions bridge.invoke and bridge.invoke_async call functions on the engine at
// the given address.
//
// -protocol selects the worker protocol version: 0.23, 0.25 or 0.26. The default is the
// environment variable III_PROTOCOL or, if that is unset, 0.26. Workers of all three versions
// can connect to a 0.26 engine. With -strict-protocol, a 0.26 engine ignores triggers.
//
// The engine keeps the most recent worker messages (-keep-messages), telemetry
// (-keep-telemetry) and, for the console, invocation payloads (-keep-invocations). Each flag
// limits the memory used; the default is 8MiB.
//
// -frames writes the messages between workers and the engine to a file, which only the current
// user can read. Each line is a JSON object with the time, the worker's id and name, the
// direction as seen by the worker (send or recv), and the length in bytes. Messages of up to
// 64 KiB are included in full: under the keys prefix and otlp if they are telemetry, under
// frame if they are other JSON, and under text otherwise. Telemetry from separate connections
// is appended when iiidev exits. Cookies, channel keys and the values of keys that name a
// secret, such as password or reattach_token, are masked, including those in telemetry
// attributes and in strings that contain JSON. Everything else is written as sent.
//
// As with a real engine, the environment variable III_NAMESPACE_GRACE_MS limits, in
// milliseconds, how long a worker may take to declare its namespace. References such as
// ${NAME:default} in configuration values, and the secrets of functions invoked over HTTP, are
// resolved from environment variables.
//
// With -v, iiidev also logs worker activity and dropped messages. SIGINT or SIGTERM stops it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/iii-go/iii/iiitest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "iiidev:", err)
		os.Exit(1)
	}
}

// keptItems is the maximum number of items of each kind, such as messages and spans, that the
// engine keeps.
const keptItems = 20_000

// size is a flag value: a number of bytes with an optional unit.
type size int

func (s *size) String() string {
	switch n := int(*s); {
	case n > 0 && n%(1<<20) == 0:
		return strconv.Itoa(n>>20) + "MiB"
	case n > 0 && n%(1<<10) == 0:
		return strconv.Itoa(n>>10) + "KiB"
	default:
		return strconv.Itoa(n)
	}
}

func (s *size) Set(text string) error {
	unit := 1
	for suffix, bytes := range map[string]int{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if number, ok := strings.CutSuffix(text, suffix); ok {
			text, unit = number, bytes
		}
	}
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil || n > math.MaxInt/uint64(unit) {
		return errors.New("want a number of bytes, such as 8MiB, 512KiB or 0")
	}
	*s = size(int(n) * unit)
	return nil
}

// run serves until ctx is done. It reads environment variables with env.
func run(ctx context.Context, args []string, env func(string) string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("iiidev", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the full usage would bury the error
	listen := flags.String("listen", "127.0.0.1:49134", "address for workers")
	http := flags.String("http", "127.0.0.1:3111", "address for HTTP triggers")
	stream := flags.String("stream", "127.0.0.1:3112", "address for the stream socket")
	console := flags.String("console", "127.0.0.1:3113", "address for the console, on the loopback interface; \"\" disables the console")
	exposed := flags.Bool("console-exposed", false, "allow any address for -console; anyone who can reach it sees the payloads, traces and logs of all workers, without a password")
	keep := struct{ messages, telemetry, invocations size }{8 << 20, 8 << 20, 8 << 20}
	flags.Var(&keep.messages, "keep-messages", "maximum total `size` of the worker messages kept in memory")
	flags.Var(&keep.telemetry, "keep-telemetry", "maximum total `size` of the telemetry kept in memory, separately for frames, finished spans, announced spans, log records and metrics")
	flags.Var(&keep.invocations, "keep-invocations", "maximum total `size` of the payloads kept for the console, separately for worker functions and the engine's own functions")
	httpTimeout := flags.Duration("http-timeout", 30*time.Second, "time limit for a request to an HTTP trigger")
	streamAuth := flags.String("stream-auth", "", "`function` that authenticates connections to the stream socket")
	protocol := iiitest.Protocol026
	if p := env("III_PROTOCOL"); p != "" {
		if err := protocol.UnmarshalText([]byte(p)); err != nil {
			return fmt.Errorf("III_PROTOCOL: %w", err)
		}
	}
	flags.TextVar(&protocol, "protocol", protocol, "`version` of the worker protocol: 0.23, 0.25 or 0.26; III_PROTOCOL changes the default")
	strict := flags.Bool("strict-protocol", false, "with -protocol 0.26, ignore triggers")
	provider := flags.Bool("queue-provider", true, "provide engine::queue::enqueue")
	var more []iiitest.Option
	flags.Func("http-middleware", "`function` that the engine calls for each request to an HTTP trigger; may be repeated", func(id string) error {
		more = append(more, iiitest.WithHTTPMiddleware(id))
		return nil
	})
	flags.Func("bridge", "`address` of another engine; bridge.invoke calls its functions", func(url string) error {
		more = append(more, iiitest.WithBridge(url))
		return nil
	})
	flags.Func("guard", "open a guarded listener for workers; `config` is JSON, for example {\"port\":49135,\"rbac\":{\"auth_function_id\":\"gate::auth\"}}", func(config string) error {
		guard, err := guardOption(config)
		more = append(more, guard)
		return err
	})
	flags.Func("queue", "add a named queue; `name=config` with config in JSON, for example jobs={\"concurrency\":5,\"max_retries\":3}; may be repeated", func(arg string) error {
		name, config, ok := strings.Cut(arg, "=")
		if !ok {
			return errors.New(`want name=config, such as jobs={"concurrency":5}`)
		}
		var q iiitest.QueueConfig
		if err := decodeStrictly(config, &q); err != nil {
			return fmt.Errorf("config of queue %q: %w", name, err)
		}
		more = append(more, iiitest.WithQueue(name, q))
		return nil
	})
	frames := flags.String("frames", "", "write the messages between workers and the engine to `file`")
	verbose := flags.Bool("v", false, "log the activity of workers and dropped messages")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		flags.SetOutput(stderr)
		fmt.Fprint(stderr, "iiidev runs the development engine of package iiitest.\n\nUsage: iiidev [flags]\n\n")
		flags.PrintDefaults()
		return err
	} else if err != nil {
		return fmt.Errorf("%w (iiidev -h lists the flags)", err)
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	level := slog.LevelWarn
	if *verbose {
		level = slog.LevelDebug
	}
	opts := []iiitest.Option{
		iiitest.WithAddrs(*listen, *http, *stream),
		iiitest.WithFrameLimit(keptItems, int(keep.messages)),
		iiitest.WithTelemetryLimit(keptItems, int(keep.telemetry)),
		iiitest.WithConsoleLimit(int(keep.invocations)),
		iiitest.WithHTTPTimeout(*httpTimeout),
		iiitest.WithQueueProvider(*provider),
		iiitest.WithLogger(slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))),
	}
	if *exposed && *console != "" {
		opts = append(opts, iiitest.WithExposedConsole(*console))
	} else {
		opts = append(opts, iiitest.WithConsole(*console))
	}
	opts = append(opts, iiitest.WithProtocol(protocol))
	if *strict {
		opts = append(opts, iiitest.WithStrictProtocol())
	}
	opts = append(opts, more...)
	if *streamAuth != "" {
		opts = append(opts, iiitest.WithStreamAuth(*streamAuth))
	}
	if ms := env("III_NAMESPACE_GRACE_MS"); ms != "" {
		n, err := strconv.ParseUint(ms, 10, 31)
		if err != nil {
			return fmt.Errorf("III_NAMESPACE_GRACE_MS: %w", err)
		}
		opts = append(opts, iiitest.WithNamespaceGrace(time.Duration(n)*time.Millisecond))
	}
	e, err := iiitest.New(opts...)
	var taken *net.OpError
	switch {
	case errors.As(err, &taken) && taken.Op == "listen":
		return fmt.Errorf("%w\nIs another engine running there? Set other addresses with -listen, -http, -stream and -console; port 0 selects a free port", err)
	case err != nil:
		return err
	}
	if *frames != "" {
		file, err := newFrameFile(*frames, func(err error) { fmt.Fprintln(stderr, "iiidev:", err) })
		if err != nil {
			return errors.Join(err, e.Close())
		}
		defer file.Close()
		defer func() { file.addTelemetry(e.Telemetry()) }()
		e.Hook(file.add)
	}
	fmt.Fprintf(stdout, "workers %s\nhttp    %s\nstreams %s\n", e.URL(), e.HTTPURL(), e.StreamURL())
	if e.GuardedURL() != "" {
		fmt.Fprintf(stdout, "guarded %s\n", e.GuardedURL())
	}
	if e.ConsoleURL() != "" {
		fmt.Fprintf(stdout, "console %s\n", e.ConsoleURL())
	}
	<-ctx.Done()
	return e.Close()
}
