// Package environ protects tests, and programs that run tests, from environment variables that
// are meant for other workers on the machine.
package environ

import (
	"os"
	"strings"
)

// prefixes lists the prefixes of the variables that workers, telemetry and iiidev read.
var prefixes = []string{"III_", "OTEL_", "SERVICE_"}

// Clear unsets the variables that configure workers and telemetry, in this process and for the
// processes that it starts. It keeps variables with the prefix III_TEST_, which configure the
// tests themselves. Call Clear before anything else in TestMain or main.
func Clear() {
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "III_TEST_") {
			continue
		}
		for _, prefix := range prefixes {
			if strings.HasPrefix(strings.ToUpper(name), prefix) {
				_ = os.Unsetenv(name) // fails only for names that cannot exist
			}
		}
	}
}
