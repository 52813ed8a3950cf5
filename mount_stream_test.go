package iii_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// site is an engine with one mounted handler, in virtual time, and its visitors.
type site struct {
	engine *iiitest.Engine
	client *iii.Client
	http   *http.Client
	addr   string
}

// newSite mounts h in a bubble.
func newSite(t *testing.T, e *iiitest.Engine, method, path string, h http.Handler, opts ...iii.Option) *site {
	t.Helper()
	c, err := iii.New(e.URL(), append([]iii.Option{iii.WithDialContext(e.DialContext), iii.WithName("site")}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := c.MountHTTP(method, path, h); err != nil {
		t.Fatal(err)
	}
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: e.DialContext, MaxIdleConnsPerHost: -1}
	t.Cleanup(transport.CloseIdleConnections)
	return &site{e, c, &http.Client{Transport: transport}, e.HTTPURL()}
}

// visit makes a request whose head it waits for.
func (s *site) visit(t *testing.T, path string) *http.Response {
	t.Helper()
	return s.request(t, http.MethodGet, path, nil)
}

func (s *site) request(t *testing.T, method, path string, body io.Reader) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.addr+path, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// waitForEnd is a handler of server-sent events of which none comes. It reports why the
// context of each request has ended.
func waitForEnd(ended chan<- error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		ended <- context.Cause(r.Context())
	}
}

// R25: visitors who leave an idle stream free its handlers within 15 s.
func TestR25IdleStreamEndsWhenItsClientLeaves(t *testing.T) {
	visitors := iii.Scale(100, 1000)
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		ended := make(chan error, visitors)
		s := newSite(t, e, "GET", "/events", waitForEnd(ended), iii.WithMaxConcurrency(visitors))
		var left []*http.Response
		for range visitors {
			left = append(left, s.visit(t, "/events"))
		}
		if n := s.client.Stats().HandlersRunning; n != visitors {
			t.Fatalf("%d handlers run for %d visitors", n, visitors)
		}
		time.Sleep(time.Minute) // the streams stay while their clients do
		synctest.Wait()
		if len(ended) > 0 {
			t.Fatalf("the context of a visitor who is there has ended: %v", <-ended)
		}
		var longest time.Duration
		for _, resp := range left {
			time.Sleep(37 * time.Millisecond) // anywhere between two probes
			began := time.Now()
			_ = resp.Body.Close()
			if err := <-ended; !errors.Is(err, iii.ErrChannelClosed) {
				t.Errorf("the context has ended by %v, want ErrChannelClosed", err)
			}
			longest = max(longest, time.Since(began))
		}
		t.Logf("%d handlers have ended, the last %v after its visitor had left", visitors, longest)
		if longest > 15*time.Second {
			t.Errorf("a handler has run for %v after its visitor had left", longest)
		}
		synctest.Wait()
		if n := s.client.Stats().HandlersRunning; n != 0 {
			t.Errorf("%d handlers still run", n)
		}
	})
}

// R25: all visitors leave at once, and the worker goes on.
func TestR25ClosedTabsDoNotStopAWorker(t *testing.T) {
	const visitors = 5
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		ended := make(chan error, visitors)
		s := newSite(t, e, "GET", "/events", waitForEnd(ended), iii.WithMaxConcurrency(visitors))
		if _, err := iii.Handle(s.client, "hello", func(context.Context, any) (string, error) { return "hi", nil }); err != nil {
			t.Fatal(err)
		}
		var bodies []io.Closer
		for range visitors {
			bodies = append(bodies, s.visit(t, "/events").Body)
		}
		began := time.Now()
		for _, body := range bodies {
			_ = body.Close()
		}
		if _, err := iii.Call[string](t.Context(), s.client, "hello", nil); err != nil {
			t.Errorf("a call after all visitors have left: %v", err)
		}
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("the worker was held for %v", took)
		}
	})
}

