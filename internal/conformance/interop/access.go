package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/iii-go/iii"
)

// The guarded port requires this token.
const token = "let-me-in"

var access = []scenario{
	{"guarded-peer", "a peer on the guarded port: permissions, prefix, rejections", guardedPeer},
	{"guard-by-peer", "the peer serves the auth function that admits Go", guardByPeer},
}

func guardedPeer(ctx context.Context, t *trial) {
	asked := make(chan string, 100)
	prefix := "guest"
	f, err := iii.Handle(t.client, "gate::auth", func(_ context.Context, in iii.AuthInput) (iii.AuthResult, error) {
		given := in.Headers["x-interop-token"]
		asked <- given
		if given != token {
			return iii.AuthResult{}, errors.New("no entry")
		}
		result := iii.NewAuthResult()
		result.AllowedFunctions = iii.StringList{"go::echo"}
		result.FunctionRegistrationPrefix = &prefix
		return result, nil
	})
	t.must("registration", err)
	defer unregister(f)
	config := peerConfig{URL: t.engine.guard, Name: t.peerName() + "-guest", Headers: map[string]string{"x-interop-token": token}}
	second, stop := t.startSecond(ctx, config)
	defer stop()
	t.must("the peer on the guarded port", t.ready(ctx, second, "guest::peer::echo"))
	r := t.doAt(ctx, "guest::peer::do", "call", object{"function_id": "go::echo", "payload": object{"n": 1}})
	t.ok("call that is allowed", r)
	t.equal("result of a call that is allowed", r.Value, object{"n": 1})
	r = t.doAt(ctx, "guest::peer::do", "call", object{"function_id": "go::inspect", "payload": object{}})
	t.fails("call that is not allowed", r, "FORBIDDEN", "go::inspect")

	config.Name, config.Headers = t.peerName()+"-stranger", map[string]string{"x-interop-token": "wrong"}
	_, stopStranger := t.startSecond(ctx, config)
	defer stopStranger()
	for given := ""; given != "wrong"; {
		select {
		case given = <-asked:
		case <-ctx.Done():
			t.must("the peer with the wrong token", ctx.Err())
		}
	}
	workers, err := t.client.Workers(ctx)
	t.must("engine::workers::list", err)
	for _, w := range workers {
		if w.Name != nil && *w.Name == config.Name {
			t.errorf("the peer with the wrong token is listed as a worker")
		}
	}
}

func guardByPeer(ctx context.Context, t *trial) {
	t.value(ctx, "guard", object{"function_id": "gate::auth", "header": "x-interop-token", "token": token, "allowed": []string{"peer::echo"}})
	t.must("registration", t.registered(ctx, "gate::auth"))
	defer t.do(ctx, "unregister", object{"function_id": "gate::auth"})
	guest, err := iii.New(t.engine.guard, iii.WithName(goWorker+"-guest"), iii.WithHeader(http.Header{"X-Interop-Token": {token}}))
	t.must("client", err)
	defer guest.Close()
	t.must("connection with the token", guest.Connect(ctx))
	var got json.RawMessage
	t.must("call that is allowed", guest.Call(ctx, "peer::echo", object{"n": 1}, &got))
	t.equal("result of it", got, object{"n": 1})
	t.failsWith("call that is not allowed", guest.Call(ctx, "peer::inspect", object{}, nil), "FORBIDDEN")

	stranger, err := iii.New(t.engine.guard, iii.WithName(goWorker+"-stranger"), iii.WithHeader(http.Header{"X-Interop-Token": {"wrong"}}))
	t.must("client", err)
	defer stranger.Close()
	var refused *iii.AuthError
	if err := stranger.Connect(ctx); !errors.As(err, &refused) {
		t.errorf("connection with the wrong token: got %v, want an AuthError", err)
	}
}
