package iii

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sample is a payload that must come back as it was.
type sample struct {
	value func() any
	doc   string
}

// builtinSamples are payloads that no recording holds, as the specification of the
// functions and triggers has them.
var builtinSamples = []sample{
	{newOf[StateUpdateResult], `{"old_value":{"n":1},"new_value":{"n":2},"errors":[{"op_index":1,"code":"set.path.proto_polluted","message":"m","doc_url":"u"}]}`},
	{newOf[StateSetInput], `{"scope":"","key":"","value":null}`},
	{newOf[StateTriggerConfig], `{}`},
	{newOf[StateTriggerConfig], `{"scope":"","key":"","condition_function_id":"orders::is-big"}`},
	{newOf[StreamSendInput], `{"stream_name":"chat","group_id":"room-1","type":"typing","data":null}`},
	{newOf[StreamSendInput], `{"stream_name":"chat","group_id":"room-1","id":"","type":"typing","data":{"user":"u-7"}}`},

	{newOf[QueueRedriveMessageInput], `{"queue":"orders","message_id":"5b1c0c1e-0e0b-4a59-9d0b-7e3c3f6f2a11"}`},
	{newOf[QueueRedriveMessageResult], `{"queue":"orders","message_id":"5b1c0c1e-0e0b-4a59-9d0b-7e3c3f6f2a11","redriven":1}`},
	{newOf[QueueDiscardMessageInput], `{"queue":"orders","message_id":"5b1c0c1e-0e0b-4a59-9d0b-7e3c3f6f2a11"}`},
	{newOf[QueueDiscardMessageResult], `{"queue":"orders","message_id":"5b1c0c1e-0e0b-4a59-9d0b-7e3c3f6f2a11","redriven":0}`},
	{newOf[DeadLettersInput], `{"topic":"orders","offset":10,"limit":0}`},
	{newOf[DeadLetter], `{"id":"5b1c0c1e-0e0b-4a59-9d0b-7e3c3f6f2a11","payload":{"order":18446744073709551615},"error":"function call failed","failed_at":1760000000,"retries":3,"size_bytes":412}`},
	{newOf[QueueTriggerConfig], `{"topic":"orders.created","condition_function_id":"orders::is-big","queue_config":{"type":"fifo","maxRetries":0,"concurrency":1,"backoffDelayMs":250,"backoffType":"exponential","visibilityTimeout":30,"delaySeconds":0,"maxPriority":255}}`},

	{newOf[ConfigurationRegisterInput], `{"id":"billing","name":"Billing","description":"of this shop","schema":{"type":"object"},"initial_value":{"currency":"EUR"},"metadata":{"team":"a"}}`},
	{newOf[ConfigurationRegisterInput], `{"id":"billing","name":"Billing","description":"of this shop","schema":true}`},
	{newOf[ConfigurationEntry], `{"id":"billing","name":"Billing","description":"of this shop","schema":{"type":"object"},"value":null}`},
	{newOf[ConfigurationSetInput], `{"id":"billing","value":{"currency":"CHF"}}`},
	{newOf[ConfigurationSetResult], `{"old_value":null,"new_value":{"currency":"CHF"}}`},
	{newOf[ConfigurationGetInput], `{"id":"billing"}`},
	{newOf[ConfigurationGetInput], `{"id":"billing","raw":true}`},
	{newOf[ConfigurationGetResult], `{"id":"billing","value":{"currency":"CHF"}}`},
	{newOf[ConfigurationListResult], `{"configurations":[{"id":"billing","name":"Billing","description":"of this shop","schema":{"type":"object"},"metadata":null}]}`},
	{newOf[ConfigurationSchemaInput], `{"id":"billing"}`},
	{newOf[ConfigurationSchema], `{"id":"billing","name":"Billing","description":"of this shop","schema":{"type":"object"}}`},
	{newOf[ConfigurationTriggerConfig], `{"configuration_id":"billing","event_types":["configuration:registered","configuration:updated","configuration:deleted"],"condition_function_id":"billing::matters"}`},
	{newOf[ConfigurationTriggerConfig], `{}`},
	{newOf[ConfigurationEvent], `{"type":"configuration","event_type":"configuration:updated","id":"billing","name":"Billing","description":"of this shop","schema":{"type":"object"},"old_value":{"currency":"EUR"},"new_value":{"currency":"CHF"}}`},
	{newOf[ConfigurationEvent], `{"type":"configuration","event_type":"configuration:deleted","id":"billing","name":"Billing","description":"","schema":null,"old_value":{"currency":"EUR"},"new_value":null,"metadata":{"team":"a"}}`},
	{newOf[BridgeInvokeInput], `{"function_id":"orders::create","data":{"sku":"x"},"timeout_ms":0}`},

	{newOf[FunctionFilter], `{"search":"a","prefix":"b","worker":"c","workers":["d"],"include_internal":true}`},
	{newOf[FunctionInfoInput], `{"function_ids":["a","b"],"namespace":"shop"}`},
	{newOf[FunctionInfoBatch], `{"functions":[{"function_id":"a","namespace":"shop","worker_name":"w","registered_triggers":[]},{"function_id":"b","error":"not_found"}]}`},
	{newOf[TriggerDetail], `{"id":"t","trigger_type":"x","function_id":"f","worker_name":"w","config":null,"trigger":null,"function":null}`},
	{newOf[WorkerMetricsReport], `{"memory_heap_used":1,"memory_heap_total":2,"memory_rss":3,"memory_external":4,"cpu_user_micros":5,"cpu_system_micros":6,"cpu_percent":1.5,"event_loop_lag_ms":0.5,"uptime_seconds":61,"timestamp_ms":1767225660000,"runtime":"node"}`},
	{newOf[WorkerRegisterInput], `{"runtime":"go","version":"0.1.0","name":"api","description":"d","os":"linux amd64","pid":0,"isolation":"container","namespace":"shop","telemetry":{"language":"de","project_name":"p","framework":"iii-go"}}`},
	{newOf[RegisterTriggerInput], `{"trigger_type":"cron","function_id":"f","config":null,"metadata":null,"trigger_namespace":"shop"}`},
	{newOf[ChannelCreateInput], `{"buffer_size":0}`},

	{newOf[BaggageGetInput], `{"key":"k"}`},
	{newOf[BaggageGetResult], `{"value":null}`},
	{newOf[BaggageSetInput], `{"key":"k","value":""}`},
	{newOf[BaggageSetResult], `{"success":true,"note":"n"}`},
	{newOf[BaggageGetAllResult], `{"baggage":{}}`},
	{newOf[ClearResult], `{"success":true}`},
	{newOf[ClearResult], `{"success":true,"message":"no store"}`},
	{newOf[TracesListInput], `{"trace_id":"t","trace_ids":["u"],"service_name":"s","name":"n","status":"ok","min_duration_ms":0,"max_duration_ms":0.5,"start_time":0,"end_time":1,"attributes":[["k","v"]],"exclude_attributes":[["k","w"]],"include_internal":true,"search_all_spans":true,"sort_by":"duration","sort_order":"desc","offset":1,"limit":0}`},
	{newOf[TracesListResult], `{"spans":[{"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","span_id":"00f067aa0ba902b7","parent_span_id":"b7ad6b7169203331","name":"execute orders::create","start_time_unix_nano":1767225600000000001,"end_time_unix_nano":1767225600012345678,"status":"error","status_description":"card declined","attributes":[["iii.session.id","S-1"]],"service_name":"orders","events":[{"name":"exception","timestamp_unix_nano":1767225600011000000,"attributes":[["exception.type","card_declined"]]}],"links":[{"trace_id":"0af7651916cd43dd8448eb211c80319c","span_id":"b7ad6b7169203331","trace_state":null,"attributes":[]}],"instrumentation_scope_name":"iii-go-sdk","instrumentation_scope_version":"0.1.0","flags":0,"trace_tags":{"iii.session.id":"S-1"}}],"total":1,"offset":0,"limit":10000,"storage":{"archive":"degraded","completeness":"partial","known_dropped_spans":3,"physical_bytes":1,"max_disk_bytes":2,"last_error":"disk full"}}`},
	{newOf[TracesGroupByInput], `{"attribute":"iii.session.id","label_attribute":"iii.session.name","since_ms":1767225600000,"limit":100,"include_internal":true}`},
	{newOf[TracesGroupByResult], `{"groups":[{"value":"S-1","label":null,"trace_ids":["4bf92f3577b34da6a3ce929d0e0e4736"],"span_count":4,"first_seen_ms":1767225600000,"last_seen_ms":1767225600012,"duration_ms":12,"error_count":1}],"storage":{"archive":"disabled","completeness":"complete","known_dropped_spans":0,"physical_bytes":0,"max_disk_bytes":0,"last_error":null}}`},
	{newOf[LogInput], `{"message":"","data":null}`},
	{newOf[LogsListInput], `{"start_time":0,"end_time":1,"trace_id":"t","span_id":"s","severity_min":0,"severity_text":"warn","offset":1,"limit":0}`},
	{newOf[LogsListResult], `{"logs":[],"total":0,"timestamp":1767225660000}`},
	{newOf[MetricsListInput], `{"start_time":1767225600000,"end_time":1767225720000,"metric_name":"m","aggregate_interval":60}`},
	{newOf[MetricsListResult], `{"engine_metrics":{"invocations":{"total":12,"success":11,"error":1,"deferred":5,"by_function":{"orders::create":7}},"workers":{"spawns":2,"deaths":1,"active":1},"performance":{"avg_duration_ms":1.2,"p50_duration_ms":1.5,"p95_duration_ms":3.5,"p99_duration_ms":3.5,"min_duration_ms":0.4,"max_duration_ms":3.5}},"sdk_metrics":[{"name":"n","description":"d","unit":"s","metric_type":"histogram","data_points":[{"count":3,"sum":0.42,"bucket_counts":[1,2,0],"explicit_bounds":[0.1,1.5],"min":null,"max":0.3,"attributes":[["k","v"]],"timestamp_unix_nano":1767225660000000000}],"service_name":"orders","timestamp_unix_nano":1767225660001000000,"instrumentation_scope_name":"a","instrumentation_scope_version":"b"}],"timestamp":1767225661000,"aggregated_metrics":[{"name":"orders.created","bucket_start_ns":1767225660000000000,"bucket_end_ns":1767225720000000000,"count":1,"sum":42.5,"min":42.5,"max":42.5,"avg":42.5,"percentiles":{"p50":1.0}}],"query":{"start_time":1767225600000,"end_time":1767225720000,"aggregate_interval":60,"metric_name":null}}`},
	{newOf[RollupsListInput], `{"start_time":1,"end_time":2,"level":2,"metric_name":"m"}`},
	{newOf[RollupsListResult], `{"rollups":[],"histogram_rollups":[],"level":0,"query":{"start_time":null,"end_time":null,"metric_name":null},"timestamp":1767225661000}`},
	{newOf[RollupsListResult], `{"rollups":[{"count":1.0}],"histogram_rollups":[null],"message":"m","source":"s","timestamp":1767225661000}`},
	{newOf[AlertsListResult], `{"alerts":[{"name":"a","firing":false,"threshold":1.0}],"rules":[{"name":"a","metric":"iii.invocations.error","threshold":0.5,"operator":"greaterthan","window_seconds":60,"action":{"type":"webhook","url":"https://example.com"},"enabled":false,"cooldown_seconds":60},{"name":"b","metric":"m","threshold":1,"operator":"equal","window_seconds":1,"action":{"type":"function","path":"f"},"enabled":true,"cooldown_seconds":1}],"firing_count":0,"timestamp":1767225661000}`},
	{newOf[AlertsEvaluateResult], `{"evaluated":true,"triggered_alerts":[{"name":"a"}],"timestamp":1767225661000}`},
	{newOf[AlertsEvaluateResult], `{"evaluated":false,"message":"m","timestamp":1767225661000}`},
	{newOf[SamplingRulesResult], `{"traces":{"default_ratio":1,"rules":[{"operation":"api.*","service":null,"rate":0.1}],"parent_based":true},"logs":{"sampling_ratio":0.5},"timestamp":1767225660000}`},
	{newOf[HealthReport], `{"status":"degraded","components":{"otel":{"status":"healthy","details":{"enabled":true}},"metrics":{"status":"disabled","details":null},"logs":{"status":"disabled","details":null},"spans":{"status":"degraded","details":{"stored_spans":33}}},"timestamp":1767225660000,"version":"0.23.0"}`},
	{newOf[TraceTriggerConfig], `{"service_name":"","status":"error"}`},
	{newOf[TraceTriggerConfig], `{}`},
	{newOf[HTTPMiddlewareResult], `{"action":"continue"}`},
}

