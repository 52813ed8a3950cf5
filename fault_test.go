package iii

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// fault is what a proxy does to one direction of a connection. The zero value
// does nothing.
type fault struct {
	latency time.Duration // before each piece goes on
	jitter  time.Duration // up to this much more
	slice   int           // pieces are of 1 to so many bytes; 0: as they come
	rate    int           // bytes a second; 0: no limit
	limited bool          // limit counts
	limit   int64         // so many bytes pass, then:
	then    faultEnd
}

// faultEnd is what happens at the limit.
type faultEnd int

const (
	faultReset    faultEnd = iota // both ends are cut, what is under way is lost
	faultClose                    // both ends are closed, what is under way arrives
	faultHole                     // the rest of this direction vanishes
	faultStall                    // nothing more is read from this direction
	faultHalfOpen                 // the client is cut off, the engine is not told
)

func (e faultEnd) String() string {
	return [...]string{"reset", "close", "hole", "stall", "half-open"}[e]
}

// faultPlan is for one connection: out is what the client sends, in what it receives.
type faultPlan struct{ out, in fault }

// faultProxy stands between a client and an engine, in memory or on TCP. What it
// does to the n-th connection is planned, and random within the plan by the seed.
type faultProxy struct {
	dial func(ctx context.Context) (net.Conn, error) // to the engine
	plan func(n int) faultPlan
	seed uint64

	capacity int // of a pipe to the client; 0: pipeCapacity

	mu    sync.Mutex
	links []*faultLink
	wg    sync.WaitGroup
}

// faultLink is one connection through a proxy.
type faultLink struct {
	near, far net.Conn // to the client, to the engine

	once  sync.Once
	ended chan struct{}

	mu  sync.Mutex
	cut time.Time // when a limit was reached
}

// newFaultProxy stands in front of a peer in memory.
func newFaultProxy(tb testing.TB, p *peer, seed uint64, plan func(n int) faultPlan) *faultProxy {
	return newFaultProxyTo(tb, func(ctx context.Context) (net.Conn, error) { return p.mem.DialContext(ctx, "", "") }, seed, plan)
}

func newFaultProxyTo(tb testing.TB, dial func(context.Context) (net.Conn, error), seed uint64, plan func(n int) faultPlan) *faultProxy {
	f := &faultProxy{dial: dial, plan: plan, seed: seed}
	tb.Cleanup(f.close)
	return f
}

// DialContext connects in memory; it is for [WithDialContext].
func (f *faultProxy) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	near, inner := memPipe(cmp.Or(f.capacity, pipeCapacity))
	if err := f.connect(ctx, inner); err != nil {
		return nil, err
	}
	return near, nil
}

// listen accepts on TCP and returns the address.
func (f *faultProxy) listen(tb testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	f.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if f.connect(context.Background(), conn) != nil {
				_ = conn.Close()
			}
		}
	})
	tb.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

func (f *faultProxy) connect(ctx context.Context, inner net.Conn) error {
	far, err := f.dial(ctx)
	if err != nil {
		return err
	}
	l := &faultLink{near: inner, far: far, ended: make(chan struct{})}
	f.mu.Lock()
	n := len(f.links)
	f.links = append(f.links, l)
	f.mu.Unlock()
	plan := faultPlan{}
	if f.plan != nil {
		plan = f.plan(n)
	}
	f.wg.Go(func() { l.pump(far, inner, plan.out, rand.New(rand.NewPCG(f.seed, uint64(2*n)))) })
	f.wg.Go(func() { l.pump(inner, far, plan.in, rand.New(rand.NewPCG(f.seed, uint64(2*n+1)))) })
	return nil
}

// close cuts all connections and joins the proxy's goroutines.
func (f *faultProxy) close() {
	f.mu.Lock()
	for _, l := range f.links {
		l.end(faultReset)
		_ = l.far.Close() // of one that was left half open, too
	}
	f.mu.Unlock()
	f.wg.Wait()
}

// last is the latest connection.
func (f *faultProxy) last() *faultLink {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.links[len(f.links)-1]
}

