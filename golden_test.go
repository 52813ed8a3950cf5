package iii

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// recordedFrame is one JSON message of a recorded conversation between workers and a
// running engine.
type recordedFrame struct {
	file string
	line int
	sent bool // by a worker
	raw  json.RawMessage
}

func (f recordedFrame) at() string { return fmt.Sprintf("%s:%d", f.file, f.line) }

// recordedFrames returns every JSON message of the recordings, in order.
func recordedFrames(t *testing.T) []recordedFrame {
	t.Helper()
	files, err := filepath.Glob("testdata/0.23/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recordings: %v", err)
	}
	var frames []recordedFrame
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range bytes.Split(bytes.TrimSpace(b), []byte("\n")) {
			var event struct {
				Dir   string          // send and recv, or up and down
				Kind  string          // text for the messages of an SDK
				Frame json.RawMessage // of a bare worker
				Data  json.RawMessage // of an SDK
			}
			if err := json.Unmarshal(line, &event); err != nil {
				t.Fatalf("%s:%d: %v", file, i+1, err)
			}
			f := recordedFrame{filepath.Base(file), i + 1, event.Dir == "send" || event.Dir == "up", event.Frame}
			if event.Kind == "text" {
				f.raw = event.Data
			}
			if f.raw != nil {
				frames = append(frames, f)
			}
		}
	}
	return frames
}

// oddRecordings show how the engine judges what is wrong on purpose: their inputs and
// results are no values of the types.
var oddRecordings = []string{"baggage-functions.jsonl", "configuration-functions.jsonl", "envelopes-odd.jsonl", "guarded-auth-results.jsonl"}

// roundTrip decodes raw into v and encodes that again; the result must be the same
// JSON: numbers digit by digit, absent not the same as null, the order of keys free.
func roundTrip(raw []byte, v any) error {
	if err := json.Unmarshal(raw, v); err != nil {
		return err
	}
	out, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return sameJSON(raw, out)
}

func sameJSON(want, got []byte) error {
	w, err := decodeExactly(want)
	if err != nil {
		return err
	}
	g, err := decodeExactly(got)
	if err != nil {
		return err
	}
	wantText, _ := json.Marshal(w) // with sorted keys
	gotText, _ := json.Marshal(g)
	if bytes.Equal(wantText, gotText) { // cmp.Diff does not finish on deeply nested values
		return nil
	}
	return fmt.Errorf("got %s, want %s", gotText, wantText)
}

// decodeExactly keeps numbers as text.
func decodeExactly(b []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	err = d.Decode(&v)
	return v, err
}

// messageOfType returns a new message for each tag of a protocol message and of the
// messages of the stream socket.
var messageOfType = map[string]func() any{
	"workerregistered":          newOf[WorkerRegisteredMessage],
	"reattach":                  newOf[ReattachMessage],
	"registerfunction":          newOf[RegisterFunctionMessage],
	"unregisterfunction":        newOf[UnregisterFunctionMessage],
	"registertriggertype":       newOf[RegisterTriggerTypeMessage],
	"registertrigger":           newOf[RegisterTriggerMessage],
	"unregistertrigger":         newOf[UnregisterTriggerMessage],
	"triggerregistrationresult": newOf[TriggerRegistrationResultMessage],
	"invokefunction":            newOf[InvokeFunctionMessage],
	"invocationresult":          newOf[InvocationResultMessage],
	"functionregistered":        newOf[FunctionRegisteredMessage],
	"observeradded":             newOf[ObserverAddedMessage],
	"observerremoved":           newOf[ObserverRemovedMessage],
	"observerack":               newOf[ObserverAckMessage],
	"observe":                   newOf[ObserveMessage],
	"unobserve":                 newOf[UnobserveMessage],
	"observeresult":             newOf[ObserveResultMessage],
	"observerstatechanged":      newOf[ObserverStateChangedMessage],
	"invocationsobserved":       newOf[InvocationsObservedMessage],
	"localinvocationstats":      newOf[LocalInvocationStatsMessage],
	"registerservice":           newOf[RegisterServiceMessage],
	"registrationrejected":      newOf[RegistrationRejectedMessage],
	"ping":                      newOf[PingMessage],
	"pong":                      newOf[PongMessage],
	"error":                     newOf[ErrorMessage],
	"join":                      newOf[StreamCommand],
	"leave":                     newOf[StreamCommand],
	"stream":                    newOf[StreamMessage],
}

