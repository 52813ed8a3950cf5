// Package environ keeps tests, and programs that test, apart from what is set on the
// machine for other workers.
package environ

import (
	"os"
	"strings"
)

// prefixes begin the names of the variables that workers, telemetry and iiidev read.
var prefixes = []string{"III_", "OTEL_", "SERVICE_"}

// Clear unsets the variables that configure workers and telemetry, for this process and
// those that it starts; III_TEST_ begins the tests' own, which stay. Call it before anything else: in TestMain, in main.
func Clear() {
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "III_TEST_") {
			continue
		}
		for _, prefix := range prefixes {
			if strings.HasPrefix(strings.ToUpper(name), prefix) {
				_ = os.Unsetenv(name) // which fails for names that there cannot be
			}
		}
	}
}
