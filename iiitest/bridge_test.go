package iiitest_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

func TestBridge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far := iiitest.Start(t)
		near := iiitest.Start(t, iiitest.WithBridge(far.URL(), iii.WithName("bridge"), iii.WithDialContext(far.DialContext)))
		traces, sent := make(chan string, 1), make(chan int, 1)
		_, err := connect(t, far.URL(), func(c *iii.Client) error {
			_, err1 := iii.Handle(c, "f::next", func(ctx context.Context, n int) (int, error) { traces <- iii.TraceID(ctx); return n + 1, nil })
			_, err2 := iii.Handle(c, "f::fail", func(context.Context, any) (any, error) { return nil, &iii.Error{Code: "NO", Message: "not today"} })
			_, err3 := iii.Handle(c, "f::hang", func(ctx context.Context, _ any) (any, error) { <-ctx.Done(); return nil, ctx.Err() })
			_, err4 := iii.Handle(c, "f::take", func(_ context.Context, n int) (any, error) { sent <- n; return nil, nil })
			return errors.Join(err1, err2, err3, err4)
		}, iii.WithName("far"), iii.WithDialContext(far.DialContext))
		if err != nil {
			t.Fatal(err)
		}
		c, err := connect(t, near.URL(), func(*iii.Client) error { return nil }, iii.WithName("near"), iii.WithNamespace("shop"),
			iii.WithDialContext(near.DialContext), iii.WithCallTimeout(time.Hour))
		if err != nil {
			t.Fatal(err)
		}

		const traceID = "0af7651916cd43dd8448eb211c80319c"
		ctx := iii.ExtractContext(t.Context(), "00-"+traceID+"-b7ad6b7169203331-01", "")
		if got, err := iii.Call[int](ctx, c, "bridge.invoke", iii.BridgeInvokeInput{FunctionID: "f::next", Data: iii.JSONValue("1")}); got != 2 || err != nil {
			t.Errorf("call: %d, %v", got, err)
		}
		if got := <-traces; got != traceID {
			t.Errorf("the call is part of trace %q", got)
		}
		var result json.RawMessage
		if err := c.Call(ctx, "bridge.invoke_async", iii.BridgeInvokeInput{FunctionID: "f::take", Data: iii.JSONValue("7")}, &result); err != nil || string(result) != "null" {
			t.Errorf("call without a result: %s, %v", result, err)
		}
		if got := <-sent; got != 7 {
			t.Errorf("the function got %d", got)
		}
		short := uint64(1500)
		for _, test := range []struct {
			in      iii.BridgeInvokeInput
			message string
			after   time.Duration
		}{
			{iii.BridgeInvokeInput{FunctionID: "f::fail"}, "NO: not today", 0},
			{iii.BridgeInvokeInput{FunctionID: "f::none"}, "function_not_found", 0},
			{iii.BridgeInvokeInput{FunctionID: "f::hang", TimeoutMs: &short}, "timed out", 1500 * time.Millisecond},
			{iii.BridgeInvokeInput{FunctionID: "f::hang"}, "timed out", 30 * time.Second},
		} {
			begin := time.Now()
			var failed *iii.Error
			err := c.Call(ctx, "bridge.invoke", test.in, nil)
			if !errors.As(err, &failed) || failed.Code != "bridge_error" || !strings.Contains(failed.Message, test.message) || time.Since(begin) != test.after {
				t.Errorf("%s: %v after %v, want %q after %v", test.in.FunctionID, err, time.Since(begin), test.message, test.after)
			}
		}
		_ = far.Close()
		var failed *iii.Error
		if err := c.Call(ctx, "bridge.invoke", iii.BridgeInvokeInput{FunctionID: "f::next", TimeoutMs: &short}, nil); !errors.As(err, &failed) || failed.Code != "bridge_error" {
			t.Errorf("without the other engine: %v", err)
		}
	})
}

func TestBridgeOptions(t *testing.T) {
	for name, option := range map[string]iiitest.Option{
		"no address":  iiitest.WithBridge(""),
		"bad address": iiitest.WithBridge("ftp://example.com"),
		"bad option":  iiitest.WithBridge("ws://127.0.0.1:1", iii.WithCallTimeout(-1)),
	} {
		if e, err := iiitest.New(option); err == nil || !strings.HasPrefix(err.Error(), "iiitest: WithBridge: ") {
			_ = e.Close()
			t.Errorf("%s: %v", name, err)
		}
	}
	c, err := connect(t, iiitest.Start(t).URL(), func(*iii.Client) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Call(t.Context(), "bridge.invoke", iii.BridgeInvokeInput{FunctionID: "f"}, nil); !errors.Is(err, iii.ErrFunctionNotFound) {
		t.Errorf("without a bridge: %v", err)
	}
}

// If New fails, the bridge must not stay connected: its name must be free again.
func TestBridgeIsClosedIfNewFails(t *testing.T) {
	t.Setenv("III_WORKER_NAME", "only-one")
	e := iiitest.Start(t)
	taken := strings.TrimPrefix(e.URL(), "ws://")
	if _, err := iiitest.New(iiitest.WithBridge(e.URL()), iiitest.WithAddrs(taken, "127.0.0.1:0", "127.0.0.1:0")); err == nil {
		t.Fatal("two engines listen at one address")
	}
	c, err := connect(t, e.URL(), func(*iii.Client) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.WorkerInfo(t.Context(), "only-one"); err != nil {
		t.Errorf("the name is still taken: %v", err)
	}
}