func newOf[T any]() any { return new(T) }

const (
	writesDefaults = "the type writes its defaults, a method and headers"
	noSuchMessage  = "some workers send this, but no engine knows it"
)

// frameExceptions are the recorded messages that do not come back as they were.
var frameExceptions = map[string]string{
	"channels.jsonl:11":             "a worker's own message on a channel, not one of the protocol",
	"custom-trigger-types.jsonl:42": noSuchMessage,
	"http-functions.jsonl:4":        writesDefaults,
	"http-functions.jsonl:5":        writesDefaults,
	"http-functions.jsonl:7":        writesDefaults,
	"http-functions.jsonl:8":        writesDefaults,
	"http-functions.jsonl:9":        writesDefaults,
	"http-functions.jsonl:10":       writesDefaults,
	"http-functions.jsonl:11":       writesDefaults,
	"http-functions.jsonl:12":       writesDefaults,
	"http-functions.jsonl:13":       writesDefaults,
	"http-functions.jsonl:14":       writesDefaults,
	"http-functions.jsonl:15":       writesDefaults,
	"http-functions.jsonl:16":       writesDefaults,
	"http-functions.jsonl:17":       writesDefaults,
	"namespaces.jsonl:16":           "an empty namespace, which the engine refuses, is left out",
	"envelopes-odd.jsonl:97":        "empty baggage is left out: it says as much as none",
	"envelopes-odd.jsonl:100":       "the same",
	"envelopes-odd.jsonl:181":       "an empty traceparent is left out likewise",
	"envelopes-odd.jsonl:184":       "the same",
	"null-data.jsonl:11":            "a trigger without a config, which the engine drops, has null",
	"null-data.jsonl:18":            "optional values of null are left out",
	"null-data.jsonl:22":            "a call without data, which the engine drops, has null",
	"null-data.jsonl:23":            "optional values of null are left out",
}

func TestRecordedMessagesRoundTrip(t *testing.T) {
	exceptions := newExceptions(frameExceptions)
	count := make(map[string]int)
	for _, f := range recordedFrames(t) {
		var tag struct{ Type string }
		if err := json.Unmarshal(f.raw, &tag); err != nil {
			t.Fatalf("%s: %v", f.at(), err)
		}
		err := fmt.Errorf("no message is of type %q", tag.Type)
		if message, ok := messageOfType[tag.Type]; ok {
			err = roundTrip(f.raw, message())
		}
		exceptions.check(t, f.at(), err)
		count[tag.Type]++
	}
	total := 0
	for _, n := range count {
		total += n
	}
	t.Logf("%d messages, %d exceptions; by type: %v", total, len(frameExceptions), count)
	exceptions.checkUnused(t)
}

// exceptions are deliberate failures, by place, with the reason. One that is not
// needed is a failure, too.
type exceptions struct {
	reasons map[string]string
	used    map[string]bool
}

func newExceptions(reasons map[string]string) exceptions {
	return exceptions{reasons, make(map[string]bool)}
}

func (e exceptions) check(t *testing.T, at string, err error) {
	t.Helper()
	reason, ok := e.reasons[at]
	switch {
	case err != nil && !ok:
		t.Errorf("%s: %v", at, err)
	case err != nil:
		e.used[at] = true
	case ok && !e.used[at]:
		t.Errorf("%s: the exception (%s) is no longer needed", at, reason)
	}
}

func (e exceptions) checkUnused(t *testing.T) {
	t.Helper()
	for at, reason := range e.reasons {
		if !e.used[at] {
			t.Errorf("%s: there is nothing for the exception (%s)", at, reason)
		}
	}
}

// observerExceptions are lines of testdata/observers.jsonl that do not come back as they were.
var observerExceptions = map[string]string{
	"5": "the type writes the defaults of an observer",
}

