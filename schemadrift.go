package iii

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// FunctionSchemas identifies the schemas that a function had when a client for it was
// generated. The zero value names no function.
type FunctionSchemas struct {
	// FunctionID is the function's id.
	FunctionID string
	// Namespace is the function's namespace. Empty resolves as in [Client.FunctionInfo].
	Namespace string
	// Request is the hash of the schema of the payload, as [HashSchema] returns it.
	// Empty means that the function had none.
	Request string
	// Response is the hash of the schema of the result, likewise.
	Response string
}

// SchemaDriftError reports that functions no longer have the schemas that a generated
// client was made from. [Client.CheckSchemas] returns it.
type SchemaDriftError struct {
	// Functions holds the functions that differ, in the order of the check.
	Functions []SchemaDrift
}

// SchemaDrift says what differs in one function.
type SchemaDrift struct {
	// FunctionID is the function's id.
	FunctionID string
	// Namespace is the namespace that was checked; empty if none was given.
	Namespace string
	// Missing reports that the engine lists no such function, or that this worker may
	// not see it. The other fields are false then.
	Missing bool
	// Request reports that the schema of the payload differs.
	Request bool
	// Response reports that the schema of the result differs.
	Response bool
}

// Error implements error. It lists every function.
func (e *SchemaDriftError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "iii: the schemas of %d functions differ from those of the generated client", len(e.Functions))
	if len(e.Functions) == 1 {
		b.Reset()
		b.WriteString("iii: the schemas of 1 function differ from those of the generated client")
	}
	for i, f := range e.Functions {
		separator := "; "
		if i == 0 {
			separator = ": "
		}
		b.WriteString(separator)
		b.WriteString(f.String())
	}
	return b.String()
}

// String returns the function's id and what differs.
func (d SchemaDrift) String() string {
	var what []string
	if d.Missing {
		what = append(what, "not found")
	}
	if d.Request {
		what = append(what, "request")
	}
	if d.Response {
		what = append(what, "response")
	}
	name := d.FunctionID
	if d.Namespace != "" {
		name += " in namespace " + d.Namespace
	}
	return name + " (" + strings.Join(what, ", ") + ")"
}

// infoBatch is how many functions engine::functions::info describes at once.
const infoBatch = 32

// CheckSchemas compares the schemas that functions have now with those that are known. It
// returns a [*SchemaDriftError] if any differ, and an error of [Client.Call] if the engine
// cannot be asked. Clients that cmd/iiigen generates have a method CheckSchemas that passes
// the schemas they were generated from. Descriptions, titles, examples and comments do not
// count, nor does the order of members.
func (c *Client) CheckSchemas(ctx context.Context, known ...FunctionSchemas) error {
	byNamespace := make(map[string][]string)
	var namespaces []string
	for _, f := range known {
		if byNamespace[f.Namespace] == nil {
			namespaces = append(namespaces, f.Namespace)
		}
		byNamespace[f.Namespace] = append(byNamespace[f.Namespace], f.FunctionID)
	}
	type place struct{ namespace, id string }
	found := make(map[place]FunctionDetail)
	for _, ns := range namespaces {
		for ids := range slices.Chunk(byNamespace[ns], infoBatch) {
			in := FunctionInfoInput{FunctionIDs: ids, Namespace: cmp.Or(ns, c.cfg.namespace)}
			batch, err := Call[FunctionInfoBatch](ctx, c, "engine::functions::info", in)
			if err != nil {
				return fmt.Errorf("iii: check schemas: %w", trimmed(err))
			}
			for _, entry := range batch.Functions {
				if entry.Detail != nil {
					found[place{ns, entry.Detail.FunctionID}] = *entry.Detail
				}
			}
		}
	}
	var drift SchemaDriftError
	for _, f := range known {
		detail, ok := found[place{f.Namespace, f.FunctionID}]
		if !ok && f.Namespace == "" { // in another namespace, perhaps
			var err error
			var refusal *Error
			if detail, err = c.FunctionInfo(ctx, f.FunctionID); err == nil {
				ok = true
			} else if !errors.As(err, &refusal) || refusal.Code != codeNotFound {
				return fmt.Errorf("iii: check schemas: %w", trimmed(err))
			}
		}
		d := SchemaDrift{FunctionID: f.FunctionID, Namespace: f.Namespace, Missing: !ok}
		if ok {
			d.Request = schemaHashOf(detail.RequestSchema) != f.Request
			d.Response = schemaHashOf(detail.ResponseSchema) != f.Response
		}
		if d.Missing || d.Request || d.Response {
			drift.Functions = append(drift.Functions, d)
		}
	}
	if len(drift.Functions) > 0 {
		return &drift
	}
	return nil
}

// schemaHashOf is the hash of a schema from the engine; one that is no JSON has a hash that
// no schema has.
func schemaHashOf(raw json.RawMessage) string {
	hash, err := HashSchema(raw)
	if err != nil {
		return "?"
	}
	return hash
}

// HashSchema returns a hash of what a JSON Schema demands: without its descriptions, titles,
// examples and comments, whatever the order of members and however numbers are spelled.
// The hash of an absent schema, and of null, is "".
func HashSchema(schema json.RawMessage) (string, error) {
	if len(bytes.TrimSpace(schema)) == 0 || isNull(schema) {
		return "", nil
	}
	doc, err := parseSchema(schema)
	if err != nil {
		return "", fmt.Errorf("iii: hash of a schema: %w", err)
	}
	stripAnnotations(doc)
	canonical, err := json.Marshal(canonicalNumbers(doc))
	if err != nil {
		return "", fmt.Errorf("iii: hash of a schema: %w", err)
	}
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(sum[:16]), nil
}

// stripAnnotations removes from a schema what demands nothing, and sorts what is a set.
func stripAnnotations(v any) {
	schema, ok := v.(map[string]any)
	if !ok {
		return
	}
	for _, keyword := range []string{"$schema", "$comment", "title", "description", "examples"} {
		delete(schema, keyword)
	}
	for _, keyword := range []string{"required", "type"} {
		if list, ok := schema[keyword].([]any); ok {
			slices.SortFunc(list, func(a, b any) int {
				x, _ := a.(string)
				y, _ := b.(string)
				return strings.Compare(x, y)
			})
		}
	}
	for _, inner := range subschemas(schema) {
		stripAnnotations(inner)
	}
}

// canonicalNumbers returns v with equal numbers spelled alike, as far as the engine may
// spell them in several ways.
func canonicalNumbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			v[k] = canonicalNumbers(e)
		}
	case []any:
		for i, e := range v {
			v[i] = canonicalNumbers(e)
		}
	case json.Number:
		if strings.Trim(v.String(), "-0123456789") == "" {
			return v
		}
		f, err := v.Float64()
		if err != nil {
			return v
		}
		if f == float64(int64(f)) && f < 1<<53 && f > -1<<53 {
			return json.Number(strconv.FormatInt(int64(f), 10))
		}
		return f
	}
	return v
}
