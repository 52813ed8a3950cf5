// Quickstart shows two workers: a shop, which serves a function, an HTTP route and a
// state trigger, and a customer, who uses them. Without $III_URL it brings a development
// engine along; with it, it uses that engine, whose HTTP triggers are at $III_HTTP_URL,
// http://127.0.0.1:3111 by default. It exits with status 0 if all went as it should.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// patience bounds the whole run, which takes a fraction of a second.
const patience = 5 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// run does everything once and tells out what happened. Whatever is not as it should
// be is its error.
func run(ctx context.Context, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)

	url, httpURL := os.Getenv("III_URL"), cmp.Or(os.Getenv("III_HTTP_URL"), "http://127.0.0.1:3111")
	if url == "" {
		engine, err := iiitest.New()
		if err != nil {
			return err
		}
		defer engine.Close()
		url, httpURL = engine.URL(), engine.HTTPURL()
	}

	// Each run has names of its own, so that many can share an engine.
	name := "quickstart-" + strings.ToLower(rand.Text()[:6])

	shop, err := openShop(url, name, fail)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shutdown(ctx, shop.client)) }()
	if err := shop.client.Connect(ctx); err != nil {
		return err
	}
	customer, err := iii.New(url, iii.WithName(name+"-customer"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shutdown(ctx, customer)) }()
	if err := customer.Connect(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "%-8s %s, HTTP at %s\n", "engine", url, httpURL)
	return visit{name, httpURL, shop, customer, out}.run(ctx)
}

// shutdown ends a worker in order, even when the program is being interrupted.
func shutdown(ctx context.Context, c *iii.Client) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	return c.Shutdown(ctx)
}
