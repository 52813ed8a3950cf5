package otlpjson

import (
	"os"
	"testing"

	"github.com/iii-go/iii/internal/environ"
)

// TestMain clears environment variables that limit the SDK's records.
func TestMain(m *testing.M) {
	environ.Clear()
	os.Exit(m.Run())
}
