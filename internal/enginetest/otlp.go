package enginetest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"
)

// maxFrameBytes is the maximum size of a telemetry frame. Exporters split larger batches.
const maxFrameBytes = 8 << 20

// ValidateFrame returns an error if the engine would drop any part of a telemetry frame. It
// applies the rules of the engine's parser, which ignores unknown keys and drops the whole
// frame if a known key has a value of the wrong type.
//
// The rules come from the OTLP/JSON specification and from observing which frames an engine
// accepts; see TestValidatorAgreesWithEngine.
func ValidateFrame(prefix string, data []byte) error {
	if len(prefix)+len(data) > maxFrameBytes {
		return fmt.Errorf("%d bytes, more than exporters may send", len(data))
	}
	if !utf8.Valid(data) {
		return errors.New("not UTF-8")
	}
	doc, err := parseFrame(data)
	if err != nil {
		return err
	}
	switch prefix {
	case "OTLP":
		return rules{"resourceSpans": listOf(rules{
			"resource":   nullable(resourceRules),
			"scopeSpans": listOf(rules{"scope": nullable(scopeRules), "spans": listOf(spanRules)}),
		})}.check("", doc)
	case "MTRC":
		return rules{"resourceMetrics": listOf(rules{
			"resource":     nullable(resourceRules),
			"scopeMetrics": listOf(rules{"scope": nullable(scopeRules), "metrics": listOf(metricRules)}),
		})}.check("", doc)
	case "LOGS":
		return rules{"resourceLogs": listOf(rules{
			"resource":  nullable(resourceRules),
			"scopeLogs": listOf(rules{"scope": nullable(scopeRules), "logRecords": listOf(logRules)}),
		})}.check("", doc)
	}
	return fmt.Errorf("unknown prefix %q", prefix)
}

// otlpNode is a JSON value that preserves duplicate keys and the text of numbers.
type otlpNode struct {
	value any // nil, bool, string, json.Number, []otlpNode or []otlpMember
}

type otlpMember struct {
	key   string
	value otlpNode
}

func parseFrame(data []byte) (otlpNode, error) {
	if err := loneSurrogate(data); err != nil {
		return otlpNode{}, err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	n, err := parseOTLP(d, 0)
	if err != nil {
		return n, err
	}
	if _, err := d.Token(); err != io.EOF {
		return n, errors.New("text after the value")
	}
	return n, nil
}

// maxEngineDepth is the nesting limit of the engine's JSON parser.
const maxEngineDepth = 127

func parseOTLP(d *json.Decoder, depth int) (otlpNode, error) {
	t, err := d.Token()
	if err != nil {
		return otlpNode{}, err
	}
	if _, opens := t.(json.Delim); opens && depth == maxEngineDepth {
		return otlpNode{}, errors.New("nested too deeply")
	}
	switch t {
	case json.Delim('['):
		list := []otlpNode{}
		for d.More() {
			n, err := parseOTLP(d, depth+1)
			if err != nil {
				return n, err
			}
			list = append(list, n)
		}
		_, err := d.Token()
		return otlpNode{value: list}, err
	case json.Delim('{'):
		members := []otlpMember{}
		for d.More() {
			k, err := d.Token()
			if err != nil {
				return otlpNode{}, err
			}
			n, err := parseOTLP(d, depth+1)
			if err != nil {
				return n, err
			}
			members = append(members, otlpMember{k.(string), n})
		}
		_, err := d.Token()
		return otlpNode{value: members}, err
	}
	return otlpNode{value: t}, nil
}

// loneSurrogate returns an error if data contains an escaped lone surrogate, which the engine
// rejects.
func loneSurrogate(data []byte) error {
	for i := 0; i+1 < len(data); i++ {
		if data[i] != '\\' {
			continue
		}
		i++
		unit := escapedUnit(data[i-1:])
		switch {
		case unit < 0xd800 || unit > 0xdfff:
		case unit > 0xdbff:
			return errors.New("lone surrogate")
		default:
			if low := escapedUnit(data[i+5:]); low < 0xdc00 || low > 0xdfff {
				return errors.New("lone surrogate")
			}
			i += 10
		}
	}
	return nil
}

func escapedUnit(b []byte) uint64 {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0
	}
	n, _ := strconv.ParseUint(string(b[2:6]), 16, 16)
	return n
}

type rule interface {
	check(path string, n otlpNode) error
}

type ruleFunc func(n otlpNode) error

