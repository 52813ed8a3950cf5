package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/iii-go/iii/internal/environ"
)

func TestMain(m *testing.M) {
	environ.Clear()
	m.Run()
}

// The control group passes every scenario, so other peers' failures are not the harness's
// fault.
func TestControlGroup(t *testing.T) {
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := settings{root: root, cache: dir, logs: filepath.Join(dir, "logs"), out: t.Output()}
	got, err := s.runAll(t.Context(), []string{"go"}, results{})
	if err != nil {
		t.Fatal(err)
	}
	for _, sc := range scenarios() {
		want := passed
		if slices.Contains(missing["go"], sc.name) {
			want = notOffered
		}
		if c := got["go"][sc.name]; c.Outcome != want {
			t.Errorf("%s: %s\n%s", sc.name, c, strings.Join(c.Frames, "\n"))
		}
	}
}

// The page matches the results, and every cell that needs an explanation has one.
func TestPage(t *testing.T) {
	known, err := readResults("results.json")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../../" + pageFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(known.page(), string(page)); diff != "" {
		t.Errorf("%s is not what results.json says; make interop-update writes it (-want +got):\n%s", pageFile, diff)
	}
	for _, p := range known.peers() {
		for _, problem := range known.unexplained(p.name) {
			t.Error(problem)
		}
		if len(known[p.name]) != len(scenarios()) {
			t.Errorf("%s has results of %d scenarios, there are %d", p.name, len(known[p.name]), len(scenarios()))
		}
	}
}

// Scenario names are unique, and notes refer to existing scenarios.
func TestNames(t *testing.T) {
	names := map[string]bool{}
	for _, s := range scenarios() {
		if names[s.name] {
			t.Errorf("%s is there twice", s.name)
		}
		names[s.name] = true
	}
	for _, notes := range []map[string]map[string]string{explanations, remarks} {
		for peer, texts := range notes {
			for name := range texts {
				if !names[name] {
					t.Errorf("%s: there is no scenario %s", peer, name)
				}
			}
		}
	}
	for peer, list := range missing {
		for _, name := range list {
			if !names[name] || explanations[peer][name] == "" {
				t.Errorf("%s: the scenario %s does not exist or is not explained", peer, name)
			}
		}
	}
}

// The error states which tool is missing.
func TestPeersThatCannotBeInstalled(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	for i, tool := range []string{"go", "npm", "python3", "cargo"} {
		dir := t.TempDir()
		s := settings{root: root, cache: dir, logs: filepath.Join(dir, "logs"), out: t.Output()}
		_, err := s.runPeer(t.Context(), sdks[i], "iiidev", nil)
		if want := "cannot be installed: " + tool + " is needed: "; !errors.Is(err, exec.ErrNotFound) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s…", sdks[i].name, err, want)
		}
	}
}

