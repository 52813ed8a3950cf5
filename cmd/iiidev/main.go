// Command iiidev runs the development engine of package iiitest as a program. It is
// an engine for writing and testing workers, and keeps everything in memory.
//
//	iiidev [flags]
//
// The flags -listen, -http and -stream set the addresses of the worker protocol, of
// the HTTP triggers and of the stream socket; they default to the engine's ports on
// the loopback interface. -console sets the address of the console, a page that shows
// the activity of the engine; it defaults to http://127.0.0.1:3113/, and "" disables
// it. The address must be on the loopback interface, unless -console-exposed is set:
// then anyone who can reach the address sees the payloads, traces and logs of all
// workers, without a password. Each -queue adds a named queue. Its config is JSON with
// the keys of the engine's queue_configs, for example
//
//	-queue 'payments={"type":"fifo","message_group_field":"account"}'
//
// -guard opens a second, guarded listener for workers. Its config is JSON with the
// keys of the engine's worker manager, for example
//
//	-guard '{"port":49135,"rbac":{"auth_function_id":"gate::auth","expose_functions":["match(\"public::*\")"]}}'
//
// Its host defaults to 127.0.0.1 and its port to 49135; without rbac everything is
// permitted. -stream-auth names the function that authenticates connections to the
// stream socket. Each -http-middleware names a function that the engine calls for each
// request to the HTTP triggers, in the order of the flags. -http-timeout limits the
// duration of these requests. -queue-provider=false omits engine::queue::enqueue, for
// use with a worker that provides it. -bridge names another engine; bridge.invoke and
// bridge.invoke_async call its functions.
//
// -protocol selects the generation of the worker protocol that the engine speaks: 0.23,
// 0.25 or 0.26. The default is 0.26, to which workers of all three generations can
// connect. The environment variable III_PROTOCOL changes the default. With
// -strict-protocol the engine accepts no triggers when it speaks 0.26.
//
// The program keeps the most recent messages between workers and the engine
// (-keep-messages), telemetry (-keep-telemetry), and payloads of invocations for the
// console (-keep-invocations). The flags limit the memory for each of these; the default
// is 8MiB.
//
// -frames names a file for the messages between workers and the engine. Each line is a
// JSON object with the time, the id and the name of the worker, the direction from the
// worker's point of view (send or recv), the length in bytes and, up to 64 KiB, the
// message: as frame if it is JSON, as text if it is not, as prefix and otlp if it is
// telemetry. Telemetry from separate connections follows at the end. The program masks
// cookies, keys of channels, and the values of keys that name a secret, such as
// password or reattach_token, also in attributes of telemetry and in texts that contain
// JSON; everything else is written as it was sent. Only the user can read the file.
//
// The environment variable III_NAMESPACE_GRACE_MS has the same meaning as for the
// engine: the time in milliseconds that a worker has to declare its namespace.
// References such as ${NAME:default} in configuration values, and the secrets of
// functions invoked over HTTP, resolve to environment variables. With -v the program
// also logs the activity of workers and dropped messages. SIGINT or SIGTERM ends it.
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

// keptItems is the maximum number of messages, spans and so on that are kept, regardless
// of their size.
const keptItems = 20_000

// size is a flag value: a number of bytes, with an optional unit.
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

// run serves until ctx ends. env returns environment variables.
func run(ctx context.Context, args []string, env func(string) string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("iiidev", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the full usage would bury the error
	listen := flags.String("listen", "127.0.0.1:49134", "address for workers")
	http := flags.String("http", "127.0.0.1:3111", "address of the HTTP triggers")
	stream := flags.String("stream", "127.0.0.1:3112", "address of the stream socket")
	console := flags.String("console", "127.0.0.1:3113", "address of the console, on the loopback interface; \"\" disables it")
	exposed := flags.Bool("console-exposed", false, "allow any address for -console; anyone who can reach it sees the payloads, traces and logs of all workers, without a password")
	keep := struct{ messages, telemetry, invocations size }{8 << 20, 8 << 20, 8 << 20}
	flags.Var(&keep.messages, "keep-messages", "maximum `size` of the worker messages that are kept in memory")
	flags.Var(&keep.telemetry, "keep-telemetry", "maximum `size` of the telemetry that is kept, separately for frames, finished spans, announced spans, log records and metrics")
	flags.Var(&keep.invocations, "keep-invocations", "maximum `size` of the payloads that the console keeps, separately for worker functions and the engine's own functions")
	httpTimeout := flags.Duration("http-timeout", 30*time.Second, "time limit of a request to the HTTP triggers")
	streamAuth := flags.String("stream-auth", "", "`function` that authenticates connections to the stream socket")
	protocol := iiitest.Protocol026
	if p := env("III_PROTOCOL"); p != "" {
		if err := protocol.UnmarshalText([]byte(p)); err != nil {
			return fmt.Errorf("III_PROTOCOL: %w", err)
		}
	}
	flags.TextVar(&protocol, "protocol", protocol, "`generation` of the worker protocol: 0.23, 0.25 or 0.26; the default is III_PROTOCOL, or 0.26")
	strict := flags.Bool("strict-protocol", false, "with -protocol 0.26, accept no triggers")
	provider := flags.Bool("queue-provider", true, "provide engine::queue::enqueue")
	var more []iiitest.Option
	flags.Func("http-middleware", "`function` that the engine calls for each request to the HTTP triggers; may be repeated", func(id string) error {
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
	frames := flags.String("frames", "", "write the messages between workers and the engine to a `file`")
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
		return fmt.Errorf("%w\nIs an engine already running there? -listen, -http, -stream and -console choose other addresses; port 0 selects a free port", err)
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