func (f ruleFunc) check(path string, n otlpNode) error {
	if err := f(n); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// rules validates the members of an object. Unknown keys are ignored, and known keys must be
// unique. A required member's key ends in "!".
type rules map[string]rule

func (r rules) check(path string, n otlpNode) error {
	members, ok := n.value.([]otlpMember)
	if !ok {
		return fmt.Errorf("%s: not an object: %v", path, n.value)
	}
	seen := map[string]bool{}
	for _, m := range members {
		one, ok := r[m.key]
		if !ok {
			one, ok = r[m.key+"!"]
		}
		if !ok {
			continue
		}
		if seen[m.key] {
			return fmt.Errorf("%s.%s: twice", path, m.key)
		}
		seen[m.key] = true
		if err := one.check(path+"."+m.key, m.value); err != nil {
			return err
		}
	}
	for key := range r {
		if name, must := strings.CutSuffix(key, "!"); must && !seen[name] {
			return fmt.Errorf("%s.%s: missing", path, name)
		}
	}
	return nil
}

func listOf(element rule) rule { return listRule{element} }

type listRule struct{ element rule }

func (l listRule) check(path string, n otlpNode) error {
	list, ok := n.value.([]otlpNode)
	if !ok {
		return fmt.Errorf("%s: not a list: %v", path, n.value)
	}
	for i, element := range list {
		if err := l.element.check(fmt.Sprintf("%s[%d]", path, i), element); err != nil {
			return err
		}
	}
	return nil
}

func nullable(r rule) rule { return nullRule{r} }

type nullRule struct{ rule rule }

func (r nullRule) check(path string, n otlpNode) error {
	if n.value == nil {
		return nil
	}
	return r.rule.check(path, n)
}

func isString(n otlpNode) error {
	if _, ok := n.value.(string); !ok {
		return fmt.Errorf("not a string: %v", n.value)
	}
	return nil
}

func isBool(n otlpNode) error {
	if _, ok := n.value.(bool); !ok {
		return fmt.Errorf("not a boolean: %v", n.value)
	}
	return nil
}

// isDouble accepts numbers, including integers, but not strings such as "NaN".
func isDouble(n otlpNode) error {
	num, ok := n.value.(json.Number)
	if !ok {
		return fmt.Errorf("not a number: %v", n.value)
	}
	if f, err := num.Float64(); err != nil || math.IsInf(f, 0) {
		return fmt.Errorf("not a finite number: %v", n.value)
	}
	return nil
}

// numeral returns the text of n, which must be a number or, if text is true, a string.
func numeral(n otlpNode, text bool) (string, error) {
	switch v := n.value.(type) {
	case json.Number:
		return v.String(), nil
	case string:
		if text {
			return v, nil
		}
	}
	return "", fmt.Errorf("not an integer: %v", n.value)
}

func isInt64(n otlpNode) error {
	s, err := numeral(n, true)
	if err == nil {
		_, err = strconv.ParseInt(s, 10, 64)
	}
	return err
}

func isUint64(n otlpNode) error {
	s, err := numeral(n, true)
	if err == nil {
		_, err = strconv.ParseUint(s, 10, 64)
	}
	return err
}

func isEnum(n otlpNode) error {
	s, err := numeral(n, false)
	if err == nil {
		_, err = strconv.ParseInt(s, 10, 32)
	}
	return err
}

func isUint32(n otlpNode) error {
	s, err := numeral(n, false)
	if err == nil {
		_, err = strconv.ParseUint(s, 10, 32)
	}
	return err
}

var (
	stringRule = ruleFunc(isString)
	boolRule   = ruleFunc(isBool)
	doubleRule = ruleFunc(isDouble)
	timeRule   = ruleFunc(isUint64)
	countRule  = ruleFunc(isUint64)
	enumRule   = ruleFunc(isEnum)

	valueRules     = rules{}
	attributeRules = rules{"key!": stringRule, "value": nullable(valueRules)}
	attributesRule = listOf(attributeRules)

	resourceRules = rules{"attributes": attributesRule}
	scopeRules    = rules{"name": nullable(stringRule), "version": nullable(stringRule)}

	spanRules = rules{
		"traceId!":          stringRule,
		"spanId!":           stringRule,
		"name!":             stringRule,
		"parentSpanId":      nullable(stringRule),
		"kind":              nullable(enumRule),
		"flags":             nullable(ruleFunc(isUint32)),
		"startTimeUnixNano": timeRule,
		"endTimeUnixNano":   timeRule,
		"attributes":        attributesRule,
		"status":            nullable(rules{"code": enumRule, "message": nullable(stringRule)}),
		"events":            listOf(rules{"name": stringRule, "timeUnixNano": timeRule, "attributes": attributesRule}),
		"links": listOf(rules{
			"traceId": stringRule, "spanId": stringRule, "traceState": nullable(stringRule), "attributes": attributesRule,
		}),
	}

	pointRules = rules{
		"attributes": attributesRule, "startTimeUnixNano": timeRule, "timeUnixNano": timeRule,
		"asInt": nullable(ruleFunc(isInt64)), "asDouble": nullable(doubleRule),
	}
	histogramRules = rules{
		"attributes": attributesRule, "startTimeUnixNano": timeRule, "timeUnixNano": timeRule,
		"count": countRule, "sum": nullable(doubleRule), "min": nullable(doubleRule), "max": nullable(doubleRule),
		"bucketCounts": listOf(countRule), "explicitBounds": listOf(doubleRule),
	}
	metricRules = storedMetric{rules{
		"name": nullable(stringRule), "description": nullable(stringRule), "unit": nullable(stringRule),
		"gauge":     nullable(rules{"dataPoints": listOf(pointRules)}),
		"sum":       nullable(rules{"dataPoints": listOf(pointRules), "aggregationTemporality": enumRule, "isMonotonic": boolRule}),
		"histogram": nullable(rules{"dataPoints": listOf(histogramRules), "aggregationTemporality": enumRule}),
	}}

	logRules = rules{
		"timeUnixNano": timeRule, "observedTimeUnixNano": timeRule,
		"severityNumber": nullable(enumRule), "severityText": nullable(stringRule),
		"body": nullable(valueRules), "attributes": attributesRule,
		"traceId": nullable(stringRule), "spanId": nullable(stringRule), "flags": nullable(ruleFunc(isUint32)),
	}
)

func init() { // valueRules is recursive
	valueRules["stringValue"] = nullable(stringRule)
	valueRules["boolValue"] = nullable(boolRule)
	valueRules["intValue"] = nullable(ruleFunc(isInt64))
	valueRules["doubleValue"] = nullable(doubleRule)
	valueRules["arrayValue"] = nullable(rules{"values": listOf(valueRules)})
	valueRules["kvlistValue"] = nullable(rules{"values": attributesRule})
}

// storedMetric requires a metric to have data of a kind that the engine stores. The engine
// skips other metrics.
type storedMetric struct{ rules rules }

func (r storedMetric) check(path string, n otlpNode) error {
	if err := r.rules.check(path, n); err != nil {
		return err
	}
	for _, m := range n.value.([]otlpMember) {
		switch m.key {
		case "gauge", "sum", "histogram":
			if m.value.value != nil {
				return nil
			}
		}
	}
	return fmt.Errorf("%s: no gauge, sum or histogram", path)
}

// JudgeFrame fails the test if the engine would drop any part of a frame. The frame must come
// from the encoder. Test peers call JudgeFrame for every frame they receive, and tests call it
// for every frame they examine.
func JudgeFrame(tb testing.TB, prefix string, data []byte) {
	tb.Helper()
	if err := ValidateFrame(prefix, data); err != nil {
		tb.Errorf("the engine would lose this frame: %v\n%s%.2000s", err, prefix, data)
	}
	if bytes.Contains(data, []byte("null")) && hasNull(data) {
		tb.Errorf("null in %s%.2000s", prefix, data)
	}
	if err := keptFrames.keep(prefix, data); err != nil {
		tb.Errorf("frames of the tests: %v", err)
	}
}

func hasNull(data []byte) bool {
	d := json.NewDecoder(bytes.NewReader(data))
	for {
		t, err := d.Token()
		if err != nil {
			return false
		}
		if t == nil {
			return true
		}
	}
}

// IsOTLP reports whether data is OTLP JSON from the encoder rather than a placeholder from a
// test.
func IsOTLP(data []byte) bool { return bytes.HasPrefix(data, []byte(`{"resource`)) }

// keptFrames appends all tests' frames to the file named by III_TEST_FRAMES, if that variable
// is set. Each frame takes one line, and duplicates within a process are omitted. A separate
// test validates the file with OpenTelemetry's decoder.
var keptFrames = frameKeeper{path: os.Getenv("III_TEST_FRAMES"), seed: maphash.MakeSeed()}

type frameKeeper struct {
	path string
	seed maphash.Seed

	mu   sync.Mutex
	seen map[uint64]bool
	file *os.File
}

func (k *frameKeeper) keep(prefix string, data []byte) (err error) {
	if k.path == "" {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	hash := maphash.Bytes(k.seed, data)
	if k.seen[hash] {
		return nil
	}
	if k.file == nil {
		if k.file, err = os.OpenFile(k.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
			return err
		}
		k.seen = map[uint64]bool{}
	}
	k.seen[hash] = true
	line := append(append([]byte(prefix), data...), '\n') // the JSON contains no line breaks
	_, err = k.file.Write(line)
	return err
}

// DecodeJSON decodes JSON, with numbers as json.Number. Invalid JSON fails the test.
func DecodeJSON(tb testing.TB, data []byte) any {
	tb.Helper()
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		tb.Fatalf("%v in %.2000s", err, data)
	}
	return v
}

// At follows keys and indexes through decoded JSON. It returns nil if there is no value at the
// path.
func At(v any, path ...any) any {
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[step]
		case int:
			list, _ := v.([]any)
			if step >= len(list) {
				return nil
			}
			v = list[step]
		}
	}
	return v
}

// Each calls f with every element of nested lists. For example, Each(doc, []string{"a", "b"},
// f) visits the elements of the list b in every element of the list a in doc.
func Each(v any, lists []string, f func(v any)) {
	if len(lists) == 0 {
		f(v)
		return
	}
	for i := 0; At(v, lists[0], i) != nil; i++ {
		Each(At(v, lists[0], i), lists[1:], f)
	}
}
