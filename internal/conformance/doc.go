// Package conformance holds the conformance tests whose dependencies are too large for the
// go.mod of the root module. It is a separate module, so its tests run only in its directory.
package conformance
