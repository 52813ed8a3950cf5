package iii

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestErrorsIs(t *testing.T) {
	sentinels := map[string]error{
		"ErrClosed": ErrClosed, "ErrNotConnected": ErrNotConnected, "ErrConnectionLost": ErrConnectionLost, "ErrBufferFull": ErrBufferFull,
		"ErrMessageTooLarge": ErrMessageTooLarge, "ErrTimeout": ErrTimeout, "ErrFunctionNotFound": ErrFunctionNotFound, "ErrForbidden": ErrForbidden,
		"ErrEnqueue": ErrEnqueue, "DeadlineExceeded": context.DeadlineExceeded, "Canceled": context.Canceled,
	}
	tests := []struct {
		name string
		err  error
		is   string // names of the sentinel errors that match
		text string
	}{
		{"not found", &Error{Code: "function_not_found", Message: "m", FunctionID: "a::b"}, "ErrFunctionNotFound", "iii: a::b: function_not_found: m"},
		{"forbidden", &Error{Code: "FORBIDDEN", Message: "m"}, "ErrForbidden", "iii: FORBIDDEN: m"},
		{"enqueue", &Error{Code: "enqueue_error", Message: "m"}, "ErrEnqueue", "iii: enqueue_error: m"},
		{"other code", &Error{Code: "forbidden", Message: "m"}, "", "iii: forbidden: m"},
		{"no code", &Error{}, "", "iii: "},
		{"wrapped", fmt.Errorf("x: %w", &Error{Code: "FORBIDDEN"}), "ErrForbidden", ""},
		{"timeout", ErrTimeout, "ErrTimeout DeadlineExceeded", "iii: call timed out"},
		{"lost", fmt.Errorf("%w: %w", ErrConnectionLost, io.EOF), "ErrConnectionLost", ""},
		{"lost Sends", &LostSendsError{Count: 3, Err: io.EOF}, "ErrConnectionLost", "iii: connection lost with 3 sent messages unconfirmed: EOF"},
		{"call", &callError{verb: "call", functionID: "f", err: fmt.Errorf("%w: %w", ErrNotConnected, ErrTimeout)}, "ErrNotConnected ErrTimeout DeadlineExceeded",
			"iii: call f: not connected: call timed out"},
		{"rejected function", &RejectedError{Code: "C", Namespace: "n", FunctionID: "f", OwnerWorkerID: "w"}, "", `iii: engine rejected function "f" in namespace "n": C, owned by worker w`},
		{"rejected name", &RejectedError{Code: "C", Namespace: "n", WorkerName: "w"}, "", `iii: engine rejected worker name "w" in namespace "n": C`},
		{"rejected", &RejectedError{Code: "C"}, "", `iii: engine rejected registration in namespace "": C`},
		{"auth", &AuthError{Message: "m"}, "", "iii: engine rejected this worker: m"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for name, sentinel := range sentinels {
				want := false
				for is := range strings.FieldsSeq(test.is) {
					want = want || is == name
				}
				if got := errors.Is(test.err, sentinel); got != want {
					t.Errorf("is %s: %v, want %v", name, got, want)
				}
			}
			if test.text != "" && test.err.Error() != test.text {
				t.Errorf("text %q, want %q", test.err, test.text)
			}
		})
	}
	var timeout net.Error
	if !errors.As(fmt.Errorf("x: %w", timeoutWrapper{}), &timeout) || !timeout.Timeout() {
		t.Error("a timeout is not a net.Error")
	}
}

// timeoutWrapper adds the Temporary method that net.Error requires.
type timeoutWrapper struct{ timeoutError }

func (timeoutWrapper) Temporary() bool { return false }

