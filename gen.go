package iii

// The schemas are the source of truth; types_gen.go follows from them.
// The command runs inside schema/, so that a file has the same name on the command
// line as in a $ref: under two names it would be loaded, and declared, twice.
//
//go:generate go -C schema tool -modfile=../internal/tools/go.mod go-jsonschema --package iii --only-models --tags json --min-sized-ints --disable-custom-types-for-maps --resolve-extension .json --capitalization API --capitalization CPU --capitalization DLQ --capitalization HMAC --capitalization HTTP --capitalization ID --capitalization IDs --capitalization IP --capitalization JSON --capitalization OS --capitalization PID --capitalization RSS --capitalization TTL --capitalization URL --capitalization WS "--schema-root-type=https://github.com/iii-go/iii/schema/http_request.json=HTTPRequest[T any]" "--schema-root-type=https://github.com/iii-go/iii/schema/http_response.json=HTTPResponse[T any]" --output ../types_gen.go auth.json bridge.json common.json configuration.json http.json http_request.json http_response.json introspection.json metrics.json observability.json protocol.json queue.json queue_functions.json registration.json state.json stream.json stream_functions.json telemetry_functions.json traces.json triggers.json
