package otlpjson

import (
	"os"
	"testing"

	"github.com/iii-go/iii/internal/environ"
)

// TestMain removes the limits that the environment can set on the SDK's records.
func TestMain(m *testing.M) {
	environ.Clear()
	os.Exit(m.Run())
}
