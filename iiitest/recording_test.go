package iiitest

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
)

// event is one line of a recorded conversation.
type event struct {
	line   int
	About  string          `json:"about"`
	MS     int             `json:"ms"`
	Worker string          `json:"worker"`
	Event  string          `json:"event"`
	Path   string          `json:"path"`
	URL    string          `json:"url"`
	Code   int             `json:"code"`
	Framed *bool           `json:"close_frame"`
	Reason string          `json:"reason"`
	Bytes  string          `json:"payload"` // payload of a control frame, in hex
	Count  int             `json:"count"`
	Error  string          `json:"error"`
	Dir    string          `json:"dir"`
	Frame  json.RawMessage `json:"frame"`
	Text   *string         `json:"text"`
	Binary *string         `json:"binary"` // hex
	Prefix string          `json:"prefix"` // tag of a telemetry frame
	OTLP   json.RawMessage `json:"otlp"`   // telemetry frame after the tag

	Received *recordedCall    `json:"received"`
	HTTP     *recordedRequest `json:"http"`
	Response *struct {
		Status  int            `json:"status"`
		Headers map[string]any `json:"headers"` // repeated headers have an array of values
		Body    string         `json:"body"`
		End     string         `json:"end"` // error at the end of a truncated body
	} `json:"response"`

	// ContentType is set only for a request whose body is shorter than its Content-Length.
	ContentType string `json:"content_type"`
	Answer      string `json:"answer"` // raw response
}

// recordedRequest is a recorded request to an HTTP trigger.
type recordedRequest struct {
	Method  string            `json:"method"`
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers"`
	Body    *string           `json:"body"`
	Chunked bool              `json:"chunked"`
}

// readRecording reads a file in testdata/0.23 and returns its events in chronological order.
func readRecording(t testing.TB, name string) []event {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "testdata", "0.23", name+".jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var events []event
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		if bytes.Contains(lines.Bytes(), []byte(`"event":"of `)) {
			continue // summary of omitted events
		}
		e := event{line: n}
		if err := json.Unmarshal(uncut(lines.Bytes()), &e); err != nil {
			t.Fatalf("%s:%d: %v", name, n, err)
		}
		switch {
		case e.Event != "closed" || e.Code != 0:
		case e.Framed != nil && !*e.Framed:
			e.Code = websocket.CloseAbnormalClosure
		default:
			e.Code = websocket.CloseNoStatusReceived
		}
		if e.About == "" {
			events = append(events, e)
		}
	}
	return opensFirst(events)
}

// opensFirst moves each event that opens a connection ahead of the connection's other events,
// because some recordings contain it too late.
func opensFirst(events []event) []event {
	for i, e := range events {
		if e.Event != "open" {
			continue
		}
		first := slices.IndexFunc(events, func(other event) bool { return other.Worker == e.Worker })
		if !slices.ContainsFunc(events[first:i], func(other event) bool { return other.Worker == e.Worker && other.Event == "open" }) {
			copy(events[first+1:i+1], events[first:i])
			events[first] = e
		}
	}
	return events
}

var cutText = regexp.MustCompile(`"([^"\\]*)… \((\d+) characters\)"`)

// uncut restores truncated strings by repeating their last character.
func uncut(line []byte) []byte {
	return cutText.ReplaceAllFunc(line, func(text []byte) []byte {
		parts := cutText.FindSubmatch(text)
		left := []rune(string(parts[1]))
		n, _ := strconv.Atoi(string(parts[2]))
		return []byte(`"` + string(left) + strings.Repeat(string(left[len(left)-1]), n-len(left)) + `"`)
	})
}

// bytes returns a binary message's contents. If only the length was recorded, it returns that
// many zero bytes.
func (e event) bytes() []byte {
	if n, ok := byteCount(*e.Binary); ok {
		return make([]byte, n)
	}
	data, _ := hex.DecodeString(*e.Binary)
	return data
}

func (e event) counted() bool {
	_, ok := byteCount(*e.Binary)
	return ok
}

// byteCount parses a length, such as "7 bytes".
func byteCount(text string) (n int, ok bool) {
	count, ok := strings.CutSuffix(text, " bytes")
	n, err := strconv.Atoi(count)
	return n, ok && err == nil
}

