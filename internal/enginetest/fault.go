package enginetest

import (
	"cmp"
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/iii-go/iii/internal/memnet"
)

// Fault describes the faults in one direction of a connection. The zero value describes a
// direction without faults.
type Fault struct {
	Latency time.Duration // delay of each piece
	Jitter  time.Duration // upper limit of an additional random delay
	Slice   int           // maximum size of the pieces, in bytes; 0: pieces stay as they arrive
	Rate    int           // bytes per second; 0: unlimited
	Limited bool          // Limit applies
	Limit   int64         // number of bytes that pass before Then happens
	Then    FaultEnd
}

// FaultEnd is the event at the limit of a [Fault].
type FaultEnd int

// The constants list the ways in which a connection through a proxy can end.
const (
	FaultReset    FaultEnd = iota // both ends are cut, data in transit is lost
	FaultClose                    // both ends are closed, data in transit arrives
	FaultHole                     // the rest of this direction vanishes
	FaultStall                    // reading from this direction stops
	FaultHalfOpen                 // the client is cut off, and the engine does not notice
)

// String returns the name of e.
func (e FaultEnd) String() string {
	return [...]string{"reset", "close", "hole", "stall", "half-open"}[e]
}

// FaultPlan holds the faults of one connection. Out applies to the data that the client sends,
// and In to the data that it receives.
type FaultPlan struct{ Out, In Fault }

// FaultProxy stands between a client and an engine, in memory or on TCP. The plan determines
// the faults of each connection by its number, and the seed determines the random choices
// within the plan. Use [NewFaultProxy].
type FaultProxy struct {
	Capacity int // capacity of a pipe to the client; 0: memnet.Capacity

	dial func(ctx context.Context) (net.Conn, error) // to the engine
	plan func(n int) FaultPlan
	seed uint64

	mu    sync.Mutex
	links []*FaultLink
	wg    sync.WaitGroup
}

// FaultLink is one connection through a [FaultProxy].
type FaultLink struct {
	near, far net.Conn // to the client, to the engine

	once  sync.Once
	ended chan struct{}

	mu  sync.Mutex
	cut time.Time // when a limit was reached
}

// NewFaultProxy returns a proxy for the engine that dial connects to. The proxy is closed when
// the test ends. A nil plan causes no faults.
func NewFaultProxy(tb testing.TB, dial func(context.Context) (net.Conn, error), seed uint64, plan func(n int) FaultPlan) *FaultProxy {
	f := &FaultProxy{dial: dial, plan: plan, seed: seed}
	tb.Cleanup(f.close)
	return f
}

// DialContext connects through the proxy in memory and ignores the address.
func (f *FaultProxy) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	near, inner := memnet.Pipe(cmp.Or(f.Capacity, memnet.Capacity))
	if err := f.connect(ctx, inner); err != nil {
		return nil, err
	}
	return near, nil
}

// Listen makes the proxy accept TCP connections as well, and returns the address.
func (f *FaultProxy) Listen(tb testing.TB) string {
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

func (f *FaultProxy) connect(ctx context.Context, inner net.Conn) error {
	far, err := f.dial(ctx)
	if err != nil {
		return err
	}
	l := &FaultLink{near: inner, far: far, ended: make(chan struct{})}
	f.mu.Lock()
	n := len(f.links)
	f.links = append(f.links, l)
	f.mu.Unlock()
	plan := FaultPlan{}
	if f.plan != nil {
		plan = f.plan(n)
	}
	f.wg.Go(func() { l.pump(far, inner, plan.Out, rand.New(rand.NewPCG(f.seed, uint64(2*n)))) })
	f.wg.Go(func() { l.pump(inner, far, plan.In, rand.New(rand.NewPCG(f.seed, uint64(2*n+1)))) })
	return nil
}

// close cuts all connections and waits for the proxy's goroutines.
func (f *FaultProxy) close() {
	f.mu.Lock()
	for _, l := range f.links {
		l.End(FaultReset)
		_ = l.far.Close() // a half-open link still has it open
	}
	f.mu.Unlock()
	f.wg.Wait()
}

// Connections returns the number of connections so far.
func (f *FaultProxy) Connections() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.links)
}

// Last returns the latest connection.
func (f *FaultProxy) Last() *FaultLink {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.links[len(f.links)-1]
}

// End ends both directions of the connection.
func (l *FaultLink) End(how FaultEnd) {
	l.once.Do(func() {
		l.mark()
		close(l.ended)
		conns := []net.Conn{l.near, l.far}
		if how == FaultHalfOpen {
			conns, how = conns[:1], FaultReset
		}
		for _, conn := range conns {
			if how == FaultReset {
				reset(conn)
			}
			_ = conn.Close()
		}
	})
}

func (l *FaultLink) mark() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut.IsZero() {
		l.cut = time.Now()
	}
}

// CutAt returns the time at which the connection was cut. It returns the zero time if the
// connection was not cut.
func (l *FaultLink) CutAt() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cut
}

// pump forwards one direction until it ends.
func (l *FaultLink) pump(dst, src net.Conn, f Fault, r *rand.Rand) {
	buf := make([]byte, 32<<10)
	left := f.Limit
	for !f.Limited || left > 0 {
		size := len(buf)
		if f.Slice > 0 {
			size = 1 + r.IntN(f.Slice)
		}
		if f.Limited {
			size = int(min(int64(size), left))
		}
		n, err := src.Read(buf[:size])
		if n > 0 {
			if !l.pause(f, n, r) {
				return
			}
			if _, err := dst.Write(buf[:n]); err != nil {
				l.End(FaultClose)
				return
			}
			left -= int64(n)
		}
		if err != nil {
			l.End(FaultClose)
			return
		}
	}
	l.mark()
	switch f.Then {
	case FaultReset, FaultClose, FaultHalfOpen:
		l.End(f.Then)
	case FaultHole:
		for {
			if _, err := src.Read(buf); err != nil {
				break
			}
		}
		l.End(FaultClose)
	case FaultStall:
		<-l.ended
	}
}

// pause waits for the duration of the transfer of a piece. It returns false if the connection
// ends before.
func (l *FaultLink) pause(f Fault, n int, r *rand.Rand) bool {
	d := f.Latency
	if f.Jitter > 0 {
		d += time.Duration(r.Int64N(int64(f.Jitter)))
	}
	if f.Rate > 0 {
		d += time.Duration(n) * time.Second / time.Duration(f.Rate)
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
