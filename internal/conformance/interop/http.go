package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
)

var httpScenarios = []scenario{
	{"http", "the peer's HTTP trigger: JSON", func(ctx context.Context, t *trial) {
		t.bind(ctx, "http", "peer::http", object{"api_path": "/items/:id", "http_method": "POST"}, object{"m": 1})
		status, header, body, err := t.request(ctx, "POST", "/items/42?q=a%20b", "application/json", strings.NewReader(`{"n":1}`), map[string]string{"x-test": "yes"})
		t.must("request", err)
		t.equal("status", status, 201)
		t.equal("header x-answer", header.Get("x-answer"), "given")
		t.equal("body", json.RawMessage(body), object{
			"method": "POST", "path_params": object{"id": "42"}, "query_params": object{"q": "a b"}, "body": object{"n": 1}, "header": "yes",
		})
	}},
	{"http-stream", "the peer's HTTP trigger: raw request body, streamed response", func(ctx context.Context, t *trial) {
		t.bind(ctx, "http", "peer::http-stream", object{"api_path": "/upload", "http_method": "PUT"}, nil)
		sent := bytes.ToLower(bytes.Repeat([]byte("Abcdefgh"), 32<<10))
		status, header, body, err := t.request(ctx, "PUT", "/upload", "application/octet-stream", bytes.NewReader(sent), nil)
		t.must("request", err)
		t.equal("status", status, 202)
		t.equal("header content-type", header.Get("content-type"), "text/x-upper")
		if body != strings.ToUpper(string(sent)) {
			t.errorf("body: got %d bytes that are not the %d sent ones in upper case", len(body), len(sent))
		}
	}},
}
