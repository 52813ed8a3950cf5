package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// outcome is the content of a matrix cell.
type outcome string

const (
	passed     outcome = "passed"
	failed     outcome = "failed"
	notOffered outcome = "not offered"
)

// cell is the result of a scenario with a peer.
type cell struct {
	Outcome outcome `json:"outcome"`
	// Differences lists the deviations from the expected behavior.
	Differences []string `json:"differences,omitempty"`
	// Frames lists the messages between the peer and the engine in a failed scenario.
	Frames []string `json:"frames,omitempty"`
}

// results holds the cells by peer and scenario.
type results map[string]map[string]cell

// readResults reads a results file. If the file does not exist, the results are empty.
func readResults(name string) (results, error) {
	r := results{}
	b, err := os.ReadFile(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return r, nil
	case err != nil:
		return nil, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return r, nil
}

func (r results) write(name string) error {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "\t")
	if err := e.Encode(r); err != nil {
		return err
	}
	return os.WriteFile(name, []byte(b.String()), 0o644)
}

// compare lists how a peer's results differ from the known ones. It ignores frames, because
// the order of frames on different connections is undefined.
func (r results) compare(known results, peer string) []string {
	var list []string
	for _, s := range scenarios() {
		got, want := r[peer][s.name], known[peer][s.name]
		if got.Outcome != want.Outcome || !slices.Equal(got.Differences, want.Differences) {
			list = append(list, fmt.Sprintf("%s, %s: %s, known is %s", peer, s.name, got, want))
		}
	}
	return list
}

func (c cell) String() string {
	if c.Outcome == "" {
		return "nothing"
	}
	return strings.Join(append([]string{string(c.Outcome)}, c.Differences...), "; ")
}

func scenarios() []scenario {
	var all []scenario
	for _, g := range groups {
		all = append(all, g.scenarios...)
	}
	return all
}

// unexplained lists the scenarios that did not pass but have no explanation, and those that
// passed but still have one.
func (r results) unexplained(peer string) []string {
	var list []string
	for _, s := range scenarios() {
		c, text := r[peer][s.name], explanations[peer][s.name]
		switch {
		case c.Outcome != passed && text == "":
			list = append(list, fmt.Sprintf("%s, %s: %s, and nothing explains it", peer, s.name, c))
		case c.Outcome == passed && text != "":
			list = append(list, fmt.Sprintf("%s, %s: passed, but there is an explanation why not", peer, s.name))
		}
	}
	return list
}

func (r results) table() string {
	var b strings.Builder
	peers := r.peers()
	b.WriteString("| |")
	for _, p := range peers {
		fmt.Fprintf(&b, " %s |", p.name)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(peers)) + "\n")
	for _, g := range groups {
		fmt.Fprintf(&b, "| **%s** |%s\n", g.title, strings.Repeat(" |", len(peers)))
		for _, s := range g.scenarios {
			fmt.Fprintf(&b, "| %s |", s.title)
			for _, p := range peers {
				c := r[p.name][s.name]
				text := string(c.Outcome)
				switch {
				case c.Outcome == failed || c.Outcome == notOffered:
					text = fmt.Sprintf("[%s](#%s)", c.Outcome, anchor(p, r.alike(p, s)[0]))
				case remarks[p.name][s.name] != "":
					text = fmt.Sprintf("[%s](#%s), with a remark", c.Outcome, anchor(p, r.alike(p, s)[0]))
				}
				fmt.Fprintf(&b, " %s |", text)
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

// peers returns the SDKs that have results.
func (r results) peers() []sdk {
	var list []sdk
	for _, s := range sdks {
		if r[s.name] != nil {
			list = append(list, s)
		}
	}
	return list
}

// heading returns the heading of the section about a cell. anchor returns the heading's link
// target.
func heading(p sdk, s scenario) string { return p.name + ": " + s.title }

var unlinked = regexp.MustCompile(`[^\p{L}\p{N} _-]`)

func anchor(p sdk, s scenario) string {
	return strings.ReplaceAll(unlinked.ReplaceAllString(strings.ToLower(heading(p, s)), ""), " ", "-")
}

// page returns the Markdown page about the results.
func (r results) page() string {
	var b strings.Builder
	b.WriteString(intro)
	b.WriteString("\n## The peers\n\n| peer | SDK |\n|---|---|\n")
	for _, p := range r.peers() {
		fmt.Fprintf(&b, "| %s | %s |\n", p.name, p.title)
	}
	b.WriteString("\n## The matrix\n\n" + r.table())
	for _, kind := range []struct {
		outcome     outcome
		title, text string
	}{
		{failed, "What failed", failedText}, {notOffered, "What is not offered", notOfferedText}, {passed, "Remarks", remarksText},
	} {
		var part strings.Builder
		for _, p := range r.peers() {
			for _, s := range scenarios() {
				if r[p.name][s.name].Outcome == kind.outcome {
					part.WriteString(r.section(p, s))
				}
			}
		}
		if part.Len() > 0 {
			fmt.Fprintf(&b, "\n## %s\n\n%s%s", kind.title, kind.text, part.String())
		}
	}
	return b.String()
}

// note returns the explanation or remark for a cell, or "" if there is none.
func (r results) note(p sdk, s scenario) string {
	if r[p.name][s.name].Outcome == passed {
		return remarks[p.name][s.name]
	}
	return explanations[p.name][s.name]
}

// alike returns the scenarios with the same outcome and note as s.
func (r results) alike(p sdk, s scenario) []scenario {
	return slices.DeleteFunc(scenarios(), func(other scenario) bool {
		return r[p.name][other.name].Outcome != r[p.name][s.name].Outcome || r.note(p, other) != r.note(p, s)
	})
}

// section returns the section about a cell and all cells like it. It returns "" unless the
// cell is the first of them.
func (r results) section(p sdk, s scenario) string {
	alike := r.alike(p, s)
	if r.note(p, s) == "" || alike[0].name != s.name {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n### %s\n\n%s\n", heading(p, s), r.note(p, s))
	for i, other := range alike {
		lines := r[p.name][other.name].Differences
		if len(alike) > 1 {
			lines = []string{strings.Join(append([]string{other.title}, lines...), ": ")}
		}
		for j, line := range lines {
			if i == 0 && j == 0 {
				b.WriteString("\n")
			}
			fmt.Fprintf(&b, "- %s\n", line)
		}
	}
	if frames := r[p.name][s.name].Frames; len(frames) > 0 {
		fmt.Fprintf(&b, "\n```\n%s\n```\n", strings.Join(frames, "\n"))
	}
	return b.String()
}
