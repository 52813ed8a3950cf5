package iii

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"
)

// paddedJSON is a JSON string of so many bytes.
func paddedJSON(size int) json.RawMessage {
	b := bytes.Repeat([]byte{'x'}, size)
	b[0], b[size-1] = '"', '"'
	return b
}

// TestR21SizeNeverKillsALink sends and receives messages around the engine's limits, of
// 16 MiB for a frame and 64 MiB for a message.
func TestR21SizeNeverKillsALink(t *testing.T) {
	sizes := []int{17, 65}
	switch {
	case *soak:
		sizes = []int{15, 17, 40, 63, 65}
	case raceEnabled:
		sizes = []int{2} // that it is more than one frame shows as well
	}
	type arrival struct{ bytes, frames int }
	arrivals := make(chan arrival, 1)
	p := newPeer(t, script{forget: true, message: func(c *peerConn, m *peerMessage) bool {
		switch m.FunctionID {
		case "x::y", "grow":
			arrivals <- arrival{len(m.Raw), m.Frames}
			if m.Type == "invokefunction" {
				c.result(m, `true`)
				return true
			}
			if m.Error != nil {
				arrivals <- arrival{frames: -1}
			}
		}
		return false
	}})
	p.mem.Capacity = 8 << 20
	c := p.client()
	_, err := Handle(c, "grow", func(_ context.Context, size int) (json.RawMessage, error) { return paddedJSON(size), nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	fragments := func(t *testing.T, a arrival, size int) {
		t.Helper()
		if a.bytes < size || a.frames < size>>20 {
			t.Errorf("arrived: %d bytes in %d frames, of %d bytes", a.bytes, a.frames, size)
		}
	}
	for _, mib := range sizes {
		size, fits := mib<<20, mib < 64
		t.Run(fmt.Sprintf("call of %d MiB", mib), func(t *testing.T) {
			err := suite.note(c.Call(t.Context(), "x::y", paddedJSON(size), nil, WithTimeout(5*time.Minute)))
			switch {
			case fits && err == nil:
				fragments(t, <-arrivals, size)
			case fits || !errors.Is(err, ErrMessageTooLarge) || !SafeToRetry(err):
				t.Errorf("call: %v", err)
			}
		})
		t.Run(fmt.Sprintf("result of %d MiB", mib), func(t *testing.T) {
			p.conn(0).invoke("grow", fmt.Sprint(size))
			a := <-arrivals
			if fits {
				fragments(t, a, size)
			} else if refusal := <-arrivals; refusal.frames != -1 || a.bytes > 1000 {
				t.Errorf("arrived: %+v", a)
			}
		})
		t.Run(fmt.Sprintf("answer of %d MiB", mib), func(t *testing.T) {
			if !fits {
				return // the engine sends none
			}
			var got json.RawMessage
			q := newPeer(t, script{forget: true, call: func(*peerConn, *peerMessage) string { return string(paddedJSON(size)) }})
			q.mem.Capacity = 8 << 20
			if err := q.connected().Call(t.Context(), "x::y", 1, &got, WithTimeout(5*time.Minute)); err != nil || len(got) != size {
				t.Errorf("answer of %d bytes, %v", len(got), err)
			}
		})
	}
	if s := c.Stats(); s.Reconnects != 0 || c.State() != ConnectionStateConnected {
		t.Errorf("%d reconnects, %v", s.Reconnects, c.State())
	}
}

// TestR21Limit is about the last byte.
func TestR21Limit(t *testing.T) {
	inv := invocation{functionID: "x::y"}
	b := newBuffer()
	if err := encodeInvoke(b, &inv, json.RawMessage(`""`)); err != nil {
		t.Fatal(err)
	}
	envelope := b.Len() - 2
	for _, test := range []struct {
		size int
		fits bool
	}{{messageTooLarge - 1, true}, {messageTooLarge, false}} {
		if raceEnabled && test.fits {
			continue // the other one says enough, in half the time
		}
		b.Reset()
		err := encodeInvoke(b, &inv, paddedJSON(test.size-envelope))
		if b.Len() != test.size && test.fits || errors.Is(err, ErrMessageTooLarge) == test.fits {
			t.Errorf("message of %d bytes: %d, %v", test.size, b.Len(), err)
		}
	}
}
