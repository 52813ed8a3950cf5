package iii

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"
)

// A write that was told to end stays so, whatever deadline the WebSocket sets before
// the next part of the message.
func TestExpiredWritesStayExpired(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	g := &gatherConn{Conn: near}
	g.expireWrites(true)
	if err := g.SetWriteDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write = %v, want %v", err, os.ErrDeadlineExceeded)
	}
	g.expireWrites(false)
	if err := g.SetWriteDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = far.Read(make([]byte, 1)) }()
	if _, err := g.Write([]byte("x")); err != nil {
		t.Errorf("Write = %v, want no error any more", err)
	}
}
