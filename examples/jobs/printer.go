package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/iii-go/iii"
)

type job struct {
	Title string `json:"title"`
	Pages int    `json:"pages"`
	Paper string `json:"paper,omitempty"`
}

// printer is a worker that prints jobs.
type printer struct {
	name   string
	pages  *iii.State[int] // number of printed pages by title
	gold   *atomic.Bool    // whether gold paper is available
	ink    chan struct{}   // one element per page
	jam    atomic.Bool     // whether the next page gets stuck
	report func(format string, args ...any)
}

// start connects the printer and subscribes it to a topic's jobs.
func (p *printer) start(ctx context.Context, url, topic string) (*iii.Client, error) {
	client, err := iii.New(url, iii.WithName(topic+"-"+p.name))
	if err != nil {
		return nil, err
	}
	p.pages = iii.NewState[int](client, topic)
	// All printers serve the same function, so they share the topic's jobs; a function with a
	// different id would receive a copy of each job. On engine 0.26, the trigger id identifies
	// the subscriber, so all printers use the same trigger id.
	f, err := iii.Handle(client, topic+"::print", p.print)
	if err != nil {
		return nil, err
	}
	_, err = client.Trigger(f.ID(), iii.QueueTriggerConfig{Topic: topic, QueueConfig: &iii.QueueConfig{
		MaxRetries:     new(uint64(2)),   // three attempts in total
		BackoffDelayMs: new(uint64(100)), // 100 ms before the second attempt, 200 ms before the third
		Concurrency:    new(uint64(4)),
	}}, iii.WithTriggerID(topic))
	if err != nil {
		return nil, err
	}
	if err := client.Connect(ctx); err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return client, nil
}

// print prints a job. Delivery is at-least-once: the engine redelivers a job after an error,
// or if the acknowledgment of a finished job is lost. print is idempotent: it records each
// printed page and resumes after the last one.
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
		case <-p.ink: // blocks while there is no ink
		case <-iii.Stopping(ctx):
			// Shutdown would wait for a long job to finish. Returning an error lets the next
			// worker continue the job.
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

// failed reports a failed attempt. The dead letter contains the returned error.
func (p *printer) failed(j job, format string, args ...any) error {
	err := &iii.Error{Code: "print_failed", Message: fmt.Sprintf(format, args...)}
	p.report("%s: %s: %s", p.name, j.Title, err.Message)
	return err
}
