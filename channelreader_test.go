package iii

import "testing"

// Frames take the memory that they count as, small and empty ones too.
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
					t.Fatalf("frames of %d bytes are kept without end", size)
				}
			}
			if held > 2*channelReadAhead {
				t.Errorf("%d frames of %d bytes take %d bytes, more than twice the bound of %d", frames, size, held, channelReadAhead)
			}
			for q.size > 0 {
				q.pop()
			}
			if len(q.frames) != 0 {
				t.Errorf("size is 0 with %d frames of %d bytes left", len(q.frames), size)
			}
		}
	}
}
