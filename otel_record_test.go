package iii

import (
	"slices"
	"testing"
	"time"

	"github.com/iii-go/iii/internal/otlpjson"
)

// timeLogs writes n records one by one and returns how long each took.
func timeLogs(tb testing.TB, l *Logger, n int) []time.Duration {
	data := map[string]any{"order_id": "ord_123", "amount": 49.99}
	took := make([]time.Duration, n)
	for i := range took {
		began := time.Now()
		l.Info(tb.Context(), "Order processed", data)
		took[i] = time.Since(began)
	}
	return took
}

// percentile sorts.
func percentile(took []time.Duration, p float64) time.Duration {
	slices.Sort(took)
	return took[int(float64(len(took)-1)*p)]
}

// exporters are telemetries whose records leave at once, do not leave since the
// engine does not read, and since there is none. The queues of the latter are full.
func exporters(tb testing.TB) map[string]*Telemetry {
	tb.Helper()
	reading, stuck, away := newOtelPeer(tb, otelScript{}), newOtelPeer(tb, otelScript{}), newOtelPeer(tb, otelScript{})
	reading.script.frame = func(*otelConn, []byte) bool { return false }
	all := map[string]*Telemetry{"unblocked": reading.telemetry(OtelConfig{})}
	all["blocked"] = stuck.telemetry(OtelConfig{})
	resume := stuck.conn(0).StopReading()
	tb.Cleanup(resume)
	away.close()
	all["no engine"] = away.telemetry(OtelConfig{})
	for _, name := range []string{"blocked", "no engine"} {
		for all[name].conn.Stats().Logs.Full == 0 {
			timeLogs(tb, all[name].Logger(), 1000)
		}
	}
	return all
}

// BenchmarkLogRecord is what one record costs its writer: with an engine that reads,
// one that does not, and none.
func BenchmarkLogRecord(b *testing.B) {
	for name, tel := range exporters(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			took := timeLogs(b, tel.Logger(), b.N)
			b.ReportMetric(float64(percentile(took, 0.5)), "p50-ns")
			b.ReportMetric(float64(percentile(took, 0.99)), "p99-ns")
		})
	}
}

// BenchmarkEnqueue is what a frame costs its sender: while there is room, and
// when each sheds another.
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
				batch, _ = q.take(l, batch[:0])
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
