package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// engine is a running iiidev process.
type engine struct {
	program                       *exec.Cmd
	workers, http, streams, guard string // URLs
	frames                        string // name of the frame file
	log                           *os.File
}

// guardConfig configures a port to which gate::auth controls access.
const guardConfig = `{"port":0,"rbac":{"auth_function_id":"gate::auth"}}`

// anyPort is a listen address that selects any free port.
const anyPort = "127.0.0.1:0"

// startEngine starts iiidev with a protocol version. The engine listens for workers at the
// given address and keeps its files in dir.
func startEngine(ctx context.Context, program, protocol, listen, dir string) (*engine, error) {
	e := &engine{frames: filepath.Join(dir, "frames.jsonl")}
	var err error
	if e.log, err = os.Create(filepath.Join(dir, "iiidev.log")); err != nil {
		return nil, err
	}
	e.program = exec.CommandContext(ctx, program, "-v", "-protocol", protocol,
		"-listen", listen, "-http", "127.0.0.1:0", "-stream", "127.0.0.1:0", "-console", "",
		"-guard", guardConfig,
		"-queue", `interop={"max_retries":3,"backoff_ms":100}`,
		"-frames", e.frames)
	e.program.Env = append(os.Environ(), "INTEROP_SECRET="+hmacSecret)
	e.program.Stderr = e.log
	e.program.Cancel = func() error { return e.program.Process.Signal(syscall.SIGTERM) }
	out, err := e.program.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := e.program.Start(); err != nil {
		return nil, fmt.Errorf("iiidev: %w", err)
	}
	urls := map[string]*string{"workers": &e.workers, "http": &e.http, "streams": &e.streams, "guarded": &e.guard}
	for lines := bufio.NewScanner(out); len(urls) > 0; {
		if !lines.Scan() {
			_ = e.stop()
			return nil, fmt.Errorf("iiidev did not say its addresses; see %s", e.log.Name())
		}
		name, url, _ := strings.Cut(lines.Text(), " ")
		if to := urls[name]; to != nil {
			*to = strings.TrimSpace(url)
			delete(urls, name)
		}
	}
	return e, nil
}

// stop stops the program if it is running, and waits until it has exited.
func (e *engine) stop() error {
	if e.program == nil {
		return nil
	}
	_ = e.program.Process.Signal(syscall.SIGTERM)
	err := e.program.Wait()
	_ = e.log.Close()
	e.program = nil
	if err != nil {
		return fmt.Errorf("iiidev: %w; see %s", err, e.log.Name())
	}
	return nil
}

// frame is a line of iiidev's frame file.
type frame struct {
	Time   time.Time       `json:"time"`
	Worker string          `json:"worker"`
	Name   string          `json:"name"`
	Dir    string          `json:"dir"` // send or recv, as seen by the worker
	Bytes  int             `json:"bytes"`
	Frame  json.RawMessage `json:"frame"`
	Text   *string         `json:"text"`
	Type   string          `json:"type"`
	Prefix string          `json:"prefix"`
	OTLP   json.RawMessage `json:"otlp"`
}

// message holds the message fields that the harness examines.
type message struct {
	Type       string          `json:"type"`
	FunctionID string          `json:"function_id"`
	Data       json.RawMessage `json:"data"`
	PreviousID string          `json:"previous_worker_id"`
	Namespace  *string         `json:"namespace"`
}

func (f frame) message() message {
	var m message
	_ = json.Unmarshal(f.Frame, &m) // m stays zero if the frame is not a message
	return m
}

// framesSince reads the frame file from the given offset.
func (e *engine) framesSince(offset int64) ([]frame, error) {
	file, err := os.Open(e.frames)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		return nil, err
	}
	var all []frame
	r := bufio.NewReader(file)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil { // the last line is incomplete
			return all, nil
		}
		var f frame
		if err := json.Unmarshal(line, &f); err != nil {
			return nil, fmt.Errorf("%s: %w", e.frames, err)
		}
		all = append(all, f)
	}
}

// frameOffset returns the current size of the frame file.
func (e *engine) frameOffset() (int64, error) {
	info, err := os.Stat(e.frames)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