func TestBuiltinSamplesRoundTrip(t *testing.T) {
	for _, s := range builtinSamples {
		v := s.value()
		if err := roundTrip([]byte(s.doc), v); err != nil {
			t.Errorf("%s: %s: %v", typeName(v), s.doc, err)
		}
	}
}

// Nil lists and maps that the engine expects are written, what is optional is not.
func TestBuiltinZeroValues(t *testing.T) {
	for _, tt := range []struct {
		value any
		want  string
	}{
		{EmptyInput{}, `{}`},
		{FunctionsAvailableTrigger{}, `{}`},
		{WorkersAvailableTrigger{}, `{}`},
		{HTTPTriggerConfig{APIPath: "/x"}, `{"api_path":"/x"}`},
		{LogTriggerConfig{}, `{}`},
		{StateTriggerConfig{}, `{}`},
		{StateSetInput{Scope: "s", Key: "k"}, `{"scope":"s","key":"k","value":null}`},
		{StateUpdateInput{}, `{"scope":"","key":"","ops":[]}`},
		{StateListGroupsResult{}, `{"groups":[]}`},
		{QueueTriggerConfig{}, `{"topic":""}`},
		{QueueEnqueueInput{}, `{"queue":"","function_id":"","data":null,"messageReceiptId":"","traceparent":null,"baggage":null}`},
		{DeadLettersInput{Topic: "t"}, `{"topic":"t"}`},
		{WorkerRegisterInput{}, `{}`},
		{RegisterTriggerInput{}, `{"trigger_type":"","function_id":""}`},
		{ChannelCreateInput{}, `{}`},
		{FunctionFilter{}, `{}`},
		{TracesListInput{}, `{}`},
		{LogEvent{}, `{"timestamp_unix_nano":0,"observed_timestamp_unix_nano":0,"severity_number":0,"severity_text":"","body":"","attributes":{},"trace_id":null,"span_id":null,"resource":{},"service_name":"","instrumentation_scope_name":null,"instrumentation_scope_version":null}`},
		{TraceNode{}, `{"trace_id":"","span_id":"","parent_span_id":null,"name":"","start_time_unix_nano":0,"end_time_unix_nano":0,"status":"","attributes":[],"service_name":"","events":[],"links":[],"children":[]}`},
		{HistogramDataPoint{}, `{"count":0,"sum":0,"bucket_counts":[],"explicit_bounds":[],"min":null,"max":null,"attributes":[],"timestamp_unix_nano":0}`},
		{MetricsListResult{}, `{"engine_metrics":{},"sdk_metrics":[],"timestamp":0}`},
		{HTTPMiddlewareResponse{}, `{"status_code":0,"headers":{},"body":null}`},
	} {
		got, err := json.Marshal(tt.value)
		if err != nil {
			t.Errorf("%T: %v", tt.value, err)
			continue
		}
		if err := sameJSON([]byte(tt.want), got); err != nil {
			t.Errorf("%T: %v", tt.value, err)
		}
	}
}

