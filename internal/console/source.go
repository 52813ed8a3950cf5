package console

import (
	"encoding/json"
	"time"

	"github.com/iii-go/iii"
)

// Source gives a console access to an engine. The methods must be safe for concurrent
// use; they copy their results and block the engine no longer than that takes.
type Source interface {
	// Engine returns the properties that do not change while the engine runs.
	Engine() Engine
	// Registry returns the current registrations.
	Registry() Registry
	// Function describes one function with its schemas. ok is false if it does not
	// exist.
	Function(namespace, id string) (detail json.RawMessage, ok bool)

	// Changes returns counters of changes to the stores.
	Changes() Changes
	// Spans returns the newest spans, at most limit, oldest first.
	Spans(limit int) []iii.StoredSpan
	// Trace returns the spans of one trace in the order of arrival.
	Trace(id string) []iii.StoredSpan
	// Logs returns the newest records, at most limit, newest first. If trace is not
	// empty, it returns only records of that trace.
	Logs(trace string, limit int) []json.RawMessage
	// Metrics returns the exports of metrics after since, oldest first; if there are
	// more than limit, the newest of them.
	Metrics(since time.Time, limit int) []Metric
}

// Engine holds the properties of an engine that do not change while it runs.
type Engine struct {
	Version   string    `json:"version"`
	Started   time.Time `json:"started"`
	WorkerURL string    `json:"worker_url"`
	HTTPURL   string    `json:"http_url"`
	StreamURL string    `json:"stream_url"`
}

// Registry holds the current registrations in the form of the engine's own listings.
type Registry struct {
	Workers   []map[string]any `json:"workers"`
	Functions []map[string]any `json:"functions"`
	Triggers  []map[string]any `json:"triggers"`
	Types     []map[string]any `json:"types"`
	Observers []map[string]any `json:"observers"`
	Local     []map[string]any `json:"local"` // calls that workers have made in process
}

// Changes counts additions to, and removals from, the stores.
type Changes struct {
	Spans   uint64 `json:"spans"`
	Logs    uint64 `json:"logs"`
	Metrics uint64 `json:"metrics"`
}

// Metric is one export of a metric.
type Metric struct {
	Service, Name, Description, Unit string
	Type                             string // counter, updowncounter, gauge or histogram
	Delta                            bool   // whether the values count from the last export
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
