package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/iii-go/iii"
)

// job is what is published.
type job struct {
	Title string `json:"title"`
	Pages int    `json:"pages"`
	Paper string `json:"paper,omitempty"`
}

// printer is the worker that does the jobs.
type printer struct {
	name   string
	pages  *iii.State[int] // printed so far, by title
	gold   *atomic.Bool    // whether there is gold paper
	ink    chan struct{}   // for one page each
	jam    atomic.Bool     // whether the next page gets stuck
	report func(format string, args ...any)
}

// start connects the printer to the engine. It takes the jobs of a topic.
func (p *printer) start(ctx context.Context, url, topic string) (*iii.Client, error) {
	client, err := iii.New(url, iii.WithName(topic+"-"+p.name))
	if err != nil {
		return nil, err
	}
	p.pages = iii.NewState[int](client, topic)
	// All printers serve the same function: they share the jobs of the topic. A function
	// of another id would get a copy of each.
	f, err := iii.Handle(client, topic+"::print", p.print)
	if err != nil {
		return nil, err
	}
	_, err = client.Trigger(f.ID(), iii.QueueTriggerConfig{Topic: topic, QueueConfig: &iii.QueueConfig{
		MaxRetries:     new(uint64(2)),   // three attempts in all,
		BackoffDelayMs: new(uint64(100)), // the second after 100 ms, the third after 200 ms more
		Concurrency:    new(uint64(4)),
	}})
	if err != nil {
		return nil, err
	}
	if err := client.Connect(ctx); err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return client, nil
}

// print does a job, for which it may be called more than once: after an error, and when
// the engine did not learn that the job is done. So it notes what it has done, page by
// page, and goes on from there.
func (p *printer) print(ctx context.Context, j job) (any, error) {
	if j.Paper == "gold" && !p.gold.Load() {
		return nil, p.failed(j, "there is no gold paper")
	}
	printed, _, err := p.pages.Get(ctx, j.Title)
	if err != nil {
		return nil, err
	}
	for printed < j.Pages {
		if p.jam.CompareAndSwap(true, false) {
			return nil, p.failed(j, "page %d is stuck", printed+1)
		}
		select {
		case <-p.ink: // without, it waits for somebody to bring some
		case <-iii.Stopping(ctx):
			// This worker is about to end. It could finish, for a Shutdown waits for it;
			// what takes long is better left to the next one, by an error.
			return nil, p.failed(j, "stopped after page %d of %d", printed, j.Pages)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		printed++
		if _, err := p.pages.Set(ctx, j.Title, printed); err != nil {
			return nil, err
		}
		p.report("%s: %s, page %d of %d", p.name, j.Title, printed, j.Pages)
	}
	p.report("%s: %s is done", p.name, j.Title)
	return nil, nil
}

// failed reports an attempt that has failed. The error is what the dead letter will say.
func (p *printer) failed(j job, format string, args ...any) error {
	err := &iii.Error{Code: "print_failed", Message: fmt.Sprintf(format, args...)}
	p.report("%s: %s: %s", p.name, j.Title, err.Message)
	return err
}
