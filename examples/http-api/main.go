// Http-api serves ordinary net/http handlers as routes on the engine's HTTP server. It
// demonstrates JSON, cookies, file downloads and server-sent events.
//
// Without arguments, the program requests each of its routes, prints the responses, and exits
// with status 0 if they are as expected. With -serve, it serves until it is interrupted and
// prints commands to try.
//
// If $III_URL is set, the program uses the engine at that address, with HTTP triggers at
// $III_HTTP_URL (default http://127.0.0.1:3111). Otherwise it starts a development engine.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
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
		fmt.Fprintln(os.Stderr, "http-api:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, serve bool) (err error) {
	url, httpURL := os.Getenv("III_URL"), cmp.Or(os.Getenv("III_HTTP_URL"), "http://127.0.0.1:3111")
	if url == "" {
		engine, err := iiitest.New()
		if err != nil {
			return err
		}
		defer engine.Close()
		url, httpURL = engine.URL(), engine.HTTPURL()
	}
	// Each run uses a unique path, so several runs can share an engine.
	name := "notes-" + strings.ToLower(rand.Text()[:6])
	base := httpURL + "/" + name

	client, err := iii.New(url, iii.WithName(name), iii.WithLogger(slog.Default()))
	if err != nil {
		return err
	}
	// After an interrupt, running handlers still finish and send their responses.
	defer func() { err = errors.Join(err, shutdown(ctx, client)) }()
	if err := mount(client, "/"+name, newNotes()); err != nil {
		return err
	}
	if err := client.Connect(ctx); err != nil {
		return err
	}
	if serve {
		fmt.Fprintf(out, manual, base)
		<-ctx.Done()
		return nil
	}
	return newVisitor(base, out).run(ctx)
}

// mount registers the routes. A path segment such as ":id" is a parameter, which the handler
// reads with r.PathValue, as with an http.ServeMux.
func mount(client *iii.Client, prefix string, n *notes) error {
	for _, route := range []struct {
		method, path string
		handler      http.HandlerFunc
	}{
		{http.MethodPost, "/login", n.login},
		{http.MethodPost, "/notes", n.add},
		{http.MethodGet, "/notes", n.list},
		{http.MethodGet, "/notes/:id", n.get},
		{http.MethodGet, "/notes.csv", n.download},
		{http.MethodGet, "/events", n.events},
	} {
		_, err := client.MountHTTP(route.method, prefix+route.path, noCache(route.handler))
		if err != nil {
			return err
		}
	}
	return nil
}

// noCache is ordinary net/http middleware.
func noCache(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-cache")
		next.ServeHTTP(w, r)
	})
}

// shutdown shuts down a worker gracefully, even after an interrupt has canceled ctx.
func shutdown(ctx context.Context, c *iii.Client) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return c.Shutdown(ctx)
}

const manual = `The notes are at %[1]s. Try:
  curl -c /tmp/notes.jar -d user=ada %[1]s/login
  curl -b /tmp/notes.jar -H 'Content-Type: application/json' -d '{"text":"Buy tea"}' %[1]s/notes
  curl %[1]s/notes
  curl -OJ %[1]s/notes.csv
  curl -N %[1]s/events
`
