// Package jsoncodec decodes JSON that is known to be valid. The results are those of
// encoding/json, which checks the whole text before it decodes anything. With Go releases that
// make it possible, this package omits that check.
package jsoncodec
