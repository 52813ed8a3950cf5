package iii

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/iii-go/iii/internal/enginetest"
	"github.com/iii-go/iii/internal/memnet"
	"github.com/iii-go/iii/internal/wsconn"
)

// FuzzReceive gives a client any message: it must neither panic nor end.
func FuzzReceive(f *testing.F) {
	for _, seed := range enginetest.JSONSeeds {
		f.Add([]byte(seed))
	}
	for _, seed := range []string{`{"type":"workerregistered","worker_id":1}`, `{"type":"workerregistered","worker_id":"w","reattach_token":null}`,
		`{"type":"triggerregistrationresult","id":"t","trigger_type":"x","function_id":"f","error":{"code":"c","message":"m"}}`,
		`{"type":"registertrigger","id":"t","trigger_type":"x","function_id":"f","config":null}`, `{"type":"unregistertrigger","id":"t"}`,
		`{"type":"registrationrejected","code":"FUNCTION_NAMESPACE_CONFLICT","namespace":"d","function_id":"f","owner_worker_id":""}`} {
		f.Add([]byte(seed))
	}
	c, err := New("")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = c.Close() })
	echo := func(_ context.Context, payload json.RawMessage) (any, error) { return payload, nil }
	if _, err := c.HandleFunc("a::b", echo); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l := bareLink(c)
		c.out.attach(l, 1)
		c.registry.begin(l)
		input := bytes.Clone(b)
		c.receive(l, b)
		if !bytes.Equal(input, b) {
			t.Errorf("%q was changed to %q", input, b)
		}
		c.registry.end(l)
		l.Fail(errors.New("end"))
		c.out.detach(l, l.Err())
	})
}

// bareLink is a link of c whose connection nobody reads or writes.
func bareLink(c *Client) *link {
	end, _ := memnet.Pipe(1 << 10)
	return c.newLink(wsconn.Over(end))
}
