package iii

// These declarations give package iii_test, which may import iiitest, access to internals.

// ProxiedVariable names the environment variable that is set in child processes that use a
// proxy.
const ProxiedVariable = proxiedVariable

// RaceEnabled reports whether the race detector is enabled.
const RaceEnabled = raceEnabled

// TestLogger is the logger for clients in tests. TestMain searches its output for secrets.
var TestLogger = testLogger

// Scale returns full if the -soak flag is set, and short otherwise.
func Scale(short, full int) int { return scale(short, full) }

// SchemaOf returns the schema that a typed handler advertises: the schema of its argument if
// reads is true, and that of its result otherwise.
var SchemaOf = schemaOf

// SetSlogDefault replaces slog's default handler until the test ends.
var SetSlogDefault = setSlogDefault

// NoteError searches an error's text for secrets, which TestMain reports, and returns the error.
var NoteError = suite.note

// SecretHeader is a secret for which the tests search logs and errors.
const SecretHeader = secretHeader
