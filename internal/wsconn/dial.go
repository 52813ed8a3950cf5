package wsconn

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// DialTimeout bounds how long it may take to open a connection, including the WebSocket
// handshake.
const DialTimeout = 10 * time.Second

const ioBuffer = 64 << 10

// writeBuffers pools the write buffers of connections that hold none while they are idle.
var writeBuffers sync.Pool

// Dialer opens WebSocket connections to an engine.
type Dialer struct {
	URL         *url.URL // ws or wss; userinfo is sent as basic authentication
	Header      http.Header
	TLS         *tls.Config
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error) // the default is TCP, through the proxies configured in the environment
	ReadLimit   int64
	Token       string // bearer token, used if neither Header nor URL authenticates

	// Unbuffered makes connections write each message immediately, subject to
	// [Conn.LimitWrites], and reply to control frames immediately. Otherwise, connections
	// coalesce writes until [Conn.Flush].
	Unbuffered bool

	// ReadBuffer is the size of the read buffer in bytes. If it is not 0, the connection holds a
	// write buffer only while it writes a message. If it is 0, the connection holds a read
	// buffer and a write buffer of 64 KiB each. Set it if a program may open thousands of
	// connections.
	ReadBuffer int
}

// webSocketTLS returns a copy of cfg that offers only HTTP/1.1. A nil cfg means the default
// configuration. net/http adds h2 to any configuration that it uses. A server could then
// select h2, but this package does not support WebSockets over HTTP/2. The copy must offer a
// protocol, because some servers reject clients that offer none.
func webSocketTLS(cfg *tls.Config) *tls.Config {
	if cfg = cfg.Clone(); cfg == nil {
		cfg = &tls.Config{}
	}
	cfg.NextProtos = []string{"http/1.1"}
	return cfg
}

// StatusError is the error for an HTTP response that rejects the WebSocket upgrade.
type StatusError struct {
	Code int    // such as 404
	Text string // such as "404 Not Found"
	Err  error
}

// Error implements error.
func (e *StatusError) Error() string { return e.Err.Error() + ": HTTP status " + e.Text }

// Unwrap returns the handshake error.
func (e *StatusError) Unwrap() error { return e.Err }

// Dial opens a connection and completes the WebSocket handshake within DialTimeout. Its errors
// never contain headers or userinfo.
func (d Dialer) Dial(ctx context.Context) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, DialTimeout)
	defer cancel()
	u := *d.URL
	header := d.Header.Clone()
	if header == nil {
		header = http.Header{}
	}
	if header.Get("Authorization") == "" {
		if u.User != nil {
			password, _ := u.User.Password()
			header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password)))
		} else if d.Token != "" {
			header.Set("Authorization", "Bearer "+d.Token)
		}
	}
	u.User = nil
	var network *coalescer
	var abort func() bool
	var dialNet func(ctx context.Context, network, addr string) (net.Conn, error)
	ws := websocket.Dialer{
		TLSClientConfig:  webSocketTLS(d.TLS),
		HandshakeTimeout: DialTimeout,
		ReadBufferSize:   cmp.Or(d.ReadBuffer, ioBuffer),
		WriteBufferSize:  ioBuffer,
	}
	if d.ReadBuffer != 0 {
		ws.WriteBufferPool = &writeBuffers
	}
	if d.DialContext != nil {
		dialNet = d.dialCustom
	} else {
		dialNet = new(net.Dialer).DialContext
		ws.Proxy = environmentProxy
	}
	ws.NetDialContext = func(attempt context.Context, protocol, addr string) (net.Conn, error) {
		conn, err := dialNet(attempt, protocol, addr)
		if err != nil {
			return nil, err
		}
		network = &coalescer{Conn: conn, timeout: WriteTimeout, handshake: handshakeBytes}
		// The handshake observes deadlines but not ctx.
		abort = context.AfterFunc(ctx, func() { _ = conn.Close() })
		return network, nil
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
			err = &StatusError{resp.StatusCode, resp.Status, err}
		}
		return nil, fmt.Errorf("connect to %s: %w", u.Host, err)
	}
	network.handshake = math.MaxInt
	conn.SetReadLimit(d.ReadLimit)
	c := newConn(conn, network)
	if d.Unbuffered {
		network.writeThrough()
	} else {
		network.coalesce()
		c.handleControl()
	}
	return c, nil
}

