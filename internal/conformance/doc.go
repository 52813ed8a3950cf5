// Package conformance holds the judges of this project that are too heavy for the
// go.mod that its users see. It is a module of its own: run its tests in its directory.
package conformance
