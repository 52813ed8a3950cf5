package iii

import (
	"context"
	"math/rand/v2"
	"net"
	"testing"
)

// What tests outside of the package, which may use the development engine, need
// of it.

// HalfOpenDialer dials through a proxy that cuts the first so many connections off,
// each after so many random bytes, without telling the engine.
func HalfOpenDialer(tb testing.TB, dial func(ctx context.Context, network, addr string) (net.Conn, error), seed uint64, cuts int, out, in int64) func(ctx context.Context, network, addr string) (net.Conn, error) {
	r := rand.New(rand.NewPCG(seed, 4))
	f := newFaultProxyTo(tb, func(ctx context.Context) (net.Conn, error) { return dial(ctx, "tcp", "engine") }, seed, func(n int) (plan faultPlan) {
		if n >= cuts {
			return plan
		}
		if r.IntN(2) == 0 {
			plan.in = fault{limited: true, limit: r.Int64N(in), then: faultHalfOpen}
		} else {
			plan.out = fault{limited: true, limit: r.Int64N(out), then: faultHalfOpen, slice: 1 + r.IntN(300)}
		}
		return plan
	})
	return f.DialContext
}

// ProxiedVariable is set in a process whose proxy comes from the environment.
const ProxiedVariable = proxiedVariable

// TestLogger is the log of clients in tests, which is searched for secrets.
var TestLogger = testLogger

// Scale is how often a test repeats something.
func Scale(short, full int) int { return scale(short, full) }
