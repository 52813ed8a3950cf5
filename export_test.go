package iii

// Access for tests outside of the package, which may use the development engine.

// ProxiedVariable is set in a process that reads its proxy from the environment.
const ProxiedVariable = proxiedVariable

// RaceEnabled reports whether the race detector is enabled.
const RaceEnabled = raceEnabled

// TestLogger receives the logs of clients in tests, which are searched for secrets.
var TestLogger = testLogger

// Scale returns the number of repetitions for a test.
func Scale(short, full int) int { return scale(short, full) }

// SchemaOf returns the schema that a typed handler advertises for an argument, if reads
// is set, or for a result.
var SchemaOf = schemaOf

// SetSlogDefault sets slog's default handler for a test.
var SetSlogDefault = setSlogDefault
