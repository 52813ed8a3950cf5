package iiitest

import (
	"context"
	"encoding/json"
	"time"
)

const observabilityWorker = "iii-observability"

// registerObservability adds the health check and the functions that read a call's baggage. As
// in a real engine, the baggage of a call without a traceparent is not visible.
func (e *Engine) registerObservability() {
	add := func(id, description string, f builtinFunc) { e.addBuiltin(id, observabilityWorker, description, f) }
	add("engine::health::check", "Report the health of the engine", e.serveHealth)
	add("engine::baggage::get", "Get a baggage value", func(_ context.Context, c *call) (json.RawMessage, *wireError) {
		type BaggageGetInput struct {
			Key string `json:"key"`
		}
		in, bad := decodeInput[BaggageGetInput](c.functionID, c.data)
		if bad != nil {
			return nil, bad
		}
		var value *string
		entries := parseBaggage(c.callerBaggage)
		if v, there := entries.get(in.Key); there {
			value = &v
		}
		return mustEncode(map[string]any{"value": value}), nil
	})
	add("engine::baggage::set", "Set a baggage value", func(_ context.Context, c *call) (json.RawMessage, *wireError) {
		type BaggageSetInput struct {
			Key   string `json:"key"`
			Value string `json:"value"`
		}
		if _, bad := decodeInput[BaggageSetInput](c.functionID, c.data); bad != nil {
			return nil, bad
		}
		return mustEncode(map[string]any{
			"note": "Baggage set in new context. For propagation, use SDK-level baggage headers.", "success": true,
		}), nil
	})
	add("engine::baggage::get_all", "Get all baggage values", func(_ context.Context, c *call) (json.RawMessage, *wireError) {
		type BaggageGetAllInput struct{}
		if _, bad := decodeInput[BaggageGetAllInput](c.functionID, c.data); bad != nil {
			return nil, bad
		}
		values := map[string]string{}
		for _, x := range parseBaggage(c.callerBaggage).list {
			values[x.key] = x.value
		}
		return mustEncode(map[string]any{"baggage": values}), nil
	})
}

func (e *Engine) serveHealth(_ context.Context, c *call) (json.RawMessage, *wireError) {
	type HealthCheckInput struct{}
	if _, bad := decodeInput[HealthCheckInput](c.functionID, c.data); bad != nil {
		return nil, bad
	}
	spans, bytes := e.spans.stored()
	component := func(details map[string]any) map[string]any {
		return map[string]any{"status": "healthy", "details": details}
	}
	return mustEncode(map[string]any{
		"status": "healthy", "timestamp": time.Now().UnixMilli(), "version": e.version(),
		"components": map[string]any{
			"logs":    component(map[string]any{"stored_logs": e.logs.stored()}),
			"metrics": component(map[string]any{"stored_metrics": e.metrics.stored()}),
			"otel":    component(map[string]any{"enabled": true, "exporter": "Some(Memory)", "service_name": "iii"}),
			"spans": component(map[string]any{
				"archive": map[string]any{
					"archive": "disabled", "completeness": "complete", "known_dropped_spans": 0,
					"last_error": nil, "max_disk_bytes": 0, "physical_bytes": 0,
				},
				"hot_bytes": bytes, "stored_spans": spans,
			}),
		},
	}), nil
}
