package iiitest

import "testing"

// What a callee gets is what the engine makes of the caller's trace context.
func TestTraceToCallee(t *testing.T) {
	const ids = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"
	tests := []struct {
		name     string
		in, want traceContext
	}{
		{name: "none"},
		{"both", traceContext{"00-" + ids + "-01", "a=1"}, traceContext{"00-" + ids + "-01", "iii.function.id=f,a=1"}},
		{"not sampled", traceContext{"00-" + ids + "-00", ""}, traceContext{"00-" + ids + "-00", "iii.function.id=f"}},
		{"random, not sampled", traceContext{"00-" + ids + "-02", ""}, traceContext{"00-" + ids + "-00", "iii.function.id=f"}},
		{"random", traceContext{"00-" + ids + "-03", "a=1"}, traceContext{"", "iii.function.id=f,a=1"}},
		{"later version", traceContext{"cc-" + ids + "-ff-more", ""}, traceContext{"00-" + ids + "-01", "iii.function.id=f"}},
		{"no version", traceContext{"ff-" + ids + "-01", ""}, traceContext{"", "iii.function.id=f"}},
		{"capitals", traceContext{"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", ""}, traceContext{"", "iii.function.id=f"}},
		{"other callee", traceContext{"", "iii.function.id=g;p, b = 2 ;x=y"}, traceContext{"", "iii.function.id=f,b=2;x=y"}},
		{"escapes", traceContext{"", "a=100%25,b=x%3dy%2C z,c=%C3%BC,d=%zz"}, traceContext{"", "iii.function.id=f,a=100%,b=x%3Dy%2C%20z,c=%C3%BC,d=%zz"}},
		{"bad entries", traceContext{"", "bad,=1,a=%ff,b=1=2"}, traceContext{"", "iii.function.id=f,b=1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.in.toCallee("f"); got != tt.want {
				t.Errorf("%+v becomes %+v, want %+v", tt.in, got, tt.want)
			}
		})
	}
}
