package iiitest

import (
	"bytes"
	"encoding/base64"
	"math"
	"strconv"
	"strings"

	"github.com/iii-go/iii"
)

// attribute is a decoded attribute. value is nil or has the type string, bool, int64, float64,
// []byte, []any or map[string]any.
type attribute struct {
	key   string
	value any
}

// attributes reads a list of attributes. It skips attributes without a value.
func (r *otlpReader) attributes() []attribute {
	var list []attribute
	r.array(func() {
		if a, ok := r.attribute(); ok {
			list = append(list, a)
		}
	})
	return list
}

func (r *otlpReader) attribute() (a attribute, valued bool) {
	r.object(func(key string) bool {
		switch key {
		case "key":
			a.key = r.str()
		case "value":
			if !r.null() {
				a.value, valued = r.anyValue(), true
			}
		default:
			return false
		}
		return true
	}, "key")
	return a, valued
}

// anyValue reads an AnyValue. If several kinds of value are present, the engine uses the first
// of string, integer, double, boolean, key-value list and array. The engine does not support
// bytes values; anyValue returns one only if no other kind is present, and ignores it if it is
// invalid. For a missing or null value, anyValue returns nil.
func (r *otlpReader) anyValue() any {
	const kinds = 7
	var found [kinds]any
	r.object(func(key string) bool {
		i := 0
		var read func() any
		switch key {
		case "stringValue":
			i, read = 0, func() any { return r.str() }
		case "intValue":
			i, read = 1, func() any { return r.int64() }
		case "doubleValue":
			i, read = 2, func() any { return r.float64() }
		case "boolValue":
			i, read = 3, func() any { return r.boolean() }
		case "kvlistValue":
			i, read = 4, func() any { return r.pairs() }
		case "arrayValue":
			i, read = 5, func() any { return r.values() }
		case "bytesValue":
			r.lenient(func(r *otlpReader) {
				if b, err := base64.StdEncoding.DecodeString(r.str()); err == nil && r.err == nil {
					found[kinds-1] = b
				}
			})
			return false
		default:
			return false
		}
		if !r.null() {
			found[i] = read()
		}
		return true
	})
	for _, v := range found {
		if v != nil {
			return v
		}
	}
	return nil
}

// pairs reads a key-value list. If a key is repeated, the last value wins.
func (r *otlpReader) pairs() map[string]any {
	m := map[string]any{}
	r.object(func(key string) bool {
		if key != "values" {
			return false
		}
		for _, a := range r.attributes() {
			m[a.key] = a.value
		}
		return true
	})
	return m
}

func (r *otlpReader) values() []any {
	list := []any{}
	r.object(func(key string) bool {
		if key != "values" {
			return false
		}
		r.array(func() { list = append(list, r.anyValue()) })
		return true
	})
	return list
}

// attributeMap converts attributes to the map used in public types. If a key is repeated, the
// last value wins.
func attributeMap(list []attribute) map[string]any {
	if len(list) == 0 {
		return nil
	}
	m := make(map[string]any, len(list))
	for _, a := range list {
		m[a.key] = a.value
	}
	return m
}

// storedAttributes converts attributes to their stored form, in which every value is a string.
func storedAttributes(list []attribute) []iii.StoredAttribute {
	stored := make([]iii.StoredAttribute, len(list))
	for i, a := range list {
		stored[i] = iii.StoredAttribute{a.key, valueText(a.value)}
	}
	return stored
}

// secretKeys contains the keys of the span, event and link attributes whose values the engine
// redacts.
var secretKeys = map[string]bool{
	"authorization": true, "proxy-authorization": true, "cookie": true, "set-cookie": true,
	"x-api-key": true, "api-key": true, "api_key": true, "access_token": true, "refresh_token": true,
	"password": true, "secret": true, "credential": true,
}

// redactedAttributes is like storedAttributes, but redacts the values of the keys in
// secretKeys.
func redactedAttributes(list []attribute) []iii.StoredAttribute {
	stored := storedAttributes(list)
	for i := range stored {
		if secretKeys[strings.ToLower(stored[i][0])] {
			stored[i][1] = "[REDACTED]"
		}
	}
	return stored
}

// valueText formats a value as a string. As in a real engine, a value of type bytes becomes
// "".
func valueText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case []any, map[string]any:
		return string(mustEncode(valueJSON(v)))
	default:
		return ""
	}
}

// valueJSON converts a value so that encoding/json formats it as a real engine does. A value
// of type bytes becomes null.
func valueJSON(v any) any {
	switch v := v.(type) {
	case float64:
		return float(v)
	case []byte:
		return nil
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = valueJSON(v[i])
		}
		return list
	case map[string]any:
		m := make(map[string]any, len(v))
		for k := range v {
			m[k] = valueJSON(v[k])
		}
		return m
	default:
		return v
	}
}

