package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/iii-go/iii"
)

// fetch requests a file from the archive. The file appears at path only once the transfer is
// complete.
func fetch(ctx context.Context, client *iii.Client, out io.Writer, sendID, name, path string) (err error) {
	file, err := os.Create(path + ".part")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name())
		}
	}()
	defer file.Close()

	writer, reader, err := client.CreateChannel(ctx)
	if err != nil {
		return err
	}
	defer reader.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type outcome struct {
		receipt receipt
		err     error
	}
	called := make(chan outcome, 1)
	go func() {
		r, err := iii.Call[receipt](ctx, client, sendID, order{Name: name, To: writer.Ref()}, iii.WithTimeout(time.Hour))
		if err != nil {
			_ = reader.Close() // unblock receive, because the archive may never open the channel
		}
		called <- outcome{r, err}
	}()
	hash := sha256.New()
	n, err := receive(ctx, reader, io.MultiWriter(file, hash), out, name)
	if err != nil {
		cancel() // stop the transfer
	}
	sent := <-called
	if err := errors.Join(sent.err, err); err != nil {
		return err
	}
	if got := (receipt{n, hex.EncodeToString(hash.Sum(nil))}); got != sent.receipt {
		return fmt.Errorf("%s: %+v were sent, %+v have arrived", name, sent.receipt, got)
	}
	fmt.Fprintf(out, "%s: %d bytes, with the checksum of the archive\n", name, n)
	if err := file.Close(); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

// receive reads what send writes: the size as a message, then the bytes.
func receive(ctx context.Context, r *iii.ChannelReader, to, out io.Writer, name string) (int64, error) {
	var a announcement
	for message, err := range r.Messages(ctx) {
		if err == nil {
			err = json.Unmarshal(message, &a)
		}
		if err != nil {
			return 0, err
		}
		break // only bytes follow
	}
	return io.Copy(io.MultiWriter(to, &progress{name: name, size: a.Size, out: out}), r)
}

// progress is a writer that prints a line each time another quarter of size has been written.
type progress struct {
	name      string
	size, got int64
	told      int64
	out       io.Writer
}

func (p *progress) Write(b []byte) (int, error) {
	p.got += int64(len(b))
	for p.size > 0 && p.told < 4*p.got/p.size {
		p.told++
		fmt.Fprintf(p.out, "%s: %3d %%\n", p.name, 25*p.told)
	}
	return len(b), nil
}