// dialGrace is how long a dial function may take to return after its context is done. Most
// functions return at once. Waiting for them keeps their calls apart.
const dialGrace = time.Second

// dialCustom calls d.DialContext. It returns soon after ctx is done even if d.DialContext
// ignores ctx, for example by calling net.Dial. A connection that is opened later is closed.
func (d *Dialer) dialCustom(ctx context.Context, network, addr string) (net.Conn, error) {
	var conn net.Conn
	var err error
	dialed := make(chan struct{})
	go func() {
		defer close(dialed)
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("the dial function panicked: %v", p)
			} else if conn == nil && err == nil {
				err = errors.New("the dial function returned no connection")
			}
		}()
		conn, err = d.DialContext(ctx, network, addr)
	}()
	select {
	case <-dialed:
		return conn, err
	case <-ctx.Done():
	}
	grace := time.NewTimer(dialGrace)
	defer grace.Stop()
	select {
	case <-dialed:
		return conn, err
	case <-grace.C:
	}
	go func() {
		if <-dialed; conn != nil {
			_ = conn.Close()
		}
	}()
	return nil, ctx.Err()
}

// AddHeader adds h to the headers of the upgrade request. It rejects headers that the upgrade
// itself sets, and headers that HTTP cannot represent, which would be dropped or altered. Its
// errors do not contain header values.
func (d *Dialer) AddHeader(h http.Header) error {
	for name, values := range h {
		switch http.CanonicalHeaderKey(name) {
		case "Upgrade", "Connection", "Sec-Websocket-Key", "Sec-Websocket-Version", "Sec-Websocket-Extensions", "Sec-Websocket-Protocol",
			"Content-Length", "Transfer-Encoding", "Trailer":
			return fmt.Errorf("%s belongs to the WebSocket upgrade", name)
		}
		if !IsToken(name) {
			return fmt.Errorf("%q is not a valid header name", name)
		}
		if slices.ContainsFunc(values, hasControl) {
			return fmt.Errorf("the value of %s contains a control character", name)
		}
	}
	if d.Header == nil {
		d.Header = http.Header{}
	}
	for name, values := range h {
		for _, v := range values {
			d.Header.Add(name, v)
		}
	}
	return nil
}

// IsToken reports whether name consists of the characters that HTTP allows in a header name
// (RFC 9110, section 5.6.2).
func IsToken(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < '0' || r > '9') && (r|0x20 < 'a' || r|0x20 > 'z') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}

// hasControl reports whether a header value contains control characters other than tabs. It
// ignores surrounding space, which is trimmed.
func hasControl(value string) bool {
	return strings.ContainsFunc(strings.Trim(value, " \t\r\n"), func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

// upgrade dials a WebSocket. The library panics on some responses from proxies; upgrade
// returns an error instead. It offers no extensions. It rejects a response that uses one,
// because a decompressed message could have any size.
func upgrade(ctx context.Context, d *websocket.Dialer, address string, header http.Header) (conn *websocket.Conn, resp *http.Response, err error) {
	defer func() {
		if p := recover(); p != nil {
			conn, resp, err = nil, nil, fmt.Errorf("handshake: %v", p)
		}
	}()
	conn, resp, err = d.DialContext(ctx, address, header)
	if err == nil && resp.Header.Get("Sec-Websocket-Extensions") != "" {
		_ = conn.Close()
		conn, err = nil, errors.New("the engine selected a WebSocket extension that was not offered")
	}
	return conn, resp, err
}

// environmentProxy is http.ProxyFromEnvironment, but its errors do not contain the proxy's
// address, which may include a password.
func environmentProxy(r *http.Request) (*url.URL, error) {
	proxy, err := http.ProxyFromEnvironment(r)
	if err != nil {
		return nil, errors.New("the proxy address in the environment is not a valid URL")
	}
	return proxy, nil
}
