package iii

// instrumentationName is the scope of what this package records itself, with
// [Version] as its version.
const instrumentationName = "iii-go-sdk"