func TestBuiltinDefaults(t *testing.T) {
	limit := uint64(0)
	for _, tt := range []struct {
		doc       string
		got, want any
	}{
		{`{"api_path":"/x"}`, new(HTTPTriggerConfig), &HTTPTriggerConfig{APIPath: "/x", HTTPMethod: "GET"}},
		{`{"api_path":"/x","http_method":"post"}`, new(HTTPTriggerConfig), &HTTPTriggerConfig{APIPath: "/x", HTTPMethod: "post"}},
		{`{"api_path":"/x"}`, &HTTPTriggerConfig{ConditionFunctionID: "old"}, &HTTPTriggerConfig{APIPath: "/x", HTTPMethod: "GET"}},
		{`null`, &HTTPTriggerConfig{APIPath: "/old"}, &HTTPTriggerConfig{APIPath: "/old"}},
		{`{}`, new(LogTriggerConfig), &LogTriggerConfig{Level: LogLevelAll}},
		{`{"level":"warn"}`, new(LogTriggerConfig), &LogTriggerConfig{Level: LogLevelWarn}},
		{`{"level":"fatal"}`, new(LogTriggerConfig), &LogTriggerConfig{Level: "fatal"}},
		{`null`, &LogTriggerConfig{Level: "old"}, &LogTriggerConfig{Level: "old"}},
		{`{"id":"a"}`, new(ConfigurationGetInput), &ConfigurationGetInput{ID: "a"}},
		{`null`, &ConfigurationGetInput{ID: "old"}, &ConfigurationGetInput{ID: "old"}},
		{`{"topic":"a"}`, new(DeadLettersInput), &DeadLettersInput{Topic: "a"}},
		{`{"topic":"a","limit":0}`, new(DeadLettersInput), &DeadLettersInput{Topic: "a", Limit: &limit}},
		{`null`, &DeadLettersInput{Topic: "old"}, &DeadLettersInput{Topic: "old"}},
	} {
		if err := json.Unmarshal([]byte(tt.doc), tt.got); err != nil {
			t.Errorf("%s: %v", tt.doc, err)
			continue
		}
		if diff := cmp.Diff(tt.want, tt.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.doc, diff)
		}
	}
}

