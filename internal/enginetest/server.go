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
	Mem *memnet.Listener // nil: not in memory

	listener net.Listener
	serve    func(conn net.Conn, n int)

	mu     sync.Mutex
	open   map[net.Conn]struct{}
	closed bool
	wg     sync.WaitGroup
}

// NewServer returns a server in memory, which works in a synctest bubble. It ends with
// the test, and so must serve, which is called with the n-th connection, from 0, on a
// goroutine of its own; the connection is closed when serve returns.
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

// URL returns the server's address, as one of a WebSocket.
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

// Refuse accepts no more connections; those that are there go on.
func (s *Server) Refuse() { _ = s.listener.Close() }

// Close cuts all connections and waits for the calls of serve to return.
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

// Watched is the lock of a state whose changes tests wait for. The zero value is
// unlocked.
type Watched struct {
	sync.Mutex
	changed chan struct{} // closed at the next change; nil: nobody waits
}

// Notify makes all calls of Wait look again. The caller holds the lock.
func (w *Watched) Notify() {
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// Wait returns when done does, which it calls with the lock held, now and at every
// change. It fails the test with what if that takes longer than limit; in a synctest
// bubble that is the bubble's time.
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
