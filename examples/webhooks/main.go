// Webhooks provides a custom trigger type. Functions bound to it run when a webhook in
// GitHub's format arrives. The worker that provides the type listens for webhooks; workers in
// any language can bind functions to the type.
//
// Without arguments, the program sends webhooks to itself, prints the results, and exits with
// status 0 if they are as expected. With -serve, it listens on the -listen address until it is
// interrupted, and prints how to send a webhook. Webhooks are signed with $WEBHOOK_SECRET; if
// that is unset, the program generates a secret.
//
// If $III_URL is set, the program uses the engine at that address. Otherwise it starts a
// development engine.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address for webhooks")
	serve := flag.Bool("serve", false, "serve until interrupted")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal terminates the program immediately
	err := run(ctx, os.Stdout, *listen, *serve)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "webhooks:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, listen string, serve bool) (err error) {
	engineURL := os.Getenv("III_URL")
	if engineURL == "" {
		engine, err := iiitest.New()
		if err != nil {
			return err
		}
		defer engine.Close()
		engineURL = engine.URL()
	}
	// Each run uses unique names, so several runs can share an engine.
	name := "webhooks-" + strings.ToLower(rand.Text()[:6])
	secret := cmp.Or(os.Getenv("WEBHOOK_SECRET"), rand.Text())
	reports := make(chan string, 100)
	report := func(format string, args ...any) {
		select {
		case reports <- fmt.Sprintf(format, args...):
		case <-ctx.Done(): // reports are no longer read
		}
	}

	// The provider offers webhooks as a trigger type and listens for them.
	provider, err := iii.New(engineURL, iii.WithName(name+"-provider"))
	if err != nil {
		return err
	}
	hooks := newWebhooks(secret, report)
	if err := provider.HandleTriggerType(hooks.triggerType(name), hooks); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: hooks, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		// Stop the server first, because its handler uses the provider.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = errors.Join(err, server.Shutdown(ctx), provider.Shutdown(ctx))
		if end := <-served; !errors.Is(end, http.ErrServerClosed) {
			err = errors.Join(err, end)
		}
	}()
	if err := provider.Connect(ctx); err != nil {
		return err
	}

	// The consumer does not use HTTP. Its functions run when an event arrives.
	consumer, err := newConsumer(engineURL, name, report)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = errors.Join(err, consumer.client.Shutdown(ctx))
	}()
	if err := consumer.client.Connect(ctx); err != nil {
		return err
	}
	v := visit{url: "http://" + listener.Addr().String(), secret: secret, consumer: consumer, reports: reports, out: out}
	if serve {
		return v.serve(ctx)
	}
	return v.run(ctx)
}
