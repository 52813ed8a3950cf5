package tracetree

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/iii-go/iii"
)

const (
	width     = 100 // columns per line
	statusFor = 5   // columns for a status: ok, error or unset
	timeFor   = 7   // columns for a duration
	barFor    = 20  // minimum columns for a bar
)

// row is a line of output: a span, or text below a span.
type row struct {
	tree, text string // branches of the tree, and the text to their right
	span       *iii.TraceNode
	style      string
}

// tree collects the rows.
type tree struct {
	logs     map[string][]iii.StoredLog // by span, oldest first
	rows     []row
	from, to uint64   // nanoseconds since 1970
	services []string // in order of appearance
}

// write writes a trace. It uses colors if w is a terminal and $NO_COLOR is not set.
func write(w io.Writer, roots []iii.TraceNode, logs []iii.StoredLog) error {
	t := tree{logs: make(map[string][]iii.StoredLog)}
	slices.SortStableFunc(logs, func(a, b iii.StoredLog) int { return cmp.Compare(at(a), at(b)) })
	for _, l := range logs {
		if l.SpanID != nil {
			t.logs[*l.SpanID] = append(t.logs[*l.SpanID], l)
		}
	}
	for i := range roots {
		t.add(&roots[i], "", "")
	}
	_, err := w.Write(t.format(colored(w)))
	return err
}

func at(l iii.StoredLog) uint64 { return cmp.Or(l.TimestampUnixNano, l.ObservedTimestampUnixNano) }

// add adds rows for a span and its descendants. prefix precedes the span's own row, and
// childPrefix precedes the rows below it.
func (t *tree) add(s *iii.TraceNode, prefix, childPrefix string) {
	t.rows = append(t.rows, row{tree: prefix, text: s.Name, span: s})
	if t.from == 0 || s.StartTimeUnixNano < t.from {
		t.from = s.StartTimeUnixNano
	}
	t.to = max(t.to, s.StartTimeUnixNano, s.EndTimeUnixNano)
	if !slices.Contains(t.services, s.ServiceName) {
		t.services = append(t.services, s.ServiceName)
	}
	if s.Status == "error" && s.StatusDescription != "" {
		t.addText(s, 0, childPrefix, "✗ "+s.StatusDescription, red)
	}
	logs := t.logs[s.SpanID]
	for i := range s.Children {
		child := &s.Children[i]
		for len(logs) > 0 && at(logs[0]) <= child.StartTimeUnixNano {
			t.addText(s, i, childPrefix, logLine(logs[0]), styleOf(logs[0]))
			logs = logs[1:]
		}
		branch, rest := "├─ ", "│  "
		if i == len(s.Children)-1 {
			branch, rest = "└─ ", "   "
		}
		t.add(child, childPrefix+branch, childPrefix+rest)
	}
	for _, l := range logs {
		t.addText(s, len(s.Children), childPrefix, logLine(l), styleOf(l))
	}
}

// addText adds a row below span s, before the child with index next.
func (t *tree) addText(s *iii.TraceNode, next int, childPrefix, text, style string) {
	rule := "   "
	if next < len(s.Children) {
		rule = "│  "
	}
	t.rows = append(t.rows, row{tree: childPrefix + rule, text: text, style: style})
}

// logLine formats a log record as one line with its level, message and data.
func logLine(l iii.StoredLog) string {
	line := strings.TrimSpace(l.SeverityText + " " + l.Body)
	data := map[string]json.RawMessage{}
	if json.Unmarshal(l.Attributes["log.data"], &data) != nil {
		data = map[string]json.RawMessage{"data": l.Attributes["log.data"]}
	}
	for _, name := range slices.Sorted(maps.Keys(data)) {
		value := string(data[name])
		if text := ""; json.Unmarshal(data[name], &text) == nil && !strings.ContainsAny(text, " \"\n") {
			value = text
		}
		line += "  " + name + "=" + value
	}
	return line
}

