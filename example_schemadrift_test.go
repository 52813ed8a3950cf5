package iii_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/iii-go/iii"
)

// A generated client knows hashes of the schemas that it was generated from, and passes them
// in its own method CheckSchemas.
func ExampleClient_CheckSchemas() {
	_, client, stop := withEngine()
	defer stop()
	ctx := context.Background()
	_, err := iii.Handle(client, "orders::create", func(ctx context.Context, item string) (int, error) { return 1, nil })
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Connect(ctx); err != nil {
		log.Fatal(err)
	}

	text, err := iii.HashSchema([]byte(`{"type": "string"}`))
	if err != nil {
		log.Fatal(err)
	}
	err = client.CheckSchemas(ctx,
		iii.FunctionSchemas{FunctionID: "orders::create", Request: text, Response: text},
		iii.FunctionSchemas{FunctionID: "orders::cancel", Request: text},
	)
	var drift *iii.SchemaDriftError
	if errors.As(err, &drift) {
		for _, f := range drift.Functions {
			fmt.Println(f)
		}
	}
	// Output:
	// orders::create (response)
	// orders::cancel (not found)
}
