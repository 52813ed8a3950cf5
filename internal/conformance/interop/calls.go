package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/iii-go/iii"
)

var calls = []scenario{
	{"result-go-peer", "results: Go calls the peer", func(ctx context.Context, t *trial) {
		for _, v := range values {
			t.equal("result of peer::echo", t.call(ctx, "peer::echo", v), v)
		}
	}},
	{"result-peer-go", "results: the peer calls Go", func(ctx context.Context, t *trial) {
		for _, v := range values {
			t.equal("result of go::echo", t.peerCalls(ctx, "go::echo", v, nil), v)
		}
	}},
	{"null-go-peer", "null as payload and result: Go calls the peer", func(ctx context.Context, t *trial) {
		t.equal("result of peer::echo", t.call(ctx, "peer::echo", nil, iii.WithTimeout(t.patience)), nil)
	}},
	{"null-peer-go", "null as payload and result: the peer calls Go", func(ctx context.Context, t *trial) {
		t.equal("result of go::echo", t.peerCalls(ctx, "go::echo", nil, object{"timeout_ms": t.patience.Milliseconds()}), nil)
	}},
	{"big-integers", "integers above 2^53, in both directions", func(ctx context.Context, t *trial) {
		const n = "9007199254740993"
		if got := t.call(ctx, "peer::echo", json.RawMessage(n)); string(got) != n {
			t.errorf("Go calls the peer: got %s, want %s", got, n)
		}
		if got := t.peerCalls(ctx, "go::echo", json.RawMessage(n), nil); string(got) != n {
			t.errorf("the peer calls Go: got %s, want %s", got, n)
		}
	}},
	{"large", "payloads and results of 2 MiB, in both directions", func(ctx context.Context, t *trial) {
		text := strings.Repeat("0123456789abcdef", 2<<20/16)
		var out string
		t.must("Go calls the peer", t.client.Call(ctx, "peer::echo", text, &out))
		if out != text {
			t.errorf("Go calls the peer: got %d bytes, want the %d that were sent", len(out), len(text))
		}
		t.must("the peer calls Go", json.Unmarshal(t.peerCalls(ctx, "go::echo", text, nil), &out))
		if out != text {
			t.errorf("the peer calls Go: got %d bytes, want the %d that were sent", len(out), len(text))
		}
	}},
	{"huge", "a result of 20 MiB from the peer", func(ctx context.Context, t *trial) {
		var out string
		if err := t.client.Call(ctx, "peer::text", object{"bytes": 20 << 20}, &out); err != nil {
			t.errorf("peer::text: %v", err)
			t.must("the peer", t.ready(ctx, t.peer, "peer::echo")) // after it has reconnected
		} else if len(out) != 20<<20 {
			t.errorf("peer::text: got %d bytes, want %d", len(out), 20<<20)
		}
	}},
	{"error-go-peer", "errors with a code: Go calls the peer", func(ctx context.Context, t *trial) {
		err := t.client.Call(ctx, "peer::fail", object{"code": "OUT_OF_STOCK", "message": "no more"}, nil)
		e := t.failsWith("peer::fail", err, "OUT_OF_STOCK")
		if !strings.Contains(e.Message, "no more") {
			t.errorf("peer::fail: got the message %q, want one with %q", e.Message, "no more")
		}
	}},
	{"error-peer-go", "errors with a code: the peer calls Go", func(ctx context.Context, t *trial) {
		r := t.do(ctx, "call", object{"function_id": "go::fail", "payload": object{"code": "OUT_OF_STOCK", "message": "no more"}})
		t.fails("go::fail", r, "OUT_OF_STOCK", "no more")
	}},
	{"exception-go-peer", "other errors: Go calls the peer", func(ctx context.Context, t *trial) {
		e := t.failsWith("peer::crash", t.client.Call(ctx, "peer::crash", object{}, nil), "invocation_failed")
		if !strings.Contains(e.Message, "it broke") {
			t.errorf("peer::crash: got the message %q, want one with %q", e.Message, "it broke")
		}
	}},
	{"exception-peer-go", "other errors: the peer calls Go", func(ctx context.Context, t *trial) {
		r := t.do(ctx, "call", object{"function_id": "go::crash", "payload": object{}})
		t.fails("go::crash", r, "invocation_failed", "it broke")
	}},
	{"not-found", "the peer calls a function that does not exist", func(ctx context.Context, t *trial) {
		r := t.do(ctx, "call", object{"function_id": "nobody::home", "payload": object{}})
		t.fails("nobody::home", r, "function_not_found", "nobody::home")
	}},
	{"timeout-go-peer", "timeouts: Go calls the peer", func(ctx context.Context, t *trial) {
		err := t.client.Call(ctx, "peer::slow", object{"ms": tooSlow}, nil, iii.WithTimeout(200*time.Millisecond))
		if !errors.Is(err, iii.ErrTimeout) {
			t.errorf("peer::slow: got %v, want %v", err, iii.ErrTimeout)
		}
		t.equal("result of a call with time enough", t.call(ctx, "peer::slow", object{"ms": 500}), "late")
	}},
	{"timeout-peer-go", "timeouts: the peer calls Go", func(ctx context.Context, t *trial) {
		r := t.do(ctx, "call", object{"function_id": "go::slow", "payload": object{"ms": tooSlow}, "timeout_ms": 200})
		t.fails("go::slow", r, "TIMEOUT", "")
		t.equal("result of a call with time enough", t.peerCalls(ctx, "go::slow", object{"ms": 500}, object{"timeout_ms": 30_000}), "late")
	}},
	{"metadata-go-peer", "call metadata: Go calls the peer", func(ctx context.Context, t *trial) {
		got := t.members("result", t.call(ctx, "peer::inspect", object{"n": 1}, iii.WithMetadata(object{"tenant": "acme", "tags": []int{1, 2}})))
		t.equal("payload", got["payload"], object{"n": 1})
		t.equal("metadata", got["metadata"], object{"tenant": "acme", "tags": []int{1, 2}})
		got = t.members("result", t.call(ctx, "peer::inspect", object{}))
		t.equal("metadata of a call without", got["metadata"], nil)
	}},
	{"metadata-peer-go", "call metadata: the peer calls Go", func(ctx context.Context, t *trial) {
		got := t.members("result", t.peerCalls(ctx, "go::inspect", object{"n": 1}, object{"metadata": object{"tenant": "acme"}}))
		t.equal("payload", got["payload"], object{"n": 1})
		t.equal("metadata", got["metadata"], object{"tenant": "acme"})
	}},
	{"namespace-go-peer", "Go calls a peer in another namespace", namespaceGoPeer},
	{"namespace-peer-go", "the peer calls Go in another namespace", namespacePeerGo},
	{"void-go-peer", "void calls: Go calls the peer", func(ctx context.Context, t *trial) {
		t.listen(ctx, "peer::on-void", nil, 0)
		t.must("send", t.client.Send(ctx, "peer::on-void", object{"n": 1}, iii.WithMetadata("m")))
		e := t.next(ctx, "peer::on-void")
		t.equal("payload", e.Payload, object{"n": 1})
		t.equal("metadata", e.Metadata, "m")
	}},
	{"void-peer-go", "void calls: the peer calls Go", func(ctx context.Context, t *trial) {
		defer unregister(t.listenHere("go::on-void", nil, 0))
		got := t.peerCalls(ctx, "go::on-void", object{"n": 1}, object{"action": object{"type": "void"}})
		t.equal("result", got, nil)
		t.equal("payload", t.next(ctx, "go::on-void").Payload, object{"n": 1})
	}},
	{"http-invoked", "the peer registers a function that the engine calls over HTTP", httpInvoked},
	{"unregister", "the peer unregisters a function", func(ctx context.Context, t *trial) {
		t.listen(ctx, "peer::passing", "here", 0)
		t.equal("result", t.call(ctx, "peer::passing", object{}), "here")
		t.value(ctx, "unregister", object{"function_id": "peer::passing"})
		t.must("peer::passing is still there", until(ctx, "calls do not fail", func() bool {
			return errors.Is(t.client.Call(ctx, "peer::passing", object{}, nil), iii.ErrFunctionNotFound)
		}))
	}},
	{"worker", "the peer describes itself to the engine", func(ctx context.Context, t *trial) {
		w, err := t.client.WorkerInfo(ctx, t.peerName())
		t.must("engine::workers::info", err)
		t.equal("runtime", w.Worker.Runtime, t.sdk.runtime)
		if w.Worker.Version == nil || *w.Worker.Version == "" {
			t.errorf("no version")
		}
		t.equal("description", w.Worker.Description, "a peer")
	}},
}

