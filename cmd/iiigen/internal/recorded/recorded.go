// Package recorded contains clients generated from schemas that workers of other SDKs
// registered. README.md describes the recorded catalogs.
package recorded