// testdata/observers.jsonl holds messages of engines and workers from version 0.25 on.
func TestObserverMessagesRoundTrip(t *testing.T) {
	b, err := os.ReadFile("testdata/observers.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	exceptions := newExceptions(observerExceptions)
	count := make(map[string]int)
	envelopes := 0
	for i, line := range bytes.Split(bytes.TrimSpace(b), []byte("\n")) {
		at := fmt.Sprint(i + 1)
		var tag struct {
			Type string
			Data json.RawMessage
		}
		if err := json.Unmarshal(line, &tag); err != nil {
			t.Fatalf("line %s: %v", at, err)
		}
		message, ok := messageOfType[tag.Type]
		if !ok {
			t.Errorf("line %s: no message is of type %q", at, tag.Type)
			continue
		}
		count[tag.Type]++
		m := message()
		exceptions.check(t, at, roundTrip(line, m))
		if err := validate(typeName(m), line); err != nil && observerExceptions[at] == "" {
			t.Errorf("line %s: not what the schema says: %v", at, err)
		}
		again := message()
		out, err := json.Marshal(m)
		if err != nil {
			t.Fatalf("line %s: %v", at, err)
		}
		if err := json.Unmarshal(out, again); err != nil {
			t.Fatalf("line %s: %v", at, err)
		}
		if diff := cmp.Diff(m, again, sameJSONValues); diff != "" {
			t.Errorf("line %s (-first +second):\n%s", at, diff)
		}
		if bytes.Contains(tag.Data, []byte(`"activation_id"`)) {
			envelopes++
			if err := roundTrip(tag.Data, new(Observed[JSONValue, JSONValue])); err != nil {
				t.Errorf("line %s: payload: %v", at, err)
			}
		}
	}
	exceptions.checkUnused(t)
	for _, tag := range []string{
		"functionregistered", "observeradded", "observerremoved", "observerack", "observe", "unobserve", "observeresult",
		"observerstatechanged", "invocationsobserved", "localinvocationstats",
	} {
		if count[tag] == 0 {
			t.Errorf("no message of type %s", tag)
		}
	}
	if envelopes == 0 {
		t.Error("no payload of a target")
	}
}

// sameJSONValues compares JSON by what it means: encoding a value compacts it.
var sameJSONValues = cmp.Comparer(func(a, b json.RawMessage) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return sameJSON(a, b) == nil
})

// An exception for defaults is one only because of what is added.
func TestRecordedInvocationsKeepWhatTheySay(t *testing.T) {
	seen := 0
	for _, f := range recordedFrames(t) {
		if frameExceptions[f.at()] != writesDefaults {
			continue
		}
		seen++
		var m RegisterFunctionMessage
		if err := json.Unmarshal(f.raw, &m); err != nil {
			t.Fatalf("%s: %v", f.at(), err)
		}
		want, err := decodeExactly(f.raw)
		if err != nil {
			t.Fatal(err)
		}
		invocation := want.(map[string]any)["invocation"].(map[string]any)
		if invocation["method"] == nil {
			invocation["method"] = "POST"
		}
		if invocation["headers"] == nil {
			invocation["headers"] = map[string]any{}
		}
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeExactly(b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", f.at(), diff)
		}
	}
	if seen == 0 {
		t.Error("no such message")
	}
}

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
	"rbac.jsonl:17": "the type writes its defaults, namespaces",
	"rbac.jsonl:82": "the type writes its defaults, namespaces",
	"rbac.jsonl:87": "the type writes its defaults, everything but context",
}

