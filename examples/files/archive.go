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

// order asks the archive for a file, which goes into the channel that it names.
type order struct {
	Name string               `json:"name"`
	To   iii.StreamChannelRef `json:"to"`
}

// announcement is a message in the channel, before the bytes.
type announcement struct {
	Size int64 `json:"size"`
}

// receipt says what was sent.
type receipt struct {
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// newArchive is a worker that sends the files of a directory.
func newArchive(url, name string, root *os.Root) (*iii.Client, error) {
	client, err := iii.New(url, iii.WithName(name+"-archive"))
	if err != nil {
		return nil, err
	}
	// The function lasts as long as the file is on its way. So its caller learns how that
	// ended, and a Shutdown of this worker waits for it.
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

// send writes a file into a channel: its size as a message, then its bytes. A write waits
// while the channel is full, and fails once the reader has gone.
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
	defer context.AfterFunc(ctx, func() { _ = w.Close() })() // nobody waits for the receipt
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
