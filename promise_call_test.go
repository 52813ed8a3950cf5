package iii

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/iii-go/iii/internal/enginetest"
)

// unanswered withholds the answers to users' calls.
func unanswered(_ *peerConn, m *peerMessage) bool {
	return m.Type == "invokefunction" && !strings.HasPrefix(m.FunctionID, "engine::")
}

// TestR5LostCallFailsAtOnce is about calls whose connection dies: those that may
// have been sent fail at once, the others are sent on the next connection.
func TestR5LostCallFailsAtOnce(t *testing.T) {
	t.Run("sent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			const n = 200
			p := newPeer(t, script{message: unanswered})
			c := p.connected()
			results := make(chan error, n)
			for range n {
				go func() { results <- c.Call(t.Context(), "x::y", 1, nil) }()
			}
			synctest.Wait()
			p.conn(0).Cut()
			cut := time.Now()
			for range n {
				err := suite.note(<-results)
				if !errors.Is(err, ErrConnectionLost) || errors.Is(err, ErrNotConnected) || SafeToRetry(err) {
					t.Fatalf("call: %v, safe to retry: %v", err, SafeToRetry(err))
				}
			}
			if took := time.Since(cut); took > 0 {
				t.Errorf("calls failed %v after the cut", took)
			}
		})
	})
	t.Run("not sent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPeer(t, script{})
			c := p.client()
			result := make(chan error, 2)
			go func() { result <- c.Call(t.Context(), "before::first", 1, nil) }()
			synctest.Wait()
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-result; err != nil {
				t.Errorf("call before the first connection: %v", err)
			}
			p.conn(0).Cut()
			synctest.Wait()
			if s := c.State(); s != ConnectionStateReconnecting {
				t.Errorf("state: %v", s)
			}
			if err := c.Call(t.Context(), "between::connections", 1, nil); err != nil {
				t.Errorf("call between connections: %v", err)
			}
		})
	})
	t.Run("half", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			const n = 40
			p := newPeer(t, script{})
			c := p.connected()
			resume := p.conn(0).StopReading()
			var lost, answered atomic.Int32
			var calls sync.WaitGroup
			for i := range n {
				calls.Go(func() {
					payload := fmt.Sprint(i, strings.Repeat("x", 64<<10))
					got, err := Call[string](t.Context(), c, "x::y", payload)
					switch {
					case err == nil && got == payload:
						answered.Add(1)
					case errors.Is(err, ErrConnectionLost) && !SafeToRetry(err):
						lost.Add(1)
					default:
						t.Errorf("call %d: %v", i, err)
					}
				})
			}
			synctest.Wait()
			p.conn(0).Cut()
			resume()
			calls.Wait()
			if lost.Load() == 0 || answered.Load() == 0 || lost.Load()+answered.Load() != n {
				t.Errorf("%d lost, %d sent on the next connection, of %d", lost.Load(), answered.Load(), n)
			}
			if again := p.messages(1, "invokefunction"); len(again)-1 != int(answered.Load()) {
				t.Errorf("%d calls on the next connection, want %d", len(again)-1, answered.Load())
			}
		})
	})
}

// TestR6BooksBalance cuts a connection while Sends and calls go out, and counts:
// nothing is accepted and then neither read by the peer, nor failed, nor unknown.
func TestR6BooksBalance(t *testing.T) {
	unknown := uint64(0)
	for i := range scale(6, 100) {
		seed := uint64(i + 1)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { unknown += balance(t, seed, 5000) })
		})
	}
	if unknown == 0 {
		t.Error("no cut has hit a Send: the test shows nothing")
	}
	t.Logf("%d messages with unknown outcome, unaccounted 0", unknown)
}

// outcome is what a request of TestR6BooksBalance came to.
type outcome uint8

const (
	outcomeSuccess outcome = 1 + iota // a nil error
	outcomeUnsent                     // an error that is safe to retry
	outcomeUnknown                    // an error that is not
)