func TestRecordedAccessControlRoundTrip(t *testing.T) {
	exceptions := newExceptions(accessExceptions)
	count := 0
	for _, f := range recordedFrames(t) {
		if slices.Contains(oddRecordings, f.file) {
			continue
		}
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
	b, err := os.ReadFile("testdata/0.23/update-vectors.json")
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

// builtinTypes returns new values for the input and the result of each built-in
// function. A nil function is no result at all, or a bare value that has no type.
var builtinTypes = map[string]struct{ input, result func() any }{
	"state::get":         {newOf[StateGetInput], nil},
	"state::set":         {newOf[StateSetInput], newOf[StateSetResult]},
	"state::delete":      {newOf[StateDeleteInput], nil},
	"state::update":      {newOf[StateUpdateInput], newOf[StateUpdateResult]},
	"state::list":        {newOf[StateListInput], newOf[List[JSONValue]]},
	"state::list_groups": {newOf[EmptyInput], newOf[StateListGroupsResult]},

	"stream::get":         {newOf[StreamGetInput], nil},
	"stream::set":         {newOf[StreamSetInput], newOf[StreamSetResult]},
	"stream::delete":      {newOf[StreamDeleteInput], newOf[StreamDeleteResult]},
	"stream::update":      {newOf[StreamUpdateInput], newOf[StreamUpdateResult]},
	"stream::list":        {newOf[StreamListInput], newOf[List[JSONValue]]},
	"stream::list_groups": {newOf[StreamListGroupsInput], newOf[StringList]},
	"stream::list_all":    {newOf[EmptyInput], newOf[StreamListAllResult]},
	"stream::send":        {newOf[StreamSendInput], nil},

	"publish":                     {newOf[PublishInput], nil},
	"iii::durable::publish":       {newOf[DurablePublishInput], nil},
	"iii::queue::redrive":         {newOf[QueueRedriveInput], newOf[QueueRedriveResult]},
	"iii::queue::redrive_message": {newOf[QueueRedriveMessageInput], newOf[QueueRedriveMessageResult]},
	"iii::queue::discard_message": {newOf[QueueDiscardMessageInput], newOf[QueueDiscardMessageResult]},
	"engine::queue::enqueue":      {newOf[QueueEnqueueInput], nil},
	"engine::queue::list_topics":  {newOf[EmptyInput], newOf[List[TopicSummary]]},
	"engine::queue::topic_stats":  {newOf[TopicStatsInput], newOf[TopicStats]},
	"engine::queue::dlq_topics":   {newOf[EmptyInput], newOf[List[DeadLetterTopic]]},
	"engine::queue::dlq_messages": {newOf[DeadLettersInput], newOf[List[DeadLetter]]},

	"configuration::register": {newOf[ConfigurationRegisterInput], newOf[ConfigurationEntry]},
	"configuration::set":      {newOf[ConfigurationSetInput], newOf[ConfigurationSetResult]},
	"configuration::get":      {newOf[ConfigurationGetInput], newOf[ConfigurationGetResult]},
	"configuration::list":     {newOf[EmptyInput], newOf[ConfigurationListResult]},
	"configuration::schema":   {newOf[ConfigurationSchemaInput], newOf[ConfigurationSchema]},
	"bridge.invoke":           {newOf[BridgeInvokeInput], nil},
	"bridge.invoke_async":     {newOf[BridgeInvokeInput], nil},

	"engine::functions::list":           {newOf[FunctionFilter], newOf[FunctionsListResult]},
	"engine::functions::info":           {newOf[FunctionInfoInput], newOf[FunctionDetail]},
	"engine::observers::list":           {newOf[EmptyInput], newOf[ObserversListResult]},
	"engine::observers::get":            {newOf[ObserverInfoInput], newOf[ObserverInfoResult]},
	"engine::triggers::list":            {newOf[TriggerTypeFilter], newOf[TriggerTypesListResult]},
	"engine::triggers::info":            {newOf[TriggerTypeInfoInput], newOf[TriggerTypeDetail]},
	"engine::registered-triggers::list": {newOf[TriggerFilter], newOf[TriggersListResult]},
	"engine::registered-triggers::info": {newOf[TriggerInfoInput], newOf[TriggerDetail]},
	"engine::workers::list":             {newOf[WorkerFilter], newOf[WorkersListResult]},
	"engine::workers::info":             {newOf[WorkerInfoInput], newOf[WorkerDetail]},
	"engine::workers::register":         {newOf[WorkerRegisterInput], newOf[WorkerRegisterResult]},
	"engine::register_trigger":          {newOf[RegisterTriggerInput], newOf[RegisterTriggerResult]},
	"engine::unregister_trigger":        {newOf[UnregisterTriggerInput], newOf[UnregisterTriggerResult]},
	"engine::channels::create":          {newOf[ChannelCreateInput], newOf[ChannelCreateResult]},

	"engine::log::trace":       {newOf[LogInput], nil},
	"engine::log::debug":       {newOf[LogInput], nil},
	"engine::log::info":        {newOf[LogInput], nil},
	"engine::log::warn":        {newOf[LogInput], nil},
	"engine::log::error":       {newOf[LogInput], nil},
	"engine::baggage::get":     {newOf[BaggageGetInput], newOf[BaggageGetResult]},
	"engine::baggage::set":     {newOf[BaggageSetInput], newOf[BaggageSetResult]},
	"engine::baggage::get_all": {newOf[EmptyInput], newOf[BaggageGetAllResult]},
	"engine::traces::list":     {newOf[TracesListInput], newOf[TracesListResult]},
	"engine::traces::tree":     {newOf[TracesTreeInput], newOf[TracesTreeResult]},
	"engine::traces::group_by": {newOf[TracesGroupByInput], newOf[TracesGroupByResult]},
	"engine::traces::clear":    {newOf[EmptyInput], newOf[ClearResult]},
	"engine::logs::list":       {newOf[LogsListInput], newOf[LogsListResult]},
	"engine::logs::clear":      {newOf[EmptyInput], newOf[ClearResult]},
	"engine::metrics::list":    {newOf[MetricsListInput], newOf[MetricsListResult]},
	"engine::rollups::list":    {newOf[RollupsListInput], newOf[RollupsListResult]},
	"engine::alerts::list":     {newOf[EmptyInput], newOf[AlertsListResult]},
	"engine::alerts::evaluate": {newOf[EmptyInput], newOf[AlertsEvaluateResult]},
	"engine::sampling::rules":  {newOf[EmptyInput], newOf[SamplingRulesResult]},
	"engine::health::check":    {newOf[EmptyInput], newOf[HealthReport]},
}

// builtinTriggers returns new values for the config and the payload of each built-in
// trigger type; a nil payload is what somebody published.
var builtinTriggers = map[string]struct{ config, payload func() any }{
	"http":                        {newOf[HTTPTriggerConfig], newOf[HTTPRequest[JSONValue]]},
	"cron":                        {newOf[CronTriggerConfig], newOf[CronEvent]},
	"durable:subscriber":          {newOf[QueueTriggerConfig], nil},
	"subscribe":                   {newOf[SubscribeTriggerConfig], nil},
	"state":                       {newOf[StateTriggerConfig], newOf[StateEvent]},
	"stream":                      {newOf[StreamTriggerConfig], newOf[StreamChangeEvent]},
	"stream:join":                 {newOf[StreamJoinLeaveTriggerConfig], newOf[StreamJoinLeaveEvent]},
	"stream:leave":                {newOf[StreamJoinLeaveTriggerConfig], newOf[StreamJoinLeaveEvent]},
	"log":                         {newOf[LogTriggerConfig], newOf[LogEvent]},
	"trace":                       {newOf[TraceTriggerConfig], newOf[TraceEvent]},
	"configuration":               {newOf[ConfigurationTriggerConfig], newOf[ConfigurationEvent]},
	"engine::functions-available": {newOf[FunctionsAvailableTrigger], newOf[FunctionsAvailableEvent]},
	"engine::workers-available":   {newOf[WorkersAvailableTrigger], newOf[WorkersAvailableEvent]},
}

// payload is a part of a recording that a type describes.
type payload struct {
	at    string // file and line
	path  string // from there, a JSON pointer
	raw   json.RawMessage
	value func() any
}

// recordedPayloads returns the payloads of built-in calls and triggers in the
// recordings: inputs, results, trigger configs and what triggers delivered.
func recordedPayloads(t *testing.T) []payload {
	t.Helper()
	var payloads []payload
	add := func(f recordedFrame, path string, raw json.RawMessage, value func() any) {
		if value != nil && raw != nil {
			payloads = append(payloads, payload{f.at(), framePath(f) + path, raw, value})
		}
	}
	type call struct {
		file, id string
		sent     bool
	}
	calls := make(map[call]func() any)            // result of a call
	bound := make(map[string]map[string]struct{}) // trigger types by file and function
	bind := func(file, function, kind string) {
		k := file + " " + function
		if bound[k] == nil {
			bound[k] = make(map[string]struct{})
		}
		bound[k][kind] = struct{}{}
	}
	for _, f := range recordedFrames(t) {
		if slices.Contains(oddRecordings, f.file) {
			continue
		}
		var m struct {
			Type         string          `json:"type"`
			TriggerType  string          `json:"trigger_type"`
			FunctionID   string          `json:"function_id"`
			InvocationID string          `json:"invocation_id"`
			Config       json.RawMessage `json:"config"`
			Data         json.RawMessage `json:"data"`
			Result       json.RawMessage `json:"result"`
			Error        json.RawMessage `json:"error"`
		}
		if err := json.Unmarshal(f.raw, &m); err != nil {
			t.Fatalf("%s: %v", f.at(), err)
		}
		switch m.Type {
		case "registertrigger":
			kind, ok := builtinTriggers[m.TriggerType]
			if !ok {
				continue // of a worker
			}
			add(f, "/config", m.Config, kind.config)
			bind(f.file, m.FunctionID, m.TriggerType)
			var config struct {
				Condition  string   `json:"condition_function_id"`
				Middleware []string `json:"middleware_function_ids"`
			}
			_ = json.Unmarshal(m.Config, &config) // what is wrong with it is for the type to say
			bind(f.file, config.Condition, m.TriggerType)
			for _, id := range config.Middleware {
				bind(f.file, id, "middleware")
			}
		case "invokefunction":
			id, _, _ := strings.Cut(m.FunctionID, "(") // stream::get(name) is stream::get
			if function, ok := builtinTypes[id]; ok {
				add(f, "/data", m.Data, function.input)
				calls[call{f.file, m.InvocationID, f.sent}] = function.result
			} else if !f.sent && !bytes.Contains(m.Data, []byte(`"_caller_worker_id"`)) { // else a call
				value, result := triggerPayload(bound[f.file+" "+m.FunctionID], m.Data)
				add(f, "/data", m.Data, value)
				calls[call{f.file, m.InvocationID, f.sent}] = result
			}
		case "invocationresult":
			if m.Error == nil {
				add(f, "/result", m.Result, calls[call{f.file, m.InvocationID, !f.sent}])
				for path, config := range listedConfigs(m.Result) {
					add(f, "/result"+path, config.raw, config.value)
				}
			}
		}
	}
	return append(payloads, acceptedTelemetry(t)...)
}

// framePath returns the JSON pointer from a line of a recording to its message.
func framePath(f recordedFrame) string {
	if f.file == "rust-sdk.jsonl" {
		return "/data"
	}
	return "/frame"
}

// listedConfigs yields the trigger configs in a result, if it is a list of triggers,
// and the JSON pointer to each.
func listedConfigs(result json.RawMessage) iter.Seq2[string, payload] {
	return func(yield func(string, payload) bool) {
		var list TriggersListResult
		if json.Unmarshal(result, &list) != nil {
			return
		}
		for i, trigger := range list.RegisteredTriggers {
			kind, ok := builtinTriggers[trigger.TriggerType]
			config := payload{raw: trigger.Config, value: kind.config}
			if ok && !yield(fmt.Sprintf("/registered_triggers/%d/config", i), config) {
				return
			}
		}
	}
}

// triggerPayload returns new values for what a function gets that is bound to
// triggers of these types, and for what it answers.
func triggerPayload(kinds map[string]struct{}, data json.RawMessage) (value, result func() any) {
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		switch {
		case len(kinds) > 1 && !strings.Contains(string(data), payloadMark[kind]):
			// Another of its triggers fired.
		case kind == "middleware":
			return newOf[HTTPMiddlewareInput], newOf[HTTPMiddlewareResult]
		case kind == "stream:join":
			return newOf[StreamJoinLeaveEvent], newOf[StreamJoinResult]
		case kind == "engine::functions-available" && !strings.Contains(string(data), `"functions_changed"`):
			// This function is bound to the events of workers, too.
		default:
			return builtinTriggers[kind].payload, nil
		}
	}
	return nil, nil
}

// payloadMark is in the payloads of a trigger type and in no other.
var payloadMark = map[string]string{"http": `"path_params"`, "state": `"type":"state"`, "stream": `"type":"stream"`}

// acceptedTelemetry returns the records that the engine gave back for single frames
// of telemetry.
func acceptedTelemetry(t *testing.T) []payload {
	t.Helper()
	const file = "otlp-acceptance.json"
	b, err := os.ReadFile("testdata/0.23/" + file)
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Signal string
		Case   string
		As     json.RawMessage
	}
	if err := json.Unmarshal(b, &cases); err != nil {
		t.Fatal(err)
	}
	records := map[string]func() any{"traces": newOf[TraceNode], "logs": newOf[StoredLog], "metrics": newOf[StoredMetric]}
	var payloads []payload
	for i, c := range cases {
		if strings.HasPrefix(string(c.As), "{") { // else lost, or too long to be kept here
			payloads = append(payloads, payload{file, fmt.Sprintf("/%d/as", i), c.As, records[c.Signal]})
		}
	}
	return payloads
}

