package iii

import (
	"context"
	"testing"
	"testing/synctest"
)

func TestConnectAndCall(t *testing.T) {
	for _, kind := range []string{"memory", "tcp"} {
		t.Run(kind, func(t *testing.T) {
			p := newPeer(t, script{})
			if kind == "tcp" {
				p = newTCPPeer(t, script{})
			}
			c := p.client()
			if _, err := Handle(c, "a::b", func(_ context.Context, in int) (int, error) { return in + 1, nil }); err != nil {
				t.Fatal(err)
			}
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			got, err := Call[int](t.Context(), c, "x::y", 7)
			if err != nil || got != 7 {
				t.Fatalf("call: %d, %v", got, err)
			}
			if m := p.answered(p.conn(0).invoke("a::b", "41")); string(m.Result) != "42" {
				t.Errorf("answer: %s", m.Raw)
			}
			if err := c.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			<-p.conn(0).ended
			if err := p.conn(0).err; err != errPeerClosed {
				t.Errorf("end of the connection: %v, want a Close frame", err)
			}
		})
	}
}

func TestBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{})
		c := p.connected()
		if _, err := Call[int](t.Context(), c, "x::y", 7); err != nil {
			t.Fatal(err)
		}
	})
}
