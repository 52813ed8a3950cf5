//go:build race

package iii

// raceEnabled reports whether the race detector is enabled, which makes copies slow.
const raceEnabled = true
