package iii_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/iii-go/iii"
)

const hmacSecret = "s3cret" // of the recording

// recordedRequests are the requests that the engine was recorded to make.
func recordedRequests(t *testing.T) (requests []*http.Request, bodies [][]byte) {
	t.Helper()
	for _, e := range readRecording(t, "http-functions") {
		if e.Received == nil {
			continue
		}
		var in struct {
			Method, Path, Body string
			Headers            map[string]string
		}
		if err := json.Unmarshal(e.Received, &in); err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(in.Method, in.Path, strings.NewReader(in.Body))
		for name, value := range in.Headers {
			r.Header.Set(name, value)
		}
		requests, bodies = append(requests, r), append(bodies, []byte(in.Body))
	}
	return requests, bodies
}

// at runs a test in a bubble whose clock is near a moment.
func at(t *testing.T, moment time.Time, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(moment))
		test(t)
	})
}

func TestVerifySignatureAsRecorded(t *testing.T) {
	requests, bodies := recordedRequests(t)
	signed := 0
	for i, r := range requests {
		stamp, err := strconv.ParseInt(r.Header.Get("x-iii-timestamp"), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sent := time.Unix(stamp, 0)
		body := bodies[i]
		if r.URL.Path != "/hmac" {
			at(t, sent, func(t *testing.T) {
				if err := iii.VerifySignature(r, body, hmacSecret, time.Minute); !errors.Is(err, iii.ErrSignature) || !strings.Contains(err.Error(), "X-Iii-Signature is missing") {
					t.Errorf("%s: %v", r.URL.Path, err)
				}
			})
			continue
		}
		signed++
		for _, tt := range []struct {
			now  time.Duration // after it was sent
			want string
		}{
			{0, ""}, {time.Minute, ""}, {-time.Minute, ""},
			{61 * time.Second, "X-Iii-Timestamp is 1m1s away from now, more than 1m0s"}, {-61 * time.Second, "1m1s away"}, {24 * time.Hour, "24h0m0s away"},
		} {
			at(t, sent.Add(tt.now), func(t *testing.T) {
				err := iii.VerifySignature(r, body, hmacSecret, time.Minute)
				if (err == nil) != (tt.want == "") || err != nil && (!errors.Is(err, iii.ErrSignature) || !strings.Contains(err.Error(), tt.want)) {
					t.Errorf("%v after: %v", tt.now, err)
				}
			})
		}
	}
	if signed != 1 || len(requests) < 10 {
		t.Errorf("%d of %d requests are signed", signed, len(requests))
	}
}

// sign is what the engine does.
func sign(body []byte, stamp, secret string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "%s:%s", stamp, base64.StdEncoding.EncodeToString(body))
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

func TestVerifySignatureRefuses(t *testing.T) {
	body := []byte(`{"n":1}`)
	now := strconv.FormatInt(time.Now().Unix(), 10)
	good := http.Header{"X-Iii-Signature": {sign(body, now, hmacSecret)}, "X-Iii-Timestamp": {now}}
	tests := map[string]struct {
		change func(h http.Header)
		body   string
		secret string
		window time.Duration
		want   string // "": none
	}{
		"good":       {},
		"empty body": {change: func(h http.Header) { h.Set("X-Iii-Signature", sign(nil, now, hmacSecret)) }, body: "-"},
		"other case": {change: func(h http.Header) {
			h.Set("x-iii-signature", "sha256="+strings.ToUpper(sign(body, now, hmacSecret)[7:]))
		}},
		"other body":       {body: `{"n":2}`, want: "does not match the body"},
		"other secret":     {secret: "another", want: "does not match the body"},
		"other time":       {change: func(h http.Header) { h.Set("X-Iii-Timestamp", now+"0") }, want: "does not match the body"},
		"empty secret":     {secret: "-", want: "the secret is empty"},
		"no window":        {window: -1, want: "is not positive"},
		"no signature":     {change: func(h http.Header) { h.Del("X-Iii-Signature") }, want: "X-Iii-Signature is missing"},
		"two signatures":   {change: func(h http.Header) { h.Add("X-Iii-Signature", "sha256=00") }, want: "X-Iii-Signature occurs 2 times"},
		"no time":          {change: func(h http.Header) { h.Del("X-Iii-Timestamp") }, want: "X-Iii-Timestamp is missing"},
		"two times":        {change: func(h http.Header) { h.Add("X-Iii-Timestamp", now) }, want: "X-Iii-Timestamp occurs 2 times"},
		"time is no time":  {change: func(h http.Header) { h.Set("X-Iii-Timestamp", "yesterday") }, want: "not a Unix time"},
		"time is too long": {change: func(h http.Header) { h.Set("X-Iii-Timestamp", "99999999999999999999") }, want: "not a Unix time"},
		"far future": {change: func(h http.Header) {
			h.Set("X-Iii-Timestamp", "9223372036854775807")
			h.Set("X-Iii-Signature", sign(body, "9223372036854775807", hmacSecret))
		}, want: "away from now"},
		"far past": {change: func(h http.Header) {
			h.Set("X-Iii-Timestamp", "-9223372036854775808")
			h.Set("X-Iii-Signature", sign(body, "-9223372036854775808", hmacSecret))
		}, want: "away from now"},
		"other scheme": {change: func(h http.Header) { h.Set("X-Iii-Signature", "md5=00") }, want: "sha256=<hex>"},
		"no hex":       {change: func(h http.Header) { h.Set("X-Iii-Signature", "sha256=zz") }, want: "sha256=<hex>"},
		"short":        {change: func(h http.Header) { h.Set("X-Iii-Signature", "sha256=00") }, want: "does not match the body"},
		"empty":        {change: func(h http.Header) { h.Set("X-Iii-Signature", "sha256=") }, want: "does not match the body"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest("POST", "/", bytes.NewReader(body))
			r.Header = good.Clone()
			if tt.change != nil {
				tt.change(r.Header)
			}
			payload, secret, window := body, hmacSecret, time.Minute
			switch tt.body {
			case "":
			case "-":
				payload = nil
			default:
				payload = []byte(tt.body)
			}
			switch tt.secret {
			case "":
			case "-":
				secret = ""
			default:
				secret = tt.secret
			}
			if tt.window != 0 {
				window = 0
			}
			err := iii.VerifySignature(r, payload, secret, window)
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (!errors.Is(err, iii.ErrSignature) || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error %v", err)
			case err != nil && (strings.Contains(err.Error(), secret) && secret != "" || strings.Contains(err.Error(), r.Header.Get("X-Iii-Signature")) && r.Header.Get("X-Iii-Signature") != ""):
				t.Errorf("the error tells the secret or the signature: %v", err)
			}
		})
	}
}
