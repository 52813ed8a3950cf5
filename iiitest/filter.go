package iiitest

import "encoding/json"

// filter decides which calls an observer is for.
type filter struct {
	normal json.RawMessage // {} matches everything
}

// document is what filters see of a call; nil is an absent part.
type document struct{ input, output, failure, caller, metadata json.RawMessage }

func parseFilter(raw json.RawMessage) (*filter, *wireError) {
	if raw == nil {
		raw = json.RawMessage("{}")
	}
	return &filter{normal: raw}, nil
}

func (f *filter) matches(document) bool { return true }

// check compares the paths of the filter with the schemas of the function.
func (f *filter) check(*function) (warnings []string, err *wireError) { return nil, nil }
