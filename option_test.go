package iii

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestOptionsRejectInvalidValues(t *testing.T) {
	limit := uint64(3)
	tests := []struct {
		name string
		opt  Option
		want string // expected in the error
	}{
		{"nil", nil, "nil Option"},
		{"blank name", WithName(" \t"), "WithName"},
		{"blank namespace", WithNamespace(""), "WithNamespace"},
		{"header of the upgrade", WithHeader(http.Header{"connection": {"close"}}), "WithHeader: connection"},
		{"header of the WebSocket", WithHeader(http.Header{"sec-websocket-protocol": {"x"}}), "WithHeader"},
		{"header of the framing", WithHeader(http.Header{"transfer-encoding": {"chunked"}}), "WithHeader: transfer-encoding"},
		{"header name with a space", WithHeader(http.Header{"X A": {"x"}}), `WithHeader: "X A" is not a valid header name`},
		{"header without a name", WithHeader(http.Header{"": {"x"}}), `WithHeader: "" is not a valid header name`},
		{"header value of two lines", WithHeader(http.Header{"X-A": {"x", secretHeader + "\r\nX-B: x"}}), "WithHeader: the value of X-A contains a control character"},
		{"header value with a null", WithHeader(http.Header{"X-A": {secretHeader + "\x00x"}}), "WithHeader: the value of X-A contains a control character"},
		{"nil dialer", WithDialContext(nil), "WithDialContext"},
		{"drain of nothing", WithDrainTimeout(0), "WithDrainTimeout"},
		{"negative timeout", WithCallTimeout(-time.Second), "WithCallTimeout"},
		{"negative concurrency", WithMaxConcurrency(-1), "WithMaxConcurrency"},
		{"negative messages", WithSendBuffer(-1, 1), "WithSendBuffer"},
		{"negative bytes", WithSendBuffer(1, -1), "WithSendBuffer"},
		{"read limit of nothing", WithReadLimit(0), "WithReadLimit"},
		{"no ping", WithKeepalive(0, time.Second), "WithKeepalive"},
		{"ping that is too late", WithKeepalive(time.Second, time.Second), "WithKeepalive"},
		{"nil JSON codec", WithJSON(nil), "WithJSON"},
		{"nil middleware", WithMiddleware(func(h HandlerFunc) HandlerFunc { return h }, nil), "argument 1"},
		{"delays upside down", WithReconnection(ReconnectionConfig{InitialDelayMs: 10, MaxDelayMs: 9}), "max_delay_ms"},
		{"delay without end", WithReconnection(ReconnectionConfig{InitialDelayMs: math.MaxUint64}), "too large"},
		{"shrinking delay", WithReconnection(ReconnectionConfig{BackoffMultiplier: 0.5}), "backoff_multiplier"},
		{"growth that is no number", WithReconnection(ReconnectionConfig{BackoffMultiplier: math.NaN()}), "backoff_multiplier"},
		{"growth without end", WithReconnection(ReconnectionConfig{BackoffMultiplier: math.Inf(1)}), "backoff_multiplier"},
		{"negative jitter", WithReconnection(ReconnectionConfig{JitterFactor: -0.1, MaxRetries: &limit}), "jitter_factor"},
		{"jitter beyond the delay", WithReconnection(ReconnectionConfig{JitterFactor: 1.1}), "jitter_factor"},
		{"jitter that is no number", WithReconnection(ReconnectionConfig{JitterFactor: math.NaN()}), "jitter_factor"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, err := New("", test.opt)
			if err == nil {
				_ = c.Close()
				t.Fatal("taken")
			}
			if text := suite.note(err).Error(); !strings.HasPrefix(text, "iii: ") || !strings.Contains(text, test.want) {
				t.Errorf("error %q, want %q in it", text, test.want)
			}
		})
	}
}

