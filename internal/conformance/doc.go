// Package conformance holds conformance tests whose dependencies are too large for the root
// module. The tests are in a separate module, so `go test ./...` in the repository root does
// not run them.
package conformance
