package iiitest_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/iiitest"
)

// The documentation quotes the tests in this file. They test a worker that greets people and
// sends a greeting every morning.

type Person struct {
	Name string `json:"name"`
}

// newGreeter creates the worker under test, for the engine at url.
func newGreeter(url string, opts ...iii.Option) (*iii.Client, error) {
	client, err := iii.New(url, opts...)
	if err != nil {
		return nil, err
	}
	_, err = iii.Handle(client, "greet", func(ctx context.Context, p Person) (string, error) {
		if p.Name == "" {
			return "", &iii.Error{Code: "nobody", Message: "a name is missing"}
		}
		return "Hello, " + p.Name, nil
	})
	if err != nil {
		return nil, err
	}
	_, err = client.Trigger("greet", iii.CronTriggerConfig{Expression: "0 0 8 * * *"})
	return client, err
}

func TestGreeter(t *testing.T) {
	engine := iiitest.Start(t) // closed when the test ends
	greeter, err := newGreeter(engine.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer greeter.Close()
	if err := greeter.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}

	got, err := iii.Call[string](t.Context(), greeter, "greet", Person{Name: "Ada"})
	if err != nil || got != "Hello, Ada" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestGreeterOnEveryEngine(t *testing.T) {
	for _, protocol := range []iiitest.Protocol{iiitest.Protocol023, iiitest.Protocol025, iiitest.Protocol026} {
		t.Run(protocol.String(), func(t *testing.T) {
			engine := iiitest.Start(t, iiitest.WithProtocol(protocol))
			log := slog.New(slog.NewTextHandler(t.Output(), nil)) // shown if the test fails
			greeter, err := newGreeter(engine.URL(), iii.WithName("greeter"), iii.WithLogger(log))
			if err != nil {
				t.Fatal(err)
			}
			defer greeter.Close()
			caller, err := iii.New(engine.URL(), iii.WithName("caller"))
			if err != nil {
				t.Fatal(err)
			}
			defer caller.Close()
			for _, client := range []*iii.Client{greeter, caller} {
				if err := client.Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err := greeter.Ready(); err != nil { // for example, because the engine has rejected a trigger
				t.Error(err)
			}

			_, err = iii.Call[string](t.Context(), caller, "greet", Person{})
			if !errors.Is(err, &iii.Error{Code: "nobody"}) {
				t.Errorf("got %v, want the code nobody", err)
			}
		})
	}
}

func TestGreeterEveryMorning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := iiitest.Start(t) // in a bubble there are no sockets
		greeter, err := newGreeter(engine.URL(), iii.WithDialContext(engine.DialContext))
		if err != nil {
			t.Fatal(err)
		}
		defer greeter.Close()
		if err := greeter.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}

		time.Sleep(7 * 24 * time.Hour) // takes no time
		synctest.Wait()
		greetings := 0
		for _, f := range engine.Frames() {
			if f.Direction == iiitest.ToEngine && f.Type() == "invocationresult" {
				greetings++
			}
		}
		if greetings != 7 {
			t.Errorf("%d greetings in a week", greetings)
		}
	})
}
