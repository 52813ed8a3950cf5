package iii

import "testing"

// The messages of a call, as they are encoded and cut.
const (
	benchInvoke = `{"type":"invokefunction","invocation_id":"0c1f6f0e-6d6e-4c41-9d0e-6a7b7a3f2f10","function_id":"orders::place",` +
		`"data":{"id":7,"buyer":"ann","lines":["book","pen"],"_caller_worker_id":"975d6453-cd80-4c5a-8a14-ce0551566196"},` +
		`"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}`
	benchResult = `{"type":"invocationresult","invocation_id":"0c1f6f0e-6d6e-4c41-9d0e-6a7b7a3f2f10","function_id":"orders::place",` +
		`"result":{"id":7,"buyer":"ann","lines":["book","pen"]}}`
)

func BenchmarkEncode(b *testing.B) {
	payload := struct {
		ID    int      `json:"id"`
		Buyer string   `json:"buyer"`
		Lines []string `json:"lines"`
	}{7, "ann", []string{"book", "pen"}}
	inv := invocation{id: newInvocationID(), functionID: "orders::place"}
	id := []byte(`"0c1f6f0e-6d6e-4c41-9d0e-6a7b7a3f2f10"`)
	for name, encode := range map[string]func(*buffer) error{
		"invoke": func(buf *buffer) error { return encodeInvoke(buf, &inv, &payload) },
		"result": func(buf *buffer) error { return encodeResult(buf, triggerDialect{}, id, "orders::place", &payload) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				buf := newBuffer()
				if err := encode(buf); err != nil {
					b.Fatal(err)
				}
				buf.free()
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	for name, message := range map[string]string{"invoke": benchInvoke, "result": benchResult} {
		b.Run(name, func(b *testing.B) {
			raw := []byte(message)
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				var m received
				if err := m.parse(raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
