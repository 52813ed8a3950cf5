package enginetest

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/iii-go/iii/internal/memnet"
)

// Server passes each connection to a scripted peer.
type Server struct {
	Mem *memnet.Listener // nil unless the server is in memory

	listener net.Listener
	serve    func(conn net.Conn, n int)

	mu     sync.Mutex
	open   map[net.Conn]struct{}
	closed bool
	wg     sync.WaitGroup
}

// NewServer returns an in-memory server, which also works in a synctest bubble. For each
// connection, the server calls serve on a new goroutine, passing the connection and its
// number, counted from 0. When serve returns, the server closes the connection. The server is
// closed when the test ends. All calls to serve must then return.
func NewServer(tb testing.TB, serve func(conn net.Conn, n int)) *Server {
	mem := memnet.NewListener(memnet.Loopback)
	s := NewServerOn(tb, mem, serve)
	s.Mem = mem
	return s
}

// NewTCPServer is like [NewServer], but listens on a free TCP port on the loopback interface.
func NewTCPServer(tb testing.TB, serve func(conn net.Conn, n int)) *Server {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return NewServerOn(tb, l, serve)
}

// NewServerOn is like [NewServer], but uses the given listener.
func NewServerOn(tb testing.TB, l net.Listener, serve func(conn net.Conn, n int)) *Server {
	s := &Server{listener: l, serve: serve, open: map[net.Conn]struct{}{}}
	s.wg.Go(s.accept)
	tb.Cleanup(s.Close)
	return s
}

// URL returns the server's WebSocket URL.
func (s *Server) URL() string { return "ws://" + s.listener.Addr().String() }

func (s *Server) accept() {
	for n := 0; ; n++ {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			_ = conn.Close()
			return
		}
		s.open[conn] = struct{}{}
		s.wg.Go(func() {
			defer func() {
				_ = conn.Close()
				s.mu.Lock()
				delete(s.open, conn)
				s.mu.Unlock()
			}()
			s.serve(conn, n)
		})
		s.mu.Unlock()
	}
}

// Refuse stops accepting connections. Open connections stay open.
func (s *Server) Refuse() { _ = s.listener.Close() }

// Close cuts all connections and waits until all calls to serve have returned.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for conn := range s.open {
		_ = conn.Close()
	}
	s.mu.Unlock()
	s.Refuse()
	s.wg.Wait()
}

// Watched is a mutex that lets tests wait for changes to the state that it guards. The zero
// value is unlocked.
type Watched struct {
	sync.Mutex
	changed chan struct{} // closed at the next change; nil if no Wait is pending
}

// Notify makes pending calls to Wait check their conditions again. The caller must hold the
// lock.
func (w *Watched) Notify() {
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// Wait waits until done returns true. It calls done with the lock held, immediately and after
// every call to Notify. If done still returns false after limit, Wait fails the test; event
// names the awaited event in the failure message. In a synctest bubble, the bubble's clock
// applies.
func (w *Watched) Wait(tb testing.TB, limit time.Duration, event string, done func() bool) {
	tb.Helper()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		w.Lock()
		ok := done()
		if w.changed == nil {
			w.changed = make(chan struct{})
		}
		changed := w.changed
		w.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			tb.Fatalf("%s: did not happen within %v", event, limit)
		}
	}
}
