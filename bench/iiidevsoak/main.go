// Command iiidevsoak measures the development engine's memory use under load. It starts
// iiidev, a worker with telemetry, and HTTP clients. It fails if iiidev uses more memory than
// -limit allows. It runs only on Linux, because it reads /proc.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iii-go/iii"
)

func main() {
	program := flag.String("iiidev", "bin/iiidev", "`path` of iiidev")
	rate := flag.Int("rate", 900, "requests a second")
	duration := flag.Duration("for", 10*time.Minute, "how long")
	limit := flag.Int("limit", 300, "MiB that iiidev must stay below")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *program, flag.Args(), *rate, *duration, *limit); err != nil {
		log.Fatal(err)
	}
}

// run starts iiidev with args and measures it under load.
func run(ctx context.Context, program string, args []string, rate int, duration time.Duration, limit int) (err error) {
	engine := exec.Command(program, append([]string{"-listen", "127.0.0.1:0", "-http", "127.0.0.1:0", "-stream", "127.0.0.1:0", "-console", "127.0.0.1:0"}, args...)...)
	engine.Stderr = os.Stderr
	out, err := engine.StdoutPipe()
	if err != nil {
		return err
	}
	if err := engine.Start(); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, engine.Process.Signal(os.Interrupt), engine.Wait())
	}()
	addresses := map[string]string{}
	for lines := bufio.NewScanner(out); len(addresses) < 4 && lines.Scan(); {
		if name, url, ok := strings.Cut(lines.Text(), " "); ok {
			addresses[name] = strings.TrimSpace(url)
		}
	}
	c, telemetry, err := worker(ctx, addresses["workers"])
	if err != nil {
		return err
	}
	defer telemetry.Shutdown(context.WithoutCancel(ctx))
	defer c.Close()

	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	var sent, failed, busy atomic.Int64
	var clients sync.WaitGroup
	turns := make(chan int)
	for range 64 {
		clients.Go(func() {
			for n := range turns {
				if err := request(addresses["http"], n); err != nil && failed.Add(1) <= 10 {
					log.Print(err)
				}
				sent.Add(1)
			}
		})
	}
	highest, report := 0, time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	began, due := time.Now(), 0
	for ctx.Err() == nil {
		<-tick.C
		for ; due < int(time.Since(began).Seconds()*float64(rate)); due++ {
			select {
			case turns <- due:
			default:
				busy.Add(1) // all clients are busy
			}
		}
		if time.Since(report) < 10*time.Second {
			continue
		}
		report = time.Now()
		var resident int
		var err error
		if resident, highest, err = memory(engine.Process.Pid); err != nil {
			return err
		}
		log.Printf("%v: %d MiB, %d requests, %d failed, %d left out", time.Since(began).Round(time.Second), resident, sent.Load(), failed.Load(), busy.Load())
	}
	close(turns)
	clients.Wait()
	log.Printf("highest %d MiB; %d requests in %v, %d failed, %d left out", highest, sent.Load(), time.Since(began).Round(time.Second), failed.Load(), busy.Load())
	switch {
	case highest >= limit:
		return fmt.Errorf("iiidev had %d MiB, and the limit is %d", highest, limit)
	case failed.Load() > 0:
		return fmt.Errorf("%d requests failed", failed.Load())
	case busy.Load() > int64(due)/10:
		return fmt.Errorf("the machine is too slow for %d requests a second", rate)
	}
	return nil
}

// memory returns a process's current and peak resident memory in MiB.
func memory(pid int) (resident, highest int, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	kib := map[string]int{}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); len(fields) > 1 {
			kib[fields[0]], _ = strconv.Atoi(fields[1])
		}
	}
	if kib["VmRSS:"] == 0 || kib["VmHWM:"] == 0 {
		return 0, 0, errors.New("no VmRSS or no VmHWM")
	}
	return kib["VmRSS:"] >> 10, kib["VmHWM:"] >> 10, nil
}

type order struct {
	Item string `json:"item"`
	Note string `json:"note"`
}

// worker serves a typed route and mounted routes that read the body, ignore it, or stream the
// response.
func worker(ctx context.Context, address string) (*iii.Client, *iii.Telemetry, error) {
	telemetry, err := iii.StartTelemetry(ctx, iii.OtelConfig{EngineWSURL: &address})
	if err != nil {
		return nil, nil, err
	}
	c, err := iii.New(address, iii.WithTelemetry(telemetry))
	if err != nil {
		return nil, nil, err
	}
	_, err1 := iii.HandleHTTP(c, http.MethodPost, "/orders", func(_ context.Context, r *iii.HTTPRequest[order]) (*iii.HTTPResponse[order], error) {
		return &iii.HTTPResponse[order]{Body: r.Body}, nil
	})
	_, err2 := c.MountHTTP(http.MethodPost, "/echo", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	_, err3 := c.MountHTTP(http.MethodPost, "/ignore", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	_, err4 := c.MountHTTP(http.MethodGet, "/stream", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range 3 {
			fmt.Fprint(w, "part")
			_ = http.NewResponseController(w).Flush()
		}
	}))
	err = errors.Join(err1, err2, err3, err4)
	if err == nil {
		err = c.Connect(ctx)
	}
	if err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	return c, telemetry, nil
}

var body = []byte(`{"item":"tea","note":"` + strings.Repeat("x", 1000) + `"}`)

func request(base string, n int) error {
	var r *http.Response
	var err error
	switch n % 10 {
	case 0:
		r, err = http.Get(base + "/stream")
	case 1:
		r, err = http.Post(base+"/echo", "text/plain", bytes.NewReader(body))
	case 2:
		r, err = http.Post(base+"/ignore", "text/plain", bytes.NewReader(bytes.Repeat(body, 100)))
	default:
		r, err = http.Post(base+"/orders", "application/json", bytes.NewReader(body))
	}
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return err
	}
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", r.StatusCode)
	}
	return nil
}
