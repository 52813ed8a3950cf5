package iiitest

import (
	"encoding/json"
	"errors"

	observerfilter "github.com/iii-go/iii/internal/filter"
)

type filter struct {
	compiled *observerfilter.Filter
	normal   json.RawMessage // {} matches everything
}

// document is the input of a filter. Nil fields represent missing values.
type document = observerfilter.Document

// parseFilter compiles an observer's filters. If raw is nil, the result selects every call.
func parseFilter(raw json.RawMessage) (*filter, *wireError) {
	if raw == nil {
		raw = json.RawMessage("{}")
	}
	compiled, err := observerfilter.Parse(raw)
	if err != nil {
		return nil, filterError(err)
	}
	return &filter{compiled: compiled, normal: json.RawMessage(compiled.String())}, nil
}

func (f *filter) matches(d *document) bool { return f.compiled.Matches(d) }

// matchesAll reports whether the filter selects every call.
func (f *filter) matchesAll() bool { return string(f.normal) == "{}" }

// check validates the paths in the filter against the function's schemas.
func (f *filter) check(of *function) (warnings []string, bad *wireError) {
	warnings, err := f.compiled.CheckSchemas(of.request, of.response)
	if err != nil {
		return nil, filterError(err)
	}
	return warnings, nil
}

func filterError(err error) *wireError {
	var known *observerfilter.Error
	if errors.As(err, &known) {
		return errorBody(known.Code, "%s", known.Message)
	}
	return errorBody("INVALID_FILTER", "%v", err)
}
