package iii

import (
	"fmt"
	"sync/atomic"

	"github.com/iii-go/iii/internal/otlpjson"
)

// RecordLosses are counters of what did not become part of a frame, since the
// connection was made. What was lost with whole frames is in [DroppedFrames].
type RecordLosses struct {
	Overflowed uint64 // spans and log records that came faster than they could be encoded, or after Shutdown
	Shortened  uint64 // records of which something was cut to fit a frame of 8 MiB
	TooLarge   uint64 // records that did not fit even so
	NonFinite  uint64 // data points, and figures of histograms, that are NaN or infinite: JSON has no such numbers
	Unknown    uint64 // metrics of a kind that this package does not know
}

// describe appends what there is to say.
func (l RecordLosses) describe(parts []string) []string {
	for _, loss := range []struct {
		n    uint64
		what string
	}{
		{l.Overflowed, "records that came too fast or too late"},
		{l.Shortened, "records shortened to fit a frame"},
		{l.TooLarge, "records too large for a frame"},
		{l.NonFinite, "numbers that are NaN or infinite"},
		{l.Unknown, "metrics of unknown kinds"},
	} {
		if loss.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", loss.n, loss.what))
		}
	}
	return parts
}

// telemetryLosses counts RecordLosses.
type telemetryLosses struct {
	overflowed, shortened, tooLarge, nonFinite, unknown atomic.Uint64

	said func() // called when a record was lost; must not block
}

func (l *telemetryLosses) overflow(n int) {
	l.overflowed.Add(uint64(n))
	l.said()
}

// note adds what an encoder has lost.
func (l *telemetryLosses) note(lost otlpjson.Losses) {
	if lost == (otlpjson.Losses{}) {
		return
	}
	l.shortened.Add(uint64(lost.Cut))
	l.tooLarge.Add(uint64(lost.Records))
	l.nonFinite.Add(uint64(lost.Points + lost.Values))
	l.unknown.Add(uint64(lost.Metrics))
	l.said()
}

func (l *telemetryLosses) read() RecordLosses {
	return RecordLosses{
		Overflowed: l.overflowed.Load(),
		Shortened:  l.shortened.Load(),
		TooLarge:   l.tooLarge.Load(),
		NonFinite:  l.nonFinite.Load(),
		Unknown:    l.unknown.Load(),
	}
}
