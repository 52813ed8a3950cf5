package iiitest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// consoleJSON sends a GET request to the console's API and decodes the response.
func consoleJSON[T any](t *testing.T, e *iiitest.Engine, path string) (v T) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: e.DialContext, DisableKeepAlives: true}}
	resp, err := client.Get(strings.TrimSuffix(e.ConsoleURL(), "/") + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v: %s", path, resp.Status, err, body)
	}
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatalf("%s: %v: %s", path, err, body)
	}
	return v
}

type consoleInvocation struct {
	Seq                                                                   int
	Function, Worker, Caller, Cause, Status, Code, Message, Preview, Size any
	Internal                                                              bool
	TraceID                                                               string `json:"trace_id"`
}

// consoleInvocations returns the invocations of workers' functions as the console shows them:
// the caller, function and outcome of each.
func consoleInvocations(t *testing.T, e *iiitest.Engine) (list []string) {
	t.Helper()
	for _, i := range consoleJSON[[]consoleInvocation](t, e, "/api/invocations") {
		if i.Internal {
			continue
		}
		text := func(v any) string { s, _ := v.(string); return s }
		line := text(i.Caller) + text(i.Cause) + " > " + text(i.Worker) + " " + text(i.Function) + " " + text(i.Preview) + ": " + text(i.Status)
		list = append(list, strings.TrimSpace(line+" "+text(i.Code)))
	}
	return list
}

