package iii

import (
	"bytes"
	"encoding/json"
	"hash/maphash"
	"os"
	"sync"
	"testing"
)

// judgeFrame fails the test if the engine would lose a frame that the encoder has
// made. Every one that reaches a peer, or a test itself, comes by here.
func judgeFrame(tb testing.TB, prefix string, data []byte) {
	tb.Helper()
	if err := validateFrame(prefix, data); err != nil {
		tb.Errorf("the engine would lose this frame: %v\n%s%.2000s", err, prefix, data)
	}
	if bytes.Contains(data, []byte("null")) && hasNull(data) {
		tb.Errorf("null in %s%.2000s", prefix, data)
	}
	suiteFrames.keep(prefix, data)
}

// hasNull tells whether there is a null outside of a string.
func hasNull(data []byte) bool {
	d := json.NewDecoder(bytes.NewReader(data))
	for {
		t, err := d.Token()
		if err != nil {
			return false
		}
		if t == nil {
			return true
		}
	}
}

// isEncoded tells the frames of the encoder from those that tests send for their
// own sake, which are no OTLP.
func isEncoded(data []byte) bool { return bytes.HasPrefix(data, []byte(`{"resource`)) }

// suiteFrames writes the frames of all tests to $III_TEST_FRAMES, if that is set,
// one a line, each once: for another judge, which reads OTLP.
var suiteFrames = frameKeeper{path: os.Getenv("III_TEST_FRAMES"), seed: maphash.MakeSeed()}

type frameKeeper struct {
	path string
	seed maphash.Seed

	mu   sync.Mutex
	seen map[uint64]bool
	file *os.File
	err  error
}

func (k *frameKeeper) keep(prefix string, data []byte) {
	if k.path == "" {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	hash := maphash.Bytes(k.seed, data)
	if k.seen[hash] || k.err != nil {
		return
	}
	if k.file == nil {
		k.seen = map[uint64]bool{}
		if k.file, k.err = os.OpenFile(k.path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600); k.err != nil {
			return
		}
	}
	k.seen[hash] = true
	line := append(append([]byte(prefix), data...), '\n') // there is no line break in the JSON
	_, k.err = k.file.Write(line)
}

// finish returns why the file is not whole.
func (k *frameKeeper) finish() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.file != nil && k.err == nil {
		k.err = k.file.Close()
	}
	return k.err
}
