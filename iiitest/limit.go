package iiitest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
)

// Limits of the engine. A larger frame or message ends the connection without a Close
// frame, as soon as the header of the frame has been read.
const (
	maxFrame   = 16 << 20
	maxMessage = 64 << 20
)

var (
	errTooLarge = errors.New("iiitest: WebSocket frame or message exceeds the engine's limit")
	errFraming  = errors.New("iiitest: the WebSocket protocol forbids this frame")
)

// limitedConn enforces the limits below the WebSocket library, which cannot limit a single
// frame, and detects frames that the protocol forbids. The library would answer both faults
// with a Close frame, but the engine sends none. limitedConn follows the frame headers (RFC
// 6455, 5.2) in the bytes that are read, and ends the stream before a frame that it must not
// accept.
type limitedConn struct {
	net.Conn
	silent bool   // a Close frame ends the stream, too, and is not answered
	hold   func() // called before read data is passed on; may be nil

	header    [14]byte
	have      int    // bytes of the current header read so far
	remaining uint64 // bytes of the current payload still to come
	message   uint64 // payload bytes of the current message
	within    bool   // the current message has frames to come
	err       error

	holding atomic.Bool // another write follows at once
	held    []byte      // written with the next write; guarded by the WebSocket's lock for writing
}

// maxHeld is the maximum number of bytes that wait for the next write.
const maxHeld = 32 << 10

// Write implements net.Conn. While holding is set, it only collects the data.
func (c *limitedConn) Write(p []byte) (int, error) {
	holding := c.holding.Load() && len(c.held)+len(p) <= maxHeld
	if !holding && len(c.held) == 0 {
		return c.Conn.Write(p)
	}
	c.held = append(c.held, p...)
	if holding {
		return len(p), nil
	}
	_, err := c.Conn.Write(c.held)
	if c.held = c.held[:0]; err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *limitedConn) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.Conn.Read(p)
	if c.hold != nil {
		c.hold()
	}
	accepted, bad := c.follow(p[:n])
	if bad == nil {
		return n, err
	}
	c.err = bad
	if accepted > 0 {
		bad = nil // next time
	}
	return accepted, bad
}

// follow returns how many bytes precede a frame that ends the stream, and the reason.
func (c *limitedConn) follow(p []byte) (accepted int, err error) {
	begun := 0 // start of the current header
	for i := 0; i < len(p); {
		if c.remaining > 0 {
			n := min(c.remaining, uint64(len(p)-i))
			c.remaining -= n
			i += int(n)
			continue
		}
		if c.have == 0 {
			begun = i
		}
		c.header[c.have] = p[i]
		c.have++
		i++
		if c.have < 2 || c.have < headerSize(c.header[1]) {
			continue
		}
		if err := c.begin(); err != nil {
			return begun, err
		}
	}
	return len(p), nil
}

// headerSize returns the length of a frame header, given its second byte.
func headerSize(b byte) int {
	n := 2
	switch b & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if b&0x80 != 0 {
		n += 4 // the mask
	}
	return n
}

// Opcodes of frames.
const (
	opContinuation = 0
	opText         = 1
	opBinary       = 2
	opClose        = 8
	opPong         = 10
)

// begin handles a complete header.
func (c *limitedConn) begin() error {
	c.have = 0
	last, reserved, opcode := c.header[0]&0x80 != 0, c.header[0]&0x70, c.header[0]&0x0f
	length := uint64(c.header[1] & 0x7f)
	control, masked := opcode >= opClose, c.header[1]&0x80 != 0
	switch {
	case reserved != 0, !masked, opcode > opPong, opcode > opBinary && !control,
		control && (!last || length > 125), !control && (opcode == opContinuation) != c.within:
		return errFraming
	case opcode == opClose && c.silent:
		return io.EOF
	}
	switch length {
	case 126:
		length = uint64(binary.BigEndian.Uint16(c.header[2:]))
	case 127:
		length = binary.BigEndian.Uint64(c.header[2:])
	}
	if length > maxFrame {
		return errTooLarge
	}
	c.remaining = length
	if control {
		return nil
	}
	c.within = !last
	if opcode != opContinuation {
		c.message = 0
	}
	if c.message += length; c.message > maxMessage {
		return errTooLarge
	}
	return nil
}

// limitedWriter lets the WebSocket library take over a limited connection.
type limitedWriter struct {
	http.ResponseWriter
	silent bool
}

func (w *limitedWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	return &limitedConn{Conn: conn, silent: w.silent}, rw, nil
}
