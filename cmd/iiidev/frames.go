package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/iii-go/iii/iiitest"
	"github.com/iii-go/iii/internal/secret"
)

// maxLoggedMessage is the maximum length in bytes of a message that is logged in full.
const maxLoggedMessage = 64 << 10

// frameFile logs the messages between workers and the engine in the order in which the engine
// reads and writes them.
type frameFile struct {
	file *os.File
	warn func(error)

	mu     sync.Mutex
	failed bool
}

// frameLine is one line of a frameFile. Dir is the direction as seen by the worker. The
// message is in Frame, Text or OTLP. If it is longer than maxLoggedMessage, only its Type is
// logged.
type frameLine struct {
	Time   time.Time       `json:"time"`
	Worker string          `json:"worker"`
	Name   string          `json:"name,omitempty"`
	Dir    string          `json:"dir"`
	Bytes  int             `json:"bytes"`
	Frame  json.RawMessage `json:"frame,omitempty"` // a protocol message
	Text   *string         `json:"text,omitempty"`  // a message that is not JSON
	Prefix string          `json:"prefix,omitempty"`
	OTLP   json.RawMessage `json:"otlp,omitempty"` // telemetry without its prefix
	Type   string          `json:"type,omitempty"` // the type of a message that is too long to log
}

// newFrameFile creates or truncates the file. Only the current user can read it, because it
// contains worker data. warn receives the first write error.
func newFrameFile(name string, warn func(error)) (*frameFile, error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("frames: %w", err)
	}
	// Opening an existing file does not change its permissions.
	info, err := file.Stat()
	if err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		err = os.Chmod(name, 0o600)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("frames: %w", err), file.Close())
	}
	return &frameFile{file: file, warn: warn}, nil
}

func (f *frameFile) Close() error { return f.file.Close() }

// add logs a message. It is an engine hook that lets all messages pass.
func (f *frameFile) add(frame iiitest.Frame) iiitest.Verdict {
	line := append(lineOf(frame), '\n')
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.file.Write(line); err != nil && !f.failed {
		f.failed = true
		f.warn(fmt.Errorf("frames: %w", err))
	}
	return iiitest.Verdict{}
}

// addTelemetry logs the telemetry received over separate telemetry connections.
func (f *frameFile) addTelemetry(frames []iiitest.TelemetryFrame) {
	for _, t := range frames {
		if t.Worker == "" {
			f.add(iiitest.Frame{Time: t.Time, Binary: true, Message: append([]byte(t.Prefix), t.Data...)})
		}
	}
}

// lineOf encodes a message as a line, with secrets masked.
func lineOf(frame iiitest.Frame) []byte {
	line := frameLine{Time: frame.Time.UTC(), Worker: frame.Worker, Name: frame.WorkerName, Dir: "send", Bytes: len(frame.Message)}
	if frame.Direction == iiitest.FromEngine {
		line.Dir = "recv"
	}
	message := []byte(frame.Message)
	if frame.Binary && len(message) >= 4 {
		switch prefix := string(message[:4]); prefix {
		case "OTLP", "MTRC", "LOGS":
			line.Prefix, message = prefix, message[4:]
		}
	}
	var redacted json.RawMessage
	if len(message) <= maxLoggedMessage {
		redacted = redact(message)
	}
	switch {
	case len(message) > maxLoggedMessage:
		line.Type = frame.Type()
	case redacted == nil:
		text := strings.ToValidUTF8(string(message), string(utf8.RuneError))
		line.Text = &text
	case line.Prefix != "":
		line.OTLP = redacted
	default:
		line.Frame = redacted
	}
	b, err := json.Marshal(line)
	if err != nil { // cannot happen: all parts are valid JSON
		return []byte(fmt.Sprintf(`{"error":%q}`, err))
	}
	return b
}

// redact returns message with secrets masked, or nil if it is not JSON.
func redact(message []byte) json.RawMessage {
	if !json.Valid(message) {
		return nil
	}
	return json.RawMessage(secret.Text(string(message)))
}
