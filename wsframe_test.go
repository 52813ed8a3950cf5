package iii

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
)

// The server's half of a WebSocket, written out: the client's library does not
// judge itself, and each frame can be sent, withheld or spoiled.

const (
	opContinuation = 0
	opText         = 1
	opBinary       = 2
	opClose        = 8
	opPing         = 9
	opPong         = 10

	// The engine's limits.
	engineMaxFrame   = 16 << 20
	engineMaxMessage = 64 << 20
)

// wsConn is the server's end.
type wsConn struct {
	net.Conn
	br      *bufio.Reader
	request *http.Request

	mu  sync.Mutex // of writing
	fin bool       // what was read last
}

// wsAccept answers the upgrade request. A status other than 0 refuses it.
func wsAccept(conn net.Conn, status func(*http.Request) int) (*wsConn, error) {
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
		return nil, errors.New("no WebSocket upgrade")
	}
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	return &wsConn{Conn: conn, br: br, request: r, fin: true}, err
}

// readFrame reads a client's frame and checks what RFC 6455 and the engine demand.
func (c *wsConn) readFrame() (op byte, fin bool, payload []byte, err error) {
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
		return 0, false, nil, errors.New("frame of a client is not masked")
	case op >= opClose && (!fin || size > 125):
		return 0, false, nil, errors.New("control frame is fragmented or too long")
	case op < opClose && (op == opContinuation) == c.fin:
		return 0, false, nil, errors.New("continuation frame where none belongs, or none where one does")
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
	if size > engineMaxFrame {
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
	if op < opClose {
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

// readMessage reads a message or a control frame. frames is the number of its
// fragments; control is told of control frames between them.
func (c *wsConn) readMessage(control func(op byte, payload []byte)) (op byte, message []byte, frames int, err error) {
	for {
		kind, fin, payload, err := c.readFrame()
		switch {
		case err != nil:
			return 0, nil, 0, err
		case kind >= opClose && frames == 0:
			return kind, payload, 1, nil
		case kind >= opClose:
			control(kind, payload)
			continue
		case frames == 0:
			op, message = kind, payload
		default:
			message = append(message, payload...)
		}
		frames++
		if len(message) > engineMaxMessage {
			return 0, nil, 0, fmt.Errorf("message of more than %d bytes is over the limit", engineMaxMessage)
		}
		if !fin {
			continue
		}
		if op == opText && !utf8.Valid(message) {
			return 0, nil, 0, errors.New("text message is no UTF-8")
		}
		return op, message, frames, nil
	}
}

// writeFrame sends one frame as it is told to.
func (c *wsConn) writeFrame(op byte, fin bool, payload []byte) error {
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

// cut ends the connection as a crash would: what is under way may be lost.
func (c *wsConn) cut() {
	switch conn := c.Conn.(type) {
	case *memConn:
		conn.reset()
	case *net.TCPConn:
		_ = conn.SetLinger(0)
	}
	_ = c.SetDeadline(time.Unix(1, 0))
	_ = c.Close()
}
