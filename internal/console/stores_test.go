package console

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii"
)

var updateGolden = flag.Bool("update", false, "write the golden files")

// The golden file covers the console's whole API, for an engine with one item of each kind.
func TestAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		item, client := "ada", "10.0.0.1:1"
		f := &fake{
			registry: Registry{
				Workers:   []map[string]any{{"id": "w-1", "name": "shop"}},
				Functions: []map[string]any{{"function_id": "f", "namespace": "default", "internal": false}},
				Triggers:  []map[string]any{{"id": "t", "trigger_type": "http", "config": json.RawMessage(`{"api_path":"/f"}`)}},
				Types:     []map[string]any{{"id": "http", "internal": true}},
				Observers: []map[string]any{{"id": "o", "state": "error", "source": map[string]any{"function_id": "f"}, "target": map[string]any{"function_id": "g"}, "fires": 3, "filters": json.RawMessage(`{"input.token":"s3cret"}`), "reason": map[string]any{"code": "INVALID", "message": "no"}}},
				Local:     []map[string]any{{"function_id": "f", "namespace": "default", "count": 2, "errors": 1, "duration_ms": 0.5, "dropped": map[string]int{"queue_full": 1}}},
			},
			metrics: []Metric{{Service: "shop", Name: "orders", Unit: "1", Type: "counter", At: time.Now(), Points: []Point{{Attributes: []iii.StoredAttribute{{"kind", "tea"}}, Value: 2}}}},
			spans: []iii.StoredSpan{{
				TraceID: "0102", SpanID: "03", Name: "visit", ServiceName: "shop", Status: "ok", Attributes: []iii.StoredAttribute{{"cookie", "s3cret"}},
				StartTimeUnixNano: uint64(time.Now().UnixNano()), EndTimeUnixNano: uint64(time.Now().Add(time.Second).UnixNano()),
			}},
			logs: []json.RawMessage{json.RawMessage(`{"body":"hello","attributes":{"token":"s3cret"},"trace_id":"0102"}`)},
			groups: map[Store][]Group{
				State:   {{Group: "credentials", Items: 1}, {Group: "empty"}, {Group: "orders", Items: 2}},
				Streams: {{Stream: "chat", Group: "lobby", Items: 1, Subscribers: []Subscriber{{"s-1", nil, client}, {"s-2", &item, client}}}, {Stream: "held", Provider: "shop"}},
			},
			items: map[string][]Item{
				"/credentials": {{"db", json.RawMessage(`"s3cret"`)}},
				"/orders":      {{"ada", json.RawMessage(`{"paid":true,"access_key":"s3cret"}`)}, {"refresh_token", json.RawMessage(`"s3cret"`)}},
				"chat/lobby":   {{"ada", json.RawMessage(`{"text":"hello","cookie":"s3cret"}`)}},
			},
			queues: []Queue{{Name: "default", Depth: 3, InFlight: 1, Delayed: 1, Consumers: 10, Dead: 1}, {Name: "mail", Topic: true, Namespace: "default", Function: "send", Consumers: 1, Unheard: 2}},
			dead:   []DeadLetter{{ID: "j-1", Queue: "default", Namespace: "default", Function: "f", Attempts: 3, Error: `{"token":"s3cret","why":"no"}`, FailedAt: time.Now(), Payload: json.RawMessage(`{"item":"tea","card_token":"s3cret"}`)}},
		}
		recorder := NewRecorder(DefaultLimit)
		h := New(t.Context(), f, recorder, "")
		i := recorder.Begin(Call{Namespace: "default", Function: "f", Worker: "shop", Caller: "visitor", Data: json.RawMessage(`{"password":"s3cret"}`), TraceID: "0102"})
		time.Sleep(time.Second)
		recorder.End(i, json.RawMessage(`"done"`), "", "")

		var got bytes.Buffer
		for _, path := range []string{
			"engine", "registry", "function?namespace=default&id=f", "invocations", "invocations/1", "activity", "traces", "traces/0102", "logs", "metrics",
			"state", "state?group=orders", "state/item?group=orders&key=ada", "state/item?group=orders&key=refresh_token", "state/item?group=credentials&key=db",
			"streams", "streams?stream=chat&group=lobby", "streams/item?stream=chat&group=lobby&key=ada",
			"queues", "dead-letters/j-1",
		} {
			w := get(t, h, "GET", "/api/"+path)
			fmt.Fprintf(&got, "GET /api/%s: %d\n", path, w.Code)
			if err := json.Indent(&got, w.Body.Bytes(), "", "  "); err != nil {
				t.Errorf("%s: %v: %s", path, err, w.Body)
			}
			got.WriteString("\n\n")
		}
		if strings.Contains(got.String(), "s3cret") {
			t.Error("a secret is shown")
		}
		file := filepath.Join("testdata", "api.golden")
		if *updateGolden {
			if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(file, got.Bytes(), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got.String()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// Each list is bounded and states how many entries it omits.
func TestStoreListsAreBounded(t *testing.T) {
	large := json.RawMessage(`"` + strings.Repeat("x", maxPayload) + `"`)
	f := &fake{groups: map[Store][]Group{}, items: map[string][]Item{"/last": {{"large", large}}}}
	for n := range maxListed {
		f.groups[State] = append(f.groups[State], Group{Group: fmt.Sprint(n), Items: 3})
		f.items["/"+fmt.Sprint(n)] = []Item{{"a", json.RawMessage("1")}, {"b", json.RawMessage("2")}, {"c", json.RawMessage("3")}}
		f.dead = append(f.dead, DeadLetter{ID: fmt.Sprint(n)})
		f.queues = append(f.queues, Queue{Name: fmt.Sprint(n)})
	}
	f.groups[State] = append(f.groups[State], Group{Group: "last", Items: 1})
	f.dead = append(f.dead, DeadLetter{ID: "oldest", Payload: large})
	f.queues = append(f.queues, Queue{Name: "last"})
	f.groups[Streams] = []Group{
		{Stream: "s", Group: "a", Subscribers: make([]Subscriber, maxListed-1)}, {Stream: "s", Group: "b", Subscribers: make([]Subscriber, 2)},
	}
	h := f.handler(t.Context())
	type listed struct {
		Groups, Items, Queues []struct {
			Key         string
			Size        int
			Subscribers int
			Clients     []any
		}
		GroupsLeft      int   `json:"groups_left"`
		ItemsLeft       int   `json:"items_left"`
		QueuesLeft      int   `json:"queues_left"`
		DeadLetters     []any `json:"dead_letters"`
		DeadLettersLeft int   `json:"dead_letters_left"`
	}
	list := func(path string) (l listed) {
		t.Helper()
		if err := json.Unmarshal(get(t, h, "GET", path).Body.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		return l
	}
	if l := list("/api/state"); len(l.Groups) != maxListed || l.GroupsLeft != 1 || len(l.Items) != maxListed || l.ItemsLeft != 3*maxListed+1-maxListed {
		t.Errorf("state: %d groups and %d more, %d items and %d more", len(l.Groups), l.GroupsLeft, len(l.Items), l.ItemsLeft)
	}
	if l := list("/api/state?group=last"); len(l.Items) != 1 || l.Items[0].Key != "large" || l.Items[0].Size != len(large) || l.ItemsLeft != 0 {
		t.Errorf("one scope: %+v", l.Items)
	}
	if l := list("/api/streams"); l.Groups[0].Subscribers != maxListed-1 || l.Groups[1].Subscribers != 2 || len(l.Groups[0].Clients) != maxListed-1 || len(l.Groups[1].Clients) != 1 {
		t.Error("clients are not bounded")
	}
	if l := list("/api/queues"); len(l.Queues) != maxListed || l.QueuesLeft != 1 || len(l.DeadLetters) != maxListed || l.DeadLettersLeft != 1 {
		t.Errorf("queues: %d and %d more, dead letters: %d and %d more", len(l.Queues), l.QueuesLeft, len(l.DeadLetters), l.DeadLettersLeft)
	}
	for path, want := range map[string]string{
		"/api/state/item?group=last&key=large": fmt.Sprintf(`{"value":null,"size":%d,"kept":false}`, len(large)),
		"/api/dead-letters/oldest":             `"payload":null,"kept":false}`,
	} {
		if body := get(t, h, "GET", path).Body.String(); !strings.HasSuffix(body, want) {
			t.Errorf("%s: %s, want …%s", path, body, want)
		}
	}
}
