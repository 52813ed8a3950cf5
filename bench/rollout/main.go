// Command rollout measures a rolling update. It starts iiidev and two replicas of a worker,
// and sends requests. Then it stops the first replica with a signal. It prints the results of
// all requests, the time until the second replica took over, and the duration of the failures.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/iii-go/iii"
)

func main() {
	program := flag.String("iiidev", "bin/iiidev", "`path` of iiidev")
	protocol := flag.String("protocol", "0.26", "`generation` of the engine")
	rate := flag.Int("rate", 500, "requests a second of each kind")
	wait := flag.Duration("wait", 4*time.Second, "how long each phase takes")
	slow := flag.Duration("slow", 0, "how long one handler of the first replica still runs after the signal")
	kill := flag.Bool("kill", false, "kill the first replica instead of terminating it")
	replica := flag.String("replica", "", "run the replica of this `name` for the engine in III_URL")
	flag.Parse()
	log.SetFlags(0)
	run := func() error { return measure(*program, *protocol, *rate, *wait, *slow, *kill) }
	if *replica != "" {
		run = func() error { return serve(*replica) }
	}
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

// serve runs a replica until it receives a signal. It prints a line when the replica is
// connected, and another when the engine has accepted all registrations.
func serve(name string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c, err := iii.New("", iii.WithName(name))
	if err != nil {
		return err
	}
	defer c.Close()
	_, err1 := iii.Handle(c, "orders::create", func(context.Context, any) (string, error) {
		time.Sleep(5 * time.Millisecond)
		return name, nil
	})
	_, err2 := iii.HandleHTTP(c, http.MethodGet, "/orders/:id", func(context.Context, *iii.HTTPRequest[any]) (*iii.HTTPResponse[string], error) {
		time.Sleep(5 * time.Millisecond)
		return &iii.HTTPResponse[string]{StatusCode: http.StatusOK, Body: name}, nil
	})
	_, err3 := iii.Handle(c, "orders::report", func(_ context.Context, d time.Duration) (string, error) {
		time.Sleep(d)
		return name, nil
	})
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	for _, state := range []struct {
		line string
		is   func() bool
	}{
		{"connected", func() bool { return c.State() == iii.ConnectionStateConnected }},
		{"serving", func() bool { return c.Ready() == nil }},
	} {
		for !state.is() {
			select {
			case err := <-ended:
				return err
			case <-time.After(5 * time.Millisecond):
			}
		}
		fmt.Println(state.line)
	}
	return <-ended
}

// process is a running program and the lines that it prints.
type process struct {
	*exec.Cmd
	lines *bufio.Scanner
}

func start(env []string, name string, args ...string) (*process, error) {
	p := &process{Cmd: exec.Command(name, args...)}
	p.Stderr, p.Env = os.Stderr, append(os.Environ(), env...)
	out, err := p.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.lines = bufio.NewScanner(out)
	return p, p.Start()
}

// await reads the process's output up to the given line.
func (p *process) await(line string) error {
	for p.lines.Scan() {
		if p.lines.Text() == line {
			return nil
		}
	}
	return fmt.Errorf("%v ended before it printed %q: %w", p.Args, line, p.lines.Err())
}

func measure(program, protocol string, rate int, wait, slow time.Duration, kill bool) (err error) {
	engine, err := start(nil, program, "-listen", "127.0.0.1:0", "-http", "127.0.0.1:0", "-stream", "127.0.0.1:0", "-console", "", "-protocol", protocol)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.Process.Signal(os.Interrupt), engine.Wait()) }()
	addresses := map[string]string{}
	for len(addresses) < 3 && engine.lines.Scan() {
		if name, url, ok := strings.Cut(engine.lines.Text(), " "); ok {
			addresses[name] = strings.TrimSpace(url)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	replica := func(name, line string) (*process, error) {
		p, err := start([]string{"III_URL=" + addresses["workers"]}, self, "-replica", name)
		if err != nil {
			return nil, err
		}
		return p, p.await(line)
	}
	first, err := replica("orders-1", "serving")
	if err != nil {
		return err
	}
	defer func() { _ = first.Process.Kill() }()
	caller, err := iii.New(addresses["workers"], iii.WithName("caller"))
	if err != nil {
		return err
	}
	defer caller.Close()
	if err := caller.Connect(context.Background()); err != nil {
		return err
	}

	l := &load{caller: caller, url: addresses["http"] + "/orders/1", client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	loaded := make(chan struct{})
	go func() {
		defer close(loaded)
		l.run(ctx, rate)
	}()
	time.Sleep(wait)
	second, err := replica("orders-2", "connected")
	if err != nil {
		return err
	}
	defer func() { _ = second.Process.Kill() }()
	time.Sleep(wait / 2)
	report := make(chan string, 1)
	if slow > 0 {
		go func() {
			by, err := iii.Call[string](ctx, caller, "orders::report", slow, iii.WithTimeout(slow+time.Minute))
			report <- fmt.Sprint(by, " ", err)
		}()
		time.Sleep(100 * time.Millisecond) // a handler must be running when the signal arrives
	}
	signalled := time.Now()
	if kill {
		err = first.Process.Kill()
	} else {
		err = first.Process.Signal(syscall.SIGTERM)
	}
	if err != nil {
		return err
	}
	var ended error
	var lasted time.Duration
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		ended = first.Wait()
		lasted = time.Since(signalled)
	}()
	if err := second.await("serving"); err != nil {
		return err
	}
	takeover := time.Since(signalled)
	<-waited
	time.Sleep(wait)
	stop()
	<-loaded
	fmt.Printf("engine %s, %d requests a second of each kind:\n", protocol, rate)
	fmt.Printf("  the second replica serves %v after the signal; the first ended after %v: %v\n", takeover.Round(time.Millisecond), lasted.Round(time.Millisecond), ended)
	if slow > 0 {
		fmt.Printf("  the handler of %v: %s\n", slow, <-report)
	}
	for _, o := range []*outcomes{&l.patient, &l.hasty, &l.visits} {
		fmt.Println(" ", o)
	}
	if l.late > 0 {
		fmt.Printf("  the machine was too slow for %d requests\n", l.late)
	}
	return errors.Join(second.Process.Signal(syscall.SIGTERM), second.Wait())
}

// load makes calls with a retry policy, calls without one, and HTTP requests.
type load struct {
	caller                 *iii.Client
	url                    string
	client                 *http.Client
	patient, hasty, visits outcomes
	late                   int
}

func (l *load) run(ctx context.Context, rate int) {
	l.patient.name, l.hasty.name, l.visits.name = "calls with a retry policy", "calls without one", "requests to the route"
	retry := iii.WithRetry(iii.RetryPolicy{MaxAttempts: 20, InitialDelay: 100 * time.Millisecond, MaxDelay: time.Second, Codes: []string{iii.CodeFunctionNotFound}})
	var all sync.WaitGroup
	defer all.Wait()
	free := make(chan struct{}, 4000)
	began, tick := time.Now(), time.NewTicker(2*time.Millisecond)
	defer tick.Stop()
	for n := 0; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for ; n < int(time.Since(began).Seconds()*float64(rate)); n++ {
			select {
			case free <- struct{}{}:
			default:
				l.late++
				continue
			}
			all.Go(func() {
				defer func() { <-free }()
				var each sync.WaitGroup
				each.Go(func() { l.patient.time(func() (string, bool) { return l.call(retry) }) })
				each.Go(func() { l.hasty.time(func() (string, bool) { return l.call() }) })
				each.Go(func() { l.visits.time(l.visit) })
				each.Wait()
			})
		}
	}
}

