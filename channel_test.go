package iii_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// connected is a client of a development engine of its own.
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

// A full channel holds the writer back, and a Close from elsewhere frees it.
func TestChannelBackPressure(t *testing.T) {
	workerBubble(t, func(t *testing.T, c *iii.Client) {
		w, r := channelPair(t, c, iii.WithChannelBuffer(1))
		wrote := heldBack(t, w, r)
		synctest.Wait()
		select {
		case err := <-wrote:
			t.Fatalf("64 MiB went into a channel of one frame that nobody reads: %v", err)
		default: // it waits
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if err := <-wrote; !errors.Is(err, iii.ErrChannelClosed) {
			t.Errorf("the Write that waited = %v, want ErrChannelClosed", err)
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
	// The engine notices at a later frame. These are more than all buffers on the way
	// hold, so that the writer cannot be through with them before.
	var err error
	for frame, i := make([]byte, 64<<10), 0; err == nil && i < 4096; i++ {
		_, err = w.Write(frame)
	}
	if !errors.Is(err, iii.ErrChannelClosed) {
		t.Errorf("Write after the reader has gone = %v, want ErrChannelClosed", err)
	}
}

// A writer that never wrote still ends its channel, unless it was given away.
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
		t.Errorf("Read of an end that was taken = %v, want io.EOF", err)
	}
	if err := w.SendMessage(t.Context(), func() {}); err == nil {
		t.Error("a message that does not encode is sent")
	}
	_, _ = first.Close(), again.Close()
	if _, err := first.Read(make([]byte, 1)); !errors.Is(err, iii.ErrChannelClosed) {
		t.Errorf("Read after Close = %v", err)
	}
}

// Channels end with their client, and travel inside payloads.
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
