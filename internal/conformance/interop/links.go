package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/iii-go/iii"
)

var links = []scenario{
	{"reconnect", "reconnecting after the engine dropped the connection", func(ctx context.Context, t *trial) {
		t.listen(ctx, "peer::on-return", nil, 0)
		t.bind(ctx, "state", "peer::on-return", object{"scope": "returns"}, nil)
		under := make(chan error, 1)
		call, cancel := context.WithCancel(ctx)
		var calling sync.WaitGroup
		defer calling.Wait()
		defer cancel()
		calling.Go(func() { under <- t.client.Call(call, "peer::slow", object{"ms": 60_000}, nil) })
		t.must("call under way", until(ctx, "the peer does not work on it", func() bool {
			w, err := t.client.WorkerInfo(ctx, t.peerName())
			return err == nil && w.Worker.ActiveInvocations > 0
		}))
		before, err := t.client.WorkerInfo(ctx, t.peerName())
		t.must("engine::workers::info", err)
		t.proxy.cut(false)
		t.failsWith("call under way", <-under, "invocation_stopped")
		t.comesBack(ctx, before.Worker.ID)
		t.must("trigger", t.bound(ctx, "state", "peer::on-return")) // bound again
		_, err = iii.NewState[int](t.client, "returns").Set(ctx, "k", 1)
		t.must("state::set", err)
		t.next(ctx, "peer::on-return")
		if !t.quiet("peer::on-return", 300*time.Millisecond) {
			t.errorf("a trigger that was bound before fires more than once")
		}
	}},
	{"reattach", "reconnecting while the engine still holds the old connection", func(ctx context.Context, t *trial) {
		before, err := t.client.WorkerInfo(ctx, t.peerName())
		t.must("engine::workers::info", err)
		offset, err := t.engine.frameOffset()
		t.must("frames", err)
		t.proxy.cut(true)
		t.comesBack(ctx, before.Worker.ID)
		frames, err := t.engine.framesSince(offset)
		t.must("frames", err)
		reattached := false
		for _, f := range frames {
			m := f.message()
			reattached = reattached || f.Dir == "send" && m.Type == "reattach" && m.PreviousID == before.Worker.ID
		}
		if !reattached {
			t.errorf("no reattach with the id of the connection before")
		}
	}},
	{"shutdown", "graceful shutdown", func(ctx context.Context, t *trial) {
		// The result may be lost, so the harness does not wait for it.
		_ = t.client.Send(ctx, "peer::do", object{"step": "shutdown"})
		select {
		case <-t.peer.ended:
			if t.peer.err != nil {
				t.errorf("the peer's program ended with %v", t.peer.err)
			}
		case <-ctx.Done():
			t.errorf("the peer's program does not end")
		}
		t.must("its worker is still listed", until(ctx, "worker", func() bool {
			_, err := t.client.WorkerInfo(ctx, t.peerName())
			var e *iii.Error
			return errors.As(err, &e) && e.Code == "NOT_FOUND"
		}))
	}},
}

// comesBack waits until the peer responds over a new connection. It adds a difference if the
// engine still lists another worker with the peer's name.
func (t *trial) comesBack(ctx context.Context, oldID string) {
	var now iii.WorkerDetail
	t.must("the peer", until(ctx, "it does not come back", func() bool {
		var err error
		now, err = t.client.WorkerInfo(ctx, t.peerName())
		return err == nil && now.Worker.ID != oldID
	}))
	t.must("the peer", until(ctx, "it does not answer", func() bool {
		return t.client.Call(ctx, "peer::echo", 1, nil, iii.WithTimeout(2*time.Second)) == nil
	}))
	workers, err := t.client.Workers(ctx)
	t.must("engine::workers::list", err)
	n := 0
	for _, w := range workers {
		if w.Name != nil && *w.Name == t.peerName() {
			n++
		}
	}
	t.equal("number of workers with the peer's name", n, 1)
}