func TestOptionDefaults(t *testing.T) {
	for _, name := range []string{"III_URL", "III_NAMESPACE", "III_WORKER_NAME", "III_ISOLATION"} {
		t.Setenv(name, " ")
	}
	cfg, err := newConfig("", nil)
	if err != nil {
		t.Fatal(err)
	}
	type values struct {
		URL, Namespace, Isolation             string
		Drain, Call, Ping, Idle               time.Duration
		Concurrency, Messages, Bytes, Limit   int
		Initial, Max                          uint64
		Multiplier, Jitter                    float64
		Stacks, Retries, Logger, Dial, Header bool
	}
	want := values{URL: "ws://127.0.0.1:49134", Drain: 30 * time.Second, Call: 30 * time.Second, Ping: 20 * time.Second, Idle: time.Minute,
		Concurrency: 1000, Messages: 32_768, Bytes: 8 << 20, Limit: 64 << 20, Initial: 1000, Max: 30_000, Multiplier: 2, Jitter: 0.3, Logger: true}
	got := values{cfg.URL.String(), cfg.namespace, cfg.isolation, cfg.drainTimeout, cfg.callTimeout, cfg.pingInterval, cfg.idleTimeout,
		cfg.maxConcurrency, cfg.bufferMessages, cfg.bufferBytes, int(cfg.ReadLimit), cfg.reconnection.InitialDelayMs, cfg.reconnection.MaxDelayMs,
		cfg.reconnection.BackoffMultiplier, cfg.reconnection.JitterFactor, cfg.stackTraces, cfg.reconnection.MaxRetries != nil, cfg.logger != nil, cfg.DialContext != nil, cfg.Header != nil}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
}

