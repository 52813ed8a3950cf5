package secret

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestText(t *testing.T) {
	for text, want := range map[string]string{
		"": "",
		`{"key":"password","value":{"stringValue":"s3cret"}}`:                                                                          `{"key":"password","value":"[REDACTED]"}`,
		`{"attributes":[{"key":"http.request.header.cookie", "value" : {"stringValue":"s3cret"}},{"key":"a","value":{"intValue":1}}]}`: `{"attributes":[{"key":"http.request.header.cookie", "value":"[REDACTED]"},{"key":"a","value":{"intValue":1}}]}`,
		`{"key":"password","a":1}{"value":2}`:                                                                                          `{"key":"password","a":1}{"value":2}`,
		`{"a":"password","value":2}`:                                                                                                   `{"a":"password","value":2}`,
		`"{\"token\":1}"`:                                                                                                              `"{\"token\":\"[REDACTED]\"}"`,
		"token=s3cret":                                                                                                                 "token=s3cret",
		`{"a":1,"cookie":"s3cret"}`:                                                                                                    `{"a":1,"cookie":"[REDACTED]"}`,
		`{"access_key":"s3cret","channel_id":"c"}`:                                                                                     `{"access_key":"[REDACTED]","channel_id":"c"}`,
		`[{"password":"s3cret"}]`:                                                                                                      `[{"password":"[REDACTED]"}]`,
		`{"a":"{\"token\":\"s3cret\"}"}`:                                                                                               `{"a":"{\"token\":\"[REDACTED]\"}"}`,
		`{"cookie":"s3cret","b":"so lo[TRUNCATED]`:                                                                                     `{"cookie":"[REDACTED]","b":"so lo[TRUNCATED]`,
		`{"b":"c","set-cookie": ["s3cret[TRUNCATED]`:                                                                                   `{"b":"c","set-cookie":"[REDACTED]"`,
		`{"b":["c"],"api_key" : "s3cr\"et`:                                                                                             `{"b":["c"],"api_key":"[REDACTED]"`,
		`{"b":"a \"cookie\": no member`:                                                                                                `{"b":"a \"cookie\": no member`,
		`{"cookies":{"a":"s3cret"},"b":[1`:                                                                                             `{"cookies":"[REDACTED]","b":[1`,
		`{"cookies":{"a":"s3cret..."[TRUNCATED]"`:                                                                                      `{"cookies":"[REDACTED]"`,
		`{"token":4242,"b":[1`:                                                                                                         `{"token":"[REDACTED]","b":[1`,
		`{"token":4242..."[TRUNCATED]"`:                                                                                                `{"token":"[REDACTED]"`,
		`{"token":true,"b":[{"api_key": null},{"c"`:                                                                                    `{"token":"[REDACTED]","b":[{"api_key":"[REDACTED]"},{"c"`,
		`{"token":s3cret,"b":1}`:                                                                                                       `{"token":"[REDACTED]"`,
		`{"pass\u0077ord":"s3cret","b":[1`:                                                                                             `{"pass\u0077ord":"[REDACTED]","b":[1`,
		`{"a\q_token":"s3cret","b":[1`:                                                                                                 `{"a\q_token":"[REDACTED]","b":[1`,
		`{"a":"{\"token\":\"s3cret\"}","b":[1`:                                                                                         `{"a":"{\"token\":\"[REDACTED]\"}","b":[1`,
		`{"a":"{\"token\":\"s3cret..."[TRUNCATED]"`:                                                                                    `{"a":"{\"token\":\"[REDACTED]\""[TRUNCATED]"`,
		`{"a":"{\"token\":\"s3cret\u00`:                                                                                                `{"a":"{\"token\":\"[REDACTED]\""`,
		" \n{\"token\":\"s3cret":                                                                                                       " \n{\"token\":\"[REDACTED]\"",
	} {
		if got := Text(text); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func TestTextOfTruncatedPayloadShowsNoSecret(t *testing.T) {
	payload := `{"id":1,"cookies":{"a":["ZZ"],"b":{"c":"ZZ"}},"inner":"{\"token\":{\"a\":\"ZZ \\\"ZZ\"},\"b\":[]}",` +
		`"pass\u0077ord" : "Z\"ZZ","list":[{"set-cookie":["ZZ","ZZ"]},{"api_key":-99.9e9}],"name":"Ada"}`
	for end := range len(payload) + 1 {
		for _, marker := range []string{"", `..."[TRUNCATED]"`} {
			if got := Text(payload[:end] + marker); strings.ContainsAny(got, "Z9") {
				t.Errorf("%s%s: %s", payload[:end], marker, got)
			}
		}
	}
	if got := Text(payload); !strings.Contains(got, `"name":"Ada"`) {
		t.Errorf("of the whole payload, what is no secret is missing: %s", got)
	}
}

// FuzzText checks that Text is idempotent and that valid JSON stays valid.
func FuzzText(f *testing.F) {
	for _, text := range []string{
		`{"token":{"a":[1]},"b":"{\"password\": 1e5}"}`, `[{"key":"password","value":{"stringValue":"a"}}]`, `"\"{\\\"cookie\\\":null}\""`, `{"a":"\ud83d\u0`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := Text(text)
		if !json.Valid([]byte(text)) {
			return
		}
		if !json.Valid([]byte(got)) {
			t.Errorf("%s became %s", text, got)
		}
		if again := Text(got); again != got {
			t.Errorf("%s became %s, and then %s", text, got, again)
		}
	})
}
