package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// maxEvidence and maxEvidenceFrame limit the evidence recorded for a failure.
const (
	maxEvidence      = 14  // frames
	maxEvidenceFrame = 420 // bytes of each frame
)

// evidence returns the frames of the workers whose names have the given prefix. It omits calls
// that control the peer, late results of earlier calls, and keepalive, statistics and
// telemetry messages.
func evidence(frames []frame, names string) []string {
	name := map[string]string{} // by worker id; the first frames of a connection have no name
	for _, f := range frames {
		if f.Name != "" {
			name[f.Worker] = f.Name
		}
	}
	var list []string
	ids, steering, asked := ids{}, map[string]bool{}, map[string]bool{}
	last, same := "", 0
	for _, f := range frames {
		var m struct {
			Type         string `json:"type"`
			FunctionID   string `json:"function_id"`
			InvocationID string `json:"invocation_id"`
		}
		_ = json.Unmarshal(f.Frame, &m) // m stays zero if the frame is not a message
		if !strings.HasPrefix(name[f.Worker], names) || steering[m.InvocationID] || m.Type == "ping" || m.Type == "pong" || m.Type == "localinvocationstats" {
			continue
		}
		if strings.HasSuffix(m.FunctionID, "peer::do") || m.FunctionID == "go::seen" {
			steering[m.InvocationID] = m.InvocationID != ""
			continue
		}
		switch m.Type {
		case "invokefunction":
			asked[m.InvocationID] = true
		case "invocationresult":
			if !asked[m.InvocationID] {
				continue
			}
		}
		var text string
		switch {
		case f.Frame != nil:
			text = compact(f.Frame)
		case f.Text != nil:
			text = *f.Text
		case f.Type != "":
			text = fmt.Sprintf("a message of type %s with %d bytes", f.Type, f.Bytes)
		default: // telemetry
			continue
		}
		arrow := "peer → engine "
		if f.Dir == "recv" {
			arrow = "engine → peer "
		}
		kind := arrow + m.Type
		if repeats := strings.HasPrefix(m.Type, "registerfunction") || m.Type == "registrationrejected"; repeats && kind == last {
			same++
			continue
		}
		list = append(list, more(same)...)
		last, same = kind, 0
		list = append(list, arrow+clip(ids.replace(text)))
	}
	list = append(list, more(same)...)
	if len(list) > maxEvidence {
		list = append(list[:maxEvidence], fmt.Sprintf("… and %d more", len(list)-maxEvidence))
	}
	return list
}

// more returns a line that says how many frames like the previous one were omitted, or nil if
// none were.
func more(same int) []string {
	if same == 0 {
		return nil
	}
	return []string{fmt.Sprintf("… and %d more like that", same)}
}

// span is the period in which a scenario ran.
type span struct{ begin, end time.Time }

// telemetryOf maps each telemetry scenario to its frames' prefix and the key of the arrays
// that contain the records.
var telemetryOf = map[string]struct{ prefix, records string }{
	"logs": {"LOGS", "logRecords"}, "logs-outside": {"LOGS", "logRecords"}, "log-trigger-go": {"LOGS", "logRecords"},
	"metrics": {"MTRC", "metrics"}, "gauges": {"MTRC", "metrics"},
	"trace": {"OTLP", "spans"},
}

// telemetryEvidence returns the records that a service sent during a telemetry scenario.
func telemetryEvidence(frames []frame, scenario, service string, during span) []string {
	kind, is := telemetryOf[scenario]
	if !is {
		return nil
	}
	var list []string
	for _, f := range frames {
		if f.Prefix != kind.prefix || f.Time.Before(during.begin) || f.Time.After(during.end) || !bytes.Contains(f.OTLP, []byte(`"`+service+`"`)) {
			continue
		}
		var v any
		_ = json.Unmarshal(f.OTLP, &v) // v stays nil if the data is not JSON
		for _, record := range below(v, kind.records) {
			if m, is := record.(map[string]any); is {
				delete(m, "attributes") // those of the record, but not those of its data points
			}
			list = append(list, "peer → engine "+kind.prefix+" "+clip(ids{}.replace(digits.ReplaceAllString(short(record), "…"))))
		}
	}
	slices.Sort(list)
	list = slices.Compact(list)
	if len(list) > 3 {
		list = append(list[:3], fmt.Sprintf("… and %d more", len(list)-3))
	}
	return list
}

// below collects the elements of all arrays under the given key, at any depth.
func below(v any, name string) []any {
	var list []any
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if elements, is := value.([]any); is && key == name {
				list = append(list, elements...)
			} else {
				list = append(list, below(value, name)...)
			}
		}
	case []any:
		for _, value := range v {
			list = append(list, below(value, name)...)
		}
	}
	return list
}

func clip(text string) string {
	if len(text) > maxEvidenceFrame {
		return strings.ToValidUTF8(text[:maxEvidenceFrame], "") + "…"
	}
	return text
}

func compact(raw json.RawMessage) string {
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return string(raw)
	}
	return b.String()
}

// ids maps ids to short names, which are numbered in order of first appearance.
type ids map[string]string

var (
	uuids  = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	traces = regexp.MustCompile(`00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}`)
	digits = regexp.MustCompile(`[0-9a-f]{16,32}|[0-9]{16,19}`) // ids and times in telemetry
	ports  = regexp.MustCompile(`127\.0\.0\.1:[0-9]+`)
	stacks = regexp.MustCompile(`"stacktrace":"(?:[^"\\]|\\.)*"`)
	hosts  = regexp.MustCompile(`"(os|pid)":("[^"]*"|[0-9]+)`)
	times  = regexp.MustCompile(`"timestamp":[0-9]+`)
)

func (m ids) replace(text string) string {
	text = uuids.ReplaceAllStringFunc(text, func(id string) string {
		if m[id] == "" {
			m[id] = fmt.Sprintf("id%d", len(m)+1)
		}
		return m[id]
	})
	text = traces.ReplaceAllString(text, "00-…-01")
	text = stacks.ReplaceAllString(text, `"stacktrace":"…"`)
	text = hosts.ReplaceAllString(text, `"$1":"…"`)
	text = times.ReplaceAllString(text, `"timestamp":0`)
	return ports.ReplaceAllString(text, "127.0.0.1:0")
}
