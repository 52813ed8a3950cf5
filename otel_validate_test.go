package iii

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// validateFrame tells whether the engine would keep everything in a frame: the
// rules of its parser, which ignores unknown keys, and drops the whole frame for
// one wrong type in a known one. They come from frames that were sent to it, see
// TestValidatorAgreesWithEngine, and from the specification (OTLP JSON on the
// wire: deviations from the standard).
func validateFrame(prefix string, data []byte) error {
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
	case prefixTraces:
		return rules{"resourceSpans": listOf(rules{
			"resource":   nullable(resourceRules),
			"scopeSpans": listOf(rules{"scope": nullable(scopeRules), "spans": listOf(spanRules)}),
		})}.check("", doc)
	case prefixMetrics:
		return rules{"resourceMetrics": listOf(rules{
			"resource":     nullable(resourceRules),
			"scopeMetrics": listOf(rules{"scope": nullable(scopeRules), "metrics": listOf(metricRules)}),
		})}.check("", doc)
	case prefixLogs:
		return rules{"resourceLogs": listOf(rules{
			"resource":  nullable(resourceRules),
			"scopeLogs": listOf(rules{"scope": nullable(scopeRules), "logRecords": listOf(logRules)}),
		})}.check("", doc)
	}
	return fmt.Errorf("unknown prefix %q", prefix)
}

// otlpNode is a JSON value whose numbers and duplicate keys are kept as written.
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

// maxEngineDepth is what the engine's JSON parser nests.
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

// loneSurrogate finds an escape that is half of a pair: no text to the engine.
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

// rule judges one value.
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

// rules judge an object: unknown keys are ignored, known ones must not come
// twice. A key that must be there ends in "!".
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

// isDouble: a number, integers too; no string, not even for NaN.
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

// numeral is the text of an integer, given as a number or, if so allowed, as a
// string.
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

func init() { // values contain values
	valueRules["stringValue"] = nullable(stringRule)
	valueRules["boolValue"] = nullable(boolRule)
	valueRules["intValue"] = nullable(ruleFunc(isInt64))
	valueRules["doubleValue"] = nullable(doubleRule)
	valueRules["arrayValue"] = nullable(rules{"values": listOf(valueRules)})
	valueRules["kvlistValue"] = nullable(rules{"values": attributesRule})
}

// storedMetric requires data that the engine stores; a metric without any is
// passed over.
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

// acceptanceCase is one record that was sent to an engine, in a frame of its own.
type acceptanceCase struct {
	Signal, Case         string
	Span, Metric, Record json.RawMessage
	Kept                 bool
}

func (c acceptanceCase) frame() (prefix string, data []byte) {
	envelope := func(resources, scopes, records string, record []byte) []byte {
		return fmt.Appendf(nil, `{%q:[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"acc"}}]},%q:[{"scope":{"name":"s"},%q:[%s]}]}]}`,
			resources, scopes, records, record)
	}
	switch c.Signal {
	case "traces":
		if string(c.Span) == `"…"` { // too long for the recording
			c.Span = fmt.Appendf(nil, `{"traceId":"00000000000000000000000000000048","spanId":"b7ad6b7169203331","name":"n","attributes":[{"key":"k","value":{"stringValue":%q}}]}`,
				strings.Repeat("x", 1<<20))
		}
		return prefixTraces, envelope("resourceSpans", "scopeSpans", "spans", c.Span)
	case "metrics":
		return prefixMetrics, envelope("resourceMetrics", "scopeMetrics", "metrics", c.Metric)
	default:
		return prefixLogs, envelope("resourceLogs", "scopeLogs", "logRecords", c.Record)
	}
}

func acceptanceCases(t testing.TB) []acceptanceCase {
	t.Helper()
	data, err := os.ReadFile("testdata/recordings/otlp-acceptance.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []acceptanceCase
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	return cases
}

// The verdicts were recorded from an engine.
func TestValidatorAgreesWithEngine(t *testing.T) {
	cases := acceptanceCases(t)
	if len(cases) != 115 {
		t.Errorf("got %d cases, want 115", len(cases))
	}
	for _, c := range cases {
		t.Run(c.Signal+"/"+c.Case, func(t *testing.T) {
			prefix, data := c.frame()
			if err := validateFrame(prefix, data); (err == nil) != c.Kept {
				t.Errorf("kept by the engine: %v, validator: %v", c.Kept, err)
			}
		})
	}
}

// What the recording does not show, and the specification says.
func TestValidator(t *testing.T) {
	span := func(members string) string {
		return `{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"a","spanId":"b","name":"n"` + members + `}]}]}]}`
	}
	for _, test := range []struct {
		name, data string
		ok         bool
	}{
		{"plain", span(``), true},
		{"null list", span(`,"attributes":null`), false},
		{"resource null", `{"resourceSpans":[{"resource":null,"scopeSpans":[]}]}`, true},
		{"resource attributes null", `{"resourceSpans":[{"resource":{"attributes":null},"scopeSpans":[]}]}`, false},
		{"key twice", span(`,"name":"n"`), false},
		{"unknown key twice", span(`,"x":1,"x":2`), true},
		{"surrogate pair", span(`,"x":"\ud83d\ude00"`), true},
		{"lone high surrogate", span(`,"x":"\ud83d"`), false},
		{"lone low surrogate", span(`,"x":"\ude00"`), false},
		{"escaped backslash before u", span(`,"x":"\\ude00"`), true},
		{"no UTF-8", span(",\"x\":\"\xff\""), false},
		{"number too great", span(`,"attributes":[{"key":"k","value":{"doubleValue":1e999}}]`), false},
		{"text after", span(``) + "{}", false},
		{"nested 127", `{"x":` + strings.Repeat("[", 126) + strings.Repeat("]", 126) + `}`, true},
		{"nested 128", `{"x":` + strings.Repeat("[", 127) + strings.Repeat("]", 127) + `}`, false},
		{"too large", `{"x":"` + strings.Repeat("x", maxFrameBytes) + `"}`, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := validateFrame(prefixTraces, []byte(test.data)); (err == nil) != test.ok {
				t.Errorf("valid: want %v, got %v", test.ok, err)
			}
		})
	}
	if err := validateFrame("XXXX", []byte("{}")); err == nil {
		t.Error("an unknown prefix is accepted")
	}
}
