//go:build race

package iii

// raceEnabled reports whether the race detector is enabled, which makes copying slow.
const raceEnabled = true
