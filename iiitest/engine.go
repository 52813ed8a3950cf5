package iiitest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/internal/console"
)

// Engine is a running development engine. It implements the worker protocol, the built-in
// functions and the trigger types in memory. New and Start create an engine, and Close stops
// it. The zero value is not usable. The methods are safe for concurrent use.
type Engine struct {
	// Locks are acquired in this order:
	//   - worker.settle guards what a connection registers before its namespace is known. It
	//     is held briefly, and never while a message is sent.
	//   - Engine.triggers.mu guards trigger types, bindings and their providers, and
	//     serializes changes to them. The engine calls its own providers and queues messages
	//     to other providers with the lock held.
	//   - observers.mu guards observers, and the sets of observers that hosts receive. It also
	//     covers adding and removing functions. Messages about observers are queued with the
	//     lock held.
	//   - queues.mu guards topics, named queues and their jobs.
	//   - state.mu and streams.mu, then logs.mu, are held until a change or a record has been
	//     queued for every receiver.
	//   - Engine.mu guards workers, functions, calls in progress and name leases.
	//   - The locks of individual values come last: sendQueue.mu, frameLog.mu and those of the
	//     stores.
	//
	// No goroutine waits for a worker with a lock held. sendQueue.push queues a message under
	// the lock, and the sender waits for room afterward (ticket.wait).

	cfg     config
	log     *slog.Logger
	started time.Time

	ctx    context.Context
	cancel context.CancelFunc

	life   sync.Mutex // guards closed and additions to wg
	closed bool
	wg     sync.WaitGroup
	done   chan struct{} // closed when Close has finished

	workerServer, httpServer, streamServer *server
	guardedServer                          *server // nil without WithGuard
	consoleServer                          *server // nil without WithConsole

	httpClient *http.Client // for functions invoked over HTTP
	bridge     *iii.Client  // to another engine; nil without WithBridge

	mu        sync.Mutex
	conns     map[net.Conn]struct{} // WebSockets of all kinds
	workers   map[string]*worker    // by worker id
	functions map[key]*function     // by namespace and id
	leases    map[key]*worker       // by namespace and worker name
	calls     map[string]*pending   // by invocation id
	refusal   string                // see RefuseAuth
	seq       uint64                // order of registrations

	protocol      atomic.Int32 // of the next connection: a Protocol
	local         atomic.Bool  // true if local dispatch is off
	triggers      triggerTable
	observers     observers
	routes        routeTable
	channels      channelTable
	frames        frameLog
	cleanupHook   atomic.Pointer[func(workerID string)]
	telemetry     telemetryLog
	spans         spanStore
	metrics       metricStore
	traceTriggers traceTriggers
	available     availability
	state         *state
	streams       *streams
	logs          *logs
	cron          *cron
	queues        *queues
	counters      counters
	recorder      *console.Recorder // nil without WithConsole
}

// key is an id within a namespace.
type key struct{ namespace, id string }

// defaultNamespace is the namespace of everything registered without one.
const defaultNamespace = "default"

// silentLog discards what net/http logs about broken connections.
var silentLog = log.New(io.Discard, "", 0)

// Start runs an engine for a test and closes it when the test ends. Its listeners use free
// ports on 127.0.0.1. In a testing/synctest bubble the engine has no listeners; connect with
// DialContext. If the engine cannot start, Start fails the test.
func Start(t testing.TB, opts ...Option) *Engine {
	t.Helper()
	e, err := New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// New starts an engine. It returns an error if an option is invalid or a listener cannot be
// opened.
func New(opts ...Option) (*Engine, error) {
	cfg := defaultConfig()
	for _, o := range opts {
		if o == nil {
			return nil, errors.New("iiitest: nil Option")
		}
		if err := o(&cfg); err != nil {
			return nil, err
		}
	}
	e := &Engine{
		cfg:       cfg,
		log:       cfg.logger,
		started:   time.Now(),
		done:      make(chan struct{}),
		conns:     make(map[net.Conn]struct{}),
		workers:   make(map[string]*worker),
		functions: make(map[key]*function),
		leases:    make(map[key]*worker),
		calls:     make(map[string]*pending),
	}
	e.protocol.Store(int32(cfg.protocol))
	e.httpClient = newHTTPClient(cfg.dial)
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.local.Store(!cfg.localDispatch)
	e.triggers.init()
	e.observers.init(e)
	e.frames.init(cfg.frames, cfg.frameBytes)
	e.telemetry.init(cfg.telemetry, cfg.telemetryBytes)
	e.spans.init(cfg.telemetry, cfg.telemetryBytes)
	e.metrics.init(cfg.telemetry, cfg.telemetryBytes)
	if cfg.bridge != nil {
		var err error
		if e.bridge, err = cfg.bridge(); err != nil {
			e.cancel()
			return nil, err
		}
	}
	if cfg.console != "" {
		e.recorder = console.NewRecorder(cfg.consoleBytes)
	}
	if err := e.listen(); err != nil {
		e.cancel()
		if e.bridge != nil {
			_ = e.bridge.Close()
		}
		return nil, err
	}
	e.registerIntrospection()
	e.registerWorkers()
	e.registerTriggers()
	e.registerChannels()
	e.registerHTTP()
	e.registerCron()
	e.registerConfiguration()
	e.registerAvailability()
	e.registerObservability()
	e.registerTraces()
	e.registerMetrics()
	e.registerStores()
	e.registerPubSub()
	e.registerLog()
	e.registerQueues()
	e.registerBridge()
	e.registerObservers()
	own := e.functionKeys()
	e.spawn(func(ctx context.Context) { e.watchFunctions(ctx, own) })
	for _, s := range e.servers() {
		e.serve(s)
	}
	return e, nil
}

// exposedHost returns the host of an exposed console, or "" if the console is not exposed.
func (e *Engine) exposedHost() string {
	if !e.cfg.consoleExposed {
		return ""
	}
	host, _, _ := net.SplitHostPort(e.cfg.console)
	return cmp.Or(host, "0.0.0.0")
}

// workerHandler serves workers, their telemetry and their channels. g is nil for the open
// listener.
func (e *Engine) workerHandler(g *guard) http.Handler {
	workers := http.NewServeMux()
	workers.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) { e.serveWorker(w, r, g) })
	workers.HandleFunc("/otel", func(w http.ResponseWriter, r *http.Request) { e.serveTelemetry(w, r, g) })
	workers.HandleFunc("/ws/channels/{id}", e.serveChannel)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if e.Protocol() >= Protocol026 { // package net enables TCP_NODELAY by default
			w.Header().Set(capabilitiesHeader, "tcp-nodelay")
		}
		workers.ServeHTTP(w, r)
	})
}