func balance(t *testing.T, seed uint64, n int) (unknown uint64) {
	r := rand.New(rand.NewPCG(seed, 6))
	read := make([]atomic.Int32, 2*n) // how often a request was read; Sends are even
	outcomes := make([]outcome, 2*n)
	p := newPeer(t, script{forget: true, message: func(_ *peerConn, m *peerMessage) bool {
		if m.FunctionID == "x::y" {
			var payload struct{ N int }
			if err := json.Unmarshal(m.Data, &payload); err != nil {
				t.Error(err)
			}
			read[payload.N].Add(1)
		}
		return false
	}})
	proxy := p.proxy(seed, func(conn int) enginetest.FaultPlan {
		cut := enginetest.Fault{Limited: true, Limit: 1000 + r.Int64N(int64(n)*300), Then: enginetest.FaultReset, Latency: time.Duration(r.IntN(2)) * time.Millisecond}
		switch {
		case conn > 0:
			return enginetest.FaultPlan{}
		case seed%2 == 0: // among those that waited for the connection
			cut.Limit = 1000 + r.Int64N(int64(n)*60)
		case seed%3 == 0:
			cut.Limit /= 4
			return enginetest.FaultPlan{In: cut}
		}
		return enginetest.FaultPlan{Out: cut}
	})
	proxy.Capacity = 4 << 10 // so that cuts find writes under way
	w := newWatch()
	c := p.client(WithDialContext(proxy.DialContext), w.option(), WithSendBuffer(n/2, 8<<20))
	padding := strings.Repeat("x", 100)
	var users sync.WaitGroup
	const workers = 50
	for u := range workers {
		for kind := range 2 {
			users.Go(func() {
				for i := range n / workers {
					number := 2*(u*n/workers+i) + kind
					payload := map[string]any{"N": number, "p": padding}
					var err error
					if kind == 0 {
						err = c.Send(t.Context(), "x::y", payload)
					} else {
						err = c.Call(t.Context(), "x::y", payload, nil)
					}
					switch {
					case err == nil:
						outcomes[number] = outcomeSuccess
					case SafeToRetry(err):
						outcomes[number] = outcomeUnsent
					case errors.Is(err, ErrConnectionLost):
						outcomes[number] = outcomeUnknown
					default:
						t.Errorf("request %d: %v", number, err)
					}
					suite.note(err)
				}
			})
		}
	}
	if seed%2 == 0 { // else the first requests wait for the connection
		synctest.Wait()
	}
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	users.Wait()
	if err := c.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}

	var accepted, missing, readSends uint64
	for number := range outcomes {
		times, send := read[number].Load(), number%2 == 0
		if times > 1 {
			t.Errorf("request %d was read %d times", number, times)
		}
		if send {
			readSends += uint64(times)
		}
		switch outcomes[number] {
		case outcomeSuccess:
			if send {
				accepted++
			}
			switch {
			case times > 0:
			case send:
				missing++
			default:
				t.Errorf("call %d has an answer and was not read", number)
			}
		case outcomeUnsent:
			if times > 0 {
				t.Errorf("request %d is safe to retry and was read", number)
			}
		case 0:
			t.Errorf("request %d has no outcome", number)
		}
	}
	s := c.Stats()
	if s.SendsConfirmed+s.SendsUnknown+s.SendsDropped != accepted {
		t.Errorf("%d Sends accepted, but %d confirmed + %d unknown + %d dropped", accepted, s.SendsConfirmed, s.SendsUnknown, s.SendsDropped)
	}
	if missing > s.SendsUnknown+s.SendsDropped || readSends < s.SendsConfirmed {
		t.Errorf("%d accepted Sends were not read, %d are unknown; %d were read, %d are confirmed", missing, s.SendsUnknown, readSends, s.SendsConfirmed)
	}
	told := uint64(0)
	for _, e := range w.all() {
		var lost *LostSendsError
		if errors.As(e.err, &lost) {
			told += uint64(lost.Count)
		}
	}
	if told != s.SendsUnknown {
		t.Errorf("the listener was told of %d unknown Sends, the counter says %d", told, s.SendsUnknown)
	}
	return s.SendsUnknown
}