// format aligns the rows. Services and the tree are on the left; durations, bars and statuses
// are on the right.
func (t *tree) format(color bool) []byte {
	paint := func(style, text string) string {
		if !color || style == "" {
			return text
		}
		return style + text + plain
	}
	service, name := 0, 0
	for _, r := range t.rows {
		if r.span != nil {
			service = max(service, columns(r.span.ServiceName))
			name = max(name, columns(r.tree)+columns(r.text))
		}
	}
	service = min(service, 16)
	name = min(name, width-service-timeFor-barFor-statusFor-2*4)
	bars := width - service - name - timeFor - statusFor - 2*4
	var out bytes.Buffer
	for _, r := range t.rows {
		if r.span == nil {
			text := cut(r.text, width-service-2-columns(r.tree))
			fmt.Fprintf(&out, "%*s  %s%s\n", service, "", paint(faint, r.tree), paint(r.style, text))
			continue
		}
		s := r.span
		style := services[slices.Index(t.services, s.ServiceName)%len(services)]
		text := cut(r.text, name-columns(r.tree))
		duration, status := "…", "open"
		if !s.Pending {
			duration, status = short(time.Duration(max(s.EndTimeUnixNano, s.StartTimeUnixNano)-s.StartTimeUnixNano)), s.Status
		}
		fmt.Fprintf(&out, "%s  %s%s%*s  %s  %s  %s\n",
			paint(style, pad(cut(s.ServiceName, service), service)),
			paint(faint, r.tree), text, name-columns(r.tree)-columns(text), "",
			strings.Repeat(" ", max(0, timeFor-columns(duration)))+duration,
			paint(style, t.bar(s, bars)), paint(statuses[status], status))
	}
	return out.Bytes()
}

// bar draws a span's time range with a resolution of half a column.
func (t *tree) bar(s *iii.TraceNode, cells int) string {
	end := s.EndTimeUnixNano
	if s.Pending {
		end = t.to
	}
	halves, total := uint64(2*cells), max(1, t.to-t.from)
	first := min((s.StartTimeUnixNano-t.from)*halves/total, halves-1)
	after := max(first+1, ((max(end, s.StartTimeUnixNano)-t.from)*halves+total-1)/total)
	var b strings.Builder
	for i := uint64(0); i < halves; i += 2 {
		left, right := first <= i && i < after, first <= i+1 && i+1 < after
		switch {
		case left && right:
			b.WriteString("━")
		case left:
			b.WriteString("╸")
		case right:
			b.WriteString("╺")
		default:
			b.WriteString(" ")
		}
	}
	return b.String()
}

// short formats a duration with three digits.
func short(d time.Duration) string {
	value, unit := float64(d), "ns"
	for _, larger := range []struct {
		unit string
		by   float64
	}{{"µs", 1000}, {"ms", 1000}, {"s", 1000}} {
		if value < 999.5 {
			break
		}
		value, unit = value/larger.by, larger.unit
	}
	switch {
	case unit == "ns" || value >= 99.95:
		return fmt.Sprintf("%.0f %s", value, unit)
	case value >= 9.995:
		return fmt.Sprintf("%.1f %s", value, unit)
	default:
		return fmt.Sprintf("%.2f %s", value, unit)
	}
}

func columns(s string) int { return utf8.RuneCountInString(s) }

func pad(s string, n int) string { return s + strings.Repeat(" ", max(0, n-columns(s))) }

// cut shortens s to at most n columns.
func cut(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	if columns(s) <= n {
		return s
	}
	return string([]rune(s)[:max(0, n-1)]) + "…"
}

const (
	plain  = "\x1b[0m"
	faint  = "\x1b[2m"
	red    = "\x1b[31m"
	yellow = "\x1b[33m"
)

var (
	services = []string{"\x1b[36m", "\x1b[35m", "\x1b[34m", "\x1b[32m", "\x1b[33m"}
	statuses = map[string]string{"ok": "\x1b[32m", "error": red, "open": yellow, "unset": faint}
)

func styleOf(l iii.StoredLog) string {
	switch {
	case l.SeverityNumber >= 17:
		return red
	case l.SeverityNumber >= 13:
		return yellow
	default:
		return faint
	}
}

func colored(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
