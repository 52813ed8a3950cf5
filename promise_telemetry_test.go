package iii

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/iii-go/iii/internal/enginetest"
	"github.com/iii-go/iii/internal/otlpjson"
)

// R13: everything that was recorded arrives, though the engine's side is killed a
// hundred times in the middle of flushes.
func TestR13TelemetryArrives(t *testing.T) {
	for _, kind := range []string{"before the frame", "after the frame", "pong lost"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { recordWhileKilled(t, newOtelPeer(t, otelScript{}), kind) })
		})
	}
	t.Run("tcp", func(t *testing.T) { recordWhileKilled(t, newTCPOtelPeer(t, otelScript{}), "after the frame") })
}

func recordWhileKilled(t *testing.T, p *otelPeer, kind string) {
	const kills = 100
	var seen atomic.Int64
	n := 0
	p.script.frame = func(c *otelConn, _ []byte) bool {
		if count := seen.Add(1); c.n < kills && kind != "pong lost" && count%23 == 0 {
			c.kill()
			return kind == "after the frame"
		}
		return true
	}
	p.script.ping = func(c *otelConn, _ []byte) bool {
		if c.n < kills && kind == "pong lost" && c.pings == 3 {
			c.kill()
			return true
		}
		return false
	}
	tel := p.telemetry(OtelConfig{ReconnectionConfig: &ReconnectionConfig{InitialDelayMs: 1, MaxDelayMs: 5}})
	counter, err := tel.Meter().Int64Counter("c")
	if err != nil {
		t.Fatal(err)
	}
	killed := func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.conns) > kills
	}
	for ; n < 1500 || n < 15_000 && !killed(); n++ {
		ctx, span := tel.Tracer().Start(t.Context(), fmt.Sprint(n))
		tel.Logger().Info(ctx, fmt.Sprint(n), nil)
		counter.Add(ctx, 1)
		span.End()
		if n%50 == 49 {
			if err := tel.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	stats := tel.Connection().Stats()
	if stats.Reconnects < kills {
		t.Errorf("%d kills, want %d", stats.Reconnects, kills)
	}
	spans, logs, metrics := map[any]int{}, map[any]int{}, map[any]int{}
	_, docs := p.documents(t)
	for _, doc := range docs {
		enginetest.Each(doc, []string{"resourceSpans", "scopeSpans", "spans"}, func(s any) {
			if enginetest.At(s, "endTimeUnixNano") != "0" {
				spans[enginetest.At(s, "name")]++
			}
		})
		enginetest.Each(doc, []string{"resourceLogs", "scopeLogs", "logRecords"}, func(r any) { logs[enginetest.At(r, "body", "stringValue")]++ })
		enginetest.Each(doc, []string{"resourceMetrics", "scopeMetrics", "metrics"}, func(m any) { metrics[enginetest.At(m, "sum", "dataPoints", 0, "asInt")]++ })
	}
	lost := 0
	for i := range n {
		for _, records := range []map[any]int{spans, logs} {
			if records[fmt.Sprint(i)] == 0 {
				lost++
			}
		}
	}
	if lost > 0 || metrics[fmt.Sprint(n)] == 0 || len(metrics) < n/50 {
		t.Errorf("%d spans and logs were lost; %d states of the counter came", lost, len(metrics))
	}
	if stats.Dropped() != 0 || stats.Lost != (RecordLosses{}) {
		t.Errorf("stats: %+v", stats)
	}
	t.Logf("%d kills: of %d spans, %d log records and %d metrics %d were lost; %d frames of %d were sent again",
		stats.Reconnects, n, n, n/50+1, lost, stats.Retried, stats.Sent)
}

// R14: Flush returns only after the pong to a ping that was sent behind the last
// frame: an earlier one says nothing of it.
func TestR14FlushMeansReceived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type heldPing struct {
			payload []byte
			frames  int // that had come before it
		}
		var mu sync.Mutex
		var held []heldPing
		frames := 0
		p := newOtelPeer(t, otelScript{
			frame: func(*otelConn, []byte) bool {
				mu.Lock()
				defer mu.Unlock()
				frames++
				return true
			},
			ping: func(_ *otelConn, payload []byte) bool {
				mu.Lock()
				defer mu.Unlock()
				held = append(held, heldPing{append([]byte{}, payload...), frames})
				return true
			},
		})
		tel := p.telemetry(OtelConfig{})
		emitLog(tel, t.Context(), "early")
		c := p.conn(0)
		synctest.Wait()
		for i := range 20 {
			_, span := tel.Tracer().Start(t.Context(), fmt.Sprint(i))
			span.End()
			emitLog(tel, t.Context(), fmt.Sprint(i))
		}
		flushed := make(chan error, 1)
		go func() { flushed <- tel.Flush(t.Context()) }()
		last, answered := 0, 0
		for {
			synctest.Wait()
			mu.Lock()
			pings, all := held, frames
			mu.Unlock()
			if answered == len(pings) {
				break
			}
			if len(flushed) > 0 && last < all {
				t.Fatalf("Flush returned; the last pong was to a ping behind frame %d of %d", last, all)
			}
			last = pings[answered].frames
			if answered > 0 && bytes.Equal(pings[answered].payload, pings[answered-1].payload) {
				t.Errorf("two pings behind frame %d", last)
			}
			c.pong(pings[answered].payload)
			answered++
		}
		if err := <-flushed; err != nil {
			t.Fatal(err)
		}
		if answered < 2 || last != frames || frames < 42 {
			t.Errorf("%d pings, the last behind frame %d of %d", answered, last, frames)
		}
		t.Logf("%d frames, %d pings", frames, answered)
	})
}

