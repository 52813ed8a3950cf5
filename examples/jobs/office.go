package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/iii-go/iii"
)

// office publishes jobs and tracks their outcomes.
type office struct {
	client     *iii.Client
	url, topic string
	gold       atomic.Bool
	reports    chan string // from the printers, in order
	out        io.Writer
}

func (o *office) say(format string, args ...any) { fmt.Fprintf(o.out, format+"\n", args...) }

// report records an event on behalf of a printer.
func (o *office) report(format string, args ...any) { o.reports <- fmt.Sprintf(format, args...) }

func (o *office) run(ctx context.Context) (err error) {
	left := o.printer("left", 6)
	client, err := left.start(ctx, o.url, o.topic)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shutdown(ctx, client)) }()

	o.say("# A job is done, and the engine forgets it.")
	if err := o.publish(ctx, job{Title: "letter", Pages: 1}, "letter is done"); err != nil {
		return err
	}

	o.say("# What fails is tried again.")
	left.jam.Store(true)
	if err := o.publish(ctx, job{Title: "poem", Pages: 2}, "poem is done"); err != nil {
		return err
	}

	o.say("# What fails three times is a dead letter, and can be given another chance.")
	if err := o.publish(ctx, job{Title: "diploma", Pages: 1, Paper: "gold"}, ""); err != nil {
		return err
	}
	if _, err := o.deadLetter(ctx); err != nil {
		return err
	}
	o.gold.Store(true)
	n, err := o.client.Redrive(ctx, o.topic)
	if err != nil {
		return err
	}
	o.say("office: there is gold paper now; %d redriven", n)
	if err := o.await(ctx, "diploma is done"); err != nil {
		return err
	}

	o.say("# What nobody can do is looked at and dropped.")
	if err := o.publish(ctx, map[string]any{"title": "riddle", "pages": "many"}, ""); err != nil {
		return err
	}
	letter, err := o.deadLetter(ctx)
	if err != nil {
		return err
	}
	if ok, err := o.client.DiscardMessage(ctx, o.topic, letter.ID); err != nil || !ok {
		return fmt.Errorf("the dead letter cannot be dropped: %v, %v", ok, err)
	}
	o.say("office: dropped")

	o.say("# A worker that ends in the middle of a job leaves the rest to the next one.")
	if err := o.publish(ctx, job{Title: "novel", Pages: 5}, "novel, page 2"); err != nil {
		return err
	}
	// The printer is out of ink. Shutdown accepts no new jobs and waits for the running ones.
	if err := shutdown(ctx, client); err != nil {
		return err
	}
	o.printReports()
	o.say("office: left has ended")
	next, err := o.printer("right", 3).start(ctx, o.url, o.topic)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shutdown(ctx, next)) }()
	return o.await(ctx, "novel is done")
}

// printer returns a printer with ink for the given number of pages.
func (o *office) printer(name string, pages int) *printer {
	p := &printer{name: name, gold: &o.gold, ink: make(chan struct{}, pages), report: o.report}
	for range pages {
		p.ink <- struct{}{}
	}
	return p
}

// publish publishes a job. If report is not "", publish then waits for a report that contains
// this string.
func (o *office) publish(ctx context.Context, job any, report string) error {
	if err := o.client.PublishDurable(ctx, o.topic, job); err != nil {
		return err
	}
	if report == "" {
		return nil
	}
	return o.await(ctx, report)
}

// await prints the printers' reports up to and including the first one that contains the given
// string.
func (o *office) await(ctx context.Context, report string) error {
	for {
		select {
		case r := <-o.reports:
			o.say("%s", r)
			if strings.Contains(r, report) {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("no printer reports that %s: %w", report, context.Cause(ctx))
		}
	}
}

// printReports prints the reports received so far.
func (o *office) printReports() {
	for len(o.reports) > 0 {
		o.say("%s", <-o.reports)
	}
}

// deadLetter polls for a dead letter, because the engine sends no event when a job becomes
// one.
func (o *office) deadLetter(ctx context.Context) (iii.DeadLetter, error) {
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		letters, err := o.client.DeadLetters(ctx, o.topic)
		if err != nil {
			return iii.DeadLetter{}, err
		}
		if len(letters) > 0 {
			o.printReports()
			dead := letters[0]
			o.say("office: dead after %d attempts: %s", dead.Retries, dead.Payload)
			o.say("        %s", dead.Error)
			return dead, nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return iii.DeadLetter{}, fmt.Errorf("there is no dead letter: %w", context.Cause(ctx))
		}
	}
}
