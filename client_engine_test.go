package iii_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// useEverything connects a worker and opens every kind of socket that a client uses: the
// worker socket, both ends of a channel, and telemetry.
func useEverything(t *testing.T, address string, opts []iii.Option, telemetry []iii.ConnectionOption) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tel, err := iii.StartTelemetry(ctx, iii.OtelConfig{EngineWSURL: &address}, iii.WithTelemetryConnection(telemetry...))
	if err != nil {
		t.Fatal(err)
	}
	defer tel.Shutdown(ctx)
	c, err := iii.New(address, append(opts, iii.WithTelemetry(tel))...)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := iii.Handle(c, "x::next", func(_ context.Context, n int) (int, error) { return n + 1, nil }); err != nil {
		t.Fatal(err)
	}
	if err := c.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	if got, err := iii.Call[int](ctx, c, "x::next", 1); got != 2 || err != nil {
		t.Errorf("call: %d, %v", got, err)
	}
	w, r, err := c.CreateChannel(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "over a channel"); err != nil {
		t.Error(err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(r); string(got) != "over a channel" || err != nil {
		t.Errorf("channel: %q, %v", got, err)
	}
	_ = r.Close()
	tel.Logger().Info(ctx, "over telemetry", nil)
	if err := tel.Flush(ctx); err != nil {
		t.Error(err)
	}
}

func checkLog(t *testing.T, e *iiitest.Engine) {
	t.Helper()
	if logs := e.Logs(); len(logs) != 1 || logs[0].Body != "over telemetry" {
		t.Errorf("log records: %v", logs)
	}
}

// behindTLS starts a TLS server in front of address and returns the server's https address.
// The server also speaks HTTP/2, as gateways do. The returned configuration trusts the
// server's certificate.
func behindTLS(t *testing.T, address string) (string, *tls.Config) {
	t.Helper()
	server := behindTLSServer(t, address)
	trusted := &tls.Config{RootCAs: x509.NewCertPool()}
	trusted.RootCAs.AddCert(server.Certificate())
	return server.URL, trusted
}

func behindTLSServer(t *testing.T, address string) *httptest.Server {
	t.Helper()
	u, err := url.Parse(strings.Replace(address, "ws", "http", 1))
	if err != nil {
		t.Fatal(err)
	}
	silent := log.New(io.Discard, "", 0)
	proxy := httputil.NewSingleHostReverseProxy(u)
	proxy.ErrorLog = silent
	server := httptest.NewUnstartedServer(proxy)
	server.Config.ErrorLog = silent
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

func TestTLS(t *testing.T) {
	e := iiitest.Start(t)
	address, trusted := behindTLS(t, e.URL())

	for _, scheme := range []string{"wss", "https"} {
		t.Run(scheme, func(t *testing.T) {
			address := strings.Replace(address, "https", scheme, 1)
			useEverything(t, address, []iii.Option{iii.WithTLSConfig(trusted)}, []iii.ConnectionOption{iii.WithConnectionTLSConfig(trusted)})
		})
	}
	if n := len(e.Logs()); n != 2 {
		t.Errorf("%d log records, want 2", n)
	}
	t.Run("unknown certificate", func(t *testing.T) {
		none := uint64(0)
		c, err := iii.New(address, iii.WithReconnection(iii.ReconnectionConfig{MaxRetries: &none}))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var unknown *tls.CertificateVerificationError
		if err := c.Connect(t.Context()); !errors.As(err, &unknown) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("stream socket", func(t *testing.T) {
		address, trusted := behindTLS(t, e.StreamURL())
		o := iii.SubscribeOptions{URL: address, TLSConfig: trusted}
		for m, err := range iii.SubscribeWith(t.Context(), o, iii.StreamSubscription{StreamName: "s", GroupID: "g"}) {
			if err != nil || m.Event.Type != iii.StreamEventTypeSync {
				t.Errorf("got %v, %v", m, err)
			}
			break
		}
	})
}

// usedByHTTP returns a copy of cfg that net/http has used, and therefore modified, for an
// HTTP/2 request.
func usedByHTTP(t *testing.T, address string, cfg *tls.Config) *tls.Config {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: cfg.Clone(), ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get(address)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.ProtoMajor != 2 || !slices.Contains(transport.TLSClientConfig.NextProtos, "h2") {
		t.Fatalf("the request was %s, with %q", resp.Proto, transport.TLSClientConfig.NextProtos)
	}
	return transport.TLSClientConfig
}

// A program may share a TLS configuration with code that speaks other protocols. The client
// must ignore the protocols listed in the configuration, and must not modify it.
func TestTLSConfigurationIgnoresOtherProtocols(t *testing.T) {
	e := iiitest.Start(t)
	address, trusted := behindTLS(t, e.URL())
	streams, streamsTrusted := behindTLS(t, e.StreamURL())
	for _, test := range []struct {
		name   string
		protos []string
		http   bool
	}{
		{name: "none"},
		{name: "net/http", http: true},
		{name: "HTTP/2", protos: []string{"h2"}},
		{name: "HTTP/2 first", protos: []string{"h2", "http/1.1"}},
		{name: "another one", protos: []string{"acme-tls/1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			prepare := func(address string, cfg *tls.Config) *tls.Config {
				cfg = cfg.Clone()
				cfg.NextProtos = test.protos
				if test.http {
					cfg = usedByHTTP(t, address, cfg)
				}
				return cfg
			}
			cfg, streamCfg := prepare(address, trusted), prepare(streams, streamsTrusted)
			before := slices.Clone(cfg.NextProtos)
			opts := []iii.Option{iii.WithTLSConfig(cfg)}
			telemetry := []iii.ConnectionOption{iii.WithConnectionTLSConfig(cfg)}
			useEverything(t, address, opts, telemetry)
			o := iii.SubscribeOptions{URL: streams, TLSConfig: streamCfg}
			for m, err := range iii.SubscribeWith(t.Context(), o, iii.StreamSubscription{StreamName: "s", GroupID: "g"}) {
				if err != nil || m.Event.Type != iii.StreamEventTypeSync {
					t.Errorf("stream socket: got %v, %v", m, err)
				}
				break
			}
			if diff := cmp.Diff(before, cfg.NextProtos, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("NextProtos has changed (-want +got):\n%s", diff)
			}
		})
	}
}

// New copies the configuration, so later changes have no effect.
func TestTLSConfigurationIsCopied(t *testing.T) {
	e := iiitest.Start(t)
	address, trusted := behindTLS(t, e.URL())
	c, err := iii.New(address, iii.WithTLSConfig(trusted))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	trusted.RootCAs, trusted.NextProtos = x509.NewCertPool(), []string{"h2"}
	if err := c.Connect(t.Context()); err != nil {
		t.Error(err)
	}
}

// Some gateways reject a TLS handshake without ALPN, so the client offers HTTP/1.1 even when
// the program supplies no configuration.
func TestTLSOffersHTTP1(t *testing.T) {
	server := httptest.NewUnstartedServer(nil)
	offers := make(chan []string, 8)
	server.TLS = &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		offers <- hello.SupportedProtos
		return nil, errors.New("enough")
	}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	address := strings.Replace(server.URL, "https", "wss", 1)
	none := uint64(0)
	once := iii.ReconnectionConfig{MaxRetries: &none}
	for name, connect := range map[string]func() error{
		"worker": func() error {
			c, err := iii.New(address, iii.WithReconnection(once))
			if err != nil {
				return err
			}
			defer c.Close()
			return c.Connect(t.Context())
		},
		"telemetry": func() error {
			s, err := iii.NewSharedEngineConnection(address, iii.WithConnectionReconnection(once))
			if err == nil {
				t.Cleanup(func() { _ = s.Shutdown(context.Background()) })
			}
			return err
		},
		"stream socket": func() (err error) {
			o := iii.SubscribeOptions{URL: address, Reconnection: once}
			for _, err = range iii.SubscribeWith(t.Context(), o, iii.StreamSubscription{StreamName: "s", GroupID: "g"}) {
				break
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			_ = connect() // fails: nothing trusts the server's certificate
			if diff := cmp.Diff([]string{"http/1.1"}, <-offers); diff != "" {
				t.Errorf("offered (-want +got):\n%s", diff)
			}
		})
	}
}

// relay forwards connections from l to the target of dial until the test ends.
func relay(t *testing.T, l net.Listener, dial func() (net.Conn, error)) {
	var open sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	open.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := dial()
			if err != nil {
				_ = near.Close()
				continue
			}
			open.Go(func() { join(ctx, near, far) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		open.Wait()
	})
}

// join copies bytes between two connections until either closes or ctx is done.
func join(ctx context.Context, a, b net.Conn) {
	stop := context.AfterFunc(ctx, func() { _, _ = a.Close(), b.Close() })
	defer stop()
	var both sync.WaitGroup
	for _, pair := range [][2]net.Conn{{a, b}, {b, a}} {
		both.Go(func() {
			_, _ = io.Copy(pair[0], pair[1])
			_, _ = a.Close(), b.Close()
		})
	}
	both.Wait()
}

// The client reaches the engine through a Unix socket, regardless of the host in the address.
func TestUnixSocket(t *testing.T) {
	e := iiitest.Start(t)
	t.Chdir(t.TempDir()) // the full path of a temporary directory may be too long for a socket address
	const path = "engine.sock"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	relay(t, l, func() (net.Conn, error) { return e.DialContext(context.Background(), "tcp", "engine") })
	var asked sync.Map
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		asked.Store(network+" "+addr, true)
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	useEverything(t, "ws://engine.internal", []iii.Option{iii.WithDialContext(dial)}, []iii.ConnectionOption{iii.WithConnectionDialContext(dial)})
	checkLog(t, e)
	asked.Range(func(key, _ any) bool {
		if key != "tcp engine.internal:80" {
			t.Errorf("asked to dial %q", key)
		}
		return true
	})
}

// proxyTarget is the address of an engine that is reachable only through the proxy.
// secureProxyTarget is the address of a TLS server in front of that engine. The server's
// certificate is valid for the host in secureProxyTarget.
const (
	proxyTarget       = "ws://engine.invalid:49134"
	secureProxyTarget = "wss://example.com:49134"
)

// TestProxyFromEnvironment re-executes the test binary with the proxy variables set, because
// net/http reads these environment variables only once per process.
func TestProxyFromEnvironment(t *testing.T) {
	switch certificate := os.Getenv(iii.ProxiedVariable); certificate {
	case "":
	case "none":
		useEverything(t, proxyTarget, nil, nil)
		return
	default:
		certificates, err := os.ReadFile(certificate)
		if err != nil {
			t.Fatal(err)
		}
		trusted := &tls.Config{RootCAs: x509.NewCertPool(), NextProtos: []string{"h2", "http/1.1"}}
		trusted.RootCAs.AppendCertsFromPEM(certificates)
		useEverything(t, secureProxyTarget, []iii.Option{iii.WithTLSConfig(trusted)}, []iii.ConnectionOption{iii.WithConnectionTLSConfig(trusted)})
		return
	}
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %t", secure), func(t *testing.T) {
			e := iiitest.Start(t)
			dial := func() (net.Conn, error) { return e.DialContext(context.Background(), "tcp", "engine") }
			certificate, want := "none", "CONNECT engine.invalid:49134 user word"
			if secure {
				server := behindTLSServer(t, e.URL())
				dial = func() (net.Conn, error) { return net.Dial("tcp", server.Listener.Addr().String()) }
				certificate, want = filepath.Join(t.TempDir(), "ca.pem"), "CONNECT example.com:49134 user word"
				block := &pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}
				if err := os.WriteFile(certificate, pem.EncodeToMemory(block), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			connects := map[string]int{}
			proxy := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				user, password, _ := parseProxyAuth(r)
				mu.Lock()
				connects[strings.Join([]string{r.Method, r.Host, user, password}, " ")]++
				mu.Unlock()
				near, buffered, err := http.NewResponseController(w).Hijack()
				if err != nil {
					return
				}
				far, err := dial()
				if err != nil {
					_ = near.Close()
					return
				}
				_, _ = io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n")
				join(t.Context(), bufferedConn{near, buffered.Reader}, far)
			})}
			var serving sync.WaitGroup
			serving.Go(func() { _ = proxy.Serve(l) })
			defer serving.Wait()
			defer proxy.Close()

			address := "http://user:word@" + l.Addr().String()
			child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProxyFromEnvironment$")
			child.Env = append(os.Environ(), iii.ProxiedVariable+"="+certificate, "HTTP_PROXY="+address, "HTTPS_PROXY="+address)
			if out, err := child.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			checkLog(t, e)
			mu.Lock()
			defer mu.Unlock()
			// One connection each for the worker, both ends of the channel, and telemetry.
			if len(connects) != 1 || connects[want] != 4 {
				t.Errorf("the proxy was asked %v, want 4 times %q", connects, want)
			}
		})
	}
}

