// Chat demonstrates streams with a web chat. Each message is an item of a stream, and the
// engine immediately delivers it to all subscribers through its stream socket. The worker
// serves only the web page and the route for new messages.
//
// Without arguments, the program simulates a conversation between two people and exits with
// status 0 if the result is as expected. With -serve, it serves until it is interrupted; open
// the printed URL in two browser windows.
//
// If $III_URL is set, the program uses the engine at that address, with HTTP triggers at
// $III_HTTP_URL (default http://127.0.0.1:3111) and the stream socket at $III_STREAM_URL
// (default ws://127.0.0.1:3112). Otherwise it starts a development engine.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

func main() {
	serve := flag.Bool("serve", false, "serve until interrupted")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal terminates the program immediately
	err := run(ctx, os.Stdout, *serve)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "chat:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, serve bool) (err error) {
	url := os.Getenv("III_URL")
	httpURL := cmp.Or(os.Getenv("III_HTTP_URL"), "http://127.0.0.1:3111")
	streamURL := cmp.Or(os.Getenv("III_STREAM_URL"), iii.DefaultStreamURL)
	if url == "" {
		engine, err := iiitest.New()
		if err != nil {
			return err
		}
		defer engine.Close()
		url, httpURL, streamURL = engine.URL(), engine.HTTPURL(), engine.StreamURL()
	}
	// Each run uses unique names, so several runs can share an engine.
	name := "chat-" + strings.ToLower(rand.Text()[:6])

	client, err := iii.New(url, iii.WithName(name))
	if err != nil {
		return err
	}
	// After an interrupt, running handlers still finish and send their responses.
	defer func() { err = errors.Join(err, shutdown(ctx, client)) }()
	if err := newChat(client, name, streamURL).register(); err != nil {
		return err
	}
	if err := client.Connect(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "open  %s/%s\n", httpURL, name)
	if serve {
		<-ctx.Done()
		return nil
	}
	return visit{name: name, page: httpURL + "/" + name, streamURL: streamURL, out: out}.run(ctx)
}

// shutdown shuts down a worker gracefully, even after an interrupt has canceled ctx.
func shutdown(ctx context.Context, c *iii.Client) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return c.Shutdown(ctx)
}
