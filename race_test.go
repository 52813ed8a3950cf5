//go:build race

package iii

// raceEnabled reports whether the race detector is enabled. Tests then use smaller messages,
// because copying is slow under the race detector.
const raceEnabled = true
