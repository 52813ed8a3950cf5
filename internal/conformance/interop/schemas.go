package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// schemaWorkers maps each peer that has a worker in the directory schemas to the id prefix of
// that worker's functions. The prefix is the name of the library that generates the schemas.
var schemaWorkers = map[string]string{"node": "zod", "python": "pydantic", "rust": "schemars"}

// recordedDir is the directory, relative to the repository root, that holds the catalogs
// recorded for cmd/iiigen.
const recordedDir = "cmd/iiigen/internal/recorded"

// recordSchemas records the schemas that workers of other SDKs register for their functions,
// for use in the tests of cmd/iiigen.
func (s settings) recordSchemas(ctx context.Context, names []string) error {
	iiidev, iiigen := filepath.Join(s.cache, "iiidev"), filepath.Join(s.cache, "iiigen")
	err := errors.Join(os.MkdirAll(s.cache, 0o755),
		tool(ctx, s.root, nil, "go", "build", "-o", iiidev, "./cmd/iiidev"),
		tool(ctx, filepath.Join(s.root, "cmd", "iiigen"), []string{"GOWORK="}, "go", "build", "-o", iiigen, "."))
	if err != nil {
		return err
	}
	for _, name := range names {
		prefix := schemaWorkers[name]
		if prefix == "" {
			continue // the schemas of this package have separate tests
		}
		i := slices.IndexFunc(sdks, func(s sdk) bool { return s.name == name })
		if err := s.recordSchemasOf(ctx, sdks[i], prefix, iiidev, iiigen); err != nil {
			return fmt.Errorf("peer %s (%s): %w", name, sdks[i].title, err)
		}
	}
	return nil
}

func (s settings) recordSchemasOf(ctx context.Context, p sdk, prefix, iiidev, iiigen string) (err error) {
	src := filepath.Join(s.root, "internal", "conformance", "interop", "schemas", p.name)
	cache, logs := filepath.Join(s.cache, "schemas", p.name), filepath.Join(s.logs, "schemas", p.name)
	if err := errors.Join(os.MkdirAll(cache, 0o755), os.MkdirAll(logs, 0o755)); err != nil {
		return err
	}
	argv, err := p.install(ctx, src, cache)
	if err != nil {
		return fmt.Errorf("cannot be installed: %w", err)
	}
	e, err := startEngine(ctx, iiidev, triggersOnly, anyPort, logs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.stop()) }()

	worker := exec.CommandContext(ctx, argv[0], argv[1:]...)
	worker.Env = append(os.Environ(), "III_URL="+e.workers, "PYTHONDONTWRITEBYTECODE=1", "NO_PROXY=*", "no_proxy=*")
	worker.WaitDelay = time.Second
	input, err := worker.StdinPipe() // the worker serves until its input is closed
	if err != nil {
		return err
	}
	output, err := worker.StdoutPipe()
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(logs, "worker.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	worker.Stderr = log
	if err := worker.Start(); err != nil {
		return err
	}
	defer func() {
		_ = input.Close()
		_ = worker.Wait() // the exit status is irrelevant
	}()
	lines := bufio.NewScanner(output)
	for lines.Scan() && strings.TrimSpace(lines.Text()) != "ready" {
	}
	if err := lines.Err(); err != nil {
		return err
	}
	catalog := filepath.Join(s.root, filepath.FromSlash(recordedDir), prefix, "iiigen_catalog.json")
	return s.saveCatalog(ctx, iiigen, e.workers, prefix, catalog)
}

// saveCatalog saves the catalog of a worker's functions once all of them are registered.
func (s settings) saveCatalog(ctx context.Context, iiigen, url, prefix, catalog string) error {
	last := prefix + "::untyped" // one of the last functions that every worker registers
	for attempt := 0; ; attempt++ {
		probe := filepath.Join(s.logs, "probe.json")
		err := tool(ctx, s.root, nil, iiigen, "-url", url, "-functions", last, "-save", probe)
		if err == nil {
			break
		}
		if attempt == 50 {
			return err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := tool(ctx, s.root, nil, iiigen, "-url", url, "-functions", prefix+"::*", "-save", catalog); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "%s: recorded in %s\n", prefix, catalog)
	return nil
}
