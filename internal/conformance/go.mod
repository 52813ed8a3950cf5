module github.com/iii-go/iii/internal/conformance

go 1.26.0

replace github.com/iii-go/iii => ../..

require (
	github.com/google/go-cmp v0.7.0
	github.com/iii-go/iii v0.0.0-00010101000000-000000000000
	github.com/santhosh-tekuri/jsonschema/v6 v6.0.3
)

require (
	github.com/google/jsonschema-go v0.4.3 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/gorilla/websocket v1.5.3 // indirect
	go.opentelemetry.io/collector/pdata v1.71.0 // indirect
	golang.org/x/text v0.42.0 // indirect
)
