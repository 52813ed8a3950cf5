package environ

import (
	"os"
	"testing"
)

func TestClearKeepsOtherVariables(t *testing.T) {
	for name, kept := range map[string]bool{
		"III_URL": false, "OTEL_ENABLED": false, "SERVICE_NAME": false, "otel_lower_case": false,
		"HTTP_PROXY": true, "III_TEST_LOG": true, "MY_III_URL": true, "OTHER": true,
	} {
		t.Setenv(name, "set") // restores the variable after the test
		Clear()
		if _, there := os.LookupEnv(name); there != kept {
			t.Errorf("%s is there: %v, want %v", name, there, kept)
		}
	}
}
