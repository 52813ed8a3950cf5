// Command iiidev runs the development engine of package iiitest as a program:
// an engine to write and try workers against, with everything in memory.
//
//	iiidev [flags]
//
// The addresses are those of the worker protocol (-listen), of the HTTP triggers
// (-http) and of the stream socket (-stream); the defaults are the engine's ports
// on the loopback interface. A page at http://127.0.0.1:3113/ (-console, "" for
// none) shows what happens. Each -queue adds a named queue, whose config is JSON
// with the keys of the engine's queue_configs, such as
//
//	-queue 'payments={"type":"fifo","message_group_field":"account"}'
//
// -guard opens a second, guarded listener for workers. Its config is JSON with
// the keys that the engine's worker manager has, such as
//
//	-guard '{"port":49135,"rbac":{"auth_function_id":"gate::auth","expose_functions":["match(\"public::*\")"]}}'
//
// The host is 127.0.0.1 and the port 49135 by default; without rbac everything
// is permitted. -stream-auth names the function that is asked about each
// connection to the stream socket, and each -http-middleware one that is asked
// about each request to the HTTP triggers, in the order of the flags. -http-timeout
// bounds these requests. -queue-provider=false leaves out engine::queue::enqueue,
// for a worker that provides it. -bridge names another engine, whose functions
// bridge.invoke and bridge.invoke_async call.
//
// -frames names a file for what workers and the engine send each other: a JSON
// object a line with the time, the id and the name of the worker, the direction as
// the worker sees it (send or recv), the length and, up to 64 KiB, the message:
// frame for JSON, text for what is none, prefix and otlp for telemetry. Telemetry
// that came over connections of its own follows at the end. The values of keys that
// name a secret, such as password or reattach_token, cookies and the keys of channels are
// masked, in attributes of telemetry and in texts that are JSON too; all else is there as
// it was sent. Nobody but the user may read the file.
//
// The environment variable III_NAMESPACE_GRACE_MS means what it means to the
// engine: how many milliseconds a worker has to declare its namespace. References
// such as ${NAME:default} in configuration values and the secrets of functions
// invoked over HTTP are looked up in the environment, too. With -v the program
// also logs what workers do and what it drops. It ends with SIGINT or SIGTERM.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
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

// run serves until ctx ends.
func run(ctx context.Context, args []string, env func(string) string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("iiidev", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // of an error the whole usage would be the larger part
	listen := flags.String("listen", "127.0.0.1:49134", "address for workers")
	http := flags.String("http", "127.0.0.1:3111", "address of the HTTP triggers")
	stream := flags.String("stream", "127.0.0.1:3112", "address of the stream socket")
	console := flags.String("console", "127.0.0.1:3113", "address of the page that shows what happens, on the loopback interface; \"\" for none")
	httpTimeout := flags.Duration("http-timeout", 30*time.Second, "bound of a request to the HTTP triggers")
	streamAuth := flags.String("stream-auth", "", "`function` that authenticates connections to the stream socket")
	provider := flags.Bool("queue-provider", true, "have engine::queue::enqueue")
	var more []iiitest.Option
	flags.Func("http-middleware", "`function` that is asked about each request to the HTTP triggers; may be repeated", func(id string) error {
		more = append(more, iiitest.WithHTTPMiddleware(id))
		return nil
	})
	flags.Func("bridge", "`address` of another engine whose functions bridge.invoke calls", func(url string) error {
		more = append(more, iiitest.WithBridge(url))
		return nil
	})
	flags.Func("guard", "open a guarded listener for workers; `config` is JSON, such as {\"port\":49135,\"rbac\":{\"auth_function_id\":\"gate::auth\"}}", func(config string) error {
		guard, err := guardOption(config)
		more = append(more, guard)
		return err
	})
	flags.Func("queue", "add a named queue; `name=config`, with config in JSON, such as jobs={\"concurrency\":5,\"max_retries\":3}; may be repeated", func(arg string) error {
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
	frames := flags.String("frames", "", "write what workers and the engine send to a `file`")
	verbose := flags.Bool("v", false, "log what workers do and what is dropped")
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
		iiitest.WithConsole(*console),
		iiitest.WithHTTPTimeout(*httpTimeout),
		iiitest.WithQueueProvider(*provider),
		iiitest.WithLogger(slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))),
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
		return fmt.Errorf("%w\nDoes an engine run there already? -listen, -http, -stream and -console choose other addresses; port 0 is any free one", err)
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
