package otlp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/iii-go/iii/internal/environ"
)

func TestMain(m *testing.M) {
	environ.Clear()
	m.Run()
}

// OpenTelemetry's decoder understands every frame from package iii's tests: encoding the
// decoded frame again yields an equivalent document.
func TestSuiteFramesDecode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "frames")
	cmd := exec.Command("go", "test", "-count=1", "-run", "Telemetry|Encode|Export|Golden|Batch|Log|Live|Metric|Span|Flush|Gauge|Payload|Unsampled|Trace|R13|R14|R20",
		"github.com/iii-go/iii", "github.com/iii-go/iii/internal/otlpjson")
	cmd.Env = append(os.Environ(), "III_TEST_FRAMES="+path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	counts := map[string]int{}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		prefix, data := string(lines.Bytes()[:4]), lines.Bytes()[4:]
		again, err := rewritten(prefix, data)
		if err != nil {
			t.Fatalf("%v in %s%.2000s", err, prefix, data)
		}
		if d := firstDifference("", canonical(t, data), canonical(t, again)); d != "" {
			t.Fatalf("%s\nin %s%.4000s", d, prefix, data)
		}
		counts[prefix]++
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{"OTLP", "MTRC", "LOGS"} {
		if counts[prefix] < 500 {
			t.Errorf("%d frames of %s: the test shows little", counts[prefix], prefix)
		}
	}
	t.Logf("frames: %v", counts)
}

// firstDifference returns the path at which two documents first differ, followed by the two
// values there, or "" if the documents are equal. Unlike a general diff, it takes linear time.
func firstDifference(path string, frame, understood any) string {
	switch f := frame.(type) {
	case map[string]any:
		u, ok := understood.(map[string]any)
		if !ok {
			break
		}
		for k := range u {
			if _, ok := f[k]; !ok {
				return fmt.Sprintf("%s.%s: not in the frame, understood %v", path, k, u[k])
			}
		}
		for k, v := range f {
			if d := firstDifference(path+"."+k, v, u[k]); d != "" {
				return d
			}
		}
		return ""
	case []any:
		u, ok := understood.([]any)
		if !ok || len(f) != len(u) {
			break
		}
		for i := range f {
			if d := firstDifference(path+"["+strconv.Itoa(i)+"]", f[i], u[i]); d != "" {
				return d
			}
		}
		return ""
	default:
		if frame == understood {
			return ""
		}
	}
	return fmt.Sprintf("%s: in the frame %v, understood %v", path, frame, understood)
}

// rewritten decodes a frame and encodes it again, both with OpenTelemetry's codecs.
func rewritten(prefix string, data []byte) ([]byte, error) {
	switch prefix {
	case "OTLP":
		traces, err := (&ptrace.JSONUnmarshaler{}).UnmarshalTraces(data)
		if err != nil {
			return nil, err
		}
		return (&ptrace.JSONMarshaler{}).MarshalTraces(traces)
	case "MTRC":
		metrics, err := (&pmetric.JSONUnmarshaler{}).UnmarshalMetrics(data)
		if err != nil {
			return nil, err
		}
		return (&pmetric.JSONMarshaler{}).MarshalMetrics(metrics)
	default:
		logs, err := (&plog.JSONUnmarshaler{}).UnmarshalLogs(data)
		if err != nil {
			return nil, err
		}
		return (&plog.JSONMarshaler{}).MarshalLogs(logs)
	}
}

// canonical decodes a document into a form that does not depend on the encoder. Numbers become
// text, and members are omitted if their absence has the same meaning.
func canonical(t *testing.T, data []byte) any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return canonicalValue("", v)
}

// alwaysThere holds the keys of members that are kept even with a default value, because they
// determine a value's type or show that the value is present.
var alwaysThere = map[string]bool{
	"stringValue": true, "boolValue": true, "intValue": true, "doubleValue": true, "arrayValue": true, "kvlistValue": true,
	"asInt": true, "asDouble": true, "sum": true, "min": true, "max": true,
}

func canonicalValue(key string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := map[string]any{}
		for k, value := range v {
			value = canonicalValue(k, value)
			if alwaysThere[k] || !isDefault(k, value) {
				m[k] = value
			}
		}
		return m
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = canonicalValue(key, v[i])
		}
		return list
	case json.Number:
		if doubles[key] {
			return double(v.String())
		}
		return v.String()
	}
	return v
}

// doubles holds the keys of floating-point numbers. Other numbers are integers, which are
// compared as text.
var doubles = map[string]bool{"doubleValue": true, "asDouble": true, "sum": true, "min": true, "max": true, "explicitBounds": true}

// double returns the same text for equal numbers, but distinguishes 0 from -0.
func double(text string) string {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return err.Error()
	}
	return strconv.FormatFloat(f, 'g', -1, 64)
}

func isDefault(key string, v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case string:
		return v == "" || v == "0" || strings.HasSuffix(key, "Id") && strings.Trim(v, "0") == ""
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}
