// Files transfers a file from one worker to another over a channel. A channel carries any
// amount of data, at the reader's pace. The reader prints its progress and compares the
// checksums computed at both ends.
//
//	files             transfers a generated file of 2 MiB
//	files FROM TO     transfers the file FROM to TO
//
// The program exits with status 0 if the transfer succeeds. If $III_URL is set, the program
// uses the engine at that address. Otherwise it starts a development engine.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal terminates the program immediately
	err := run(ctx, os.Stdout, flag.Arg(0), flag.Arg(1))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "files:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, from, to string) (err error) {
	if (from == "") != (to == "") {
		return errors.New("want two files: FROM TO")
	}
	if from == "" {
		dir, err := os.MkdirTemp("", "iii-files-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		from, to = filepath.Join(dir, "picture"), filepath.Join(dir, "copy")
		if err := os.WriteFile(from, []byte(rand.Text()+strings.Repeat("iii ", 1<<19)), 0o600); err != nil {
			return err
		}
	}
	url := os.Getenv("III_URL")
	if url == "" {
		engine, err := iiitest.New()
		if err != nil {
			return err
		}
		defer engine.Close()
		url = engine.URL()
	}
	// Each run uses unique names, so several runs can share an engine.
	name := "files-" + strings.ToLower(rand.Text()[:6])

	root, err := os.OpenRoot(filepath.Dir(from)) // requests cannot access files outside this directory
	if err != nil {
		return err
	}
	defer root.Close()
	archive, err := newArchive(url, name, root)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shutdown(ctx, archive)) }()
	if err := archive.Connect(ctx); err != nil {
		return err
	}
	reader, err := iii.New(url, iii.WithName(name+"-reader"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shutdown(ctx, reader)) }()
	if err := reader.Connect(ctx); err != nil {
		return err
	}

	if err := fetch(ctx, reader, out, name+"::send", filepath.Base(from), to); err != nil {
		return err
	}
	// A rejected request returns an error with a code and leaves no file behind.
	var refusal *iii.Error
	if err := fetch(ctx, reader, out, name+"::send", "no-such-file", to+"-too"); !errors.As(err, &refusal) {
		return fmt.Errorf("the archive does not refuse no-such-file: %v", err)
	}
	fmt.Fprintf(out, "no-such-file: %s\n", refusal.Code)
	return nil
}

// shutdown shuts down a worker gracefully, even after an interrupt has canceled ctx.
func shutdown(ctx context.Context, c *iii.Client) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return c.Shutdown(ctx)
}
