package iii

import (
	"encoding/json"
	"errors"
	"fmt"
)

// The generator declares the unions and their variants; this file adds the encoding.
// Each union has a table from tag to decoder, which a test compares with the oneOf of
// the schema, and an interface that only the variants implement. The interface's
// method returns a copy with the tag set, which is why callers never set Type.

// HTTPAuthVariant is the interface of the variants that an HTTPAuthConfig can hold:
// HTTPAuthHMAC, HTTPAuthBearer and HTTPAuthAPIKey, by value.
type HTTPAuthVariant interface{ httpAuth() HTTPAuthVariant }

func (v HTTPAuthHMAC) httpAuth() HTTPAuthVariant   { v.Type = HTTPAuthTypeHMAC; return v }
func (v HTTPAuthBearer) httpAuth() HTTPAuthVariant { v.Type = HTTPAuthTypeBearer; return v }
func (v HTTPAuthAPIKey) httpAuth() HTTPAuthVariant { v.Type = HTTPAuthTypeAPIKey; return v }

var httpAuthVariants = variants[HTTPAuthVariant]{
	string(HTTPAuthTypeHMAC):   decodeAs[HTTPAuthVariant, HTTPAuthHMAC],
	string(HTTPAuthTypeBearer): decodeAs[HTTPAuthVariant, HTTPAuthBearer],
	string(HTTPAuthTypeAPIKey): decodeAs[HTTPAuthVariant, HTTPAuthAPIKey],
}

// MarshalJSON implements json.Marshaler. It returns an error if there is no variant.
func (c HTTPAuthConfig) MarshalJSON() ([]byte, error) {
	if c.Auth == nil {
		return nil, errors.New("iii: HTTPAuthConfig is empty")
	}
	return json.Marshal(c.Auth.httpAuth())
}

// UnmarshalJSON implements json.Unmarshaler. It returns an error for an unknown tag.
func (c *HTTPAuthConfig) UnmarshalJSON(b []byte) (err error) {
	c.Auth, err = httpAuthVariants.decode("HTTPAuthConfig", b)
	return err
}

// TriggerActionVariant is the interface of the variants that a TriggerAction can
// hold: ActionVoid and ActionEnqueue, by value.
type TriggerActionVariant interface{ triggerAction() TriggerActionVariant }

func (v ActionVoid) triggerAction() TriggerActionVariant { v.Type = TriggerActionTypeVoid; return v }
func (v ActionEnqueue) triggerAction() TriggerActionVariant {
	v.Type = TriggerActionTypeEnqueue
	return v
}

var triggerActionVariants = variants[TriggerActionVariant]{
	string(TriggerActionTypeVoid):    decodeAs[TriggerActionVariant, ActionVoid],
	string(TriggerActionTypeEnqueue): decodeAs[TriggerActionVariant, ActionEnqueue],
}

// MarshalJSON implements json.Marshaler. It returns an error if there is no variant.
func (a TriggerAction) MarshalJSON() ([]byte, error) {
	if a.Action == nil {
		return nil, errors.New("iii: TriggerAction is empty")
	}
	return json.Marshal(a.Action.triggerAction())
}

// UnmarshalJSON implements json.Unmarshaler. It returns an error for an unknown tag.
func (a *TriggerAction) UnmarshalJSON(b []byte) (err error) {
	a.Action, err = triggerActionVariants.decode("TriggerAction", b)
	return err
}

// UpdateOpVariant is the interface of the variants that an UpdateOp can hold:
// UpdateSet, UpdateMerge, UpdateIncrement, UpdateDecrement, UpdateAppend and
// UpdateRemove, by value.
type UpdateOpVariant interface{ updateOp() UpdateOpVariant }

func (v UpdateSet) updateOp() UpdateOpVariant       { v.Type = UpdateOpTypeSet; return v }
func (v UpdateMerge) updateOp() UpdateOpVariant     { v.Type = UpdateOpTypeMerge; return v }
func (v UpdateIncrement) updateOp() UpdateOpVariant { v.Type = UpdateOpTypeIncrement; return v }
func (v UpdateDecrement) updateOp() UpdateOpVariant { v.Type = UpdateOpTypeDecrement; return v }
func (v UpdateAppend) updateOp() UpdateOpVariant    { v.Type = UpdateOpTypeAppend; return v }
func (v UpdateRemove) updateOp() UpdateOpVariant    { v.Type = UpdateOpTypeRemove; return v }

