// Package environ protects tests, and programs that run tests, from environment variables that
// configure other workers on the machine.
package environ

import (
	"os"
	"strings"
)

// prefixes lists the prefixes of the variables that workers, telemetry and iiidev read.
var prefixes = []string{"III_", "OTEL_", "SERVICE_"}

// Clear unsets the variables that configure workers and telemetry, for this process and its
// child processes. It keeps variables that begin with III_TEST_, which configure the tests
// themselves. Call it first in TestMain or main.
func Clear() {
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "III_TEST_") {
			continue
		}
		for _, prefix := range prefixes {
			if strings.HasPrefix(strings.ToUpper(name), prefix) {
				_ = os.Unsetenv(name) // fails only for invalid names
			}
		}
	}
}
