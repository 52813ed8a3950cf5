// Package jsoncodec decodes as encoding/json does, without the check of the whole text that
// comes first there: what is decoded here has been checked already. It depends on the Go
// release whether that can be left out.
package jsoncodec
