package iii

import (
	"bytes"
	"encoding/json"
	"testing"
)

// fuzzType decodes documents into a T. What decodes must encode, and that must
// decode to the same.
func fuzzType[T any](f *testing.F, seeds ...string) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		var first, second T
		if json.Unmarshal(doc, &first) != nil || isNull(doc) {
			return
		}
		once, err := json.Marshal(first)
		if err != nil {
			t.Fatalf("%q decodes as %+v: %v", doc, first, err)
		}
		if err := json.Unmarshal(once, &second); err != nil {
			t.Fatalf("%q is encoded as %s: %v", doc, once, err)
		}
		twice, err := json.Marshal(second)
		if err != nil {
			t.Fatalf("%s decodes as %+v: %v", once, second, err)
		}
		if !bytes.Equal(once, twice) {
			t.Errorf("%q is encoded as %s, and that as %s", doc, once, twice)
		}
	})
}

func FuzzUpdateOp(f *testing.F) {
	fuzzType[UpdateOp](f,
		`{"type":"set","path":"a","value":1}`, `{"type":"merge","path":["a","b"],"value":{}}`, `{"type":"increment","path":"n","by":-9223372036854775808}`,
		`{"type":"decrement","path":"","by":0}`, `{"type":"append","path":null,"value":"x"}`, `{"type":"remove","path":"a"}`, `{"type":"nope"}`, `{"type":null}`, `null`)
}

func FuzzHTTPAuthConfig(f *testing.F) {
	fuzzType[HTTPAuthConfig](f, `{"type":"hmac","secret_key":"A"}`, `{"type":"bearer","token_key":"B"}`, `{"type":"api_key","header":"H","value_key":"C"}`, `{"type":"apikey"}`)
}

func FuzzTriggerAction(f *testing.F) {
	fuzzType[TriggerAction](f, `{"type":"void"}`, `{"type":"enqueue","queue":"q"}`, `{"type":"enqueue"}`, `{"type":1}`)
}

func FuzzMergePath(f *testing.F) {
	fuzzType[MergePath](f, `""`, `"a"`, `[]`, `["a",""]`, `[null]`, ` [ "a" ] `, `1`)
}

func FuzzHTTPInvocationConfig(f *testing.F) {
	fuzzType[HTTPInvocationConfig](f, `{"url":"u"}`, `{"url":"u","method":"GET","timeout_ms":18446744073709551615,"headers":{"a":"b"},"auth":{"type":"hmac","secret_key":"A"}}`, `{"method":null}`, `{"headers":null}`)
}

func FuzzHTTPRequest(f *testing.F) {
	fuzzType[HTTPRequest[JSONValue]](f, `{}`, `{"query_params":{"a":"b"},"path":"/","method":"GET","body":18446744073709551615,"trigger":{"type":"http"},"response":{"channel_id":"c","access_key":"k","direction":"write"}}`, `{"path":null}`)
}

func FuzzHTTPResponse(f *testing.F) {
	fuzzType[HTTPResponse[JSONValue]](f, `{"status_code":200,"headers":{},"body":null}`, `{"status_code":65536}`)
}

func FuzzAuthInput(f *testing.F) {
	fuzzType[AuthInput](f, `{"headers":{"a":"b"},"query_params":{"a":["b"],"c":[]},"ip_address":"::1"}`, `{"query_params":{"a":null}}`)
}

func FuzzAuthResult(f *testing.F) {
	fuzzType[AuthResult](f, `{}`, `{"allowed_trigger_types":[],"context":null,"namespaces":{"a":["b"]}}`, `{"allow_function_registration":null}`, `{"allowed_functions":["a",null]}`)
}

func FuzzOnFunctionRegistrationInput(f *testing.F) {
	fuzzType[OnFunctionRegistrationInput](f, `{"function_id":"f","description":null,"metadata":1,"namespace":"n"}`, `{"namespace":null}`)
}

func FuzzOnTriggerRegistrationInput(f *testing.F) {
	fuzzType[OnTriggerRegistrationInput](f, `{"trigger_id":"t","config":{},"metadata":null,"namespace":""}`, `{"namespace":null}`)
}

func FuzzReconnectionConfig(f *testing.F) {
	fuzzType[ReconnectionConfig](f, `{}`, `{"initial_delay_ms":1,"max_delay_ms":2,"backoff_multiplier":1e300,"jitter_factor":0.1,"max_retries":0,"max_pending_messages":3}`, `{"jitter_factor":null}`)
}

func FuzzOtelConfig(f *testing.F) {
	fuzzType[OtelConfig](f, `{}`, `{"enabled":null,"reconnection_config":{"max_retries":null},"channel_capacity":0}`)
}

func FuzzStreamMessage(f *testing.F) {
	fuzzType[StreamMessage](f, `{"type":"stream","timestamp":1,"streamName":"s","groupId":"g","id":null,"event":{"type":"event","event":{}}}`, `{"event":{"type":"sync"}}`, `{"event":{"type":"unauthorized"}}`)
}

func FuzzStreamUpdateResult(f *testing.F) {
	fuzzType[StreamUpdateResult](f, `{"old_value":null,"new_value":1.0,"errors":[{"op_index":1,"code":"c","message":"m"}]}`, `{"errors":[]}`, `{"errors":null}`)
}

func FuzzInvokeFunctionMessage(f *testing.F) {
	fuzzType[InvokeFunctionMessage](f, `{"type":"invokefunction","function_id":"f","data":{"a":1e999},"action":{"type":"void"},"metadata":null}`, `{"action":{}}`, `{"type":"ping"}`)
}

func FuzzRegisterFunctionMessage(f *testing.F) {
	fuzzType[RegisterFunctionMessage](f, `{"id":"f","request_format":null,"invocation":{"url":"u","auth":{"type":"bearer","token_key":"T"}}}`)
}

func FuzzFunctionInfoEntry(f *testing.F) {
	fuzzType[FunctionInfoEntry](f, `{}`, `{"error":null}`, `{"function_id":"f"}`, `[]`)
}

func FuzzMetricDataPoint(f *testing.F) {
	fuzzType[MetricDataPoint](f, `{}`, `{"value":1}`, `{"count":1,"bucket_counts":[1],"explicit_bounds":[0.5]}`, `{"bucket_counts":null}`)
}

func FuzzHTTPTriggerConfig(f *testing.F) {
	fuzzType[HTTPTriggerConfig](f, `{}`, `{"api_path":"/a","http_method":"GET"}`, `{"http_method":null}`)
}

func FuzzLogTriggerConfig(f *testing.F) {
	fuzzType[LogTriggerConfig](f, `{}`, `{"level":"info"}`, `{"level":null}`)
}

func FuzzDeadLettersInput(f *testing.F) {
	fuzzType[DeadLettersInput](f, `{"topic":"t"}`, `{"topic":"t","offset":1,"limit":0}`, `{"limit":null}`)
}

func FuzzConfigurationGetInput(f *testing.F) {
	fuzzType[ConfigurationGetInput](f, `{"id":"a"}`, `{"id":"a","raw":true}`, `{"raw":null}`)
}