// R25: a visitor who reads nothing holds a handler no longer than its deadline.
func TestR25StuckVisitorsHoldNobodyBeyondTheirDeadline(t *testing.T) {
	visitors := iii.Scale(100, 1000)
	type end struct {
		after   time.Duration
		err     error
		context error
	}
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		ended := make(chan end, visitors)
		// Small frames, so that little is on the way to each visitor.
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var err error
			flush := http.NewResponseController(w).Flush
			last := time.Now()
			for chunk := make([]byte, 4<<10); err == nil; {
				last = time.Now()
				if _, err = w.Write(chunk); err == nil {
					err = flush()
				}
			}
			ended <- end{time.Since(last), err, context.Cause(r.Context())}
		})
		s := newSite(t, e, "GET", "/all", h, iii.WithMaxConcurrency(visitors))
		for range visitors {
			defer s.visit(t, "/all").Body.Close() // and reads nothing before
		}
		for range visitors {
			got := <-ended
			if got.after != 30*time.Second || !errors.Is(got.err, os.ErrDeadlineExceeded) || !errors.Is(got.context, os.ErrDeadlineExceeded) {
				t.Errorf("Write ended after %v: %v, the context by %v; want os.ErrDeadlineExceeded after 30 s", got.after, got.err, got.context)
			}
		}
	})
}

// A probe is sent when nothing was written for the interval, after the head, and never
// else.
func TestStreamHeartbeat(t *testing.T) {
	type frames struct {
		probes []time.Duration // when they came
		bytes  string
	}
	seconds := func(s ...int) (d []time.Duration) {
		for _, s := range s {
			d = append(d, time.Duration(s)*time.Second)
		}
		return d
	}
	for _, test := range []struct {
		name    string
		every   time.Duration // -1: the default
		handler http.HandlerFunc
		want    frames
	}{
		{"idle", -1, func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			time.Sleep(17 * time.Second)
		}, frames{seconds(5, 10, 15), ""}},
		{"not flushed", -1, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "kept")
			time.Sleep(17 * time.Second)
			_ = http.NewResponseController(w).Flush()
			time.Sleep(6 * time.Second)
		}, frames{seconds(22), "kept"}},
		{"busy, then idle", -1, func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			for range 5 {
				time.Sleep(3 * time.Second)
				_, _ = io.WriteString(w, "x")
			}
			time.Sleep(7 * time.Second)
			_, _ = io.WriteString(w, "y")
			time.Sleep(4 * time.Second)
		}, frames{seconds(20), "xxxxxy"}},
		{"larger than the buffer", -1, func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(make([]byte, 64<<10+1))
			time.Sleep(6 * time.Second)
		}, frames{seconds(5), strings.Repeat("\x00", 64<<10+1)}},
		{"another interval", time.Minute, func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			time.Sleep(2*time.Minute + time.Second)
		}, frames{seconds(60, 120), ""}},
		{"never", 0, func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			time.Sleep(time.Hour)
		}, frames{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var opts []iii.Option
			if test.every >= 0 {
				opts = append(opts, iii.WithStreamHeartbeat(test.every))
			}
			bubble(t, func(t *testing.T, e *iiitest.Engine) {
				call := newRouteCallTo(t, e, "GET", "/x", test.handler, append(opts, iii.WithCallTimeout(2*time.Hour), iii.WithDialContext(e.DialContext))...)
				began := time.Now()
				var got frames
				var reading sync.WaitGroup
				reading.Go(func() {
					b, err := io.ReadAll(call.answer)
					if err != nil {
						t.Error(err)
					}
					got.bytes = string(b)
				})
				reading.Go(func() {
					for message, err := range call.answer.Messages(t.Context()) {
						switch {
						case err != nil:
							t.Error(err)
						case string(message) == `{"type":"keepalive"}`:
							got.probes = append(got.probes, time.Since(began))
						case !strings.Contains(string(message), `"set_`):
							t.Errorf("message %s", message)
						}
					}
				})
				call.result(t)
				reading.Wait()
				if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(frames{})); diff != "" {
					t.Errorf("frames (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// A probe that cannot be written for the write timeout ends the response: the client has
// not read what is on the way to it.
func TestStreamHeartbeatThatIsStuckEndsTheResponse(t *testing.T) {
	const filling = 4<<20 + 256<<10 // nearly all that the engine holds for one client
	for _, test := range []struct {
		name     string
		deadline func(http.ResponseWriter)
		ends     bool
	}{
		{"default", func(http.ResponseWriter) {}, true},
		{"a deadline that has passed", func(w http.ResponseWriter) {
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Second))
		}, true},
		{"no deadline", func(w http.ResponseWriter) { _ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) }, false},
		{"a later deadline", func(w http.ResponseWriter) {
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(12 * time.Hour))
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *iiitest.Engine) {
				ended := make(chan error, 1)
				h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					test.deadline(w)
					if _, err := w.Write(make([]byte, filling)); err != nil {
						t.Errorf("Write: %v", err)
					}
					<-r.Context().Done()
					ended <- context.Cause(r.Context())
				})
				opts := []iii.Option{iii.WithStreamHeartbeat(10 * time.Millisecond), iii.WithHTTPWriteTimeout(time.Minute)}
				s := newSite(t, e, "GET", "/fill", h, opts...)
				body := s.visit(t, "/fill").Body
				if !test.ends {
					time.Sleep(time.Hour)
					synctest.Wait()
					if len(ended) > 0 {
						t.Errorf("the context has ended: %v", <-ended)
					}
					_ = body.Close()
					if err := <-ended; !errors.Is(err, iii.ErrChannelClosed) {
						t.Errorf("the context has ended by %v, want ErrChannelClosed", err)
					}
					return
				}
				defer body.Close()
				if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("the context has ended by %v, want os.ErrDeadlineExceeded", err)
				}
			})
		})
	}
}

