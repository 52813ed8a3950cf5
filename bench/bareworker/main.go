// Command bareworker is the baseline for bench/table. It serves bench::echo, or calls
// bench::sink, with only gorilla/websocket and encoding/json. A single goroutine does all the
// work. It writes queued messages in one batch when there is nothing left to read. The worker
// does not reconnect, use contexts, enforce limits, report errors to callers, or support
// blocking handlers.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/gorilla/websocket"
)

type order struct {
	User   string   `json:"user"`
	Amount int      `json:"amount"`
	Note   string   `json:"note"`
	Tags   []string `json:"tags"`
}

// message is a received message. It has only the fields that the worker uses.
type message struct {
	Type         string          `json:"type"`
	InvocationID string          `json:"invocation_id"`
	Data         json.RawMessage `json:"data"`
	Result       json.RawMessage `json:"result"`
}

type resultMessage struct {
	Type         string `json:"type"`
	InvocationID string `json:"invocation_id"`
	FunctionID   string `json:"function_id"`
	Result       any    `json:"result"`
}

type call struct {
	Type         string `json:"type"`
	InvocationID string `json:"invocation_id"`
	FunctionID   string `json:"function_id"`
	Data         any    `json:"data"`
}

// batchConn is a connection that collects written messages until a read may block.
type batchConn struct {
	net.Conn
	out *bufio.Writer
}

func (g *batchConn) Write(p []byte) (int, error) {
	if g.out == nil { // handshake
		return g.Conn.Write(p)
	}
	return g.out.Write(p)
}

// Read implements net.Conn. It first writes the collected messages, because the read may block:
// gorilla/websocket calls Read only when its own buffer is empty.
func (g *batchConn) Read(p []byte) (int, error) {
	if g.out != nil {
		if err := g.out.Flush(); err != nil {
			return 0, err
		}
	}
	return g.Conn.Read(p)
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	var network *batchConn
	dialer := websocket.Dialer{ReadBufferSize: 64 << 10, WriteBufferSize: 64 << 10, NetDial: func(kind, addr string) (net.Conn, error) {
		conn, err := net.Dial(kind, addr)
		network = &batchConn{Conn: conn}
		return network, err
	}}
	ws, _, err := dialer.Dial(os.Getenv("III_URL"), nil)
	if err != nil {
		return err
	}
	network.out = bufio.NewWriterSize(network.Conn, 64<<10)
	w := &worker{ws: ws, raw: os.Getenv("BENCH_RAW") == "1"}
	if os.Getenv("BENCH_MODE") == "call" {
		err = w.call(number("BENCH_N"), number("BENCH_INFLIGHT"), number("BENCH_SIZE"))
	} else {
		err = w.serve()
	}
	var closed *websocket.CloseError
	if errors.As(err, &closed) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

type worker struct {
	ws  *websocket.Conn
	raw bool
	buf []byte
}

func (w *worker) read(m *message) error {
	_, r, err := w.ws.NextReader()
	if err != nil {
		return err
	}
	w.buf = w.buf[:0]
	for err == nil {
		if len(w.buf) == cap(w.buf) {
			w.buf = append(w.buf, make([]byte, max(len(w.buf), 4096))...)[:len(w.buf)]
		}
		var n int
		n, err = r.Read(w.buf[len(w.buf):cap(w.buf)])
		w.buf = w.buf[:len(w.buf)+n]
	}
	if err != io.EOF {
		return err
	}
	return json.Unmarshal(w.buf, m)
}

func (w *worker) write(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.ws.WriteMessage(websocket.TextMessage, text)
}

func (w *worker) serve() error {
	if err := w.ws.WriteMessage(websocket.TextMessage, []byte(`{"type":"registerfunction","id":"bench::echo"}`)); err != nil {
		return err
	}
	for {
		var m message
		if err := w.read(&m); err != nil {
			return err
		}
		if m.Type != "invokefunction" {
			continue
		}
		var result any = m.Data
		if !w.raw {
			var in order
			if err := json.Unmarshal(m.Data, &in); err != nil {
				return err
			}
			result = in
		}
		if err := w.write(resultMessage{"invocationresult", m.InvocationID, "bench::echo", result}); err != nil {
			return err
		}
	}
}

func (w *worker) call(n, inflight, size int) error {
	in := order{User: "u-1", Amount: 1, Note: strings.Repeat("x", size), Tags: []string{"a", "b"}}
	var data any = in
	if w.raw {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		data = json.RawMessage(text)
	}
	sent := 0
	send := func() error {
		sent++
		return w.write(call{"invokefunction", fmt.Sprintf("00000000-0000-4000-8000-%012x", sent), "bench::sink", data})
	}
	for range min(inflight, n) {
		if err := send(); err != nil {
			return err
		}
	}
	for answered := 0; answered < n; {
		var m message
		if err := w.read(&m); err != nil {
			return err
		}
		if m.Type != "invocationresult" {
			continue
		}
		answered++
		var receipt struct {
			OK bool `json:"ok"`
		}
		if err := json.Unmarshal(m.Result, &receipt); err != nil || !receipt.OK {
			return fmt.Errorf("answer is not ok: %s", m.Result)
		}
		if sent < n {
			if err := send(); err != nil {
				return err
			}
		}
	}
	return nil
}

func number(name string) int {
	n, err := strconv.Atoi(os.Getenv(name))
	if err != nil {
		log.Fatalf("%s: %v", name, err)
	}
	return n
}
