package iiitest

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
)

// TelemetryFrame is one frame of telemetry as it arrived, on /otel or on a
// worker's own connection.
type TelemetryFrame struct {
	Time   time.Time
	Worker string          // the id of the worker, "" on /otel
	Prefix string          // OTLP, MTRC or LOGS
	Data   json.RawMessage // what followed the prefix
}

// telemetryLog keeps telemetry frames.
type telemetryLog struct {
	mu        sync.Mutex
	limit     int
	list      []TelemetryFrame
	forgotten uint64
}

func (l *telemetryLog) add(worker string, data []byte) {
	if !utf8.Valid(data) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, TelemetryFrame{Time: time.Now(), Worker: worker, Prefix: string(data[:4]), Data: data[4:]})
	if drop := len(l.list) - l.limit; drop > 0 {
		clear(l.list[:drop])
		l.list = l.list[drop:]
		l.forgotten += uint64(drop)
	}
}

// Telemetry lists the telemetry frames that arrived, in order, within the
// bounds of WithTelemetryLimit. The data must not be changed.
func (e *Engine) Telemetry() []TelemetryFrame {
	e.telemetry.mu.Lock()
	defer e.telemetry.mu.Unlock()
	return append([]TelemetryFrame(nil), e.telemetry.list...)
}

// telemetryTag is the tag of a telemetry frame, or "".
func telemetryTag(data []byte) string {
	if len(data) < 4 {
		return ""
	}
	switch tag := string(data[:4]); tag {
	case "OTLP", "MTRC", "LOGS":
		return tag
	default:
		return ""
	}
}

// serveTelemetry is /otel: tagged binary frames and nothing else. A ping is
// answered after what came before it has been taken.
func (e *Engine) serveTelemetry(rw http.ResponseWriter, r *http.Request) {
	conn, err := e.upgrade(rw, r)
	if err != nil {
		return
	}
	defer e.drop(conn)
	for {
		kind, data, err := conn.ReadMessage()
		if err != nil {
			return
		}
		if kind != websocket.BinaryMessage || telemetryTag(data) == "" {
			e.counters.telemetryIgnored.Add(1)
			continue
		}
		e.telemetry.add("", data)
	}
}
