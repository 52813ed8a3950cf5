package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// summary formats a message without its timestamp.
func summary(m iii.StreamMessage) string {
	id := "-"
	if m.ID != nil {
		id = *m.ID
	}
	text := fmt.Sprintf("%s/%s/%s %s", m.StreamName, m.GroupID, id, m.Event.Type)
	if m.Event.Data != nil {
		text += " " + string(m.Event.Data)
	}
	if m.Event.Event != nil {
		text += " " + string(m.Event.Event)
	}
	return text
}

func setItem(t *testing.T, c *iii.Client, stream, group, id string, value any) {
	t.Helper()
	if _, err := iii.NewStream[any](c, stream).Set(t.Context(), group, id, value); err != nil {
		t.Error(err)
	}
}

func TestSubscribe(t *testing.T) {
	streamBubble(t, func(t *testing.T, c *iii.Client, w *wire) {
		ctx := t.Context()
		left := make(chan iii.StreamJoinLeaveEvent, 2)
		handle(t, c, "chat::left", func(_ context.Context, e iii.StreamJoinLeaveEvent) (any, error) {
			left <- e
			return nil, nil
		})
		if _, err := c.Trigger("chat::left", iii.StreamLeaveTrigger{}); err != nil {
			t.Fatal(err)
		}
		setItem(t, c, "chat", "room", "m0", "before")
		chat := iii.NewStream[string](c, "chat")
		steps := []func() error{
			func() error { _, err := chat.Set(ctx, "room", "m1", "hi"); return err },
			func() error { _, err := chat.Update(ctx, "room", "m1", iii.OpAppend("!")); return err },
			func() error { return chat.Send(ctx, "room", "typing", "u2") },
			func() error { _, err := chat.Set(ctx, "another room", "m1", "hi"); return err },
			func() error { _, _, err := chat.Delete(ctx, "room", "m1"); return err },
			func() error { _, err := chat.Set(ctx, "room", "m0", "after"); return err },
		}
		var got []string
		for m, err := range w.subscribe(ctx,
			iii.StreamSubscription{StreamName: "chat", GroupID: "room"},
			iii.StreamSubscription{SubscriptionID: "one", StreamName: "chat", GroupID: "room", ID: "m0"}) {
			if err != nil {
				t.Fatal(err)
			}
			if got = append(got, summary(m)); m.Type != "stream" || m.Timestamp == 0 {
				t.Errorf("envelope: %+v", m)
			}
			if len(got) >= 2 && len(steps) > 0 {
				// Run steps until one of them produces a message for the subscriptions.
				for n := len(steps); n == len(steps); {
					if err := steps[0](); err != nil {
						t.Fatal(err)
					}
					steps = steps[1:]
					if len(steps) == 2 {
						n = len(steps) // a change in another room is not reported
					}
				}
			}
			if len(got) == 8 {
				break
			}
		}
		want := []string{
			`chat/room/- sync ["before"]`,
			`chat/room/m0 sync "before"`,
			`chat/room/m1 create "hi"`,
			`chat/room/m1 update "hi!"`,
			`chat/room/- event {"data":"u2","type":"typing"}`,
			`chat/room/m1 delete "hi!"`,
			`chat/room/m0 update "after"`, // reported once per subscription
			`chat/room/m0 update "after"`,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("messages (-want +got):\n%s", diff)
		}
		first, second := <-left, <-left // ending the loop has closed the connection
		if first.StreamName != "chat" || second.StreamName != "chat" || (first.SubscriptionID == "one") == (second.SubscriptionID == "one") {
			t.Errorf("left: %+v, %+v", first, second)
		}
	})
}

// After a reconnect, the subscriber receives the current items again, including missed
// changes.
func TestSubscribeReconnects(t *testing.T) {
	streamBubble(t, func(t *testing.T, c *iii.Client, w *wire) {
		setItem(t, c, "chat", "room", "m0", 0)
		var got []string
		for m, err := range w.subscribe(t.Context(), iii.StreamSubscription{StreamName: "chat", GroupID: "room"}) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, summary(m))
			switch len(got) {
			case 1, 2, 3:
				w.cut()
				synctest.Wait()
				setItem(t, c, "chat", "room", "m0", len(got))
			case 4:
				setItem(t, c, "chat", "room", "m1", "live")
			}
			if len(got) == 5 {
				break
			}
		}
		want := []string{
			`chat/room/- sync [0]`, `chat/room/- sync [1]`, `chat/room/- sync [2]`, `chat/room/- sync [3]`,
			`chat/room/m1 create "live"`,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("messages (-want +got):\n%s", diff)
		}
		if n := w.dials(); n != 4 {
			t.Errorf("%d connections", n)
		}
	})
}

