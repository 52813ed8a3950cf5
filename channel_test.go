package iii_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

func connected(t *testing.T, opts ...iii.Option) *iii.Client {
	t.Helper()
	c, err := iii.New(iiitest.Start(t).URL(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func channelPair(t *testing.T, c *iii.Client, opts ...iii.ChannelOption) (*iii.ChannelWriter, *iii.ChannelReader) {
	t.Helper()
	w, r, err := c.CreateChannel(t.Context(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = w.Close(), r.Close() })
	return w, r
}

func TestChannelCarriesBytes(t *testing.T) {
	c := connected(t)
	data := make([]byte, 3<<20+17)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(data)
	for _, test := range []struct {
		name string
		copy func(w *iii.ChannelWriter) error
	}{
		{"Write", func(w *iii.ChannelWriter) error { _, err := w.Write(data); return err }},
		{"io.Copy", func(w *iii.ChannelWriter) error {
			_, err := io.Copy(w, bytes.NewReader(data))
			return err
		}},
		{"ReadFrom", func(w *iii.ChannelWriter) error {
			_, err := w.ReadFrom(struct{ io.Reader }{bytes.NewReader(data)})
			return err
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w, r := channelPair(t, c)
			sent := make(chan error, 1)
			go func() { sent <- errors.Join(test.copy(w), w.Close()) }()
			hash := sha256.New()
			n, err := io.Copy(hash, r)
			if err != nil || n != int64(len(data)) {
				t.Fatalf("read %d bytes, %v; want %d", n, err, len(data))
			}
			if err := <-sent; err != nil {
				t.Error(err)
			}
			want := sha256.Sum256(data)
			if !bytes.Equal(hash.Sum(nil), want[:]) {
				t.Error("the bytes arrived changed")
			}
			if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("Read after the end = %d, %v", n, err)
			}
		})
	}
}

func TestChannelCarriesMessagesBesideBytes(t *testing.T) {
	c := connected(t)
	w, r := channelPair(t, c)
	go func() {
		_, _ = w.Write([]byte("one "))
		_ = w.SendMessage(t.Context(), map[string]int{"n": 1})
		_, _ = w.Write([]byte("two"))
		_ = w.SendMessage(t.Context(), "plain")
		_ = w.Close()
	}()
	text, err := io.ReadAll(r)
	if err != nil || string(text) != "one two" {
		t.Errorf("bytes = %q, %v", text, err)
	}
	var got []string
	for m, err := range r.Messages(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(m))
	}
	if diff := cmp.Diff([]string{`{"n":1}`, `"plain"`}, got); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
}

func TestChannelMessagesStopAtContextAndGoOn(t *testing.T) {
	c := connected(t)
	w, r := channelPair(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for m, err := range r.Messages(ctx) {
		if m != nil || !errors.Is(err, context.Canceled) {
			t.Fatalf("message %s, error %v; want the context's error", m, err)
		}
	}
	go func() { _ = errors.Join(w.SendMessage(t.Context(), 7), w.Close()) }()
	for m, err := range r.Messages(t.Context()) {
		if err != nil || string(m) != "7" {
			t.Errorf("message %s, error %v", m, err)
		}
	}
}

func TestChannelReadDeadlineKeepsTheChannel(t *testing.T) {
	c := connected(t)
	w, r := channelPair(t, c)
	if err := r.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 8)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Read = %v, want a deadline error", err)
	}
	if err := r.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = w.Write([]byte("late")); _ = w.Close() }()
	if b, err := io.ReadAll(r); err != nil || string(b) != "late" {
		t.Errorf("ReadAll = %q, %v", b, err)
	}
}

