module github.com/iii-go/iii/cmd/iiigen

go 1.26.0

require (
	github.com/atombender/go-jsonschema v0.24.1
	github.com/iii-go/iii v0.2.0
)
