package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/iii-go/iii"
)

// hmacSecret is the value of INTEROP_SECRET in the engine and the harness.
const hmacSecret = "not-a-secret"

// goWorker is the harness's worker name and service name.
const goWorker = "interop-go"

// bench combines an engine, the harness's worker and a peer.
type bench struct {
	sdk       sdk
	iiidev    string
	protocol  string // engine version
	argv      []string
	dir       string
	engine    *engine
	proxy     *proxy // between the peer and the engine
	telemetry *iii.Telemetry
	client    *iii.Client
	echo      *iii.Function // go::echo
	peer      *peer
	log       *os.File // log of the harness's worker

	mu   sync.Mutex
	seen map[string]chan event // by function id
}

// event is a call to one of the peer's or the harness's functions.
type event struct {
	FunctionID string          `json:"function_id"`
	Payload    json.RawMessage `json:"payload"`
	Metadata   json.RawMessage `json:"metadata"`
}

// newBench starts an engine, the harness's worker and a peer. They write their logs to dir.
// Close stops them.
func newBench(ctx context.Context, s sdk, iiidev, protocol string, argv []string, dir string) (_ *bench, err error) {
	b := &bench{sdk: s, iiidev: iiidev, protocol: protocol, argv: argv, dir: dir, seen: map[string]chan event{}}
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	if b.engine, err = startEngine(ctx, iiidev, protocol, anyPort, dir); err != nil {
		return nil, err
	}
	u, err := url.Parse(b.engine.workers)
	if err != nil {
		return nil, err
	}
	if b.proxy, err = newProxy(u.Host); err != nil {
		return nil, err
	}
	if b.log, err = os.Create(filepath.Join(dir, goWorker+".log")); err != nil {
		return nil, err
	}
	interval := uint64(200)
	name := goWorker
	b.telemetry, err = iii.StartTelemetry(ctx, iii.OtelConfig{EngineWSURL: &b.engine.workers, ServiceName: &name, MetricsExportIntervalMs: &interval})
	if err != nil {
		return nil, err
	}
	b.client, err = iii.New(b.engine.workers, iii.WithName(goWorker), iii.WithTelemetry(b.telemetry), iii.WithCallTimeout(scenarioTimeout),
		iii.WithLogger(slog.New(slog.NewTextHandler(b.log, nil))))
	if err != nil {
		return nil, err
	}
	if err := b.register(); err != nil {
		return nil, err
	}
	if err := b.client.Connect(ctx); err != nil {
		return nil, err
	}
	config := peerConfig{URL: "ws://" + b.proxy.addr(), Name: b.peerName()}
	if b.peer, err = startPeer(ctx, argv, dir, config); err != nil {
		return nil, err
	}
	return b, b.ready(ctx, b.peer, "peer::echo")
}

// replace stops the engine and starts another version at the same address. Both workers
// reconnect on their own.
func (b *bench) replace(ctx context.Context, protocol string) error {
	u, err := url.Parse(b.engine.workers)
	if err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "then-"+protocol)
	if err := errors.Join(b.engine.stop(), os.Mkdir(dir, 0o755)); err != nil {
		return err
	}
	e, err := startEngine(context.WithoutCancel(ctx), b.iiidev, protocol, u.Host, dir) // the engine outlives the trial; Close stops it
	if err != nil {
		return err
	}
	b.engine, b.protocol = e, protocol
	return b.ready(ctx, b.peer, "peer::echo")
}

// peerName returns the peer's worker name, which is also its service name.
func (b *bench) peerName() string { return "interop-peer-" + b.sdk.name }

// Close stops all programs and closes all connections. It may be called several times.
func (b *bench) Close() {
	if b.peer != nil {
		b.peer.stop()
	}
	if b.client != nil {
		_ = b.client.Close()
	}
	if b.telemetry != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_ = b.telemetry.Shutdown(ctx)
		cancel()
	}
	if b.log != nil {
		_ = b.log.Close()
	}
	if b.proxy != nil {
		_ = b.proxy.Close()
	}
	if b.engine != nil {
		_ = b.engine.stop()
	}
}

