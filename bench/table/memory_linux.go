package main

import (
	"os"
	"syscall"
)

// peakMemory returns the resident memory that a process had at most, in MiB.
func peakMemory(s *os.ProcessState) float64 {
	return float64(s.SysUsage().(*syscall.Rusage).Maxrss) / 1024
}