// writeForEver writes until an error, which it reports with the time that it took.
func writeForEver(w http.ResponseWriter, ended chan<- stuck) {
	began := time.Now()
	var err error
	for chunk := make([]byte, 1<<20); err == nil; {
		_, err = w.Write(chunk)
	}
	ended <- stuck{time.Since(began), err}
}

type stuck struct {
	after time.Duration
	err   error
}

// What bounds a Write to a client that reads nothing.
func TestMountedWriteDeadline(t *testing.T) {
	for _, test := range []struct {
		name    string
		timeout time.Duration // WithHTTPWriteTimeout
		set     []any         // given to SetWriteDeadline: durations from now, or time.Time, one a second
		during  bool          // they are set while the handler writes
		want    time.Duration // 0: never
	}{
		{name: "default of the program", timeout: 7 * time.Second, want: 7 * time.Second},
		{name: "none", timeout: 0, want: 0},
		{name: "handler's", timeout: time.Second, set: []any{20 * time.Second}, want: 20 * time.Second},
		{name: "handler's without the program's", set: []any{20 * time.Second}, want: 20 * time.Second},
		{name: "handler wants none", timeout: time.Second, set: []any{time.Time{}}, want: 0},
		{name: "handler wants none after all", timeout: time.Second, set: []any{time.Minute, time.Time{}}, want: 0},
		{name: "in the past", timeout: time.Second, set: []any{-time.Second}, want: time.Nanosecond},
		{name: "set during a Write", timeout: time.Hour, during: true, set: []any{3 * time.Second}, want: 4 * time.Second},
		{name: "passed during a Write", timeout: time.Hour, during: true, set: []any{-time.Hour}, want: time.Second},
		{name: "extended during a Write", timeout: time.Hour, during: true, set: []any{3 * time.Second, 9 * time.Second}, want: 11 * time.Second},
		{name: "shortened during a Write", timeout: time.Hour, during: true, set: []any{30 * time.Second, 3 * time.Second}, want: 5 * time.Second},
		{name: "taken away during a Write", timeout: 10 * time.Second, during: true, set: []any{3 * time.Second, time.Time{}}, want: 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *iiitest.Engine) {
				ended := make(chan stuck, 1)
				h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					set := func() {
						for _, d := range test.set {
							if test.during {
								time.Sleep(time.Second)
							}
							deadline, _ := d.(time.Time)
							if after, ok := d.(time.Duration); ok {
								deadline = time.Now().Add(after)
							}
							if err := http.NewResponseController(w).SetWriteDeadline(deadline); err != nil {
								t.Errorf("SetWriteDeadline: %v", err)
							}
						}
					}
					if test.during {
						var setting sync.WaitGroup
						setting.Go(set)
						defer setting.Wait()
					} else {
						set()
					}
					writeForEver(w, ended)
				})
				s := newSite(t, e, "GET", "/big", h, iii.WithHTTPWriteTimeout(test.timeout))
				go func() { // a deadline that has passed lets no head out
					if resp, err := s.http.Get(s.addr + "/big"); err == nil {
						defer resp.Body.Close()
						<-t.Context().Done()
					}
				}()
				if test.want == 0 {
					time.Sleep(time.Hour)
					synctest.Wait()
					select {
					case got := <-ended:
						t.Errorf("Write has ended after %v: %v", got.after, got.err)
					default:
						_ = s.client.Close()
						if got := <-ended; got.err == nil {
							t.Error("Close does not end the Write")
						}
					}
					return
				}
				if got := <-ended; !errors.Is(got.err, os.ErrDeadlineExceeded) || got.after != test.want.Truncate(time.Second) {
					t.Errorf("Write ended after %v: %v; want os.ErrDeadlineExceeded after %v", got.after, got.err, test.want)
				}
			})
		})
	}
}

