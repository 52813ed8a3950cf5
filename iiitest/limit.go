package iiitest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
)

// The engine's limits: a frame or a message beyond them ends the connection
// without a Close frame, as soon as the frame's header has been read.
const (
	maxFrame   = 16 << 20
	maxMessage = 64 << 20
)

var errTooLarge = errors.New("iiitest: WebSocket frame or message over the engine's limit")

// limitedConn enforces the limits below the WebSocket library, which has none
// for a single frame and answers a message over its limit with a Close frame.
// It follows the frame headers (RFC 6455, 5.2) in the bytes that are read and
// fails the read that meets one it must not accept.
type limitedConn struct {
	net.Conn
	hold func() // called before what was read is handed on; nil is nothing

	header    [14]byte
	have      int    // bytes of the current header read so far
	remaining uint64 // bytes of the current payload still to come
	message   uint64 // payload bytes of the current message
	err       error
}

func (c *limitedConn) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.Conn.Read(p)
	if c.hold != nil {
		c.hold()
	}
	if c.err = c.follow(p[:n]); c.err != nil {
		return 0, c.err
	}
	return n, err
}

func (c *limitedConn) follow(p []byte) error {
	for len(p) > 0 {
		if c.remaining > 0 {
			n := min(c.remaining, uint64(len(p)))
			c.remaining -= n
			p = p[n:]
			continue
		}
		c.header[c.have] = p[0]
		c.have++
		p = p[1:]
		if c.have < 2 || c.have < headerSize(c.header[1]) {
			continue
		}
		if err := c.begin(); err != nil {
			return err
		}
	}
	return nil
}

// headerSize is the length of a frame header, from its second byte.
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

// begin takes a complete header.
func (c *limitedConn) begin() error {
	c.have = 0
	length := uint64(c.header[1] & 0x7f)
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
	if control := c.header[0]&0x08 != 0; control {
		return nil
	}
	if continuation := c.header[0]&0x0f == 0; !continuation {
		c.message = 0
	}
	if c.message += length; c.message > maxMessage {
		return errTooLarge
	}
	return nil
}

// limitedWriter gives the WebSocket library a limited connection to take over.
type limitedWriter struct {
	http.ResponseWriter
	conn net.Conn
}

func (w *limitedWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	w.conn = &limitedConn{Conn: conn}
	return w.conn, rw, nil
}
