package iii

import (
	"encoding/json"
	"errors"
)

// The unions of the built-in functions have no tag: which variant it is shows in the
// keys that only one of them has.

// MarshalJSON implements json.Marshaler. Unless exactly one of Detail and Error is
// set it fails.
func (e FunctionInfoEntry) MarshalJSON() ([]byte, error) {
	switch {
	case e.Detail != nil && e.Error == nil:
		return json.Marshal(e.Detail)
	case e.Error != nil && e.Detail == nil:
		return json.Marshal(e.Error)
	}
	return nil, errors.New("iii: FunctionInfoEntry needs either a detail or an error")
}

// UnmarshalJSON implements json.Unmarshaler. An object with a key error is an Error,
// any other a Detail; null leaves the entry as it is.
func (e *FunctionInfoEntry) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	var keys struct {
		Error json.RawMessage `json:"error"`
	}
	if err := json.Unmarshal(b, &keys); err != nil {
		return err
	}
	var entry FunctionInfoEntry
	var err error
	if keys.Error != nil {
		err = json.Unmarshal(b, &entry.Error)
	} else {
		err = json.Unmarshal(b, &entry.Detail)
	}
	if err != nil {
		return err
	}
	*e = entry
	return nil
}

// MarshalJSON implements json.Marshaler. Unless exactly one of Number and Histogram
// is set it fails.
func (p MetricDataPoint) MarshalJSON() ([]byte, error) {
	switch {
	case p.Number != nil && p.Histogram == nil:
		return json.Marshal(p.Number)
	case p.Histogram != nil && p.Number == nil:
		return json.Marshal(p.Histogram)
	}
	return nil, errors.New("iii: MetricDataPoint needs either a number or a histogram")
}

// UnmarshalJSON implements json.Unmarshaler. An object with a key bucket_counts or
// count is a Histogram, any other a Number; null leaves the data point as it is.
func (p *MetricDataPoint) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	var keys struct {
		BucketCounts json.RawMessage `json:"bucket_counts"`
		Count        json.RawMessage `json:"count"`
	}
	if err := json.Unmarshal(b, &keys); err != nil {
		return err
	}
	var point MetricDataPoint
	var err error
	if keys.BucketCounts != nil || keys.Count != nil {
		err = json.Unmarshal(b, &point.Histogram)
	} else {
		err = json.Unmarshal(b, &point.Number)
	}
	if err != nil {
		return err
	}
	*p = point
	return nil
}
