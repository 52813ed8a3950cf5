// Chat shows streams: messages are items of a stream of the engine, and whoever has joined
// it, over the engine's stream socket, has each one at once. Nothing but the page that
// joins is served by this worker, and what is posted from it.
//
// Without arguments two people chat by themselves, and the program exits with status 0 if
// all went as it should. With -serve it serves until it is interrupted: open the page that
// it prints, in two windows.
//
// Without $III_URL it brings a development engine along; with it, it uses that engine, whose
// HTTP triggers are at $III_HTTP_URL, http://127.0.0.1:3111 by default, and whose stream
// socket is at $III_STREAM_URL, ws://127.0.0.1:3112 by default.
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
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
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
	// Each run has names of its own, so that many can share an engine.
	name := "chat-" + strings.ToLower(rand.Text()[:6])

	client, err := iii.New(url, iii.WithName(name))
	if err != nil {
		return err
	}
	// An interrupt ends ctx, and what is being served then is still answered.
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

// shutdown ends a worker in order, even when the program is being interrupted.
func shutdown(ctx context.Context, c *iii.Client) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return c.Shutdown(ctx)
}
