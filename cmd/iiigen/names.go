package main

import (
	"fmt"
	"hash/fnv"
	"regexp"
	"strings"
	"unicode"
)

// initialisms are words that are written in capital letters.
var initialisms = map[string]bool{"api": true, "cpu": true, "css": true, "dns": true, "hmac": true, "html": true, "http": true, "https": true,
	"id": true, "ip": true, "json": true, "os": true, "pid": true, "rpc": true, "sql": true, "ssh": true, "tcp": true, "tls": true, "ttl": true,
	"udp": true, "ui": true, "uri": true, "url": true, "utf8": true, "uuid": true, "vm": true, "xml": true}

// goName returns an exported Go identifier for a text. The result depends only on the text,
// but different texts can have the same name.
func goName(text string) string {
	var b strings.Builder
	for _, word := range words(text) {
		lower := strings.ToLower(word)
		switch {
		case initialisms[lower]:
			b.WriteString(strings.ToUpper(word))
		case lower == "ids" || lower == "urls" || lower == "uris":
			b.WriteString(strings.ToUpper(word[:len(word)-1]) + "s")
		default:
			r := []rune(word)
			r[0] = unicode.ToUpper(r[0])
			b.WriteString(string(r))
		}
	}
	name := b.String()
	if first := []rune(name); len(first) == 0 || !unicode.IsUpper(first[0]) {
		name = "X" + name
	}
	return name
}

// words splits a text at characters that are neither letters nor digits, and where the case
// changes.
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

// punctuation names the punctuation characters in enumeration values.
var punctuation = map[rune]string{'<': "Less", '>': "Greater", '=': "Equal", '!': "Not", '+': "Plus", '-': "Minus", '*': "Star", '/': "Slash", '%': "Percent",
	'&': "And", '|': "Or", '^': "Caret", '~': "Tilde", '?': "Question", '.': "Dot", ',': "Comma", ':': "Colon", ';': "Semicolon", '#': "Hash", '$': "Dollar",
	'@': "At", '_': "Underscore", '(': "Open", ')': "Close", '[': "OpenBracket", ']': "CloseBracket", '{': "OpenBrace", '}': "CloseBrace", ' ': "Space"}

// valueName returns the part of a constant's name that represents its value.
func valueName(value string) string {
	if value == "" {
		return "Empty"
	}
	if len(words(value)) > 0 {
		return strings.TrimPrefix(goName("X "+value), "X") // a digit can follow the type's name
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

// scope is the set of names that are taken.
type scope map[string]bool

// add adds the first candidate that is not taken and returns it. If all are taken, it appends
// a number to the last candidate.
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

// fileStem returns the beginning of a group's file name, which consists of a-z, 0-9 and _.
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

// directive matches text that would be a directive at the beginning of a comment line.
var directive = regexp.MustCompile(`(^|\s)//+\b`)

// quotes matches quotes that gofmt makes typographic, including repeated ones.
var quotes = regexp.MustCompile("``+|''+")

// commentText converts text from another worker to comment lines. It removes control and
// format characters, and changes text that tools would treat as a directive or reformat.
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
