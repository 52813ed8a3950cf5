package iii_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/iii-go/iii"
)

func refAt(path, id string) iii.ChannelRefAt {
	return iii.ChannelRefAt{Path: path, Ref: iii.StreamChannelRef{ChannelID: id, AccessKey: "k", Direction: "read"}}
}

func TestChannelRefs(t *testing.T) {
	ref := func(id string) string { return `{"channel_id":"` + id + `","access_key":"k","direction":"read"}` }
	tests := map[string]struct {
		payload string
		want    []iii.ChannelRefAt
	}{
		"itself":               {ref("c"), []iii.ChannelRefAt{refAt("", "c")}},
		"member":               {`{"a":` + ref("c") + `}`, []iii.ChannelRefAt{refAt("a", "c")}},
		"element":              {`[1,` + ref("c") + `,[[]],` + ref("d") + `]`, []iii.ChannelRefAt{refAt("[1]", "c"), refAt("[3]", "d")}},
		"deep":                 {`{"x":0,"a":{"b":[{"c":` + ref("1") + `},{"c":null,"d":` + ref("2") + `}]}}`, []iii.ChannelRefAt{refAt("a.b[0].c", "1"), refAt("a.b[1].d", "2")}},
		"any order, more keys": {`{"direction":"read","more":[{}],"access_key":"k","channel_id":"c"}`, []iii.ChannelRefAt{refAt("", "c")}},
		"escaped key":          {`{"channel\u005fid":"c","access_key":"k","direction":"read"}`, []iii.ChannelRefAt{refAt("", "c")}},
		"inside another":       {`{"channel_id":"c","in":[` + ref("inner") + `],"access_key":"k","direction":"read"}`, []iii.ChannelRefAt{refAt("", "c")}},
		"twice a key":          {`{"channel_id":1,"channel_id":"c","access_key":"k","direction":"read"}`, []iii.ChannelRefAt{refAt("", "c")}},
		"twice, then none":     {`{"channel_id":"c","channel_id":{},"access_key":"k","direction":"read"}`, nil},
		"no direction":         {`{"channel_id":"c","access_key":"k"}`, nil},
		"number":               {`{"channel_id":1,"access_key":"k","direction":"read"}`, nil},
		"null":                 {`{"channel_id":"c","access_key":null,"direction":"read"}`, nil},
		"not a member":         {`["channel_id","access_key","direction"]`, nil},
		"numbers":              {`[1e999,-0.5,` + ref("c") + `]`, []iii.ChannelRefAt{refAt("[2]", "c")}},
		"odd keys":             {`{"":{"a.b":` + ref("c") + `}}`, []iii.ChannelRefAt{refAt("a.b", "c")}},
		"scalar":               {`"x"`, nil},
		"nothing":              {``, nil},
		"no JSON":              {`{"a":` + ref("c"), nil},
		"more than one":        {ref("c") + ref("d"), nil},
		"too deep":             {strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000), nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, iii.ChannelRefs(json.RawMessage(tt.payload))); diff != "" {
				t.Errorf("references (-want +got):\n%s", diff)
			}
		})
	}
}

// Every payload of the recordings that holds references.
func TestChannelRefsAsRecorded(t *testing.T) {
	paths := map[string]int{}
	for _, name := range []string{"channels", "http-streaming", "http-triggers"} {
		for _, e := range readRecording(t, name) {
			f := frameOf(t, e)
			for _, raw := range []json.RawMessage{f.Data, f.Result} {
				found := iii.ChannelRefs(raw)
				for _, at := range found {
					paths[at.Path]++
				}
				if n := strings.Count(string(raw), `"access_key"`); n != len(found) {
					t.Errorf("%s:%d: %d of %d references", name, e.line, len(found), n)
				}
			}
		}
	}
	if paths["reader"] == 0 || paths["writer"] == 0 || paths["request_body"] == 0 || paths["response"] == 0 {
		t.Errorf("paths: %v", paths)
	}
}

// referencesIn finds references in a decoded document by recursion.
func referencesIn(v any, path string, found *[]string) {
	switch v := v.(type) {
	case map[string]any:
		if isReference(v) {
			*found = append(*found, path)
			return
		}
		for key, member := range v {
			at := path + "." + key
			if path == "" {
				at = key
			}
			referencesIn(member, at, found)
		}
	case []any:
		for i, element := range v {
			referencesIn(element, fmt.Sprintf("%s[%d]", path, i), found)
		}
	}
}

func isReference(object map[string]any) bool {
	for _, key := range []string{"channel_id", "access_key", "direction"} {
		if _, ok := object[key].(string); !ok {
			return false
		}
	}
	return true
}

func FuzzChannelRefs(f *testing.F) {
	for _, seed := range []string{
		`{"a":{"b":[{"c":{"channel_id":"c","access_key":"k","direction":"read"}}]}}`,
		`[{"channel_id":"c","access_key":"k","direction":"write","more":{"channel_id":"d","access_key":"k","direction":"read"}},1e999]`,
		`{"channel_id":"c","channel_id":2}`, `"\ud800"`, `{"":{"":0}}`, `[`, ` null `,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		got := iii.ChannelRefs(payload)
		var doc any
		d := json.NewDecoder(strings.NewReader(string(payload)))
		d.UseNumber()
		if d.Decode(&doc) != nil || d.More() {
			if !json.Valid(payload) && got != nil {
				t.Errorf("%q is no JSON and has %+v", payload, got)
			}
			return
		}
		if !json.Valid(payload) {
			return
		}
		var want []string
		referencesIn(doc, "", &want)
		paths := map[string]int{}
		for _, path := range want {
			paths[path]++
		}
		for _, at := range got {
			paths[at.Path]--
		}
		for path, n := range paths {
			if n != 0 && !strings.Contains(string(payload), strings.Repeat("[", 100)) { // ChannelRefs stops at a depth
				t.Errorf("%q: path %q is missing %d times; found %+v", payload, path, n, got)
			}
		}
	})
}
