package schemas

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const testdata = "../../../testdata"

// exceptions maps the locations of expected failures to their reasons. An exception that is
// not needed is itself a failure.
type exceptions struct {
	reasons map[string]string
	used    map[string]bool
}

func newExceptions(reasons map[string]string) exceptions {
	return exceptions{reasons, make(map[string]bool)}
}

func (e exceptions) check(t *testing.T, at string, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if e.reasons[at] == "" {
		t.Errorf("%s: %v", at, err)
	}
	e.used[at] = true
}

func (e exceptions) checkUnused(t *testing.T) {
	t.Helper()
	for at, reason := range e.reasons {
		if !e.used[at] {
			t.Errorf("%s: the exception (%s) is not needed", at, reason)
		}
	}
}

// recordings maps each file to its lines. A file with a single document has one element.
type recordings map[string][][]byte

// line returns the line at a location in the form file:number. For a location without a
// number, it returns the whole document.
func (r recordings) line(at string) ([]byte, error) {
	file, number, isLine := strings.Cut(at, ":")
	if r[file] == nil {
		b, err := os.ReadFile(filepath.Join(testdata, "0.23", file))
		if err != nil {
			return nil, err
		}
		r[file] = [][]byte{b}
		if isLine {
			r[file] = bytes.Split(bytes.TrimSpace(b), []byte("\n"))
		}
	}
	n := 1
	if isLine {
		var err error
		if n, err = strconv.Atoi(number); err != nil {
			return nil, err
		}
	}
	if n < 1 || n > len(r[file]) {
		return nil, fmt.Errorf("%s has no line %d", file, n)
	}
	return r[file][n-1], nil
}

// part returns the value at a JSON pointer, which must not contain escapes.
func part(doc json.RawMessage, pointer string) (json.RawMessage, error) {
	for key := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		if i, err := strconv.Atoi(key); err == nil {
			var list []json.RawMessage
			if err := json.Unmarshal(doc, &list); err != nil {
				return nil, err
			}
			if i >= len(list) {
				return nil, fmt.Errorf("no element %d in %s", i, pointer)
			}
			doc = list[i]
			continue
		}
		var object map[string]json.RawMessage
		if err := json.Unmarshal(doc, &object); err != nil {
			return nil, err
		}
		if doc = object[key]; doc == nil {
			return nil, fmt.Errorf("no %s in %s", key, pointer)
		}
	}
	return doc, nil
}

// payloadExceptions maps payloads that violate their schema to the reasons. The Go types
// preserve these payloads nevertheless.
var payloadExceptions = map[string]string{}

// The payloads are listed in payloads.golden, which is written by the test in package iii that
// decodes and encodes them.
func TestRecordedPayloadsAreValid(t *testing.T) {
	s := schemas(t)
	index, err := os.ReadFile(filepath.Join(testdata, "payloads.golden"))
	if err != nil {
		t.Fatal(err)
	}
	exceptions := newExceptions(payloadExceptions)
	read := make(recordings)
	payloads := 0
	for entry := range strings.Lines(string(index)) {
		var at, pointer, name string
		if _, err := fmt.Sscan(entry, &at, &pointer, &name); err != nil {
			t.Fatalf("%q: %v", entry, err)
		}
		line, err := read.line(at)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := part(line, pointer)
		if err != nil {
			t.Fatalf("%s: %v", at, err)
		}
		exceptions.check(t, at+" "+pointer, validatePayload(s, name, doc))
		payloads++
	}
	exceptions.checkUnused(t)
	t.Logf("%d payloads, %d exceptions", payloads, len(payloadExceptions))
	if payloads < 500 {
		t.Error("the index is short")
	}
}

// validatePayload validates a value of a Go type. A list's elements are validated one by one.
func validatePayload(s *schemaSet, typ string, doc []byte) error {
	name, argument, _ := strings.Cut(strings.TrimSuffix(typ, "]"), "[")
	switch {
	case typ == "List[string]":
		name = "StringList"
	case name == "List":
		var list []json.RawMessage
		if err := json.Unmarshal(doc, &list); err != nil {
			return err
		}
		for _, element := range list {
			if err := s.validate(argument, element); err != nil {
				return err
			}
		}
		return nil
	}
	if s.compiled[name] == nil {
		return fmt.Errorf("no definition of %s", typ)
	}
	return s.validate(name, doc)
}

