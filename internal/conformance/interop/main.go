// Command interop tests package iii against other SDKs. It runs workers built with these SDKs
// (the peers) on the development engine, next to a worker built with package iii.
//
//	interop [-peers go,node,python,rust] [-only name,…] [-update]
//	interop [-peers node,python,rust] -schemas
//
// The program prints the matrix of outcomes. It fails if an outcome differs from results.json.
// With -update, it writes the outcomes to that file and regenerates docs/interop.md. It
// installs the SDKs from their registries into .cache/interop, which requires npm, python3 or
// cargo. With -schemas, it records the schemas that the peers register for their functions.
// The tests of cmd/iiigen use these schemas.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/iii-go/iii/internal/environ"
)

func main() {
	environ.Clear()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(1)
	}
}

// settings holds the command-line settings and the directories.
type settings struct {
	root  string // of the repository
	cache string // for installed packages and builds
	logs  string // of the last run
	only  []string
	all   bool // continue after a scenario that timed out
	out   io.Writer
}

// Result files, relative to the root.
const (
	resultsFile = "internal/conformance/interop/results.json"
	pageFile    = "docs/interop.md"
)

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("interop", flag.ContinueOnError)
	root := flags.String("root", "../..", "directory of the repository")
	peers := flags.String("peers", "go,node,python", "peers to run, by comma")
	only := flags.String("only", "", "scenarios to run, by comma; the others keep their outcomes")
	update := flags.Bool("update", false, "write the outcomes and the page")
	schemas := flags.Bool("schemas", false, "record the schemas of the peers' workers for cmd/iiigen, and run no scenarios")
	if err := flags.Parse(args); err != nil {
		return err
	}
	dir, err := filepath.Abs(*root)
	if err != nil {
		return err
	}
	s := settings{root: dir, cache: filepath.Join(dir, ".cache", "interop"), out: out}
	s.logs = filepath.Join(s.cache, "logs")
	s.all = *update
	if *only != "" {
		s.only = strings.Split(*only, ",")
	}
	if *schemas {
		return s.recordSchemas(ctx, strings.Split(*peers, ","))
	}
	known, err := readResults(filepath.Join(dir, resultsFile))
	if err != nil {
		return err
	}
	got, err := s.runAll(ctx, strings.Split(*peers, ","), known)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%s\n", got.table())
	var problems []string
	for _, p := range got.peers() {
		problems = append(problems, got.unexplained(p.name)...)
		if !*update {
			problems = append(problems, got.compare(known, p.name)...)
		}
	}
	if *update {
		for name, cells := range got {
			known[name] = cells
		}
		if err := known.write(filepath.Join(dir, resultsFile)); err != nil {
			return err
		}
		page := filepath.Join(dir, pageFile)
		if err := errors.Join(os.MkdirAll(filepath.Dir(page), 0o755), os.WriteFile(page, []byte(known.page()), 0o644)); err != nil {
			return err
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("not as it is known:\n%s\nThe logs are in %s", strings.Join(problems, "\n"), s.logs)
	}
	return nil
}

func (s settings) runAll(ctx context.Context, names []string, known results) (results, error) {
	iiidev := filepath.Join(s.cache, "iiidev")
	if err := os.MkdirAll(s.cache, 0o755); err != nil {
		return nil, err
	}
	if err := tool(ctx, s.root, nil, "go", "build", "-o", iiidev, "./cmd/iiidev"); err != nil {
		return nil, err
	}
	got := results{}
	for _, name := range names {
		i := slices.IndexFunc(sdks, func(s sdk) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no peer %q", name)
		}
		cells, err := s.runPeer(ctx, sdks[i], iiidev, known[name])
		if err != nil {
			return nil, fmt.Errorf("peer %s (%s): %w", name, sdks[i].title, err)
		}
		got[name] = cells
	}
	return got, nil
}

