package enginetest

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/iii-go/iii/internal/memnet"
)

// This file implements the server side of a WebSocket without the library that the client
// uses, so that the tests do not rely on the code under test. Tests can send, withhold or
// corrupt any frame.

// WebSocket opcodes.
const (
	OpContinuation = 0
	OpText         = 1
	OpBinary       = 2
	OpClose        = 8
	OpPing         = 9
	OpPong         = 10
)

// maxFrame and maxMessage are the engine's size limits, in bytes.
const (
	maxFrame   = 16 << 20
	maxMessage = 64 << 20
)

// WebSocket is the server side of a WebSocket, returned by [Upgrade]. One goroutine may read
// while others write.
type WebSocket struct {
	net.Conn
	Request *http.Request // the upgrade request

	br   *bufio.Reader
	mu   sync.Mutex    // serializes writes
	fin  bool          // the last frame read ended its message
	gate chan struct{} // capacity 1; full while reading is stopped
}

// Upgrade responds to the upgrade request on conn. If status is not nil, it must return 0 to
// accept the request, or the HTTP status with which to reject it.
func Upgrade(conn net.Conn, status func(*http.Request) int) (*WebSocket, error) {
	br := bufio.NewReaderSize(conn, 64<<10)
	r, err := http.ReadRequest(br)
	if err != nil {
		return nil, fmt.Errorf("upgrade request: %w", err)
	}
	if status != nil {
		if code := status(r); code != 0 {
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", code, http.StatusText(code))
			return nil, fmt.Errorf("refused with status %d", code)
		}
	}
	if r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Sec-WebSocket-Version") != "13" {
		return nil, errors.New("not a WebSocket upgrade")
	}
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	return &WebSocket{Conn: conn, Request: r, br: br, fin: true, gate: make(chan struct{}, 1)}, err
}

// readFrame reads a frame from the client and checks that it complies with RFC 6455 and the
// engine's requirements.
func (c *WebSocket) readFrame() (op byte, fin bool, payload []byte, err error) {
	var head [14]byte
	if _, err = io.ReadFull(c.br, head[:2]); err != nil {
		return 0, false, nil, err
	}
	op, fin = head[0]&15, head[0]&128 != 0
	size := uint64(head[1] & 127)
	switch {
	case head[0]&0x70 != 0:
		return 0, false, nil, fmt.Errorf("reserved bits in frame header %x", head[:2])
	case head[1]&128 == 0:
		return 0, false, nil, errors.New("client frame is not masked")
	case op >= OpClose && (!fin || size > 125):
		return 0, false, nil, errors.New("control frame is fragmented or too long")
	case op < OpClose && (op == OpContinuation) == c.fin:
		return 0, false, nil, errors.New("unexpected or missing continuation frame")
	}
	switch size {
	case 126:
		_, err = io.ReadFull(c.br, head[2:4])
		size = uint64(binary.BigEndian.Uint16(head[2:]))
	case 127:
		_, err = io.ReadFull(c.br, head[2:10])
		size = binary.BigEndian.Uint64(head[2:])
	}
	if err != nil {
		return 0, false, nil, err
	}
	if size > maxFrame {
		return 0, false, nil, fmt.Errorf("frame of %d bytes is over the limit", size)
	}
	var mask [4]byte
	if _, err = io.ReadFull(c.br, mask[:]); err != nil {
		return 0, false, nil, err
	}
	payload = make([]byte, size)
	if _, err = io.ReadFull(c.br, payload); err != nil {
		return 0, false, nil, err
	}
	unmask(payload, mask)
	if op < OpClose {
		c.fin = fin
	}
	return op, fin, payload, nil
}

func unmask(p []byte, mask [4]byte) {
	word := uint64(binary.LittleEndian.Uint32(mask[:]))
	word |= word << 32
	i := 0
	for ; i+8 <= len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], binary.LittleEndian.Uint64(p[i:])^word)
	}
	for ; i < len(p); i++ {
		p[i] ^= mask[i%4]
	}
}

// StopReading makes ReadMessage hold back messages until resume is called. Only the first call
// to resume has an effect.
func (c *WebSocket) StopReading() (resume func()) {
	c.gate <- struct{}{}
	return sync.OnceFunc(func() { <-c.gate })
}

// ReadMessage reads a message or a control frame and checks that it complies with RFC 6455 and
// the engine's requirements. frames is the number of fragments in the message. control is
// called with each control frame between fragments.
func (c *WebSocket) ReadMessage(control func(op byte, payload []byte)) (op byte, message []byte, frames int, err error) {
	if op, message, frames, err = c.readMessage(control); err == nil {
		c.gate <- struct{}{}
		<-c.gate
	}
	return op, message, frames, err
}

func (c *WebSocket) readMessage(control func(op byte, payload []byte)) (op byte, message []byte, frames int, err error) {
	for {
		kind, fin, payload, err := c.readFrame()
		switch {
		case err != nil:
			return 0, nil, 0, err
		case kind >= OpClose && frames == 0:
			return kind, payload, 1, nil
		case kind >= OpClose:
			control(kind, payload)
			continue
		case frames == 0:
			op, message = kind, payload
		default:
			message = append(message, payload...)
		}
		frames++
		if len(message) > maxMessage {
			return 0, nil, 0, fmt.Errorf("message of more than %d bytes is over the limit", maxMessage)
		}
		if !fin {
			continue
		}
		if op == OpText && !utf8.Valid(message) {
			return 0, nil, 0, errors.New("text message is not UTF-8")
		}
		return op, message, frames, nil
	}
}

// WriteFrame sends one frame, which may be invalid.
func (c *WebSocket) WriteFrame(op byte, fin bool, payload []byte) error {
	head := []byte{op, 0}
	if fin {
		head[0] |= 128
	}
	switch n := len(payload); {
	case n < 126:
		head[1] = byte(n)
	case n < 1<<16:
		head[1] = 126
		head = binary.BigEndian.AppendUint16(head, uint16(n))
	default:
		head[1] = 127
		head = binary.BigEndian.AppendUint64(head, uint64(n))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(payload) < 4096 {
		head, payload = append(head, payload...), nil
	}
	if _, err := c.Write(head); err != nil {
		return err
	}
	if len(payload) == 0 {
		return nil
	}
	_, err := c.Write(payload)
	return err
}

// Cut ends the connection abruptly, as a crash would. Data in transit may be lost.
func (c *WebSocket) Cut() {
	reset(c.Conn)
	_ = c.SetDeadline(time.Unix(1, 0))
	_ = c.Close()
}

// reset discards conn's data in transit, either immediately or when conn is closed.
func reset(conn net.Conn) {
	switch conn := conn.(type) {
	case *memnet.Conn:
		conn.Reset()
	case *net.TCPConn:
		_ = conn.SetLinger(0)
	}
}
