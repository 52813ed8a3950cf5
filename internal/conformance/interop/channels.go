package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"sync"

	"github.com/iii-go/iii"
)

// channelBytes is the number of bytes sent through a channel in each scenario.
const channelBytes = 1 << 20

var channels = []scenario{
	{"channel-go-peer", "1 MiB from Go to the peer, over a channel created by Go", func(ctx context.Context, t *trial) {
		w, r, err := t.client.CreateChannel(ctx)
		t.must("engine::channels::create", err)
		sent := make(chan error, 1)
		ctx, cancel := context.WithCancel(ctx)
		var writing sync.WaitGroup
		defer writing.Wait()
		defer cancel()
		writing.Go(func() {
			_, err := fill(ctx, w, channelBytes)
			sent <- err
		})
		t.equal("what the peer read", t.call(ctx, "peer::sink", object{"reader": r.Ref()}), reportOf(channelBytes))
		t.must("writing", <-sent)
	}},
	{"channel-peer-go", "1 MiB from the peer to Go, over a channel created by Go", func(ctx context.Context, t *trial) {
		w, r, err := t.client.CreateChannel(ctx)
		t.must("engine::channels::create", err)
		written := make(chan error, 1)
		go func() {
			err := t.client.Call(ctx, "peer::source", object{"writer": w.Ref(), "bytes": channelBytes}, nil)
			written <- err
			if err != nil {
				_ = r.Close() // the peer will not write
			}
		}()
		report, err := drain(ctx, r)
		t.must("the peer's writing", errors.Join(<-written, err))
		t.equal("what Go read", report, reportOf(channelBytes))
	}},
	{"channel-of-peer-in", "1 MiB from Go to the peer, over a channel created by the peer", func(ctx context.Context, t *trial) {
		got := t.value(ctx, "channel-in", object{"function_id": "go::source", "bytes": channelBytes})
		t.equal("what the peer read", got, reportOf(channelBytes))
	}},
	{"channel-of-peer-out", "1 MiB from the peer to Go, over a channel created by the peer", func(ctx context.Context, t *trial) {
		got := t.value(ctx, "channel-out", object{"function_id": "go::sink", "bytes": channelBytes})
		t.equal("what Go read", got, reportOf(channelBytes))
	}},
}

// channelInput is the input of functions that read or write channels.
type channelInput struct {
	Reader iii.StreamChannelRef `json:"reader,omitzero"`
	Writer iii.StreamChannelRef `json:"writer,omitzero"`
	Bytes  int                  `json:"bytes"`
}

// channelReport describes the data that went through a channel: text messages, then bytes.
type channelReport struct {
	Texts  []json.RawMessage `json:"texts"`
	Bytes  int               `json:"bytes"`
	SHA256 string            `json:"sha256"`
}

// hello is the text message sent before the bytes.
const hello = `{"hello":"channel"}`

// pattern returns n bytes of test data.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*31 + i>>8*7)
	}
	return b
}

// reportOf returns the expected report for a channel that carried n bytes.
func reportOf(n int) channelReport {
	sum := sha256.Sum256(pattern(n))
	return channelReport{Texts: []json.RawMessage{json.RawMessage(hello)}, Bytes: n, SHA256: hex.EncodeToString(sum[:])}
}

// drain reads a channel to its end.
func drain(ctx context.Context, r *iii.ChannelReader) (channelReport, error) {
	defer r.Close()
	report := channelReport{Texts: []json.RawMessage{}}
	for m, err := range r.Messages(ctx) { // Messages buffers the bytes that follow
		if err != nil {
			return report, err
		}
		report.Texts = append(report.Texts, m)
	}
	sum := sha256.New()
	n, err := io.Copy(sum, r)
	report.Bytes, report.SHA256 = int(n), hex.EncodeToString(sum.Sum(nil))
	return report, err
}

// fill writes hello and n bytes to a channel and closes it.
func fill(ctx context.Context, w *iii.ChannelWriter, n int) (channelReport, error) {
	defer w.Close()
	defer context.AfterFunc(ctx, func() { _ = w.Close() })() // Write blocks until the channel is read
	if err := w.SendMessage(ctx, json.RawMessage(hello)); err != nil {
		return channelReport{}, err
	}
	if _, err := w.Write(pattern(n)); err != nil {
		return channelReport{}, err
	}
	return reportOf(n), w.Close()
}