// The join function rejects subscribers based on the context that the auth function returned.
func TestSubscribeRefused(t *testing.T) {
	streamBubble(t, func(t *testing.T, c *iii.Client, w *wire) {
		type user struct {
			Name string `json:"name"`
		}
		handle(t, c, "streams::auth", func(_ context.Context, in iii.StreamAuthInput) (iii.StreamAuthResult, error) {
			context, err := json.Marshal(user{in.Headers["x-who"] + in.QueryParams["token"][0]})
			return iii.StreamAuthResult{Context: context}, err
		})
		joined := make(chan iii.StreamJoinLeaveEvent, 10)
		handle(t, c, "streams::join", func(_ context.Context, e iii.StreamJoinLeaveEvent) (iii.StreamJoinResult, error) {
			joined <- e
			var u user
			if err := json.Unmarshal(e.Context, &u); err != nil {
				return iii.StreamJoinResult{}, err
			}
			return iii.StreamJoinResult{Unauthorized: e.GroupID == "secret" && u.Name != "adat0"}, nil
		})
		if _, err := c.Trigger("streams::join", iii.StreamJoinTrigger{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, who := range []string{"ada", "bob"} {
			var got []string
			var last error
			o := iii.SubscribeOptions{URL: w.engine.StreamURL() + "/?token=t0", Header: http.Header{"X-Who": {who}}, DialContext: w.dial}
			for m, err := range iii.SubscribeWith(t.Context(), o,
				iii.StreamSubscription{StreamName: "chat", GroupID: "room"},
				iii.StreamSubscription{SubscriptionID: "s2", StreamName: "chat", GroupID: "secret", ID: "m1"}) {
				if last != nil {
					t.Errorf("%s: a message after the error", who)
				}
				got, last = append(got, summary(m)), err
				if err == nil && len(got) == 2 {
					break
				}
			}
			want := []string{`chat/room/- sync []`, `chat/secret/m1 unauthorized`}
			if who == "ada" {
				want[1] = `chat/secret/m1 sync null`
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: messages (-want +got):\n%s", who, diff)
			}
			if refused := who == "bob"; errors.Is(last, iii.ErrForbidden) != refused || (last == nil) == refused {
				t.Errorf("%s: error %v", who, last)
			}
			if refused := "iii: subscribe: forbidden: subscription to stream \"chat\", group \"secret\" was rejected"; last != nil && last.Error() != refused {
				t.Errorf("error %q", last)
			}
			<-joined
			if e := <-joined; e.SubscriptionID != "s2" || e.ID == nil || *e.ID != "m1" || string(e.Context) != `{"name":"`+who+`t0"}` {
				t.Errorf("joined: %+v, %s", e, e.Context)
			}
		}
	}, iiitest.WithStreamAuth("streams::auth"))
}

// lastError reads messages to the end, calls visit for every message, and returns the error.
// There must be exactly one error, as the last element.
func lastError(t *testing.T, messages iter.Seq2[iii.StreamMessage, error], visit func(iii.StreamMessage)) (last error) {
	t.Helper()
	for m, err := range messages {
		if last != nil {
			t.Errorf("an element follows the error %v", last)
		}
		if last = err; err == nil {
			visit(m)
		}
	}
	if last == nil {
		t.Fatal("the loop ended without an error")
	}
	return last
}

var room = iii.StreamSubscription{StreamName: "chat", GroupID: "room"}

func TestSubscribeEndsWithContext(t *testing.T) {
	reason := errors.New("enough")
	tests := map[string]struct {
		wire func(w *wire) // called first
		at   time.Duration // when ctx is canceled
		want string
	}{
		"waiting":    {nil, time.Minute, "iii: subscribe: context canceled: enough"},
		"at once":    {nil, 0, "context canceled"},
		"away":       {func(w *wire) { w.away = true }, 50 * time.Second, "last attempt: connect to"},
		"peer stuck": {func(w *wire) { w.passes = 1 }, 5 * time.Second, "iii: subscribe: context canceled: enough"},
		"peer mute":  {func(w *wire) { w.mute = true }, 30 * time.Second, "iii: subscribe: context canceled: enough"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			streamBubble(t, func(t *testing.T, _ *iii.Client, w *wire) {
				if tt.wire != nil {
					w.set(tt.wire)
				}
				ctx, cancel := context.WithCancelCause(t.Context())
				began := time.Now()
				if tt.at == 0 {
					cancel(reason)
				} else {
					time.AfterFunc(tt.at, func() { cancel(reason) })
				}
				err := lastError(t, w.subscribe(ctx, room), func(iii.StreamMessage) {})
				if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("error: %v", err)
				}
				if took := time.Since(began); took > tt.at+50*time.Millisecond {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

func TestSubscribeGivesUp(t *testing.T) {
	streamBubble(t, func(t *testing.T, _ *iii.Client, w *wire) {
		limit := uint64(3)
		o := iii.SubscribeOptions{URL: w.engine.StreamURL(), DialContext: w.dial,
			Reconnection: iii.ReconnectionConfig{InitialDelayMs: 100, MaxDelayMs: 200, BackoffMultiplier: 2, MaxRetries: &limit}}
		messages := 0
		began := time.Now()
		err := lastError(t, iii.SubscribeWith(t.Context(), o, room), func(iii.StreamMessage) {
			messages++
			w.set(func(w *wire) { w.away = true })
			w.cut()
		})
		if messages != 1 || !strings.Contains(err.Error(), "gave up after 4 attempts to connect: connect to") {
			t.Errorf("%d messages, then %v", messages, err)
		}
		if took, want := time.Since(began), 100*time.Millisecond+200*time.Millisecond+200*time.Millisecond+200*time.Millisecond; took != want {
			t.Errorf("it took %v, not %v", took, want)
		}
	})
}

// A silent server is detected after a minute. The connection stays open even if the server
// sends only pongs or the loop body is slow.
func TestSubscribeKeepalive(t *testing.T) {
	streamBubble(t, func(t *testing.T, c *iii.Client, w *wire) {
		w.set(func(w *wire) { w.mute = true })
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		began := time.Now()
		messages := 0
		err := lastError(t, w.subscribe(ctx, room), func(m iii.StreamMessage) {
			switch messages++; messages {
			case 1: // from the second connection
				if took := time.Since(began); took < time.Minute || took > 63*time.Second {
					t.Errorf("the silence was detected after %v", took)
				}
				time.AfterFunc(time.Hour, func() { setItem(t, c, "chat", "room", "m1", "quiet") })
			case 2:
				if took := time.Since(began); took < time.Hour {
					t.Errorf("second message after %v", took)
				}
				for i := range 2 {
					setItem(t, c, "chat", "room", "m1", i)
				}
				time.Sleep(10 * time.Minute)
			case 4:
				cancel()
			}
		})
		if !errors.Is(err, context.Canceled) || messages != 4 {
			t.Errorf("%d messages, then %v", messages, err)
		}
		if n := w.dials(); n != 2 {
			t.Errorf("%d connections", n)
		}
	})
}

// Ending the loop takes only a moment, even if the server no longer reads.
func TestSubscribeLeavesStuckPeer(t *testing.T) {
	streamBubble(t, func(t *testing.T, _ *iii.Client, w *wire) {
		w.set(func(w *wire) { w.passes = 2 }) // the handshake and the join message
		var left time.Time
		for _, err := range w.subscribe(t.Context(), room) {
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(21 * time.Second) // a ping has been sent but not delivered
			left = time.Now()
			break
		}
		if took := time.Since(left); took > 200*time.Millisecond {
			t.Errorf("it took %v", took)
		}
	})
}

func TestSubscribeArguments(t *testing.T) {
	tests := map[string]struct {
		o    iii.SubscribeOptions
		subs []iii.StreamSubscription
		want string
	}{
		"scheme":       {iii.SubscribeOptions{URL: "ftp://u:secret@x"}, []iii.StreamSubscription{room}, "needs the scheme ws"},
		"no URL":       {iii.SubscribeOptions{URL: "ws://u:secret@%zz"}, []iii.StreamSubscription{room}, "not a valid URL"},
		"nothing":      {iii.SubscribeOptions{}, nil, "no subscription"},
		"same id":      {iii.SubscribeOptions{}, []iii.StreamSubscription{{SubscriptionID: "a"}, {SubscriptionID: "a"}}, `subscription id "a" is used twice`},
		"header":       {iii.SubscribeOptions{Header: http.Header{"Upgrade": {"secret"}}}, []iii.StreamSubscription{room}, "SubscribeOptions.Header: Upgrade belongs to"},
		"reconnection": {iii.SubscribeOptions{Reconnection: iii.ReconnectionConfig{JitterFactor: 2}}, []iii.StreamSubscription{room}, "jitter_factor"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := lastError(t, iii.SubscribeWith(t.Context(), tt.o, tt.subs...), func(iii.StreamMessage) {})
			if !strings.HasPrefix(err.Error(), "iii: subscribe: ") || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("error: %v", err)
			}
		})
	}
}

// socketServer is a scripted stream socket. It sends messages after a client has joined.
func socketServer(t *testing.T, messages ...string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		if _, _, err := conn.ReadMessage(); err != nil {
			return
		}
		for _, m := range messages {
			if err := conn.WriteMessage(websocket.TextMessage, []byte(m)); err != nil {
				return
			}
		}
		_, _, _ = conn.ReadMessage()
	}))
	t.Cleanup(s.Close)
	return strings.Replace(s.URL, "http://", "ws://user:secret@", 1)
}

func TestSubscribeMalformed(t *testing.T) {
	good := `{"type":"stream","timestamp":1,"streamName":"s","groupId":"g","id":null,"event":{"type":"new kind"}}`
	for _, bad := range []string{`nonsense`, `{"type":"stream","streamName":1}`, `[]`, `{"type":"stream"`} {
		url := socketServer(t, `{"type":"later","streamName":"s","extra":1}`, good, bad, good)
		var got []string
		err := lastError(t, iii.Subscribe(t.Context(), url, room), func(m iii.StreamMessage) { got = append(got, summary(m)) })
		if diff := cmp.Diff([]string{"s/g/- new kind"}, got); diff != "" {
			t.Errorf("%s: messages (-want +got):\n%s", bad, diff)
		}
		if !strings.Contains(err.Error(), "does not decode") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestSubscribeAnswersPings(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		conn.SetPongHandler(func(data string) error {
			return conn.WriteMessage(websocket.TextMessage, []byte(`{"type":"stream","streamName":"`+data+`","groupId":"g","event":{"type":"sync"}}`))
		})
		if err := conn.WriteControl(websocket.PingMessage, []byte("pong"), time.Time{}); err != nil {
			return
		}
		for err == nil { // reads the join message, the pong and the Close frame
			_, _, err = conn.ReadMessage()
		}
		if !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
			t.Errorf("the connection ends with %v", err)
		}
	}))
	defer s.Close()
	for m, err := range iii.Subscribe(t.Context(), s.URL, room) {
		if err != nil || m.StreamName != "pong" {
			t.Errorf("%+v, %v", m, err)
		}
		break
	}
}

// Recorded messages are decoded without loss.
func TestSubscribeAsRecorded(t *testing.T) {
	var sent []string
	for _, e := range readRecording(t, "stream-socket") {
		if e.Worker == "browser" && e.Dir == "recv" {
			sent = append(sent, string(e.Frame))
		}
	}
	i := 0
	compare := func(m iii.StreamMessage) {
		got, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if diff := diffDocuments(json.RawMessage(sent[i]), got); diff != "" {
			t.Errorf("message %d (-recorded +read):\n%s", i, diff)
		}
		i++
	}
	for m, err := range iii.Subscribe(t.Context(), socketServer(t, sent...), room) {
		compare(m)
		if refused := m.Event.Type == iii.StreamEventTypeUnauthorized; errors.Is(err, iii.ErrForbidden) != refused {
			t.Errorf("message %d: %v", i-1, err)
		}
	}
	if i != len(sent) || i < 7 { // the last message is the rejection
		t.Errorf("%d of %d messages", i, len(sent))
	}
}