// TestR8BufferIsBounded fills the send buffer of a client that is not connected.
func TestR8BufferIsBounded(t *testing.T) {
	c, err := New("ws://127.0.0.1:1", WithLogger(testLogger))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	payload := strings.Repeat("x", 1024)
	before := liveHeap()
	n, accepted := scale(50_000, 200_000), 0
	for range n {
		switch err := c.Send(t.Context(), "x::y", payload); {
		case err == nil:
			accepted++
		case !errors.Is(err, ErrBufferFull) || !SafeToRetry(err):
			t.Fatal(err)
		}
	}
	growth := liveHeap() - before
	if s := c.Stats(); accepted < 7000 || s.Buffered != accepted || s.BufferedBytes > 8<<20 {
		t.Errorf("%d accepted, %d buffered of %d bytes, want what fits into 8 MiB", accepted, s.Buffered, s.BufferedBytes)
	}
	if growth > 24<<20 {
		t.Errorf("the heap grew by %d KiB", growth>>10)
	}
	t.Logf("%d messages: the heap grew by %d KiB", n, growth>>10)
	_ = c.Close()
	if dropped := c.Stats().SendsDropped; dropped != uint64(accepted) {
		t.Errorf("%d messages dropped, want %d", dropped, accepted)
	}
}

// A burst of small messages survives a moment without the engine, and the bound of
// messages is exact.
func TestR8SmallMessagesAreBuffered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{})
		c := p.client()
		const fit = 32_768
		for n := range fit {
			if err := c.Send(t.Context(), "x::y", n); err != nil {
				t.Fatalf("message %d: %v", n, err)
			}
		}
		if err := c.Send(t.Context(), "x::y", fit); !errors.Is(err, ErrBufferFull) {
			t.Errorf("one message too many: %v", err)
		}
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := c.Stats(); s.SendsConfirmed != fit {
			t.Errorf("%d messages confirmed, want %d", s.SendsConfirmed, fit)
		}
	})
}

// With SendWait a request waits for room: for a connection, for another request that is
// given up, or until its context ends. What can never fit does not wait.
func TestR8SendWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{})
		c := p.client(WithSendBuffer(2, 1<<10), WithSendPolicy(SendWait), WithCallTimeout(time.Second))
		if err := c.Send(t.Context(), "x::y", strings.Repeat("x", 2<<10)); !errors.Is(err, ErrBufferFull) {
			t.Errorf("what never fits: %v", err)
		}
		call, giveUp := context.WithCancel(t.Context())
		called := make(chan error, 1)
		go func() { called <- c.Call(call, "x::y", 0, nil, WithTimeout(time.Hour)) }()
		synctest.Wait()
		if err := c.Send(t.Context(), "x::y", 1); err != nil {
			t.Fatal(err)
		}

		began := time.Now()
		short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		err := c.Send(short, "x::y", 2)
		cancel()
		if took := time.Since(began); took != 300*time.Millisecond || !errors.Is(err, context.DeadlineExceeded) || !SafeToRetry(err) {
			t.Errorf("a Send whose context ends: %v after %v, want DeadlineExceeded after 300ms", err, took)
		}
		began = time.Now()
		if err, took := c.Send(t.Context(), "x::y", 3, WithTimeout(400*time.Millisecond)), time.Since(began); took > 400*time.Millisecond || !errors.Is(err, ErrTimeout) {
			t.Errorf("a Send with a timeout: %v after %v, want ErrTimeout after 400ms", err, took)
		}
		began = time.Now()
		if err := c.Call(t.Context(), "x::y", 4, nil); !errors.Is(err, ErrTimeout) || !SafeToRetry(err) || time.Since(began) != time.Second {
			t.Errorf("a call: %v after %v, want ErrTimeout after 1s", err, time.Since(began))
		}

		sent := make(chan error, 1)
		go func() { sent <- c.Send(t.Context(), "x::y", 5) }()
		time.Sleep(time.Minute) // the timeout of calls does not end it
		select {
		case err := <-sent:
			t.Fatalf("a Send did not wait: %v", err)
		default:
		}
		giveUp()
		if err := <-sent; err != nil {
			t.Errorf("a Send after room was made: %v", err)
		}
		if err := <-called; !errors.Is(err, context.Canceled) {
			t.Errorf("the call that made room: %v", err)
		}

		go func() { sent <- c.Send(t.Context(), "x::y", 6) }()
		synctest.Wait()
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-sent; err != nil {
			t.Errorf("a Send after the connection was made: %v", err)
		}
		if err := c.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s := c.Stats(); s.SendsConfirmed != 3 || s.Buffered != 0 {
			t.Errorf("%d Sends confirmed, %d buffered, want 3 and 0", s.SendsConfirmed, s.Buffered)
		}
	})
}

