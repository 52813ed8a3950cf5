package secret

import "strings"

// Key reports whether a key names a secret. It accepts the keys that satisfy [Named], and
// "cookies", which occurs in HTTP request payloads. If the key contains dots, as attribute
// keys do, Key also checks its last part.
func Key(key string) bool {
	last := key[strings.LastIndexByte(key, '.')+1:]
	return strings.EqualFold(last, "cookies") || Named([]byte(last)) || Named([]byte(key))
}

// secretWords lists words that mark a key as secret wherever they occur in it, as in
// client_secret.
var secretWords = []string{"api_key", "apikey", "api-key", "password", "secret", "credential", "authorization",
	"auth_token", "access_token", "refresh_token", "bearer", "private_key", "access_key"}

// secretInitials marks the first bytes of secretWords, in lower and upper case.
var secretInitials = func() (t [256]bool) {
	for _, word := range secretWords {
		t[word[0]], t[word[0]-'a'+'A'] = true, true
	}
	return t
}()

// Named reports whether a key names a secret under the rules of iii.Redact.
func Named(key []byte) bool {
	for i, c := range key {
		if !secretInitials[c] {
			continue
		}
		for _, word := range secretWords {
			if hasPrefixFold(key[i:], word) {
				return true
			}
		}
	}
	if isFold(key, "cookie") || isFold(key, "set-cookie") {
		return true
	}
	if n := len(key) - len("token"); n >= 0 && hasPrefixFold(key[n:], "token") {
		return n == 0 || key[n-1] == '_' || key[n-1] == '-'
	}
	return false
}

func isFold(key []byte, word string) bool { return len(key) == len(word) && hasPrefixFold(key, word) }

// hasPrefixFold reports whether key begins with prefix, ignoring the case of ASCII letters.
// The prefix must be in lower case.
func hasPrefixFold(key []byte, prefix string) bool {
	if len(key) < len(prefix) {
		return false
	}
	for i := range len(prefix) {
		c := key[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != prefix[i] {
			return false
		}
	}
	return true
}