func TestBuiltinRefusals(t *testing.T) {
	for _, tt := range []struct {
		name  string
		value any
		doc   string
	}{
		{"null for a default", new(HTTPTriggerConfig), `{"api_path":"/x","http_method":null}`},
		{"null for a default", new(LogTriggerConfig), `{"level":null}`},
		{"null for a default", new(ConfigurationGetInput), `{"id":"a","raw":null}`},
		{"null for a default", new(DeadLettersInput), `{"topic":"a","offset":null}`},
		{"null for a default", new(DeadLettersInput), `{"topic":"a","limit":null}`},
		{"number for a string", new(HTTPTriggerConfig), `{"api_path":"/x","http_method":1}`},
		{"string for an object", new(LogTriggerConfig), `"all"`},
		{"null for a list", new(StateListGroupsResult), `{"groups":null}`},
		{"null for a map", new(BaggageGetAllResult), `{"baggage":null}`},
		{"negative", new(DeadLettersInput), `{"topic":"a","offset":-1}`},
		{"negative", new(StreamListAllResult), `{"stream":[],"count":-1}`},
		{"fraction", new(StreamListAllResult), `{"stream":[],"count":1.0}`},
		{"out of range", new(WorkerRegisterInput), `{"pid":4294967296}`},
		{"out of range", new(LogsListInput), `{"severity_min":2147483648}`},
		{"out of range", new(HTTPMiddlewareResponse), `{"status_code":65536}`},
		{"number in an attribute", new(StoredAttribute), `["k",1]`},
		{"no time", new(CronEvent), `{"actual_time":"now"}`},
		{"array for an entry", new(FunctionInfoEntry), `[]`},
		{"array for a data point", new(MetricDataPoint), `[]`},
		{"negative count", new(MetricDataPoint), `{"count":-1,"bucket_counts":[]}`},
		{"value is a string", new(MetricDataPoint), `{"value":"1"}`},
		{"error is a number", new(FunctionInfoEntry), `{"function_id":"a","error":1}`},
		{"id is a number", new(FunctionInfoEntry), `{"function_id":1}`},
	} {
		if err := json.Unmarshal([]byte(tt.doc), tt.value); err == nil {
			t.Errorf("%s: %T took %s: %+v", tt.name, tt.value, tt.doc, tt.value)
		}
	}
}

