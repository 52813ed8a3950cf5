package iii

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/gorilla/websocket"
)

const (
	dialTimeout  = 10 * time.Second
	writeTimeout = 10 * time.Second // of each write to the network
	socketBuffer = 64 << 10
)

// dialer says how a WebSocket to the engine is opened.
type dialer struct {
	url         *url.URL
	header      http.Header
	tls         *tls.Config
	dialContext func(ctx context.Context, network, addr string) (net.Conn, error) // nil: TCP, by the proxies of the environment
	readLimit   int64
}

// dial opens a connection and completes the WebSocket handshake, which is
// bounded by dialTimeout. What is written to it from then on is gathered.
// Neither headers nor userinfo are in an error.
func (d dialer) dial(ctx context.Context) (*websocket.Conn, *gatherConn, error) {
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
		TLSClientConfig:  d.tls,
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
		g = &gatherConn{Conn: conn, timeout: writeTimeout}
		// The handshake itself watches deadlines only.
		abort = context.AfterFunc(ctx, func() { _ = conn.Close() })
		return g, nil
	}
	conn, resp, err := ws.DialContext(ctx, u.String(), header)
	if abort != nil && !abort() && err == nil {
		_ = conn.Close()
		err = ctx.Err()
	}
	if err != nil {
		if ctxErr := ctx.Err(); ctxErr != nil && !errors.Is(err, ctxErr) {
			err = fmt.Errorf("%w: %w", ctxErr, err)
		}
		if resp != nil {
			return nil, nil, fmt.Errorf("iii: connect to %s: %w: HTTP status %s", u.Host, err, resp.Status)
		}
		return nil, nil, fmt.Errorf("iii: connect to %s: %w", u.Host, err)
	}
	g.gather()
	conn.SetReadLimit(d.readLimit)
	return conn, g, nil
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
