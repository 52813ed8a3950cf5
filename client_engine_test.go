package iii_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
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
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// useEverything connects a worker and uses each kind of socket that a client has:
// the worker's, both ends of a channel and the telemetry's.
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

// behindTLS starts a TLS server that speaks HTTP/2, as gateways do, in front of an address and
// returns its own, https, and the configuration that trusts it.
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

// TestTLS is about an engine behind a TLS server whose certificate only the given
// configuration trusts.
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

// usedByHTTP returns a configuration that net/http has made a request with.
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

// A configuration may be one that other code uses for other protocols. It is not changed,
// and changes of it do no harm.
func TestTLSConfigurationOfOtherProtocols(t *testing.T) {
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

// The configuration is that of the moment when the option is given to New.
func TestTLSConfigurationThatChangesLater(t *testing.T) {
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

// HTTP/1.1 is offered without a configuration, too: some gateways want an offer.
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
			_ = connect() // no certificate is trusted
			if diff := cmp.Diff([]string{"http/1.1"}, <-offers); diff != "" {
				t.Errorf("offered (-want +got):\n%s", diff)
			}
		})
	}
}

// relay carries what comes to a listener to where dial leads, until the test ends.
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

// join carries bytes between two connections until one of them, or ctx, ends.
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

// TestUnixSocket reaches the engine by a Unix socket, whatever its address says.
func TestUnixSocket(t *testing.T) {
	e := iiitest.Start(t)
	t.Chdir(t.TempDir()) // its path may be too long for a socket
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

// proxyTarget is the address of an engine that only the proxy can reach; secureProxyTarget
// that of a TLS server in front of it, for a name that its certificate has.
const (
	proxyTarget       = "ws://engine.invalid:49134"
	secureProxyTarget = "wss://example.com:49134"
)

// TestProxyOfTheEnvironment runs itself in processes whose environment names a
// proxy: net/http reads the variables once.
func TestProxyOfTheEnvironment(t *testing.T) {
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
			child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProxyOfTheEnvironment$")
			child.Env = append(os.Environ(), iii.ProxiedVariable+"="+certificate, "HTTP_PROXY="+address, "HTTPS_PROXY="+address)
			if out, err := child.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			checkLog(t, e)
			mu.Lock()
			defer mu.Unlock()
			// The worker's socket, both ends of a channel, telemetry.
			if len(connects) != 1 || connects[want] != 4 {
				t.Errorf("the proxy was asked %v, want 4 times %q", connects, want)
			}
		})
	}
}

// parseProxyAuth is Request.BasicAuth for a proxy.
func parseProxyAuth(r *http.Request) (user, password string, ok bool) {
	return (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth()
}

// bufferedConn is a connection of which the beginning has been read already.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }
