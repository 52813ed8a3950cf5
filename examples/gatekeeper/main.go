// Gatekeeper guards a port of the engine at which tenants connect their own workers: it
// decides who comes in, what he may call, and what becomes of what he registers.
//
// The gatekeeper itself, and what everybody may use, connect at the open port. Two tenants
// then try what they may and may not do, and the program exits with status 0 if all went as
// it should.
//
// Without $III_URL it brings a development engine along. With it, it uses that engine, whose
// guarded port is at $III_GUARDED_URL, ws://127.0.0.1:49135 by default, and whose HTTP
// triggers are at $III_HTTP_URL, http://127.0.0.1:3111 by default. The engine's configuration
// names the gatekeeper's functions, so that an engine can have one gatekeeper at a time:
//
//	port: 49135
//	rbac:
//	  auth_function_id: gatekeeper::auth
//	  on_function_registration_function_id: gatekeeper::on-function
//	  on_trigger_registration_function_id: gatekeeper::on-trigger
//	  expose_functions:
//	    - match("shared::*")
//
// The development engine has the same as a flag:
//
//	iiidev -guard '{"port":49135,"rbac":{"auth_function_id":"gatekeeper::auth",
//	  "on_function_registration_function_id":"gatekeeper::on-function",
//	  "on_trigger_registration_function_id":"gatekeeper::on-trigger",
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

// guard is the same for the development engine.
var guard = iiitest.Guard{
	AuthFunctionID: "gatekeeper::auth",
	OnFunction:     "gatekeeper::on-function",
	OnTrigger:      "gatekeeper::on-trigger",
	Expose:         []string{"shared::*"},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
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

// shutdown ends a worker in order, even when the program is being interrupted.
func shutdown(ctx context.Context, c *iii.Client) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return c.Shutdown(ctx)
}
