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

// redactText is a text without secrets, if it is JSON: as payloads are in spans. There
// they may be cut off, and then are gone through member by member.
func redactText(text string) string {
	if begin := strings.TrimLeft(text, " \t\r\n"); begin == "" || !strings.ContainsRune("{[", rune(begin[0])) {
		return text
	}
	if json.Valid([]byte(text)) {
		if b, err := json.Marshal(redact(json.RawMessage(text))); err == nil {
			return string(b)
		}
	}
	return redactCut(text)
}

// redactCut is the beginning of a JSON text without secrets. Where the value of a secret
// is no JSON, or is cut off, it cannot be told where it ends: nothing is left from there.
func redactCut(text string) string {
	var out strings.Builder
	from := 0 // what is to follow out
	for i := 0; i < len(text); {
		if text[i] != '"' {
			i++
			continue
		}
		end := i + quoted(text[i:])
		s := unquoted(text[i:end])
		value := strings.TrimLeft(text[end:], " \t\r\n")
		if !strings.HasPrefix(value, ":") { // a text, which may be JSON itself
			if masked := redactText(s); masked != s {
				b, _ := json.Marshal(masked)
				out.WriteString(text[from:i] + string(b))
				from = end
			}
			i = end
			continue
		}
		i = end
		if !secret(s) {
			continue
		}
		out.WriteString(text[from:end] + `:"` + redacted + `"`)
		d := json.NewDecoder(strings.NewReader(value[1:]))
		if d.Decode(new(json.RawMessage)) != nil {
			return out.String()
		}
		i = len(text) - len(value) + 1 + int(d.InputOffset())
		from = i
	}
	return out.String() + text[from:]
}

// quoted is the length of the JSON string with which text begins, perhaps cut off.
func quoted(text string) int {
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(text)
}

// escape is an escape in a JSON string, or one byte that cannot be in any.
var escape = regexp.MustCompile(`\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})|[\\\x00-\x1f]`)

// unquoted is what a JSON string means, which may lack its end, without what has no
// meaning: a part of an escape, where it was cut off.
func unquoted(quoted string) string {
	quoted = escape.ReplaceAllStringFunc(quoted, func(e string) string {
		if len(e) == 1 {
			return ""
		}
		return e
	})
	var s string
	if json.Unmarshal([]byte(quoted), &s) != nil {
		_ = json.Unmarshal([]byte(quoted+`"`), &s)
	}
	return s
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
