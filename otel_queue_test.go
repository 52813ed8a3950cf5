package iii

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii/internal/otlpjson"
	"github.com/iii-go/iii/internal/wsconn"
)

func testQueue(frames, bytes, away int) *telemetryQueue {
	return &telemetryQueue{maxFrames: frames, maxBytes: bytes, maxOffline: away}
}

func fakeTelemetryLink() *telemetryLink {
	return &telemetryLink{Conn: wsconn.Over(nil)}
}

// frameOf parses a frame such as "live:a", "metrics:a", "traces:a" or "logs:a".
func frameOf(tb testing.TB, s string) otlpjson.Frame {
	tb.Helper()
	signal, name, _ := strings.Cut(s, ":")
	f := otlpjson.Frame{Data: []byte(name), Records: 1}
	switch signal {
	case "live":
		f.Prefix, f.Live = otlpjson.PrefixTraces, true
	case "traces":
		f.Prefix = otlpjson.PrefixTraces
	case "metrics":
		f.Prefix = otlpjson.PrefixMetrics
	case "logs":
		f.Prefix = otlpjson.PrefixLogs
	default:
		tb.Fatalf("no signal in %q", s)
	}
	return f
}

func namesOf(frames []queuedFrame) []string {
	var names []string
	for _, f := range frames {
		names = append(names, string(f.Data))
	}
	return names
}

// takeAll takes frames until the window is full or the queue is empty.
func takeAll(q *telemetryQueue, l *telemetryLink) []string {
	var all []queuedFrame
	for {
		n := len(all)
		if all, _, _ = q.take(l, all); len(all) == n {
			return namesOf(all)
		}
	}
}

func TestQueueShedsByClass(t *testing.T) {
	tests := []struct {
		name   string
		frames int // limit on frames
		bytes  int // limit on bytes
		put    string
		want   string // queued frames, in order
		full   string // rejected frames
		drops  [signals]uint64
	}{
		{"room", 4, 1000, "live:a metrics:b traces:c logs:d", "a b c d", "", [signals]uint64{}},
		{"live goes first", 3, 1000, "traces:a live:b metrics:c logs:d", "a c d", "", [signals]uint64{signalLive: 1}},
		{"then metrics", 3, 1000, "traces:a metrics:b logs:c logs:d", "a c d", "", [signals]uint64{signalMetrics: 1}},
		{"then the oldest", 3, 1000, "traces:a logs:b traces:c logs:d", "b c d", "", [signals]uint64{signalTraces: 1}},
		{"logs and traces are one class", 2, 1000, "logs:a traces:b logs:c traces:d", "c d", "", [signals]uint64{signalLogs: 1, signalTraces: 1}},
		{"live makes room for itself alone", 2, 1000, "live:a logs:b live:c", "b c", "", [signals]uint64{signalLive: 1}},
		{"no live over metrics", 2, 1000, "metrics:a logs:b live:c", "a b", "c", [signals]uint64{signalLive: 1}},
		{"no metrics over logs", 2, 1000, "traces:a logs:b metrics:c", "a b", "c", [signals]uint64{signalMetrics: 1}},
		{"metrics over live", 2, 1000, "live:a logs:b metrics:c", "b c", "", [signals]uint64{signalLive: 1}},
		{"by bytes", 100, 3 * 14, "logs:0123456789 logs:a123456789 logs:b123456789 logs:c", "a123456789 b123456789 c", "", [signals]uint64{signalLogs: 1}},
		{"several for one", 100, 3 * 14, "metrics:0123456789 live:a123456789 logs:b123456789 logs:" + strings.Repeat("x", 24), "b123456789 " + strings.Repeat("x", 24), "", [signals]uint64{signalLive: 1, signalMetrics: 1}},
		{"nothing is shed in vain", 100, 40, "live:a metrics:b logs:0123456789 metrics:" + strings.Repeat("x", 30), "a b 0123456789", strings.Repeat("x", 30), [signals]uint64{signalMetrics: 1}},
		{"larger than the queue", 100, 40, "logs:a logs:" + strings.Repeat("x", 40), "a", strings.Repeat("x", 40), [signals]uint64{signalLogs: 1}},
	}
	for _, tt := range tests {
		for _, connected := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/connected=%v", tt.name, connected), func(t *testing.T) {
				q := testQueue(tt.frames, tt.bytes, 0)
				q.starting = true // keep span starts
				l := fakeTelemetryLink()
				if connected {
					q.attach(l)
				}
				var full []string
				for _, s := range strings.Fields(tt.put) {
					switch err := q.enqueue(frameOf(t, s)); {
					case errors.Is(err, ErrBufferFull):
						full = append(full, strings.SplitN(s, ":", 2)[1])
					case err != nil:
						t.Fatal(err)
					}
				}
				if !connected {
					q.attach(l)
				}
				if diff := cmp.Diff(strings.Fields(tt.want), takeAll(q, l)); diff != "" {
					t.Errorf("left (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(strings.Fields(tt.full), full, cmp.Transformer("nil", func(s []string) string { return strings.Join(s, " ") })); diff != "" {
					t.Errorf("refused (-want +got):\n%s", diff)
				}
				for signal, want := range tt.drops {
					if got := q.stats.drops[signal]; got.Full != want || got.Frames() != want || got.Records != want {
						t.Errorf("drops of signal %d: %+v, want %d", signal, got, want)
					}
				}
			})
		}
	}
}

