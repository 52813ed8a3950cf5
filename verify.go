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

// ErrSignature is what every error of [VerifySignature] is.
var ErrSignature = errors.New("iii: request is not signed by the engine")

// The headers of a request that the engine makes to an HTTP-invoked function with
// [HTTPAuthHMAC].
const (
	signatureHeader = "X-Iii-Signature"
	timestampHeader = "X-Iii-Timestamp"
	signatureScheme = "sha256="
)

// VerifySignature checks that the engine has made a request to an HTTP-invoked
// function: that it is signed with secret, the value of the variable that
// [HTTPAuthHMAC] names, and that it was signed no longer than window ago, nor
// further ahead. body is the whole body, read from r.Body already. The signature
// covers the body and the time, neither method nor URL nor other headers; within
// window a request can be repeated by who has seen it. Comparison takes constant
// time.
//
// Every error is an [ErrSignature] and says what is wrong, without the secret. An
// empty secret and a window that is not positive are refused: neither protects.
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
		return fail("%s is no Unix time in seconds", timestampHeader)
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

// soleHeader returns a header that must be there once.
func soleHeader(r *http.Request, name string) (string, error) {
	switch values := r.Header.Values(name); len(values) {
	case 0:
		return "", fmt.Errorf("%s is missing", name)
	case 1:
		return values[0], nil
	default:
		return "", fmt.Errorf("%s is there %d times", name, len(values))
	}
}