// badPayloads are recorded to show how the engine refuses them, or ignores what is
// wrong with them.
var badPayloads = map[string]string{
	"cron-and-log-triggers.jsonl:26":    "no message; the engine refuses it",
	"engine-functions.jsonl:28":         "an id, which the engine ignores: it chooses one",
	"dead-letter-messages.jsonl:48":     "a topic, the other name of queue",
	"dead-letter-messages.jsonl:50":     "no queue; the engine refuses it",
	"dead-letter-messages.jsonl:62":     "a topic, the other name of queue",
	"http-methods-and-targets.jsonl:20": "a blank condition, which is left out",
	"http-methods-and-targets.jsonl:21": "a middleware id that is a number, which the engine skips",
	"http-methods-and-targets.jsonl:22": "middleware ids that are no list, which the engine ignores",
	"null-data.jsonl:9":                 "null; the engine refuses it",
	"null-data.jsonl:24":                "null; the engine refuses it",
	"null-data.jsonl:28":                "null; the engine refuses it",
	"null-data.jsonl:30":                "null; the engine refuses it",
	"null-data.jsonl:32":                "null; the engine refuses it",
	"null-data.jsonl:36":                "no data; the engine refuses it",
	"null-data.jsonl:42":                "no data; the engine refuses it",
	"null-data.jsonl:50":                "no value; the engine refuses it",
	"null-data.jsonl:52":                "a value under both of its names; the engine refuses it",
	"http-triggers.jsonl:23":            "no api_path; the engine refuses it",
	"queues.jsonl:9":                    "no topic; such a trigger never fires",
	"queues.jsonl:27":                   "no topic; the engine refuses it",
	"queues.jsonl:35":                   "no topic; the engine refuses it",
	"rbac.jsonl:47":                     "input of another function, which the engine ignores",
	"rbac.jsonl:49":                     "input of another function, which the engine ignores",
	"state.jsonl:50":                    "no key; the engine refuses it",
	"state.jsonl:54":                    "a scope that is a number; the engine refuses it",
	"streams.jsonl:45":                  "an item_id, which the engine ignores: the key is id",
	"streams.jsonl:67":                  "neither group_id nor item_id; the engine refuses it",
}