// A client that reads slowly gets all of a response that takes much longer than the
// write timeout.
func TestMountedSlowReaderIsNotStuck(t *testing.T) {
	const size = 8 << 20
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		wrote := make(chan error, 1)
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, err := w.Write(make([]byte, size))
			wrote <- err
		})
		s := newSite(t, e, "GET", "/big", h)
		body := s.visit(t, "/big").Body
		defer body.Close()
		began := time.Now()
		var got int64
		for {
			n, err := io.CopyN(io.Discard, body, 8<<10)
			if got += n; err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if err := <-wrote; err != nil || got != size {
			t.Errorf("the client has read %d of %d bytes in %v, Write = %v", got, size, time.Since(began), err)
		}
	})
}

// A deadline that passes between two writes breaks nothing, as under net/http, whether
// the stream is probed meanwhile or not.
func TestMountedRollingWriteDeadlines(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		for i := range 4 {
			_ = control.SetWriteDeadline(time.Now().Add(2 * time.Second))
			if _, err := fmt.Fprintln(w, i); err != nil {
				t.Errorf("Write %d: %v", i, err)
			}
			if err := control.Flush(); err != nil {
				t.Errorf("Flush %d: %v", i, err)
			}
			time.Sleep(20 * time.Second)
			if err := r.Context().Err(); err != nil {
				t.Errorf("the context has ended: %v", context.Cause(r.Context()))
			}
		}
	})
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		s := newSite(t, e, "GET", "/rolling", h)
		body := s.visit(t, "/rolling").Body
		defer body.Close()
		if b, err := io.ReadAll(body); err != nil || string(b) != "0\n1\n2\n3\n" {
			t.Errorf("body = %q, %v", b, err)
		}
	})
}

// A write deadline that passes before anything was sent.
func TestMountedWriteDeadlineOfABufferedResponse(t *testing.T) {
	for _, test := range []struct {
		name    string
		handler func(w http.ResponseWriter, control *http.ResponseController) error
	}{
		{"Write", func(w http.ResponseWriter, control *http.ResponseController) error {
			_, err := io.WriteString(w, "late")
			return err
		}},
		{"Flush", func(w http.ResponseWriter, control *http.ResponseController) error { return control.Flush() }},
		{"ReadFrom", func(w http.ResponseWriter, control *http.ResponseController) error {
			_, err := io.Copy(w, strings.NewReader("late"))
			return err
		}},
		{"a failed Write is not forgotten", func(w http.ResponseWriter, control *http.ResponseController) error {
			_, _ = io.WriteString(w, "lost")
			_ = control.SetWriteDeadline(time.Time{})
			_, err := io.WriteString(w, "late")
			return err
		}},
		{"nothing is written", func(w http.ResponseWriter, control *http.ResponseController) error { return os.ErrDeadlineExceeded }},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				control := http.NewResponseController(w)
				_, _ = io.WriteString(w, "in time ")
				if err := control.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Second)
				if err := test.handler(w, control); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("error = %v, want os.ErrDeadlineExceeded", err)
				}
			})
			bubble(t, func(t *testing.T, e *iiitest.Engine) {
				s := newSite(t, e, "GET", "/late", h)
				resp := s.visit(t, "/late")
				defer resp.Body.Close()
				if resp.StatusCode != http.StatusInternalServerError {
					t.Errorf("status = %s, want a 500", resp.Status)
				}
			})
		})
	}
}

