package wsconn

import (
	"bytes"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Expired writes stay expired, even if the WebSocket sets another deadline before the next
// part of the message.
func TestExpiredWritesStayExpired(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	g := &coalescer{Conn: near}
	g.writeThrough()
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

// recorder is a connection that records writes and their sizes.
type recorder struct {
	net.Conn
	sizes []int
	all   []byte
}

func (r *recorder) Write(p []byte) (int, error) {
	r.sizes, r.all = append(r.sizes, len(p)), append(r.all, p...)
	return len(p), nil
}

func (r *recorder) SetWriteDeadline(time.Time) error { return nil }

// Small frames share a write. Large ones are written separately, without a copy. All stay in
// order.
func TestFramesAreCoalescedInOrder(t *testing.T) {
	const k = 1 << 10
	for _, test := range []struct {
		name   string
		frames []int
		writes []int
	}{
		{"small", []int{10, 20, 30}, []int{60}},
		{"many small ones", []int{20 * k, 20 * k, 20 * k, 20 * k, 5}, []int{80 * k, 5}},
		{"large", []int{64 * k, 64 * k, 7}, []int{64 * k, 64 * k, 7}},
		{"large behind small", []int{3, 64 * k, 3}, []int{3, 64 * k, 3}},
		{"medium", []int{40 * k, 40 * k}, []int{40 * k, 40 * k}},
		{"empty", []int{0, 0}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &recorder{}
			g := &coalescer{Conn: r, timeout: time.Second}
			g.coalesce()
			var want []byte
			for i, size := range test.frames {
				frame := bytes.Repeat([]byte{byte('a' + i)}, size)
				if n, err := g.Write(frame); n != size || err != nil {
					t.Fatalf("frame %d: %d, %v", i, n, err)
				}
				want = append(want, frame...)
				clear(frame) // the WebSocket reuses its buffer
			}
			if err := g.Flush(); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(r.all, want) || !slices.Equal(r.sizes, test.writes) {
				t.Errorf("%d bytes in writes of %d, want %d in %d", len(r.all), r.sizes, len(want), test.writes)
			}
		})
	}
}

// A large buffer is pooled as long as messages fill it. A buffer above the limit is never
// pooled.
func TestPooledReadBuffers(t *testing.T) {
	for _, test := range []struct {
		len, cap int
		want     bool
	}{
		{100, smallBuffer + 1, false}, {smallBuffer + 1, 2 * smallBuffer, true}, {smallBuffer + 1, 16 * smallBuffer, false},
		{1 << 20, 2 << 20, true}, {4 << 20, 4 << 20, true}, {4 << 20, 4<<20 + 1, false},
	} {
		if got := poolable(make([]byte, test.len, test.cap)); got != test.want {
			t.Errorf("%d bytes of %d: %t", test.len, test.cap, got)
		}
	}
}

// Each case states how long a write takes to fail if the peer reads nothing or only a few
// bytes per second.
func TestWriteLimits(t *testing.T) {
	for _, test := range []struct {
		name   string
		limit  WriteLimit
		change func(*coalescer) // after two seconds
		reads  int              // bytes that the peer reads per second
		after  time.Duration    // time until the write fails; 0 means that it succeeds
	}{
		{name: "deadline", limit: WriteLimit{Deadline: start.Add(3 * time.Second)}, after: 3 * time.Second},
		{name: "deadline that has passed", limit: WriteLimit{Deadline: start.Add(-time.Second)}, reads: 1 << 20, after: time.Nanosecond},
		{name: "deadline with a peer that reads", limit: WriteLimit{Deadline: start.Add(3 * time.Second)}, reads: 1000, after: 3 * time.Second},
		{name: "stall", limit: WriteLimit{Stall: 3 * time.Second}, after: 3 * time.Second},
		{name: "stall with a peer that reads", limit: WriteLimit{Stall: 3 * time.Second}, reads: 8 << 10},
		{name: "stall with a peer that reads too little", limit: WriteLimit{Stall: 3 * time.Second}, reads: 100, after: 3 * time.Second},
		{name: "deadline before the stall", limit: WriteLimit{Deadline: start.Add(time.Second), Stall: 3 * time.Second}, after: time.Second},
		{name: "no limit", reads: 1000},
		{name: "deadline set during the write", after: 4 * time.Second,
			change: func(g *coalescer) { g.limitWrites(WriteLimit{Deadline: start.Add(4 * time.Second)}) }},
		{name: "deadline passed during the write", after: 2 * time.Second,
			change: func(g *coalescer) { g.limitWrites(WriteLimit{Deadline: start}) }},
		{name: "deadline moved on during the write", limit: WriteLimit{Deadline: start.Add(3 * time.Second)}, after: 6 * time.Second,
			change: func(g *coalescer) { g.limitWrites(WriteLimit{Deadline: start.Add(6 * time.Second)}) }},
		{name: "deadline taken away during the write", limit: WriteLimit{Deadline: start.Add(3 * time.Second)}, reads: 10_000,
			change: func(g *coalescer) { g.limitWrites(WriteLimit{}) }},
		{name: "stall set during the write", after: 5 * time.Second,
			change: func(g *coalescer) { g.limitWrites(WriteLimit{Stall: 3 * time.Second}) }},
		{name: "expired during the write", after: 2 * time.Second, change: func(g *coalescer) { g.expireWrites(true) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				var peer sync.WaitGroup
				defer peer.Wait()
				defer near.Close()
				defer far.Close()
				g := &coalescer{Conn: near}
				g.writeThrough()
				g.limitWrites(test.limit)
				if test.change != nil {
					time.AfterFunc(2*time.Second, func() { test.change(g) })
				}
				if test.reads > 0 {
					peer.Go(func() {
						for err := error(nil); err == nil; _, err = far.Read(make([]byte, test.reads)) {
							time.Sleep(time.Second)
						}
					})
				}
				message := make([]byte, 100_000)
				n, err := g.Write(message)
				if took := time.Since(start); test.after > 0 {
					if !errors.Is(err, os.ErrDeadlineExceeded) || took != test.after.Truncate(time.Second) {
						t.Errorf("Write = %d, %v after %v, want a deadline error after %v", n, err, took, test.after)
					}
				} else if err != nil || n != len(message) {
					t.Errorf("Write = %d, %v after %v, want all", n, err, took)
				}
			})
		})
	}
}

// start is the initial time in a synctest bubble.
var start = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// A control frame's deadline must not apply to messages.
func TestControlFramesHaveTheirOwnDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer near.Close()
		defer far.Close()
		g := &coalescer{Conn: near}
		g.writeThrough()
		g.limitWrites(WriteLimit{Deadline: start.Add(time.Minute)})
		for _, test := range []struct {
			control time.Time
			after   time.Duration
		}{{start.Add(time.Second), time.Second}, {time.Time{}, time.Minute}} {
			_ = g.SetWriteDeadline(test.control)
			if _, err := g.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != test.after {
				t.Errorf("Write = %v after %v, want a deadline error after %v", err, time.Since(start), test.after)
			}
		}
	})
}