func TestReconnectionDefaults(t *testing.T) {
	retries := uint64(7)
	for name, test := range map[string]struct{ in, want ReconnectionConfig }{
		"zero value":      {ReconnectionConfig{}, ReconnectionConfig{InitialDelayMs: 1000, MaxDelayMs: 30_000, BackoffMultiplier: 2, JitterFactor: 0.3}},
		"without jitter":  {ReconnectionConfig{InitialDelayMs: 5}, ReconnectionConfig{InitialDelayMs: 5, MaxDelayMs: 30_000, BackoffMultiplier: 2}},
		"long first step": {ReconnectionConfig{InitialDelayMs: 60_000}, ReconnectionConfig{InitialDelayMs: 60_000, MaxDelayMs: 60_000, BackoffMultiplier: 2}},
		"retries":         {ReconnectionConfig{MaxRetries: &retries, JitterFactor: 1}, ReconnectionConfig{InitialDelayMs: 1000, MaxDelayMs: 30_000, BackoffMultiplier: 2, JitterFactor: 1, MaxRetries: &retries}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := newConfig("", []Option{WithReconnection(test.in)})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, cfg.reconnection); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestEngineAddress(t *testing.T) {
	for in, want := range map[string]string{
		"ws://h:1":              "ws://h:1",
		"http://h:1/p?q=1#f":    "ws://h:1/p?q=1",
		"https://h":             "wss://h",
		"WSS://h":               "wss://h",
		"ws://u:p@[::1]:5/":     "ws://u:p@[::1]:5/",
		"ws://127.0.0.1:65535/": "ws://127.0.0.1:65535/",
	} {
		u, err := parseEngineURL(in)
		if err != nil || u.String() != want {
			t.Errorf("%s: %v, %v; want %s", in, u, err, want)
		}
	}
	for _, in := range []string{"h:1", "localhost", "/x", "ftp://h", "ws://", "ws://:1", "ws://h:65536", "ws://h:x", "ws:h", "ws://h h"} {
		if u, err := parseEngineURL(in); err == nil {
			t.Errorf("%s: accepted as %v", in, u)
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("III_URL", " http://engine.test:7 ")
	t.Setenv("III_NAMESPACE", " shop ")
	t.Setenv("III_WORKER_NAME", " api ")
	t.Setenv("III_ISOLATION", " docker ")
	first, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	second, err := New("", WithNamespace("other"))
	if err != nil {
		t.Fatal(err)
	}
	explicit, err := New("ws://h:1", WithName("mine"))
	if err != nil {
		t.Fatal(err)
	}
	got := []string{first.cfg.URL.String(), first.Namespace(), first.Name(), first.cfg.isolation, second.Name(), second.Namespace(), explicit.cfg.URL.String(), explicit.Name()}
	want := []string{"ws://engine.test:7", "shop", "api", "docker", "api:2", "other", "ws://h:1", "mine"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// Closing a client makes its name available again.
	_ = first.Close()
	third, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	if third.Name() != "api" {
		t.Errorf("third client: %s", third.Name())
	}
	for _, c := range []*Client{first, second, third, explicit} {
		_ = c.Close()
		_ = c.Close()
	}
	if len(names.taken) != 0 {
		t.Errorf("names left: %v", names.taken)
	}
	t.Setenv("III_URL", "127.0.0.1:49134")
	const refusal = "iii: $III_URL: engine address needs the scheme ws, wss, http or https, as in " + DefaultURL
	if _, err := New(""); err == nil || err.Error() != refusal {
		t.Errorf("a bad III_URL: %v, want %s", err, refusal)
	}
	if c, err := New("ws://h:1"); err != nil {
		t.Errorf("III_URL is read although an address was given: %v", err)
	} else {
		_ = c.Close()
	}
}

func TestDefaultName(t *testing.T) {
	t.Setenv("III_WORKER_NAME", "")
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	prefix := host + ":" + strconv.Itoa(os.Getpid())
	seen := map[string]bool{}
	for range 3 {
		c, err := New("")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if name := c.Name(); seen[name] || !strings.HasPrefix(name, prefix) {
			t.Errorf("name %q", name)
		}
		seen[c.Name()] = true
	}
}

func TestMetadata(t *testing.T) {
	t.Setenv("III_ISOLATION", "docker")
	p := newPeer(t, script{})
	p.connected(WithName("api"), WithDescription("orders"), WithNamespace("shop"))
	m := p.find("registration", func(m *peerMessage) bool { return m.FunctionID == "engine::workers::register" })
	var got map[string]any
	if err := json.Unmarshal(m.Data, &got); err != nil {
		t.Fatal(err)
	}
	if system, _ := got["os"].(string); system == "" {
		t.Error("no os")
	}
	delete(got, "os")
	want := map[string]any{"runtime": "go", "version": Version, "name": "api", "description": "orders", "pid": float64(os.Getpid()),
		"isolation": "docker", "namespace": "shop", "telemetry": map[string]any{"language": "go", "framework": "iii-go"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	if m.InvocationID == "" || m.Namespace != "" {
		t.Errorf("registration: %s", m.Raw)
	}
}

// Everything that accepts a ReconnectionConfig validates it.
func TestInvalidReconnectionIsAnError(t *testing.T) {
	const longest = uint64(math.MaxInt64 / int64(time.Millisecond) / 4)
	for name, cfg := range map[string]ReconnectionConfig{
		"initial_delay_ms":   {InitialDelayMs: 500, MaxDelayMs: 100},
		"delay":              {InitialDelayMs: longest + 1, MaxDelayMs: math.MaxUint64},
		"backoff_multiplier": {BackoffMultiplier: 0.5},
		"multiplier":         {BackoffMultiplier: math.NaN()},
		"_multiplier":        {BackoffMultiplier: math.Inf(1)},
		"jitter_factor":      {JitterFactor: 1.5},
		"jitter":             {JitterFactor: math.NaN()},
		"_factor":            {JitterFactor: -1},
	} {
		_, client := New("", WithReconnection(cfg))
		_, both := NewSharedEngineConnection("", WithReconnection(cfg))
		_, connection := NewSharedEngineConnection("", WithConnectionReconnection(cfg))
		_, telemetry := StartTelemetry(t.Context(), OtelConfig{ReconnectionConfig: &cfg})
		var subscribe error
		for _, err := range SubscribeWith(t.Context(), SubscribeOptions{Reconnection: cfg}, StreamSubscription{StreamName: "s", GroupID: "g"}) {
			subscribe = err
		}
		for what, err := range map[string]error{"iii: WithReconnection: ": client, "iii: WithReconnection:": both, "iii: WithConnectionReconnection: ": connection,
			"iii: reconnection_config: ": telemetry, "iii: subscribe: reconnection: ": subscribe} {
			if err == nil || !strings.HasPrefix(err.Error(), what) || !strings.Contains(err.Error(), name) {
				t.Errorf("%+v: %v, want %s… %s", cfg, err, what, name)
			}
		}
	}
}

// A DialOption works for a client and for a telemetry connection.
func TestDialOptionsServeBothConnections(t *testing.T) {
	opts := []DialOption{WithHeader(http.Header{"X-Token": {"t"}}), WithReconnection(ReconnectionConfig{InitialDelayMs: 7, MaxPendingMessages: 9}), WithTLSConfig(&tls.Config{ServerName: "engine"}),
		WithDialContext(func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("away") })}
	var client []Option
	var connection []ConnectionOption
	for _, opt := range opts {
		client, connection = append(client, opt), append(connection, opt)
	}
	c, err := newConfig("ws://engine.test", client)
	if err != nil {
		t.Fatal(err)
	}
	s, err := newConnectionConfig("ws://engine.test", connection)
	if err != nil {
		t.Fatal(err)
	}
	for what, d := range map[string]dialConfig{"client": c.dialConfig, "telemetry": s.dialConfig} {
		if d.Header.Get("X-Token") != "t" || d.reconnection.InitialDelayMs != 7 || d.TLS.ServerName != "engine" {
			t.Errorf("%s: %+v", what, d)
		}
		if _, err := d.Dial(t.Context()); err == nil || !strings.Contains(err.Error(), "away") {
			t.Errorf("%s: Dial = %v", what, err)
		}
	}
	if s.maxOffline != 9 {
		t.Errorf("max_pending_messages: %d, want 9", s.maxOffline)
	}
	if _, err := New("", DialOption(nil)); err == nil || err.Error() != "iii: nil Option" {
		t.Errorf("nil option: %v", err)
	}
	if _, err := NewSharedEngineConnection("", DialOption(nil)); err == nil || err.Error() != "iii: nil ConnectionOption" {
		t.Errorf("nil option: %v", err)
	}
}

func TestHeaders(t *testing.T) {
	header := http.Header{"X-A": {"1", "2\n"}} // a value read from a file
	var got http.Header
	var host string
	p := newPeer(t, script{refuse: func(_ int, r *http.Request) int { got, host = r.Header, r.Host; return 0 }})
	c, err := New("ws://user:"+secretPassword+"@engine.test:5/path?x=1", WithLogger(testLogger), WithDialContext(p.mem.DialContext),
		WithHeader(header), WithHeader(http.Header{"X-A": {"3"}, "Host": {"other.test"}}))
	if err != nil {
		t.Fatal(err)
	}
	header.Set("X-A", "changed")
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	if diff := cmp.Diff([]string{"1", "2", "3"}, got["X-A"]); diff != "" || host != "other.test" || got.Get("Authorization") == "" {
		t.Errorf("header %v, host %q", got, host)
	}
	own, err := New("ws://user:x@engine.test", WithLogger(testLogger), WithDialContext(p.mem.DialContext), WithHeader(http.Header{"Authorization": {"Bearer b"}}))
	if err != nil {
		t.Fatal(err)
	}
	if err := own.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = own.Close()
	if got.Get("Authorization") != "Bearer b" {
		t.Errorf("Authorization %q", got.Get("Authorization"))
	}
}

// For every valid configuration, the delays stay within their limits.
func FuzzReconnectDelay(f *testing.F) {
	f.Add(uint64(1000), uint64(30_000), 2.0, 0.3, uint64(5), 0.5)
	f.Add(uint64(1), uint64(math.MaxInt64/1_000_000/4), 1e300, 1.0, uint64(math.MaxUint64), 1.0)
	f.Fuzz(func(t *testing.T, initial, longest uint64, multiplier, jitter float64, attempt uint64, spread float64) {
		cfg, err := newConfig("", []Option{WithReconnection(ReconnectionConfig{InitialDelayMs: initial, MaxDelayMs: longest, BackoffMultiplier: multiplier, JitterFactor: jitter})})
		if err != nil || !(spread >= 0 && spread <= 1) || attempt == 0 {
			return
		}
		rc := cfg.reconnection
		if multiplierOfOne := rc.BackoffMultiplier < 1.001; multiplierOfOne {
			attempt %= 1000 // bounds the number of iterations
		}
		got := cfg.redial().Delay(attempt, spread)
		limit := time.Duration(rc.MaxDelayMs) * time.Millisecond
		if low := time.Duration((1 - rc.JitterFactor) * float64(rc.InitialDelayMs) * float64(time.Millisecond) * 0.999); got < low-1 || got > limit+limit/1000+1 {
			t.Errorf("%+v, attempt %d, spread %v: %v", rc, attempt, spread, got)
		}
	})
}

func TestDialContextIsUsed(t *testing.T) {
	p := newPeer(t, script{})
	var network, addr string
	p.connected(WithDialContext(func(ctx context.Context, n, a string) (net.Conn, error) {
		network, addr = n, a
		return p.mem.DialContext(ctx, n, a)
	}))
	if network != "tcp" || addr != "127.0.0.1:1" {
		t.Errorf("dialed %s %s", network, addr)
	}
}

// TestTokenFromTheEnvironment checks which addresses receive $III_TOKEN, for every kind of
// socket.
func TestTokenFromTheEnvironment(t *testing.T) {
	t.Setenv("III_TOKEN", " "+tokenMark+" ")
	t.Setenv("III_URL", "ws://engine.test:49134")
	sent := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent <- r.Header.Get("Authorization")
		w.WriteHeader(http.StatusForbidden)
	}))
	defer server.Close()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", server.Listener.Addr().String())
	}
	once := WithReconnection(ReconnectionConfig{MaxRetries: new(uint64(1)), InitialDelayMs: 1})
	client := func(t *testing.T, address string, opts ...Option) *Client {
		c, err := New(address, append(opts, WithDialContext(dial), WithLogger(testLogger), once)...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	telemetry := func(t *testing.T, address string) *SharedEngineConnection {
		s, err := NewSharedEngineConnection(address, WithDialContext(dial), WithConnectionLogger(testLogger), once)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Shutdown(context.Background()) })
		return s
	}
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("u:p"))
	for name, test := range map[string]struct {
		open func(t *testing.T)
		want string
	}{
		"worker":          {func(t *testing.T) { _ = client(t, "").Connect(t.Context()) }, "Bearer " + tokenMark},
		"worker at a URL": {func(t *testing.T) { _ = client(t, "ws://other.test").Connect(t.Context()) }, "Bearer " + tokenMark},
		"user and password": {
			func(t *testing.T) { _ = client(t, "ws://u:p@engine.test").Connect(t.Context()) }, basic,
		},
		"header": {func(t *testing.T) {
			_ = client(t, "", WithHeader(http.Header{"authorization": {"Digest x"}})).Connect(t.Context())
		}, "Digest x"},
		"channel": {func(t *testing.T) {
			if w, err := client(t, "").OpenWriter(t.Context(), StreamChannelRef{ChannelID: "c", AccessKey: "k"}); err == nil {
				_ = w.Close()
			}
		}, "Bearer " + tokenMark},
		"telemetry":                 {func(t *testing.T) { telemetry(t, "") }, "Bearer " + tokenMark},
		"telemetry to another host": {func(t *testing.T) { telemetry(t, "ws://other.test:49134") }, ""},
		"streams": {func(t *testing.T) {
			o := SubscribeOptions{URL: "ws://engine.test", DialContext: dial, Logger: testLogger, Reconnection: ReconnectionConfig{MaxRetries: new(uint64(1)), InitialDelayMs: 1}}
			for range SubscribeWith(t.Context(), o, StreamSubscription{StreamName: "s", GroupID: "g"}) {
				break
			}
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			test.open(t)
			if got := <-sent; got != test.want {
				t.Errorf("Authorization %q, want %q", got, test.want)
			}
			for { // drain further attempts
				select {
				case <-sent:
					continue
				default:
				}
				break
			}
		})
	}
}

// If $III_URL does not name the telemetry's host, telemetry sends the token only after a
// client for the same host has been created with WithTelemetry.
func TestTokenFromTheEnvironmentReachesAClientsTelemetry(t *testing.T) {
	t.Setenv("III_TOKEN", tokenMark)
	for address, want := range map[string]bool{"ws://engine.test": true, "ws://other.test": false} {
		sent := make(chan string)
		ctx, cancel := context.WithCancel(t.Context())
		p := newOtelPeer(t, otelScript{refuse: func(_ int, r *http.Request) int {
			select {
			case sent <- r.Header.Get("Authorization"):
			case <-ctx.Done():
			}
			return http.StatusServiceUnavailable
		}})
		quick := ReconnectionConfig{InitialDelayMs: 1, MaxDelayMs: 1}
		telemetry, err := StartTelemetry(ctx, OtelConfig{EngineWSURL: new("ws://engine.test")}, WithTelemetryConnection(p.options(WithReconnection(quick))...))
		if err != nil {
			t.Fatal(err)
		}
		if got := <-sent; got != "" {
			t.Errorf("without a client: Authorization %q", got)
		}
		c, err := New(address, WithLogger(testLogger), WithDialContext(p.mem.DialContext), WithTelemetry(telemetry))
		if err != nil {
			t.Fatal(err)
		}
		<-sent // discard an earlier attempt
		if got := <-sent; (got == "Bearer "+tokenMark) != want || !want && got != "" {
			t.Errorf("client at %s: Authorization %q", address, got)
		}
		cancel()
		_ = c.Close()
		_ = telemetry.Shutdown(ctx)
	}
}

func TestInvalidTokenFromTheEnvironment(t *testing.T) {
	for _, token := range []string{tokenMark + "\nX: y", tokenMark + "é", tokenMark + "\x7f"} {
		t.Setenv("III_TOKEN", token)
		_, err := New("")
		_, connErr := NewSharedEngineConnection("")
		for _, err := range []error{err, connErr} {
			if err == nil || !strings.HasPrefix(err.Error(), "iii: $III_TOKEN contains") || strings.Contains(err.Error(), tokenMark) {
				t.Errorf("%q: %v", token, err)
			}
		}
	}
}

func TestUnencryptedTokenIsReportedOnce(t *testing.T) {
	for address, want := range map[string]int{
		"ws://engine.test": 1, "ws://10.0.0.7:49134": 1, "wss://engine.test": 0, "ws://localhost:1": 0, "ws://127.0.0.2": 0, "ws://[::1]": 0, "ws://u:p@engine.test": 0,
	} {
		t.Setenv("III_TOKEN", tokenMark)
		var lines bytes.Buffer
		c, err := New(address, WithLogger(slog.New(slog.NewTextHandler(&lines, nil))), WithReconnection(ReconnectionConfig{MaxRetries: new(uint64(2)), InitialDelayMs: 1}),
			WithDialContext(func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no network") }))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Connect(t.Context()); err == nil {
			t.Error("connected")
		}
		_ = c.Close()
		if got := strings.Count(lines.String(), "unencrypted"); got != want || strings.Contains(lines.String(), tokenMark) {
			t.Errorf("%s: %d warnings, want %d:\n%s", address, got, want, &lines)
		}
	}
}
