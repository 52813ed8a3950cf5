package iii_test

import (
	"context"
	"errors"
	"io"
	"iter"
	"net"
	"sync"
	"testing"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// wire makes connections in memory to an engine, and breaks them.
type wire struct {
	engine *iiitest.Engine

	mu     sync.Mutex
	conns  []net.Conn // ours, the latest last
	away   bool       // nothing more can be dialled
	mute   bool       // the engine's answer to the next handshake comes through, and nothing after it
	passes int        // how many writes of ours the next connection lets through; 0: all
}

func (w *wire) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	w.mu.Lock()
	away, mute, passes := w.away, w.mute, w.passes
	w.mute, w.passes = false, 0
	w.mu.Unlock()
	if away {
		return nil, errors.New("no route to the engine")
	}
	conn, err := w.engine.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if mute || passes > 0 {
		conn = impair(conn, mute, passes)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns = append(w.conns, conn)
	return conn, nil
}

// impair puts a proxy before a connection that lets only some of it through.
func impair(engine net.Conn, mute bool, passes int) net.Conn {
	near, far := net.Pipe()
	var down, up io.Writer = far, engine
	if mute {
		down = &limitedWrites{far, 1}
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer far.Close()
		_, _ = io.Copy(down, engine)
	}()
	go func() {
		defer engine.Close()
		if passes > 0 {
			for range passes {
				buf := make([]byte, 64<<10)
				n, err := far.Read(buf)
				if err != nil {
					return
				}
				if _, err := up.Write(buf[:n]); err != nil {
					return
				}
			}
			<-ended // it reads no more
			return
		}
		_, _ = io.Copy(up, far)
	}()
	return near
}

// limitedWrites drops what is written after the first writes.
type limitedWrites struct {
	io.Writer
	left int
}

func (l *limitedWrites) Write(p []byte) (int, error) {
	if l.left--; l.left < 0 {
		return len(p), nil
	}
	return l.Writer.Write(p)
}

// cut breaks the latest connection.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.conns[len(w.conns)-1].Close()
}

func (w *wire) set(f func(w *wire)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w)
}

func (w *wire) dials() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.conns)
}

// streamBubble runs a test in a bubble, with a worker and a wire.
func streamBubble(t *testing.T, test func(t *testing.T, c *iii.Client, w *wire), opts ...iiitest.Option) {
	t.Helper()
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		test(t, connect(t, e, iii.WithDialContext(e.DialContext)), &wire{engine: e})
	}, opts...)
}

func (w *wire) subscribe(ctx context.Context, subs ...iii.StreamSubscription) iter.Seq2[iii.StreamMessage, error] {
	return iii.SubscribeWith(ctx, iii.SubscribeOptions{URL: w.engine.StreamURL(), DialContext: w.dial}, subs...)
}