func TestLockCrates(t *testing.T) {
	bin, dir := t.TempDir(), t.TempDir()
	const (
		cargo = "#!/bin/sh\nprintf 'version = 4\\n[[package]]\\nsource = \"registry+here\"\\n' > Cargo.lock\n"
		kept  = "[[package]]\nname = \"peer\"\n\n[[package]]\nname = \"a\"\nchecksum = \"00\"\n"
		want  = "[[package]]\nname = \"peer\"\n\n[[package]]\nname = \"a\"\nsource = \"registry+here\"\nchecksum = \"00\"\n"
	)
	crates := filepath.Join(dir, "crates.lock")
	if err := errors.Join(
		os.WriteFile(filepath.Join(bin, "cargo"), []byte(cargo), 0o755),
		os.WriteFile(crates, []byte(kept), 0o644),
		os.WriteFile(filepath.Join(dir, "Cargo.lock"), []byte("old"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{bin, t.TempDir()} { // the second directory has no cargo
		t.Setenv("PATH", path)
		if err := lockCrates(t.Context(), crates, dir); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(dir, "Cargo.lock"))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("lock file (-want +got):\n%s", diff)
		}
	}
	if err := lockCrates(t.Context(), filepath.Join(dir, "none"), dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without what is kept: %v", err)
	}
}

func TestCompare(t *testing.T) {
	known := results{"node": {}}
	for _, s := range scenarios() {
		known["node"][s.name] = cell{Outcome: passed}
	}
	for _, test := range []struct {
		name string
		cell cell
		want []string
	}{
		{"the same", cell{Outcome: passed, Frames: []string{"peer → engine {}"}}, nil},
		{"another outcome", cell{Outcome: notOffered}, []string{"node, http: not offered, known is passed"}},
		{"a difference", cell{Outcome: failed, Differences: []string{"a", "b"}}, []string{"node, http: failed; a; b, known is passed"}},
		{"nothing", cell{}, []string{"node, http: nothing, known is passed"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := results{"node": {}}
			for name, c := range known["node"] {
				got["node"][name] = c
			}
			got["node"]["http"] = test.cell
			if diff := cmp.Diff(test.want, got.compare(known, "node")); diff != "" {
				t.Errorf("differences (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSections(t *testing.T) {
	r := results{"node": {}}
	for _, s := range scenarios() {
		r["node"][s.name] = cell{Outcome: passed}
	}
	r["node"]["big-integers"] = cell{Outcome: failed, Differences: []string{"a", "b"}, Frames: []string{"peer → engine {}"}}
	r["node"]["huge"] = cell{Outcome: failed, Differences: []string{"c"}}
	r["node"]["huge-peer-0.26"] = cell{Outcome: failed, Differences: []string{"d", "e"}, Frames: []string{"peer → engine {}"}}
	for name, want := range map[string]string{
		"big-integers": "\n### node: integers above 2^53, in both directions\n\n" + explanations["node"]["big-integers"] + "\n\n- a\n- b\n\n```\npeer → engine {}\n```\n",
		"huge": "\n### node: a result of 20 MiB from the peer\n\n" + explanations["node"]["huge"] + "\n\n" +
			"- a result of 20 MiB from the peer: c\n" +
			"- the peer receives a payload of 20 MiB and returns it, engine 0.26: d: e\n",
		"huge-peer-0.26": "",
		"huge-peer-0.25": "",
	} {
		if diff := cmp.Diff(want, r.section(sdks[1], named(scenarios(), name))); diff != "" {
			t.Errorf("section of %s (-want +got):\n%s", name, diff)
		}
	}
	if link := "payload of 20 MiB and returns it, engine 0.26 | [failed](#node-a-result-of-20-mib-from-the-peer) |"; !strings.Contains(r.table(), link) {
		t.Errorf("the table has no %s", link)
	}
}

// A scenario times out if it waits for an event that never happens. The remaining scenarios
// then run only if -update is set.
func TestScenarioTimesOut(t *testing.T) {
	dir := t.TempDir()
	frames := filepath.Join(dir, "frames")
	if err := os.WriteFile(frames, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ended := 0
		sc := scenario{"vain", "in vain", func(ctx context.Context, t *trial) {
			t.after(func() { ended++ })
			t.must("event", until(ctx, "it does not come", func() bool { return false }))
		}}
		s := settings{out: t.Output()}
		b := &bench{sdk: sdks[0], dir: dir, engine: &engine{frames: frames}}
		_, err := s.runScenario(t.Context(), b, sc)
		const want = "the scenario vain waited 30s in vain, and the rest is not run: event: it does not come: context deadline exceeded; the logs are in "
		if err == nil || err.Error() != want+dir {
			t.Errorf("got %v, want %s%s", err, want, dir)
		}
		s.all = true
		c, err := s.runScenario(t.Context(), b, sc)
		if err != nil || c.Outcome != failed {
			t.Errorf("when all are to run: got %s, %v", c, err)
		}
		if ended != 2 {
			t.Errorf("got %d ends of 2 trials", ended)
		}
	})
}

func TestEvidence(t *testing.T) {
	const a, b = "0b3a1b7e-2f3c-4d5e-8f90-a1b2c3d4e5f6", "1b3a1b7e-2f3c-4d5e-8f90-a1b2c3d4e5f6"
	text := "oops"
	line := func(name, dir, message string) frame {
		return frame{Worker: "peer", Name: name, Dir: dir, Frame: json.RawMessage(message)}
	}
	frames := []frame{
		{Worker: "other", Name: "interop-go", Dir: "send", Frame: json.RawMessage(`{"type":"invokefunction","function_id":"peer::x"}`)},
		line("", "recv", `{"type":"workerregistered","worker_id":"`+a+`"}`),
		line("", "send", `{"type":"invokefunction","function_id":"engine::workers::register","data":{"os":"here","pid":12}}`),
		line("", "send", `{"type":"registerfunction","id":"a"}`),
		line("", "send", `{"type":"registerfunction","id":"b"}`),
		line("", "send", `{"type":"registerfunction","id":"c"}`),
		line("interop-peer-x", "recv", `{"type":"invokefunction","function_id":"peer::do","invocation_id":"`+a+`"}`),
		line("interop-peer-x", "send", `{"type":"ping"}`),
		line("interop-peer-x", "send", `{"type":"localinvocationstats"}`),
		line("interop-peer-x", "send", `{"type":"invocationresult","function_id":"before","invocation_id":"late"}`),
		line("interop-peer-x", "send", `{ "type":"invokefunction","function_id":"f","invocation_id":"`+b+`","traceparent":"00-`+strings.Repeat("a", 32)+`-`+strings.Repeat("b", 16)+`-01"}`),
		line("interop-peer-x", "recv", `{"type":"invocationresult","function_id":"f","invocation_id":"`+b+`","error":{"code":"c","stacktrace":"a\"b"},"result":"`+a+`"}`),
		line("interop-peer-x", "send", `{"type":"invocationresult","function_id":"peer::do","invocation_id":"`+a+`"}`),
		{Name: "interop-peer-x", Dir: "send", Text: &text},
		{Name: "interop-peer-x", Dir: "send", Type: "invokefunction", Bytes: 5},
	}
	want := []string{
		`engine → peer {"type":"workerregistered","worker_id":"id1"}`,
		`peer → engine {"type":"invokefunction","function_id":"engine::workers::register","data":{"os":"…","pid":"…"}}`,
		`peer → engine {"type":"registerfunction","id":"a"}`,
		`… and 2 more like that`,
		`peer → engine {"type":"invokefunction","function_id":"f","invocation_id":"id2","traceparent":"00-…-01"}`,
		`engine → peer {"type":"invocationresult","function_id":"f","invocation_id":"id2","error":{"code":"c","stacktrace":"…"},"result":"id1"}`,
		`peer → engine oops`,
		`peer → engine a message of type invokefunction with 5 bytes`,
	}
	if diff := cmp.Diff(want, evidence(frames, "interop-peer-x")); diff != "" {
		t.Errorf("evidence (-want +got):\n%s", diff)
	}
}