// end ends both directions.
func (l *faultLink) end(how faultEnd) {
	l.once.Do(func() {
		l.mark()
		close(l.ended)
		conns := []net.Conn{l.near, l.far}
		if how == faultHalfOpen {
			conns, how = conns[:1], faultReset
		}
		for _, conn := range conns {
			if how == faultReset {
				switch conn := conn.(type) {
				case *memConn:
					conn.reset()
				case *net.TCPConn:
					_ = conn.SetLinger(0)
				}
			}
			_ = conn.Close()
		}
	})
}

func (l *faultLink) mark() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut.IsZero() {
		l.cut = time.Now()
	}
}

// cutAt is when the connection was cut, or the zero time.
func (l *faultLink) cutAt() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cut
}

// pump forwards one direction until it ends.
func (l *faultLink) pump(dst, src net.Conn, f fault, r *rand.Rand) {
	buf := make([]byte, 32<<10)
	left := f.limit
	for !f.limited || left > 0 {
		size := len(buf)
		if f.slice > 0 {
			size = 1 + r.IntN(f.slice)
		}
		if f.limited {
			size = int(min(int64(size), left))
		}
		n, err := src.Read(buf[:size])
		if n > 0 {
			if !l.pause(f, n, r) {
				return
			}
			if _, err := dst.Write(buf[:n]); err != nil {
				l.end(faultClose)
				return
			}
			left -= int64(n)
		}
		if err != nil {
			l.end(faultClose)
			return
		}
	}
	l.mark()
	switch f.then {
	case faultReset, faultClose, faultHalfOpen:
		l.end(f.then)
	case faultHole:
		for {
			if _, err := src.Read(buf); err != nil {
				break
			}
		}
		l.end(faultClose)
	case faultStall:
		<-l.ended
	}
}

// pause is the time that a piece takes; false if the connection ended meanwhile.
func (l *faultLink) pause(f fault, n int, r *rand.Rand) bool {
	d := f.latency
	if f.jitter > 0 {
		d += time.Duration(r.Int64N(int64(f.jitter)))
	}
	if f.rate > 0 {
		d += time.Duration(n) * time.Second / time.Duration(f.rate)
	}
	if d == 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.ended:
		return false
	}
}

// TestFaultProxy shows that the proxy does what it is told, over both kinds of
// connections: a test of promises is worth no more than its faults.
func TestFaultProxy(t *testing.T) {
	const total = 100_000
	tests := []struct {
		name string
		f    fault
		min  int64 // bytes that arrive
		max  int64
		ends bool // the receiver sees the end
	}{
		{"nothing", fault{}, total, total, true},
		{"slices", fault{slice: 700}, total, total, true},
		{"latency", fault{latency: time.Microsecond, jitter: time.Microsecond}, total, total, true},
		{"reset", fault{limited: true, limit: 1234, then: faultReset}, 0, 1234, true},
		{"close", fault{limited: true, limit: 1234, then: faultClose}, 1234, 1234, true},
		{"close at once", fault{limited: true, then: faultClose}, 0, 0, true},
		{"hole", fault{limited: true, limit: 1234, then: faultHole}, 1234, 1234, true},
		{"stall", fault{limited: true, limit: 1234, then: faultStall}, 1234, 1234, false},
	}
	for _, kind := range []string{"memory", "tcp"} {
		for _, test := range tests {
			t.Run(kind+" "+test.name, func(t *testing.T) {
				mem := newMemListener()
				f := newFaultProxyTo(t, func(ctx context.Context) (net.Conn, error) { return mem.DialContext(ctx, "", "") }, 1,
					func(int) faultPlan { return faultPlan{out: test.f} })
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
					near, err = net.Dial("tcp", f.listen(t))
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
				if test.f.then != faultStall {
					_ = near.Close()
				}
				if got := <-received; got < test.min || got > test.max {
					t.Errorf("%d bytes arrived, want %d to %d", got, test.min, test.max)
				}
				close(first)
				if test.f.limited && f.last().cutAt().IsZero() {
					t.Error("no time of the cut")
				}
				_ = near.Close()
				_ = mem.Close()
			})
		}
	}
	if got := fmt.Sprint(faultReset, faultStall); got != "reset stall" {
		t.Error(got)
	}
}
