package console

import (
	"encoding/json"
	"time"

	"github.com/iii-go/iii"
)

// Source is the engine that a console shows. Its methods may be called from several
// goroutines at once; they copy, and hold the engine up for no longer than that.
type Source interface {
	// Engine tells what does not change while the engine runs.
	Engine() Engine
	// Registry tells what is registered now.
	Registry() Registry
	// Function describes one function, with its schemas; ok is false for one that
	// is not there.
	Function(namespace, id string) (detail json.RawMessage, ok bool)

	// Changes counts changes of what the engine has stored.
	Changes() Changes
	// Spans are the newest spans, at most limit, oldest first.
	Spans(limit int) []iii.StoredSpan
	// Trace is the spans of one trace, in the order of their arrival.
	Trace(id string) []iii.StoredSpan
	// Logs are the newest records, at most limit, newest first; with a trace only
	// those that belong to it.
	Logs(trace string, limit int) []json.RawMessage
	// Metrics are the exports of metrics since then, oldest first, the newest limit
	// of them.
	Metrics(since time.Time, limit int) []Metric
}

// Engine is what does not change while an engine runs.
type Engine struct {
	Version   string    `json:"version"`
	Started   time.Time `json:"started"`
	WorkerURL string    `json:"worker_url"`
	HTTPURL   string    `json:"http_url"`
	StreamURL string    `json:"stream_url"`
}

// Registry is what is registered, in the form of the engine's own listings.
type Registry struct {
	Workers   []map[string]any `json:"workers"`
	Functions []map[string]any `json:"functions"`
	Triggers  []map[string]any `json:"triggers"`
	Types     []map[string]any `json:"types"`
	Observers []map[string]any `json:"observers"`
	Local     []map[string]any `json:"local"` // calls that workers have made in process
}

// Changes counts what was added to, or taken from, the stores.
type Changes struct {
	Spans   uint64 `json:"spans"`
	Logs    uint64 `json:"logs"`
	Metrics uint64 `json:"metrics"`
}

// Metric is one export of a metric.
type Metric struct {
	Service, Name, Description, Unit string
	Type                             string // counter, updowncounter, gauge or histogram
	Delta                            bool   // the values count since the last export
	At                               time.Time
	Points                           []Point
}

// Point is a data point of a metric: a number, or a histogram with buckets.
type Point struct {
	Attributes []iii.StoredAttribute
	Value      float64

	Count   uint64
	Sum     float64
	Bounds  []float64
	Buckets []uint64
}
