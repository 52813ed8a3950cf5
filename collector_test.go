package iii

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
)

// Secrets that tests use. None of them may be in a log line or an error text.
const (
	secretHeader   = "h3ader-s3cret"
	secretPassword = "pa55-s3cret"
	secretQuery    = "qu3ry-s3cret"
)

// collector reads everything that the clients of the tests log, and the errors
// that tests give to it, in search of secrets.
type collector struct {
	mu      sync.Mutex
	secrets []string
	lines   int
	found   []string
}

// suite collects for TestMain.
var suite = &collector{secrets: []string{secretHeader, secretPassword, secretQuery, tokenMark}}

// testLogger is the log of all clients in tests. III_TEST_LOG=1 shows it.
var testLogger = slog.New(slog.NewTextHandler(logOutput(), &slog.HandlerOptions{Level: slog.LevelDebug}))

func logOutput() io.Writer {
	if os.Getenv("III_TEST_LOG") != "" {
		return io.MultiWriter(suite, os.Stderr)
	}
	return suite
}

// Write implements io.Writer for a log.
func (c *collector) Write(line []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines++
	for _, secret := range c.secrets {
		if bytes.Contains(line, []byte(secret)) && len(c.found) < 20 {
			c.found = append(c.found, strings.TrimSpace(string(line)))
		}
	}
	return len(line), nil
}

// note searches an error's text, in the forms in which it may be printed, and
// returns the error.
func (c *collector) note(err error) error {
	if err != nil {
		_, _ = fmt.Fprintf(c, "%v %+v %#v", err, err, err)
	}
	return err
}

// result lists the lines with secrets.
func (c *collector) result() (lines int, found []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lines, append([]string(nil), c.found...)
}

// setSlogDefault sets the default of slog for a test. It redirects the output of
// package log too, which SetDefault does not take back: what an example says with
// log.Fatal would be lost.
func setSlogDefault(t *testing.T, h slog.Handler) {
	t.Helper()
	previous, output, flags := slog.Default(), log.Writer(), log.Flags()
	t.Cleanup(func() {
		slog.SetDefault(previous)
		log.SetOutput(output)
		log.SetFlags(flags)
	})
	slog.SetDefault(slog.New(h))
}
