package otlpjson

import (
	"os"
	"testing"

	"github.com/iii-go/iii/internal/environ"
)

// TestMain takes away the limits that the environment may set to the SDK's records.
func TestMain(m *testing.M) {
	environ.Clear()
	os.Exit(m.Run())
}
