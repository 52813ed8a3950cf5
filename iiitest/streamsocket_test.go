package iiitest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
)

// browser is a stream socket client.
type browser struct {
	t    testing.TB
	conn *websocket.Conn
	done chan struct{}

	mu  sync.Mutex
	got []string
}

func newBrowser(t testing.TB, e *Engine, query string, header http.Header) *browser {
	t.Helper()
	b := dialBrowser(t, e, query, header)
	go b.read()
	return b
}

// dialBrowser connects a browser that does not read.
func dialBrowser(t testing.TB, e *Engine, query string, header http.Header) *browser {
	t.Helper()
	dialer := websocket.Dialer{NetDialContext: e.DialContext}
	conn, _, err := dialer.DialContext(t.Context(), e.StreamURL()+"/"+query, header)
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, conn: conn, done: make(chan struct{})}
	t.Cleanup(func() { _ = conn.Close() })
	return b
}

func (b *browser) read() {
	defer close(b.done)
	for {
		_, message, err := b.conn.ReadMessage()
		if err != nil {
			return
		}
		line := string(message)
		if !timestamps.MatchString(line) {
			b.t.Errorf("no timestamp in %s", line)
		}
		b.mu.Lock()
		b.got = append(b.got, timestamps.ReplaceAllString(line, ""))
		b.mu.Unlock()
	}
}

func (b *browser) send(message string) {
	b.t.Helper()
	if err := b.conn.WriteMessage(websocket.TextMessage, []byte(message)); err != nil {
		b.t.Fatal(err)
	}
}

// join subscribes to group g of stream s, or to one item of the group.
func (b *browser) join(subscription, item string) {
	b.t.Helper()
	b.send(subscribe("join", subscription, "g", item))
}

func subscribe(typ, subscription, group, item string) string {
	if item != "" {
		item = fmt.Sprintf(`,"id":%q`, item)
	}
	return fmt.Sprintf(`{"type":%q,"data":{"subscriptionId":%q,"streamName":"s","groupId":%q%s}}`, typ, subscription, group, item)
}

func (b *browser) want(want ...string) {
	b.t.Helper()
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	if diff := cmp.Diff(want, b.got); diff != "" {
		b.t.Errorf("received (-want +got):\n%s", diff)
	}
	b.got = nil
}

// frame returns a message to subscribers of group g of stream s.
func frame(event, id string) string {
	return strings.TrimSpace(change("", event, "s", "g", id))
}

func TestStreamSocketEvents(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		p.call("stream::set", `{"stream_name":"s","group_id":"g","item_id":"i","data":1}`)
		b, other := newBrowser(t, e, "", nil), newBrowser(t, e, "", nil)
		b.join("one", "i")
		b.join("absent", "j")
		other.join("group", "")
		b.want(frame(`{"data":1,"type":"sync"}`, `"i"`), frame(`{"data":null,"type":"sync"}`, `"j"`))
		other.want(frame(`{"data":[1],"type":"sync"}`, `null`))

		p.call("stream::set", `{"stream_name":"s","group_id":"g","item_id":"i","data":{"a":"<>"}}`)
		p.call("stream::update", `{"stream_name":"s","group_id":"g","item_id":"k","ops":[]}`)
		p.call("stream::delete", `{"stream_name":"s","group_id":"g","item_id":"i"}`)
		p.call("stream::delete", `{"stream_name":"s","group_id":"g","item_id":"i"}`)
		p.call("stream::send", `{"stream_name":"s","group_id":"g","type":"typing","data":1}`)
		p.call("stream::send", `{"stream_name":"s","group_id":"g","id":"i","type":"typing","data":1}`)
		p.call("stream::set", `{"stream_name":"s","group_id":"other","item_id":"i","data":1}`)
		p.call("stream::set", `{"stream_name":"other","group_id":"g","item_id":"i","data":1}`)
		update, create := frame(`{"data":{"a":"<>"},"type":"update"}`, `"i"`), frame(`{"data":{},"type":"create"}`, `"k"`)
		removed := frame(`{"data":{"a":"<>"},"type":"delete"}`, `"i"`)
		typing := `{"event":{"data":1,"type":"typing"},"type":"event"}`
		b.want(update, removed, frame(typing, `"i"`))
		other.want(update, create, removed, frame(typing, "null"), frame(typing, `"i"`))

		// Each matching subscription receives its own frame. Joining again with the same id
		// replaces the subscription.
		b.join("group", "")
		b.join("absent", "i")
		b.want(frame(`{"data":[{}],"type":"sync"}`, `null`), frame(`{"data":null,"type":"sync"}`, `"i"`))
		p.call("stream::set", `{"stream_name":"s","group_id":"g","item_id":"i","data":2}`)
		p.call("stream::set", `{"stream_name":"s","group_id":"g","item_id":"j","data":3}`)
		created := frame(`{"data":2,"type":"create"}`, `"i"`)
		b.want(created, created, created, frame(`{"data":3,"type":"create"}`, `"j"`))

		b.send(subscribe("leave", "group", "g", ""))
		b.send(subscribe("leave", "absent", "g", ""))
		b.send(subscribe("leave", "unknown", "g", ""))
		b.want()
		p.call("stream::set", `{"stream_name":"s","group_id":"g","item_id":"i","data":4}`)
		b.want(frame(`{"data":4,"type":"update"}`, `"i"`))
	})
}