// parseProxyAuth is like [http.Request.BasicAuth] for the Proxy-Authorization header.
func parseProxyAuth(r *http.Request) (user, password string, ok bool) {
	return (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth()
}

// bufferedConn is a connection that reads through r, which may already hold data.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// probed summarizes a response from the readiness probe.
type probed struct {
	Status  int
	Ready   bool
	Standby []string
	Reasons int
}

func probe(t *testing.T, c *iii.Client, target string) probed {
	t.Helper()
	w := httptest.NewRecorder()
	c.ReadyHandler().ServeHTTP(w, httptest.NewRequest("GET", target, nil))
	var body struct {
		Ready   bool
		Standby []string
		Reasons []string
	}
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || body.Standby == nil || body.Reasons == nil || w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("%s, %v", w.Body, err)
	}
	return probed{w.Code, body.Ready, body.Standby, len(body.Reasons)}
}

// checkReady compares Ready and both forms of the probe with the expected results.
func checkReady(t *testing.T, when string, c *iii.Client, want probed, wantStrict int, is ...error) {
	t.Helper()
	if diff := cmp.Diff(want, probe(t, c, "/ready")); diff != "" {
		t.Errorf("%s: probe (-want +got):\n%s%v", when, diff, c.Ready())
	}
	if got := probe(t, c, "/ready?strict=1"); got.Status != wantStrict {
		t.Errorf("%s: strict probe: %d, want %d", when, got.Status, wantStrict)
	}
	err := c.Ready()
	if (err == nil) != want.Ready {
		t.Errorf("%s: %v", when, err)
	}
	for _, target := range is {
		if !errors.Is(err, target) {
			t.Errorf("%s: %v is not %v", when, err, target)
		}
	}
}

