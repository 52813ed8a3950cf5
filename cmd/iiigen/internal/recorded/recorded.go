// Package recorded holds clients that were generated from the schemas that workers of other
// SDKs registered. README.md describes the recorded catalogues. The tests compare the
// generated code with the schemas.
package recorded
