// Command devengine measures the CPU time that the development engine needs for a request. It
// starts iiidev and workers, drives load through them at full speed, and prints each process's
// CPU time per request, as the median of several rounds.
//
//	go run ./bench/devengine -iiidev bin/iiidev -worker .cache/loadworker
//
// The row "route" measures calls from one worker to another. The row "http" measures requests
// from HTTP clients over keep-alive connections. Each request posts a JSON body to an HTTP
// trigger, whose function returns the body. The clients' CPU time is not included. Arguments
// after the flags are passed to iiidev. The program runs only on Linux, because it reads
// /proc.
package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/iii-go/iii"
)

// patience limits how long the processes may take to become ready, and how long a round may
// take.
const patience = time.Minute

func main() {
	var b bench
	flag.StringVar(&b.iiidev, "iiidev", "bin/iiidev", "`path` of iiidev")
	flag.StringVar(&b.worker, "worker", ".cache/loadworker", "`path` of the worker")
	flag.IntVar(&b.rounds, "rounds", 5, "rounds, of which the median counts")
	flag.IntVar(&b.n, "n", 20_000, "requests in a round")
	flag.IntVar(&b.inflight, "inflight", 64, "concurrent requests")
	flag.IntVar(&b.size, "size", 350, "bytes of the note in a payload")
	rows := flag.String("rows", "route,http", "rows to measure")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := b.run(ctx, strings.Split(*rows, ","), flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "devengine:", err)
		os.Exit(1)
	}
}

// bench holds a measurement's parameters.
type bench struct {
	iiidev, worker      string
	rounds, n, inflight int
	size                int
}

// run starts iiidev with args, and prints the rows.
func (b *bench) run(ctx context.Context, rows, args []string) (err error) {
	engine, addresses, err := startEngine(b.iiidev, args)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.stop()) }()
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "row\tbytes\tin flight\tiiidev µs\tworkers µs\tsum\tiiidev/workers\t")
	for _, row := range rows {
		costs, err := b.measure(ctx, row, engine, addresses)
		if err != nil {
			return fmt.Errorf("%s: %w", row, err)
		}
		own, theirs := costs[0], 0.0
		var each []string
		for _, c := range costs[1:] {
			theirs += c
			each = append(each, fmt.Sprintf("%.1f", c))
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%.1f\t%s\t%.1f\t%.2f\t\n", row, b.size, b.inflight, own, strings.Join(each, " + "), own+theirs, own/theirs)
	}
	return w.Flush()
}

// measure returns the CPU time per request, in µs, of iiidev and of each worker.
func (b *bench) measure(ctx context.Context, row string, engine *process, addresses map[string]string) (costs []float64, err error) {
	modes := map[string][]string{"route": {"drive", "serve"}, "http": {"http"}}[row]
	if modes == nil {
		return nil, errors.New("no such row")
	}
	processes := []*process{engine}
	for _, mode := range modes {
		worker, failed := startWorker(b.worker, mode, addresses["workers"])
		if failed != nil {
			return nil, failed
		}
		defer func() { err = errors.Join(err, worker.stop()) }()
		processes = append(processes, worker)
	}
	ctx, cancel := context.WithTimeout(ctx, patience*time.Duration(b.rounds+1))
	defer cancel()
	var load func(n int) error
	if row == "route" {
		c, err := iii.New(addresses["workers"])
		if err != nil {
			return nil, err
		}
		defer c.Close()
		if err := c.Connect(ctx); err != nil {
			return nil, err
		}
		load = func(n int) error {
			_, err := iii.Call[any](ctx, c, "bench::drive", map[string]int{"n": n, "inflight": b.inflight, "size": b.size}, iii.WithTimeout(patience))
			return err
		}
	} else {
		clients := newClients(addresses["http"], b.inflight, b.size)
		defer clients.close()
		load = clients.send
	}
	if err := ready(ctx, load); err != nil {
		return nil, err
	}
	if err := load(max(b.n/4, b.inflight)); err != nil { // warm-up
		return nil, err
	}
	rounds := make([][]float64, len(processes))
	for range b.rounds {
		before, err := cpuTimes(processes)
		if err != nil {
			return nil, err
		}
		if err := load(b.n); err != nil {
			return nil, err
		}
		after, err := cpuTimes(processes)
		if err != nil {
			return nil, err
		}
		for i := range processes {
			rounds[i] = append(rounds[i], (after[i]-before[i])/float64(b.n))
		}
	}
	for _, all := range rounds {
		slices.Sort(all)
		costs = append(costs, (all[(len(all)-1)/2]+all[len(all)/2])/2)
	}
	return costs, nil
}

