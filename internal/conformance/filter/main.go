// Command filter runs random test cases with package filter and with the reference
// implementation of observer filters. It fails if the verdicts, normal forms, messages,
// warnings or index lookups differ.
//
//	filter [-cases 100000] [-seed 1]
//
// The reference implementation is a published crate. The program in the directory reference
// uses the crate. Building it requires cargo.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii/internal/filter"
	"github.com/iii-go/iii/internal/filter/filtertest"
)

func main() {
	cases := flag.Int("cases", 100_000, "number of cases")
	seed := flag.Uint64("seed", 1, "of the corpus")
	flag.Parse()
	differences, err := compare(*cases, *seed)
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	case differences > 0:
		fmt.Fprintf(os.Stderr, "%d of %d cases differ\n", differences, *cases)
		os.Exit(1)
	}
}

// question is a test case for both implementations.
type question struct {
	Kind           string          `json:"kind"`
	Filter         json.RawMessage `json:"filter,omitempty"`
	Doc            json.RawMessage `json:"doc,omitempty"`
	RequestFormat  json.RawMessage `json:"request_format,omitempty"`
	ResponseFormat json.RawMessage `json:"response_format,omitempty"`
	// Entries lists changes to an index, in order. The resulting index is matched against each
	// of Docs.
	Entries []entry           `json:"entries,omitempty"`
	Docs    []json.RawMessage `json:"docs,omitempty"`
}

// entry is a change to an index. It inserts an entry or, if Filter is empty, removes the entry
// with the same key.
type entry struct {
	Key    string          `json:"key"`
	Filter json.RawMessage `json:"filter"`
}

// answer is an implementation's result for a test case.
type answer struct {
	Code       string     `json:"code"`
	Message    string     `json:"message"`
	Normal     string     `json:"normal"`
	Roots      []string   `json:"roots"`
	MatchAll   bool       `json:"match_all"`
	Indexable  bool       `json:"indexable"`
	Match      bool       `json:"match"`
	Warnings   []string   `json:"warnings"`
	Matches    [][]string `json:"matches"`
	Candidates []int      `json:"candidates"`
}

// compare returns the number of cases in which the implementations differ.
func compare(cases int, seed uint64) (differences int, err error) {
	reference, err := build()
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(reference)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	questions := make(chan question, 1000)
	written := make(chan error, 1)
	go func() {
		defer close(questions)
		written <- sendCases(in, questions, cases, seed)
	}()
	tally := map[string]int{}
	answers := bufio.NewReaderSize(out, 1<<20)
	for q := range questions {
		line, err := answers.ReadBytes('\n')
		if err != nil {
			return differences, fmt.Errorf("the reference ends: %w", errors.Join(err, cmd.Wait()))
		}
		var want answer
		if err := json.Unmarshal(line, &want); err != nil {
			return differences, err
		}
		count(tally, q, want)
		if diff := cmp.Diff(normalized(want), normalized(evaluate(q))); diff != "" {
			if differences++; differences <= 20 {
				b, _ := json.Marshal(q)
				fmt.Printf("%.2000s (-reference +here):\n%s\n", b, diff)
			}
		}
	}
	if err := errors.Join(<-written, cmd.Wait()); err != nil {
		return differences, err
	}
	fmt.Println(tally)
	return differences, nil
}

// build builds the reference program and returns its path.
func build() (string, error) {
	root, err := exec.Command("git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	top := strings.TrimSpace(string(root))
	target := filepath.Join(top, ".cache", "filter-reference")
	cmd := exec.Command("cargo", "build", "--release", "--quiet")
	cmd.Dir = filepath.Join(top, "internal", "conformance", "filter", "reference")
	cmd.Env = append(os.Environ(), "CARGO_TARGET_DIR="+target)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("build the reference: %w", err)
	}
	return filepath.Join(target, "release", "filter-reference"), nil
}

// sendCases sends each test case to the reference implementation and to the channel questions.
func sendCases(w io.WriteCloser, questions chan<- question, cases int, seed uint64) error {
	buffered := bufio.NewWriterSize(w, 1<<16)
	c := filtertest.New(seed)
	for range cases {
		q := next(c)
		// json.Marshal would not preserve the JSON text.
		if _, err := buffered.Write(append(q.encode(), '\n')); err != nil {
			return err
		}
		if len(questions) == cap(questions) {
			// The next send may block until the reference has processed another case. Flush
			// the buffered cases, so that the reference does not wait for them.
			if err := buffered.Flush(); err != nil {
				return err
			}
		}
		questions <- q
	}
	return errors.Join(buffered.Flush(), w.Close())
}