// Once the channel is full, Write blocks. Closing the writer unblocks it.
func TestChannelBackPressure(t *testing.T) {
	workerBubble(t, func(t *testing.T, c *iii.Client) {
		w, r := channelPair(t, c, iii.WithChannelBuffer(1))
		wrote := heldBack(t, w, r)
		synctest.Wait()
		select {
		case err := <-wrote:
			t.Fatalf("a Write of 64 MiB did not block although nobody reads: %v", err)
		default: // still blocked
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if err := <-wrote; !errors.Is(err, iii.ErrChannelClosed) {
			t.Errorf("blocked Write = %v, want ErrChannelClosed", err)
		}
	})
}

func TestChannelWriterLearnsThatTheReaderIsGone(t *testing.T) {
	c := connected(t)
	w, r := channelPair(t, c)
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	// The engine notices that the reader has disconnected only when it forwards a later frame.
	// The loop writes more than all the buffers along the way can hold.
	var err error
	for frame, i := make([]byte, 64<<10), 0; err == nil && i < 4096; i++ {
		_, err = w.Write(frame)
	}
	if !errors.Is(err, iii.ErrChannelClosed) {
		t.Errorf("Write after the reader has disconnected = %v, want ErrChannelClosed", err)
	}
}

// From engine 0.26 on, a reader can distinguish a writer that has disappeared from one that has
// closed the channel. In either case, it first receives everything that was written.
func TestChannelReaderLearnsThatTheWriterIsGone(t *testing.T) {
	data := strings.Repeat("x", 300_000)
	readers := map[string]func(t *testing.T, r *iii.ChannelReader) (string, error){
		"Read": func(_ *testing.T, r *iii.ChannelReader) (string, error) {
			b, err := io.ReadAll(struct{ io.Reader }{r})
			return string(b), err
		},
		"WriteTo": func(_ *testing.T, r *iii.ChannelReader) (string, error) {
			var b strings.Builder
			_, err := r.WriteTo(&b)
			return b.String(), err
		},
		"Messages": func(t *testing.T, r *iii.ChannelReader) (got string, err error) {
			for m, err := range r.Messages(t.Context()) {
				if err != nil {
					return got, err
				}
				got += string(m[1 : len(m)-1])
			}
			return got, nil
		},
	}
	ends := map[string]struct {
		end  func(c *iii.Client, w *iii.ChannelWriter, cut func())
		gone bool
	}{
		"closed":             {end: func(_ *iii.Client, w *iii.ChannelWriter, _ func()) { _ = w.Close() }},
		"worker closed":      {end: func(c *iii.Client, _ *iii.ChannelWriter, _ func()) { _ = c.Close() }, gone: true},
		"connection was cut": {end: func(_ *iii.Client, _ *iii.ChannelWriter, cut func()) { cut() }, gone: true},
	}
	for _, protocol := range []iiitest.Protocol{iiitest.Protocol023, iiitest.Protocol025, iiitest.Protocol026} {
		for end, test := range ends {
			for read, all := range readers {
				t.Run(protocol.String()+" "+end+" "+read, func(t *testing.T) {
					bubble(t, func(t *testing.T, e *iiitest.Engine) {
						var latest net.Conn
						writing := newWorker(t, e, iii.WithName("writing"), iii.WithDialContext(func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
							latest, err = e.DialContext(ctx, network, addr)
							return latest, err
						}))
						reading := newWorker(t, e, iii.WithName("reading"))
						mustConnect(t, writing)
						mustConnect(t, reading)
						w, r, err := reading.CreateChannel(t.Context())
						if err != nil {
							t.Fatal(err)
						}
						defer r.Close()
						if w, err = writing.OpenWriter(t.Context(), w.Ref()); err != nil {
							t.Fatal(err)
						}
						if read == "Messages" {
							err = w.SendMessage(t.Context(), data)
						} else {
							_, err = io.WriteString(w, data)
						}
						if err != nil {
							t.Fatal(err)
						}
						synctest.Wait()
						test.end(writing, w, func() { _ = latest.Close() })
						var want error
						if test.gone && protocol == iiitest.Protocol026 {
							want = io.ErrUnexpectedEOF
						}
						got, err := all(t, r)
						if got != data || !errors.Is(err, want) {
							t.Errorf("got %d bytes and %v, want %d and %v", len(got), err, len(data), want)
						}
						if err != nil && err.Error() != "iii: channel read: the writer has disconnected: unexpected EOF" {
							t.Errorf("text: %v", err)
						}
					}, iiitest.WithProtocol(protocol))
				})
			}
		}
	}
}