// What frees a handler that writes to a client that reads nothing when no deadline is
// set.
func TestMountedStuckWriteEndsWithItsInvocation(t *testing.T) {
	for _, test := range []struct {
		name   string
		end    func(t *testing.T, s *site)
		within time.Duration
	}{
		{"connection lost", func(t *testing.T, s *site) {
			if !s.engine.Drop("site") {
				t.Error("there is no connection to drop")
			}
		}, 5 * time.Second},
		{"Shutdown that runs out of time", func(t *testing.T, s *site) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			if err := s.client.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Shutdown = %v, want its context's error", err)
			}
		}, 3 * time.Second},
		{"Close", func(t *testing.T, s *site) { _ = s.client.Close() }, time.Second},
		{"engine gone", func(t *testing.T, s *site) { _ = s.engine.Close() }, 5 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *iiitest.Engine) {
				ended := make(chan stuck, 1)
				h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
					writeForEver(w, ended)
				})
				s := newSite(t, e, "GET", "/big", h, iii.WithHTTPWriteTimeout(0))
				defer s.visit(t, "/big").Body.Close()
				time.Sleep(time.Hour)
				began := time.Now()
				test.end(t, s)
				if got := <-ended; got.err == nil || time.Since(began) > test.within {
					t.Errorf("Write ended after %v by %v", time.Since(began), got.err)
				}
			})
		})
	}
}

// A response whose client reads is not cut when the worker has to connect again: the
// engine keeps its channel.
func TestMountedStreamOutlivesItsConnection(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		dropped := make(chan struct{})
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			for range 5 {
				time.Sleep(3 * time.Second) // longer than a Write may be stuck by now
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					t.Errorf("Write: %v", err)
				}
			}
		})
		s := newSite(t, e, "GET", "/big", h)
		go func() {
			defer close(dropped)
			time.Sleep(time.Second)
			if !s.engine.Drop("site") {
				t.Error("there is no connection to drop")
			}
		}()
		body := s.visit(t, "/big").Body
		defer body.Close()
		if n, err := io.Copy(io.Discard, body); err != nil || n != 5<<20 {
			t.Errorf("the client got %d bytes, %v", n, err)
		}
		<-dropped
	})
}

// The controls that are for the connection of a request.
func TestMountedResponseController(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		done := make(chan struct{})
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(done)
			control := http.NewResponseController(w)
			for name, err := range map[string]error{
				"EnableFullDuplex":            control.EnableFullDuplex(),
				"SetReadDeadline, no body":    control.SetReadDeadline(time.Now().Add(-time.Hour)),
				"SetWriteDeadline":            control.SetWriteDeadline(time.Now().Add(time.Hour)),
				"SetWriteDeadline to nothing": control.SetWriteDeadline(time.Time{}),
			} {
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			if conn, _, err := control.Hijack(); conn != nil || !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("Hijack = %v, want errors.ErrUnsupported", err)
			}
			if n, err := r.Body.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("Read of no body = %d, %v", n, err)
			}
		})
		s := newSite(t, e, "GET", "/c", h)
		defer s.visit(t, "/c").Body.Close()
		<-done
	})
}

