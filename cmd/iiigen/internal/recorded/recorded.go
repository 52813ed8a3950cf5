// Package recorded holds clients that were generated from the schemas of workers of other
// SDKs. README.md describes the recorded catalogues. The tests compare the generated code
// with them.
package recorded
