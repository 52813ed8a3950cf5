package routepath

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// routerVectors holds results recorded from the actual router. The testdata file states their
// origin.
type routerVectors struct {
	Fatal     []string    `json:"fatal"`
	Held      []string    `json:"held"`
	Conflicts [][2]string `json:"conflicts"`
	Together  [][2]string `json:"together"`
	Matches   []struct {
		Routes   []string               `json:"routes"`
		Requests map[string]*routeMatch `json:"requests"`
	} `json:"matches"`
}

type routeMatch struct {
	Route  string            `json:"route"`
	Params map[string]string `json:"params"`
}

func readVectors(t *testing.T) (v routerVectors) {
	t.Helper()
	b, err := os.ReadFile("testdata/router.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func mustParse(t *testing.T, path string) Pattern {
	t.Helper()
	p, err := Parse(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestParseRefusesWhatTheRouterPanicsOn(t *testing.T) {
	v := readVectors(t)
	for _, path := range v.Fatal {
		if p, err := Parse(path); err == nil {
			t.Errorf("%q is read as %v, and the router panics", path, p)
		}
	}
	for _, path := range v.Held {
		if _, err := Parse(path); err != nil {
			t.Errorf("the router holds %q: %v", path, err)
		}
	}
}

func TestParseNamesTheReason(t *testing.T) {
	for path, want := range map[string]string{
		"/q/{*rest}/":             `the wildcard {*rest} is not the end of the path`,
		"/q/{":                    "an opening brace without a closing one",
		"/q/}":                    "a closing brace without an opening one",
		"/q/{a}{b}":               `something follows the parameter "a"`,
		"/q/a{b}c":                `something follows the parameter "b"`,
		"/q/{}":                   "a parameter without a name",
		"/q/:":                    "a parameter without a name",
		"/q/{*}":                  "a wildcard without a name",
		"/q/*x":                   `segment "*x" is a wildcard without braces`,
		"/q/:a*b":                 `the name of a parameter contains '*'`,
		strings.Repeat("/:p", 26): "more than 25 parameters",
	} {
		_, err := Parse(path)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", path, err, want)
		}
	}
}

func TestCompareFindsWhatTheRouterCannotHoldTogether(t *testing.T) {
	v := readVectors(t)
	for _, pair := range v.Conflicts {
		p, q := mustParse(t, pair[0]), mustParse(t, pair[1])
		if _, conflict := Compare(p, q); !conflict && !sameParts(p, q) {
			t.Errorf("%q and %q: no conflict", pair[0], pair[1])
		}
	}
	for _, pair := range v.Together {
		if _, conflict := Compare(mustParse(t, pair[0]), mustParse(t, pair[1])); conflict {
			t.Errorf("%q and %q: conflict", pair[0], pair[1])
		}
	}
}

// sameParts reports whether the router treats p and q as one path and merges their methods.
func sameParts(p, q Pattern) bool {
	return cmp.Equal(p, q, cmp.Transformer("Part", func(p Part) any { return [2]any{p.Kind, p.Text} }))
}

func TestMatchAndCompareRouteAsTheRouter(t *testing.T) {
	for _, m := range readVectors(t).Matches {
		for request, want := range m.Requests {
			var got *routeMatch
			var best Pattern
			for _, path := range m.Routes {
				p := mustParse(t, path)
				matched, ok := p.Match(request)
				if !ok {
					continue
				}
				if order, _ := Compare(p, best); got != nil && order >= 0 {
					continue
				}
				got, best = &routeMatch{path, map[string]string{}}, p
				for _, part := range p {
					if part.Kind != Literal {
						got.Params[part.Text], matched = matched[0], matched[1:]
					}
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%q of %q (-want +got):\n%s", request, m.Routes, diff)
			}
		}
	}
}

func TestParseTellsWhichParametersAreDelivered(t *testing.T) {
	got := mustParse(t, "a/:id/{x}/:{y}/x{z}/{*rest}")
	want := Pattern{
		{Text: "/a/"},
		{Kind: Param, Text: "id", Colon: true},
		{Text: "/"},
		{Kind: Param, Text: "x"},
		{Text: "/{y}/x"},
		{Kind: Param, Text: "z"},
		{Text: "/"},
		{Kind: Rest, Text: "rest"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("/a/:b/{c}/{*d}", "/a/b/c/d")
	f.Add("/{{x}}/:{y}", "/{x}/{y}")
	f.Fuzz(func(t *testing.T, path, request string) {
		p, err := Parse(path)
		if err != nil {
			return
		}
		wildcards := 0
		for _, part := range p {
			if part.Text == "" {
				t.Errorf("%q has a part without text", path)
			}
			if part.Kind != Literal {
				wildcards++
			}
		}
		if matched, ok := p.Match(request); ok && len(matched) != wildcards {
			t.Errorf("%q: %d of %d wildcards matched in %q", path, len(matched), wildcards, request)
		}
		if order, conflict := Compare(p, p); order != 0 || conflict {
			t.Errorf("%q differs from itself", path)
		}
	})
}
