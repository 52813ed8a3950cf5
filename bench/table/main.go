// Command table measures the cost of an invocation. It simulates the engine, drives one worker
// process at a time at full speed, and prints the worker's CPU time per invocation, for each
// payload size, direction and number of concurrent invocations. Several workers are measured
// in turn; the table then shows the ratio of the first worker's CPU time to that of each other
// worker.
//
//	go run ./bench/table -worker go=./loadworker -worker rust=./rust-worker
//
// A worker connects to III_URL. If BENCH_MODE is serve, it serves bench::echo, which decodes
// its payload {user, amount, note, tags}, encodes it again and returns it. If BENCH_MODE is
// call, the worker calls bench::sink BENCH_N times with notes of BENCH_SIZE bytes,
// BENCH_INFLIGHT calls at a time, and exits. If BENCH_RAW is 1, payloads are not decoded. If
// BENCH_OTEL is 1, the worker records a trace of each invocation and sends it to the engine.
// Absolute figures are comparable only within one run. Ratios are comparable across runs.
package main

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/gorilla/websocket"
)

// worker is a program to measure.
type worker struct {
	name    string
	command []string
}

// load contains the parameters of one table row.
type load struct {
	mode     string // serve, traced or call
	raw      bool
	size     int // length of the note
	inflight int
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "table:", err)
		os.Exit(1)
	}
}