func TestSafeToRetry(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"nil":                 {nil, false},
		"another's":           {io.EOF, false},
		"sentinel alone":      {ErrNotConnected, false},
		"not sent":            {&callError{err: ErrBufferFull}, true},
		"not sent, wrapped":   {fmt.Errorf("x: %w", &callError{err: ErrBufferFull}), true},
		"sent":                {&callError{err: ErrConnectionLost, sent: true}, false},
		"answered":            {&Error{Code: "out_of_stock"}, false},
		"sent beside another": {errors.Join(io.EOF, &callError{err: ErrTimeout, sent: true}), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := SafeToRetry(test.err); got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

// TestCallErrors provokes each error that a caller can receive.
func TestCallErrors(t *testing.T) {
	cause := errors.New("the reason")
	unsent := fmt.Errorf("an older call: %w", ErrNotConnected)
	tests := []struct {
		name string
		err  func(t *testing.T, p *peer, c *Client) error
		is   []error
		not  []error
		safe bool
	}{
		{"timeout", func(t *testing.T, _ *peer, c *Client) error {
			return c.Call(t.Context(), "x::y", 1, nil, WithTimeout(time.Second))
		}, []error{ErrTimeout, context.DeadlineExceeded}, []error{ErrNotConnected, ErrConnectionLost}, false},
		{"default timeout", func(t *testing.T, _ *peer, c *Client) error { return c.Call(t.Context(), "x::y", 1, nil) },
			[]error{ErrTimeout}, nil, false},
		{"deadline", func(t *testing.T, _ *peer, c *Client) error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return c.Call(ctx, "x::y", 1, nil)
		}, []error{context.DeadlineExceeded}, []error{ErrTimeout, ErrNotConnected}, false},
		{"canceled with a cause", func(t *testing.T, _ *peer, c *Client) error {
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(time.Second, func() { cancel(cause) })
			return c.Call(ctx, "x::y", 1, nil)
		}, []error{context.Canceled, cause}, []error{ErrNotConnected}, false},
		// The context's cause wraps ErrNotConnected from an earlier call, but this call was
		// sent.
		{"canceled with a misleading cause", func(t *testing.T, _ *peer, c *Client) error {
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(time.Second, func() { cancel(unsent) })
			return c.Call(ctx, "x::y", 1, nil)
		}, []error{context.Canceled}, nil, false},
		{"ended before", func(t *testing.T, _ *peer, c *Client) error {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return c.Call(ctx, "x::y", 1, nil)
		}, []error{context.Canceled, ErrNotConnected}, nil, true},
		{"client closed", func(t *testing.T, _ *peer, c *Client) error {
			time.AfterFunc(time.Second, func() { _ = c.Close() })
			return c.Call(t.Context(), "x::y", 1, nil)
		}, []error{ErrConnectionLost}, nil, false},
		{"client closed while it waits", func(t *testing.T, p *peer, c *Client) error {
			p.conn(0).Cut()
			synctest.Wait()
			time.AfterFunc(time.Millisecond, func() { _ = c.Close() })
			return c.Call(t.Context(), "x::y", 1, nil)
		}, []error{ErrNotConnected, ErrClosed}, []error{ErrConnectionLost}, true},
		{"blank id", func(t *testing.T, _ *peer, c *Client) error { return c.Call(t.Context(), " ", 1, nil) }, nil, nil, true},
		{"payload that does not encode", func(t *testing.T, _ *peer, c *Client) error { return c.Call(t.Context(), "x::y", unencodable{}, nil) },
			[]error{errUnencodable}, nil, true},
		{"metadata that does not encode", func(t *testing.T, _ *peer, c *Client) error {
			return c.Send(t.Context(), "x::y", 1, WithMetadata(unencodable{}))
		}, []error{errUnencodable}, nil, true},
		{"bad timeout", func(t *testing.T, _ *peer, c *Client) error {
			return c.Call(t.Context(), "x::y", 1, nil, WithTimeout(0))
		}, nil, nil, true},
		{"blank namespace", func(t *testing.T, _ *peer, c *Client) error {
			return c.Call(t.Context(), "x::y", 1, nil, InNamespace(" "))
		}, nil, nil, true},
		{"nil option", func(t *testing.T, _ *peer, c *Client) error { return c.Call(t.Context(), "x::y", 1, nil, nil) }, nil, nil, true},
		{"blank queue", func(t *testing.T, _ *peer, c *Client) error {
			_, err := c.Enqueue(t.Context(), "", "x::y", 1)
			return err
		}, nil, nil, true},
		{"answer of another type", func(t *testing.T, _ *peer, c *Client) error {
			var out []int
			return c.Call(t.Context(), "answer::text", 1, &out)
		}, nil, []error{ErrNotConnected}, false},
		{"remote error", func(t *testing.T, _ *peer, c *Client) error { return c.Call(t.Context(), "answer::error", 1, nil) },
			[]error{ErrForbidden}, nil, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, script{message: func(c *peerConn, m *peerMessage) bool {
					switch m.FunctionID {
					case "answer::text":
						c.result(m, `"text"`)
					case "answer::error":
						c.fail(m, "FORBIDDEN", "no")
					}
					return unanswered(c, m)
				}})
				c := p.connected()
				err := suite.note(test.err(t, p, c))
				if err == nil {
					t.Fatal("no error")
				}
				if !strings.HasPrefix(err.Error(), "iii: ") || strings.Count(err.Error(), "iii: call") > 1 && !errors.Is(err, ErrTimeout) {
					t.Errorf("text: %s", err)
				}
				for _, is := range test.is {
					if !errors.Is(err, is) {
						t.Errorf("%v is not %v", err, is)
					}
				}
				for _, not := range test.not {
					if errors.Is(err, not) {
						t.Errorf("%v is %v", err, not)
					}
				}
				if got := SafeToRetry(err); got != test.safe {
					t.Errorf("%v: safe to retry: %v", err, got)
				}
				if s := c.Stats(); s.CallsInFlight != 0 || s.Buffered != 0 {
					t.Errorf("left: %d calls, %d messages", s.CallsInFlight, s.Buffered)
				}
			})
		})
	}
}