// R15: recording does not wait for the network: while the engine does not read, and
// while there is none, no time goes by, though the queues are full. How long a
// record takes is what BenchmarkLogRecord measures.
func TestR15RecordingNeverWaits(t *testing.T) {
	for _, away := range []bool{false, true} {
		t.Run(fmt.Sprintf("away=%v", away), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newOtelPeer(t, otelScript{})
				var tel *Telemetry
				cfg := OtelConfig{ChannelCapacity: ptr(uint64(10))}
				if away {
					p.close()
					tel = p.telemetry(cfg)
				} else {
					tel = p.telemetry(cfg)
					defer p.conn(0).StopReading()()
				}
				counter, err := tel.Meter().Int64Counter("c")
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				for range 10_000 {
					ctx, span := tel.Tracer().Start(t.Context(), "s")
					tel.Logger().Info(ctx, "hello", map[string]int{"n": 1})
					counter.Add(ctx, 1)
					span.End()
				}
				if took := time.Since(began); took != 0 {
					t.Errorf("recording waited for %v", took)
				}
				if stats := tel.Connection().Stats(); stats.Logs.Full+stats.Traces.Full+stats.Lost.Overflowed == 0 {
					t.Errorf("nothing was full: %+v", stats)
				}
			})
		})
	}
}

