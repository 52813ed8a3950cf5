package iii

// What tests outside of the package, which may use the development engine, need
// of it.

// ProxiedVariable is set in a process whose proxy comes from the environment.
const ProxiedVariable = proxiedVariable

// RaceEnabled says that the race detector runs.
const RaceEnabled = raceEnabled

// TestLogger is the log of clients in tests, which is searched for secrets.
var TestLogger = testLogger

// Scale is how often a test repeats something.
func Scale(short, full int) int { return scale(short, full) }

// SchemaOf is the schema that a typed handler advertises for an argument, if reads is set,
// or a result.
var SchemaOf = schemaOf

// SetSlogDefault makes a handler slog's default for a test.
var SetSlogDefault = setSlogDefault