// Read deadlines of a body, which comes in three parts: at once, after 10 s and after 20 s.
func TestMountedReadDeadline(t *testing.T) {
	read := func(r *http.Request, n int) (string, error) {
		b := make([]byte, n)
		n, err := io.ReadFull(r.Body, b)
		return string(b[:n]), err
	}
	for _, test := range []struct {
		name    string
		handler func(r *http.Request, set func(time.Duration)) (string, error)
		text    string
		err     error
		after   time.Duration
	}{
		{"none", func(r *http.Request, set func(time.Duration)) (string, error) { return read(r, 9) }, "one,two,3", nil, 20 * time.Second},
		{"in the past, before the first Read", func(r *http.Request, set func(time.Duration)) (string, error) {
			set(-time.Second)
			return read(r, 4)
		}, "", os.ErrDeadlineExceeded, 0},
		{"passes during the first Read", func(r *http.Request, set func(time.Duration)) (string, error) {
			set(3 * time.Second)
			return read(r, 9)
		}, "one,", os.ErrDeadlineExceeded, 3 * time.Second},
		{"in time", func(r *http.Request, set func(time.Duration)) (string, error) {
			set(11 * time.Second)
			return read(r, 8)
		}, "one,two,", nil, 10 * time.Second},
		{"set during a Read", func(r *http.Request, set func(time.Duration)) (string, error) {
			time.AfterFunc(5*time.Second, func() { set(time.Second) })
			return read(r, 9)
		}, "one,", os.ErrDeadlineExceeded, 6 * time.Second},
		{"moved on during a Read", func(r *http.Request, set func(time.Duration)) (string, error) {
			set(8 * time.Second)
			time.AfterFunc(5*time.Second, func() { set(10 * time.Second) })
			return read(r, 9)
		}, "one,two,", os.ErrDeadlineExceeded, 15 * time.Second},
		{"with bytes there", func(r *http.Request, set func(time.Duration)) (string, error) {
			first, _ := read(r, 2)
			set(-time.Second)
			rest, err := read(r, 2)
			return first + rest, err
		}, "on", os.ErrDeadlineExceeded, 0},
		{"reset after it has passed", func(r *http.Request, set func(time.Duration)) (string, error) {
			set(3 * time.Second)
			first, err := read(r, 9)
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("Read = %v, want os.ErrDeadlineExceeded", err)
			}
			set(0)
			rest, err := read(r, 5)
			return first + rest, err
		}, "one,two,3", nil, 20 * time.Second},
		{"after the end", func(r *http.Request, set func(time.Duration)) (string, error) {
			all, err := io.ReadAll(r.Body)
			if err != nil {
				return string(all), err
			}
			set(-time.Second)
			if n, err := r.Body.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("Read after the end = %d, %v", n, err)
			}
			return string(all), nil
		}, "one,two,3", nil, 20 * time.Second},
	} {
		for _, length := range []int64{9, -1} {
			t.Run(fmt.Sprintf("%s, length %d", test.name, length), func(t *testing.T) {
				bubble(t, func(t *testing.T, e *iiitest.Engine) {
					done := make(chan struct{})
					h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						defer close(done)
						began := time.Now()
						text, err := test.handler(r, func(d time.Duration) {
							deadline := time.Time{}
							if d != 0 {
								deadline = time.Now().Add(d)
							}
							if err := http.NewResponseController(w).SetReadDeadline(deadline); err != nil {
								t.Errorf("SetReadDeadline: %v", err)
							}
						})
						if took := time.Since(began); text != test.text || !errors.Is(err, test.err) || took != test.after {
							t.Errorf("read %q, %v after %v; want %q, %v after %v", text, err, took, test.text, test.err, test.after)
						}
						if err := r.Context().Err(); err != nil {
							t.Errorf("the context has ended: %v", err)
						}
						_ = http.NewResponseController(w).Flush() // what comes after can be answered
						fmt.Fprint(w, "answer")
					})
					s := newSite(t, e, "POST", "/up", h)
					body, send := io.Pipe()
					go func() {
						for i, part := range []string{"one,", "two,", "3"} {
							if i > 0 {
								time.Sleep(10 * time.Second)
							}
							_, _ = io.WriteString(send, part)
						}
						_ = send.Close()
					}()
					req, err := http.NewRequestWithContext(t.Context(), "POST", s.addr+"/up", body)
					if err != nil {
						t.Fatal(err)
					}
					req.ContentLength = length
					resp, err := s.http.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					defer resp.Body.Close()
					if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "answer" {
						t.Errorf("answer = %q, %v", b, err)
					}
					<-done
					time.Sleep(time.Minute) // the body may still be on its way
				})
			})
		}
	}
}