func run() error {
	var workers []worker
	flag.Func("worker", "`name=command` of a worker; repeat it to compare several", func(s string) error {
		name, command, _ := strings.Cut(s, "=")
		fields := strings.Fields(command)
		if name == "" || len(fields) == 0 {
			return errors.New("want name=command")
		}
		workers = append(workers, worker{name, fields})
		return nil
	})
	rounds := flag.Int("rounds", 5, "runs of each worker per row, of which the median counts")
	budget := flag.Int("bytes", 48<<20, "about how many bytes of payload one run moves")
	sizes := flag.String("sizes", "350,4096,16384,262144,1048576", "bytes of the payloads")
	inflights := flag.String("inflight", "1,64,2048", "invocations under way; all but 64 for small payloads alone")
	modes := flag.String("modes", "serve,traced,call", "serve, traced (serve with telemetry) and call")
	raws := flag.String("raw", "no,yes", "whether payloads stay JSON")
	flag.Parse()
	if len(workers) == 0 || *rounds < 1 {
		return errors.New("no -worker, or no rounds")
	}
	loads, err := table(strings.Split(*modes, ","), strings.Split(*raws, ","), *sizes, *inflights)
	if err != nil {
		return err
	}

	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "mode\tbytes\tunder way\t")
	for i, k := range workers {
		fmt.Fprintf(w, "%s µs\tMiB\t", k.name)
		if i > 0 {
			fmt.Fprintf(w, "%s/%s\t", workers[0].name, k.name)
		}
	}
	fmt.Fprintln(w)
	for _, l := range loads {
		n := max(min(*budget/(l.size+4000), 30_000), 2*l.inflight)
		costs, memory := make([][]float64, len(workers)), make([]float64, len(workers))
		for range *rounds {
			for i, k := range workers {
				cost, mib, err := measure(k, l, n)
				if err != nil {
					return fmt.Errorf("%s, %s of %d bytes: %w", k.name, l.name(), l.size, err)
				}
				costs[i], memory[i] = append(costs[i], cost), max(memory[i], mib)
			}
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t", l.name(), l.size, l.inflight)
		first := median(costs[0])
		for i := range workers {
			m := median(costs[i])
			fmt.Fprintf(w, "%.1f\t%.0f\t", m, memory[i])
			if i > 0 {
				fmt.Fprintf(w, "%.2f\t", first/m)
			}
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

func (l load) name() string {
	if l.raw {
		return l.mode + " raw"
	}
	return l.mode
}

// table returns the loads to measure, one for each combination of the parameters.
func table(modes, raws []string, sizeList, inflightList string) (rows []load, err error) {
	sizes, err := numbers(sizeList)
	if err != nil {
		return nil, err
	}
	inflights, err := numbers(inflightList)
	if err != nil {
		return nil, err
	}
	for _, raw := range raws {
		if raw != "yes" && raw != "no" {
			return nil, fmt.Errorf("-raw %q is neither yes nor no", raw)
		}
		for _, mode := range modes {
			if mode != "serve" && mode != "traced" && mode != "call" {
				return nil, fmt.Errorf("-modes %q is none of serve, traced and call", mode)
			}
			for i, size := range sizes {
				for _, inflight := range inflights {
					if mode == "traced" && (raw == "yes" || i > 0 || inflight != 64) {
						continue
					}
					if inflight == 64 || i == 0 && raw == "no" || len(inflights) == 1 {
						rows = append(rows, load{mode, raw == "yes", size, inflight})
					}
				}
			}
		}
	}
	return rows, nil
}

func numbers(list string) (all []int, err error) {
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%q is no positive number", text)
		}
		all = append(all, n)
	}
	return all, nil
}

func median(all []float64) float64 {
	s := slices.Sorted(slices.Values(all))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// patience limits the duration of one measurement.
const patience = time.Minute

// measure runs a worker once. It returns the CPU time per invocation in µs and the peak memory
// in MiB.
func measure(k worker, l load, n int) (cost, mib float64, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, 0, err
	}
	defer ln.Close()
	warm := max(n/10, l.inflight)
	raw := "0"
	if l.raw {
		raw = "1"
	}
	e := &engine{load: l, warm: warm, n: n, outcome: make(chan error, 1), started: make(chan struct{})}
	cmd := exec.Command(k.command[0], k.command[1:]...)
	mode, telemetry := l.mode, []string{"BENCH_OTEL=0", "OTEL_ENABLED=false"}
	if l.mode == "traced" {
		mode, telemetry = "serve", []string{"BENCH_OTEL=1", "OTEL_ENABLED=true"}
	}
	cmd.Env = append(append(os.Environ(), telemetry...), "III_URL=ws://"+ln.Addr().String(), "BENCH_MODE="+mode, "BENCH_RAW="+raw,
		"BENCH_N="+strconv.Itoa(e.total()), "BENCH_INFLIGHT="+strconv.Itoa(l.inflight), "BENCH_SIZE="+strconv.Itoa(l.size))
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	server := &http.Server{Handler: e}
	go func() { _ = server.Serve(ln) }()
	defer server.Close()
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	e.pid = int64(cmd.Process.Pid)
	close(e.started)
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	select {
	case err = <-e.outcome:
	case err = <-exited:
		exited <- err
		select { // a caller exits after its last reply
		case err = <-e.outcome:
		case <-time.After(time.Second):
			err = fmt.Errorf("the worker has ended: %v", err)
		}
	case <-time.After(patience):
		err = fmt.Errorf("not done after %v", patience)
	}
	stop(cmd, exited)
	if err != nil {
		return 0, 0, fmt.Errorf("%w\n%s", err, log.Bytes())
	}
	return e.cost / float64(n), e.memory, nil
}

// stop interrupts the process, and kills it if it does not exit in time.
func stop(cmd *exec.Cmd, exited <-chan error) {
	if runtime.GOOS == "windows" || cmd.Process.Signal(os.Interrupt) != nil {
		_ = cmd.Process.Kill()
	}
	kill := time.AfterFunc(2*time.Second, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	<-exited
}

// cpuTime returns the total CPU time of a process's threads in µs.
func cpuTime(pid int64) (total float64, err error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		return 0, cmp.Or(err, errors.New("no /proc/…/schedstat: CPU time is measured on Linux alone"))
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has exited
		}
		first, _, _ := strings.Cut(string(text), " ")
		nanos, err := strconv.ParseFloat(first, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		total += nanos / 1e3
	}
	return total, nil
}

// peakMemory returns a process's peak resident memory in MiB, or 0 if the system does not
// report it.
func peakMemory(pid int64) float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kib, _ := strconv.ParseFloat(fields[0], 64)
	return kib / 1024
}

var upgrader = websocket.Upgrader{ReadBufferSize: 64 << 10, WriteBufferSize: 64 << 10, CheckOrigin: func(*http.Request) bool { return true }}
