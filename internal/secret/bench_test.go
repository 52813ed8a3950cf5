package secret

import (
	"strings"
	"testing"
)

// BenchmarkText masks a call frame, as the frame log and the console do.
func BenchmarkText(b *testing.B) {
	frame := `{"type":"invokefunction","invocation_id":"0c1f6f0e-6d6e-4c41-9d0e-6a7b7a3f2f10","function_id":"orders::place","data":{"lines":[` +
		strings.Repeat(`{"sku":"book","price":12.5,"quantity":3},`, 10) + `{"token":"s3cret"}]},"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}`
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		Text(frame)
	}
}
