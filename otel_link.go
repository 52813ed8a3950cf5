package iii

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

const (
	telemetryPing      = 20 * time.Second // between pings of a link that is quiet
	telemetryIdle      = 60 * time.Second // without any frame from the engine
	telemetryReadLimit = 1 << 20          // of a message from the engine, which has little to say
	codeAuth           = "AUTH_ERROR"
)

// telemetryLink is one telemetry connection. The fields below the socket are
// guarded by the lock of the queue.
type telemetryLink struct {
	*socket
	control        telemetryControl
	unpinged       int    // frames taken since the last ping
	pinged, ponged uint64 // number of the frame that the last ping, the last pong stood behind

	written atomic.Uint64 // number of the last frame whose data is not needed any more
}

// telemetryControl is what else the writer is to write, behind the frames.
type telemetryControl struct {
	ping   bool
	number uint64 // of the last frame before the ping
	pong   []byte // nil: none. Only the latest ping needs an answer
	close  bool
}

func (s *SharedEngineConnection) newLink(sock *socket) *telemetryLink {
	l := &telemetryLink{socket: sock}
	sock.conn.SetPingHandler(func(data string) error {
		l.touch()
		s.queue.setControl(l, func(c *telemetryControl) { c.pong = append([]byte{}, data...) })
		return nil
	})
	sock.conn.SetPongHandler(func(data string) error {
		l.touch()
		if len(data) == 8 {
			s.queue.confirm(l, binary.BigEndian.Uint64([]byte(data)))
		}
		return nil
	})
	sock.conn.SetCloseHandler(func(int, string) error {
		s.queue.setControl(l, func(c *telemetryControl) { c.close = true })
		return nil
	})
	return l
}

// setControl changes what l's writer is to write, and reports whether l is
// still the link.
func (q *telemetryQueue) setControl(l *telemetryLink, set func(*telemetryControl)) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.link != l {
		return false
	}
	set(&l.control)
	l.wakeWriter()
	return true
}

// closeLink has a Close frame sent, if there is a link.
func (q *telemetryQueue) closeLink() bool {
	q.mu.Lock()
	l := q.link
	q.mu.Unlock()
	return l != nil && q.setControl(l, func(c *telemetryControl) { c.close = true })
}

// readLink is the read loop: the engine says nothing but pongs, and why it
// refuses.
func (s *SharedEngineConnection) readLink(l *telemetryLink) {
	var buf []byte
	for {
		kind, r, err := l.conn.NextReader()
		if err == nil {
			l.touch()
			buf, err = l.readMessage(r, buf[:0])
		}
		if err != nil {
			l.fail(readError(err))
			return
		}
		if kind == websocket.TextMessage {
			if err := engineError(buf); err != nil {
				l.fail(err)
				return
			}
		}
	}
}

// engineError is the error that an error frame of the engine says; nil for anything
// else.
func engineError(b []byte) error {
	var m ErrorMessage
	if json.Unmarshal(b, &m) != nil || m.Type != MessageTypeError {
		return nil
	}
	if m.Error.Code == codeAuth {
		return fmt.Errorf("%w (%s)", &AuthError{Message: m.Error.Message}, codeAuth)
	}
	return &Error{Code: m.Error.Code, Message: m.Error.Message}
}

// writeLink is the writer: what waits when it wakes leaves together.
func (s *SharedEngineConnection) writeLink(l *telemetryLink) {
	var batch []queuedFrame
	for !l.isDead() {
		var control telemetryControl
		batch, control = s.queue.take(l, batch[:0])
		if len(batch) == 0 && !control.ping && control.pong == nil && !control.close {
			select {
			case <-l.wake:
				// What other goroutines are about to add leaves in the same write.
				runtime.Gosched()
			case <-l.dead:
			}
			continue
		}
		err := l.writeFrames(batch, control)
		clear(batch)
		if err != nil {
			// The engine may have said why it hung up: the reader gets to it.
			patience := time.AfterFunc(closeTimeout, func() { l.fail(fmt.Errorf("iii: write: %w", err)) })
			<-l.dead
			patience.Stop()
		}
	}
}

func (l *telemetryLink) writeFrames(batch []queuedFrame, control telemetryControl) error {
	for i := range batch {
		w, err := l.conn.NextWriter(websocket.BinaryMessage)
		if err != nil {
			return err
		}
		if _, err := io.WriteString(w, batch[i].Prefix); err != nil {
			return err
		}
		if _, err := w.Write(batch[i].Data); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		l.written.Store(batch[i].number)
		if batch[i].ping {
			if err := l.ping(batch[i].number); err != nil {
				return err
			}
		}
	}
	if control.ping {
		if err := l.ping(control.number); err != nil {
			return err
		}
	}
	if control.pong != nil {
		if err := l.conn.WriteControl(websocket.PongMessage, control.pong, time.Time{}); err != nil {
			return err
		}
	}
	if control.close {
		normal := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
		err := l.conn.WriteControl(websocket.CloseMessage, normal, time.Time{})
		if err != nil && !errors.Is(err, websocket.ErrCloseSent) {
			return err
		}
	}
	return l.net.Flush()
}

// ping asks whether the engine has the frames up to number.
func (l *telemetryLink) ping(number uint64) error {
	return l.conn.WriteControl(websocket.PingMessage, binary.BigEndian.AppendUint64(nil, number), time.Time{})
}

// keepalive pings, or fails the link when nothing has come for too long. It
// returns when to look again.
func (s *SharedEngineConnection) keepalive(l *telemetryLink) time.Duration {
	silent := l.silence()
	if silent >= telemetryIdle {
		l.fail(fmt.Errorf("iii: nothing came from the engine for %v", silent.Round(time.Millisecond)))
		return telemetryPing
	}
	s.queue.setControl(l, func(c *telemetryControl) { c.ping = true })
	return min(telemetryPing, telemetryIdle-silent)
}
