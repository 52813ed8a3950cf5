package iii

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// Reading a frame in parts does not allocate, and buffers are reused.
func TestChannelReaderReadsInParts(t *testing.T) {
	r := newChannelReader(nil, StreamChannelRef{})
	want := bytes.Repeat([]byte("0123456789abcde"), channelChunk/15)
	for _, frame := range [][]byte{want, nil, []byte("end")} {
		if err := r.keep(false, append(r.buffer(), frame...)); err != nil {
			t.Fatal(err)
		}
	}
	var got []byte
	buf := make([]byte, 7)
	if allocs := testing.AllocsPerRun(100, func() {
		n, _, err := r.readFrame(buf)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got[:len(got):cap(got)], buf[:n]...)
	}); allocs > 1 { // one to grow the slice got
		t.Errorf("%v allocations for a part of a frame", allocs)
	}
	frame, read := r.bytes.pop() // as WriteTo does
	if got = append(got, frame[read:]...); !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, want %d", len(got), len(want))
	}
	if n, done, err := r.readFrame(buf); n != 0 || done == nil || err != nil {
		t.Errorf("the empty frame: %d bytes, %v, %v", n, done, err)
	}
	r.endReading(io.EOF)
	if n, done, err := r.readFrame(buf); string(buf[:n]) != "end" || cap(done) < channelChunk || err != nil {
		t.Errorf("the last frame: %q in %d bytes, %v", buf[:n], cap(done), err)
	}
	if _, _, err := r.readFrame(buf); !errors.Is(err, io.EOF) {
		t.Errorf("after the last frame: %v", err)
	}
	if r.bytes.size != 0 {
		t.Errorf("size is %d, but no frame is left", r.bytes.size)
	}
}

// Even a small or empty frame holds no more memory than the reader accounts for.
func TestChannelReaderHoldsSmallFrames(t *testing.T) {
	for _, text := range []bool{false, true} {
		for _, size := range []int{0, 1, 1000} {
			r := newChannelReader(nil, StreamChannelRef{})
			q := &r.bytes
			if text {
				q = &r.messages
			}
			held, frames := 0, 0
			for q.size < channelReadAhead {
				frame := r.fitted(append(r.buffer(), make([]byte, size)...))
				if err := r.keep(text, frame); err != nil {
					t.Fatal(err)
				}
				held += cap(frame)
				if frames++; frames > channelReadAhead {
					t.Fatalf("frames of %d bytes are kept without limit", size)
				}
			}
			if held > 2*channelReadAhead {
				t.Errorf("%d frames of %d bytes take %d bytes, more than twice the bound of %d", frames, size, held, channelReadAhead)
			}
			for q.size > 0 {
				q.pop()
			}
			if q.frames.Len() != 0 {
				t.Errorf("size is 0 with %d frames of %d bytes left", q.frames.Len(), size)
			}
		}
	}
}
