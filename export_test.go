package iii

// Access for tests outside of the package, which may use the development engine.

// ProxiedVariable is set in a process whose proxy comes from the environment.
const ProxiedVariable = proxiedVariable

// RaceEnabled reports whether the race detector is enabled.
const RaceEnabled = raceEnabled

// TestLogger is the log of clients in tests, which is searched for secrets.
var TestLogger = testLogger

// Scale is how often a test repeats something.
func Scale(short, full int) int { return scale(short, full) }

// SchemaOf is the schema that a typed handler advertises for an argument, if reads is set,
// or a result.
var SchemaOf = schemaOf

// SetSlogDefault sets slog's default handler for a test.
var SetSlogDefault = setSlogDefault
