package enginetest

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/iii-go/iii/internal/memnet"
)

// The delivery-guarantee tests rely on the proxy to inject exactly the planned faults.
func TestFaultProxy(t *testing.T) {
	const total = 100_000
	tests := []struct {
		name string
		f    Fault
		min  int64 // bytes that arrive
		max  int64
		ends bool // the receiver notices the end
	}{
		{"nothing", Fault{}, total, total, true},
		{"slices", Fault{Slice: 700}, total, total, true},
		{"latency", Fault{Latency: time.Microsecond, Jitter: time.Microsecond}, total, total, true},
		{"reset", Fault{Limited: true, Limit: 1234, Then: FaultReset}, 0, 1234, true},
		{"close", Fault{Limited: true, Limit: 1234, Then: FaultClose}, 1234, 1234, true},
		{"close at once", Fault{Limited: true, Then: FaultClose}, 0, 0, true},
		{"hole", Fault{Limited: true, Limit: 1234, Then: FaultHole}, 1234, 1234, true},
		{"stall", Fault{Limited: true, Limit: 1234, Then: FaultStall}, 1234, 1234, false},
	}
	for _, kind := range []string{"memory", "tcp"} {
		for _, test := range tests {
			t.Run(kind+" "+test.name, func(t *testing.T) {
				mem := memnet.NewListener(memnet.Loopback)
				f := NewFaultProxy(t, func(ctx context.Context) (net.Conn, error) { return mem.DialContext(ctx, "", "") }, 1,
					func(int) FaultPlan { return FaultPlan{Out: test.f} })
				received := make(chan int64, 1)
				first := make(chan struct{})
				go func() {
					conn, err := mem.Accept()
					if err != nil {
						return
					}
					buf := make([]byte, 4096)
					var sum int64
					for {
						n, err := conn.Read(buf)
						if sum += int64(n); sum >= test.max && !test.ends || err != nil {
							break
						}
					}
					received <- sum
					<-first
					_ = conn.Close()
				}()
				var near net.Conn
				var err error
				if kind == "tcp" {
					near, err = net.Dial("tcp", f.Listen(t))
				} else {
					near, err = f.DialContext(t.Context(), "", "")
				}
				if err != nil {
					t.Fatal(err)
				}
				for sent := 0; sent < total; sent += 1000 {
					if _, err := near.Write(make([]byte, 1000)); err != nil {
						break
					}
				}
				if test.f.Then != FaultStall {
					_ = near.Close()
				}
				if got := <-received; got < test.min || got > test.max {
					t.Errorf("%d bytes arrived, want %d to %d", got, test.min, test.max)
				}
				close(first)
				if test.f.Limited && f.Last().CutAt().IsZero() {
					t.Error("no time of the cut")
				}
				_ = near.Close()
				_ = mem.Close()
			})
		}
	}
	if got := fmt.Sprint(FaultReset, FaultStall); got != "reset stall" {
		t.Error(got)
	}
}