func TestUntaggedUnions(t *testing.T) {
	for _, tt := range []struct {
		doc       string
		got, want any
	}{
		{`{"function_id":"a","error":"forbidden"}`, new(FunctionInfoEntry), &FunctionInfoEntry{Error: &FunctionInfoError{FunctionID: "a", Error: "forbidden"}}},
		{`{"function_id":"a"}`, &FunctionInfoEntry{Error: &FunctionInfoError{}}, &FunctionInfoEntry{Detail: &FunctionDetail{FunctionID: "a"}}},
		{`null`, &FunctionInfoEntry{Error: &FunctionInfoError{}}, &FunctionInfoEntry{Error: &FunctionInfoError{}}},
		{`{"value":1.5}`, &MetricDataPoint{Histogram: &HistogramDataPoint{}}, &MetricDataPoint{Number: &NumberDataPoint{Value: 1.5}}},
		{`{"count":2}`, new(MetricDataPoint), &MetricDataPoint{Histogram: &HistogramDataPoint{Count: 2}}},
		{`{"bucket_counts":[2]}`, new(MetricDataPoint), &MetricDataPoint{Histogram: &HistogramDataPoint{BucketCounts: []uint64{2}}}},
		{`null`, &MetricDataPoint{Number: &NumberDataPoint{}}, &MetricDataPoint{Number: &NumberDataPoint{}}},
	} {
		if err := json.Unmarshal([]byte(tt.doc), tt.got); err != nil {
			t.Errorf("%s: %v", tt.doc, err)
			continue
		}
		if diff := cmp.Diff(tt.want, tt.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.doc, diff)
		}
	}
	for _, v := range []any{
		FunctionInfoEntry{}, FunctionInfoEntry{Detail: &FunctionDetail{}, Error: &FunctionInfoError{}},
		MetricDataPoint{}, MetricDataPoint{Number: &NumberDataPoint{}, Histogram: &HistogramDataPoint{}},
	} {
		if got, err := json.Marshal(v); err == nil || !strings.Contains(err.Error(), "needs either") {
			t.Errorf("%+v: %s, %v", v, got, err)
		}
	}
}

