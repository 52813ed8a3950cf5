package iii_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/iii-go/iii"
)

// heldBack starts a Write that the reader holds back, and returns its error's
// channel.
func heldBack(t *testing.T, w *iii.ChannelWriter, r *iii.ChannelReader) <-chan error {
	t.Helper()
	wrote := make(chan error, 1)
	go func() {
		_, err := w.Write(make([]byte, 64<<20))
		wrote <- err
	}()
	// One frame through shows that the writer is at work.
	if _, err := io.ReadFull(r, make([]byte, 64<<10)); err != nil {
		t.Fatal(err)
	}
	return wrote
}

// Who waits for a Write that is held back waits no longer than his context, or his
// deadline, lasts. The Write itself goes on for as long as its own limit allows.
func TestChannelMessageBehindAWriteEndsWithItsContext(t *testing.T) {
	workerBubble(t, func(t *testing.T, c *iii.Client) {
		w, r := channelPair(t, c, iii.WithChannelBuffer(1))
		wrote := heldBack(t, w, r)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if err := w.SendMessage(ctx, "later"); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, iii.ErrChannelClosed) {
			t.Errorf("SendMessage = %v, want the context's error", err)
		}
		synctest.Wait()
		select {
		case err := <-wrote:
			t.Fatalf("the Write that was held back has ended by another caller's context: %v", err)
		default:
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if err := <-wrote; !errors.Is(err, iii.ErrChannelClosed) {
			t.Errorf("the Write that Close broke off = %v, want ErrChannelClosed", err)
		}
	})
}

// A deadline reaches a Write that is under way, and the one that waits behind it.
func TestChannelWriteDeadlineReachesAWriteUnderWay(t *testing.T) {
	for _, test := range []struct {
		name string
		set  []time.Duration // after the start, one second after another
		ends time.Duration
	}{
		{name: "in the future", set: []time.Duration{5 * time.Second}, ends: 5 * time.Second},
		{name: "in the past", set: []time.Duration{-time.Hour}, ends: time.Second},
		{name: "moved on", set: []time.Duration{4 * time.Second, 10 * time.Second}, ends: 10 * time.Second},
		{name: "moved forward", set: []time.Duration{10 * time.Second, 4 * time.Second}, ends: 4 * time.Second},
		{name: "taken away and set again", set: []time.Duration{4 * time.Second, 0, 9 * time.Second}, ends: 9 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			workerBubble(t, func(t *testing.T, c *iii.Client) {
				w, r := channelPair(t, c, iii.WithChannelBuffer(1))
				wrote := heldBack(t, w, r)
				behind := make(chan error, 1)
				go func() {
					_, err := w.Write([]byte("behind"))
					behind <- err
				}()
				began := time.Now()
				for _, after := range test.set {
					time.Sleep(time.Second)
					deadline := began.Add(after)
					if after == 0 {
						deadline = time.Time{}
					}
					if err := w.SetWriteDeadline(deadline); err != nil {
						t.Fatal(err)
					}
				}
				for range 2 {
					var err error
					select {
					case err = <-wrote:
					case err = <-behind:
					}
					if took := time.Since(began); !errors.Is(err, os.ErrDeadlineExceeded) || took != test.ends {
						t.Errorf("a Write ended after %v: %v; want os.ErrDeadlineExceeded after %v", took, err, test.ends)
					}
				}
			})
		})
	}
}

// A message that the reader holds back ends with its context, in the middle of a
// frame, which breaks the channel.
func TestChannelMessageHeldBackEndsWithItsContext(t *testing.T) {
	workerBubble(t, func(t *testing.T, c *iii.Client) {
		w, r := channelPair(t, c, iii.WithChannelBuffer(1))
		if err := w.SendMessage(t.Context(), "first"); err != nil {
			t.Fatal(err)
		}
		for _, err := range r.Messages(t.Context()) { // the reader is there, and reads no more
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		var err error
		for large := strings.Repeat("x", 1<<20); err == nil; {
			err = w.SendMessage(ctx, large)
		}
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, iii.ErrChannelClosed) {
			t.Errorf("SendMessage = %v, want the context's error", err)
		}
		if took := time.Since(began); took != 300*time.Millisecond {
			t.Errorf("SendMessage took %v, want its 300 ms", took)
		}
	})
}

func TestChannelWriteDeadline(t *testing.T) {
	workerBubble(t, func(t *testing.T, c *iii.Client) {
		w, r := channelPair(t, c, iii.WithChannelBuffer(1))
		began := time.Now()
		if err := w.SetWriteDeadline(began.Add(300 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if err := <-heldBack(t, w, r); !errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, iii.ErrChannelClosed) {
			t.Errorf("Write = %v, want os.ErrDeadlineExceeded", err)
		}
		if took := time.Since(began); took != 300*time.Millisecond {
			t.Errorf("Write took %v, want its 300 ms", took)
		}
	})
}

// hangingDial makes connections until hanging is closed; those after that wait for the
// end of their context.
type hangingDial struct {
	once    sync.Once
	hanging chan struct{}
	waits   chan struct{} // closed by the first that waits
	over    chan struct{} // ends their wait
}

func (d *hangingDial) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	select {
	case <-d.hanging:
		d.once.Do(func() { close(d.waits) })
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-d.over:
			return nil, net.ErrClosed
		}
	default:
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
}

// Neither Close nor another caller waits for an end that is being opened.
func TestChannelOpeningHangs(t *testing.T) {
	for _, test := range []struct {
		name string
		use  func(w *iii.ChannelWriter, r *iii.ChannelReader) error
		wait func(ctx context.Context, w *iii.ChannelWriter, r *iii.ChannelReader) error
		end  func(w *iii.ChannelWriter, r *iii.ChannelReader) error
	}{
		{
			"reader",
			func(_ *iii.ChannelWriter, r *iii.ChannelReader) error { _, err := r.Read(make([]byte, 1)); return err },
			func(ctx context.Context, _ *iii.ChannelWriter, r *iii.ChannelReader) (last error) {
				for _, err := range r.Messages(ctx) {
					last = err
				}
				return last
			},
			func(_ *iii.ChannelWriter, r *iii.ChannelReader) error { _ = r.Ref(); return r.Close() },
		},
		{
			"writer",
			func(w *iii.ChannelWriter, _ *iii.ChannelReader) error { _, err := w.Write([]byte("x")); return err },
			func(ctx context.Context, w *iii.ChannelWriter, _ *iii.ChannelReader) error {
				return w.SendMessage(ctx, 1)
			},
			func(w *iii.ChannelWriter, _ *iii.ChannelReader) error { _ = w.Ref(); return w.Close() },
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := &hangingDial{hanging: make(chan struct{}), waits: make(chan struct{}), over: make(chan struct{})}
			w, r := channelPair(t, connected(t, iii.WithDialContext(d.dial)))
			t.Cleanup(func() { close(d.over) }) // before the ends are closed, which opens one that was not used
			close(d.hanging)
			used := make(chan error, 1)
			go func() { used <- test.use(w, r) }()
			<-d.waits
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			defer cancel()
			if err := test.wait(ctx, w, r); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("another caller's error = %v, want his context's", err)
			}
			select {
			case err := <-used:
				t.Fatalf("the first caller has waited no longer than the other one: %v", err)
			default:
			}
			if err := test.end(w, r); err != nil {
				t.Error(err)
			}
			if err := <-used; !errors.Is(err, iii.ErrChannelClosed) {
				t.Errorf("the first caller's error = %v, want ErrChannelClosed", err)
			}
		})
	}
}
