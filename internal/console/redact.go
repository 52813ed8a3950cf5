package console

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/internal/secret"
)

// redact returns v as decoded JSON. The values of secret keys are replaced, including those in
// JSON inside strings.
func redact(v any) any { return withoutMore(iii.Redact(v)) }

func withoutMore(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if secret.Key(key) {
				v[key] = secret.Redacted
			} else {
				v[key] = withoutMore(value)
			}
		}
	case []any:
		for i, value := range v {
			v[i] = withoutMore(value)
		}
	case string:
		return secret.Text(v)
	}
	return v
}

// redactSpans redacts the elements of spans in place. It first copies their attributes, events
// and links, because other copies of the spans may share them.
func redactSpans(spans []iii.StoredSpan) []iii.StoredSpan {
	for i := range spans {
		s := &spans[i]
		s.Attributes = redactAttributes(s.Attributes)
		s.StatusDescription = secret.Text(s.StatusDescription)
		s.Events = slices.Clone(s.Events)
		for n := range s.Events {
			s.Events[n].Attributes = redactAttributes(s.Events[n].Attributes)
		}
		s.Links = slices.Clone(s.Links)
		for n := range s.Links {
			s.Links[n].Attributes = redactAttributes(s.Links[n].Attributes)
		}
	}
	return spans
}

func redactAttributes(list []iii.StoredAttribute) []iii.StoredAttribute {
	list = slices.Clone(list)
	for i, a := range list {
		if secret.Key(a[0]) {
			list[i][1] = secret.Redacted
		} else {
			list[i][1] = secret.Text(a[1])
		}
	}
	return list
}

// callerKey is the key of a member that the engine adds to the payload of a call from a
// worker.
const callerKey = "_caller_worker_id"

// payload prepares a payload for display: it redacts secrets and removes callerKey.
func payload(data json.RawMessage) any {
	if len(data) == 0 {
		return nil
	}
	v := redact(data)
	if members, ok := v.(map[string]any); ok {
		delete(members, callerKey)
	}
	return v
}

const (
	// maxPreviewed is the maximum size, in bytes, of a payload that has a preview.
	maxPreviewed = 4 << 10
	// previewLength is the maximum length of a preview in bytes.
	previewLength = 160
)

// preview returns a payload as a single line, cut off after previewLength bytes. It returns ""
// if the payload is empty or too large.
func preview(data json.RawMessage) string {
	if len(data) == 0 || len(data) > maxPreviewed {
		return ""
	}
	text, err := json.Marshal(payload(data))
	if err != nil || string(text) == "null" || string(text) == "{}" {
		return ""
	}
	if len(text) > previewLength {
		return strings.ToValidUTF8(string(text[:previewLength]), "") + "…"
	}
	return string(text)
}
