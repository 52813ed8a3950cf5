// Package conformance holds conformance tests whose dependencies are too large for the root
// module. It is a separate module, so its tests run only in its directory.
package conformance
