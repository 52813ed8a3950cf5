package iii

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/iii-go/iii/internal/filter"
)

// Filter selects which calls to a function an observer receives. It is written in the engine's
// filter language: a JSON object that maps paths, such as "input.amount", "output.items.0.sku"
// or "caller.worker_name", to operators. All operators must match. The object may also contain
// $and, $or and $not.
//
//	{"input.amount": {"$gte": 100}, "input.tags": {"$any": {"$prefix": "vip"}}}
//
// The operators are $eq, $ne, $in, $nin, $gt, $gte, $lt, $lte, $exists, $prefix, and $any.
// $any matches an array if at least one of its elements matches. A path without a value is
// absent, not null. Only $ne, $nin and {"$exists": false} match an absent path. Numbers are
// compared as doubles, and strings by code point.
//
// A Filter is immutable, except for UnmarshalJSON, and is safe for concurrent use. The zero
// value and a nil *Filter match every call.
type Filter struct {
	f *filter.Filter
}

// ParseFilter parses a filter by the rules that the engine applies to an observer's filter. v
// is JSON (a string, []byte or json.RawMessage), a *Filter, or any value that marshals to a
// filter, such as a map. The error is a [*FilterError] with the code INVALID_FILTER, unless v
// cannot be marshaled.
func ParseFilter(v any) (*Filter, error) {
	var f *filter.Filter
	var err error
	switch v := v.(type) {
	case *Filter:
		return &Filter{v.inner()}, nil
	case Filter:
		return &v, nil
	case string:
		f, err = filter.Parse([]byte(v))
	case []byte:
		f, err = filter.Parse(v)
	case json.RawMessage:
		f, err = filter.Parse(v)
	default:
		f, err = filter.ParseValue(v)
	}
	if err != nil {
		return nil, filterError(err)
	}
	return &Filter{f}, nil
}

// inner returns the compiled filter. A nil result is valid and matches every call.
func (f *Filter) inner() *filter.Filter {
	if f == nil {
		return nil
	}
	return f.f
}

// FilterDocument describes a call to a function for [Filter.Matches]. Each part is raw JSON. A
// nil part is absent rather than null.
type FilterDocument struct {
	// Input is the payload of the call.
	Input json.RawMessage
	// Output is the result. It is absent if the call failed.
	Output json.RawMessage
	// Error has the members code and message. It is absent if the call succeeded.
	Error json.RawMessage
	// Caller has the members worker_id, worker_name, function_id, invocation_id and parent. A
	// member is omitted if its value is not known.
	Caller json.RawMessage
	// Metadata is the call's metadata. It is absent if the call has none.
	Metadata json.RawMessage
}

// Matches reports whether the filter matches a call. It reads the JSON in place and does not
// allocate, except for numbers longer than 32 characters. The parts of d must be valid JSON.
// If they are not, the result is unspecified but deterministic.
func (f *Filter) Matches(d FilterDocument) bool {
	return f.inner().Matches((*filter.Document)(&d))
}

// MarshalJSON returns the filter's normal form, which is how the engine stores and lists
// filters. Two filters are equivalent if their normal forms are equal. Fields of type Filter
// and *Filter are both encoded in this form; a nil *Filter is encoded as null.
func (f Filter) MarshalJSON() ([]byte, error) {
	return []byte(f.f.String()), nil
}

// String returns the filter's normal form.
func (f *Filter) String() string { return f.inner().String() }

// UnmarshalJSON parses a filter received from the engine. Unlike [ParseFilter], it does not
// limit the size of the filter. By convention, a JSON null is a no-op. The error is a
// [*FilterError].
func (f *Filter) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	parsed, err := filter.ParseNormalized(b)
	if err != nil {
		return filterError(err)
	}
	f.f = parsed
	return nil
}

// CheckSchemas checks the filter's paths against a function's JSON Schemas, as the engine does
// when an observer is added. Paths that begin with input are checked against the request
// schema, and paths that begin with output against the response schema. If a schema is nil,
// the paths that refer to it are not checked.
//
// If a schema rules out a path, the error is a [*FilterError] with the code
// INVALID_FILTER_PATH. The warnings name the paths that a schema neither allows nor rules out,
// in the order of the normal form.
func (f *Filter) CheckSchemas(request, response json.RawMessage) (warnings []string, err error) {
	warnings, err = f.inner().CheckSchemas(request, response)
	return warnings, filterError(err)
}

// FilterError reports why a [Filter] was rejected.
type FilterError struct {
	// Code is the engine's error code: INVALID_FILTER, or INVALID_FILTER_PATH if a schema
	// rules out a path.
	Code string
	// Path is the path that caused the error, as written in the filter, or "" if the error is
	// not about a path. If a schema rules out the path, array elements are written as [*].
	Path string
	// Message is the engine's error message. It contains the path.
	Message string
}

// Error implements the error interface.
func (e *FilterError) Error() string { return "iii: " + e.Code + ": " + e.Message }

// filterError converts an error from package filter to this package's error type.
func filterError(err error) error {
	var e *filter.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return &FilterError{Code: e.Code, Path: e.Path, Message: e.Message}
	}
	return fmt.Errorf("iii: %w", err)
}