// renaming is a one-to-one mapping between recorded values that differ between runs, such as
// ids and tokens, and their actual counterparts.
type renaming struct{ to, from map[string]string }

func newRenaming() renaming {
	return renaming{to: map[string]string{}, from: map[string]string{}}
}

func (r renaming) clone() renaming { return renaming{maps.Clone(r.to), maps.Clone(r.from)} }

// relate adds a pair of values, and reports whether the mapping is still one-to-one.
func (r renaming) relate(recorded, actual string) bool {
	to, a := r.to[recorded]
	from, b := r.from[actual]
	if a || b {
		return to == actual && from == recorded
	}
	r.to[recorded], r.from[actual] = actual, recorded
	return true
}

var (
	uuidPattern  = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	tracePattern = regexp.MustCompile(`00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})`)
)

// translate replaces recorded values in a worker's message with their actual counterparts.
func (r renaming) translate(text string) string {
	to := func(s string) string {
		if actual, ok := r.to[s]; ok {
			return actual
		}
		return s
	}
	text = uuidPattern.ReplaceAllStringFunc(text, to)
	return tracePattern.ReplaceAllStringFunc(text, func(s string) string {
		parts := strings.Split(s, "-")
		return strings.Join([]string{parts[0], to(parts[1]), to(parts[2]), parts[3]}, "-")
	})
}

// own maps the ids that a recorded worker chose to themselves, because they are replayed
// unchanged.
func (r renaming) own(text string) {
	for _, id := range uuidPattern.FindAllString(text, -1) {
		if _, known := r.to[id]; !known {
			r.relate(id, id)
		}
	}
}

// comparison collects the differences between recorded and actual values.
type comparison struct {
	names renaming
	// allow reports whether a difference at path is deliberate.
	allow func(path string) bool
	diffs []string
}

func (c *comparison) differ(path, format string, args ...any) {
	if !c.allow(path) {
		c.diffs = append(c.diffs, path+": "+fmt.Sprintf(format, args...))
	}
}

// volatile lists keys whose values differ between runs, such as times.
var volatile = map[string]bool{
	"timestamp": true, "connected_at_ms": true, "stored_logs": true, "stored_spans": true,
	"stored_metrics": true, "hot_bytes": true, "error_id": true,
	"timestamp_unix_nano": true, "observed_timestamp_unix_nano": true, "actual_time": true, "failed_at": true,
}

// keyed lists the keys of arrays that are compared regardless of order.
var keyed = map[string]bool{
	"functions": true, "triggers": true, "configurations": true, "registered_triggers": true, "workers": true, "trigger_types": true,
}

func (c *comparison) value(path string, recorded, actual any) {
	switch want := recorded.(type) {
	case map[string]any:
		got, ok := actual.(map[string]any)
		if !ok {
			c.differ(path, "got %v, recorded an object", actual)
			return
		}
		c.object(path, want, got)
	case []any:
		got, ok := actual.([]any)
		if ok && ofBrokers(want) {
			c.list(path, recorded, actual)
			return
		}
		if !ok || len(got) != len(want) {
			c.differ(path, "got %v, recorded %v", actual, recorded)
			return
		}
		for i := range want {
			c.value(fmt.Sprintf("%s[%d]", path, i), want[i], got[i])
		}
	case string:
		got, ok := actual.(string)
		if !ok || !c.text(want, got) {
			c.differ(path, "got %q, recorded %q", actual, recorded)
		}
	case json.Number:
		if got, ok := actual.(json.Number); !ok || !sameNumber(want.String(), got.String()) {
			c.differ(path, "got %v, recorded %v", actual, recorded)
		}
	default:
		if actual != recorded {
			c.differ(path, "got %v, recorded %v", actual, recorded)
		}
	}
}

// sameNumber compares numbers, including whether they are integers or floats. Exponents may be
// formatted differently: the recordings contain 1e-07 for 1e-7.
func sameNumber(recorded, actual string) bool {
	const float = ".eE"
	if !strings.ContainsAny(recorded, float) || !strings.ContainsAny(actual, float) {
		return recorded == actual
	}
	a, _ := strconv.ParseFloat(recorded, 64)
	b, _ := strconv.ParseFloat(actual, 64)
	return a == b && math.Signbit(a) == math.Signbit(b)
}