// A worker is ready from the time the engine has accepted all its registrations until it
// starts to drain.
func TestReadyFromConnectToDrain(t *testing.T) {
	generations(t, func(t *testing.T, e *iiitest.Engine) {
		none := []string{}
		refusal := "INVALID_CRON_EXPRESSION"
		if hasTriggers(e) {
			refusal = iii.CodeTriggerRegistrationFailed
		}
		c := newWorker(t, e)
		release := make(chan struct{})
		if _, err := iii.HandleEvent(c, "f", func(context.Context, any) error { <-release; return nil }); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Trigger("f", iii.CronTriggerConfig{Expression: "@daily"}); err != nil {
			t.Fatal(err)
		}
		checkReady(t, "before Connect", c, probed{503, false, none, 1}, 503, iii.ErrNotConnected)
		mustConnect(t, c)
		checkReady(t, "connected", c, probed{200, true, none, 0}, 200)

		e.StopReading(c.Name())
		if _, err := c.MountHTTP("GET", "/late", http.NotFoundHandler()); err != nil {
			t.Fatal(err)
		}
		if err := c.Ready(); err == nil || !strings.Contains(err.Error(), "has not answered the registration yet") {
			t.Errorf("before the engine has read a registration: %v", err)
		}
		e.ResumeReading(c.Name())
		synctest.Wait()
		checkReady(t, "later", c, probed{200, true, none, 0}, 200)

		bad, err := c.Trigger("f", iii.CronTriggerConfig{Expression: "x x x x x x"})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		checkReady(t, "with a refused trigger", c, probed{503, false, none, 1}, 503, &iii.Error{Code: refusal})
		if err := bad.Unregister(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Trigger("f", iii.CustomTrigger{Type: "nobody-provides-it"}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		checkReady(t, "with a trigger that waits for a provider", c, probed{200, true, none, 0}, 200)

		e.Drop(c.Name())
		synctest.Wait()
		checkReady(t, "away", c, probed{503, false, none, 1}, 503, iii.ErrNotConnected)
		time.Sleep(10 * time.Second)
		checkReady(t, "back", c, probed{200, true, none, 0}, 200)

		if err := c.Send(t.Context(), "f", nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		drained := make(chan error, 1)
		if c.Draining() {
			t.Error("the client is draining")
		}
		go func() { drained <- c.Shutdown(context.Background()) }()
		synctest.Wait()
		if !c.Draining() {
			t.Error("the client is not draining")
		}
		checkReady(t, "draining", c, probed{503, false, none, 1}, 503, iii.ErrDraining)
		checkLive(t, c, http.StatusOK)
		close(release)
		if err := <-drained; err != nil {
			t.Error(err)
		}
		checkReady(t, "ended", c, probed{503, false, none, 1}, 503, iii.ErrClosed)
		checkLive(t, c, http.StatusServiceUnavailable)
		if !c.Draining() {
			t.Error("Draining is false again")
		}
	})
}

// If the client is already connected, Connect waits for the registrations made since it
// connected, even if the connection is lost in the meantime.
func TestConnectWaitsForLaterRegistrations(t *testing.T) {
	const late = 3 * time.Second // before the engine reads a registration
	tests := map[string]struct {
		cut  bool          // cut the connection that carries the registration
		wait time.Duration // how long Connect may take
		want error
	}{
		"answered":            {wait: time.Minute},
		"connection lost":     {cut: true, wait: time.Minute},
		"context ends before": {wait: time.Second, want: context.DeadlineExceeded},
	}
	for _, protocol := range []iiitest.Protocol{iiitest.Protocol023, iiitest.Protocol025, iiitest.Protocol026} {
		for name, test := range tests {
			t.Run(protocol.String()+" "+name, func(t *testing.T) {
				bubble(t, func(t *testing.T, e *iiitest.Engine) {
					c, caller := newWorker(t, e), newWorker(t, e, iii.WithName("caller"))
					mustConnect(t, c)
					mustConnect(t, caller)
					canceled, cancel := context.WithCancel(t.Context())
					cancel()
					if err := c.Connect(canceled); err != nil {
						t.Errorf("connected, and nothing to register: %v", err)
					}

					var first sync.Once
					e.Hook(func(f iiitest.Frame) (v iiitest.Verdict) {
						if f.Direction == iiitest.ToEngine && f.Type() == "registerfunction" {
							first.Do(func() { v = iiitest.Verdict{Delay: late, Cut: test.cut, Drop: test.cut} })
						}
						return v
					})
					handle(t, c, "late", func(context.Context, any) (string, error) { return "here", nil })
					if _, err := c.Trigger("late", iii.SubscribeTriggerConfig{Topic: "late"}); err != nil {
						t.Fatal(err)
					}
					ctx, cancel := context.WithTimeout(t.Context(), test.wait)
					defer cancel()
					began := time.Now()
					err := c.Connect(ctx)
					if !errors.Is(err, test.want) {
						t.Fatalf("got %v, want %v", err, test.want)
					}
					if test.want != nil {
						if !strings.HasPrefix(err.Error(), "iii: connect: ") || !strings.Contains(err.Error(), "has not answered all registrations") || time.Since(began) != test.wait {
							t.Errorf("after %v: %v", time.Since(began), err)
						}
						return
					}
					if took := time.Since(began); took < late || c.Ready() != nil {
						t.Errorf("returned after %v, with %v", took, c.Ready())
					}
					got, err := iii.Call[string](t.Context(), caller, "late", nil)
					check(t, "call", "here", got, err)
				}, iiitest.WithProtocol(protocol))
			})
		}
	}
}

// If the engine rejects the worker, Connect and Run return the reason. Later calls fail
// because the client is closed, and return the reason too.
func TestConnectReturnsTheRejection(t *testing.T) {
	generations(t, func(t *testing.T, e *iiitest.Engine) {
		e.RefuseAuth("bad token")
		for name, connect := range map[string]func(*iii.Client, context.Context) error{"Connect": (*iii.Client).Connect, "Run": (*iii.Client).Run} {
			c := newWorker(t, e)
			err := connect(c, t.Context())
			var auth *iii.AuthError
			if !errors.As(err, &auth) || !errors.Is(err, iii.ErrClosed) || err.Error() != "iii: engine rejected this worker: bad token" {
				t.Errorf("%s: %v", name, err)
			}
			const later = "iii: client is closed: engine rejected this worker: bad token"
			if err := connect(c, t.Context()); !errors.As(err, &auth) || err.Error() != later {
				t.Errorf("%s again: %v", name, err)
			}
		}
	})
}

// A standby's Connect does not wait for the functions that another worker owns.
func TestConnectOfStandbyDoesNotWaitForItsOwner(t *testing.T) {
	generations(t, func(t *testing.T, e *iiitest.Engine) {
		owner, standby := newWorker(t, e, iii.WithName("owner")), newWorker(t, e)
		handle(t, owner, "f", func(context.Context, any) (any, error) { return nil, nil })
		mustConnect(t, owner)
		mustConnect(t, standby)
		handle(t, standby, "f", func(context.Context, any) (any, error) { return nil, nil })
		if _, err := standby.Trigger("f", iii.StateTriggerConfig{}); err != nil {
			t.Fatal(err)
		}
		for range 1000 {
			began := time.Now()
			mustConnect(t, standby)
			if took := time.Since(began); took > 10*time.Millisecond {
				t.Fatalf("Connect took %v", took)
			}
			time.Sleep(7 * time.Millisecond)
		}
		if standby.Ready() == nil {
			t.Error("the standby is ready")
		}
	})
}

func checkLive(t *testing.T, c *iii.Client, want int) {
	t.Helper()
	w := httptest.NewRecorder()
	c.LiveHandler().ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	var body struct{ Live bool }
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || w.Code != want || body.Live != (want == 200) {
		t.Errorf("live: %d %s, want %d", w.Code, w.Body, want)
	}
}

// A standby's readiness probe succeeds even though Ready returns an error. If the probe
// failed, an orchestrator would wait for the standby forever and never stop the owner.
func TestStandbyPassesReadinessProbe(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		setup := func(parameter string) func(*replica) {
			return func(r *replica) {
				serveName(t, "orders::create", "orders::cancel")(r)
				if _, err := r.Trigger("orders::create", iii.CronTriggerConfig{Expression: "@daily"}); err != nil {
					t.Fatal(err)
				}
				if _, err := r.MountHTTP("POST", "/orders/:"+parameter, http.NotFoundHandler()); err != nil {
					t.Fatal(err)
				}
			}
		}
		a := startReplica(t, e, "a", setup("id"))
		b := startReplica(t, e, "b", setup("id"))
		synctest.Wait()
		ids := []string{"orders::create", "orders::cancel", "http::POST/orders/:id"}
		checkReady(t, "standby", b.Client, probed{200, false, ids, 5}, 503)
		var refused *iii.RejectedError
		if err := b.Ready(); !errors.As(err, &refused) || refused.OwnerWorkerID != a.WorkerID() {
			t.Errorf("%v", err)
		}
		c := startReplica(t, e, "c", setup("order")) // the same route with another parameter name
		synctest.Wait()
		checkReady(t, "standby of a route", c.Client, probed{200, false, []string{"orders::create", "orders::cancel", "http::POST/orders/:order"}, 4}, 503)
		_ = c.Close()

		// A rejected trigger makes the probe fail even on a standby.
		bad, err := b.Trigger("elsewhere", iii.CronTriggerConfig{Expression: "x x x x x x"})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		checkReady(t, "standby with a refused trigger", b.Client, probed{503, false, ids, 6}, 503)
		if err := bad.Unregister(); err != nil {
			t.Fatal(err)
		}

		if err := a.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 300 { // the probe succeeds throughout the takeover
			if got := probe(t, b.Client, "/"); got.Status != 200 {
				t.Fatalf("during the takeover: %+v, %v", got, b.Ready())
			}
			time.Sleep(10 * time.Millisecond)
		}
		checkReady(t, "taken over", b.Client, probed{200, true, []string{}, 0}, 200)
	})
}

// If two routes of one worker differ only in parameter names, the engine rejects the second one.
// The worker is not a standby: the route is missing as long as the worker runs.
func TestConflictingRoutesOfOneWorkerFailTheReadinessProbe(t *testing.T) {
	for _, second := range []string{http.MethodGet, http.MethodDelete} {
		t.Run(second, func(t *testing.T) {
			generations(t, func(t *testing.T, e *iiitest.Engine) {
				c := newWorker(t, e)
				first, err := c.MountHTTP(http.MethodGet, "/orders/:id", http.NotFoundHandler())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := c.MountHTTP(second, "/orders/:order", http.NotFoundHandler()); err != nil {
					t.Fatal(err)
				}
				mustConnect(t, c)
				synctest.Wait()
				reasons := 1
				if second == http.MethodGet {
					reasons = 2 // HEAD is refused, too
				}
				checkReady(t, "conflict", c, probed{503, false, []string{}, reasons}, 503)
				if err := first.Unregister(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Second)
				checkReady(t, "without the first route", c, probed{200, true, []string{}, 0}, 200)
			})
		})
	}
}

func TestProbesAnswerGetAndHead(t *testing.T) {
	c, err := iii.New("ws://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for name, h := range map[string]http.Handler{"ready": c.ReadyHandler(), "live": c.LiveHandler()} {
		for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS"} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(method, "/", nil))
			if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: %d", method, name, w.Code)
			}
		}
		server := httptest.NewServer(h)
		for target, want := range map[string]int{"/": 200, "/?strict=0": 200, "/?strict=true": 200, "/?strict": 200} {
			if name == "ready" {
				want = 503
			}
			resp, err := http.Head(server.URL + target)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("HEAD %s%s: %d, want %d", name, target, resp.StatusCode, want)
			}
		}
		server.Close()
	}
}

