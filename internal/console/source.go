package console

import (
	"encoding/json"
	"time"

	"github.com/iii-go/iii"
)

// Source gives a console access to an engine. The methods must be safe for concurrent use.
// They return copies, and block the engine only while they copy.
type Source interface {
	// Engine returns the properties that do not change while the engine runs.
	Engine() Engine
	// Registry returns the current registrations.
	Registry() Registry
	// Function describes a function, including its schemas. ok is false if the function does
	// not exist.
	Function(namespace, id string) (detail json.RawMessage, ok bool)

	// Changes returns counters of the changes to each store.
	Changes() Changes
	// Spans returns the newest spans, oldest first, and at most limit of them.
	Spans(limit int) []iii.StoredSpan
	// Trace returns the spans of one trace in the order of arrival.
	Trace(id string) []iii.StoredSpan
	// Logs returns the newest log records, newest first, and at most limit of them. If trace
	// is not empty, it returns only records of that trace.
	Logs(trace string, limit int) []json.RawMessage
	// Metrics returns the exports of metrics after since, oldest first. If there are more than
	// limit, it returns only the newest of them.
	Metrics(since time.Time, limit int) []Metric

	// Groups returns the groups of a store, sorted.
	Groups(s Store) []Group
	// Items returns the items of a group in the order of their insertion, and at most limit of
	// them.
	Items(s Store, stream, group string, limit int) []Item
	// Item returns the value of an item.
	Item(s Store, stream, group, key string) (value json.RawMessage, ok bool)
	// Queues returns the queues and the subscriptions of topics, sorted.
	Queues() []Queue
	// DeadLetters returns the newest dead letters, newest first, and at most limit of them.
	// left is the number of further dead letters.
	DeadLetters(limit int) (list []DeadLetter, left int)
	// DeadLetter returns a dead letter. ok is false if the dead letter no longer exists.
	DeadLetter(id string) (d DeadLetter, ok bool)
}

// Store identifies one of the engine's stores of items.
type Store int

// The stores.
const (
	State Store = iota
	Streams
)

// Group is a scope of the state, or a group of a stream.
type Group struct {
	Stream      string // "" in the state
	Group       string // "" for a stream that a worker stores
	Items       int
	Subscribers []Subscriber // clients that subscribe to a group of a stream, in no order
	Provider    string       // the worker that stores the stream; "" for the engine
}

// Subscriber is a subscription of a client of the stream socket.
type Subscriber struct {
	ID     string
	Item   *string // nil: the whole group
	Client string  // its address
}

// Item is an item of a group.
type Item struct {
	Key   string
	Value json.RawMessage
}

// Queue is a named queue, or the jobs of a topic for one function or for the observers.
type Queue struct {
	Name      string `json:"name"`
	Topic     bool   `json:"topic,omitempty"`
	Namespace string `json:"namespace,omitempty"` // namespace of the function of a topic
	Function  string `json:"function,omitempty"`
	Group     string `json:"group,omitempty"` // instead of a function: the observers of a topic
	Depth     int    `json:"depth"`           // jobs that wait or run
	InFlight  int    `json:"in_flight"`       // number of running jobs
	Delayed   int    `json:"delayed"`         // number of jobs that wait for a retry
	Consumers int    `json:"consumers"`       // triggers of a topic; jobs of a queue that can run at once
	Dead      int    `json:"dead_letters"`
	Unheard   int    `json:"unheard,omitempty"` // messages to a topic that had no subscriber
}

// DeadLetter is a job whose attempts have all failed.
type DeadLetter struct {
	ID, Queue           string
	Namespace, Function string
	Group               string // instead of a function: the observers of a topic
	Attempts            int
	Error               string // the error of the last attempt
	FailedAt            time.Time
	Payload             json.RawMessage
}

// Engine holds the properties of an engine that do not change while it runs.
type Engine struct {
	Version   string    `json:"version"`
	Started   time.Time `json:"started"`
	WorkerURL string    `json:"worker_url"`
	HTTPURL   string    `json:"http_url"`
	StreamURL string    `json:"stream_url"`
}

// Registry holds the current registrations, in the form in which the engine's own functions
// list them.
type Registry struct {
	Workers   []map[string]any `json:"workers"`
	Functions []map[string]any `json:"functions"`
	Triggers  []map[string]any `json:"triggers"`
	Types     []map[string]any `json:"types"`
	Observers []map[string]any `json:"observers"`
	Local     []map[string]any `json:"local"` // calls that workers have made in process
}

// Changes counts additions to the stores and removals from them.
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
