// Jobs demonstrates durable jobs. A print shop receives jobs from a durable topic, and the
// engine keeps each job until it is done. The engine retries failed jobs with backoff. A job
// whose last attempt fails moves to the dead-letter queue, where the shop's office inspects
// it, and redrives or discards it. If a worker shuts down during a job, the next worker
// continues the job.
//
// The program runs through these cases with two workers, one after the other, and exits with
// status 0 if the results are as expected. If $III_URL is set, the program uses the engine at
// that address; the engine needs a queue worker. Otherwise it starts a development engine.
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
	context.AfterFunc(ctx, stop) // a second signal terminates the program immediately
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

// shutdown shuts down a worker gracefully, even after an interrupt has canceled ctx: running
// handlers finish, and their results are delivered.
func shutdown(ctx context.Context, c *iii.Client) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return c.Shutdown(ctx)
}
