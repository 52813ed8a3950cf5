package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNamesFollowGoConventions(t *testing.T) {
	for text, want := range map[string][2]string{
		"user_id":        {"UserID", "userID"},
		"id":             {"ID", "id"},
		"trace_ids":      {"TraceIDs", "traceIDs"},
		"memory_rss":     {"MemoryRSS", "memoryRSS"},
		"dlq_depth":      {"DLQDepth", "dlqDepth"},
		"engine_ws_url":  {"EngineWSURL", "engineWSURL"},
		"json":           {"JSON", "json"},
		"http2_settings": {"HTTP2Settings", "http2Settings"},
		"APIs":           {"APIs", "apis"},
		"apis":           {"APIs", "apis"},
		"wss":            {"WSS", "wss"},
		"HTTPServer":     {"HTTPServer", "httpServer"},
		"getURLByID":     {"GetURLByID", "getURLByID"},
		"this is":        {"ThisIs", "thisIs"},
		"status":         {"Status", "status"},
		"2fa":            {"X2fa", "x2fa"},
		"größe":          {"Größe", "größe"},
		"日本":             {"X日本", "x日本"},
		"":               {"X", "x"},
		"func":           {"Func", "func"},
	} {
		name := goName(text)
		if diff := cmp.Diff(want, [2]string{name, unexported(name)}); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}
