//go:build race

package iii

// raceEnabled reports whether the race detector is enabled. If it is, tests use smaller
// messages, because the race detector makes copying slow.
const raceEnabled = true
