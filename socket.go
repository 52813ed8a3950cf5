package iii

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

const (
	dialTimeout  = 10 * time.Second
	writeTimeout = 10 * time.Second // of each write to the network
	socketBuffer = 64 << 10
)

// socket is an open WebSocket, with one reader and one writer. It dies once; both
// end when it does.
type socket struct {
	conn *websocket.Conn
	net  *gatherConn
	wake chan struct{} // capacity 1: there is something to write

	onFail func(error) // called once, before dead is closed; may be nil
	once   sync.Once
	dead   chan struct{}
	err    error // why it died; set before dead is closed

	began    time.Time
	lastRead atomic.Int64 // nanoseconds after began
}

func (s *socket) touch() { s.lastRead.Store(int64(time.Since(s.began))) }

// silence is how long nothing has come.
func (s *socket) silence() time.Duration {
	return time.Since(s.began) - time.Duration(s.lastRead.Load())
}

func (s *socket) wakeWriter() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// fail ends the socket; the first reason stays.
func (s *socket) fail(err error) {
	s.once.Do(func() {
		s.err = err
		if s.onFail != nil {
			s.onFail(err)
		}
		close(s.dead)
		_ = s.net.Conn.Close()
	})
}

func (s *socket) isDead() bool {
	select {
	case <-s.dead:
		return true
	default:
		return false
	}
}

// readMessage appends the message that r is to buf. One that comes in pieces is a
// sign of life.
func (s *socket) readMessage(r io.Reader, buf []byte) ([]byte, error) {
	return appendAll(r, buf, s.touch)
}

// appendAll appends what r holds to buf, and calls progress for each piece but
// the first.
func appendAll(r io.Reader, buf []byte, progress func()) ([]byte, error) {
	for reads := 0; ; reads++ {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return buf, err
		}
		if reads > 0 && progress != nil {
			progress()
		}
	}
}

func readError(err error) error {
	var closed *websocket.CloseError
	switch {
	case errors.As(err, &closed) && closed.Code == websocket.CloseNoStatusReceived:
		return fmt.Errorf("iii: the engine closed the connection: %w", err)
	case errors.Is(err, websocket.ErrReadLimit):
		return fmt.Errorf("iii: a received message is above the read limit: %w", err)
	}
	return fmt.Errorf("iii: read: %w", err)
}

// dialer says how a WebSocket to the engine is opened.
type dialer struct {
	url         *url.URL
	header      http.Header
	tls         *tls.Config
	dialContext func(ctx context.Context, network, addr string) (net.Conn, error) // nil: TCP, by the proxies of the environment
	readLimit   int64
	through     bool // what is written is not gathered, and waits for the peer without a deadline of ours
}

// webSocketTLS is a copy of cfg, nil being the default, that offers HTTP/1.1 alone, since a
// WebSocket is nothing else here. net/http adds h2 to a configuration that it uses, and a
// server that is offered h2 chooses it; some servers refuse who offers nothing.
func webSocketTLS(cfg *tls.Config) *tls.Config {
	if cfg = cfg.Clone(); cfg == nil {
		cfg = &tls.Config{}
	}
	cfg.NextProtos = []string{"http/1.1"}
	return cfg
}

// upgradeError is an answer to the handshake that is no WebSocket.
type upgradeError struct {
	status int
	text   string
	err    error
}

func (e *upgradeError) Error() string { return e.err.Error() + ": HTTP status " + e.text }
func (e *upgradeError) Unwrap() error { return e.err }

// dial opens a connection and completes the WebSocket handshake, which is
// bounded by dialTimeout. What is written to it from then on is gathered.
// Neither headers nor userinfo are in an error.
func (d dialer) dial(ctx context.Context) (*socket, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	u := *d.url
	header := d.header.Clone()
	if u.User != nil {
		if header == nil {
			header = http.Header{}
		}
		if header.Get("Authorization") == "" {
			password, _ := u.User.Password()
			header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password)))
		}
		u.User = nil
	}
	var g *gatherConn
	var abort func() bool
	dialNet := d.dialContext
	ws := websocket.Dialer{
		TLSClientConfig:  webSocketTLS(d.tls),
		HandshakeTimeout: dialTimeout,
		ReadBufferSize:   socketBuffer,
		WriteBufferSize:  socketBuffer,
	}
	if dialNet == nil {
		dialNet = new(net.Dialer).DialContext
		ws.Proxy = environmentProxy
	}
	ws.NetDialContext = func(attempt context.Context, network, addr string) (net.Conn, error) {
		conn, err := dialNet(attempt, network, addr)
		if err != nil {
			return nil, err
		}
		g = &gatherConn{Conn: conn, timeout: writeTimeout, handshake: handshakeBytes}
		// The handshake itself watches deadlines only.
		abort = context.AfterFunc(ctx, func() { _ = conn.Close() })
		return g, nil
	}
	conn, resp, err := upgrade(ctx, &ws, u.String(), header)
	if abort != nil && !abort() && err == nil {
		_ = conn.Close()
		resp, err = nil, ctx.Err()
	}
	if err != nil {
		if ctxErr := ctx.Err(); ctxErr != nil && !errors.Is(err, ctxErr) {
			err = fmt.Errorf("%w: %w", ctxErr, err)
		}
		if resp != nil {
			err = &upgradeError{resp.StatusCode, resp.Status, err}
		}
		return nil, fmt.Errorf("iii: connect to %s: %w", u.Host, err)
	}
	g.handshake = math.MaxInt
	if d.through {
		g.writeThrough()
	} else {
		g.gather()
	}
	conn.SetReadLimit(d.readLimit)
	return &socket{conn: conn, net: g, wake: make(chan struct{}, 1), dead: make(chan struct{}), began: time.Now()}, nil
}

// addUpgradeHeader adds h to header, for the option of the given name.
func addUpgradeHeader(header *http.Header, h http.Header, option string) error {
	for name := range h {
		switch http.CanonicalHeaderKey(name) {
		case "Upgrade", "Connection", "Sec-Websocket-Key", "Sec-Websocket-Version", "Sec-Websocket-Extensions", "Sec-Websocket-Protocol":
			return fmt.Errorf("iii: %s: %s belongs to the WebSocket upgrade", option, name)
		}
	}
	if *header == nil {
		*header = http.Header{}
	}
	for name, values := range h {
		for _, v := range values {
			header.Add(name, v)
		}
	}
	return nil
}

// upgrade dials. It returns what the library panics with, which it does on some
// answers of a proxy, and refuses extensions, of which it was told to offer none:
// what a compressed message expands to is bounded by nothing.
func upgrade(ctx context.Context, d *websocket.Dialer, address string, header http.Header) (conn *websocket.Conn, resp *http.Response, err error) {
	defer func() {
		if p := recover(); p != nil {
			conn, resp, err = nil, nil, fmt.Errorf("handshake: %v", p)
		}
	}()
	conn, resp, err = d.DialContext(ctx, address, header)
	if err == nil && resp.Header.Get("Sec-Websocket-Extensions") != "" {
		_ = conn.Close()
		conn, err = nil, errors.New("the engine answers with a WebSocket extension that was not offered")
	}
	return conn, resp, err
}

// environmentProxy is http.ProxyFromEnvironment without the proxy's address,
// which may hold a password, in its errors.
func environmentProxy(r *http.Request) (*url.URL, error) {
	proxy, err := http.ProxyFromEnvironment(r)
	if err != nil {
		return nil, errors.New("the proxy address of the environment is no URL")
	}
	return proxy, nil
}