func (c *comparison) object(path string, want, got map[string]any) {
	for _, k := range slices.Sorted(maps.Keys(want)) {
		at := path + "." + k
		w := want[k]
		g, there := got[k]
		switch {
		case !there && w == "…": // text omitted from the recording
		case !there:
			c.differ(at, "missing, recorded %v", w)
		case volatile[k] && g != nil:
		case k == "baggage" && w != nil && g != nil: // in the order of a hash table
			c.value(at, sortedEntries(w), sortedEntries(g))
		case keyed[k]:
			c.list(at, w, g)
		default:
			c.value(at, w, g)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(got)) {
		if _, there := want[k]; !there {
			c.differ(path+"."+k, "got %v, not recorded", got[k])
		}
	}
}

func sortedEntries(baggage any) any {
	text, ok := baggage.(string)
	if !ok {
		return baggage
	}
	entries := strings.Split(text, ",")
	slices.Sort(entries)
	return strings.Join(entries, ",")
}

// list compares arrays of items with ids, regardless of order.
func (c *comparison) list(path string, recorded, actual any) {
	want, got := byID(c.names, recorded, true), byID(c.names, actual, false)
	for _, id := range slices.Sorted(maps.Keys(want)) {
		at := path + "[" + id + "]"
		if g, ok := got[id]; ok {
			c.value(at, want[id], g)
		} else {
			c.differ(at, "missing")
		}
	}
	for _, id := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[id]; !ok {
			c.differ(path+"["+id+"]", "got it, not recorded")
		}
	}
}

// ofBrokers reports whether a list consists of topics, which the engine lists in arbitrary
// order.
func ofBrokers(list []any) bool {
	return len(list) > 0 && brokerOf(list[0]) != ""
}

// brokerOf returns a topic's identity, or "" for any other item.
func brokerOf(item any) string {
	o, _ := item.(map[string]any)
	if o["broker_type"] == nil {
		return ""
	}
	return fmt.Sprint(o["broker_type"], " ", o["name"], o["topic"])
}

// byID returns a list's items, keyed by id. If recorded is true, byID replaces recorded ids
// with their actual counterparts.
func byID(names renaming, list any, recorded bool) map[string]any {
	m := map[string]any{}
	items, _ := list.([]any)
	for i, item := range items {
		id := cmp.Or(brokerOf(item), fmt.Sprint(i))
		if o, ok := item.(map[string]any); ok {
			for _, k := range []string{"id", "function_id"} {
				if s, ok := o[k].(string); ok {
					id = s
					break
				}
			}
		}
		if actual, ok := names.to[id]; ok && recorded {
			id = actual
		}
		m[id] = item
	}
	return m
}

// text compares strings. Ids must correspond one-to-one; all other text must be equal.
func (c *comparison) text(recorded, actual string) bool {
	if recorded == "…" {
		return true
	}
	if !strings.Contains(recorded, "-") && !strings.Contains(actual, "-") { // no ids; some strings are megabytes long
		return recorded == actual
	}
	return c.ids(uuidPattern, 0, &recorded, &actual) &&
		c.ids(tracePattern, 1, &recorded, &actual) && c.ids(tracePattern, 2, &recorded, &actual) &&
		blankTraces(recorded) == blankTraces(actual)
}

// ids relates the ids that pattern finds in both strings. If group is 0, it then replaces the
// matches with "#".
func (c *comparison) ids(pattern *regexp.Regexp, group int, recorded, actual *string) bool {
	a, b := pattern.FindAllStringSubmatch(*recorded, -1), pattern.FindAllStringSubmatch(*actual, -1)
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !c.names.relate(a[i][group], b[i][group]) {
			return false
		}
	}
	if group == 0 {
		*recorded, *actual = pattern.ReplaceAllString(*recorded, "#"), pattern.ReplaceAllString(*actual, "#")
	}
	return true
}

func blankTraces(s string) string { return tracePattern.ReplaceAllString(s, "#-$3") }

// decode decodes JSON and keeps numbers as json.Number.
func decode(t *testing.T, data []byte) any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", data, err)
	}
	return v
}
