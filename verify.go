package iii

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// ErrSignature matches every error of [VerifySignature].
var ErrSignature = errors.New("iii: request is not signed by the engine")

// The headers of the engine's requests to an HTTP-invoked function with
// [HTTPAuthHMAC].
const (
	signatureHeader = "X-Iii-Signature"
	timestampHeader = "X-Iii-Timestamp"
	signatureScheme = "sha256="
)

// VerifySignature checks that a request to an HTTP-invoked function comes from
// the engine. The request must be signed with secret, the value of the variable
// that [HTTPAuthHMAC] names, and the time of the signature must be at most window
// in the past or in the future. body is the whole body, already read from r.Body.
// The signature covers the body and the time, but not the method, the URL or
// other headers; within window, an eavesdropper can replay a request. The
// comparison takes constant time.
//
// Every error matches [ErrSignature] and states the reason without revealing the
// secret. An empty secret or a window that is not positive is an error, because
// it would not protect.
func VerifySignature(r *http.Request, body []byte, secret string, window time.Duration) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrSignature, fmt.Sprintf(format, args...))
	}
	switch {
	case secret == "":
		return fail("the secret is empty")
	case window <= 0:
		return fail("the window of %v is not positive", window)
	}
	signature, err := soleHeader(r, signatureHeader)
	if err != nil {
		return fail("%v", err)
	}
	timestamp, err := soleHeader(r, timestampHeader)
	if err != nil {
		return fail("%v", err)
	}
	digits, ok := strings.CutPrefix(signature, signatureScheme)
	got, err := hex.DecodeString(digits)
	if !ok || err != nil {
		return fail("%s does not have the form sha256=<hex>", signatureHeader)
	}
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil {
		return fail("%s is not a Unix time in seconds", timestampHeader)
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(timestamp + ":" + base64.StdEncoding.EncodeToString(body)))
	if !hmac.Equal(got, mac.Sum(nil)) {
		return fail("%s does not match the body and %s", signatureHeader, timestampHeader)
	}
	if age := time.Since(time.Unix(seconds, 0)).Abs(); age > window {
		return fail("%s is %v away from now, more than %v", timestampHeader, age.Round(time.Second), window)
	}
	return nil
}

// soleHeader returns a header that must occur exactly once.
func soleHeader(r *http.Request, name string) (string, error) {
	switch values := r.Header.Values(name); len(values) {
	case 0:
		return "", fmt.Errorf("%s is missing", name)
	case 1:
		return values[0], nil
	default:
		return "", fmt.Errorf("%s occurs %d times", name, len(values))
	}
}