// payloadExceptions are deliberate differences between what was recorded and what its
// type makes of it, by type, kind of difference and path.
var payloadExceptions = map[string]string{
	"CronEvent respelled actual_time":                                           sameInstant,
	"CronEvent respelled scheduled_time":                                        sameInstant,
	"MetricsListResult respelled sdk_metrics[].data_points[].value":             wholeFloat,
	"MetricsListResult respelled sdk_metrics[].data_points[].max":               wholeFloat,
	"MetricsListResult respelled sdk_metrics[].data_points[].explicit_bounds[]": wholeFloat,
	"StoredMetric respelled data_points[].value":                                wholeFloat,
	"StoredMetric respelled data_points[].sum":                                  wholeFloat,
	"StoredMetric respelled data_points[].max":                                  wholeFloat,
	"StoredMetric respelled data_points[].explicit_bounds[]":                    wholeFloat,
}

const (
	sameInstant = "a time.Time writes Z for +00:00 and no zeros at the end of a fraction"
	wholeFloat  = "a float64 writes 3 for 3.0"
)

// The golden file lists the type of each part of the recordings; the tests of
// the schemas validate these parts.
func TestRecordedPayloadsRoundTrip(t *testing.T) {
	bad := newExceptions(badPayloads)
	deliberate := newExceptions(payloadExceptions)
	count := make(map[string]int)
	var index bytes.Buffer
	for _, p := range recordedPayloads(t) {
		v := p.value()
		name := typeName(v)
		count[name]++
		differences, err := payloadDifferences(p.raw, v)
		var unexpected []string
		for _, d := range differences {
			if key := name + " " + d; payloadExceptions[key] != "" {
				deliberate.used[key] = true
			} else {
				unexpected = append(unexpected, d)
			}
		}
		if err == nil && unexpected != nil {
			err = fmt.Errorf("%s: %s\n%s", name, strings.Join(unexpected, "; "), p.raw)
		}
		bad.check(t, p.at, err)
		if err == nil {
			fmt.Fprintln(&index, p.at, p.path, name)
		}
	}
	bad.checkUnused(t)
	deliberate.checkUnused(t)
	checkGolden(t, "testdata/payloads.golden", index.Bytes())
	sampled := make(map[string]bool)
	for _, s := range builtinSamples {
		sampled[typeName(s.value())] = true
	}
	for _, value := range builtinValues() {
		if name := typeName(value()); count[name] == 0 && !sampled[name] {
			t.Errorf("%s is neither in the recordings nor in the samples", name)
		}
	}
	total := 0
	for _, n := range count {
		total += n
	}
	t.Logf("%d payloads of %d types, %d bad ones, %d deliberate differences: %v", total, len(count), len(badPayloads), len(payloadExceptions), count)
}