func TestStreamSocketIgnoresOddMessages(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		b := newBrowser(t, e, "", nil)
		for _, message := range []string{
			"nonsense", "", " \n", "null", "{}", `{"type":"join"}`, `{"type":"stay","data":{}}`, `{"type":"join","data":null}`,
			`{"type":"join","data":{"subscriptionId":"s","streamName":"s"}}`, `{"type":"leave","data":{"subscriptionId":"s"}}`,
			`{"type":"join","data":{"subscriptionId":"s","streamName":"s","groupId":"g","id":1}}`, strings.Repeat("[", 1000),
		} {
			b.send(message)
		}
		b.want()
		if err := b.conn.WriteMessage(websocket.BinaryMessage, []byte(subscribe("join", "s", "g", ""))); err != nil {
			t.Fatal(err)
		}
		b.want(frame(`{"data":[],"type":"sync"}`, `null`))
	})
}

func TestStreamSocketJoinLeaveTriggers(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		p.handleFunc("join", func(data []byte) string {
			if strings.Contains(string(data), "secret") {
				return `{"unauthorized":true}`
			}
			return `{"unauthorized":false}`
		})
		p.handle("odd", `{"unauthorized":"yes"}`)
		p.handle("broken", "!BROKEN")
		p.handle("leave", "!BROKEN")
		// The config is ignored. Registering t1 again does not remove the old trigger.
		p.trigger("t1", "stream:join", "join", `{"stream_name":"another"}`, `,"metadata":{"m":1}`)
		p.trigger("t1", "stream:join", "odd", `{}`, "")
		p.trigger("t2", "stream:join", "odd", `null`, "")
		p.trigger("t3", "stream:join", "broken", `{}`, "")
		p.trigger("t4", "stream:leave", "leave", `{"condition_function_id":"odd"}`, `,"metadata":2`)
		p.fence()
		b := newBrowser(t, e, "?token=abc", nil)
		event := func(subscription, group, id string) string {
			return fmt.Sprintf(` {"context":null,"group_id":%q,"id":%s,"stream_name":"s","subscription_id":%q}`, group, id, subscription)
		}

		b.join("s1", "")
		b.want(frame(`{"data":[],"type":"sync"}`, `null`))
		p.wantCalls("join"+event("s1", "g", "null")+` metadata {"m":1}`, "odd"+event("s1", "g", "null"), "broken"+event("s1", "g", "null"))
		b.join("s2", "i")
		b.want(frame(`{"data":null,"type":"sync"}`, `"i"`))
		p.take()

		b.send(subscribe("join", "s3", "secret", "i"))
		b.want(strings.TrimSpace(change("", `{"type":"unauthorized"}`, "s", "secret", `"i"`)))
		p.wantCalls("join"+event("s3", "secret", `"i"`)+` metadata {"m":1}`, "odd"+event("s3", "secret", `"i"`), "broken"+event("s3", "secret", `"i"`))
		p.call("stream::send", `{"stream_name":"s","group_id":"secret","id":"i","type":"t","data":1}`)
		b.want()

		b.send(subscribe("leave", "never", "g", ""))
		b.send(subscribe("leave", "s1", "g", ""))
		b.join("s4", "")
		p.wantCalls("leave"+event("never", "g", "null")+" metadata 2", "leave"+event("s1", "g", "null")+" metadata 2",
			"join"+event("s4", "g", "null")+` metadata {"m":1}`, "odd"+event("s4", "g", "null"), "broken"+event("s4", "g", "null"))
		_ = b.conn.Close()
		p.wantCalls("leave"+event("s2", "g", `"i"`)+" metadata 2", "leave"+event("s4", "g", "null")+" metadata 2")
	})
}