func TestQueueRejectsFrames(t *testing.T) {
	q := testQueue(10, 128<<20, 0)
	if err := q.enqueue(otlpjson.Frame{Prefix: otlpjson.PrefixLogs, Data: make([]byte, messageTooLarge)}); !errors.Is(err, ErrMessageTooLarge) {
		t.Errorf("64 MiB: %v, want ErrMessageTooLarge", err)
	}
	q.refuse(ErrConnectionClosed, true)
	q.refuse(errors.New("later"), false)
	if err := q.enqueue(frameOf(t, "logs:a")); !errors.Is(err, ErrConnectionClosed) || !errors.Is(err, ErrClosed) {
		t.Errorf("after closing: %v, want ErrConnectionClosed", err)
	}
	var s ConnectionStats
	q.read(&s)
	if diff := cmp.Diff(DroppedFrames{Full: 1, Closed: 1, Records: 1}, s.Logs); diff != "" {
		t.Errorf("drops (-want +got):\n%s", diff)
	}
}

func TestQueueWithoutLink(t *testing.T) {
	q := testQueue(10, 1000, 3)
	q.starting = true
	put := func(list string) {
		t.Helper()
		for _, s := range strings.Fields(list) {
			if err := q.enqueue(frameOf(t, s)); err != nil {
				t.Fatal(err)
			}
		}
	}
	put("live:a logs:b")
	q.dialFailed()   // the first failed attempt drops span starts
	put("live:c")    // dropped for the same reason
	put("logs:d")    // fits
	put("metrics:e") // reaches the offline limit
	put("logs:f")    // replaces the metrics
	l1 := fakeTelemetryLink()
	q.attach(l1)
	put("live:g logs:h logs:i metrics:j")
	if diff := cmp.Diff(strings.Fields("b d f g h i j"), takeAll(q, l1)); diff != "" {
		t.Errorf("first link (-want +got):\n%s", diff)
	}
	put("live:k logs:l")
	q.confirm(l1, 2) // confirms only b
	q.detach(l1)     // drops the span starts g and k; of the rest, the three newest of the highest class stay
	l2 := fakeTelemetryLink()
	q.attach(l2)
	put("logs:m")
	if diff := cmp.Diff(strings.Fields("h i l m"), takeAll(q, l2)); diff != "" {
		t.Errorf("second link (-want +got):\n%s", diff)
	}
	var s ConnectionStats
	q.read(&s)
	want := ConnectionStats{
		Sent: 11, BytesSent: 11 * 5, Confirmed: 1, Retried: 2, Queued: 4, QueuedBytes: 4 * 5,
		LiveSpans: DroppedFrames{NotConnected: 4, Records: 4},
		Metrics:   DroppedFrames{Full: 2, Records: 2},
		Logs:      DroppedFrames{Full: 2, Records: 2},
	}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
}