func TestConsole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := iiitest.Start(t, iiitest.WithConsole("127.0.0.1:0"), iiitest.WithProtocol(iiitest.Protocol023))
		url, service := e.URL(), "shop"
		telemetry, err := iii.StartTelemetry(t.Context(), iii.OtelConfig{EngineWSURL: &url, ServiceName: &service},
			iii.WithTelemetryConnection(iii.WithConnectionDialContext(e.DialContext)))
		if err != nil {
			t.Fatal(err)
		}
		defer telemetry.Shutdown(context.WithoutCancel(t.Context()))
		shop, err := iii.New(url, iii.WithName("shop"), iii.WithDialContext(e.DialContext), iii.WithTelemetry(telemetry))
		if err != nil {
			t.Fatal(err)
		}
		defer shop.Close()
		type input struct {
			Name  string `json:"name"`
			Token string `json:"token,omitempty"`
		}
		_, err1 := iii.Handle(shop, "greet", func(ctx context.Context, in input) (string, error) {
			if in.Name == "" {
				return "", &iii.Error{Code: "no_name", Message: "who are you?"}
			}
			telemetry.Logger().Info(ctx, "greeting", in)
			return "Hello, " + in.Name, nil
		}, iii.WithFunctionDescription("Greets"))
		_, err2 := iii.HandleHTTP(shop, "GET", "/hello/:name", func(ctx context.Context, r *iii.HTTPRequest[any]) (*iii.HTTPResponse[string], error) {
			return &iii.HTTPResponse[string]{StatusCode: 200, Body: r.PathParams["name"]}, nil
		})
		scope := "s"
		_, err3 := iii.Handle(shop, "changed", func(context.Context, iii.StateEvent) (any, error) { return nil, nil })
		_, err4 := shop.Trigger("changed", iii.StateTriggerConfig{Scope: &scope})
		_, err5 := shop.Trigger("changed", iii.CustomTrigger{Type: "push", Config: map[string]string{"secret": "s3cret"}})
		if err := errors.Join(err1, err2, err3, err4, err5, shop.Connect(t.Context())); err != nil {
			t.Fatal(err)
		}

		ctx, span := telemetry.Tracer().Start(t.Context(), "visit")
		_ = shop.Call(ctx, "greet", input{"Ada", "s3cret"}, nil)
		span.End()
		_ = shop.Call(t.Context(), "greet", input{}, nil)
		_ = shop.Call(t.Context(), "missing", nil, nil)
		_ = shop.Call(t.Context(), "state::set", iii.StateSetInput{Scope: scope, Key: "k", Value: iii.JSONValue(`1`)}, nil)
		synctest.Wait()
		resp, err := (&http.Client{Transport: &http.Transport{DialContext: e.DialContext, DisableKeepAlives: true}}).Get(e.HTTPURL() + "/hello/bob")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if err := telemetry.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the engine ends the span of the request after the response
		got := consoleInvocations(t, e)
		for i, line := range got { // omit the payloads of HTTP requests and state events
			if before, _, found := strings.Cut(line, " {"); found && strings.HasPrefix(line, "http") {
				got[i] = before + line[strings.LastIndex(line, ":"):]
			}
			if before, _, found := strings.Cut(line, " {"); found && strings.HasPrefix(line, "state") {
				got[i] = before + line[strings.LastIndex(line, ":"):]
			}
		}
		want := []string{
			`shop > shop greet {"name":"Ada","token":"[REDACTED]"}: ok`,
			`shop > shop greet {"name":""}: error no_name`,
			`shop >  missing : error function_not_found`,
			`state > shop changed: ok`,
			`http > shop http::GET/hello/:name: ok`,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("invocations (-want +got):\n%s", diff)
		}

		first := consoleJSON[[]consoleInvocation](t, e, "/api/invocations")
		var traceID string
		for _, i := range first {
			if i.Function == "greet" && i.TraceID != "" {
				traceID = i.TraceID
			}
		}
		if traceID != span.SpanContext().TraceID().String() {
			t.Errorf("trace of the first call: %q", traceID)
		}
		traced := consoleJSON[struct {
			Spans []iii.StoredSpan
			Logs  []iii.StoredLog
		}](t, e, "/api/traces/"+traceID)
		if len(traced.Spans) != 2 || len(traced.Logs) != 1 || traced.Logs[0].Body != "greeting" || strings.Contains(string(traced.Logs[0].Attributes["log.data"]), "s3cret") {
			t.Errorf("trace: %+v", traced)
		}
		traces := consoleJSON[[]map[string]any](t, e, "/api/traces")
		names := map[any]bool{}
		for _, trace := range traces {
			names[trace["name"]] = true
		}
		if !names["visit"] || !names["execute greet"] || !names["GET /hello/:name"] {
			t.Errorf("traces: %v", names)
		}
		if logs := consoleJSON[[]iii.StoredLog](t, e, "/api/logs"); len(logs) == 0 {
			t.Error("no logs")
		}
		metrics := consoleJSON[struct{ Plots []map[string]any }](t, e, "/api/metrics")
		if len(metrics.Plots) < 10 || metrics.Plots[0]["service"] != "shop" {
			t.Errorf("metrics: %v", metrics.Plots)
		}

		registry := consoleJSON[map[string][]map[string]any](t, e, "/api/registry")
		var waiting, own []string
		for _, trigger := range registry["triggers"] {
			if trigger["parked"] == true {
				waiting = append(waiting, trigger["trigger_type"].(string))
			}
			if strings.Contains(string(must(json.Marshal(trigger))), "s3cret") {
				t.Errorf("a secret: %v", trigger)
			}
		}
		for _, f := range registry["functions"] {
			if f["internal"] == false {
				own = append(own, f["function_id"].(string)+" of "+f["worker_name"].(string))
			}
		}
		if diff := cmp.Diff([][]string{{"push"}, {"changed of shop", "greet of shop", "http::GET/hello/:name of shop"}}, [][]string{waiting, own}); diff != "" {
			t.Errorf("registry (-want +got):\n%s", diff)
		}
		function := consoleJSON[map[string]any](t, e, "/api/function?namespace=default&id=greet")
		if function["description"] != "Greets" || function["request_schema"] == nil {
			t.Errorf("function: %v", function)
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// The event stream includes an invocation that is still running. The stream ends when the
// engine is closed.
func TestConsoleEvents(t *testing.T) {
	e := iiitest.Start(t, iiitest.WithConsole("127.0.0.1:0"))
	c, err := iii.New(e.URL(), iii.WithName("slow"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	proceed := make(chan struct{})
	_, err = iii.Handle(c, "wait", func(context.Context, any) (any, error) { <-proceed; return "done", nil })
	if err := errors.Join(err, c.Connect(t.Context())); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req := must(http.NewRequestWithContext(ctx, "GET", e.ConsoleURL()+"api/events", nil))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	wait := func(part string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), part) {
				return
			}
		}
		t.Fatalf("no line has %s: %v", part, lines.Err())
	}
	wait("event: engine")
	called := make(chan error, 1)
	go func() { called <- c.Call(ctx, "wait", nil, nil, iii.Remotely()) }()
	wait(`"function":"wait","worker":"slow","caller":"slow"`)
	close(proceed)
	wait(`"status":"ok"`)
	if err := <-called; err != nil {
		t.Error(err)
	}
	if err := e.Close(); err != nil { // waits for the event stream
		t.Error(err)
	}
	for lines.Scan() {
	}
	if ctx.Err() != nil {
		t.Error("the stream did not end with the engine")
	}
}