// R19: no secret of the address, the headers or a variable is in an error or in
// what is logged about telemetry.
func TestR19NoSecretOfTelemetryIsTold(t *testing.T) {
	found := &collector{secrets: suite.secrets}
	log := slog.New(slog.NewJSONHandler(found, &slog.HandlerOptions{Level: slog.LevelDebug}))
	handler := otel.GetErrorHandler()
	defer otel.SetErrorHandler(handler)
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { found.note(err) }))

	for _, address := range secretAddresses {
		_, err := NewSharedEngineConnection(address)
		if found.note(err) == nil {
			t.Errorf("%q is taken", address)
		}
		_, err = StartTelemetry(t.Context(), OtelConfig{EngineWSURL: &address})
		found.note(err)
		t.Setenv("III_URL", address)
		_, err = StartTelemetry(t.Context(), OtelConfig{})
		found.note(err)
	}
	clearTelemetryEnv(t)
	for _, name := range telemetryVariables {
		// OpenTelemetry itself tells what is wrong in its own variable.
		if name != "III_URL" && name != "OTEL_RESOURCE_ATTRIBUTES" {
			t.Setenv(name, "="+secretHeader+","+secretPassword)
		}
	}

	refuse := func(status int) func(int, *http.Request) int { return func(int, *http.Request) int { return status } }
	greet := func(text string) func(*otelConn) {
		return func(c *otelConn) {
			_ = c.WriteFrame(enginetest.OpText, true, []byte(text))
			c.kill()
		}
	}
	for name, script := range map[string]otelScript{
		"redirected": {refuse: refuse(301)}, "not authenticated": {refuse: refuse(401)}, "failing": {refuse: refuse(500)},
		"refused": {greet: greet(`{"type":"error","error":{"code":"AUTH_ERROR","message":"who are you?"}}`)},
		"odd":     {greet: greet("\x00")}, "cut": {greet: (*otelConn).kill},
		"silent": {ping: func(*otelConn, []byte) bool { return true }},
	} {
		for _, logged := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s logged=%v", name, logged), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					sent := false
					refuses := script.refuse
					script.refuse = func(n int, r *http.Request) int {
						_, password, _ := r.BasicAuth()
						sent = sent || r.Header.Get("X-Api-Key") == secretHeader && password == secretPassword && r.URL.Query().Get("token") == secretQuery
						if refuses != nil {
							return refuses(n, r)
						}
						return 0
					}
					p := newOtelPeer(t, script)
					options := []ConnectionOption{
						WithConnectionDialContext(p.mem.DialContext), WithConnectionHeader(http.Header{"X-Api-Key": {secretHeader}}),
						WithConnectionStateListener(func(_ ConnectionState, err error) { found.note(err) }), WithConnectionQueue(2, 1<<20),
					}
					if logged {
						options = append(options, WithConnectionLogger(log))
					}
					tel, err := StartTelemetry(t.Context(), OtelConfig{
						EngineWSURL: ptr("ws://user:" + secretPassword + "@engine.test/path?token=" + secretQuery), Enabled: ptr(true), LogsEnabled: ptr(true),
					}, WithTelemetryConnection(options...))
					if err != nil {
						t.Fatal(err)
					}
					for range 5 {
						emitLog(tel, t.Context(), "hello")
					}
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					defer cancel()
					found.note(tel.Flush(ctx))
					found.note(tel.Shutdown(t.Context()))
					found.note(tel.Connection().Send(OtelMessage{Prefix: otlpjson.PrefixLogs}))
					found.note(fmt.Errorf("%+v %v", tel.Connection().Stats(), tel.Connection().State()))
					if !sent {
						t.Error("the secrets were not sent: the test shows nothing")
					}
				})
			})
		}
	}
	lines, leaks := found.result()
	if lines < 100 {
		t.Errorf("%d log lines and errors: the test shows nothing", lines)
	}
	if len(leaks) > 0 {
		t.Errorf("secrets are told:\n%s", strings.Join(leaks, "\n"))
	}
	t.Logf("%d log lines and errors", lines)
}

// The start of a span comes before its end, and once at most, whatever happens:
// the connection dies again and again, the queue overflows, spans are long and short.
func TestLiveSpanPrecedesTheFinishedSpan(t *testing.T) {
	var starts, ends, dropped, kills uint64
	for seed := range uint64(scale(25, 1000)) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 9))
			p := newOtelPeer(t, otelScript{})
			var mu sync.Mutex
			killing := rand.New(rand.NewPCG(seed, 10)) // of the goroutines that read
			p.script.frame = func(c *otelConn, _ []byte) bool {
				mu.Lock()
				defer mu.Unlock()
				if c.n < 20 && killing.IntN(30) == 0 {
					c.kill()
					return killing.IntN(2) == 0
				}
				return true
			}
			tel := p.telemetry(OtelConfig{
				SpansFlushIntervalMs: ptr(random.Uint64N(20)), ChannelCapacity: ptr(5 + random.Uint64N(60)),
				ReconnectionConfig: &ReconnectionConfig{InitialDelayMs: 1, MaxDelayMs: 4, MaxPendingMessages: random.Uint64N(20)},
			})
			var workers sync.WaitGroup
			for range 4 {
				own := rand.New(rand.NewPCG(random.Uint64(), 11))
				workers.Go(func() {
					for range 60 {
						_, span := tel.Tracer().Start(t.Context(), "s")
						if own.IntN(3) > 0 {
							time.Sleep(time.Duration(own.IntN(3000)) * time.Microsecond)
						}
						span.End()
					}
				})
			}
			workers.Wait()
			_ = tel.Shutdown(t.Context()) // what the overflow has cost is an error
			started, ended := map[any]int{}, map[any]bool{}
			_, docs := p.documents(t)
			for _, doc := range docs {
				enginetest.Each(doc, []string{"resourceSpans", "scopeSpans", "spans"}, func(s any) {
					id := enginetest.At(s, "spanId")
					switch {
					case enginetest.At(s, "endTimeUnixNano") != "0":
						ended[id] = true
					case ended[id]:
						t.Errorf("seed %d: the start of span %v came after its end", seed, id)
					default:
						if started[id]++; started[id] > 1 {
							t.Errorf("seed %d: the start of span %v came twice", seed, id)
						}
					}
				})
			}
			stats := tel.Connection().Stats()
			starts, ends = starts+uint64(len(started)), ends+uint64(len(ended))
			dropped, kills = dropped+stats.LiveSpans.Frames()+stats.Traces.Frames(), kills+stats.Reconnects
		})
		if t.Failed() {
			return
		}
	}
	if starts == 0 || ends == 0 || dropped == 0 || kills == 0 {
		t.Error("nothing was started, ended, dropped or killed: the test shows nothing")
	}
	t.Logf("%d starts and %d ends came; %d frames were dropped, %d connections killed", starts, ends, dropped, kills)
}

