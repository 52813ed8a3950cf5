package main

import (
	"fmt"
	"hash/fnv"
	"regexp"
	"strings"
	"unicode"
)

// initialisms lists the words that are written in capitals in Go names.
var initialisms = map[string]bool{"acl": true, "api": true, "ascii": true, "cpu": true, "css": true, "db": true, "dlq": true, "dns": true, "eof": true,
	"gid": true, "guid": true, "hmac": true, "html": true, "http": true, "https": true, "id": true, "ip": true, "json": true, "os": true, "oss": true, "pid": true,
	"qps": true, "ram": true, "rpc": true, "rss": true, "sla": true, "smtp": true, "sql": true, "ssh": true, "tcp": true, "tls": true, "ttl": true,
	"udp": true, "ui": true, "uid": true, "uri": true, "url": true, "utf8": true, "uuid": true, "vm": true, "ws": true, "wss": true, "xml": true, "xmpp": true,
	"xsrf": true, "xss": true}

// capitals returns the length in bytes of the initialism with which word begins, or 0. Only an
// s or a number may follow the initialism.
func capitals(word string) int {
	lower := strings.ToLower(word)
	stem := strings.TrimRight(lower, "0123456789")
	switch singular, isPlural := strings.CutSuffix(lower, "s"); {
	case len(lower) != len(word): // not ASCII
	case initialisms[lower]:
		return len(word)
	case initialisms[stem]:
		return len(stem)
	case isPlural && initialisms[singular]:
		return len(singular)
	}
	return 0
}

// goName converts text to an exported Go identifier. Different strings can yield the same
// identifier.
func goName(text string) string {
	var b strings.Builder
	for _, word := range words(text) {
		if n := capitals(word); n > 0 {
			b.WriteString(strings.ToUpper(word[:n]) + strings.ToLower(word[n:]))
			continue
		}
		r := []rune(word)
		r[0] = unicode.ToUpper(r[0])
		b.WriteString(string(r))
	}
	name := b.String()
	if first := []rune(name); len(first) == 0 || !unicode.IsUpper(first[0]) {
		name = "X" + name
	}
	return name
}

// unexported returns name with its first word in lower case.
func unexported(name string) string {
	r := []rune(name)
	for i := range r {
		plural := i+1 < len(r) && r[i+1] == 's' && (i+2 == len(r) || unicode.IsUpper(r[i+2]))
		if !unicode.IsUpper(r[i]) || i > 0 && i+1 < len(r) && unicode.IsLower(r[i+1]) && !plural {
			break
		}
		r[i] = unicode.ToLower(r[i])
	}
	return string(r)
}

// words splits text at case changes and at characters other than letters and digits.
func words(text string) []string {
	var all []string
	for _, part := range strings.FieldsFunc(text, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		r := []rune(part)
		start := 0
		for i := 1; i < len(r); i++ {
			begins := unicode.IsUpper(r[i]) && (!unicode.IsUpper(r[i-1]) || i+1 < len(r) && unicode.IsLower(r[i+1]))
			if begins {
				all = append(all, string(r[start:i]))
				start = i
			}
		}
		all = append(all, string(r[start:]))
	}
	return all
}

// punctuation maps punctuation characters in enumeration values to words for identifiers.
var punctuation = map[rune]string{'<': "Less", '>': "Greater", '=': "Equal", '!': "Not", '+': "Plus", '-': "Minus", '*': "Star", '/': "Slash", '%': "Percent",
	'&': "And", '|': "Or", '^': "Caret", '~': "Tilde", '?': "Question", '.': "Dot", ',': "Comma", ':': "Colon", ';': "Semicolon", '#': "Hash", '$': "Dollar",
	'@': "At", '_': "Underscore", '(': "Open", ')': "Close", '[': "OpenBracket", ']': "CloseBracket", '{': "OpenBrace", '}': "CloseBrace", ' ': "Space"}

// valueName returns the suffix of the constant name for an enumeration value.
func valueName(value string) string {
	if value == "" {
		return "Empty"
	}
	if len(words(value)) > 0 {
		return strings.TrimPrefix(goName("X "+value), "X") // unlike an identifier, a suffix may begin with a digit
	}
	var b strings.Builder
	for _, r := range value {
		b.WriteString(punctuation[r])
	}
	if b.Len() == 0 {
		return "Value"
	}
	return b.String()
}

// scope is a set of identifiers that are already in use.
type scope map[string]bool

// add adds and returns the first candidate not yet in the scope. If all candidates are in use,
// it appends a number to the last one.
func (s scope) add(candidates ...string) string {
	for _, name := range candidates {
		if !s[name] {
			s[name] = true
			return name
		}
	}
	last := candidates[len(candidates)-1]
	for n := 2; ; n++ {
		if name := fmt.Sprintf("%s%d", last, n); !s[name] {
			s[name] = true
			return name
		}
	}
}

// fileStem derives the base name of a group's file, which contains only a-z, 0-9 and _.
func fileStem(group string) string {
	var b strings.Builder
	plain := true
	for _, r := range strings.ToLower(group) {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			b.WriteRune(r)
		default:
			plain = plain && (r == '-' || r == '_' || r == '.')
			b.WriteByte('_')
		}
	}
	stem := strings.Trim(b.String(), "_")
	if stem == "" {
		stem = "x"
	}
	if !plain || len(stem) > 60 {
		hash := fnv.New32a()
		_, _ = hash.Write([]byte(group))
		stem = fmt.Sprintf("%.60s_%08x", stem, hash.Sum32())
	}
	return stem
}

// directive matches text that tools would take for a directive at the start of a comment.
var directive = regexp.MustCompile(`(^|\s)//+\b`)

// quotes matches pairs of quotation marks that gofmt would replace with typographic ones.
var quotes = regexp.MustCompile("``+|''+")

// commentText makes text from another worker safe for use in a comment. It removes control and
// format characters, and changes text that tools would interpret or reformat.
func commentText(text string) string {
	text = strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\r", "\n")
	text = strings.ToValidUTF8(text, "\uFFFD")
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '\n':
			return r
		case r == '\t':
			return ' '
		case unicode.Is(unicode.Cc, r), unicode.Is(unicode.Cf, r), r == '\u2028', r == '\u2029':
			return -1
		}
		return r
	}, text)
	text = quotes.ReplaceAllStringFunc(text, func(s string) string {
		if s[0] == '`' {
			return "`"
		}
		return `"`
	})
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = directive.ReplaceAllString(strings.TrimSpace(line), "$1// ")
	}
	return strings.TrimSpace(strings.Join(lines, "\n"))
}

func isLetterOrDigit(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }
