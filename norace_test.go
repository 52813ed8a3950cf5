//go:build !race

package iii

// raceEnabled says that the race detector runs, which makes copies slow.
const raceEnabled = false