// What is too large for one frame leaves in several, and each record comes once.
func TestTelemetrySplitsLargeBatches(t *testing.T) {
	p := newOtelPeer(t, otelScript{})
	tel := p.telemetry(OtelConfig{LiveSpans: ptr(false), LogsBatchSize: ptr(uint64(512)), LogsFlushIntervalMs: ptr(uint64(3_600_000)), SpansFlushIntervalMs: ptr(uint64(3_600_000))})
	const n = 50
	for i := range n {
		text := strings.Repeat("x", 240_000+i*1000)
		_, span := tel.Tracer().Start(t.Context(), fmt.Sprint(i), trace.WithAttributes(attribute.String("text", text)))
		span.End()
		tel.Logger().Info(t.Context(), fmt.Sprint(i), text)
	}
	if err := tel.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	prefixes, docs := p.documents(t)
	for _, doc := range docs {
		enginetest.Each(doc, []string{"resourceSpans", "scopeSpans", "spans"}, func(s any) { seen[fmt.Sprint("span ", enginetest.At(s, "name"))]++ })
		enginetest.Each(doc, []string{"resourceLogs", "scopeLogs", "logRecords"}, func(r any) { seen[fmt.Sprint("log ", enginetest.At(r, "body", "stringValue"))]++ })
	}
	want := map[string]int{}
	for i := range n {
		want[fmt.Sprint("span ", i)], want[fmt.Sprint("log ", i)] = 1, 1
	}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("records by how often they came (-want +got):\n%s", diff)
	}
	if stats := tel.Connection().Stats(); len(prefixes) < 4 || stats.Reconnects != 0 || stats.Lost != (RecordLosses{}) {
		t.Errorf("%d frames, stats %+v", len(prefixes), stats)
	}
}

// A peer that takes nothing for long is given up by the deadline of a write, and
// nothing is lost.
func TestTelemetryWriteDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newOtelPeer(t, otelScript{})
		s := p.connection()
		c := p.conn(0)
		resume := c.StopReading()
		defer resume()
		began := time.Now()
		var want []string
		for i := range 3 {
			data := strings.Repeat(fmt.Sprint(i), 1<<20)
			want = append(want, otlpjson.PrefixLogs+data)
			if err := s.Send(OtelMessage{Prefix: otlpjson.PrefixLogs, Data: []byte(data)}); err != nil {
				t.Fatal(err)
			}
		}
		p.conn(1)
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("the connection was given up after %v", took)
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, p.received()); diff != "" {
			t.Errorf("frames differ")
		}
	})
}

// A dial that never ends is given up, and tried again.
func TestTelemetryDialDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newOtelPeer(t, otelScript{})
		began, attempts := time.Now(), 0
		var second time.Duration
		dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
			if attempts++; attempts == 1 {
				<-ctx.Done()
				return nil, errors.Join(os.ErrDeadlineExceeded, ctx.Err())
			}
			second = time.Since(began)
			return p.mem.DialContext(ctx, network, addr)
		}
		s := p.connection(WithConnectionDialContext(dial))
		sendLogs(t, s, 0, 3)
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if second < 10*time.Second || second > 12*time.Second {
			t.Errorf("the second attempt came after %v, want after the 10 s of the first and a delay", second)
		}
		if diff := cmp.Diff(wantLogs(0, 3), p.received()); diff != "" {
			t.Errorf("frames (-want +got):\n%s", diff)
		}
	})
}