// A frame that is shed while it is in flight is counted as dropped, unless the pong arrives
// before the connection breaks.
func TestQueueShedsInFlight(t *testing.T) {
	for _, confirmed := range []bool{true, false} {
		t.Run(fmt.Sprintf("confirmed=%v", confirmed), func(t *testing.T) {
			q := testQueue(2, 1000, 0)
			l := fakeTelemetryLink()
			q.attach(l)
			for i := range 2 {
				if err := q.enqueue(frameOf(t, fmt.Sprint("logs:", i))); err != nil {
					t.Fatal(err)
				}
			}
			takeAll(q, l)
			if err := q.enqueue(frameOf(t, "logs:2")); err != nil {
				t.Fatal(err)
			}
			var s ConnectionStats
			if q.read(&s); s.Logs.Full != 1 || s.Queued != 2 {
				t.Errorf("before: %+v", s)
			}
			want := ConnectionStats{Sent: 2, BytesSent: 10, Queued: 2, QueuedBytes: 10, Logs: DroppedFrames{Full: 1, Records: 1}}
			if confirmed {
				q.confirm(l, 2)
				want = ConnectionStats{Sent: 2, BytesSent: 10, Confirmed: 2, Queued: 1, QueuedBytes: 5}
			} else {
				q.detach(l)
			}
			s = ConnectionStats{}
			q.read(&s)
			if diff := cmp.Diff(want, s); diff != "" {
				t.Errorf("after (-want +got):\n%s", diff)
			}
		})
	}
}

func TestQueueIgnoresUnexpectedPongs(t *testing.T) {
	q := testQueue(10, 1000, 0)
	old, l := fakeTelemetryLink(), fakeTelemetryLink()
	q.attach(l)
	for i := range 3 {
		if err := q.enqueue(frameOf(t, fmt.Sprint("logs:", i))); err != nil {
			t.Fatal(err)
		}
	}
	batch, ping, number := q.take(l, nil)
	if len(batch) != 3 || !ping || number != 3 {
		t.Fatalf("took %d frames, ping %v of %d", len(batch), ping, number)
	}
	q.confirm(old, 3) // pong from another link
	q.confirm(l, 4)   // pong without a ping
	q.confirm(l, 1<<63)
	if got := q.confirmed(); got != 0 {
		t.Errorf("%d frames were confirmed by unexpected pongs", got)
	}
	q.confirm(l, 2)
	q.confirm(l, 1) // late pong
	q.confirm(l, 3)
	q.confirm(l, 3)
	if got := q.confirmed(); got != 3 {
		t.Errorf("%d frames confirmed, want 3", got)
	}
}

// Under random operations, every frame is accounted for, the limits hold and the order is
// kept. A span start is never sent twice, and never after its span has ended.
func TestQueueAccountsForEveryFrame(t *testing.T) {
	for seed := range uint64(scale(200, 5000)) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		limit, bytes, away := 1+rnd.IntN(40), 20+rnd.IntN(400), rnd.IntN(30)
		q := testQueue(limit, bytes, away)
		q.starting = true
		var l *telemetryLink
		var accepted, refused uint64
		wrote := map[string]int{}
		var lastOfLink uint64
		var batch []queuedFrame
		for step := range 400 {
			switch n := rnd.IntN(20); {
			case n < 12:
				signal := []string{"live", "metrics", "traces", "logs"}[rnd.IntN(4)]
				f := frameOf(t, signal+":"+fmt.Sprint(step)+strings.Repeat("x", rnd.IntN(30)))
				live := f.Live && l == nil && !q.starting
				switch err := q.enqueue(f); {
				case err == nil && !live:
					accepted++
				case err == nil || errors.Is(err, ErrBufferFull):
					refused++
				default:
					t.Fatal(err)
				}
			case n < 16 && l != nil:
				batch, _, _ = q.take(l, batch[:0])
				for _, f := range batch {
					if f.number <= lastOfLink {
						t.Fatalf("seed %d step %d: frame %d after frame %d", seed, step, f.number, lastOfLink)
					}
					lastOfLink = f.number
					wrote[string(f.Data)]++
					if f.Live && wrote[string(f.Data)] > 1 {
						t.Fatalf("seed %d step %d: the start of a span was sent twice", seed, step)
					}
				}
			case n < 18 && l != nil:
				if l.pinged > 0 {
					q.confirm(l, rnd.Uint64N(l.pinged)+1)
				}
			case n == 18 && l != nil:
				q.detach(l)
				l = nil
			case n == 19 && l == nil:
				if rnd.IntN(2) == 0 {
					q.dialFailed()
				} else {
					l, lastOfLink = fakeTelemetryLink(), 0
					q.attach(l)
				}
			}
			var s ConnectionStats
			q.read(&s)
			dropped := s.Dropped() + s.LiveSpans.Frames()
			if books := s.Confirmed + dropped + uint64(s.Queued); books != accepted+refused {
				t.Fatalf("seed %d step %d: accepted %d, refused %d, accounted %d: %+v", seed, step, accepted, refused, books, s)
			}
			if s.Queued > limit || s.QueuedBytes > bytes || l == nil && away > 0 && s.Queued > away {
				t.Fatalf("seed %d step %d: %d frames, %d bytes, limits %d, %d, %d", seed, step, s.Queued, s.QueuedBytes, limit, bytes, away)
			}
		}
		if l != nil {
			q.detach(l)
		}
		q.refuse(ErrConnectionClosed, true)
		q.close()
		var s ConnectionStats
		q.read(&s)
		if s.Queued != 0 || s.QueuedBytes != 0 || s.Confirmed+s.Dropped()+s.LiveSpans.Frames() != accepted+refused {
			t.Fatalf("seed %d: after the end: %+v", seed, s)
		}
	}
}

