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

// Fault describes the faults in one direction of a connection. The zero value means no faults.
type Fault struct {
	Latency time.Duration // delay of each piece
	Jitter  time.Duration // maximum of an additional random delay
	Slice   int           // maximum size of a piece in bytes; 0 keeps pieces as they arrive
	Rate    int           // bytes per second; 0 means unlimited
	Limited bool          // whether Limit applies
	Limit   int64         // number of bytes that pass before Then takes effect
	Then    FaultEnd
}

// FaultEnd selects what happens when a [Fault] reaches its limit.
type FaultEnd int

// What can happen to a connection when a [Fault] reaches its limit.
const (
	FaultReset    FaultEnd = iota // cut both ends; data in transit is lost
	FaultClose                    // close both ends; data in transit arrives
	FaultHole                     // discard the rest of this direction
	FaultStall                    // stop reading from this direction
	FaultHalfOpen                 // cut off the client without the engine noticing
)

// String returns the name of e.
func (e FaultEnd) String() string {
	return [...]string{"reset", "close", "hole", "stall", "half-open"}[e]
}

// FaultPlan holds the faults of one connection. Out applies to the data that the client sends,
// and In to the data that it receives.
type FaultPlan struct{ Out, In Fault }

// FaultProxy connects clients to an engine, in memory or over TCP, and injects faults. A plan
// selects the faults of each connection, and a seed determines the random delays and sizes.
// Create a FaultProxy with [NewFaultProxy].
type FaultProxy struct {
	Capacity int // capacity of the pipes to clients; 0 means memnet.Capacity

	dial func(ctx context.Context) (net.Conn, error) // to the engine
	plan func(n int) FaultPlan
	seed uint64

	mu    sync.Mutex
	links []*FaultLink
	wg    sync.WaitGroup
}

// FaultLink is one connection through a [FaultProxy].
type FaultLink struct {
	near, far net.Conn // to the client and to the engine

	once  sync.Once
	ended chan struct{}

	mu  sync.Mutex
	cut time.Time // when the connection was cut
}

// NewFaultProxy returns a proxy that forwards each connection to the engine that dial connects
// to. plan returns the faults of connection n, counted from 0; a nil plan means no faults. The
// proxy is closed when the test ends.
func NewFaultProxy(tb testing.TB, dial func(context.Context) (net.Conn, error), seed uint64, plan func(n int) FaultPlan) *FaultProxy {
	f := &FaultProxy{dial: dial, plan: plan, seed: seed}
	tb.Cleanup(f.close)
	return f
}

// DialContext connects to the proxy in memory. It ignores the network and the address.
func (f *FaultProxy) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	near, inner := memnet.Pipe(cmp.Or(f.Capacity, memnet.Capacity))
	if err := f.connect(ctx, inner); err != nil {
		return nil, err
	}
	return near, nil
}

// Listen makes the proxy accept TCP connections as well, and returns the address on which it
// listens.
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

// close cuts all connections and waits for the proxy's goroutines to return.
func (f *FaultProxy) close() {
	f.mu.Lock()
	for _, l := range f.links {
		l.End(FaultReset)
		_ = l.far.Close() // still open if the link is half-open
	}
	f.mu.Unlock()
	f.wg.Wait()
}

// Connections returns the number of connections accepted so far.
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

// End terminates both directions of the connection in the given way. Only the first call has
// an effect.
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

// CutAt returns the time at which the connection was cut, or the zero time if it was not.
func (l *FaultLink) CutAt() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cut
}

// pump forwards data from src to dst and applies the faults in f, until the connection ends.
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

// pause waits as long as transferring n bytes takes under f. It returns false if the
// connection ends first.
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
