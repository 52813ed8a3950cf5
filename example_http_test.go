package iii_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"strings"
	"time"

	"github.com/iii-go/iii"
)

// A typed handler serves a route on the engine's HTTP server.
func ExampleHandleHTTP() {
	engine, client, stop := withEngine()
	defer stop()

	type Order struct {
		Item string `json:"item"`
	}
	type Receipt struct {
		Customer string `json:"customer"`
		Cents    int    `json:"cents"`
	}
	_, err := iii.HandleHTTP(client, "POST", "/orders/:customer",
		func(ctx context.Context, r *iii.HTTPRequest[Order]) (*iii.HTTPResponse[Receipt], error) {
			if r.Body.Item != "tea" {
				return &iii.HTTPResponse[Receipt]{StatusCode: http.StatusNotFound}, nil
			}
			return &iii.HTTPResponse[Receipt]{
				StatusCode: http.StatusCreated,
				Headers:    map[string]string{"location": "/orders/ada/1"},
				Body:       Receipt{Customer: r.PathParams["customer"], Cents: 350},
			}, nil
		})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(context.Background()); err != nil {
		log.Fatal(err)
	}

	resp, err := http.Post(engine.HTTPURL()+"/orders/ada", "application/json", strings.NewReader(`{"item":"tea"}`))
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(resp.StatusCode, resp.Header.Get("Location"), string(body), err)
	// Output: 201 /orders/ada/1 {"cents":350,"customer":"ada"} <nil>
}

// If the handler returns an error, the response has status 500 and the error's code. If it
// returns a nil response, the status is 204.
func ExampleHandleHTTP_errors() {
	engine, client, stop := withEngine()
	defer stop()

	_, err := iii.HandleHTTP(client, "DELETE", "/orders/:id",
		func(ctx context.Context, r *iii.HTTPRequest[any]) (*iii.HTTPResponse[any], error) {
			if r.PathParams["id"] == "7" {
				return nil, &iii.Error{Code: "locked", Message: "order 7 is being packed"}
			}
			return nil, nil
		})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(context.Background()); err != nil {
		log.Fatal(err)
	}

	for _, id := range []string{"6", "7"} {
		r, err := http.NewRequest("DELETE", engine.HTTPURL()+"/orders/"+id, nil)
		if err != nil {
			log.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			log.Fatal(err)
		}
		var failure struct {
			Error struct{ Code, Message string }
		}
		if resp.StatusCode >= 400 {
			err = json.NewDecoder(resp.Body).Decode(&failure)
		}
		_ = resp.Body.Close()
		fmt.Println(resp.StatusCode, failure.Error.Code, failure.Error.Message, err)
	}
	// Output:
	// 204   <nil>
	// 500 locked order 7 is being packed <nil>
}

// MountHTTP serves a route with a net/http handler. Flush sends buffered data immediately.
func ExampleClient_MountHTTP() {
	engine, client, stop := withEngine()
	defer stop()

	_, err := client.MountHTTP("GET", "/countdown/:from", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, n := range []string{r.PathValue("from"), "lift-off"} {
			fmt.Fprintf(w, "data: %s\n\n", n)
			if err := http.NewResponseController(w).Flush(); err != nil {
				return // client disconnected
			}
		}
	}))
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(context.Background()); err != nil {
		log.Fatal(err)
	}

	resp, err := http.Get(engine.HTTPURL() + "/countdown/3")
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Print(resp.Header.Get("Content-Type"), " ", err, "\n", string(body))
	// Output:
	// text/event-stream <nil>
	// data: 3
	//
	// data: lift-off
}

// With a heartbeat, a stream of server-sent events ends soon after the client disconnects,
// even if there are no events to send.
func ExampleWithStreamHeartbeat() {
	engine, client, stop := withEngine(iii.WithStreamHeartbeat(10 * time.Millisecond))
	defer stop()

	events, left := make(chan string), make(chan struct{})
	_, err := client.MountHTTP("GET", "/events", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(left)
		w.Header().Set("Content-Type", "text/event-stream")
		for {
			if err := http.NewResponseController(w).Flush(); err != nil {
				return
			}
			select {
			case event := <-events:
				fmt.Fprintf(w, "data: %s\n\n", event)
			case <-r.Context().Done(): // client disconnected
				return
			case <-iii.Stopping(r.Context()): // worker is shutting down
				return
			}
		}
	}))
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(context.Background()); err != nil {
		log.Fatal(err)
	}

	resp, err := http.Get(engine.HTTPURL() + "/events")
	if err != nil {
		log.Fatal(err)
	}
	_ = resp.Body.Close()
	<-left
	fmt.Println("the handler has returned")
	// Output: the handler has returned
}

