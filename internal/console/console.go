// Package console serves a read-only web page that shows a development engine's activity: its
// workers, functions, triggers, observers, live invocations, traces, logs and metrics, and the
// contents of its state, streams and queues.
//
// The page is a single document without external resources. It reads its data from a small
// JSON API and receives changes as an event stream. The values of secret keys are redacted;
// see [iii.Redact]. Other sites' pages cannot read the API, even if they use a host name that
// resolves to the console's address.
package console

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// CheckAddr returns an error unless addr, in the form host:port, is on the loopback interface.
func CheckAddr(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	if !loopback(host) {
		return fmt.Errorf("%s is not on the loopback interface", addr)
	}
	return nil
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

func isIP(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

type console struct {
	source   Source
	recorder *Recorder
	ended    context.Context
	viewers  chan struct{} // one slot per event stream
}

// maxViewers is the maximum number of concurrent event streams.
const maxViewers = 16

// New returns a console's handler. Its event streams end when ctx is done. If the console
// listens beyond the loopback interface, exposed is the host in its address; otherwise,
// exposed is empty.
func New(ctx context.Context, s Source, r *Recorder, exposed string) http.Handler {
	c := &console{source: s, recorder: r, ended: ctx, viewers: make(chan struct{}, maxViewers)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", servePage)
	mux.HandleFunc("GET /api/engine", c.serveEngine)
	mux.HandleFunc("GET /api/registry", c.serveRegistry)
	mux.HandleFunc("GET /api/function", c.serveFunction)
	mux.HandleFunc("GET /api/invocations", c.serveInvocations)
	mux.HandleFunc("GET /api/invocations/{seq}", c.serveInvocation)
	mux.HandleFunc("GET /api/activity", c.serveActivity)
	mux.HandleFunc("GET /api/traces", c.serveTraces)
	mux.HandleFunc("GET /api/traces/{id}", c.serveTrace)
	mux.HandleFunc("GET /api/logs", c.serveLogs)
	mux.HandleFunc("GET /api/metrics", c.serveMetrics)
	mux.HandleFunc("GET /api/state", func(w http.ResponseWriter, r *http.Request) { c.serveStore(w, r, State) })
	mux.HandleFunc("GET /api/state/item", func(w http.ResponseWriter, r *http.Request) { c.serveItem(w, r, State) })
	mux.HandleFunc("GET /api/streams", func(w http.ResponseWriter, r *http.Request) { c.serveStore(w, r, Streams) })
	mux.HandleFunc("GET /api/streams/item", func(w http.ResponseWriter, r *http.Request) { c.serveItem(w, r, Streams) })
	mux.HandleFunc("GET /api/queues", c.serveQueues)
	mux.HandleFunc("GET /api/dead-letters/{id}", c.serveDeadLetter)
	mux.HandleFunc("GET /api/events", c.serveEvents)
	return guarded(mux, exposed)
}

// guarded rejects requests from other sites. The Host header reveals a foreign host name that
// resolves to a loopback address. Origin and Sec-Fetch-Site reveal requests that a browser
// sends on behalf of another page. A console that listens beyond the loopback interface also
// accepts IP addresses and its own host name, because another site's host name is neither.
func guarded(h http.Handler, exposed string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("X-Frame-Options", "DENY")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		header.Set("Cache-Control", "no-store")
		if err := foreign(r, exposed); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

var errForeignSite = errors.New("iii console: requests from other sites are rejected")

func foreign(r *http.Request, exposed string) error {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if host = strings.Trim(host, "[]"); !loopback(host) && (exposed == "" || !isIP(host) && !strings.EqualFold(host, exposed)) {
		return fmt.Errorf("iii console: host %q is not a name of the loopback interface", r.Host)
	}
	if origin := r.Header.Get("Origin"); origin != "" && origin != "http://"+r.Host {
		return errForeignSite
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return nil
	}
	if r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.URL.Path == "/" { // following a link to the page
		return nil
	}
	return errForeignSite
}