// A Send that waits for room ends with the client.
func TestR8SendWaitEndsWithTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPeer(t, script{}).client(WithSendBuffer(1, 1<<10), WithSendPolicy(SendWait))
		if err := c.Send(t.Context(), "x::y", 1); err != nil {
			t.Fatal(err)
		}
		sent := make(chan error, 1)
		go func() { sent <- c.Send(t.Context(), "x::y", 2) }()
		synctest.Wait()
		_ = c.Close()
		if err := <-sent; !errors.Is(err, ErrClosed) || !SafeToRetry(err) {
			t.Errorf("Send = %v, want ErrClosed", err)
		}
	})
}

// TestR8BytesAreBounded is about the second bound, and about what is refused.
func TestR8BytesAreBounded(t *testing.T) {
	c, err := New("ws://127.0.0.1:1", WithLogger(testLogger), WithSendBuffer(1000, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	payload := strings.Repeat("x", 100<<10)
	for i := range 20 {
		err := c.Send(t.Context(), "x::y", payload)
		if want := i >= 10; errors.Is(err, ErrBufferFull) != want {
			t.Errorf("message %d: %v", i, err)
		}
	}
	if err := c.Call(t.Context(), "x::y", payload, nil); !errors.Is(err, ErrBufferFull) {
		t.Errorf("call: %v", err)
	}
	if s := c.Stats(); s.BufferedBytes > 1<<20 || s.Buffered != 10 {
		t.Errorf("buffered: %d messages, %d bytes", s.Buffered, s.BufferedBytes)
	}
}

// TestR8EndedCallsAreNotSent is about calls whose callers stopped waiting while
// there was no connection.
func TestR8EndedCallsAreNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, script{})
		c := p.client()
		for i := range 3000 { // three times the buffer: those that end make room
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			err := c.Call(ctx, "ended::call", i, nil)
			cancel()
			if !errors.Is(err, ErrNotConnected) || !errors.Is(err, context.DeadlineExceeded) || !SafeToRetry(err) {
				t.Fatalf("call %d: %v", i, suite.note(err))
			}
		}
		if err := c.Call(t.Context(), "ended::call", 1, nil, WithTimeout(time.Second)); !errors.Is(err, ErrTimeout) || !errors.Is(err, ErrNotConnected) || !SafeToRetry(err) {
			t.Errorf("call with a timeout: %v", err)
		}
		if err := c.Send(t.Context(), "held::send", 1); err != nil {
			t.Error(err)
		}
		if s := c.Stats(); s.Buffered != 1 || s.CallsInFlight != 0 {
			t.Errorf("%d buffered, %d in flight", s.Buffered, s.CallsInFlight)
		}
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range p.messages(0, "invokefunction") {
			got = append(got, m.FunctionID)
		}
		if want := "engine::workers::register held::send"; strings.Join(got, " ") != want {
			t.Errorf("sent: %v, want %s", got, want)
		}
	})
}
