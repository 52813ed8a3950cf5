package console

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	"github.com/iii-go/iii"
)

const redacted = "[REDACTED]"

// redact is v as JSON values without what a key marks as a secret: what iii.Redact
// knows, cookies, which HTTP payloads have in their headers, and the keys of channels;
// in texts that are JSON themselves too.
func redact(v any) any { return withoutMore(iii.Redact(v)) }

// more reports whether a key names a secret of those that iii.Redact does not know; of
// an attribute, its last part does.
func more(key string) bool {
	switch strings.ToLower(key[strings.LastIndexByte(key, '.')+1:]) {
	case "cookie", "set-cookie", "cookies", "access_key", "token":
		return true
	}
	return false
}

func withoutMore(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if more(key) {
				v[key] = redacted
			} else {
				v[key] = withoutMore(value)
			}
		}
	case []any:
		for i, value := range v {
			v[i] = withoutMore(value)
		}
	case string:
		return redactText(v)
	}
	return v
}

// textMember is a member of a JSON object whose value is a text or begins like a list,
// perhaps cut off.
var textMember = regexp.MustCompile(`"((?:[^"\\]|\\.)*)"\s*:\s*(?:"(?:[^"\\]|\\.)*(?:"|$)|\[[^\]]*(?:\]|$))`)

// redactText is a text without secrets, if it is JSON: as payloads are in spans. There
// they may be cut off, and then are gone through member by member.
func redactText(text string) string {
	if text == "" || !strings.ContainsRune("{[", rune(text[0])) {
		return text
	}
	if json.Valid([]byte(text)) {
		if b, err := json.Marshal(redact(json.RawMessage(text))); err == nil {
			return string(b)
		}
	}
	return textMember.ReplaceAllStringFunc(text, func(member string) string {
		key := textMember.FindStringSubmatch(member)[1]
		if !secret(key) {
			return member
		}
		return `"` + key + `":"` + redacted + `"`
	})
}

func secret(key string) bool {
	members, _ := iii.Redact(map[string]int{key: 0}).(map[string]any)
	return members[key] == redacted || more(key)
}

// redactSpans changes the list, and nothing that it shares with others.
func redactSpans(spans []iii.StoredSpan) []iii.StoredSpan {
	for i := range spans {
		s := &spans[i]
		s.Attributes = redactAttributes(s.Attributes)
		s.StatusDescription = redactText(s.StatusDescription)
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
		if secret(a[0]) {
			list[i][1] = redacted
		} else {
			list[i][1] = redactText(a[1])
		}
	}
	return list
}

// callerKey is the member that the engine adds to the payload of a worker's call.
const callerKey = "_caller_worker_id"

// payload is a payload to show: without secrets, and without what the engine has added.
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
	// maxPreviewed is the size up to which a payload is looked at for a line in a list.
	maxPreviewed = 4 << 10
	// previewLength is how long such a line is, in bytes.
	previewLength = 160
)

// preview is a payload in a line.
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