func TestConsoleIsOnTheLoopbackInterface(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":0", "192.0.2.1:0", "example.com:80", "here"} {
		if _, err := iiitest.New(iiitest.WithConsole(addr)); err == nil || !strings.Contains(err.Error(), "WithConsole") {
			t.Errorf("%s: %v", addr, err)
		}
	}
	e := iiitest.Start(t, iiitest.WithConsole("127.0.0.1:0"), iiitest.WithConsole(""))
	if got := e.ConsoleURL(); got != "" {
		t.Errorf("without a console its address is %s", got)
	}
}

// BenchmarkConsole measures a call without a console, with a console, and with an open console
// page.
func BenchmarkConsole(b *testing.B) {
	for _, name := range []string{"without", "with", "watched"} {
		b.Run(name, func(b *testing.B) {
			console := "127.0.0.1:0"
			if name == "without" {
				console = ""
			}
			e := iiitest.Start(b, iiitest.WithConsole(console))
			if name == "watched" {
				resp, err := http.Get(e.ConsoleURL() + "api/events")
				if err != nil {
					b.Fatal(err)
				}
				read := make(chan struct{})
				go func() {
					defer close(read)
					_, _ = io.Copy(io.Discard, resp.Body)
				}()
				defer func() { resp.Body.Close(); <-read }()
			}
			c, err := iii.New(e.URL())
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			_, err = iii.Handle(c, "echo", func(_ context.Context, s string) (string, error) { return s, nil })
			if err := errors.Join(err, c.Connect(b.Context())); err != nil {
				b.Fatal(err)
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := c.Call(b.Context(), "echo", "hello", nil, iii.Remotely()); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func TestConsoleShowsTheStatusOfResponses(t *testing.T) {
	for _, protocol := range []iiitest.Protocol{iiitest.Protocol023, iiitest.Protocol026} {
		synctest.Test(t, func(t *testing.T) {
			e := iiitest.Start(t, iiitest.WithConsole("127.0.0.1:0"), iiitest.WithProtocol(protocol))
			c, err := iii.New(e.URL(), iii.WithDialContext(e.DialContext), iii.WithName("shop"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for path, status := range map[string]uint16{"/ok": 201, "/gone": 410, "/fails": 0} {
				_, err := iii.HandleHTTP(c, "GET", path, func(context.Context, *iii.HTTPRequest[any]) (*iii.HTTPResponse[string], error) {
					if status == 0 {
						return nil, errors.New("no stock")
					}
					return &iii.HTTPResponse[string]{StatusCode: status}, nil
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			client := &http.Client{Transport: &http.Transport{DialContext: e.DialContext, DisableKeepAlives: true}}
			want := map[string]float64{}
			for path, status := range map[string]float64{"/ok": 201, "/gone": 410, "/fails": 500} {
				resp, err := client.Get(strings.TrimSuffix(e.HTTPURL(), "/") + path)
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				if float64(resp.StatusCode) != status {
					t.Errorf("%v: %s answers %s", protocol, path, resp.Status)
				}
				want["http::GET"+path] = status
			}
			got := map[string]float64{}
			for _, i := range consoleJSON[[]map[string]any](t, e, "/api/invocations") {
				if status, ok := i["http_status"].(float64); ok {
					got[i["function"].(string)] = status
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%v (-want +got):\n%s", protocol, diff)
			}
		})
	}
}

func TestConsoleShowsTheStores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := iiitest.Start(t, iiitest.WithConsole("127.0.0.1:0"), iiitest.WithProtocol(iiitest.Protocol023),
			iiitest.WithQueue("mail", iiitest.QueueConfig{MaxRetries: 2, Concurrency: 1}))
		c, err := iii.New(e.URL(), iii.WithName("shop"), iii.WithDialContext(e.DialContext))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		proceed := make(chan struct{})
		defer close(proceed)
		_, err1 := iii.HandleEvent(c, "hang", func(context.Context, any) error { <-proceed; return nil })
		_, err2 := iii.HandleEvent(c, "fail", func(context.Context, any) error { return errors.New("no stock") })
		_, err3 := c.Trigger("fail", iii.QueueTriggerConfig{Topic: "sold"})
		_, err4 := iii.HandleEvent(c, "stream::get(held)", func(context.Context, any) error { return nil }, iii.WithBuiltinOverride())
		if err := errors.Join(err1, err2, err3, err4, c.Connect(t.Context())); err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		orders, lobby := iii.NewState[map[string]string](c, "orders"), iii.NewStream[string](c, "chat")
		_, err1 = orders.Set(ctx, "ada", map[string]string{"item": "tea", "card_token": "s3cret"})
		_, _, err2 = orders.Delete(ctx, "nobody")
		_, err3 = lobby.Set(ctx, "lobby", "1", "hello")
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Fatal(err)
		}
		defer subscribed(t, e, "chat", "lobby")()
		for _, function := range []string{"hang", "hang", "missing"} {
			if _, err := c.Enqueue(ctx, map[string]string{"hang": "mail", "missing": "default"}[function], function, map[string]string{"password": "s3cret"}); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(c.PublishDurable(ctx, "sold", "tea"), c.PublishDurable(ctx, "nowhere", "tea")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		time.Sleep(500 * time.Millisecond) // the first retry is not due yet

		show := func(path string, keys ...string) (lines []string) {
			t.Helper()
			body := consoleJSON[map[string]any](t, e, path)
			if text := string(must(json.Marshal(body))); strings.Contains(text, "s3cret") {
				t.Errorf("%s: a secret: %s", path, text)
			}
			for _, key := range keys {
				for _, v := range body[key].([]any) {
					members := v.(map[string]any)
					for _, random := range []string{"id", "failed_at", "clients"} {
						delete(members, random)
					}
					lines = append(lines, string(must(json.Marshal(members))))
				}
			}
			return lines
		}
		for _, test := range []struct {
			path string
			keys []string
			want []string
		}{
			{"/api/state", []string{"groups", "items"}, []string{
				`{"group":"orders","items":1,"subscribers":0}`,
				`{"group":"orders","key":"ada","preview":"{\"card_token\":\"[REDACTED]\",\"item\":\"tea\"}","size":36}`,
			}},
			{"/api/streams", []string{"groups", "items"}, []string{
				`{"group":"lobby","items":1,"stream":"chat","subscribers":1}`,
				`{"group":"","items":0,"provider":"shop","stream":"held","subscribers":0}`,
				`{"group":"lobby","key":"1","preview":"\"hello\"","size":7,"stream":"chat"}`,
			}},
			{"/api/queues", []string{"queues", "dead_letters"}, []string{
				`{"consumers":10,"dead_letters":0,"delayed":1,"depth":1,"in_flight":0,"name":"default"}`,
				`{"consumers":1,"dead_letters":0,"delayed":0,"depth":2,"in_flight":1,"name":"mail"}`,
				`{"consumers":0,"dead_letters":0,"delayed":0,"depth":0,"in_flight":0,"name":"nowhere","topic":true,"unheard":1}`,
				`{"consumers":1,"dead_letters":0,"delayed":1,"depth":1,"function":"fail","in_flight":0,"name":"sold","namespace":"default","topic":true}`,
			}},
		} {
			if diff := cmp.Diff(test.want, show(test.path, test.keys...)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", test.path, diff)
			}
		}
		time.Sleep(time.Minute)
		want := []string{
			`{"attempts":3,"error":"ErrorBody { code: \"invocation_failed\", message: \"no stock\", stacktrace: None }","function":"fail","namespace":"default","preview":"\"tea\"","queue":"sold","size":5}`,
			`{"attempts":3,"error":"function call failed","function":"missing","namespace":"default","preview":"{\"password\":\"[REDACTED]\"}","queue":"default","size":21}`,
		}
		got := show("/api/queues", "dead_letters")
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("dead letters (-want +got):\n%s", diff)
		}
		for _, d := range consoleJSON[map[string]any](t, e, "/api/queues")["dead_letters"].([]any) {
			d := d.(map[string]any)
			one := consoleJSON[map[string]any](t, e, "/api/dead-letters/"+d["id"].(string))
			if text := string(must(json.Marshal(one))); strings.Contains(text, "s3cret") || one["function"] != d["function"] || one["payload"] == nil {
				t.Errorf("a dead letter: %s", text)
			}
		}
		if item := consoleJSON[map[string]any](t, e, "/api/streams/item?stream=chat&group=lobby&key=1"); item["value"] != "hello" {
			t.Errorf("an item: %v", item)
		}
	})
}

// subscribed subscribes to a group and waits for the first message.
func subscribed(t *testing.T, e *iiitest.Engine, stream, group string) (leave func()) {
	t.Helper()
	next, leave := iter.Pull2(iii.SubscribeWith(t.Context(), iii.SubscribeOptions{URL: e.StreamURL(), DialContext: e.DialContext}, iii.StreamSubscription{StreamName: stream, GroupID: group}))
	if _, err, ok := next(); err != nil || !ok {
		t.Fatalf("no first message: %v", err)
	}
	return leave
}

func TestConsoleAnnouncesChangesOfStores(t *testing.T) {
	e := iiitest.Start(t, iiitest.WithConsole("127.0.0.1:0"))
	c, err := iii.New(e.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	resp, err := http.DefaultClient.Do(must(http.NewRequestWithContext(ctx, "GET", e.ConsoleURL()+"api/events", nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	wait := func(part string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), part) {
				return
			}
		}
		t.Fatalf("no line has %s: %v", part, lines.Err())
	}
	wait("event: engine")
	changed := func(store string) { // one event can announce several stores, and a store twice
		t.Helper()
		wait(`"` + store + `"`)
	}
	if _, err := iii.NewState[int](c, "stock").Set(ctx, "tea", 1); err != nil {
		t.Fatal(err)
	}
	changed("state")
	if _, err := iii.NewStream[int](c, "stock").Set(ctx, "g", "tea", 1); err != nil {
		t.Fatal(err)
	}
	changed("streams")
	leave := subscribed(t, e, "stock", "g")
	changed("streams")
	leave()
	changed("streams")
	if err := c.PublishDurable(ctx, "nowhere", 1); err != nil {
		t.Fatal(err)
	}
	changed("queues")
}
