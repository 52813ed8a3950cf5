// Package jsoncodec encodes and decodes as encoding/json does, without the passes and copies
// that its callers can do without: text that is decoded has been checked already, and what is
// encoded belongs into a buffer that exists. What Go releases offer for that differs.
package jsoncodec