// tooSlow is the running time, in milliseconds, of functions whose callers wait for only 200
// ms. Even on a machine that stalls for a second, the caller times out first.
const tooSlow = 5000

// values holds payloads that the workers must return unchanged.
var values = []json.RawMessage{
	json.RawMessage(`{"text":"grüß dich, 世界 \u0000 \"quoted\" 🙂","nested":{"list":[1,"x",true,null,{"deep":[[]]}]},"empty":{}}`),
	json.RawMessage(`[1,-2.5,1e21,0,9007199254740991]`),
	json.RawMessage(`"plain"`), json.RawMessage(`""`), json.RawMessage(`42`), json.RawMessage(`false`), json.RawMessage(`[]`),
}

// fails adds a difference unless the peer's step failed with the given error code and with an
// error message that contains message.
func (t *trial) fails(what string, r reply, code, message string) {
	switch {
	case r.Error == nil:
		t.errorf("%s: got the result %s, want an error with code %q", what, short(plain(r.Value)), code)
	case r.Error.Code != code:
		t.errorf("%s: got the code %q, want %q", what, r.Error.Code, code)
	case !strings.Contains(r.Error.Message, message):
		t.errorf("%s: got the message %q, want one with %q", what, r.Error.Message, message)
	}
}

func unregister(f *iii.Function) { _ = f.Unregister() }