var updateGolden = flag.Bool("update", false, "write the golden files")

// checkGolden compares got with a golden file.
func checkGolden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *updateGolden {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s; -update writes it (-want +got):\n%s", file, diff)
	}
}

// builtinValues returns what makes a value of each type in the tables above.
func builtinValues() []func() any {
	var values []func() any
	for _, f := range builtinTypes {
		values = append(values, f.input, f.result)
	}
	for _, t := range builtinTriggers {
		values = append(values, t.config, t.payload)
	}
	return slices.DeleteFunc(values, func(v func() any) bool { return v == nil })
}

// typeName returns the name of what v points to, without the path of the package.
// What JSONValue is an alias of differs between versions of Go.
func typeName(v any) string {
	value := reflect.TypeFor[JSONValue]()
	name := strings.ReplaceAll(reflect.TypeOf(v).Elem().String(), value.PkgPath()+"."+value.Name(), "JSONValue")
	return regexp.MustCompile(`[\w/.-]*\.`).ReplaceAllString(name, "")
}

// payloadDifferences decodes raw into v, encodes the result, and reports what has changed.
func payloadDifferences(raw []byte, v any) ([]string, error) {
	if err := json.Unmarshal(raw, v); err != nil {
		return nil, err
	}
	out, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	want, err := decodeExactly(raw)
	if err != nil {
		return nil, err
	}
	got, err := decodeExactly(out)
	if err != nil {
		return nil, err
	}
	found := make(map[string]struct{})
	compareJSON(found, "", want, got)
	return slices.Sorted(maps.Keys(found)), nil
}

