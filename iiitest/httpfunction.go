package iiitest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/iii-go/iii"
)

type httpFunction struct {
	e       *Engine
	id      string
	url     *url.URL
	method  string
	timeout time.Duration
	headers map[string]string
	auth    iii.HTTPAuthVariant // nil for none
	secret  string              // value of the environment variable at registration
}

const (
	httpFunctionTimeout    = 30 * time.Second
	maxHTTPFunctionTimeout = 60 * time.Second
)

// newHTTPFunction validates an HTTP function and reads its secret. The text of an error is the
// engine's error code.
func (e *Engine) newHTTPFunction(id string, c *iii.HTTPInvocationConfig) (*httpFunction, error) {
	u, err := url.Parse(c.URL)
	if err != nil || !allowedURL(u) {
		return nil, errors.New("url_validation_failed")
	}
	f := &httpFunction{e: e, id: id, url: u, method: string(c.Method), timeout: httpFunctionTimeout, headers: c.Headers}
	if c.TimeoutMs != nil {
		f.timeout = time.Duration(min(*c.TimeoutMs, uint64(maxHTTPFunctionTimeout.Milliseconds()))) * time.Millisecond
	}
	if c.Auth == nil {
		return f, nil
	}
	f.auth = c.Auth.Auth
	var name, missing string
	switch auth := f.auth.(type) {
	case iii.HTTPAuthHMAC:
		name, missing = auth.SecretKey, "secret_not_found"
	case iii.HTTPAuthBearer:
		name, missing = auth.TokenKey, "token_not_found"
	case iii.HTTPAuthAPIKey:
		name, missing = auth.ValueKey, "api_key_not_found"
	}
	value, set := e.cfg.env(name)
	if !set {
		return nil, errors.New(missing)
	}
	f.secret = value
	return f, nil
}

// allowedURL implements the engine's URL policy. URLs must use https and must not name a
// private address. URLs with a loopback host are always allowed, even if calls do not support
// their scheme. A host name's addresses are checked when the engine dials them.
func allowedURL(u *url.URL) bool {
	host := u.Hostname()
	ip, err := netip.ParseAddr(host)
	if host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && ip.Unmap().IsLoopback() {
		return true
	}
	return u.Scheme == "https" && host != "" && (err != nil || !private(ip))
}

// documentation lists the address blocks reserved for documentation (RFC 5737 and RFC 3849).
var documentation = []netip.Prefix{
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("2001:db8::/32"),
}

// private reports whether the engine refuses to call an address.
func private(ip netip.Addr) bool {
	ip = ip.Unmap()
	return ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsUnspecified() || ip.IsMulticast() ||
		ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) ||
		slices.ContainsFunc(documentation, func(p netip.Prefix) bool { return p.Contains(ip) })
}

var errPrivate = errors.New("the address is private")

// newHTTPClient creates the client for functions invoked over HTTP. If dial is nil, the client
// uses the network and rejects private addresses.
func newHTTPClient(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *http.Client {
	if dial == nil {
		d := net.Dialer{Control: func(_, addr string, _ syscall.RawConn) error {
			if to, err := netip.ParseAddrPort(addr); err != nil || private(to.Addr()) {
				return errPrivate
			}
			return nil
		}}
		dial = d.DialContext
	}
	return &http.Client{
		Transport:     &http.Transport{DialContext: dial, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (f *httpFunction) serve(ctx context.Context, c *call) (json.RawMessage, *wireError) {
	if f.url.Scheme != "http" && f.url.Scheme != "https" {
		return nil, errorBody("http_request_failed", "builder error for url (%s): URL scheme is not allowed", f.place())
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	response, err := f.send(ctx, c.data)
	if errors.Is(err, errPrivate) {
		return nil, errorBody("url_validation_failed", "URL not allowed: %v", errPrivate)
	}
	if err != nil {
		return nil, errorBody("http_request_failed", "error sending request for url (%s): %s", f.place(), httpReason(ctx, err))
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxMessage+1))
	if err == nil && len(body) > maxMessage {
		err = errors.New("response too large")
	}
	if err != nil {
		return nil, errorBody("http_response_failed", "error reading response of url (%s): %s", f.place(), httpReason(ctx, err))
	}
	return httpOutcome(response.StatusCode, body)
}

// place returns the URL without the parts that may contain secrets.
func (f *httpFunction) place() string {
	u := *f.url
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

// httpReason describes why a request failed, without naming its URL.
func httpReason(ctx context.Context, err error) string {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return "operation timed out"
	}
	if e := new(url.Error); errors.As(err, &e) {
		err = e.Err
	}
	if e := new(net.OpError); errors.As(err, &e) && e.Op == "dial" {
		return "client error (Connect): tcp connect error: " + e.Err.Error()
	}
	return err.Error()
}

// send sends a call's HTTP request. If a configured header has the same name as one of the
// engine's headers, both are sent.
func (f *httpFunction) send(ctx context.Context, body json.RawMessage) (*http.Response, error) {
	if body == nil {
		body = json.RawMessage("null")
	}
	request, err := http.NewRequestWithContext(ctx, f.method, f.url.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	timestamp := strconv.FormatInt(time.Now().Unix(), 10)
	h := request.Header
	h.Set("User-Agent", "") // omit the header
	h.Set("Accept", "*/*")
	h.Set("Content-Type", "application/json")
	h.Set("x-iii-Function-Path", f.id)
	h.Set("x-iii-Invocation-ID", uuid.NewString())
	h.Set("x-iii-Timestamp", timestamp)
	for name, value := range f.headers {
		if strings.EqualFold(name, "Host") {
			request.Host = value
		}
		h.Add(name, value)
	}
	switch auth := f.auth.(type) {
	case iii.HTTPAuthBearer:
		h.Add("Authorization", "Bearer "+f.secret)
	case iii.HTTPAuthAPIKey:
		h.Add(auth.Header, f.secret)
	case iii.HTTPAuthHMAC:
		h.Add("x-iii-Signature", "sha256="+signature(f.secret, timestamp, body))
	}
	return f.e.httpClient.Do(request)
}

// signature signs "<timestamp>:<base64 of the body>" with HMAC-SHA256.
func signature(secret, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = io.WriteString(mac, timestamp+":"+base64.StdEncoding.EncodeToString(body)) // never fails
	return hex.EncodeToString(mac.Sum(nil))
}

// httpOutcome converts an HTTP response into a call's result.
func httpOutcome(status int, body []byte) (json.RawMessage, *wireError) {
	malformed := checkJSON(body)
	switch {
	case status >= 400:
		return nil, httpFailure(status, body, malformed == nil)
	case malformed == nil:
		return canonicalValid(body), nil
	case status >= 200 && status < 300 && len(body) > 0:
		return nil, errorBody("invalid_response", "%v", malformed)
	}
	return nil, nil
}

func httpFailure(status int, body []byte, isJSON bool) *wireError {
	if isJSON && kindOf(body) == '{' {
		if e := (&scanner{b: body}).members()["error"]; kindOf(e) == '{' {
			failure := errorBody("http_error", "HTTP request failed")
			members := (&scanner{b: e}).members()
			rewrite(&failure.Code, members["code"])
			rewrite(&failure.Message, members["message"])
			return failure
		}
	}
	return errorBody("http_error", "HTTP %s", fmt.Sprint(status, " ", cmp.Or(http.StatusText(status), "<unknown status code>")))
}