func TestStreamSocketAuth(t *testing.T) {
	tests := []struct{ name, result, context string }{
		{"context", `{"context":{"user":"u1"}}`, `{"user":"u1"}`},
		{"nothing in it", `{}`, `null`},
		{"error", "!DENIED", `null`},
		{"no result", "", `null`},
		{"no object", `"u1"`, `null`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
				p.handle("auth", test.result)
				p.handle("join", "")
				p.trigger("t1", "stream:join", "join", `{}`, "")
				p.fence()
				b := newBrowser(t, e, "?token=a%20b&=x&tag=1&tag=2&flag", http.Header{"X-Who": {"me"}, "X-Odd": {"caf\xc3\xa9"}})
				calls := p.take()
				if len(calls) != 1 {
					t.Fatalf("calls %q, want that of the auth function", calls)
				}
				for _, part := range []string{
					`auth {"addr":"`, `"path":"/"`, `"query_params":{"flag":[""],"tag":["1","2"],"token":["a%20b"]}`,
					`"host":"` + strings.TrimPrefix(e.StreamURL(), "ws://") + `"`, `"x-who":"me"`, `"upgrade":"websocket"`,
				} {
					if !strings.Contains(calls[0], part) {
						t.Errorf("%s is not in %s", part, calls[0])
					}
				}
				if strings.Contains(calls[0], "x-odd") {
					t.Errorf("a header that is not ASCII is in %s", calls[0])
				}
				b.join("s1", "")
				p.wantCalls(`join {"context":` + test.context + `,"group_id":"g","id":null,"stream_name":"s","subscription_id":"s1"}`)
				b.want(frame(`{"data":[],"type":"sync"}`, `null`))
			}, WithStreamAuth("auth"))
		})
	}
}

func TestWithStreamAuthRequiresFunction(t *testing.T) {
	if e, err := New(WithStreamAuth("")); err == nil {
		_ = e.Close()
		t.Error("an empty function id was accepted")
	}
}

func TestStreamSocketProvider(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		p.handle("stream::list(s)", `[7]`)
		p.handle("stream::get(s)", `!BROKEN`)
		p.fence()
		b := newBrowser(t, e, "", nil)
		b.join("s1", "")
		b.want(frame(`{"data":[7],"type":"sync"}`, `null`))
		// If reading the item fails, there is no sync message, but the subscription exists.
		b.join("s2", "i")
		b.want()
		p.wantCalls(`stream::list(s) {"group_id":"g","stream_name":"s"}`, `stream::get(s) {"group_id":"g","item_id":"i","stream_name":"s"}`)
		p.call("stream::set", `{"stream_name":"s","group_id":"g","item_id":"i","data":1}`)
		created := frame(`{"data":1,"type":"create"}`, `"i"`)
		b.want(created, created)
	})
}

// A client that reads slowly loses the oldest changes and receives the newest.
func TestStreamSocketSlowClient(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		p.handle("logged", "")
		p.trigger("t1", "log", "logged", `{"level":"warn"}`, "")
		p.fence()
		b := dialBrowser(t, e, "", nil)
		b.join("s1", "")
		const sent = 700
		data := strings.Repeat("x", 2000)
		for i := range sent {
			p.call("stream::send", fmt.Sprintf(`{"stream_name":"s","group_id":"g","type":"n%d","data":%q}`, i, data))
		}
		warnings := p.take()
		if len(warnings) != 1 || !strings.Contains(warnings[0], "loses changes") {
			t.Errorf("calls %q, want one warning", warnings)
		}
		go b.read()
		synctest.Wait()
		b.mu.Lock()
		got := b.got
		b.mu.Unlock()
		if len(got) < socketBuffer || len(got) >= sent {
			t.Fatalf("%d frames of %d arrived", len(got), sent)
		}
		for i, line := range got[len(got)-socketBuffer:] {
			want := frame(fmt.Sprintf(`{"event":{"data":"%s","type":"n%d"},"type":"event"}`, data, sent-socketBuffer+i), "null")
			if line != want {
				t.Fatalf("frame %d is %.100s, want %.100s", i, line, want)
			}
		}
	})
}

