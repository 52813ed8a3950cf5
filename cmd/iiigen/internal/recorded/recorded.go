// Package recorded holds clients that are generated from what workers of other SDKs told an
// engine: its catalogues are recordings, made by the programs in testdata/peers. The tests
// hold the generated code against them.
package recorded
