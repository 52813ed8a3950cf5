package iii

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// telemetryChecklist is what telemetry has to do, and the tests that show it.
var telemetryChecklist = []struct {
	line  string
	tests []string
}{
	{"the URL is derived as the table says", []string{"TestChecklistTelemetryURL"}},
	{"every variable, unset, empty and odd; a field beats its variable", []string{
		"TestChecklistTelemetryVariables", "TestTelemetryResource", "TestChecklistStandardVariables", "TestBatchSizesFromEnvironment", "TestMetricsTemporality",
		"TestChecklistCaptureEnvironment", "TestChecklistHTTPIgnored", "TestChecklistHTTPIgnoresNothing",
	}},
	{"disabled: no goroutine, no dial, helpers do nothing, the caller's trace goes on", []string{
		"TestChecklistDisabled", "TestDisabledTelemetryDoesNothing", "TestChecklistForwardsWithoutTelemetry", "TestChecklistWithSpanWithoutTelemetry", "TestHTTPPropagation",
	}},
	{"order of processors: a start carries baggage and the attributes that the span began with", []string{
		"TestChecklistProcessorOrder", "TestChecklistLiveSnapshot", "TestChecklistLiveSpanOfInvocation",
	}},
	{"the start of a span comes before its end in every run, across reconnects and overflow too", []string{
		"TestChecklistSnapshotPrecedesFinal", "TestChecklistLiveSpanStaysAhead", "TestQueueBooks",
	}},
	{"a parent that is not sampled: no start, no end, no look at payloads", []string{
		"TestChecklistUnsampled", "TestChecklistUnsampledPayload", "TestTracingWants", "TestLiveSpansSampled",
	}},
	{"numbers of enumerations: error 2, ok 1, cumulative 2, delta 1", []string{"TestChecklistEnums"}},
	{"no time is \"0\"; there is no null", []string{"TestChecklistZeroTimes", "TestUnixNano", "TestEncodeAnything"}},
	{"integers beyond 2^53 survive in attributes, sums, counts and buckets", []string{"TestChecklistLargeIntegers", "TestEncodeValue"}},
	{"NaN and infinities in attributes, gauges, sums and the figures of histograms", []string{"TestChecklistNonFinite", "TestEncodeValue"}},
	{"integer histograms; exponential ones of scales -10 to 20, with zeros and negative values; metrics without points", []string{
		"TestChecklistHistograms", "TestConvertExponential", "TestEncodeEmptyMetrics",
	}},
	{"log data nested 30 levels and more is stored, its tail as text", []string{"TestChecklistDeepLogData", "TestEncodeDeepLog", "TestChecklistLogTrigger"}},
	{"a payload of 20 MiB is cut and the connection stays up", []string{"TestChecklistLargePayload", "TestEncodeLargePayload"}},
	{"batches that are split: every record comes exactly once", []string{"TestChecklistSplitBatches", "TestChecklistSplitOverTheWire"}},
	{"there is a severity text; a log trigger with a level fires", []string{"TestChecklistSeverityText", "TestChecklistLoggerSeverity", "TestChecklistLogTrigger"}},
	{"Flush returns after the pong to a ping behind the last frame, or when ctx ends", []string{
		"TestR14FlushMeansReceived", "TestChecklistFlushOfLatePeer", "TestChecklistFlushOfSilentPeer", "TestChecklistFlushWithoutPeer",
	}},
	{"Shutdown delivers the last batch; may be called again; ends nothing that is shared; leaves no goroutine", []string{
		// Those in a bubble end with all their goroutines; TestMain looks for the others.
		"TestChecklistShutdownDelivers", "TestTelemetryDelivers", "TestChecklistShutdownIsBounded", "TestChecklistShutdownTimeout",
		"TestTelemetryGlobalProviders", "TestShutdownFlushesTelemetry", "TestTelemetrySharedConcurrent", "TestMain",
	}},
	{"reconnecting: order, exact counts of what is dropped, delays within bounds, failed when the attempts are used up", []string{
		"TestChecklistReconnectLosesNothing", "TestQueueBooks", "TestQueueShedsByClass", "TestTelemetrySaysDrops",
		"TestChecklistTelemetryBackoff", "TestTelemetryBackoffOfShortConnections", "TestConnectionReconnectionOption", "TestChecklistTelemetryFailsAfterMaxRetries",
	}},
	{"a refusal is told and makes the delays grow; headers and tokens are in the upgrade", []string{
		"TestChecklistTelemetryAuthFailure", "TestChecklistTelemetryAuthOfEngine", "TestTelemetryUpgrade",
	}},
	{"flags of outgoing traceparents are 00 or 01, under a parent of 03 too", []string{"TestChecklistOutgoingFlags"}},
	{"baggage with spaces, commas, semicolons, equals signs, percent signs, quotes and all letters; one bad entry spoils no other", []string{
		"TestChecklistBaggageRoundTrip", "TestChecklistBaggageLenient",
	}},
	{"the span of an invocation: name, kind, events, status, exception; a status of the handler stays; panics", []string{
		"TestChecklistInvocationSpan", "TestChecklistLinksCallerAndCallee", "TestInvocationSpanWithoutAnswer",
	}},
	{"redaction and truncation; the environment counts at the time of the call", []string{
		"TestChecklistRedact", "TestChecklistTruncate", "TestChecklistCaptureEnvironment", "TestChecklistPayloadsDisabled",
	}},
	{"HTTP: URLs to ignore, attributes, no other headers, status from 400 on, failed requests, bodies untouched", []string{
		"TestChecklistHTTPAttributes", "TestChecklistHTTPIgnored", "TestChecklistHTTPSwitchedOff", "TestHTTPErrorKinds", "TestHTTPClient", "TestChecklistTraceOverHTTP",
	}},
	{"gauges: names, units, attributes, Stop, another worker id; the engine lists them with the worker", []string{
		"TestChecklistGauges", "TestGaugesFollowWorkerID", "TestChecklistGaugesInWorkerInfo",
	}},
	{"collector: 500 ms, concurrent callers, processor use within its range, a first reading that says something, other systems", []string{
		"TestChecklistCollector", "TestChecklistCollectorConcurrent", "TestCollectorShortInterval", "TestCollectorOfThisProcess", "TestChecklistCollectorOfUnsupportedSystem",
	}},

	// The promises.
	{"telemetry arrives at least once", []string{"TestR13TelemetryArrives", "TestChecklistReconnectLosesNothing"}},
	{"Flush means that the engine has it", []string{"TestR14FlushMeansReceived", "TestChecklistFlushOfLatePeer", "TestChecklistFlushWithoutPeer"}},
	{"recording never waits for the network", []string{"TestR15RecordingNeverWaits", "BenchmarkLogRecord"}},
	{"no secret is told", []string{"TestR19NoSecretOfTelemetryIsTold", "TestMain"}},
	{"one bad value loses no frame", []string{"TestValidatorAgreesWithEngine", "TestValidator", "TestEncodeAnything", "FuzzEncode", "TestEncodeValue"}},
	{"what a recorded worker told the engine is told here, too", []string{"TestGoldenTelemetry"}},
}

// Every line has its tests, and every test that is named for the list is on it.
func TestTelemetryChecklist(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]bool{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				declared[f.Name.Name] = true
			}
		}
	}
	listed := map[string]bool{}
	for _, entry := range telemetryChecklist {
		if len(entry.tests) == 0 {
			t.Errorf("%s: no test", entry.line)
		}
		for _, name := range entry.tests {
			listed[name] = true
			if !declared[name] {
				t.Errorf("%s: there is no %s", entry.line, name)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(declared)) {
		if strings.HasPrefix(name, "TestChecklist") && !listed[name] {
			t.Errorf("%s is not on the list", name)
		}
	}
}