// compareJSON adds to found how got differs from want: what is lost, what is added,
// what is changed, and what is only spelled in another way. Null and absent are not
// the same.
func compareJSON(found map[string]struct{}, path string, want, got any) {
	switch w := want.(type) {
	case map[string]any:
		if g, ok := got.(map[string]any); ok {
			for k, v := range w {
				if _, ok := g[k]; !ok {
					found["lost "+join(path, k)] = struct{}{}
					continue
				}
				compareJSON(found, join(path, k), v, g[k])
			}
			for k := range g {
				if _, ok := w[k]; !ok {
					found["added "+join(path, k)] = struct{}{}
				}
			}
			return
		}
	case []any:
		if g, ok := got.([]any); ok && len(g) == len(w) {
			for i := range w {
				compareJSON(found, path+"[]", w[i], g[i])
			}
			return
		}
	case json.Number:
		if g, ok := got.(json.Number); ok && w != g {
			if strings.TrimSuffix(w.String(), ".0") == g.String() {
				found["respelled "+path] = struct{}{}
				return
			}
		}
	case string:
		if g, ok := got.(string); ok && w != g {
			t, err := time.Parse(time.RFC3339Nano, w)
			u, err2 := time.Parse(time.RFC3339Nano, g)
			if err == nil && err2 == nil && t.Equal(u) {
				found["respelled "+path] = struct{}{}
				return
			}
		}
	}
	if !reflect.DeepEqual(want, got) {
		found["changed "+path] = struct{}{}
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
