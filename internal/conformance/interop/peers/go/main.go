// Command peer is the control group: the same program as the other SDKs' peers, but written
// with package iii. The environment variable INTEROP_PEER configures it, and calls to peer::do
// control it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/iii-go/iii"
)

// config is the content of INTEROP_PEER.
type config struct {
	URL       string            `json:"url"`
	Name      string            `json:"name"`
	Namespace string            `json:"namespace"`
	Headers   map[string]string `json:"headers"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var c config
	if err := json.Unmarshal([]byte(os.Getenv("INTEROP_PEER")), &c); err != nil {
		log.Fatalf("INTEROP_PEER: %v", err)
	}
	if err := run(ctx, c); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, c config) error {
	ctx, shutdown := context.WithCancel(ctx)
	defer shutdown()
	header := http.Header{}
	for key, value := range c.Headers {
		header.Set(key, value)
	}
	interval := uint64(200)
	telemetry, err := iii.StartTelemetry(ctx, iii.OtelConfig{EngineWSURL: &c.URL, ServiceName: &c.Name, MetricsExportIntervalMs: &interval},
		iii.WithTelemetryConnection(iii.WithConnectionHeader(header)))
	if err != nil {
		return err
	}
	options := []iii.Option{
		iii.WithName(c.Name), iii.WithDescription("a peer"), iii.WithHeader(header), iii.WithTelemetry(telemetry),
		iii.WithLogger(slog.Default()),
	}
	if c.Namespace != "" {
		options = append(options, iii.WithNamespace(c.Namespace))
	}
	client, err := iii.New(c.URL, options...)
	if err != nil {
		return err
	}
	p := &peer{
		client: client, telemetry: telemetry, shutdown: shutdown,
		functions: map[string]*iii.Function{}, triggers: map[string]*iii.Trigger{}, bindings: map[string]iii.TriggerBinding{},
		observers: map[string]*iii.Observer{},
	}
	if err := p.register(); err != nil {
		return err
	}
	err = client.Run(ctx)
	return errors.Join(err, telemetry.Shutdown(context.WithoutCancel(ctx)))
}