// float is a number whose JSON encoding matches that of the engine's 64-bit floats: 2.0
// instead of 2, and null if the number is not finite.
type float float64

// MarshalJSON implements json.Marshaler.
func (f float) MarshalJSON() ([]byte, error) {
	v := float64(f)
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return []byte("null"), nil
	}
	if size := math.Abs(v); size != 0 && (size < 1e-5 || size >= 1e16) {
		return []byte(exponents.Replace(strconv.FormatFloat(v, 'e', -1, 64))), nil
	}
	b := strconv.AppendFloat(nil, v, 'f', -1, 64)
	if bytes.IndexByte(b, '.') < 0 {
		b = append(b, ".0"...)
	}
	return b, nil
}

// exponents removes the plus sign and a leading zero from an exponent.
var exponents = strings.NewReplacer("e+0", "e", "e-0", "e-", "e+", "e")

func floats(list []float64) []float {
	out := make([]float, len(list))
	for i, v := range list {
		out[i] = float(v)
	}
	return out
}

// Resource describes the process that exported a record.
type Resource struct {
	Attributes map[string]any // see Span.Attributes
	SchemaURL  string
}

// Scope is the instrumentation scope of a record.
type Scope struct {
	Name, Version, SchemaURL string
	Attributes               map[string]any // see Span.Attributes
}

// resource reads a resource. It reads null as an empty resource.
func (r *otlpReader) resource() []attribute {
	var list []attribute
	if r.null() {
		return nil
	}
	r.object(func(key string) bool {
		if key != "attributes" {
			return false
		}
		list = r.attributes()
		return true
	})
	return list
}

// scope reads a scope. It reads null as an empty scope. The engine skips a scope's attributes,
// so invalid ones are not an error.
func (r *otlpReader) scope() Scope {
	var s Scope
	if r.null() {
		return s
	}
	r.object(func(key string) bool {
		switch key {
		case "name":
			s.Name = r.optStr()
		case "version":
			s.Version = r.optStr()
		case "attributes":
			r.lenient(func(r *otlpReader) {
				if list := r.attributes(); r.err == nil {
					s.Attributes = attributeMap(list)
				}
			})
			return false
		default:
			return false
		}
		return true
	})
	return s
}

// lenientStr and lenientUint read values that the engine skips, so invalid values are not an
// error.
func (r *otlpReader) lenientStr() (s string) {
	r.lenient(func(r *otlpReader) { s = r.optStr() })
	return s
}

func (r *otlpReader) lenientUint() (n uint32) {
	r.lenient(func(r *otlpReader) { n = r.uint32() })
	return n
}

// serviceOf returns the service name under which the engine stores the resource's telemetry.
func serviceOf(resource []attribute) string {
	service := "unknown"
	for _, a := range resource {
		if a.key == "service.name" {
			service = valueText(a.value)
		}
	}
	return service
}

// batch reads the structure shared by the three signals: a list of resources, each with a list
// of scopes, each with a list of records. record reads one record. batch calls done once per
// resource, after reading the resource's records, because the resource and the scopes can
// follow the records in the JSON. done receives one scope for each record read since the
// previous call.
func (r *otlpReader) batch(resources, scopes, records string, record func(), done func(resource []attribute, resourceURL string, scope []Scope)) {
	r.object(func(key string) bool {
		if key != resources {
			return false
		}
		r.array(func() { r.resourceBatch(scopes, records, record, done) })
		return true
	})
}

func (r *otlpReader) resourceBatch(scopes, records string, record func(), done func(resource []attribute, resourceURL string, scope []Scope)) {
	var resource []attribute
	var url string
	var perRecord []Scope // the scope of each record
	r.object(func(key string) bool {
		switch key {
		case "resource":
			resource = r.resource()
		case "schemaUrl":
			url = r.lenientStr()
			return false
		case scopes:
			r.array(func() {
				var scope Scope
				var scopeURL string
				n := 0
				r.object(func(key string) bool {
					switch key {
					case "scope":
						scope = r.scope()
					case "schemaUrl":
						scopeURL = r.lenientStr()
						return false
					case records:
						r.array(func() { record(); n++ })
					default:
						return false
					}
					return true
				})
				scope.SchemaURL = scopeURL
				for range n {
					perRecord = append(perRecord, scope)
				}
			})
		default:
			return false
		}
		return true
	})
	if r.err == nil {
		done(resource, url, perRecord)
	}
}
