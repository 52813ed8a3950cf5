package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"github.com/iii-go/iii"
)

// A worker sends a file to another worker: a call carries the reference of the reading end,
// and the channel carries any number of bytes.
func ExampleClient_CreateChannel() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	type Upload struct {
		Name    string               `json:"name"`
		Content iii.StreamChannelRef `json:"content"`
	}
	_, err := iii.Handle(client, "files::store", func(ctx context.Context, in Upload) (string, error) {
		content, err := client.OpenReader(ctx, in.Content)
		if err != nil {
			return "", err
		}
		defer content.Close()
		n, err := io.Copy(io.Discard, content)
		return fmt.Sprintf("%s has %d bytes", in.Name, n), err
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	writer, reader, err := client.CreateChannel(ctx)
	if err != nil {
		log.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(writer, strings.NewReader(strings.Repeat("tea ", 1_000_000)))
		sent <- errors.Join(err, writer.Close()) // the reader sees io.EOF only after Close
	}()
	stored, err := iii.Call[string](ctx, client, "files::store", Upload{Name: "tea.txt", Content: reader.Ref()})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(stored, <-sent)
	// Output: tea.txt has 4000000 bytes <nil>
}

// A channel carries messages as well as bytes. Here another worker receives the writing end
// and reports the progress of a job.
func ExampleChannelReader_Messages() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()

	_, err := iii.Handle(client, "video::encode", func(ctx context.Context, progress iii.StreamChannelRef) (string, error) {
		w, err := client.OpenWriter(ctx, progress)
		if err != nil {
			return "", err
		}
		defer w.Close()
		for percent := 0; percent <= 100; percent += 50 {
			if err := w.SendMessage(ctx, map[string]int{"percent": percent}); err != nil {
				return "", err
			}
		}
		return "done", nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	writer, reader, err := client.CreateChannel(ctx, iii.WithChannelBuffer(8))
	if err != nil {
		log.Fatal(err)
	}
	defer reader.Close()
	done := make(chan string, 1)
	go func() {
		result, err := iii.Call[string](ctx, client, "video::encode", writer.Ref())
		done <- fmt.Sprint(result, " ", err)
	}()
	for message, err := range reader.Messages(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(string(message))
	}
	fmt.Println(<-done)
	// Output:
	// {"percent":0}
	// {"percent":50}
	// {"percent":100}
	// done <nil>
}

// Without a deadline, a Read waits for the writer and a Write waits for the reader.
func ExampleChannelReader_SetReadDeadline() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}
	writer, reader, err := client.CreateChannel(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer writer.Close()
	defer reader.Close()

	if err := reader.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		log.Fatal(err)
	}
	_, err = reader.Read(make([]byte, 100))
	fmt.Println(errors.Is(err, os.ErrDeadlineExceeded))

	if err := reader.SetReadDeadline(time.Time{}); err != nil { // no deadline
		log.Fatal(err)
	}
	if err := writer.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
		log.Fatal(err)
	}
	if _, err := io.WriteString(writer, "late"); err != nil {
		log.Fatal(err)
	}
	buf := make([]byte, 100)
	n, err := reader.Read(buf)
	fmt.Println(string(buf[:n]), err)
	// Output:
	// true
	// late <nil>
}

// ChannelRefs finds references to channels in a payload of any shape.
func ExampleChannelRefs() {
	payload := json.RawMessage(`{"name": "photo.jpg", "parts": [{"content": {"channel_id": "c1", "access_key": "k1", "direction": "read"}}]}`)
	for _, at := range iii.ChannelRefs(payload) {
		fmt.Println(at.Path, at.Ref.Direction, at.Ref.ChannelID)
	}
	// Output: parts[0].content read c1
}
