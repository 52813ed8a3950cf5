package iii_test

import (
	"testing"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

func TestTelemetryConnectionDelivers(t *testing.T) {
	e := iiitest.Start(t)
	s, err := iii.NewSharedEngineConnection(e.URL())
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if err := s.Send(iii.OtelMessage{Prefix: "LOGS", Data: []byte(`{"resourceLogs":[]}`)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := len(e.Telemetry()); got != 100 {
		t.Errorf("engine has %d frames, want 100", got)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
}