// A reverse proxy passes events on as they come, and learns from the request's context
// that its client has left.
func TestMountedReverseProxyOfEvents(t *testing.T) {
	left := make(chan struct{})
	events := make(chan string)
	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		control := http.NewResponseController(w)
		_ = control.Flush()
		for {
			select {
			case event := <-events:
				fmt.Fprintln(w, event)
				_ = control.Flush()
			case <-r.Context().Done():
				close(left)
				return
			}
		}
	}))
	defer behind.Close()
	target, err := url.Parse(behind.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, Transport: transport, FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0)}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Error(err)
		}
		proxy.ServeHTTP(w, r)
	})
	base := mounted(t, "GET", "/events", h, iii.WithStreamHeartbeat(10*time.Millisecond))
	resp, err := http.Get(base + "/events")
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(resp.Body)
	for _, event := range []string{"one", "two"} {
		events <- event
		if !lines.Scan() || lines.Text() != event {
			t.Fatalf("line %q, %v; want %q", lines.Text(), lines.Err(), event)
		}
	}
	_ = resp.Body.Close()
	<-left
}

// Ranges of a file are served under a deadline, too.
func TestMountedRangeWithDeadlines(t *testing.T) {
	content := strings.Repeat("0123456789", 50_000)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.SetWriteDeadline(time.Now().Add(time.Minute))
		_ = control.SetReadDeadline(time.Now().Add(time.Minute))
		http.ServeContent(w, r, "digits.txt", time.Time{}, strings.NewReader(content))
	})
	req, err := http.NewRequestWithContext(t.Context(), "GET", mounted(t, "GET", "/digits", h)+"/digits", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Range", "bytes=100003-400002")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusPartialContent || string(b) != content[100003:400003] {
		t.Errorf("answer = %s, %d bytes, %v", resp.Status, len(b), err)
	}
}

// An answer to HEAD is complete when its head is out: a handler that waits for its
// client to leave sees its context end.
func TestMountedStreamOfAHeadRequestEnds(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		ended := make(chan error, 1)
		s := newSite(t, e, "HEAD", "/events", waitForEnd(ended))
		began := time.Now()
		resp := s.request(t, http.MethodHead, "/events", nil)
		defer resp.Body.Close()
		if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
			t.Errorf("Content-Type = %q", got)
		}
		if err := <-ended; !errors.Is(err, iii.ErrChannelClosed) || time.Since(began) > 15*time.Second {
			t.Errorf("the context has ended after %v by %v", time.Since(began), err)
		}
	})
}

func TestStreamOptionsThatMakeNoSense(t *testing.T) {
	for name, opt := range map[string]iii.Option{
		"WithStreamHeartbeat":  iii.WithStreamHeartbeat(-1),
		"WithHTTPWriteTimeout": iii.WithHTTPWriteTimeout(-time.Second),
	} {
		if c, err := iii.New("ws://127.0.0.1:1", opt); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "negative") {
			t.Errorf("%s: error = %v, want one that names it", name, err)
			if err == nil {
				_ = c.Close()
			}
		}
	}
}

// The engine sends the cookies of a streamed response in no fixed order, so those that a
// later one replaces are left out; other spellings of the header's name count as well.
func TestStreamedCookiesKeepTheLastOfAName(t *testing.T) {
	bubble(t, func(t *testing.T, e *iiitest.Engine) {
		startReplica(t, e, "a", func(r *replica) {
			if _, err := r.MountHTTP("GET", "/login", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				http.SetCookie(w, &http.Cookie{Name: "sid", Path: "/", MaxAge: -1})
				http.SetCookie(w, &http.Cookie{Name: "sid", Value: "other", Path: "/admin"})
				http.SetCookie(w, &http.Cookie{Name: "sid", Value: "new", Path: "/"})
				w.Header()["set-cookie"] = []string{"x=1", "y=2"}
				w.Header()["set-COOKIE"] = []string{"z=3"}
				_ = http.NewResponseController(w).Flush()
			})); err != nil {
				t.Fatal(err)
			}
		})
		transport := &http.Transport{DialContext: e.DialContext, DisableKeepAlives: true}
		defer transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport}).Get(e.HTTPURL() + "/login")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		got := slices.Sorted(slices.Values(resp.Header["Set-Cookie"]))
		if diff := cmp.Diff([]string{"sid=new; Path=/", "sid=other; Path=/admin", "x=1", "y=2", "z=3"}, got); diff != "" {
			t.Errorf("cookies (-want +got):\n%s", diff)
		}
	})
}