// runPeer installs a peer and runs the scenarios with it.
func (s settings) runPeer(ctx context.Context, p sdk, iiidev string, known map[string]cell) (map[string]cell, error) {
	src := filepath.Join(s.root, "internal", "conformance", "interop", "peers", p.name)
	cache, logs := filepath.Join(s.cache, p.name), filepath.Join(s.logs, p.name)
	if err := errors.Join(os.MkdirAll(cache, 0o755), os.RemoveAll(logs), os.MkdirAll(logs, 0o755)); err != nil {
		return nil, err
	}
	begin := time.Now()
	argv, err := p.install(ctx, src, cache)
	if err != nil {
		return nil, fmt.Errorf("cannot be installed: %w", err)
	}
	fmt.Fprintf(s.out, "%s: %s, installed in %.1fs\n", p.name, p.title, time.Since(begin).Seconds())
	cells := map[string]cell{}
	for _, protocol := range protocols() {
		var list []scenario
		for _, g := range groups {
			for _, sc := range g.scenarios {
				switch {
				case g.protocol != protocol:
				case s.only == nil || slices.Contains(s.only, sc.name):
					list = append(list, sc)
				default:
					cells[sc.name] = known[sc.name]
				}
			}
		}
		if len(list) == 0 {
			continue
		}
		begin := time.Now()
		dir := filepath.Join(logs, protocol)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, err
		}
		b, err := newBench(ctx, p, iiidev, protocol, argv, dir)
		if err != nil {
			return nil, fmt.Errorf("engine %s: %w", protocol, err)
		}
		got, err := s.runScenarios(ctx, b, list)
		b.Close()
		if err != nil {
			return nil, fmt.Errorf("engine %s: %w", protocol, err)
		}
		maps.Copy(cells, got)
		fmt.Fprintf(s.out, "%s: %d scenarios on engine %s in %.1fs\n", p.name, len(list), protocol, time.Since(begin).Seconds())
	}
	return cells, nil
}

// runScenarios runs scenarios on one engine version, then closes the bench.
func (s settings) runScenarios(ctx context.Context, b *bench, list []scenario) (map[string]cell, error) {
	cells := map[string]cell{}
	spans := map[string]span{}
	for _, sc := range list {
		begin := time.Now()
		var err error
		if cells[sc.name], err = s.runScenario(ctx, b, sc); err != nil {
			return nil, err
		}
		spans[sc.name] = span{begin, time.Now()}
	}
	b.Close() // flushes the telemetry to the frame file
	frames, err := b.engine.framesSince(0)
	if err != nil {
		return nil, err
	}
	for name, during := range spans {
		if c := cells[name]; c.Outcome == failed {
			c.Frames = append(c.Frames, telemetryEvidence(frames, name, b.peerName(), during)...)
			cells[name] = c
		}
	}
	return cells, nil
}

func (s settings) runScenario(ctx context.Context, b *bench, sc scenario) (cell, error) {
	begin, engine := time.Now(), b.engine
	offset, err := engine.frameOffset()
	if err != nil {
		return cell{}, err
	}
	c, timeout, patience := cell{Outcome: passed}, scenarioTimeout, scenarioTimeout
	if explanations[b.sdk.name][sc.name] != "" {
		patience = missingTimeout
	}
	isMissing := slices.Contains(missing[b.sdk.name], sc.name)
	if isMissing {
		timeout = missingTimeout
	}
	c.Differences = try(ctx, b, sc, timeout, patience)
	if took := time.Since(begin); took >= scenarioTimeout && !s.all {
		return cell{}, fmt.Errorf("the scenario %s waited %.0fs in vain, and the rest is not run: %s; the logs are in %s",
			sc.name, took.Seconds(), strings.Join(c.Differences, "; "), b.dir)
	}
	if len(c.Differences) > 0 {
		c.Outcome = failed
		if isMissing {
			c.Outcome, c.Differences = notOffered, nil
		}
		if b.engine != engine {
			offset = 0
		}
		frames, err := b.engine.framesSince(offset)
		if err != nil {
			return cell{}, err
		}
		c.Frames = evidence(frames, b.peerName())
	}
	fmt.Fprintf(s.out, "  %-10s %5.1fs %s\n", c.Outcome, time.Since(begin).Seconds(), sc.title)
	for _, d := range c.Differences {
		fmt.Fprintf(s.out, "                    %s\n", strings.ReplaceAll(d, "\n", "\n                    "))
	}
	return c, ctx.Err()
}
