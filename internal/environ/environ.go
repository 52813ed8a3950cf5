// Package environ isolates tests, and programs that test, from variables that the
// machine sets for other workers.
package environ

import (
	"os"
	"strings"
)

// prefixes lists the prefixes of the variables that workers, telemetry and iiidev read.
var prefixes = []string{"III_", "OTEL_", "SERVICE_"}

// Clear unsets the variables that configure workers and telemetry, for this process and
// the processes that it starts. Variables with the prefix III_TEST_ belong to the tests
// and stay. Call Clear first, in TestMain or main.
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