type logLines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logLines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSuffix(l.text.String(), "\n"), "\n")
}

// captureDefault makes slog's default logger write to the returned logLines.
func captureDefault(t *testing.T) *logLines {
	t.Helper()
	var l logLines
	iii.SetSlogDefault(t, slog.NewTextHandler(&l, nil))
	return &l
}

// Without WithLogger, the client logs only the first failed attempt to connect. WithLogger
// suppresses that line, even with a nil logger.
func TestFirstConnectFailureIsLoggedWithoutLogger(t *testing.T) {
	var own logLines
	for _, test := range []struct {
		name string
		opts []iii.Option
		want int
	}{
		{"none", nil, 1},
		{"nil", []iii.Option{iii.WithLogger(nil)}, 0},
		{"discarding", []iii.Option{iii.WithLogger(slog.New(slog.DiscardHandler))}, 0},
		{"its own", []iii.Option{iii.WithLogger(slog.New(slog.NewTextHandler(&own, nil)))}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			log := captureDefault(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			attempts := 0
			dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
				if attempts++; attempts > 3 {
					cancel()
				}
				return new(net.Dialer).DialContext(ctx, network, addr)
			}
			c, err := iii.New("ws://user:hunter2@127.0.0.1:1", append(test.opts, iii.WithDialContext(dial),
				iii.WithReconnection(iii.ReconnectionConfig{InitialDelayMs: 1, MaxDelayMs: 1}))...)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Connect(ctx); err == nil || !strings.Contains(err.Error(), "refused") {
				t.Errorf("Connect = %v, want the reason", err)
			}
			_ = c.Close() // waits for callbacks
			got := 0
			for _, line := range log.all() {
				if strings.Contains(line, "level=WARN") && strings.Contains(line, "not connected") && strings.Contains(line, "refused") {
					got++
				}
				if strings.Contains(line, "hunter2") {
					t.Errorf("a secret is logged: %s", line)
				}
			}
			if got != test.want {
				t.Errorf("%d warnings, want %d: %q", got, test.want, log.all())
			}
		})
	}
}

