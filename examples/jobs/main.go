// Jobs shows durable jobs: a print shop takes jobs from a durable topic, and the engine
// keeps each job until it is done. A failed job is retried with backoff. A job whose
// attempts are used up moves to the dead-letter queue, where the office inspects it and
// then redrives or discards it. A worker that shuts down in the middle of a job leaves the
// rest of the job to the next worker.
//
// The program runs through these cases with two workers, one after the other, and exits
// with status 0 if the outcome is as expected. If $III_URL is set, the program uses the
// engine at that address, which needs a queue worker. Otherwise the program starts a
// development engine.
package main

import (
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

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	err := run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "jobs:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	url := os.Getenv("III_URL")
	if url == "" {
		engine, err := iiitest.New()
		if err != nil {
			return err
		}
		defer engine.Close()
		url = engine.URL()
	}
	// Each run uses unique names, so several runs can share an engine.
	name := "jobs-" + strings.ToLower(rand.Text()[:6])

	client, err := iii.New(url, iii.WithName(name+"-office"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shutdown(ctx, client)) }()
	if err := client.Connect(ctx); err != nil {
		return err
	}
	o := office{client: client, url: url, topic: name, reports: make(chan string, 100), out: out}
	return o.run(ctx)
}

// shutdown shuts a worker down gracefully, even if ctx has ended because of an interrupt:
// running handlers finish and their results are delivered.
func shutdown(ctx context.Context, c *iii.Client) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return c.Shutdown(ctx)
}