// An ordinary function can serve a route if it has an HTTP trigger. A middleware function
// decides which requests reach the function.
func ExampleHTTPTriggerConfig() {
	engine, client, stop := withEngine()
	defer stop()

	_, err := iii.Handle(client, "files::count", func(ctx context.Context, r iii.HTTPRequest[any]) (iii.HTTPResponse[int], error) {
		return iii.HTTPResponse[int]{StatusCode: http.StatusOK, Body: len(r.PathParams["name"])}, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = iii.Handle(client, "files::gate", func(ctx context.Context, in iii.HTTPMiddlewareInput) (iii.HTTPMiddlewareResult, error) {
		if in.Request.Headers["authorization"] == "Bearer t0ken" {
			return iii.HTTPMiddlewareResult{Action: iii.HTTPMiddlewareActionContinue}, nil
		}
		return iii.HTTPMiddlewareResult{
			Action:   iii.HTTPMiddlewareActionRespond,
			Response: &iii.HTTPMiddlewareResponse{StatusCode: http.StatusUnauthorized, Body: json.RawMessage(`"who are you?"`)},
		}, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = client.Trigger("files::count", iii.HTTPTriggerConfig{
		APIPath:               "/files/:name/count",
		HTTPMethod:            "GET",
		MiddlewareFunctionIDs: []string{"files::gate"},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(context.Background()); err != nil {
		log.Fatal(err)
	}

	for _, header := range []http.Header{{}, {"Authorization": {"Bearer t0ken"}}} {
		r, err := http.NewRequest("GET", engine.HTTPURL()+"/files/tea.txt/count", nil)
		if err != nil {
			log.Fatal(err)
		}
		r.Header = header
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			log.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		fmt.Println(resp.StatusCode, string(body), err)
	}
	// Output:
	// 401 "who are you?" <nil>
	// 200 7 <nil>
}

// An HTTPError determines the response, and WithHTTPErrors maps other errors to HTTPErrors.
// All remaining errors become a 500 without details.
func ExampleWithHTTPErrors() {
	errNoOrder := errors.New("there is no such order")
	engine, client, stop := withEngine(iii.WithHTTPErrors(func(ctx context.Context, err error) *iii.HTTPError {
		if errors.Is(err, errNoOrder) {
			return &iii.HTTPError{Status: http.StatusNotFound}
		}
		return nil
	}))
	defer stop()

	type Order struct {
		Version int `json:"version"`
	}
	_, err := iii.HandleHTTP(client, "GET", "/orders/:id",
		func(ctx context.Context, r *iii.HTTPRequest[any]) (*iii.HTTPResponse[Order], error) {
			switch r.PathParams["id"] {
			case "1":
				return nil, fmt.Errorf("order 1: %w", errNoOrder)
			case "2":
				return nil, &iii.HTTPError{Status: http.StatusConflict, Body: Order{Version: 3}}
			}
			return nil, errors.New("database: password authentication failed for user shop")
		})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(context.Background()); err != nil {
		log.Fatal(err)
	}
	for _, id := range []string{"1", "2", "3"} {
		resp, err := http.Get(engine.HTTPURL() + "/orders/" + id)
		if err != nil {
			log.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusInternalServerError {
			body, _, _ = bytes.Cut(body, []byte(`,"error_id"`)) // added by the engine
		}
		fmt.Println(resp.StatusCode, string(body), err)
	}
	// Output:
	// 404 {"error":{"code":"NOT_FOUND","message":"Not Found"}} <nil>
	// 409 {"version":3} <nil>
	// 500 {"error":{"code":"invocation_failed" <nil>
}

// MountRouter serves all routes below a path with one handler.
func ExampleClient_MountRouter() {
	engine, client, stop := withEngine()
	defer stop()

	mux := http.NewServeMux()
	mux.HandleFunc("GET /shop/items/{id}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "item", r.PathValue("id"))
	})
	mux.HandleFunc("GET /shop/files/{path...}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "file", r.PathValue("path"))
	})
	router, err := client.MountRouter("/shop", mux, iii.RouterOptions{Methods: []string{"GET"}, Depth: 4})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(context.Background()); err != nil {
		log.Fatal(err)
	}
	fmt.Println(router.Err())
	for _, path := range []string{"/shop/items/7", "/shop/files/a/b.txt", "/shop/files/a/b/c/too/deep"} {
		resp, err := http.Get(engine.HTTPURL() + path)
		if err != nil {
			log.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != 200 {
			body = nil // the engine's own response
		}
		fmt.Printf("%d %q\n", resp.StatusCode, body)
	}
	fmt.Println(router.Unregister())
	// Output:
	// <nil>
	// 200 "item 7\n"
	// 200 "file a/b.txt\n"
	// 404 ""
	// <nil>
}

// Before the engine runs a route's function, it calls the route's condition and middleware
// functions.
func ExampleWithTriggerOptions() {
	engine, client, stop := withEngine()
	defer stop()

	_, err := iii.Handle(client, "shop::is-open", func(ctx context.Context, r iii.HTTPRequest[any]) (bool, error) {
		return r.QueryParams["day"] != "sunday", nil
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = iii.Handle(client, "shop::gate", func(ctx context.Context, in iii.HTTPMiddlewareInput) (iii.HTTPMiddlewareResult, error) {
		if in.Request.Headers["authorization"] != "" {
			return iii.HTTPMiddlewareResult{Action: iii.HTTPMiddlewareActionContinue}, nil
		}
		return iii.HTTPMiddlewareResult{
			Action:   iii.HTTPMiddlewareActionRespond,
			Response: &iii.HTTPMiddlewareResponse{StatusCode: http.StatusUnauthorized},
		}, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = iii.HandleHTTP(client, "GET", "/shop",
		func(ctx context.Context, r *iii.HTTPRequest[any]) (*iii.HTTPResponse[string], error) {
			return &iii.HTTPResponse[string]{StatusCode: http.StatusOK, Body: "welcome"}, nil
		},
		iii.WithTriggerOptions(iii.WithTriggerCondition("shop::is-open"), iii.WithTriggerMiddleware("shop::gate")))
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(context.Background()); err != nil {
		log.Fatal(err)
	}
	for _, visit := range []struct{ query, authorization string }{
		{"?day=monday", "Bearer ada"}, {"?day=sunday", "Bearer ada"}, {"?day=monday", ""},
	} {
		r, err := http.NewRequest("GET", engine.HTTPURL()+"/shop"+visit.query, nil)
		if err != nil {
			log.Fatal(err)
		}
		if visit.authorization != "" {
			r.Header.Set("Authorization", visit.authorization)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			log.Fatal(err)
		}
		_ = resp.Body.Close()
		fmt.Println(visit.query, resp.StatusCode)
	}
	// Output:
	// ?day=monday 200
	// ?day=sunday 422
	// ?day=monday 401
}