// If there is no stream socket, Subscribe logs the reason for each retry, and eventually gives
// up.
func TestSubscribeLogsWhyItRetries(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	fast := iii.ReconnectionConfig{InitialDelayMs: 1, MaxDelayMs: 1}
	sub := iii.StreamSubscription{StreamName: "s", GroupID: "g"}
	follow := func(o iii.SubscribeOptions) (err error) {
		o.URL, o.Reconnection = server.URL, fast
		for _, err = range iii.SubscribeWith(t.Context(), o, sub) {
			if err != nil {
				return err
			}
		}
		return nil
	}
	t.Run("to slog's default", func(t *testing.T) {
		log := captureDefault(t)
		if err := follow(iii.SubscribeOptions{}); err == nil || !strings.HasPrefix(err.Error(), "iii: subscribe: there is no stream socket") || !strings.Contains(err.Error(), "404") {
			t.Errorf("the loop ended with %v", err)
		}
		if got := log.all(); len(got) != 1 || !strings.Contains(got[0], " error=") || !strings.Contains(got[0], "404") {
			t.Errorf("logged %q, want one line with the status", got)
		}
	})
	t.Run("to its logger and its listener", func(t *testing.T) {
		log := captureDefault(t)
		var own logLines
		var states []iii.ConnectionState
		err := follow(iii.SubscribeOptions{Logger: slog.New(slog.NewTextHandler(&own, nil)), StateListener: func(s iii.ConnectionState, err error) {
			states = append(states, s)
			if (s == iii.ConnectionStateReconnecting || s == iii.ConnectionStateFailed) == (err == nil) {
				t.Errorf("%s with the error %v", s, err)
			}
		}})
		if err == nil {
			t.Error("the loop ended without an error")
		}
		if got := own.all(); len(got) != 2 || !strings.Contains(got[0], "404") {
			t.Errorf("its logger has %q, want a line for each retry", got)
		}
		if got := log.all(); got[0] != "" {
			t.Errorf("slog's default has %q", got)
		}
		want := []iii.ConnectionState{iii.ConnectionStateConnecting, iii.ConnectionStateReconnecting, iii.ConnectionStateReconnecting, iii.ConnectionStateFailed}
		if diff := cmp.Diff(want, states); diff != "" {
			t.Errorf("states (-want +got):\n%s", diff)
		}
	})
}

