package memnet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pipe(Capacity, Addr("a:1"), Addr("b:2"))
		if a.LocalAddr().String() != "a:1" || a.RemoteAddr().String() != "b:2" || b.RemoteAddr().String() != "a:1" || a.LocalAddr().Network() != "mem" {
			t.Errorf("addresses: %v %v %v", a.LocalAddr(), a.RemoteAddr(), b.RemoteAddr())
		}
		// Write more than the buffer can hold.
		data := bytes.Repeat([]byte("0123456789"), Capacity/5)
		written := make(chan error, 1)
		go func() {
			_, err := a.Write(data)
			written <- err
		}()
		synctest.Wait()
		select {
		case err := <-written:
			t.Fatalf("write beyond the buffer returned: %v", err)
		default:
		}
		got := make([]byte, len(data))
		if _, err := io.ReadFull(b, got); err != nil || !bytes.Equal(got, data) {
			t.Errorf("read: %v", err)
		}
		if err := <-written; err != nil {
			t.Errorf("write: %v", err)
		}
		_, _ = a.Write([]byte("last"))
		_ = a.Close()
		if rest, err := io.ReadAll(b); err != nil || string(rest) != "last" {
			t.Errorf("after the close: %q, %v", rest, err)
		}
		if _, err := b.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("write to a closed end: %v", err)
		}
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("read from a closed end: %v", err)
		}
	})
}

func TestPipeDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pipe(Capacity, Addr("a:1"), Addr("b:2"))
		defer a.Close()
		defer b.Close()
		begin := time.Now()
		timeout := func(what string, err error, after time.Duration) {
			t.Helper()
			var ne net.Error
			if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
				t.Errorf("%s: %v", what, err)
			}
			if got := time.Since(begin); got != after {
				t.Errorf("%s after %v, want %v", what, got, after)
			}
		}
		_ = a.SetReadDeadline(begin.Add(time.Second))
		_, err := a.Read(make([]byte, 1))
		timeout("read", err, time.Second)
		_, err = a.Read(make([]byte, 1))
		timeout("read again", err, time.Second)
		_ = a.SetWriteDeadline(begin.Add(2 * time.Second))
		n, err := a.Write(make([]byte, Capacity+1))
		timeout("write", err, 2*time.Second)
		if n != Capacity {
			t.Errorf("wrote %d bytes before the deadline", n)
		}
		// A new deadline takes effect while Read is waiting.
		_ = a.SetDeadline(time.Time{})
		go func() {
			time.Sleep(time.Second)
			_ = a.SetReadDeadline(begin.Add(10 * time.Second))
		}()
		_, err = a.Read(make([]byte, 1))
		timeout("moved read", err, 10*time.Second)
		_ = a.SetReadDeadline(time.Unix(1, 0))
		_, err = a.Read(make([]byte, 1))
		timeout("read after its deadline", err, 10*time.Second)
		_ = a.SetReadDeadline(time.Time{})
		go func() {
			time.Sleep(time.Second)
			_ = a.Close()
		}()
		if _, err = a.Read(make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("read while closing: %v", err)
		}
	})
}

// Unlike Close, Reset discards data in transit.
func TestPipeReset(t *testing.T) {
	a, b := Pipe(Capacity)
	if _, err := a.Write([]byte("lost")); err != nil {
		t.Fatal(err)
	}
	a.Reset()
	if n, err := b.Read(make([]byte, 4)); n != 0 || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if _, err := b.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("write: %v", err)
	}
}

func TestListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewListener(Addr("a:1"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := l.DialContext(ctx, "", ""); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("nobody accepts: %v", err)
		}
		if _, err := l.DialContext(ctx, "", ""); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("context already over: %v", err)
		}
		_ = l.Close()
		_ = l.Close()
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept: %v", err)
		}
		if _, err := l.DialContext(t.Context(), "", ""); !errors.Is(err, net.ErrClosed) {
			t.Errorf("dial: %v", err)
		}
	})
}