// A client can be closed while a channel has more data than its reader accepts.
func TestChannelWithUnreadDataEndsWithTheClient(t *testing.T) {
	workerBubble(t, func(t *testing.T, c *iii.Client) {
		w, r := channelPair(t, c)
		if err := w.SendMessage(t.Context(), "first"); err != nil {
			t.Fatal(err)
		}
		wrote := make(chan error, 1)
		go func() {
			_, err := w.Write(make([]byte, 16<<20))
			wrote <- err
		}()
		if _, err := r.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the reader's buffer is full
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := <-wrote; !errors.Is(err, iii.ErrChannelClosed) {
			t.Errorf("blocked Write = %v, want ErrChannelClosed", err)
		}
		if _, err := r.Read(make([]byte, 1)); !errors.Is(err, iii.ErrChannelClosed) {
			t.Errorf("Read = %v, want ErrChannelClosed", err)
		}
	})
}

// Closing an unused writer ends the channel, unless the writer's reference was passed on.
func TestChannelUnusedWriterEnds(t *testing.T) {
	c := connected(t)
	w, r := channelPair(t, c)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); err != nil || len(b) != 0 {
		t.Errorf("ReadAll = %q, %v", b, err)
	}

	w, r = channelPair(t, c)
	other, err := c.OpenWriter(t.Context(), w.Ref())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = other.Write([]byte("mine")); _ = other.Close() }()
	if b, err := io.ReadAll(r); err != nil || string(b) != "mine" {
		t.Errorf("ReadAll = %q, %v", b, err)
	}
}

func TestChannelErrors(t *testing.T) {
	c := connected(t)
	unknown := iii.StreamChannelRef{ChannelID: "00000000-0000-4000-8000-000000000000", AccessKey: "secret-key", Direction: "read"}
	_, err := c.OpenReader(t.Context(), unknown)
	if !errors.Is(err, iii.ErrChannelNotFound) {
		t.Errorf("OpenReader of an unknown channel = %v", err)
	}
	if err != nil && bytes.Contains([]byte(err.Error()), []byte("secret-key")) {
		t.Errorf("the access key is in the error: %v", err)
	}
	if _, err := c.OpenWriter(t.Context(), iii.StreamChannelRef{}); err == nil {
		t.Error("OpenWriter of an empty reference succeeds")
	}
	if _, _, err := c.CreateChannel(t.Context(), iii.WithChannelBuffer(0)); err == nil {
		t.Error("WithChannelBuffer(0) is accepted")
	}
	w, r := channelPair(t, c)
	if _, err := r.Read(nil); err != nil {
		t.Error(err)
	}
	if _, err := c.OpenReader(t.Context(), w.Ref()); err == nil || !strings.Contains(err.Error(), "writing end") {
		t.Errorf("OpenReader of the writing end = %v", err)
	}
	if _, err := c.OpenWriter(t.Context(), r.Ref()); err == nil || !strings.Contains(err.Error(), "reading end") {
		t.Errorf("OpenWriter of the reading end = %v", err)
	}
	first, err := c.OpenReader(t.Context(), r.Ref())
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.OpenReader(t.Context(), r.Ref())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("Read from a channel that has a reader = %v, want io.EOF", err)
	}
	if err := w.SendMessage(t.Context(), func() {}); err == nil {
		t.Error("no error for a message that cannot be encoded")
	}
	_, _ = first.Close(), again.Close()
	if _, err := first.Read(make([]byte, 1)); !errors.Is(err, iii.ErrChannelClosed) {
		t.Errorf("Read after Close = %v", err)
	}
}