func (b *bench) register() error {
	var errs []error
	handle := func(id string, h iii.HandlerFunc) {
		_, err := b.client.HandleFunc(id, h)
		errs = append(errs, err)
	}
	f, err := b.client.HandleFunc("go::echo", echo)
	b.echo = f
	errs = append(errs, err)
	handle("go::inspect", inspect)
	handle("go::fail", fail)
	handle("go::crash", func(context.Context, json.RawMessage) (any, error) { return nil, errors.New("it broke") })
	handle("go::slow", slow)
	handle("go::seen", func(_ context.Context, payload json.RawMessage) (any, error) {
		var e event
		if err := json.Unmarshal(payload, &e); err != nil {
			return nil, err
		}
		b.saw(e)
		return true, nil
	})
	_, err = iii.Handle(b.client, "go::text", func(_ context.Context, in struct{ Bytes int }) (string, error) {
		return strings.Repeat("x", in.Bytes), nil
	})
	errs = append(errs, err)
	_, err = iii.Handle(b.client, "go::sink", func(ctx context.Context, in channelInput) (channelReport, error) {
		r, err := b.client.OpenReader(ctx, in.Reader)
		if err != nil {
			return channelReport{}, err
		}
		return drain(ctx, r)
	})
	errs = append(errs, err)
	_, err = iii.Handle(b.client, "go::source", func(ctx context.Context, in channelInput) (channelReport, error) {
		w, err := b.client.OpenWriter(ctx, in.Writer)
		if err != nil {
			return channelReport{}, err
		}
		return fill(ctx, w, in.Bytes)
	})
	return errors.Join(append(errs, err)...)
}

func inspect(ctx context.Context, payload json.RawMessage) (any, error) {
	inv, _ := iii.InvocationFromContext(ctx)
	return map[string]any{"payload": payload, "metadata": inv.Metadata}, nil
}

func fail(_ context.Context, payload json.RawMessage) (any, error) {
	var in struct{ Code, Message string }
	if err := json.Unmarshal(payload, &in); err != nil {
		return nil, err
	}
	return nil, &iii.Error{Code: in.Code, Message: in.Message}
}

func slow(ctx context.Context, payload json.RawMessage) (any, error) {
	var in struct {
		Ms int `json:"ms"`
	}
	if err := json.Unmarshal(payload, &in); err != nil {
		return nil, err
	}
	select {
	case <-time.After(time.Duration(in.Ms) * time.Millisecond):
		return "late", nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// saw stores a call for await.
func (b *bench) saw(e event) {
	select {
	case b.events(e.FunctionID) <- e:
	default: // no scenario waits for this many events, so the scenario fails anyway
	}
}

func (b *bench) events(functionID string) chan event {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen[functionID] == nil {
		b.seen[functionID] = make(chan event, 1000)
	}
	return b.seen[functionID]
}

// await waits for the next call to a listening function and returns it.
func (b *bench) await(ctx context.Context, functionID string) (event, error) {
	select {
	case e := <-b.events(functionID):
		return e, nil
	case <-ctx.Done():
		return event{}, fmt.Errorf("%s was not called: %w", functionID, ctx.Err())
	}
}

// quiet reports whether a listening function receives no calls for the duration d.
func (b *bench) quiet(functionID string, d time.Duration) bool {
	select {
	case <-b.events(functionID):
		return false
	case <-time.After(d):
		return true
	}
}

// until polls f until f returns true. If ctx is done first, until returns ctx's error,
// prefixed with failure.
func until(ctx context.Context, failure string, f func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", failure, ctx.Err())
		}
	}
	return nil
}

// ready waits until a call to one of the peer's functions succeeds.
func (b *bench) ready(ctx context.Context, p *peer, functionID string, opts ...iii.CallOption) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	opts = append(opts, iii.WithTimeout(5*time.Second))
	var last error
	err := until(ctx, functionID+" does not answer", func() bool {
		last = b.client.Call(ctx, functionID, map[string]any{}, nil, opts...)
		return last == nil || p.gone() != nil
	})
	return errors.Join(err, p.gone(), last)
}

// registered waits until the engine lists a function.
func (b *bench) registered(ctx context.Context, functionID string) error {
	return until(ctx, functionID+" is not registered", func() bool {
		_, err := b.client.FunctionInfo(ctx, functionID)
		return err == nil
	})
}

// bound waits until the engine has bound a trigger of the given type to a function. On engine
// 0.26, it waits for an observer with that function as its target.
func (b *bench) bound(ctx context.Context, triggerType, functionID string) error {
	return until(ctx, fmt.Sprintf("the %s trigger of %s is not bound", triggerType, functionID), func() bool {
		if b.protocol == "0.26" {
			return b.listed(ctx, func(o iii.ObserverInfo) bool { return o.Target.FunctionID == functionID })
		}
		list, err := b.client.Triggers(ctx)
		if err != nil {
			return false
		}
		for _, t := range list {
			if t.TriggerType == triggerType && t.FunctionID == functionID {
				return true
			}
		}
		return false
	})
}

// request sends a request to the engine's HTTP server.
func (b *bench) request(ctx context.Context, method, path, contentType string, body io.Reader, header map[string]string) (int, http.Header, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, b.engine.http+path, body)
	if err != nil {
		return 0, nil, "", err
	}
	req.Header.Set("Content-Type", contentType)
	for key, value := range header {
		req.Header.Set(key, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, string(text), err
}
