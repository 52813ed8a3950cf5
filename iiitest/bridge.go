package iiitest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/iii-go/iii"
)

const bridgeWorker = "iii-bridge"

// bridgeTimeout is the default timeout for a call to another engine.
const bridgeTimeout = 30 * time.Second

// WithBridge connects the engine, as a worker, to the engine at url. It adds the functions
// bridge.invoke and bridge.invoke_async, which call functions on that engine and take an
// [iii.BridgeInvokeInput]. opts configure the worker. A call made while the bridge is
// disconnected waits for the connection until the call times out. By default there is no
// bridge, and the two functions do not exist.
func WithBridge(url string, opts ...iii.Option) Option {
	own := slices.Clone(opts)
	return func(c *config) error {
		if url == "" {
			return errors.New("iiitest: WithBridge: address is empty")
		}
		c.bridge = func() (*iii.Client, error) {
			client, err := iii.New(url, own...)
			if err != nil {
				return nil, fmt.Errorf("iiitest: WithBridge: %w", err)
			}
			return client, nil
		}
		return nil
	}
}

// registerBridge adds the bridge functions and connects to the other engine.
func (e *Engine) registerBridge() {
	if e.bridge == nil {
		return
	}
	e.addBuiltin("bridge.invoke", bridgeWorker, "Call a function of another engine",
		func(ctx context.Context, c *call) (json.RawMessage, *wireError) {
			var result json.RawMessage
			bad := e.overBridge(ctx, c, func(ctx context.Context, in bridgeInvokeInput, timeout iii.CallOption) error {
				return e.bridge.Call(ctx, in.FunctionID, in.Data, &result, timeout)
			})
			return result, bad
		})
	e.addBuiltin("bridge.invoke_async", bridgeWorker, "Call a function of another engine without its result",
		func(ctx context.Context, c *call) (json.RawMessage, *wireError) {
			return nil, e.overBridge(ctx, c, func(ctx context.Context, in bridgeInvokeInput, timeout iii.CallOption) error {
				return e.bridge.Send(ctx, in.FunctionID, in.Data, timeout)
			})
		})
	e.spawn(func(ctx context.Context) {
		if err := e.bridge.Connect(ctx); err != nil && ctx.Err() == nil {
			e.log.Error("the other engine rejected the bridge", "error", err)
		}
	})
}

type bridgeInvokeInput struct {
	FunctionID string          `json:"function_id"`
	Data       json.RawMessage `json:"data,omitempty"`
	TimeoutMs  *uint64         `json:"timeout_ms"`
}

// overBridge calls the other engine as part of the caller's trace.
func (e *Engine) overBridge(ctx context.Context, c *call, do func(context.Context, bridgeInvokeInput, iii.CallOption) error) *wireError {
	in, bad := decodeInput[bridgeInvokeInput](c.functionID, c.data)
	if bad != nil {
		return bad
	}
	timeout := bridgeTimeout
	if in.TimeoutMs != nil {
		const most = uint64(365 * 24 * time.Hour / time.Millisecond)
		timeout = cmp.Or(time.Duration(min(*in.TimeoutMs, most))*time.Millisecond, time.Nanosecond)
	}
	if err := do(iii.ExtractContext(ctx, c.traceparent, c.baggage), in, iii.WithTimeout(timeout)); err != nil {
		return errorBody("bridge_error", "%v", err)
	}
	return nil
}
