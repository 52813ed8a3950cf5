// Jobs shows durable work: a print shop takes jobs from a topic, which the engine keeps
// until they are done. What fails is tried again; what has failed for good is a dead letter,
// to be looked at and then given another chance or dropped. A worker that ends in the middle
// of a job leaves the rest of it to the next one.
//
// The program plays all of that through, with two workers one after the other, and exits
// with status 0 if it went as it should. Without $III_URL it brings a development engine
// along; with it, it uses that engine, which needs its queue worker.
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
	// Each run has names of its own, so that many can share an engine.
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

// shutdown ends a worker in order, even when the program is being interrupted: running
// handlers finish, and their results leave.
func shutdown(ctx context.Context, c *iii.Client) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return c.Shutdown(ctx)
}