func (l *load) call(opts ...iii.CallOption) (outcome string, ok bool) {
	by, err := iii.Call[string](context.Background(), l.caller, "orders::create", nil, opts...)
	if failure, is := errors.AsType[*iii.Error](err); is {
		return failure.Code, false
	} else if err != nil {
		return err.Error(), false
	}
	return by, true
}

func (l *load) visit() (outcome string, ok bool) {
	resp, err := l.client.Get(l.url)
	if err != nil {
		return err.Error(), false
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err.Error(), false
	case resp.StatusCode == http.StatusOK:
		return string(body), true
	}
	var failure struct{ Error iii.ErrorBody }
	_ = json.Unmarshal(body, &failure)
	return strings.TrimSpace(resp.Status + " " + failure.Error.Code), false
}

// outcomes counts the results of requests.
type outcomes struct {
	name string

	mu          sync.Mutex
	count       map[string]int
	slowest     time.Duration
	first, last time.Time // times of the first and the last failure
}

func (o *outcomes) time(request func() (outcome string, ok bool)) {
	began := time.Now()
	outcome, ok := request()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.count == nil {
		o.count = map[string]int{}
	}
	o.count[outcome]++
	o.slowest = max(o.slowest, time.Since(began))
	if !ok {
		o.last = time.Now()
		if o.first.IsZero() {
			o.first = o.last
		}
	}
}

func (o *outcomes) String() string {
	total, s := 0, ""
	for _, outcome := range slices.Sorted(maps.Keys(o.count)) {
		total += o.count[outcome]
		s += fmt.Sprintf(", %d × %s", o.count[outcome], outcome)
	}
	return fmt.Sprintf("%d %s%s; the slowest took %v, failures during %v", total, o.name, s, o.slowest.Round(time.Millisecond), o.last.Sub(o.first).Round(time.Millisecond))
}
