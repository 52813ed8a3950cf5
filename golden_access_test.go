package iii

import (
	"encoding/json"
	"os"
	"testing"
)

// accessTypes returns new values for the input and the result of the functions that
// guard the recorded engine's listeners.
var accessTypes = map[string]struct{ input, result func() any }{
	"gate::auth":        {newOf[AuthInput], newOf[AuthResult]},
	"gate::middleware":  {newOf[MiddlewareInput], nil}, // its result is that of the call
	"gate::on-function": {newOf[OnFunctionRegistrationInput], newOf[OnFunctionRegistrationResult]},
	"gate::on-trigger":  {newOf[OnTriggerRegistrationInput], newOf[OnTriggerRegistrationResult]},
	"streams::auth":     {newOf[StreamAuthInput], newOf[StreamAuthResult]},
}

var accessExceptions = map[string]string{
	"guarded-auth-results.jsonl:15":  "null is no result, and the engine refuses it",
	"guarded-auth-results.jsonl:25":  "the engine refuses it",
	"guarded-auth-results.jsonl:30":  "the engine refuses it",
	"guarded-auth-results.jsonl:35":  "the engine refuses it",
	"guarded-auth-results.jsonl:40":  "an empty list, which the engine takes for the defaults",
	"guarded-auth-results.jsonl:51":  "the engine refuses it",
	"guarded-auth-results.jsonl:56":  "the engine refuses it",
	"guarded-auth-results.jsonl:61":  "the type writes its defaults",
	"guarded-auth-results.jsonl:78":  "the engine refuses it",
	"guarded-auth-results.jsonl:83":  "the engine refuses it",
	"guarded-auth-results.jsonl:88":  "the engine refuses it",
	"guarded-auth-results.jsonl:93":  "the engine refuses it",
	"guarded-auth-results.jsonl:98":  "the type writes its defaults",
	"guarded-auth-results.jsonl:109": "the engine refuses it",
	"guarded-auth-results.jsonl:114": "the engine refuses it",
	"guarded-auth-results.jsonl:119": "the engine refuses it",
	"guarded-auth-results.jsonl:124": "the engine refuses it",
	"guarded-auth-results.jsonl:129": "the engine refuses it",
	"guarded-auth-results.jsonl:134": "the type writes its defaults",
	"guarded-auth-results.jsonl:145": "the engine refuses it",
	"guarded-auth-results.jsonl:150": "the engine refuses it",
	"guarded-auth-results.jsonl:155": "the engine refuses it",
	"guarded-auth-results.jsonl:160": "the type writes its defaults",
	"guarded-auth-results.jsonl:171": "the engine refuses it",
	"guarded-auth-results.jsonl:176": "the type writes its defaults",
	"guarded-auth-results.jsonl:187": "the type writes its defaults",
	"guarded-auth-results.jsonl:198": "the type writes its defaults",
	"guarded-auth-results.jsonl:209": "the type writes its defaults",
	"rbac.jsonl:17":                  "the type writes its defaults, namespaces",
	"rbac.jsonl:82":                  "the type writes its defaults, namespaces",
	"rbac.jsonl:87":                  "the type writes its defaults, everything but context",
}

func TestRecordedAccessControlRoundTrip(t *testing.T) {
	exceptions := newExceptions(accessExceptions)
	count := 0
	for _, f := range recordedFrames(t) {
		var m struct {
			FunctionID   string `json:"function_id"`
			Data, Result json.RawMessage
		}
		if err := json.Unmarshal(f.raw, &m); err != nil {
			t.Fatalf("%s: %v", f.at(), err)
		}
		function, ok := accessTypes[m.FunctionID]
		if !ok {
			continue
		}
		raw, value := m.Data, function.input
		if raw == nil {
			raw, value = m.Result, function.result
		}
		if raw == nil || value == nil {
			continue
		}
		count++
		exceptions.check(t, f.at(), roundTrip(raw, value()))
	}
	exceptions.checkUnused(t)
	t.Logf("%d inputs and results, %d exceptions", count, len(accessExceptions))
	if count == 0 {
		t.Error("none recorded")
	}
}

var vectorExceptions = map[string]string{
	"set_empty_path_without_value_makes_root_null": "the type writes the value null, which means the same as none",
}

// What a running engine made of update operations.
func TestUpdateVectorsRoundTrip(t *testing.T) {
	b, err := os.ReadFile("testdata/recordings/update-vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Name        string
		Ops, Result json.RawMessage
	}
	if err := json.Unmarshal(b, &vectors); err != nil {
		t.Fatal(err)
	}
	exceptions := newExceptions(vectorExceptions)
	for _, v := range vectors {
		exceptions.check(t, v.Name, roundTrip(v.Ops, new([]UpdateOp)))
		if err := roundTrip(v.Result, new(StreamUpdateResult)); err != nil {
			t.Errorf("result of %s: %v", v.Name, err)
		}
	}
	exceptions.checkUnused(t)
	t.Logf("%d vectors, %d exceptions", len(vectors), len(vectorExceptions))
}
