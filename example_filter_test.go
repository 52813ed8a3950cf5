package iii_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"

	"github.com/iii-go/iii"
)

// A filter is JSON text, or a value that marshals to it.
func ExampleParseFilter() {
	f, err := iii.ParseFilter(map[string]any{
		"input.amount": map[string]any{"$gte": 100},
		"input.tags":   map[string]any{"$any": map[string]any{"$prefix": "vip"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(f.Matches(iii.FilterDocument{Input: json.RawMessage(`{"amount": 120, "tags": ["new", "vip-gold"]}`)}))
	fmt.Println(f.Matches(iii.FilterDocument{Input: json.RawMessage(`{"amount": 120}`)}))
	fmt.Println(f)
	// Output:
	// true
	// false
	// {"$and":[{"input.amount":{"$gte":100}},{"input.tags":{"$any":{"$prefix":"vip"}}}]}
}

// A path and a value alone are no condition.
func ExampleFilterError() {
	_, err := iii.ParseFilter(`{"input.city": "Rome"}`)
	if e, ok := errors.AsType[*iii.FilterError](err); ok {
		fmt.Println(e.Code, e.Path)
	}
	fmt.Println(err)
	// Output:
	// INVALID_FILTER input.city
	// iii: INVALID_FILTER: `input.city`: expected an operator object such as {"$eq": ...}; literal values are not allowed
}

// The schemas of a function tell a misspelled path.
func ExampleFilter_CheckSchemas() {
	request := json.RawMessage(`{
		"type": "object",
		"properties": {"city": {"type": "string"}, "extra": {"type": "object"}},
		"additionalProperties": false
	}`)
	f, err := iii.ParseFilter(`{"input.city": {"$eq": "Rome"}, "input.extra.gift": {"$exists": true}}`)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(f.CheckSchemas(request, nil))

	f, err = iii.ParseFilter(`{"input.ctiy": {"$eq": "Rome"}}`)
	if err != nil {
		log.Fatal(err)
	}
	_, err = f.CheckSchemas(request, nil)
	fmt.Println(err)
	// Output:
	// [input.extra.gift: request_format is open at input.extra; path not verified] <nil>
	// iii: INVALID_FILTER_PATH: input.ctiy is not in request_format
}
