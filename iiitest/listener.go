package iiitest

import (
	"context"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/iii-go/iii/internal/memnet"
)

// server is one of the engine's HTTP servers. It accepts connections over the network and in
// memory. Inside a synctest bubble, it accepts only in-memory connections.
type server struct {
	addr     string
	protocol protocol
	pipe     *memnet.Listener
	tcp      net.Listener // nil inside a bubble

	// conns counts the connections that net/http is still handling. http.Server.Close does not
	// wait for them.
	conns sync.WaitGroup
}

// protocol serves the connections that listeners accept. Close closes these connections.
type protocol interface {
	Serve(l net.Listener) error
	Close() error
}

// newServer opens a server's listeners, but does not accept connections yet. Inside a bubble,
// where nothing listens on the network, memoryAddr is the server's address.
func newServer(addr, memoryAddr string, p protocol) (*server, error) {
	s := &server{addr: memoryAddr, protocol: p}
	if h, ok := p.(*http.Server); ok {
		h.ConnState = func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew: // called by Serve, and therefore before Serve returns
				s.conns.Add(1)
			case http.StateClosed, http.StateHijacked:
				s.conns.Done()
			}
		}
	}
	if !inBubble() {
		var err error
		if s.tcp, err = net.Listen("tcp", addr); err != nil {
			return nil, err
		}
		s.addr = s.tcp.Addr().String()
	}
	s.pipe = memnet.NewListener(memnet.Addr(s.addr))
	return s, nil
}

// handshakeTimeout limits how long reading the request headers may take.
const handshakeTimeout = 10 * time.Second

func (e *Engine) serve(s *server) {
	e.spawn(func(context.Context) { _ = s.protocol.Serve(s.pipe) })
	if s.tcp != nil {
		e.spawn(func(context.Context) { _ = s.protocol.Serve(s.tcp) })
	}
}

// close closes the listeners, and all connections that have not been upgraded to WebSocket.
func (s *server) close() {
	_ = s.pipe.Close()
	if s.tcp != nil {
		_ = s.tcp.Close()
	}
	_ = s.protocol.Close()
}

// DialContext connects to the engine in memory. If addr is the address in HTTPURL, StreamURL,
// GuardedURL or ConsoleURL, DialContext connects to the corresponding server. For any other
// addr, it connects to the listener for workers. In a testing/synctest bubble, pass
// DialContext to a client with WithDialContext: the client then never waits for the network,
// and runs on the bubble's clock. DialContext is safe for concurrent use. After Close, it
// returns an error that wraps net.ErrClosed.
func (e *Engine) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	s := e.workerServer
	switch addr {
	case e.httpServer.addr:
		s = e.httpServer
	case e.streamServer.addr:
		s = e.streamServer
	}
	for _, other := range []*server{e.guardedServer, e.consoleServer} {
		if other != nil && addr == other.addr {
			s = other
		}
	}
	conn, err := s.pipe.DialContext(ctx, network, addr)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: memnet.Addr(addr), Err: err}
	}
	return conn, nil
}

// inBubble reports whether the caller runs in a testing/synctest bubble. In a bubble, a
// goroutine that waits for the network stops the clock. The runtime reveals a bubble only in
// the header of a goroutine's stack trace.
func inBubble() bool {
	var b [128]byte
	header, _, _ := strings.Cut(string(b[:runtime.Stack(b[:], false)]), "\n")
	return strings.Contains(header, "synctest bubble")
}