func TestChannelBetweenWorkers(t *testing.T) {
	e := iiitest.Start(t)
	dial := func() *iii.Client {
		c, err := iii.New(e.URL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	server, client := dial(), dial()
	type file struct {
		Content iii.StreamChannelRef `json:"content"`
	}
	if _, err := iii.Handle(server, "files::size", func(ctx context.Context, in file) (int, error) {
		r, err := server.OpenReader(ctx, in.Content)
		if err != nil {
			return 0, err
		}
		defer r.Close()
		n, err := io.Copy(io.Discard, r)
		return int(n), err
	}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*iii.Client{server, client} {
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	w, r := channelPair(t, client)
	go func() { _, _ = w.Write(make([]byte, 200_000)); _ = w.Close() }()
	size, err := iii.Call[int](t.Context(), client, "files::size", file{r.Ref()})
	if err != nil || size != 200_000 {
		t.Errorf("size = %d, %v", size, err)
	}

	w, _ = channelPair(t, client)
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	_ = client.Close()
	if _, err := w.Write([]byte("y")); !errors.Is(err, iii.ErrChannelClosed) {
		t.Errorf("Write after the client closed = %v", err)
	}
}

func TestChannelRefsAreJSON(t *testing.T) {
	ref := iii.StreamChannelRef{ChannelID: "c", AccessKey: "k", Direction: "read"}
	b, err := json.Marshal(ref)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"access_key":"k","channel_id":"c","direction":"read"}`; string(b) != want {
		t.Errorf("encoded %s, want %s", b, want)
	}
}

// heldBack starts a large Write that blocks because nobody reads. The returned channel
// receives the error from Write.
func heldBack(t *testing.T, w *iii.ChannelWriter, r *iii.ChannelReader) <-chan error {
	t.Helper()
	wrote := make(chan error, 1)
	go func() {
		_, err := w.Write(make([]byte, 64<<20))
		wrote <- err
	}()
	// Once one frame has arrived, the Write is in progress.
	if _, err := io.ReadFull(r, make([]byte, 64<<10)); err != nil {
		t.Fatal(err)
	}
	return wrote
}

// A SendMessage behind a blocked Write returns when its own context expires. The Write stays
// blocked.
func TestChannelSendMessageBehindBlockedWrite(t *testing.T) {
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
			t.Fatalf("the blocked Write returned when another caller's context was done: %v", err)
		default:
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if err := <-wrote; !errors.Is(err, iii.ErrChannelClosed) {
			t.Errorf("the Write interrupted by Close = %v, want ErrChannelClosed", err)
		}
	})
}

// When the deadline passes, both the Write in progress and the Write queued behind it fail.
func TestChannelWriteDeadlineDuringWrite(t *testing.T) {
	for _, test := range []struct {
		name string
		set  []time.Duration // deadlines relative to the start, set one second apart; 0 clears the deadline
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
						t.Errorf("a Write returned after %v: %v; want os.ErrDeadlineExceeded after %v", took, err, test.ends)
					}
				}
			})
		})
	}
}

// If SendMessage's context expires in the middle of a frame, SendMessage fails and the channel
// is broken.
func TestChannelSendMessageExpiresMidFrame(t *testing.T) {
	workerBubble(t, func(t *testing.T, c *iii.Client) {
		w, r := channelPair(t, c, iii.WithChannelBuffer(1))
		if err := w.SendMessage(t.Context(), "first"); err != nil {
			t.Fatal(err)
		}
		for _, err := range r.Messages(t.Context()) { // connects the reader, which then stops reading
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

// hangingDial dials normally until d.hanging is closed. After that, each dial blocks until its
// context is done or d.over is closed.
type hangingDial struct {
	once    sync.Once
	hanging chan struct{}
	waits   chan struct{} // closed when the first dial blocks
	over    chan struct{} // unblocks all dials
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

// While one call opens the connection, other calls honor their contexts and Close returns.
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
			t.Cleanup(func() { close(d.over) }) // runs before the channel is closed, because closing an unused end dials
			close(d.hanging)
			used := make(chan error, 1)
			go func() { used <- test.use(w, r) }()
			<-d.waits
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			defer cancel()
			if err := test.wait(ctx, w, r); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the second caller's error = %v, want that of its context", err)
			}
			select {
			case err := <-used:
				t.Fatalf("the first caller returned together with the second: %v", err)
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

func refAt(path, id string) iii.ChannelRefAt {
	return iii.ChannelRefAt{Path: path, Ref: iii.StreamChannelRef{ChannelID: id, AccessKey: "k", Direction: "read"}}
}

func TestChannelRefs(t *testing.T) {
	ref := func(id string) string { return `{"channel_id":"` + id + `","access_key":"k","direction":"read"}` }
	tests := map[string]struct {
		payload string
		want    []iii.ChannelRefAt
	}{
		"itself":               {ref("c"), []iii.ChannelRefAt{refAt("", "c")}},
		"member":               {`{"a":` + ref("c") + `}`, []iii.ChannelRefAt{refAt("a", "c")}},
		"element":              {`[1,` + ref("c") + `,[[]],` + ref("d") + `]`, []iii.ChannelRefAt{refAt("[1]", "c"), refAt("[3]", "d")}},
		"deep":                 {`{"x":0,"a":{"b":[{"c":` + ref("1") + `},{"c":null,"d":` + ref("2") + `}]}}`, []iii.ChannelRefAt{refAt("a.b[0].c", "1"), refAt("a.b[1].d", "2")}},
		"any order, more keys": {`{"direction":"read","more":[{}],"access_key":"k","channel_id":"c"}`, []iii.ChannelRefAt{refAt("", "c")}},
		"escaped key":          {`{"channel\u005fid":"c","access_key":"k","direction":"read"}`, []iii.ChannelRefAt{refAt("", "c")}},
		"inside another":       {`{"channel_id":"c","in":[` + ref("inner") + `],"access_key":"k","direction":"read"}`, []iii.ChannelRefAt{refAt("", "c")}},
		"twice a key":          {`{"channel_id":1,"channel_id":"c","access_key":"k","direction":"read"}`, []iii.ChannelRefAt{refAt("", "c")}},
		"twice, then none":     {`{"channel_id":"c","channel_id":{},"access_key":"k","direction":"read"}`, nil},
		"no direction":         {`{"channel_id":"c","access_key":"k"}`, nil},
		"number":               {`{"channel_id":1,"access_key":"k","direction":"read"}`, nil},
		"null":                 {`{"channel_id":"c","access_key":null,"direction":"read"}`, nil},
		"not a member":         {`["channel_id","access_key","direction"]`, nil},
		"numbers":              {`[1e999,-0.5,` + ref("c") + `]`, []iii.ChannelRefAt{refAt("[2]", "c")}},
		"odd keys":             {`{"":{"a.b":` + ref("c") + `}}`, []iii.ChannelRefAt{refAt("a.b", "c")}},
		"scalar":               {`"x"`, nil},
		"nothing":              {``, nil},
		"no JSON":              {`{"a":` + ref("c"), nil},
		"more than one":        {ref("c") + ref("d"), nil},
		"too deep":             {strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000), nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, iii.ChannelRefs(json.RawMessage(tt.payload))); diff != "" {
				t.Errorf("references (-want +got):\n%s", diff)
			}
		})
	}
}

func TestChannelRefsAsRecorded(t *testing.T) {
	paths := map[string]int{}
	for _, name := range []string{"channels", "http-streaming", "http-triggers"} {
		for _, e := range readRecording(t, name) {
			f := frameOf(t, e)
			for _, raw := range []json.RawMessage{f.Data, f.Result} {
				found := iii.ChannelRefs(raw)
				for _, at := range found {
					paths[at.Path]++
				}
				if n := strings.Count(string(raw), `"access_key"`); n != len(found) {
					t.Errorf("%s:%d: %d of %d references", name, e.line, len(found), n)
				}
			}
		}
	}
	if paths["reader"] == 0 || paths["writer"] == 0 || paths["request_body"] == 0 || paths["response"] == 0 {
		t.Errorf("paths: %v", paths)
	}
}

// referencesIn is a recursive reference implementation of ChannelRefs for decoded JSON.
func referencesIn(v any, path string, found *[]string) {
	switch v := v.(type) {
	case map[string]any:
		if isReference(v) {
			*found = append(*found, path)
			return
		}
		for key, member := range v {
			at := path + "." + key
			if path == "" {
				at = key
			}
			referencesIn(member, at, found)
		}
	case []any:
		for i, element := range v {
			referencesIn(element, fmt.Sprintf("%s[%d]", path, i), found)
		}
	}
}

func isReference(object map[string]any) bool {
	for _, key := range []string{"channel_id", "access_key", "direction"} {
		if _, ok := object[key].(string); !ok {
			return false
		}
	}
	return true
}

func FuzzChannelRefs(f *testing.F) {
	for _, seed := range []string{
		`{"a":{"b":[{"c":{"channel_id":"c","access_key":"k","direction":"read"}}]}}`,
		`[{"channel_id":"c","access_key":"k","direction":"write","more":{"channel_id":"d","access_key":"k","direction":"read"}},1e999]`,
		`{"channel_id":"c","channel_id":2}`, `"\ud800"`, `{"":{"":0}}`, `[`, ` null `,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		got := iii.ChannelRefs(payload)
		var doc any
		d := json.NewDecoder(strings.NewReader(string(payload)))
		d.UseNumber()
		if d.Decode(&doc) != nil || d.More() {
			if !json.Valid(payload) && got != nil {
				t.Errorf("%q is not JSON, but contains %+v", payload, got)
			}
			return
		}
		if !json.Valid(payload) {
			return
		}
		var want []string
		referencesIn(doc, "", &want)
		paths := map[string]int{}
		for _, path := range want {
			paths[path]++
		}
		for _, at := range got {
			paths[at.Path]--
		}
		for path, n := range paths {
			if n != 0 && !strings.Contains(string(payload), strings.Repeat("[", 100)) { // ChannelRefs does not descend further
				t.Errorf("%q: path %q is missing %d times; found %+v", payload, path, n, got)
			}
		}
	})
}

// benchFrame is the size of the frames into which a channel splits bytes.
const benchFrame = 64 << 10

// BenchmarkChannelCopy measures io.Copy from a channel's writer to its reader. The baseline
// uses the WebSocket library alone: one goroutine writes 64 KiB binary frames to a connection,
// and another goroutine reads them from a second connection into a reused buffer. Both
// variants use the same server, over TCP on the loopback interface, so the difference between
// them is the cost of ChannelWriter and ChannelReader. The "relay" server only forwards
// frames. Like an engine, it buffers up to 64 of them. The "engine" server is the development
// engine. Everything runs in one process, so the results include the server's cost.
func BenchmarkChannelCopy(b *testing.B) {
	for _, via := range []struct {
		name string
		open func(b *testing.B) (url string, newRefs func() (writer, reader iii.StreamChannelRef))
	}{{"relay", benchRelay}, {"engine", benchEngine}} {
		for _, ends := range []struct {
			name string
			open func(b *testing.B, base string, writer, reader iii.StreamChannelRef) (io.WriteCloser, io.Reader)
		}{{"bare", bareEnds}, {"channel", channelEnds}} {
			b.Run(via.name+"/"+ends.name, func(b *testing.B) {
				base, newRefs := via.open(b)
				writer, reader := newRefs()
				w, r := ends.open(b, base, writer, reader)
				b.SetBytes(benchFrame)
				b.ReportAllocs()
				b.ResetTimer()
				wrote := make(chan error, 1)
				go func() {
					_, err := io.Copy(w, io.LimitReader(zeros{}, int64(b.N)*benchFrame))
					if closeErr := w.Close(); err == nil {
						err = closeErr
					}
					wrote <- err
				}()
				n, err := io.Copy(io.Discard, r)
				if err != nil || n != int64(b.N)*benchFrame {
					b.Errorf("read %d bytes of %d: %v", n, int64(b.N)*benchFrame, err)
				}
				b.StopTimer()
				if err := <-wrote; err != nil {
					b.Error(err)
				}
			})
		}
	}
}

// BenchmarkChannelRead reads 64 KiB frames through small buffers, as parsers do.
func BenchmarkChannelRead(b *testing.B) {
	for _, size := range []int{32, 512, 4096} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			base, newRefs := benchRelay(b)
			writer, reader := newRefs()
			w, r := channelEnds(b, base, writer, reader)
			b.SetBytes(benchFrame)
			b.ReportAllocs()
			b.ResetTimer()
			go func() {
				_, _ = io.Copy(w, io.LimitReader(zeros{}, int64(b.N)*benchFrame))
				_ = w.Close()
			}()
			n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, make([]byte, size))
			if err != nil || n != int64(b.N)*benchFrame {
				b.Errorf("read %d bytes of %d: %v", n, int64(b.N)*benchFrame, err)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func channelEnds(b *testing.B, base string, writer, reader iii.StreamChannelRef) (io.WriteCloser, io.Reader) {
	c, err := iii.New(base)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	w, err := c.OpenWriter(b.Context(), writer)
	if err != nil {
		b.Fatal(err)
	}
	r, err := c.OpenReader(b.Context(), reader)
	if err != nil {
		b.Fatal(err)
	}
	return w, r
}

// bareEnds opens both ends of a channel with the WebSocket library alone.
func bareEnds(b *testing.B, base string, writer, reader iii.StreamChannelRef) (io.WriteCloser, io.Reader) {
	open := func(ref iii.StreamChannelRef, direction string) *websocket.Conn {
		d := websocket.Dialer{ReadBufferSize: benchFrame, WriteBufferSize: benchFrame}
		query := url.Values{"key": {ref.AccessKey}, "dir": {direction}}
		conn, _, err := d.DialContext(b.Context(), base+"/ws/channels/"+ref.ChannelID+"?"+query.Encode(), nil)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	return bareWriter{open(writer, "write")}, &bareReader{conn: open(reader, "read")}
}

type bareWriter struct{ conn *websocket.Conn }

func (w bareWriter) Write(p []byte) (int, error) {
	return len(p), w.conn.WriteMessage(websocket.BinaryMessage, p)
}

// ReadFrom makes io.Copy write frames of 64 KiB.
func (w bareWriter) ReadFrom(src io.Reader) (n int64, err error) {
	buf := make([]byte, benchFrame)
	for {
		k, err := src.Read(buf)
		if err == io.EOF {
			return n, nil
		}
		if err == nil {
			_, err = w.Write(buf[:k])
		}
		if err != nil {
			return n, err
		}
		n += int64(k)
	}
}

func (w bareWriter) Close() error {
	end := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	return w.conn.WriteMessage(websocket.CloseMessage, end)
}

type bareReader struct{ conn *websocket.Conn }

func (r *bareReader) Read([]byte) (int, error) { panic("io.Copy uses WriteTo") }

func (r *bareReader) WriteTo(dst io.Writer) (n int64, err error) {
	buf := make([]byte, benchFrame)
	for {
		_, frame, err := r.conn.NextReader()
		if websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseNoStatusReceived) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		k, err := io.ReadFull(frame, buf)
		if err != nil {
			return n, err
		}
		if _, err := dst.Write(buf[:k]); err != nil {
			return n, err
		}
		n += int64(k)
	}
}

// benchEngine starts a development engine. It returns the engine's address and a function that
// creates channels.
func benchEngine(b *testing.B) (string, func() (writer, reader iii.StreamChannelRef)) {
	e := iiitest.Start(b)
	return e.URL(), func() (iii.StreamChannelRef, iii.StreamChannelRef) {
		c, err := iii.New(e.URL())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = c.Close() })
		if err := c.Connect(b.Context()); err != nil {
			b.Fatal(err)
		}
		w, r, err := c.CreateChannel(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		return w.Ref(), r.Ref()
	}
}

// benchRelay starts a server that forwards frames from one writer to one reader. It returns
// the same values as benchEngine.
func benchRelay(b *testing.B) (string, func() (writer, reader iii.StreamChannelRef)) {
	ctx, cancel := context.WithCancel(b.Context())
	frames := make(chan []byte, 64)
	spare := make(chan []byte, 64+2)
	up := websocket.Upgrader{ReadBufferSize: benchFrame, WriteBufferSize: benchFrame}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		defer stop()
		if r.URL.Query().Get("dir") == "read" {
			for f := range frames {
				if conn.WriteMessage(websocket.BinaryMessage, f) != nil {
					return
				}
				select {
				case spare <- f:
				default:
				}
			}
			_ = conn.WriteMessage(websocket.CloseMessage, nil)
			return
		}
		defer close(frames)
		for {
			_, src, err := conn.NextReader()
			if err != nil {
				return
			}
			var buf []byte
			select {
			case buf = <-spare:
			default:
				buf = make([]byte, benchFrame)
			}
			n, err := io.ReadFull(src, buf[:benchFrame])
			if err != nil && err != io.ErrUnexpectedEOF {
				return
			}
			select {
			case frames <- buf[:n]:
			case <-ctx.Done():
				return
			}
		}
	}))
	b.Cleanup(func() { cancel(); server.Close() })
	ref := func(direction iii.StreamChannelDirection) iii.StreamChannelRef {
		return iii.StreamChannelRef{ChannelID: "c", AccessKey: "k", Direction: direction}
	}
	return "ws" + strings.TrimPrefix(server.URL, "http"), func() (writer, reader iii.StreamChannelRef) {
		return ref("write"), ref("read")
	}
}

// From engine 0.26 on, the reader gets an error if the writer disappears without closing the
// channel. With earlier engines, it gets io.EOF, as if the writer had closed the channel.
func TestChannelReaderLearnsThatTheWriterDisappeared(t *testing.T) {
	for protocol, want := range map[iiitest.Protocol]error{
		iiitest.Protocol023: io.EOF, iiitest.Protocol025: io.EOF, iiitest.Protocol026: io.ErrUnexpectedEOF,
	} {
		t.Run(protocol.String(), func(t *testing.T) {
			e := iiitest.Start(t, iiitest.WithProtocol(protocol))
			var latest net.Conn
			c, err := iii.New(e.URL(), iii.WithDialContext(func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := e.DialContext(ctx, network, addr)
				latest = conn
				return conn, err
			}))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			for name, end := range map[string]func(w *iii.ChannelWriter) error{
				"closed":      (*iii.ChannelWriter).Close,
				"disappeared": func(*iii.ChannelWriter) error { return latest.Close() },
			} {
				w, r := channelPair(t, c)
				if _, err := w.Write([]byte("abc")); err != nil { // opens the latest connection
					t.Fatal(err)
				}
				if err := end(w); err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(r) // returns nil for io.EOF
				lost := name == "disappeared" && want != io.EOF
				if string(got) != "abc" || lost != errors.Is(err, want) || !lost && err != nil {
					t.Errorf("%s: read %q, %v; want \"abc\", %v", name, got, err, want)
				}
			}
		})
	}
}

// lateClose delays Close frames by a second.
type lateClose struct{ net.Conn }

func (c lateClose) Write(p []byte) (int, error) {
	const finalClose = 0x88
	if len(p) > 0 && p[0] == finalClose {
		time.Sleep(time.Second)
	}
	return c.Conn.Write(p)
}

// If two goroutines close a writer, the reader still receives the end of the data, and both
// calls wait for it.
func TestChannelWriterClosedTwiceAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		c := connect(t, e, iii.WithDialContext(func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := e.DialContext(ctx, network, addr)
			return lateClose{conn}, err
		}))
		w, r := channelPair(t, c)
		if _, err := w.Write([]byte("abc")); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		closed := make(chan error)
		for range 2 {
			go func() { closed <- w.Close() }()
			synctest.Wait()
		}
		for range 2 {
			if err := <-closed; err != nil || time.Since(began) != time.Second {
				t.Errorf("Close = %v after %v", err, time.Since(began))
			}
		}
		if got, err := io.ReadAll(r); string(got) != "abc" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
	})
}

// Like a call, opening an end of a channel fails with ErrClosed after Close.
func TestChannelOfClosedClient(t *testing.T) {
	c := connected(t)
	w, r, err := c.CreateChannel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	_, writeErr := w.Write([]byte("x"))
	_, readErr := r.Read(make([]byte, 1))
	_, openWriterErr := c.OpenWriter(t.Context(), w.Ref())
	_, openReaderErr := c.OpenReader(t.Context(), r.Ref())
	_, _, createErr := c.CreateChannel(t.Context())
	for name, err := range map[string]error{"Write": writeErr, "Read": readErr, "OpenWriter": openWriterErr,
		"OpenReader": openReaderErr, "CreateChannel": createErr} {
		if !errors.Is(err, iii.ErrClosed) {
			t.Errorf("%s = %v, want ErrClosed", name, err)
		}
	}
}

// If the connection is lost before the engine has confirmed the end of the data, Close says so,
// because the data may be lost, too.
func TestChannelWriterCloseReportsALostConnection(t *testing.T) {
	for _, kind := range []faultKind{writeFails, writeTorn, readFails, readEnds} {
		for _, before := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/before=%v", kind, before), func(t *testing.T) {
				bubble(t, func(t *testing.T, e *iiitest.Engine) {
					line := &faultLine{kind: kind, at: math.MaxInt}
					c := connect(t, e, iii.WithDialContext(line.over(e.DialContext)))
					w, r, err := c.CreateChannel(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					if _, err := w.Write([]byte("data")); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					if before { // the reader has failed when Close begins
						line.cut()
						synctest.Wait()
					} else {
						line.next()
					}
					if err := w.Close(); !errors.Is(err, iii.ErrChannelClosed) || !strings.HasPrefix(err.Error(), "iii: channel close: ") {
						t.Errorf("Close = %v, want ErrChannelClosed", err)
					}
					if err := w.Close(); err != nil {
						t.Errorf("second Close = %v", err)
					}
					_ = r.Close()
				})
			})
		}
	}
}
