package iii

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/iii-go/iii/internal/filter"
)

// Filter selects the calls of a function that an observer receives. It is written in the
// engine's filter language: an object whose keys are paths such as "input.amount",
// "output.items.0.sku" or "caller.worker_name", each with operators that must all match, and
// $and, $or and $not.
//
//	{"input.amount": {"$gte": 100}, "input.tags": {"$any": {"$prefix": "vip"}}}
//
// Operators are $eq, $ne, $in, $nin, $gt, $gte, $lt, $lte, $exists, $prefix, and $any for
// elements of an array. A path without a value is absent, which differs from null: $ne, $nin
// and {"$exists": false} match it, all other operators do not. Numbers are compared as
// doubles, strings by code points.
//
// A Filter is immutable, except by UnmarshalJSON, and is safe for concurrent use. The zero
// value and a nil *Filter match every call.
type Filter struct {
	f *filter.Filter
}

// ParseFilter parses a filter by the rules for an observer's own filter, as the engine does. v
// is JSON text (string, []byte, json.RawMessage), a *Filter, or anything that marshals to a
// filter, such as a map. The error is a [*FilterError] with the code INVALID_FILTER; only if v
// cannot be marshaled, the error is a different one.
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

// inner returns the compiled filter, or nil, which also matches every call.
func (f *Filter) inner() *filter.Filter {
	if f == nil {
		return nil
	}
	return f.f
}

// FilterDocument describes one call to a [Filter], with each part as raw JSON. A nil part is
// absent, which differs from null.
type FilterDocument struct {
	// Input is the payload of the call.
	Input json.RawMessage
	// Output is the result; absent if the call failed.
	Output json.RawMessage
	// Error has the members code and message; absent if the call succeeded.
	Error json.RawMessage
	// Caller has those of the members worker_id, worker_name, function_id, invocation_id and
	// parent that are known.
	Caller json.RawMessage
	// Metadata is the call's metadata; absent if it has none.
	Metadata json.RawMessage
}

// Matches reports whether the filter holds for a call. It reads the JSON in place and does
// not allocate, except for a number of more than 32 characters. The parts of d must be valid
// JSON; for other text the result is unspecified, but the same each time.
func (f *Filter) Matches(d FilterDocument) bool {
	return f.inner().Matches((*filter.Document)(&d))
}

// MarshalJSON returns the normal form of the filter, which the engine stores and lists. Two
// filters are the same if their normal forms are equal. Fields of type Filter and of type
// *Filter are both encoded in this form; a nil *Filter becomes null.
func (f Filter) MarshalJSON() ([]byte, error) {
	return []byte(f.f.String()), nil
}

// String returns the normal form of the filter.
func (f *Filter) String() string { return f.inner().String() }

// UnmarshalJSON parses a filter that the engine has announced: unlike [ParseFilter] it does
// not limit the size of the text. As for other types, null changes nothing. The error is a
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

// CheckSchemas checks the filter's paths against the JSON Schemas of a function, as the engine
// does when an observer is added: paths that begin with input are checked against the schema
// of requests, and paths that begin with output against the schema of responses. A nil schema
// is not checked.
//
// The error is a [*FilterError] with the code INVALID_FILTER_PATH for a path that the schema
// rules out. The warnings name paths that the schema neither allows nor rules out, in the
// order of the normal form.
func (f *Filter) CheckSchemas(request, response json.RawMessage) (warnings []string, err error) {
	warnings, err = f.inner().CheckSchemas(request, response)
	return warnings, filterError(err)
}

// FilterError is the reason why a [Filter] is rejected.
type FilterError struct {
	// Code is the engine's code: INVALID_FILTER, or INVALID_FILTER_PATH for a path that a
	// schema rules out.
	Code string
	// Path is the path that caused the error, as the filter spells it, or "" if no path caused
	// it. Elements of an array are written as [*] if a schema rules the path out.
	Path string
	// Message is the engine's message; it contains the path.
	Message string
}

// Error implements error.
func (e *FilterError) Error() string { return "iii: " + e.Code + ": " + e.Message }

// filterError returns the public form of an error of package filter.
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
