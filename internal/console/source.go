package console

import (
	"encoding/json"
	"time"

	"github.com/iii-go/iii"
)

// Source gives a console access to an engine. Its methods must be safe for concurrent use.
// They return copies, and block the engine only while copying.
type Source interface {
	// Engine returns the properties that do not change while the engine runs.
	Engine() Engine
	// Registry returns the current registrations.
	Registry() Registry
	// Function describes a function, including its schemas. If there is no such function, ok
	// is false.
	Function(namespace, id string) (detail json.RawMessage, ok bool)

	// Changes returns the number of changes so far to each kind of engine data.
	Changes() Changes
	// Spans returns the latest spans, up to limit, oldest first.
	Spans(limit int) []iii.StoredSpan
	// Trace returns a trace's spans in order of arrival.
	Trace(id string) []iii.StoredSpan
	// Logs returns the latest log records, up to limit, newest first. If trace is not empty,
	// Logs returns only records of that trace.
	Logs(trace string, limit int) []json.RawMessage
	// Metrics returns the latest metric exports after since, up to limit, oldest first.
	Metrics(since time.Time, limit int) []Metric

	// Groups returns a store's groups in sorted order.
	Groups(s Store) []Group
	// Items returns up to limit items of a group, in insertion order.
	Items(s Store, stream, group string, limit int) []Item
	// Item returns an item's value.
	Item(s Store, stream, group, key string) (value json.RawMessage, ok bool)
	// Queues returns the queues and the topics' subscriptions in sorted order.
	Queues() []Queue
	// DeadLetters returns the latest dead letters, up to limit, newest first. omitted is the
	// number of dead letters that were not returned.
	DeadLetters(limit int) (list []DeadLetter, omitted int)
	// DeadLetter returns a dead letter. If it no longer exists, ok is false.
	DeadLetter(id string) (d DeadLetter, ok bool)
}

// Store identifies one of the engine's item stores.
type Store int

// Item stores.
const (
	State Store = iota
	Streams
)

// Group is a state scope or a stream group.
type Group struct {
	Stream      string // "" for the state
	Group       string // "" for a stream stored by a worker
	Items       int
	Subscribers []Subscriber // clients subscribed to a group of a stream, in no particular order
	Provider    string       // the worker that stores the stream, or "" for the engine
}

// Subscriber describes a stream socket client's subscription.
type Subscriber struct {
	ID     string
	Item   *string // nil for the whole group
	Client string  // address of the client
}

// Item is an item in a group.
type Item struct {
	Key   string
	Value json.RawMessage
}

// Queue is a named queue, or a topic's jobs for one function or observer group.
type Queue struct {
	Name      string `json:"name"`
	Topic     bool   `json:"topic,omitempty"`
	Namespace string `json:"namespace,omitempty"` // of the function, for a topic
	Function  string `json:"function,omitempty"`
	Group     string `json:"group,omitempty"` // the observers of a topic, instead of a function
	Depth     int    `json:"depth"`           // waiting and running jobs
	InFlight  int    `json:"in_flight"`       // running jobs
	Delayed   int    `json:"delayed"`         // jobs waiting for a retry
	Consumers int    `json:"consumers"`       // triggers of a topic, or the concurrency of a queue
	Dead      int    `json:"dead_letters"`
	Unheard   int    `json:"unheard,omitempty"` // messages published while the topic had no subscriber
}

// DeadLetter is a job whose attempts have all failed.
type DeadLetter struct {
	ID, Queue           string
	Namespace, Function string
	Group               string // the observers of a topic, instead of a function
	Attempts            int
	Error               string // of the last attempt
	FailedAt            time.Time
	Payload             json.RawMessage
}

// Engine holds the properties of an engine that do not change while the engine runs.
type Engine struct {
	Version   string    `json:"version"`
	Started   time.Time `json:"started"`
	WorkerURL string    `json:"worker_url"`
	HTTPURL   string    `json:"http_url"`
	StreamURL string    `json:"stream_url"`
}

// Registry holds the current registrations as listed by the engine's own functions.
type Registry struct {
	Workers   []map[string]any `json:"workers"`
	Functions []map[string]any `json:"functions"`
	Triggers  []map[string]any `json:"triggers"`
	Types     []map[string]any `json:"types"`
	Observers []map[string]any `json:"observers"`
	Local     []map[string]any `json:"local"` // in-process calls made by workers
}

// Changes counts additions and removals for each kind of engine data.
type Changes struct {
	Spans   uint64 `json:"spans"`
	Logs    uint64 `json:"logs"`
	Metrics uint64 `json:"metrics"`
	State   uint64 `json:"state"`
	Streams uint64 `json:"streams"`
	Queues  uint64 `json:"queues"` // changes to queues and dead letters
}

// Metric is a metric in one export.
type Metric struct {
	Service, Name, Description, Unit string
	Type                             string // counter, updowncounter, gauge or histogram
	Delta                            bool   // the values count from the previous export
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
