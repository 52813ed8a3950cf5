package iii_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// benchFrame is the size of the frames in which channels carry bytes.
const benchFrame = 64 << 10

// BenchmarkChannelCopy measures io.Copy from a writer's end of a channel to a
// reader's, and beside it what the WebSocket library does bare: one goroutine
// writes 64 KiB binary frames to one connection, another reads them from a second
// one into a buffer that it keeps. Both go through the same relay, over TCP on
// the loopback interface, so the difference is what the ends of a channel cost:
// "relay" is a relay that does nothing but pass frames on, with the 64 frames of
// buffer that an engine has, and "engine" is the development engine. Everything
// runs in one process, so the machine's CPUs carry the relay, too.
func BenchmarkChannelCopy(b *testing.B) {
	for _, via := range []struct {
		name string
		open func(b *testing.B) (url string, newRefs func() (writer, reader iii.StreamChannelRef))
	}{{"relay", benchRelay}, {"engine", benchEngine}} {
		for _, ends := range []struct {
			name string
			open func(b *testing.B, base string, writer, reader iii.StreamChannelRef) (io.WriteCloser, io.Reader)
		}{{"bare", bareEnds}, {"channel", channelEnds}} {
			b.Run(via.name+"/"+ends.name, func(b *testing.B) {
				base, newRefs := via.open(b)
				writer, reader := newRefs()
				w, r := ends.open(b, base, writer, reader)
				b.SetBytes(benchFrame)
				b.ReportAllocs()
				b.ResetTimer()
				wrote := make(chan error, 1)
				go func() {
					_, err := io.Copy(w, io.LimitReader(zeros{}, int64(b.N)*benchFrame))
					if closeErr := w.Close(); err == nil {
						err = closeErr
					}
					wrote <- err
				}()
				n, err := io.Copy(io.Discard, r)
				if err != nil || n != int64(b.N)*benchFrame {
					b.Errorf("read %d bytes of %d: %v", n, int64(b.N)*benchFrame, err)
				}
				b.StopTimer()
				if err := <-wrote; err != nil {
					b.Error(err)
				}
			})
		}
	}
}

// BenchmarkChannelRead reads frames of 64 KiB with small buffers, as parsers do.
func BenchmarkChannelRead(b *testing.B) {
	for _, size := range []int{32, 512, 4096} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			base, newRefs := benchRelay(b)
			writer, reader := newRefs()
			w, r := channelEnds(b, base, writer, reader)
			b.SetBytes(benchFrame)
			b.ReportAllocs()
			b.ResetTimer()
			go func() {
				_, _ = io.Copy(w, io.LimitReader(zeros{}, int64(b.N)*benchFrame))
				_ = w.Close()
			}()
			n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, make([]byte, size))
			if err != nil || n != int64(b.N)*benchFrame {
				b.Errorf("read %d bytes of %d: %v", n, int64(b.N)*benchFrame, err)
			}
		})
	}
}

// zeros is a source without an end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// channelEnds are the ends of the package.
func channelEnds(b *testing.B, base string, writer, reader iii.StreamChannelRef) (io.WriteCloser, io.Reader) {
	c, err := iii.New(base)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	w, err := c.OpenWriter(b.Context(), writer)
	if err != nil {
		b.Fatal(err)
	}
	r, err := c.OpenReader(b.Context(), reader)
	if err != nil {
		b.Fatal(err)
	}
	return w, r
}

// bareEnds are two connections of the WebSocket library.
func bareEnds(b *testing.B, base string, writer, reader iii.StreamChannelRef) (io.WriteCloser, io.Reader) {
	open := func(ref iii.StreamChannelRef, direction string) *websocket.Conn {
		d := websocket.Dialer{ReadBufferSize: benchFrame, WriteBufferSize: benchFrame}
		query := url.Values{"key": {ref.AccessKey}, "dir": {direction}}
		conn, _, err := d.DialContext(b.Context(), base+"/ws/channels/"+ref.ChannelID+"?"+query.Encode(), nil)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	return bareWriter{open(writer, "write")}, &bareReader{conn: open(reader, "read")}
}

type bareWriter struct{ conn *websocket.Conn }

func (w bareWriter) Write(p []byte) (int, error) {
	return len(p), w.conn.WriteMessage(websocket.BinaryMessage, p)
}

// ReadFrom keeps io.Copy to frames of 64 KiB.
func (w bareWriter) ReadFrom(src io.Reader) (n int64, err error) {
	buf := make([]byte, benchFrame)
	for {
		k, err := src.Read(buf)
		if err == io.EOF {
			return n, nil
		}
		if err == nil {
			_, err = w.Write(buf[:k])
		}
		if err != nil {
			return n, err
		}
		n += int64(k)
	}
}

func (w bareWriter) Close() error {
	end := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	return w.conn.WriteMessage(websocket.CloseMessage, end)
}

type bareReader struct{ conn *websocket.Conn }

func (r *bareReader) Read([]byte) (int, error) { panic("io.Copy uses WriteTo") }

func (r *bareReader) WriteTo(dst io.Writer) (n int64, err error) {
	buf := make([]byte, benchFrame)
	for {
		_, frame, err := r.conn.NextReader()
		if websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseNoStatusReceived) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		k, err := io.ReadFull(frame, buf)
		if err != nil {
			return n, err
		}
		if _, err := dst.Write(buf[:k]); err != nil {
			return n, err
		}
		n += int64(k)
	}
}

// benchEngine is the development engine.
func benchEngine(b *testing.B) (string, func() (writer, reader iii.StreamChannelRef)) {
	e := iiitest.Start(b)
	return e.URL(), func() (iii.StreamChannelRef, iii.StreamChannelRef) {
		c, err := iii.New(e.URL())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = c.Close() })
		if err := c.Connect(b.Context()); err != nil {
			b.Fatal(err)
		}
		w, r, err := c.CreateChannel(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		return w.Ref(), r.Ref()
	}
}

// benchRelay passes the frames of the one writer to the one reader.
func benchRelay(b *testing.B) (string, func() (writer, reader iii.StreamChannelRef)) {
	ctx, cancel := context.WithCancel(b.Context())
	frames := make(chan []byte, 64)
	spare := make(chan []byte, 64+2)
	up := websocket.Upgrader{ReadBufferSize: benchFrame, WriteBufferSize: benchFrame}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		defer stop()
		if r.URL.Query().Get("dir") == "read" {
			for f := range frames {
				if conn.WriteMessage(websocket.BinaryMessage, f) != nil {
					return
				}
				select {
				case spare <- f:
				default:
				}
			}
			_ = conn.WriteMessage(websocket.CloseMessage, nil)
			return
		}
		defer close(frames)
		for {
			_, src, err := conn.NextReader()
			if err != nil {
				return
			}
			var buf []byte
			select {
			case buf = <-spare:
			default:
				buf = make([]byte, benchFrame)
			}
			n, err := io.ReadFull(src, buf[:benchFrame])
			if err != nil && err != io.ErrUnexpectedEOF {
				return
			}
			select {
			case frames <- buf[:n]:
			case <-ctx.Done():
				return
			}
		}
	}))
	b.Cleanup(func() { cancel(); server.Close() })
	ref := func(direction iii.StreamChannelDirection) iii.StreamChannelRef {
		return iii.StreamChannelRef{ChannelID: "c", AccessKey: "k", Direction: direction}
	}
	return "ws" + strings.TrimPrefix(server.URL, "http"), func() (writer, reader iii.StreamChannelRef) {
		return ref("write"), ref("read")
	}
}