// Span starts do not cause a ping, unless a flush is waiting or a lot of data is in flight.
func TestQueuePingsOnlyForFramesThatAreResent(t *testing.T) {
	q, l := testQueue(10_000, 1<<20, 0), fakeTelemetryLink()
	q.attach(l)
	put := func(s string, n int) {
		t.Helper()
		for range n {
			if err := q.enqueue(frameOf(t, s)); err != nil {
				t.Fatal(err)
			}
		}
	}
	pings := func() (n int) {
		batch, ping, _ := q.take(l, nil)
		for _, f := range batch {
			if f.ping {
				n++
			}
		}
		if ping {
			n++
		}
		return n
	}
	put("live:a", 100)
	if n := pings(); n != 0 {
		t.Errorf("%d pings after span starts", n)
	}
	put("live:b", 3)
	put("traces:c", 1)
	if n := pings(); n != 1 || l.pinged != 104 {
		t.Errorf("%d pings after a span, the last after frame %d", n, l.pinged)
	}
	q.confirm(l, 104)
	put("live:d", 2)
	if n := pings(); n != 0 {
		t.Errorf("%d pings after span starts", n)
	}
	w := q.addFlushWaiter()
	if n := pings(); n != 1 || l.pinged != 106 {
		t.Errorf("%d pings for a flush, the last after frame %d", n, l.pinged)
	}
	q.confirm(l, 106)
	<-w.done
	put("live:e", maxFlightFrames)
	if n := pings(); n == 0 || n > maxFlightFrames/2/pingFrames+1 {
		t.Errorf("%d pings after as many span starts as may be in flight", n)
	}
}

// BenchmarkEnqueue measures adding a frame to a queue with room and to a full queue.
func BenchmarkEnqueue(b *testing.B) {
	frame := otlpjson.Frame{Prefix: otlpjson.PrefixLogs, Data: make([]byte, 500), Records: 1}
	b.Run("room", func(b *testing.B) {
		q, l := testQueue(defaultTelemetryFrames, defaultTelemetryBytes, 0), fakeTelemetryLink()
		q.attach(l)
		var batch []queuedFrame
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if err := q.enqueue(frame); err != nil {
				b.Fatal(err)
			}
			if i%100 == 99 {
				batch, _, _ = q.take(l, batch[:0])
				q.confirm(l, q.last)
			}
		}
	})
	for _, inFlight := range []bool{false, true} {
		name := "full"
		if inFlight {
			name = "full and in flight"
		}
		b.Run(name, func(b *testing.B) {
			q := testQueue(defaultTelemetryFrames, defaultTelemetryBytes, 0)
			for range defaultTelemetryFrames {
				if err := q.enqueue(frame); err != nil {
					b.Fatal(err)
				}
			}
			if inFlight {
				l := fakeTelemetryLink()
				q.attach(l)
				takeAll(q, l)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := q.enqueue(frame); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
