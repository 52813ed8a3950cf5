// Package secret masks secrets in data that the development engine displays or writes.
package secret

import (
	"encoding/json"
	"regexp"
	"strings"
	"sync"
	"unicode/utf8"
)

// Redacted is the placeholder for a secret.
const Redacted = "[REDACTED]"

// Text masks the values of secret keys in JSON, including JSON inside strings. It treats an
// OTLP attribute, {"key":…,"value":…}, as a member. If a secret's value is invalid or
// truncated, the result ends with the placeholder. The result for valid JSON is valid JSON.
// Text that is not JSON is returned unchanged.
func Text(text string) string {
	if begin := strings.TrimLeft(text, " \t\r\n"); begin == "" || !strings.ContainsRune(`{["`, rune(begin[0])) {
		return text
	}
	var out strings.Builder
	from := 0          // out holds the result for text[:from]
	last := ""         // the last key
	attribute := false // the next value is that of a secret attribute
	for i := 0; i < len(text); {
		if text[i] != '"' {
			i++
			continue
		}
		end := i + quoted(text[i:])
		s := unquoted(text[i:end])
		value := strings.TrimLeft(text[end:], " \t\r\n")
		if !strings.HasPrefix(value, ":") { // a string value, possibly JSON
			if masked := Text(s); masked != s {
				b, _ := json.Marshal(masked)
				out.WriteString(text[from:i] + string(b))
				from = end
			}
			attribute = last == "key" && Key(s)
			i, last = end, ""
			continue
		}
		i, last = end, s
		masked := Key(s) || attribute && s == "value"
		attribute = false
		if !masked {
			continue
		}
		out.WriteString(text[from:end] + `:"` + Redacted + `"`)
		d := json.NewDecoder(strings.NewReader(value[1:]))
		if d.Decode(new(json.RawMessage)) != nil {
			return out.String()
		}
		i = len(text) - len(value) + 1 + int(d.InputOffset())
		from = i
	}
	return out.String() + text[from:]
}

// quoted returns the length of the JSON string at the start of text. The string may be
// truncated.
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

// escape matches an escape in a JSON string, or a byte that no JSON string can contain.
var escape = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})|[\\\x00-\x1f]`)
})

// unquoted decodes a JSON string, which may be truncated. It drops invalid parts, such as an
// incomplete escape.
func unquoted(quoted string) string {
	if n := len(quoted); n > 1 && quoted[n-1] == '"' && plain(quoted) {
		return quoted[1 : n-1]
	}
	quoted = escape().ReplaceAllStringFunc(quoted, func(e string) string {
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

// plain reports whether a JSON string contains neither escapes nor invalid bytes.
func plain(quoted string) bool {
	for i := range len(quoted) {
		if quoted[i] == '\\' || quoted[i] < ' ' {
			return false
		}
	}
	return utf8.ValidString(quoted)
}