// A result that arrives after its call has timed out is counted, and does not affect other
// calls.
func TestLateResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var late []*peerMessage
		p := newPeer(t, script{message: func(c *peerConn, m *peerMessage) bool {
			if m.FunctionID == "x::slow" {
				late = append(late, m)
				return true
			}
			return false
		}})
		c := p.connected()
		for range 10 {
			if err := c.Call(t.Context(), "x::slow", "late", nil, WithTimeout(time.Second)); !errors.Is(err, ErrTimeout) {
				t.Error(err)
			}
		}
		synctest.Wait()
		for _, m := range late {
			p.conn(0).result(m, `"late"`)
			p.conn(0).result(m, `"late"`)
		}
		for i := range 10 {
			if got, err := Call[int](t.Context(), c, "x::y", i); err != nil || got != i {
				t.Errorf("call: %d, %v", got, err)
			}
		}
		if s := c.Stats(); s.LateResults != 20 {
			t.Errorf("late results: %d", s.LateResults)
		}
	})
}

// TestCallsConcurrent checks that each of many concurrent calls receives its own result, even
// when results arrive out of order.
func TestCallsConcurrent(t *testing.T) {
	p := newPeer(t, script{forget: true, message: func(c *peerConn, m *peerMessage) bool {
		if m.FunctionID != "x::y" || m.InvocationID == "" {
			return false
		}
		go c.result(m, string(m.Data))
		return true
	}})
	c := p.connected()
	done := make(chan error)
	const callers, calls = 20, 50
	for u := range callers {
		go func() {
			for i := range calls {
				want := u*calls + i
				if i%5 == 0 {
					if err := c.Send(context.Background(), "x::y", want); err != nil {
						done <- err
						return
					}
				}
				if got, err := Call[int](context.Background(), c, "x::y", want); err != nil || got != want {
					done <- fmt.Errorf("call %d: %d, %w", want, got, err)
					return
				}
			}
			done <- nil
		}()
	}
	for range callers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// Every error code that the package or the engine sends has a Code constant.
func TestCodesHaveConstants(t *testing.T) {
	names := map[string]string{} // names of the constants, by code
	fset := token.NewFileSet()
	for _, decl := range parsed(t, fset, "errors.go").Decls {
		general, ok := decl.(*ast.GenDecl)
		if !ok || general.Tok != token.CONST {
			continue
		}
		for _, spec := range general.Specs {
			spec := spec.(*ast.ValueSpec)
			if code, ok := literal(spec.Values[0]); ok && strings.HasPrefix(spec.Names[0].Name, "Code") {
				if other := names[code]; other != "" {
					t.Errorf("%s and %s are both %s", other, spec.Names[0].Name, code)
				}
				names[code] = spec.Names[0].Name
			}
		}
	}
	seen := map[string]bool{}
	for _, pattern := range []string{"*.go", "iiitest/*.go", "internal/filter/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			own := pattern == "*.go"
			check := func(e ast.Expr) {
				code, ok := literal(e)
				if !ok || code == "" {
					return
				}
				seen[code] = true
				if names[code] == "" {
					t.Errorf("%s: the code %s has no constant", fset.Position(e.Pos()), code)
				} else if own {
					t.Errorf("%s: the code %s is not written as %s", fset.Position(e.Pos()), code, names[code])
				}
			}
			ast.Inspect(parsed(t, fset, file), func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CallExpr:
					name, _ := n.Fun.(*ast.Ident)
					at, ok := map[string]int{"errorBody": 0, "providerError": 2}[nameOf(name)]
					if ok && at < len(n.Args) {
						check(n.Args[at])
					}
				case *ast.CompositeLit:
					name, _ := n.Type.(*ast.Ident)
					if selector, ok := n.Type.(*ast.SelectorExpr); ok {
						name = selector.Sel
					}
					if !slices.Contains([]string{"Error", "ErrorBody", "wireError", "RejectedError", "FilterError"}, nameOf(name)) {
						return true
					}
					for i, element := range n.Elts {
						if pair, ok := element.(*ast.KeyValueExpr); !ok {
							if i == 0 {
								check(element)
							}
						} else if key, ok := pair.Key.(*ast.Ident); ok && key.Name == "Code" {
							check(pair.Value)
						}
					}
				}
				return true
			})
		}
	}
	for _, code := range []string{"memory_exporter_not_enabled", "observability_blocking_task_failed", "trace_storage_clear_failed"} { // only sent by a real engine
		if names[code] == "" {
			t.Errorf("the code %s has no constant", code)
		}
	}
	if len(seen) < 40 {
		t.Errorf("only %d codes were found: %v", len(seen), slices.Sorted(maps.Keys(seen)))
	}
}

func parsed(t *testing.T, fset *token.FileSet, name string) *ast.File {
	t.Helper()
	f, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func nameOf(id *ast.Ident) string {
	if id == nil {
		return ""
	}
	return id.Name
}

func literal(e ast.Expr) (string, bool) {
	l, ok := e.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(l.Value)
	return s, err == nil
}
