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

// The engine's limits. As soon as the engine has read the header of a frame or message that
// exceeds a limit, it closes the connection without a Close frame.
const (
	maxFrame   = 16 << 20
	maxMessage = 64 << 20
)

var (
	errTooLarge = errors.New("iiitest: WebSocket frame or message exceeds the engine's limit")
	errFraming  = errors.New("iiitest: the WebSocket protocol forbids this frame")
)

// limitedConn enforces the engine's limits and detects frames that the WebSocket protocol
// forbids. It works below the WebSocket library, which cannot limit a single frame. That
// library would also send a Close frame, which the engine does not. limitedConn parses the
// frame headers (RFC 6455, section 5.2) in the bytes that are read, and ends the stream before
// an unacceptable frame.
type limitedConn struct {
	net.Conn
	silent bool   // a Close frame also ends the stream, and is not answered
	hold   func() // if not nil, called before data is returned to the reader

	header    [14]byte
	have      int    // bytes read of the current header
	remaining uint64 // unread bytes of the current payload
	message   uint64 // payload bytes of the current message so far
	within    bool   // the current message has more frames
	closed    bool   // silent is set, and the peer has sent a Close frame
	err       error

	holding atomic.Bool // another write follows immediately
	held    []byte      // written with the next write; guarded by the WebSocket's lock for writing
}

// maxHeld is the maximum number of bytes held back for the next write.
const maxHeld = 32 << 10

// Write implements net.Conn. While holding is set, Write only buffers the data, up to maxHeld
// bytes.
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
		bad = nil // returned by the next Read
	}
	return accepted, bad
}

// follow parses received bytes. If a frame ends the stream, it returns the number of bytes
// before the frame, and the reason. Otherwise, it returns len(p) and nil.
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
		n += 4 // masking key
	}
	return n
}

// Frame opcodes.
const (
	opContinuation = 0
	opText         = 1
	opBinary       = 2
	opClose        = 8
	opPong         = 10
)

// begin handles a complete frame header.
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
		c.closed = true
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

// limitedWriter is a ResponseWriter whose Hijack method returns a limitedConn.
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
