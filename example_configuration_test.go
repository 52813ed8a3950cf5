package iii_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"

	"github.com/iii-go/iii"
)

// The engine stores settings together with a schema that they must satisfy.
func ExampleConfiguration() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	config := client.Configuration()
	_, err := config.Register(ctx, iii.ConfigurationRegisterInput{
		ID:           "shop",
		Name:         "Shop",
		Description:  "Opening hours",
		Schema:       json.RawMessage(`{"type":"object","properties":{"opens":{"type":"integer"}},"required":["opens"]}`),
		InitialValue: json.RawMessage(`{"opens":9}`),
	})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := config.Set(ctx, "shop", map[string]int{"opens": 8}); err != nil {
		log.Fatal(err)
	}
	var hours struct {
		Opens int `json:"opens"`
	}
	if err := config.Get(ctx, "shop", &hours); err != nil {
		log.Fatal(err)
	}
	fmt.Println("opens at", hours.Opens)

	_, err = config.Set(ctx, "shop", map[string]string{"opens": "early"})
	var refusal *iii.Error
	if errors.As(err, &refusal) {
		fmt.Println(refusal.Code)
	}
	entry, err := config.Schema(ctx, "shop")
	fmt.Println(entry.Name, err)
	entries, err := config.List(ctx)
	fmt.Println(len(entries), "entry", err)
	// Output:
	// opens at 8
	// SCHEMA_INVALID
	// Shop <nil>
	// 1 entry <nil>
}

// The engine lists functions with their schemas and owners.
func ExampleClient_Functions() {
	_, client, stop := withEngine(iii.WithName("calculator"), iii.WithDescription("Knows numbers"))
	defer stop()
	ctx := context.Background()
	_, err := iii.Handle(client, "math::add", func(ctx context.Context, in Sum) (int, error) { return in.A + in.B, nil },
		iii.WithFunctionDescription("Adds two numbers"))
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	functions, err := client.Functions(ctx, iii.FunctionFilter{Prefix: "math::"})
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range functions {
		fmt.Println(f.FunctionID, "-", *f.Description)
	}
	function, err := client.FunctionInfo(ctx, "math::add")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(function.ResponseSchema), "by", function.WorkerName)
	// Output:
	// math::add - Adds two numbers
	// {"type":"integer"} by calculator
}

// The engine lists its workers, what they provide, and the health of its telemetry.
func ExampleClient_Workers() {
	_, client, stop := withEngine(iii.WithName("calculator"), iii.WithDescription("Knows numbers"))
	defer stop()
	ctx := context.Background()
	_, err := iii.HandleHTTP(client, "GET", "/pi", func(context.Context, *iii.HTTPRequest[any]) (*iii.HTTPResponse[float64], error) {
		return &iii.HTTPResponse[float64]{StatusCode: 200, Body: 3.14}, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	workers, err := client.Workers(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, w := range workers {
		if w.Runtime != nil && *w.Runtime == "go" {
			fmt.Println(*w.Name, "-", *w.Description)
		}
	}
	worker, err := client.WorkerInfo(ctx, "calculator")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(worker.Functions[0].FunctionID)
	triggers, err := client.Triggers(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(triggers[0].TriggerType, string(triggers[0].Config))
	types, err := client.TriggerTypes(ctx)
	fmt.Println(len(types) > 10, err)
	health, err := client.Health(ctx)
	fmt.Println(health.Status, err)
	// Output:
	// calculator - Knows numbers
	// http::GET/pi
	// http {"api_path":"/pi","http_method":"GET"}
	// true <nil>
	// healthy <nil>
}