// capabilitiesHeader is the response header that tells workers how the engine has configured
// its end of a connection, so that they can configure theirs to match.
const capabilitiesHeader = "X-Iii-Capabilities"

func (e *Engine) listen() error {
	type opening struct {
		name         string
		to           **server
		addr, memory string
		protocol     protocol
	}
	handled := func(h http.Handler) protocol {
		return &http.Server{Handler: e.joined(h), ReadHeaderTimeout: handshakeTimeout, ErrorLog: silentLog}
	}
	openings := []opening{
		{"workers", &e.workerServer, e.cfg.listen, "127.0.0.1:1", handled(e.workerHandler(nil))},
		{"HTTP triggers", &e.httpServer, e.cfg.http, "127.0.0.1:2", newWebServer(e, e.serveHTTP)},
		{"streams", &e.streamServer, e.cfg.stream, "127.0.0.1:3", handled(http.HandlerFunc(e.serveStreamSocket))},
	}
	if e.cfg.guard != nil {
		openings = append(openings, opening{"guarded workers", &e.guardedServer, cmp.Or(e.cfg.guard.Addr, "127.0.0.1:0"), "127.0.0.1:4", handled(e.workerHandler(e.cfg.guard))})
	}
	if e.cfg.console != "" {
		openings = append(openings, opening{"console", &e.consoleServer, e.cfg.console, "127.0.0.1:5", handled(console.New(e.ctx, consoleSource{e}, e.recorder, e.exposedHost()))})
	}
	for _, s := range openings {
		opened, err := newServer(s.addr, s.memory, s.protocol)
		if err != nil {
			for _, other := range e.servers() {
				other.close()
			}
			return fmt.Errorf("iiitest: %s: %w", s.name, err)
		}
		*s.to = opened
	}
	return nil
}

// servers returns the open servers.
func (e *Engine) servers() []*server {
	var open []*server
	for _, s := range []*server{e.workerServer, e.httpServer, e.streamServer, e.guardedServer, e.consoleServer} {
		if s != nil {
			open = append(open, s)
		}
	}
	return open
}

// URL returns the address for workers, ws://host:port. In a synctest bubble no server listens
// on the address, and only DialContext can reach the engine.
func (e *Engine) URL() string { return "ws://" + e.workerServer.addr }

// HTTPURL returns the address of the HTTP triggers, http://host:port. In a synctest bubble,
// connect with DialContext; see URL.
func (e *Engine) HTTPURL() string { return "http://" + e.httpServer.addr }

// StreamURL returns the address of the stream socket, ws://host:port. In a synctest bubble,
// connect with DialContext; see URL.
func (e *Engine) StreamURL() string { return "ws://" + e.streamServer.addr }

// GuardedURL returns the address of the guarded listener, ws://host:port, or "" without
// WithGuard. In a synctest bubble, connect with DialContext; see URL.
func (e *Engine) GuardedURL() string {
	if e.guardedServer == nil {
		return ""
	}
	return "ws://" + e.guardedServer.addr
}

