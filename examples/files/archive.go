package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/iii-go/iii"
)

// order requests a file, which the archive writes to the channel that To refers to.
type order struct {
	Name string               `json:"name"`
	To   iii.StreamChannelRef `json:"to"`
}

// announcement is the message that precedes the bytes in the channel.
type announcement struct {
	Size int64 `json:"size"`
}

// receipt describes the transferred bytes.
type receipt struct {
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// newArchive returns a worker that sends files from root.
func newArchive(url, name string, root *os.Root) (*iii.Client, error) {
	client, err := iii.New(url, iii.WithName(name+"-archive"))
	if err != nil {
		return nil, err
	}
	// The function returns only after the transfer, so the caller receives the outcome, and
	// Shutdown waits for running transfers.
	_, err = iii.Handle(client, name+"::send", func(ctx context.Context, o order) (receipt, error) {
		file, err := root.Open(o.Name)
		if errors.Is(err, fs.ErrNotExist) {
			return receipt{}, &iii.Error{Code: "no_such_file", Message: "there is no " + o.Name}
		}
		if err != nil {
			return receipt{}, err
		}
		defer file.Close()
		return send(ctx, client, file, o.To)
	})
	return client, err
}

// send writes a file to a channel: first its size as a message, then its content. While the
// channel is full, writes block; after the reader has disconnected, they fail.
func send(ctx context.Context, client *iii.Client, file *os.File, to iii.StreamChannelRef) (receipt, error) {
	info, err := file.Stat()
	if err != nil {
		return receipt{}, err
	}
	w, err := client.OpenWriter(ctx, to)
	if err != nil {
		return receipt{}, err
	}
	defer w.Close()
	defer context.AfterFunc(ctx, func() { _ = w.Close() })() // stop the transfer if the caller disconnects
	if err := w.SendMessage(ctx, announcement{Size: info.Size()}); err != nil {
		return receipt{}, err
	}
	hash := sha256.New()
	n, err := io.Copy(w, io.TeeReader(file, hash))
	if err != nil {
		return receipt{}, err
	}
	return receipt{Bytes: n, SHA256: hex.EncodeToString(hash.Sum(nil))}, w.Close()
}