// No update is lost, and clients receive changes in order.
func TestStreamUpdatesConcurrent(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		b := newBrowser(t, e, "", nil)
		b.join("s1", "")
		b.want(frame(`{"data":[],"type":"sync"}`, "null"))
		const workers, updates = 4, 50
		var wg sync.WaitGroup
		for range workers {
			worker := newPeer(t, e)
			wg.Go(func() {
				for range updates {
					worker.call("stream::update", `{"stream_name":"s","group_id":"g","item_id":"i","ops":[{"type":"increment","path":"","by":1}]}`)
				}
			})
		}
		wg.Wait()
		want := []string{frame(`{"data":1,"type":"create"}`, `"i"`)}
		for n := 2; n <= workers*updates; n++ {
			want = append(want, frame(fmt.Sprintf(`{"data":%d,"type":"update"}`, n), `"i"`))
		}
		b.want(want...)
	})
}

func TestStreamSocketRefusesOtherRequests(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		client := &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				return e.DialContext(ctx, network, addr)
			},
			DisableKeepAlives: true,
		}}
		for path, want := range map[string]int{"/": http.StatusBadRequest, "/more": http.StatusNotFound} {
			response, err := client.Get("http" + strings.TrimPrefix(e.StreamURL(), "ws") + path)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if response.StatusCode != want {
				t.Errorf("%s: status %d, want %d", path, response.StatusCode, want)
			}
		}
	})
}

func TestStreamSocketEndsWithTheEngine(t *testing.T) {
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		never := make(chan struct{})
		p.handleFunc("join", func([]byte) string {
			<-never
			return ""
		})
		p.trigger("t1", "stream:join", "join", `{}`, "")
		p.fence()
		b := newBrowser(t, e, "", nil)
		b.join("s1", "")
		synctest.Wait()
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		<-b.done
		close(never)
	})
}

// Close logs no failed calls: workers disconnect because the engine closes.
func TestCloseLogsNoLostEvents(t *testing.T) {
	var log bytes.Buffer
	handler := slog.NewTextHandler(&log, nil)
	inBubbleWith(t, func(t *testing.T, e *Engine, p *peer) {
		never := make(chan struct{})
		wait := func([]byte) string {
			<-never
			return ""
		}
		for _, typ := range []string{"stream:join", "stream:leave", "stream"} {
			p.handleFunc(typ, wait)
			p.trigger(typ, typ, typ, `{"stream_name":"s"}`, "")
		}
		b, other := newBrowser(t, e, "", nil), newBrowser(t, e, "", nil)
		b.send(subscribe("leave", "s1", "g", ""))
		other.join("s1", "")
		callBuiltin[any](t, e, "stream::set", `{"stream_name":"s","group_id":"g","item_id":"i","data":1}`)
		synctest.Wait()
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		<-b.done
		<-other.done
		close(never)
	}, WithLogger(slog.New(handler)))
	if got := log.String(); got != "" {
		t.Errorf("logged:\n%s", got)
	}
}

func FuzzStreamSocketMessage(f *testing.F) {
	f.Add([]byte(subscribe("join", "s", "g", "i")))
	f.Add([]byte(subscribe("leave", "s", "g", "")))
	f.Add([]byte(`{"type":"join","data":{"subscriptionId":"s","streamName":"s","groupId":"g","id":null}}`))
	e, err := New()
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = e.Close() })
	f.Fuzz(func(t *testing.T, message []byte) {
		s := &streamSocket{streams: e.streams, out: newFrameQueue()}
		s.handle(t.Context(), message)
		if joined := len(s.subscriptions) > 0; joined != (len(s.out.frames) > 0) {
			t.Errorf("%d subscriptions and %d answers", len(s.subscriptions), len(s.out.frames))
		}
	})
}
