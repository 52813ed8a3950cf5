package iiitest

import (
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// writes records what is written to a connection.
type writes struct {
	net.Conn
	list []string
}

func (w *writes) Write(p []byte) (int, error) {
	w.list = append(w.list, string(p))
	return len(p), nil
}

func TestLimitedConnHoldsWrites(t *testing.T) {
	large := strings.Repeat("x", maxHeld)
	network := &writes{}
	c := &limitedConn{Conn: network}
	for _, step := range []struct {
		text string
		hold bool
	}{{"a", true}, {"b", true}, {"c", false}, {"d", false}, {"e", true}, {large, true}, {"f", true}, {"g", false}} {
		c.holding.Store(step.hold)
		if n, err := c.Write([]byte(step.text)); n != len(step.text) || err != nil {
			t.Errorf("write of %.5s: %d, %v", step.text, n, err)
		}
	}
	if diff := cmp.Diff([]string{"abc", "d", "e" + large, "fg"}, network.list); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzLimitedConn(f *testing.F) {
	f.Add([]byte{0x81, 0x85, 0, 0, 0, 0, 'h', 'e', 'l', 'l', 'o', 0x89, 0x80, 0, 0, 0, 0})
	f.Add([]byte{0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0x01, 0xfe, 0xff, 0xff, 0, 0, 0, 0})
	f.Add([]byte{0x01, 0x80, 0, 0, 0, 0, 0x89, 0x80, 0, 0, 0, 0, 0x80, 0x80, 0, 0, 0, 0, 0x88, 0x80, 0, 0, 0, 0, 0x80})
	f.Fuzz(func(t *testing.T, data []byte) {
		// The result must not depend on how the bytes are divided among reads.
		whole, bytewise := limitedConn{silent: true}, limitedConn{silent: true}
		accepted, errWhole := whole.follow(data)
		var errBytewise error
		read := 0
		for ; read < len(data) && errBytewise == nil; read++ {
			_, errBytewise = bytewise.follow(data[read : read+1])
		}
		if errWhole != nil && (accepted > read || read-accepted > len(whole.header)) || errWhole == nil && accepted != len(data) {
			t.Errorf("%d of %d bytes accepted, %d bytewise", accepted, len(data), read)
		}
		if errWhole != errBytewise || errWhole == nil && (whole.remaining != bytewise.remaining || whole.message != bytewise.message) {
			t.Errorf("whole: %v, %+v; bytewise: %v, %+v", errWhole, &whole, errBytewise, &bytewise)
		}
	})
}
