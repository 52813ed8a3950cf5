// Package conformance holds conformance tests whose dependencies are too large for the root
// module. It is a separate module. `go test ./...` in the repository root does not run its
// tests.
package conformance
