package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/iii-go/iii"
)

// register registers the functions that every peer provides.
func (p *peer) register() error {
	var errs []error
	handle := func(id string, h iii.HandlerFunc) {
		_, err := p.client.HandleFunc(id, h)
		errs = append(errs, err)
	}
	handle("peer::do", p.do)
	handle("peer::echo", func(_ context.Context, payload json.RawMessage) (any, error) { return payload, nil })
	handle("peer::inspect", func(ctx context.Context, payload json.RawMessage) (any, error) {
		inv, _ := iii.InvocationFromContext(ctx)
		return map[string]any{"payload": payload, "metadata": inv.Metadata}, nil
	})
	handle("peer::crash", func(context.Context, json.RawMessage) (any, error) { return nil, errors.New("it broke") })
	_, err := iii.Handle(p.client, "peer::fail", func(_ context.Context, in struct{ Code, Message string }) (any, error) {
		return nil, &iii.Error{Code: in.Code, Message: in.Message}
	})
	errs = append(errs, err)
	_, err = iii.Handle(p.client, "peer::slow", func(ctx context.Context, in struct{ Ms int }) (string, error) {
		select {
		case <-time.After(time.Duration(in.Ms) * time.Millisecond):
			return "late", nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	})
	errs = append(errs, err)
	_, err = iii.Handle(p.client, "peer::http", p.http)
	errs = append(errs, err)
	_, err = iii.Handle(p.client, "peer::text", func(_ context.Context, in struct{ Bytes int }) (string, error) {
		return strings.Repeat("x", in.Bytes), nil
	})
	errs = append(errs, err)
	handle("peer::http-stream", p.httpStream)
	_, err = iii.Handle(p.client, "peer::sink", func(ctx context.Context, in ends) (report, error) {
		r, err := p.client.OpenReader(ctx, in.Reader)
		if err != nil {
			return report{}, err
		}
		return drain(ctx, r)
	})
	errs = append(errs, err)
	_, err = iii.Handle(p.client, "peer::source", func(ctx context.Context, in ends) (bool, error) {
		w, err := p.client.OpenWriter(ctx, in.Writer)
		if err != nil {
			return false, err
		}
		return true, fill(ctx, w, in.Bytes)
	})
	errs = append(errs, err)
	_, err = iii.Handle(p.client, "peer::traced", func(ctx context.Context, in tracedInput) (result json.RawMessage, err error) {
		err = iii.InSpan(ctx, "peer work", trace.SpanKindInternal, func(ctx context.Context) error {
			p.telemetry.Logger().Info(ctx, "working", in.Data)
			return p.client.Call(ctx, in.FunctionID, map[string]any{}, &result)
		})
		return result, err
	})
	return errors.Join(append(errs, err)...)
}

type tracedInput struct {
	FunctionID string          `json:"function_id"`
	Data       json.RawMessage `json:"data"`
}

func (p *peer) http(_ context.Context, r iii.HTTPRequest[json.RawMessage]) (iii.HTTPResponse[any], error) {
	return iii.HTTPResponse[any]{
		StatusCode: http.StatusCreated,
		Headers:    map[string]string{"x-answer": "given"},
		Body: map[string]any{
			"method": r.Method, "path_params": r.PathParams, "query_params": r.QueryParams, "body": r.Body, "header": r.Headers["x-test"],
		},
	}, nil
}

func (p *peer) httpStream(ctx context.Context, payload json.RawMessage) (any, error) {
	var in struct {
		Body     iii.StreamChannelRef `json:"request_body"`
		Response iii.StreamChannelRef `json:"response"`
	}
	if err := json.Unmarshal(payload, &in); err != nil {
		return nil, err
	}
	r, err := p.client.OpenReader(ctx, in.Body)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	body, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	w, err := p.client.OpenWriter(ctx, in.Response)
	if err != nil {
		return nil, err
	}
	for _, control := range []map[string]any{
		{"type": "set_status", "status_code": 202},
		{"type": "set_headers", "headers": map[string]string{"content-type": "text/x-upper"}},
	} {
		if err := w.SendMessage(ctx, control); err != nil {
			return nil, err
		}
	}
	_, err = w.Write(bytes.ToUpper(body))
	return nil, errors.Join(err, w.Close())
}

// ends is the input of functions that read or write channels.
type ends struct {
	Reader iii.StreamChannelRef `json:"reader,omitzero"`
	Writer iii.StreamChannelRef `json:"writer,omitzero"`
	Bytes  int                  `json:"bytes"`
}

// report describes the data read from a channel.
type report struct {
	Texts  []json.RawMessage `json:"texts"`
	Bytes  int64             `json:"bytes"`
	SHA256 string            `json:"sha256"`
}

func drain(ctx context.Context, r *iii.ChannelReader) (report, error) {
	defer r.Close()
	var out report
	for m, err := range r.Messages(ctx) {
		if err != nil {
			return out, err
		}
		out.Texts = append(out.Texts, m)
	}
	sum := sha256.New()
	var err error
	out.Bytes, err = io.Copy(sum, r)
	out.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return out, err
}

// fill writes a message and n bytes to a channel and closes it.
func fill(ctx context.Context, w *iii.ChannelWriter, n int) error {
	defer w.Close()
	if err := w.SendMessage(ctx, map[string]string{"hello": "channel"}); err != nil {
		return err
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*31 + i>>8*7)
	}
	if _, err := w.Write(b); err != nil {
		return err
	}
	return w.Close()
}