type outcomes struct {
	mu      sync.Mutex
	count   map[string]int
	slowest time.Duration
	first   time.Time // time of the first failure
	last    time.Time
}

func (o *outcomes) add(outcome string, failed bool, began time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.count == nil {
		o.count = map[string]int{}
	}
	o.count[outcome]++
	o.slowest = max(o.slowest, time.Since(began))
	if failed {
		if o.first.IsZero() {
			o.first = time.Now()
		}
		o.last = time.Now()
	}
}

func (o *outcomes) String() string {
	total, s := 0, ""
	for _, outcome := range slices.Sorted(maps.Keys(o.count)) {
		total += o.count[outcome]
		s += fmt.Sprintf(", %d × %s", o.count[outcome], outcome)
	}
	return fmt.Sprintf("%d requests%s; the slowest took %v, failures during %v", total, s, o.slowest, o.last.Sub(o.first))
}

// failedExcept counts all outcomes except those in expected.
func (o *outcomes) failedExcept(expected ...string) (n int) {
	for outcome, count := range o.count {
		if !slices.Contains(expected, outcome) {
			n += count
		}
	}
	return n
}

// TestRollingUpdateLosesNoRequest replaces one replica with another as docs/deploying.md
// describes. The new replica starts, its probe succeeds, and the old replica is stopped.
// Meanwhile, the test makes calls with a retry policy, calls without one, and HTTP requests,
// 500 per second of each. Calls with a retry policy succeed. Calls without one may fail only
// with errors that guarantee that the function has not run. HTTP requests may fail for at most
// 3 s, and only with the engine's own responses. When the old replica is killed instead, calls
// that it was handling may also fail.
func TestRollingUpdateLosesNoRequest(t *testing.T) {
	const perSecond = 500
	for _, test := range []struct {
		name string
		stop func(t *testing.T, signal context.CancelFunc, r *replica)
	}{
		{"SIGTERM", func(_ *testing.T, signal context.CancelFunc, _ *replica) { signal() }},
		{"killed", func(t *testing.T, _ context.CancelFunc, r *replica) { _ = r.Close() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			generations(t, func(t *testing.T, e *iiitest.Engine) {
				setup := func(r *replica) {
					f, err := iii.Handle(r.Client, "orders::create", func(context.Context, any) (string, error) {
						time.Sleep(5 * time.Millisecond)
						return r.Name(), nil
					})
					if err != nil {
						t.Fatal(err)
					}
					r.functions = append(r.functions, f)
					if _, err := iii.HandleHTTP(r.Client, "GET", "/orders/:id", func(context.Context, *iii.HTTPRequest[any]) (*iii.HTTPResponse[string], error) {
						time.Sleep(5 * time.Millisecond)
						return &iii.HTTPResponse[string]{StatusCode: 200, Body: r.Name()}, nil
					}); err != nil {
						t.Fatal(err)
					}
				}
				run := func(r *replica) (signal context.CancelFunc, ended <-chan error) {
					ctx, cancel := context.WithCancel(context.Background())
					result := make(chan error, 1)
					go func() { result <- r.Run(ctx) }()
					return cancel, result
				}
				caller := startReplica(t, e, "caller", func(*replica) {}, iii.WithCallRetry(iii.RetryPolicy{
					MaxAttempts: 20, InitialDelay: 100 * time.Millisecond, MaxDelay: time.Second, Codes: []string{iii.CodeFunctionNotFound},
				}))
				hasty := startReplica(t, e, "hasty", func(*replica) {})
				transport := &http.Transport{DialContext: e.DialContext, MaxIdleConnsPerHost: 100}
				defer transport.CloseIdleConnections()

				old := startReplica(t, e, "orders-1", setup)
				signal, ended := run(old)
				defer signal()

				var patient, impatient, visits outcomes
				load, stop := context.WithCancel(t.Context())
				defer stop()
				var all sync.WaitGroup
				all.Go(func() {
					tick := time.NewTicker(time.Second / perSecond)
					defer tick.Stop()
					for {
						select {
						case <-load.Done():
							return
						case <-tick.C:
						}
						call := func(c *replica, o *outcomes) {
							began := time.Now()
							ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
							defer cancel()
							outcome, err := iii.Call[string](ctx, c.Client, "orders::create", nil)
							var failure *iii.Error
							switch {
							case err == nil:
							case errors.As(err, &failure):
								outcome = failure.Code
							default:
								outcome = err.Error()
							}
							o.add(outcome, err != nil, began)
						}
						all.Go(func() { call(caller, &patient) })
						all.Go(func() { call(hasty, &impatient) })
						all.Go(func() {
							began := time.Now()
							resp, err := (&http.Client{Transport: transport}).Get(e.HTTPURL() + "/orders/1")
							if err != nil {
								visits.add(err.Error(), true, began)
								return
							}
							body, _ := io.ReadAll(resp.Body)
							_ = resp.Body.Close()
							outcome := resp.Status
							if resp.StatusCode == 200 {
								outcome = string(body)
							} else if resp.StatusCode == 500 {
								var failure struct{ Error iii.ErrorBody }
								_ = json.Unmarshal(body, &failure)
								outcome = "500 " + failure.Error.Code
							} else if resp.StatusCode == 503 && resp.Header.Get("Retry-After") == "" {
								outcome += " without Retry-After"
							}
							visits.add(outcome, resp.StatusCode != 200, began)
						})
					}
				})
				time.Sleep(2 * time.Second)
				next := startReplica(t, e, "orders-2", setup)
				signalNext, endedNext := run(next)
				defer signalNext()
				if got := probe(t, next.Client, "/ready"); got.Status != 200 || got.Ready {
					t.Errorf("the new replica is not a standby: %+v", got)
				}
				time.Sleep(2 * time.Second)
				stopped := time.Now()
				test.stop(t, signal, old)
				if err := <-ended; err != nil {
					t.Error(err)
				}
				for next.Ready() != nil {
					time.Sleep(10 * time.Millisecond)
				}
				takeover := time.Since(stopped)
				time.Sleep(3 * time.Second)
				stop()
				all.Wait()
				t.Logf("ready %v after the signal", takeover)
				t.Logf("with retries: %v", &patient)
				t.Logf("without:      %v", &impatient)
				t.Logf("visits:       %v", &visits)

				if takeover > 3*time.Second {
					t.Errorf("the new replica is ready only after %v", takeover)
				}
				served := []string{"orders-1", "orders-2"}
				if test.name == "killed" { // calls were running on the killed replica or on their way to it
					served = append(served, iii.CodeInvocationStopped, iii.CodeChannelSendFailed)
				}
				if n := patient.failedExcept(served...); n > 0 || patient.count[iii.CodeInvocationStopped] > 10 {
					t.Errorf("%d calls failed despite retries", n)
				}
				retryable := append(served, iii.CodeFunctionNotFound, iii.CodeWorkerDraining)
				if n := impatient.failedExcept(retryable...); n > 0 {
					t.Errorf("%d calls failed although they may have run", n)
				}
				answers := []string{`"orders-1"`, `"orders-2"`, "404 Not Found", "503 Service Unavailable", "500 " + iii.CodeFunctionNotFound,
					"500 OBSERVER_NOT_FOUND", "500 OBSERVER_NOT_ACTIVE"} // the engine is removing the route
				if test.name == "killed" {
					answers = append(answers, "500 "+iii.CodeInvocationStopped, "500 "+iii.CodeChannelSendFailed)
				}
				if n := visits.failedExcept(answers...); n > 0 {
					t.Errorf("%d requests had an unexpected response", n)
				}
				if gap := visits.last.Sub(visits.first); gap > 3*time.Second {
					t.Errorf("requests failed for %v", gap)
				}
				if patient.count["orders-2"] < perSecond || visits.count[`"orders-2"`] < perSecond {
					t.Error("the new replica serves too few requests")
				}
				signalNext()
				if err := <-endedNext; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestQueuesRetryAsLongAsThePageSays(t *testing.T) {
	for _, test := range []struct {
		name   string
		config iiitest.QueueConfig
		after  time.Duration
	}{
		{"default", iiitest.QueueConfig{}, 3 * time.Second},
		{"production", iiitest.QueueConfig{MaxRetries: 8, BackoffMs: 1000}, 127 * time.Second},
		{"long", iiitest.QueueConfig{MaxRetries: 10, BackoffMs: 2000}, 1022 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *iiitest.Engine) {
				c := connect(t, e, iii.WithDialContext(e.DialContext))
				if _, err := c.Enqueue(t.Context(), test.name, "nobody::serves", nil); err != nil {
					t.Fatal(err)
				}
				dead := func() int {
					letters, err := c.DeadLetters(t.Context(), test.name)
					if err != nil {
						t.Fatal(err)
					}
					return len(letters)
				}
				time.Sleep(test.after - time.Millisecond)
				if n := dead(); n != 0 {
					t.Errorf("%d dead letters before %v", n, test.after)
				}
				time.Sleep(2 * time.Millisecond)
				if n := dead(); n != 1 {
					t.Errorf("%d dead letters after %v", n, test.after)
				}
			}, iiitest.WithQueue(test.name, test.config))
		})
	}
}
