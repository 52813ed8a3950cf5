package iii

import (
	"context"
	"encoding/json"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
)

// liveHeap is how much memory is in use.
func liveHeap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestR11NoGoroutineIsLeft counts goroutines over many connections and over
// answers that cannot leave.
func TestR11NoGoroutineIsLeft(t *testing.T) {
	t.Run("reconnects", func(t *testing.T) {
		before := runtime.NumGoroutine()
		n := scale(300, 10_000)
		gained, growth := 0, 0
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t, script{forget: true})
			c := p.client()
			registerMany(t, c, 20)
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			steady := liveGoroutines()
			half := 0
			for i := range n {
				if i == n/2 {
					half = liveHeap()
				}
				p.conn(i).invoke("f::1", "1")
				p.conn(i).Cut()
				p.conn(i + 1)
				for c.State() != ConnectionStateConnected {
					synctest.Wait()
				}
				p.mu.Lock()
				p.conns[i] = nil // the peer's memory is not what this is about
				p.mu.Unlock()
			}
			synctest.Wait()
			growth = liveHeap() - half
			gained = liveGoroutines() - steady
			if got := c.Stats().Reconnects; got != uint64(n) {
				t.Errorf("%d reconnects, want %d", got, n)
			}
		})
		if gained > 1 { // the handler's, which waits for more
			t.Errorf("%d goroutines gained over %d reconnects", gained, n)
		}
		if t.Logf("the heap grew by %d bytes over %d reconnects", growth, n-n/2); growth > 1<<20 {
			t.Errorf("the heap grew by %d bytes over %d reconnects", growth, n-n/2)
		}
		if left := leftover(before, waitLimit); left != "" {
			t.Errorf("goroutines left:\n%s", left)
		}
	})
	t.Run("answers that cannot leave", func(t *testing.T) {
		before := runtime.NumGoroutine()
		synctest.Test(t, func(t *testing.T) {
			const n = 1000
			p := newPeer(t, script{})
			c := p.client()
			release := make(chan struct{})
			_, err := c.HandleFunc("f", func(context.Context, json.RawMessage) (any, error) {
				<-release
				return strings.Repeat("x", 10_000), nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			steady := liveGoroutines()
			for range n {
				p.conn(0).invoke("f", "1")
			}
			synctest.Wait()
			resume := p.conn(0).StopReading()
			close(release) // half of the answers fill the way, half wait for room
			synctest.Wait()
			p.conn(0).Cut()
			resume()
			synctest.Wait()
			if got := c.Stats(); got.HandlersRunning != 0 || got.RepliesDropped == 0 {
				t.Errorf("%d handlers run, %d answers dropped", got.HandlersRunning, got.RepliesDropped)
			}
			p.conn(1)
			for c.State() != ConnectionStateConnected {
				synctest.Wait()
			}
			synctest.Wait() // until what has connected has ended
			if gained := liveGoroutines() - steady; gained > maxIdleWorkers {
				t.Errorf("%d goroutines gained", gained)
			}
			_ = c.Close()
		})
		if left := leftover(before, waitLimit); left != "" {
			t.Errorf("goroutines left:\n%s", left)
		}
	})
}
