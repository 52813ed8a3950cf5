package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

type sale struct {
	N    int    `json:"n"`
	Fail string `json:"fail,omitempty"`
}

type saleReceipt struct {
	Number int `json:"number"`
}

// Apart from ids and timestamps, observers must not be able to tell a local call from one that
// went through the engine.
func TestLocalAndRoutedCallsDeliverTheSameEnvelope(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		worker, err := iii.New(e.URL(), iii.WithDialContext(e.DialContext), iii.WithName("till"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = worker.Close() }()
		f, err := iii.Handle(worker, "shop::sell", func(_ context.Context, s sale) (saleReceipt, error) {
			if s.Fail != "" {
				return saleReceipt{}, &iii.Error{Code: s.Fail, Message: "failed"}
			}
			return saleReceipt{s.N + 1}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		envelopes := make(chan iii.Observed[sale, saleReceipt], 10)
		_, err = iii.Handle(worker, "log::sale", func(_ context.Context, o iii.Observed[sale, saleReceipt]) (any, error) {
			envelopes <- o
			return nil, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		mustConnect(t, worker)
		capture := []iii.Capture{iii.CaptureInput, iii.CaptureOutput, iii.CaptureError, iii.CaptureCaller, iii.CaptureMetadata}
		filter := map[string]any{"caller.worker_name": map[string]any{"$eq": "till"}}
		o, err := worker.Observe(iii.Source{FunctionID: "shop::sell", On: iii.ObserveOnComplete, Capture: capture, Filters: filter}, "log::sale")
		if err != nil {
			t.Fatal(err)
		}
		if err := o.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !f.LocalDispatch() || !f.IsObserved() {
			t.Fatalf("local %t, observed %t", f.LocalDispatch(), f.IsObserved())
		}
		for _, in := range []sale{{N: 1}, {N: 2, Fail: "NO_TAX"}} {
			var got []iii.Observed[sale, saleReceipt]
			for _, opts := range [][]iii.CallOption{nil, {iii.Remotely()}} {
				err := worker.Call(t.Context(), "shop::sell", in, nil, append(opts, iii.WithMetadata("m"))...)
				if (err != nil) != (in.Fail != "") {
					t.Error(err)
				}
				o := <-envelopes
				o.ActivationID, o.InvocationID, o.StartedAtMs, o.DurationMs = "", "", 0, 0
				got = append(got, o)
			}
			if diff := cmp.Diff(got[1], got[0]); diff != "" {
				t.Errorf("envelopes (-routed +local):\n%s", diff)
			}
			if got[0].Caller == nil || got[0].Caller.WorkerID != worker.WorkerID() || string(got[0].Metadata) != `"m"` {
				t.Errorf("envelope %+v", got[0])
			}
		}
		if got := worker.Stats().LocalCalls; got != 2 {
			t.Errorf("%d local calls", got)
		}
	}, iiitest.WithProtocol(iiitest.Protocol026))
}

// The worker that hosts a function validates its observers' arguments, selects observers by
// key, and can reject an observer at any time.
func TestHostedSourceOnTheEngine(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		type args struct {
			Harbour string `json:"harbour"`
		}
		host := connect(t, e, iii.WithDialContext(e.DialContext))
		removed := make(chan string, 10)
		source, err := host.HandleFunc("tides::on-turn", func(_ context.Context, in json.RawMessage) (any, error) { return in, nil },
			iii.WithArgs[args](), iii.WithPrivate(), iii.WithObserverHooks(iii.ObserverHooks{
				Added: func(_ context.Context, o *iii.FunctionObserver) error {
					var a args
					if err := o.DecodeArgs(&a); err != nil {
						return err
					}
					if a.Harbour == "Atlantis" {
						return &iii.Error{Code: "HARBOUR_UNKNOWN", Message: "it has sunk"}
					}
					return nil
				},
				Removed: func(_ context.Context, o *iii.FunctionObserver) { removed <- o.ID },
				Keys: &iii.ObserverKeys{
					Observer: func(o *iii.FunctionObserver) []string {
						var a args
						_ = o.DecodeArgs(&a)
						return []string{a.Harbour}
					},
					Call: func(call *iii.ObservedCall) []string {
						var a args
						_ = json.Unmarshal(call.Input, &a)
						return []string{a.Harbour}
					},
				},
			}))
		if err != nil {
			t.Fatal(err)
		}
		other := connect(t, e, iii.WithDialContext(e.DialContext))
		heard := make(chan string, 10)
		for _, id := range []string{"a::brest", "a::dover"} {
			_, err := iii.Handle(other, id, func(_ context.Context, in any) (string, error) {
				heard <- id
				return "heard by " + id, nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		observe := func(harbour any, target string) *iii.Observer {
			o, err := other.Observe(iii.Source{FunctionID: "tides::on-turn", Args: map[string]any{"harbour": harbour}}, target)
			if err != nil {
				t.Fatal(err)
			}
			return o
		}
		brest, dover := observe("Brest", "a::brest"), observe("Dover", "a::dover")
		for _, o := range []*iii.Observer{brest, dover} {
			if err := o.Ready(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for harbour, code := range map[any]string{"Atlantis": "HARBOUR_UNKNOWN", 7: "INVALID_ARGS"} {
			if err := observe(harbour, "a::brest").Ready(t.Context()); !errors.Is(err, &iii.Error{Code: code}) {
				t.Errorf("%v: %v", harbour, err)
			}
		}
		if err := other.Call(t.Context(), "tides::on-turn", nil, nil); !errors.Is(err, iii.ErrForbidden) {
			t.Errorf("another worker can call a private function: %v", err)
		}
		for _, opts := range [][]iii.CallOption{nil, {iii.Remotely()}} {
			if err := host.Call(t.Context(), "tides::on-turn", args{"Dover"}, nil, opts...); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second)
			if len(heard) != 1 {
				t.Fatalf("%d targets were called", len(heard))
			}
			if got := <-heard; got != "a::dover" {
				t.Error(got)
			}
		}
		observers := source.Observers()
		if len(observers) != 2 || observers[0].ID != brest.ID() {
			t.Fatalf("%d observers", len(observers))
		}
		var result string
		if err := observers[0].Call(t.Context(), "now", &result); err != nil || result != "heard by a::brest" {
			t.Errorf("%q, %v", result, err)
		}
		observers[0].Reject(&iii.Error{Code: "SILTED", Message: "no water"})
		time.Sleep(time.Second)
		if err := brest.Err(); !errors.Is(err, &iii.Error{Code: "SILTED"}) {
			t.Errorf("after a late rejection: %v", err)
		}
		if err := dover.Dispose(t.Context()); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if got := fmt.Sprint(<-removed, <-removed); got != fmt.Sprint(brest.ID(), dover.ID()) || source.IsObserved() {
			t.Errorf("removed %s, observed %t", got, source.IsObserved())
		}
	}, iiitest.WithProtocol(iiitest.Protocol026))
}

// Deliver selects what the target receives, for local calls and for calls through the engine,
// even if Capture is empty.
func TestLocalAndRoutedCallsDeliverTheSamePart(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		worker, err := iii.New(e.URL(), iii.WithDialContext(e.DialContext), iii.WithName("till"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = worker.Close() }()
		_, err = iii.Handle(worker, "double", func(_ context.Context, n int) (int, error) { return 2 * n, nil })
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		got := map[iii.ObserveDeliver][]int{}
		for _, deliver := range []iii.ObserveDeliver{iii.ObserveDeliverInput, iii.ObserveDeliverOutput} {
			id := "target::" + string(deliver)
			_, err := iii.Handle(worker, id, func(_ context.Context, n int) (any, error) {
				mu.Lock()
				defer mu.Unlock()
				got[deliver] = append(got[deliver], n)
				return nil, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := worker.Observe(iii.Source{FunctionID: "double", Capture: []iii.Capture{}, Deliver: deliver}, id); err != nil {
				t.Fatal(err)
			}
		}
		mustConnect(t, worker)
		synctest.Wait()
		for n, opts := range [][]iii.CallOption{nil, {iii.Remotely()}} {
			if err := worker.Call(t.Context(), "double", n+1, nil, opts...); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		want := map[iii.ObserveDeliver][]int{iii.ObserveDeliverInput: {1, 2}, iii.ObserveDeliverOutput: {2, 4}}
		mu.Lock()
		defer mu.Unlock()
		if diff := cmp.Diff(want, got); diff != "" || worker.Stats().LocalCalls != 1 {
			t.Errorf("delivered (-want +got):\n%s\n%d local calls", diff, worker.Stats().LocalCalls)
		}
	}, iiitest.WithProtocol(iiitest.Protocol026))
}