var updateOpVariants = variants[UpdateOpVariant]{
	string(UpdateOpTypeSet):       decodeAs[UpdateOpVariant, UpdateSet],
	string(UpdateOpTypeMerge):     decodeAs[UpdateOpVariant, UpdateMerge],
	string(UpdateOpTypeIncrement): decodeAs[UpdateOpVariant, UpdateIncrement],
	string(UpdateOpTypeDecrement): decodeAs[UpdateOpVariant, UpdateDecrement],
	string(UpdateOpTypeAppend):    decodeAs[UpdateOpVariant, UpdateAppend],
	string(UpdateOpTypeRemove):    decodeAs[UpdateOpVariant, UpdateRemove],
}

// MarshalJSON implements json.Marshaler. It returns an error if there is no variant.
func (u UpdateOp) MarshalJSON() ([]byte, error) {
	if u.Op == nil {
		return nil, errors.New("iii: UpdateOp is empty")
	}
	return json.Marshal(u.Op.updateOp())
}

// UnmarshalJSON implements json.Unmarshaler. It returns an error for an unknown tag.
func (u *UpdateOp) UnmarshalJSON(b []byte) (err error) {
	u.Op, err = updateOpVariants.decode("UpdateOp", b)
	return err
}

// Keys returns the keys that lead from the root to the value. It returns no keys for
// the root itself. A nil path is the root.
func (p *MergePath) Keys() []string {
	switch {
	case p == nil:
		return nil
	case p.Segments != nil:
		return p.Segments
	case p.Single != "":
		return []string{p.Single}
	}
	return nil
}

// MarshalJSON implements json.Marshaler. It writes Segments as an array unless they
// are nil, and otherwise Single as a string.
func (p MergePath) MarshalJSON() ([]byte, error) {
	if p.Segments != nil {
		return json.Marshal(p.Segments)
	}
	return json.Marshal(p.Single)
}

// UnmarshalJSON implements json.Unmarshaler. It accepts a string, an array of strings
// and null, and returns an error for anything else.
func (p *MergePath) UnmarshalJSON(b []byte) error {
	var path MergePath
	if len(b) == 0 || b[0] != '[' {
		if err := json.Unmarshal(b, &path.Single); err != nil {
			return err
		}
		*p = path
		return nil
	}
	var segments []*string // pointers, because null would decode as ""
	if err := json.Unmarshal(b, &segments); err != nil {
		return err
	}
	path.Segments = make([]string, len(segments))
	for i, s := range segments {
		if s == nil {
			return errors.New("iii: MergePath: null in place of a key")
		}
		path.Segments[i] = *s
	}
	*p = path
	return nil
}

// variants maps each tag of a union to the decoder of its variant.
type variants[V any] map[string]func([]byte) (V, error)

func (vs variants[V]) decode(union string, b []byte) (v V, err error) {
	var tag struct {
		Type *string `json:"type"`
	}
	if err := json.Unmarshal(b, &tag); err != nil {
		return v, err
	}
	if tag.Type == nil {
		return v, fmt.Errorf("iii: %s without a type", union)
	}
	decode, ok := vs[*tag.Type]
	if !ok {
		return v, fmt.Errorf("iii: %s of unknown type %q", union, *tag.Type)
	}
	return decode(b)
}

func decodeAs[V, T any](b []byte) (v V, err error) {
	var t T
	if err = json.Unmarshal(b, &t); err != nil {
		return v, err
	}
	return any(t).(V), nil
}

// The unions of the built-in functions have no tag. A key that only one variant has
// identifies that variant.

// MarshalJSON implements json.Marshaler. It returns an error unless exactly one of
// Detail and Error is set.
func (e FunctionInfoEntry) MarshalJSON() ([]byte, error) {
	switch {
	case e.Detail != nil && e.Error == nil:
		return json.Marshal(e.Detail)
	case e.Error != nil && e.Detail == nil:
		return json.Marshal(e.Error)
	}
	return nil, errors.New("iii: FunctionInfoEntry needs either a detail or an error")
}

// UnmarshalJSON implements json.Unmarshaler. An object with the key error decodes as
// Error, any other object as Detail. Null leaves the entry unchanged.
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

// MarshalJSON implements json.Marshaler. It returns an error unless exactly one of
// Number and Histogram is set.
func (p MetricDataPoint) MarshalJSON() ([]byte, error) {
	switch {
	case p.Number != nil && p.Histogram == nil:
		return json.Marshal(p.Number)
	case p.Histogram != nil && p.Number == nil:
		return json.Marshal(p.Histogram)
	}
	return nil, errors.New("iii: MetricDataPoint needs either a number or a histogram")
}

// UnmarshalJSON implements json.Unmarshaler. An object with the key bucket_counts or
// count decodes as Histogram, any other object as Number. Null leaves the data point
// unchanged.
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