// encode returns the case on one line. It preserves the JSON text, but replaces line breaks
// with spaces.
func (q *question) encode() []byte {
	oneLine := strings.NewReplacer("\n", " ", "\r", " ")
	var parts []string
	add := func(name string, raw json.RawMessage) {
		if raw != nil {
			parts = append(parts, fmt.Sprintf("%q:%s", name, oneLine.Replace(string(raw))))
		}
	}
	list := func(all []string) json.RawMessage { return json.RawMessage("[" + strings.Join(all, ",") + "]") }
	add("kind", fmt.Appendf(nil, "%q", q.Kind))
	add("filter", q.Filter)
	add("doc", q.Doc)
	add("request_format", q.RequestFormat)
	add("response_format", q.ResponseFormat)
	var entries, docs []string
	for _, e := range q.Entries {
		f := string(e.Filter)
		if f == "" {
			f = "null"
		}
		entries = append(entries, fmt.Sprintf(`{"key":%q,"filter":%s}`, e.Key, f))
	}
	for _, d := range q.Docs {
		docs = append(docs, string(d))
	}
	add("entries", list(entries))
	add("docs", list(docs))
	return []byte("{" + strings.Join(parts, ",") + "}")
}

// valid generates filters until one is valid.
func valid(c *filtertest.Corpus, make func() string) json.RawMessage {
	for {
		text := make()
		if _, err := filter.Parse([]byte(text)); err == nil {
			return json.RawMessage(text)
		}
	}
}

func next(c *filtertest.Corpus) question {
	c.Odd = 0
	any := func() string { return c.Filter(3) }
	switch n := c.IntN(100); {
	case n < 40:
		c.Odd = filtertest.Pick(c, 0, 10, 30, 100)
		q := question{Kind: "parse", Filter: json.RawMessage(c.Filter(filtertest.Pick(c, 1, 3, 8, 10)))}
		if n < 10 {
			q.Kind = "from_normalized"
			if f, err := filter.Parse(q.Filter); err == nil && n < 5 {
				q.Filter = json.RawMessage(f.String())
			}
		}
		return q
	case n < 72:
		return question{Kind: "match", Filter: valid(c, any), Doc: json.RawMessage(c.Document())}
	case n < 92:
		q := question{Kind: "schema", Filter: valid(c, any)}
		if c.IntN(8) > 0 {
			q.RequestFormat = json.RawMessage(c.Schema(4))
		}
		if c.IntN(3) == 0 {
			q.ResponseFormat = json.RawMessage(c.Schema(3))
		}
		return q
	default:
		q := question{Kind: "index"}
		size := filtertest.Pick(c, 2, 8, 40)
		for range size + size/2 {
			e := entry{Key: fmt.Sprint("o", c.IntN(size))}
			if c.IntN(5) > 0 {
				e.Filter = valid(c, func() string { return filtertest.Pick(c, c.Filter(2), c.Selective(), c.Selective(), c.Selective()) })
			}
			q.Entries = append(q.Entries, e)
		}
		for range 5 {
			q.Docs = append(q.Docs, json.RawMessage(c.Document()))
		}
		return q
	}
}

// evaluate returns package filter's result for a test case.
func evaluate(q question) (a answer) {
	f := new(filter.Filter)
	var err error
	if q.Kind == "from_normalized" {
		f, err = filter.ParseNormalized(q.Filter)
	} else if q.Kind != "index" {
		f, err = filter.Parse(q.Filter)
	}
	if err != nil {
		return refused(err)
	}
	switch q.Kind {
	case "match":
		a.Match = f.Matches(document(q.Doc))
	case "schema":
		if a.Warnings, err = f.CheckSchemas(q.RequestFormat, q.ResponseFormat); err != nil {
			return refused(err)
		}
	case "index":
		var x filter.Index[string]
		for _, e := range q.Entries {
			if e.Filter == nil {
				x.Remove(e.Key)
			} else if f, err := filter.Parse(e.Filter); err == nil {
				x.Insert(e.Key, f, e.Key)
			}
		}
		for _, d := range q.Docs {
			a.Matches = append(a.Matches, x.AppendMatches(nil, document(d)))
			a.Candidates = append(a.Candidates, x.Candidates(document(d)))
		}
	default:
		a.Normal, a.MatchAll, a.Indexable = f.String(), f.MatchAll(), f.Indexable()
		for r := filter.Input; r <= filter.Metadata; r++ {
			if f.Uses(r) {
				a.Roots = append(a.Roots, r.String())
			}
		}
	}
	return a
}

func refused(err error) answer {
	if e, ok := errors.AsType[*filter.Error](err); ok {
		return answer{Code: e.Code, Message: e.Message}
	}
	return answer{Message: err.Error()}
}

// document returns a document whose roots are the members of raw.
func document(raw json.RawMessage) *filter.Document {
	members := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &members); err != nil {
		panic(err)
	}
	return &filter.Document{Input: members["input"], Output: members["output"], Error: members["error"], Caller: members["caller"], Metadata: members["metadata"]}
}

// normalized replaces empty slices with nil.
func normalized(a answer) answer {
	a.Roots = append([]string(nil), a.Roots...)
	a.Warnings = append([]string(nil), a.Warnings...)
	for i, m := range a.Matches {
		a.Matches[i] = append([]string(nil), m...)
	}
	return a
}

func count(tally map[string]int, q question, a answer) {
	outcome := "accepted"
	switch {
	case a.Code != "":
		outcome = a.Code
	case q.Kind == "match":
		outcome = fmt.Sprint(a.Match)
	case len(a.Warnings) > 0:
		outcome = "warned"
	}
	tally[q.Kind+" "+outcome]++
}