// Close stops the engine abruptly, as a crash would: it cuts connections without a Close
// frame. Close waits until all of the engine's goroutines have exited. Later calls wait as
// well. The returned error is always nil.
func (e *Engine) Close() error {
	e.life.Lock()
	first := !e.closed
	e.closed = true
	e.life.Unlock()
	if !first {
		<-e.done
		return nil
	}
	e.cancel()
	for _, s := range e.servers() {
		s.close()
	}
	e.mu.Lock()
	for c := range e.conns {
		_ = c.Close()
	}
	e.mu.Unlock()
	if e.bridge != nil {
		_ = e.bridge.Close()
	}
	e.wg.Wait()
	e.httpClient.CloseIdleConnections()
	for _, s := range e.servers() {
		s.conns.Wait()
	}
	e.channels.stopExpiry()
	e.observers.stop()
	close(e.done)
	return nil
}

// enter registers a goroutine with the engine. If it returns false, the engine is closed and
// the goroutine must not start.
func (e *Engine) enter() bool {
	e.life.Lock()
	defer e.life.Unlock()
	if e.closed {
		return false
	}
	e.wg.Add(1)
	return true
}

// spawn runs f on an engine goroutine. Close cancels ctx and waits for f. After Close, spawn
// does nothing.
func (e *Engine) spawn(f func(ctx context.Context)) {
	if !e.enter() {
		return
	}
	go func() {
		defer e.wg.Done()
		f(e.ctx)
	}()
}

// joined makes Close wait for the requests that h is serving. It cuts the connection of a
// request that arrives while the engine closes.
func (e *Engine) joined(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !e.enter() {
			panic(http.ErrAbortHandler) // returning would send an empty response with status 200
		}
		defer e.wg.Done()
		h.ServeHTTP(w, r)
	})
}

// Sizes of the WebSockets' buffers. Stream sockets receive little.
const (
	readBuffer       = 32 << 10
	streamReadBuffer = 4 << 10
	writeBuffer      = 32 << 10
)

// writeBuffers pools write buffers, because most connections are idle.
var writeBuffers sync.Pool

// upgrade turns a request into a WebSocket with the engine's limits. Engine.Close cuts the
// connection. The caller must read until an error occurs, write from a single goroutine, and
// finally call drop. If silent is set, a Close frame is treated as a lost connection and is
// not answered.
func (e *Engine) upgrade(w http.ResponseWriter, r *http.Request, readBuffer int, silent bool) (*websocket.Conn, error) {
	u := websocket.Upgrader{
		ReadBufferSize:  readBuffer,
		WriteBufferSize: writeBuffer,
		WriteBufferPool: &writeBuffers,
		CheckOrigin:     func(*http.Request) bool { return true },
	}
	var header http.Header
	if list := w.Header()[capabilitiesHeader]; list != nil {
		header = http.Header{capabilitiesHeader: list}
	}
	conn, err := u.Upgrade(&limitedWriter{ResponseWriter: w, silent: silent}, r, header)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	e.conns[conn.NetConn()] = struct{}{}
	e.mu.Unlock()
	if e.ctx.Err() != nil { // Close may already have visited e.conns
		_ = conn.Close()
	}
	return conn, nil
}

// refusesHandshake rejects a request that is not a WebSocket handshake, and reports whether it
// did. The error messages are those of a real engine's HTTP library. All other handshake
// errors are left to upgrade.
func refusesHandshake(w http.ResponseWriter, r *http.Request) bool {
	status, reason := http.StatusBadRequest, ""
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET,HEAD")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return true
	case r.Method != http.MethodGet:
		status, reason = http.StatusMethodNotAllowed, "Request method must be `GET`"
	case !strings.Contains(strings.ToLower(r.Header.Get("Connection")), "upgrade"):
		reason = "Connection header did not include 'upgrade'"
	case !strings.EqualFold(r.Header.Get("Upgrade"), "websocket"):
		reason = "`Upgrade` header did not include 'websocket'"
	case r.Header["Sec-Websocket-Key"] == nil:
		reason = "`Sec-WebSocket-Key` header missing"
	case r.Header.Get("Sec-Websocket-Version") != "13":
		reason = "`Sec-WebSocket-Version` header did not include '13'"
	case !r.ProtoAtLeast(1, 1):
		status, reason = http.StatusUpgradeRequired, "WebSocket request couldn't be upgraded since no upgrade state was present"
	default:
		return false
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, reason)
	return true
}

// answerPings makes conn answer each ping twice, as a real engine does: once in its WebSocket
// library and once in its own code.
func answerPings(conn *websocket.Conn) {
	conn.SetPingHandler(func(payload string) error {
		for range 2 {
			// If the write fails, the next read fails too.
			_ = conn.WriteControl(websocket.PongMessage, []byte(payload), time.Now().Add(lingerTime))
		}
		return nil
	})
}

// drop closes a WebSocket without a Close frame and removes it from the engine.
func (e *Engine) drop(conn *websocket.Conn) {
	_ = conn.Close()
	e.mu.Lock()
	delete(e.conns, conn.NetConn())
	e.mu.Unlock()
}