// startSecond starts a second worker that uses the peer's SDK.
func (t *trial) startSecond(ctx context.Context, config peerConfig) (_ *peer, stop func()) {
	p, err := startPeer(ctx, t.argv, t.dir, config)
	t.must("a second worker of the peer", err)
	return p, p.stop
}

func namespaceGoPeer(ctx context.Context, t *trial) {
	config := t.peer.config
	config.Name, config.Namespace = config.Name+"-shop", "shop"
	second, stop := t.startSecond(ctx, config)
	defer stop()
	t.must("the peer in the namespace", t.ready(ctx, second, "peer::echo", iii.InNamespace("shop")))
	t.equal("result", t.call(ctx, "peer::echo", "in the shop", iii.InNamespace("shop")), "in the shop")
	w, err := t.client.WorkerInfo(ctx, t.peerName())
	t.must("engine::workers::info", err)
	t.equal("namespace of the first peer", w.Worker.Namespace, "default")
	r := t.doAt(ctx, "peer::do", "call", object{"function_id": "go::echo", "payload": 1, "namespace": "default"}, iii.InNamespace("shop"))
	t.ok("call from the namespace shop to default", r)
	t.equal("result of that", r.Value, 1)
}

func namespacePeerGo(ctx context.Context, t *trial) {
	shop, err := iii.New(t.engine.workers, iii.WithName(goWorker+"-store"), iii.WithNamespace("store"))
	t.must("a worker of ours in a namespace", err)
	defer shop.Close()
	_, err = shop.HandleFunc("store::echo", func(_ context.Context, payload json.RawMessage) (any, error) { return payload, nil })
	t.must("registration", err)
	t.must("connection", shop.Connect(ctx))
	t.equal("result", t.peerCalls(ctx, "store::echo", "in the store", object{"namespace": "store"}), "in the store")
	r := t.do(ctx, "call", object{"function_id": "store::echo", "payload": 1})
	t.fails("the same without a namespace", r, "function_not_found", "store::echo")
}

func httpInvoked(ctx context.Context, t *trial) {
	type got struct {
		body     string
		verified error
		header   http.Header
	}
	requests := make(chan got, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // an incomplete body does not match its signature
		requests <- got{string(body), iii.VerifySignature(r, body, hmacSecret, time.Minute), r.Header}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"answered":true}`))
	}))
	defer server.Close()
	t.value(ctx, "http-invoked", object{
		"function_id": "peer::remote", "url": server.URL, "method": "PUT", "header": "x-kind", "value": "test", "secret": "INTEROP_SECRET",
	})
	t.must("registration", t.registered(ctx, "peer::remote"))
	t.equal("result", t.call(ctx, "peer::remote", object{"n": 1}), object{"answered": true})
	r := <-requests
	t.equal("body", json.RawMessage(r.body), object{"n": 1})
	t.equal("header x-kind", r.header.Get("x-kind"), "test")
	if r.verified != nil {
		t.errorf("signature: %v", r.verified)
	}
}
