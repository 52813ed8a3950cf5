package enginetest

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/iii-go/iii/internal/memnet"
)

// Server accepts the connections of a scripted peer.
type Server struct {
	Mem *memnet.Listener // nil if the server is not in memory

	listener net.Listener
	serve    func(conn net.Conn, n int)

	mu     sync.Mutex
	open   map[net.Conn]struct{}
	closed bool
	wg     sync.WaitGroup
}

// NewServer returns an in-memory server, which works in a synctest bubble. It calls
// serve with the n-th connection, counted from 0, on a goroutine of its own, and closes
// the connection when serve returns. The server ends with the test, and serve must
// return by then.
func NewServer(tb testing.TB, serve func(conn net.Conn, n int)) *Server {
	mem := memnet.NewListener(memnet.Loopback)
	s := NewServerOn(tb, mem, serve)
	s.Mem = mem
	return s
}

// NewTCPServer is NewServer on a free port of the loopback interface.
func NewTCPServer(tb testing.TB, serve func(conn net.Conn, n int)) *Server {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return NewServerOn(tb, l, serve)
}

// NewServerOn is NewServer on a listener.
func NewServerOn(tb testing.TB, l net.Listener, serve func(conn net.Conn, n int)) *Server {
	s := &Server{listener: l, serve: serve, open: map[net.Conn]struct{}{}}
	s.wg.Go(s.accept)
	tb.Cleanup(s.Close)
	return s
}

// URL returns the server's WebSocket address.
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

// Refuse stops accepting connections; open connections continue.
func (s *Server) Refuse() { _ = s.listener.Close() }

// Close cuts all connections and waits until all calls of serve have returned.
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

// Watched is the lock of a state that tests can wait on. The zero value is unlocked.
type Watched struct {
	sync.Mutex
	changed chan struct{} // closed at the next change; nil: no call of Wait is pending
}

// Notify makes all calls of Wait check again. The caller must hold the lock.
func (w *Watched) Notify() {
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// Wait returns once done returns true. It calls done with the lock held, immediately
// and after every change. If that takes longer than limit, in a synctest bubble by the
// bubble's clock, it fails the test with what.
func (w *Watched) Wait(tb testing.TB, limit time.Duration, what string, done func() bool) {
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
			tb.Fatalf("%s: did not happen within %v", what, limit)
		}
	}
}