// A detail is at hand with and without the name of its part.
func TestWorkerDetailFields(t *testing.T) {
	rss := uint64(7)
	d := WorkerDetail{Worker: Worker{ID: "w", LatestMetrics: &WorkerMetricsReport{MemoryRss: &rss}}}
	if d.ID != d.Worker.ID || d.LatestMetrics != d.Worker.LatestMetrics {
		t.Errorf("%+v", d)
	}
}

// FuzzBuiltinTypes decodes anything into every type of the built-in functions and
// triggers. What a type takes, it writes, and what it wrote stays the same.
func FuzzBuiltinTypes(f *testing.F) {
	for _, s := range builtinSamples {
		f.Add([]byte(s.doc))
	}
	f.Add([]byte(`null`))
	f.Add([]byte(`[{"topic":"t"}]`))
	f.Add([]byte(`{"functions":[null]}`))
	f.Add([]byte(`{"api_path":"/x","http_method":null}`))
	values := builtinValues()
	f.Fuzz(func(t *testing.T, doc []byte) {
		for _, value := range values {
			v := value()
			if json.Unmarshal(doc, v) != nil {
				continue
			}
			first, err := json.Marshal(v)
			if err != nil {
				if strings.Contains(err.Error(), "needs either") || strings.Contains(err.Error(), "is empty") {
					continue // a null in place of a union
				}
				t.Fatalf("%T took %s and does not write it: %v", v, doc, err)
			}
			second, err := rewrite(first, value())
			if err != nil {
				t.Fatalf("%T wrote %s of %s: %v", v, first, doc, err)
			}
			third, err := rewrite(second, value()) // the second has the defaults
			if err != nil {
				t.Fatalf("%T wrote %s of %s: %v", v, second, first, err)
			}
			if string(second) != string(third) {
				t.Fatalf("%T wrote %s, then %s", v, second, third)
			}
		}
	})
}

// rewrite decodes doc into v and encodes that.
func rewrite(doc []byte, v any) ([]byte, error) {
	if err := json.Unmarshal(doc, v); err != nil {
		return nil, err
	}
	return json.Marshal(v)
}
