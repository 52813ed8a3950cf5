// Gatekeeper guards an engine port to which tenants connect their own workers. Its hooks
// authenticate the tenants, authorize their calls, and change or reject their registrations.
//
// The gatekeeper, which also serves the shared functions, connects to the open port. Two
// tenants then make permitted and forbidden calls. The program exits with status 0 if the
// results are as expected.
//
// If $III_URL is set, the program uses the engine at that address, with the guarded port at
// $III_GUARDED_URL (default ws://127.0.0.1:49135) and HTTP triggers at $III_HTTP_URL (default
// http://127.0.0.1:3111). Otherwise it starts a development engine. An engine can have only
// one gatekeeper at a time, because the engine's configuration contains the ids of the
// gatekeeper's functions. This is the configuration:
//
//	port: 49135
//	rbac:
//	  auth_function_id: gatekeeper::auth
//	  on_function_registration_function_id: gatekeeper::on-function
//	  on_trigger_registration_function_id: gatekeeper::on-trigger
//	  on_observer_registration_function_id: gatekeeper::on-observer
//	  expose_functions:
//	    - match("shared::*")
//
// The development engine takes the same configuration as a flag:
//
//	iiidev -guard '{"port":49135,"rbac":{"auth_function_id":"gatekeeper::auth",
//	  "on_function_registration_function_id":"gatekeeper::on-function",
//	  "on_trigger_registration_function_id":"gatekeeper::on-trigger",
//	  "on_observer_registration_function_id":"gatekeeper::on-observer",
//	  "expose_functions":["match(\"shared::*\")"]}}'
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// guard is the configuration above for the development engine.
var guard = iiitest.Guard{
	AuthFunctionID: "gatekeeper::auth",
	OnFunction:     "gatekeeper::on-function",
	OnTrigger:      "gatekeeper::on-trigger",
	OnObserver:     "gatekeeper::on-observer", // used instead of OnTrigger on engine 0.26
	Expose:         []string{"shared::*"},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal terminates the program immediately
	err := run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "gatekeeper:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	url := os.Getenv("III_URL")
	guardedURL := cmp.Or(os.Getenv("III_GUARDED_URL"), "ws://127.0.0.1:49135")
	httpURL := cmp.Or(os.Getenv("III_HTTP_URL"), "http://127.0.0.1:3111")
	if url == "" {
		engine, err := iiitest.New(iiitest.WithGuard(guard))
		if err != nil {
			return err
		}
		defer engine.Close()
		url, guardedURL, httpURL = engine.URL(), engine.GuardedURL(), engine.HTTPURL()
	}
	keeper, err := newGatekeeper(url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shutdown(ctx, keeper)) }()
	if err := keeper.Connect(ctx); err != nil {
		return err
	}
	return visit{keeper: keeper, guardedURL: guardedURL, httpURL: httpURL, out: out}.run(ctx)
}

// shutdown shuts down a worker gracefully, even after an interrupt has canceled ctx.
func shutdown(ctx context.Context, c *iii.Client) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return c.Shutdown(ctx)
}