// ready waits until the workers' functions exist.
func ready(ctx context.Context, load func(n int) error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for {
		err := load(1)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-late:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// process is a program that is measured.
type process struct {
	cmd *exec.Cmd
	log strings.Builder // what it wrote to standard error
}

func (p *process) start(command string, args, env []string) error {
	p.cmd.Path, p.cmd.Args = command, append([]string{command}, args...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = &p.log
	return p.cmd.Start()
}

// stop interrupts the process. If the process has failed, the error contains its log.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(os.Interrupt)
	kill := time.AfterFunc(5*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w\n%s", p.cmd.Path, err, p.log.String())
	}
	return nil
}

// startEngine starts iiidev and returns the addresses that it prints, by name.
func startEngine(command string, args []string) (*process, map[string]string, error) {
	p := &process{cmd: new(exec.Cmd)}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	free := []string{"-listen", "127.0.0.1:0", "-http", "127.0.0.1:0", "-stream", "127.0.0.1:0", "-console", "127.0.0.1:0"}
	if err := p.start(command, append(free, args...), nil); err != nil {
		return nil, nil, err
	}
	addresses := map[string]string{}
	for lines := bufio.NewScanner(out); addresses["console"] == "" && lines.Scan(); {
		name, url, _ := strings.Cut(lines.Text(), " ")
		addresses[name] = strings.TrimSpace(url)
	}
	if addresses["console"] == "" {
		return nil, nil, cmp.Or(p.stop(), errors.New("iiidev has printed no addresses"))
	}
	return p, addresses, nil
}

func startWorker(command, mode, url string) (*process, error) {
	p := &process{cmd: new(exec.Cmd)}
	return p, p.start(command, nil, []string{"III_URL=" + url, "BENCH_MODE=" + mode, "OTEL_ENABLED=false"})
}

// cpuTimes returns each process's CPU time in µs.
func cpuTimes(processes []*process) ([]float64, error) {
	const tick = 1e4 // µs; the kernel reports hundredths of a second on all architectures
	var times []float64
	for _, p := range processes {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
		if err != nil {
			return nil, fmt.Errorf("%w: CPU time is measured on Linux alone", err)
		}
		_, rest, _ := strings.Cut(string(text), ") ") // the name may contain spaces
		fields := strings.Fields(rest)
		if len(fields) < 13 {
			return nil, fmt.Errorf("/proc/…/stat is %q", text)
		}
		user, err1 := strconv.ParseFloat(fields[11], 64)
		system, err2 := strconv.ParseFloat(fields[12], 64)
		if err := cmp.Or(err1, err2); err != nil {
			return nil, err
		}
		times = append(times, (user+system)*tick)
	}
	return times, nil
}

// clients is a set of HTTP clients that keep their connections open.
type clients struct {
	addr    string
	request []byte
	conns   []*client
}

// client is one connection. The zero value connects on the first request.
type client struct {
	conn net.Conn
	in   *bufio.Reader
}

func newClients(url string, number, size int) *clients {
	body := fmt.Sprintf(`{"user":"u-1","amount":1,"note":%q,"tags":["a","b"]}`, strings.Repeat("x", size))
	addr := strings.TrimPrefix(url, "http://")
	c := &clients{addr: addr, conns: make([]*client, number)}
	c.request = fmt.Appendf(nil, "POST /bench HTTP/1.1\r\nHost: %s\r\nUser-Agent: devengine\r\nAccept: */*\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", addr, len(body), body)
	for i := range c.conns {
		c.conns[i] = new(client)
	}
	return c
}

// send sends n requests and checks the responses. If any clients fail, it returns one of their
// errors.
func (c *clients) send(n int) error {
	var left atomic.Int64
	left.Store(int64(n))
	failed := make(chan error, len(c.conns))
	var all sync.WaitGroup
	for _, one := range c.conns {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				if err := one.exchange(c.addr, c.request); err != nil {
					one.close()
					failed <- err
					return
				}
			}
		})
	}
	all.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

func (c *clients) close() {
	for _, one := range c.conns {
		one.close()
	}
}

func (c *client) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

func (c *client) exchange(addr string, request []byte) (err error) {
	if c.conn == nil {
		if c.conn, err = net.Dial("tcp", addr); err != nil {
			return err
		}
		c.in = bufio.NewReader(c.conn)
	}
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := c.conn.Write(request); err != nil {
		return err
	}
	response, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if n, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	} else if response.StatusCode != http.StatusOK || n < int64(len(request))/2 {
		return fmt.Errorf("status %d with %d bytes", response.StatusCode, n)
	}
	return nil
}