// messageExceptions maps recorded messages that violate the schemas to the reasons.
var messageExceptions = map[string]string{
	"channels.jsonl:11":             "a worker's own message on a channel, not one of the protocol",
	"custom-trigger-types.jsonl:42": "some workers send this, but no engine knows it",
	"http-functions.jsonl:4":        leavesDefaults,
	"http-functions.jsonl:5":        leavesDefaults,
	"http-functions.jsonl:7":        leavesDefaults,
	"http-functions.jsonl:8":        leavesDefaults,
	"http-functions.jsonl:9":        leavesDefaults,
	"http-functions.jsonl:10":       leavesDefaults,
	"http-functions.jsonl:11":       leavesDefaults,
	"http-functions.jsonl:12":       leavesDefaults,
	"http-functions.jsonl:13":       leavesDefaults,
	"http-functions.jsonl:14":       leavesDefaults,
	"http-functions.jsonl:15":       leavesDefaults,
	"http-functions.jsonl:16":       leavesDefaults,
	"http-functions.jsonl:17":       leavesDefaults,
	"null-data.jsonl:11":            "a trigger without a config, which the engine drops",
	"null-data.jsonl:18":            "null in place of optional values, which the engine accepts",
	"null-data.jsonl:22":            "a call without data, which the engine drops",
	"null-data.jsonl:23":            "null in place of an id, which the engine accepts",
	"rbac.jsonl:17":                 leavesDefaults,
	"rbac.jsonl:82":                 leavesDefaults,
	"rbac.jsonl:87":                 leavesDefaults,
}

// leavesDefaults explains messages that omit members with defaults. The schemas require these
// members, because package iii always writes them.
const leavesDefaults = "the worker left out what has a default, which this package writes"

// messages returns a map from message tags to definition names.
func (s *schemaSet) messages() map[string]string {
	messages := map[string]string{"stream": "StreamMessage", "join": "StreamCommand", "leave": "StreamCommand"}
	for name, def := range s.definitions {
		if tag, ok := def.constants()["type"]; ok && strings.HasSuffix(name, "Message") {
			messages[tag] = name
		}
	}
	return messages
}

// accessTypes maps the functions that guard the recorded engine's listeners to the definitions
// of their inputs and results. The payload index does not cover these functions.
var accessTypes = map[string]struct{ input, result string }{
	"gate::auth":        {"AuthInput", "AuthResult"},
	"gate::middleware":  {"MiddlewareInput", ""}, // the result is that of the call
	"gate::on-function": {"OnFunctionRegistrationInput", "OnFunctionRegistrationResult"},
	"gate::on-trigger":  {"OnTriggerRegistrationInput", "OnTriggerRegistrationResult"},
	"streams::auth":     {"StreamAuthInput", "StreamAuthResult"},
}

func TestRecordedMessagesAreValid(t *testing.T) {
	s := schemas(t)
	messages := s.messages()
	exceptions := newExceptions(messageExceptions)
	files, err := filepath.Glob(filepath.Join(testdata, "0.23", "*.jsonl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no recordings: %v", err)
	}
	count := make(map[string]int)
	total := 0
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range bytes.Split(bytes.TrimSpace(b), []byte("\n")) {
			var event struct {
				Kind        string
				Frame, Data json.RawMessage
			}
			if err := json.Unmarshal(line, &event); err != nil {
				t.Fatalf("%s:%d: %v", file, i+1, err)
			}
			if event.Kind == "text" {
				event.Frame = event.Data
			}
			if event.Frame == nil {
				continue
			}
			var message struct {
				Type         string
				FunctionID   string `json:"function_id"`
				Data, Result json.RawMessage
			}
			if err := json.Unmarshal(event.Frame, &message); err != nil {
				t.Fatalf("%s:%d: %v", file, i+1, err)
			}
			err := fmt.Errorf("no message is of type %q", message.Type)
			if name := messages[message.Type]; name != "" {
				err = s.validate(name, event.Frame)
				count[name]++
			}
			access := accessTypes[message.FunctionID]
			if filepath.Base(file) == "guarded-auth-results.jsonl" { // most of these are invalid on purpose
				access.input, access.result = "", ""
			}
			switch {
			case err != nil:
			case message.Data != nil && access.input != "":
				err = s.validate(access.input, message.Data)
				count[access.input]++
			case message.Result != nil && access.result != "":
				err = s.validate(access.result, message.Result)
				count[access.result]++
			}
			exceptions.check(t, fmt.Sprintf("%s:%d", filepath.Base(file), i+1), err)
			total++
		}
	}
	exceptions.checkUnused(t)
	t.Logf("%d messages, %d exceptions: %v", total, len(messageExceptions), count)
}
