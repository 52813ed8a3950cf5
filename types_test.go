package iii

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/jsonschema-go/jsonschema"
)

// Each document is one that the type writes, too.
func TestTypesRoundTrip(t *testing.T) {
	for name, test := range map[string]struct {
		doc string
		v   any
	}{
		"method":               {`"PATCH"`, new(HTTPMethod)},
		"hmac":                 {`{"type":"hmac","secret_key":"ORDERS_SIGNING_SECRET"}`, new(HTTPAuthConfig)},
		"bearer":               {`{"type":"bearer","token_key":"LAMBDA_TOKEN"}`, new(HTTPAuthConfig)},
		"api key":              {`{"type":"api_key","header":"X-Api-Key","value_key":"PARTNER_KEY"}`, new(HTTPAuthConfig)},
		"invocation":           {`{"url":"https://fn.example.com/charge","method":"PUT","timeout_ms":18446744073709551615,"headers":{"x-team":"billing"},"auth":{"type":"bearer","token_key":"LAMBDA_TOKEN"}}`, new(HTTPInvocationConfig)},
		"bare invocation":      {`{"url":"u","method":"POST","headers":{}}`, new(HTTPInvocationConfig)},
		"no time at all":       {`{"url":"u","method":"POST","headers":{},"timeout_ms":0}`, new(HTTPInvocationConfig)},
		"request":              {`{"query_params":{"page":"2"},"path_params":{"id":"u-7"},"headers":{"content-type":"application/json"},"path":"/users/:id","method":"PUT","body":{"name":"Ada"}}`, new(HTTPRequest[JSONValue])},
		"typed request":        {`{"query_params":{},"path_params":{},"headers":{},"path":"","method":"","body":{"a":1}}`, new(HTTPRequest[map[string]int])},
		"whole request":        {`{"query_params":{},"path_params":{},"headers":{},"path":"/","method":"HEAD","body":null,"trigger":{"type":"http","path":"/","method":"HEAD"},"request_body":{"channel_id":"c","access_key":"k","direction":"read"},"response":{"channel_id":"d","access_key":"k","direction":"write"}}`, new(HTTPRequest[JSONValue])},
		"response":             {`{"status_code":201,"headers":{"location":"/users/u-7"},"body":{"id":"u-7"}}`, new(HTTPResponse[JSONValue])},
		"typed response":       {`{"status_code":65535,"headers":{},"body":["x"]}`, new(HTTPResponse[[]string])},
		"otel":                 {`{"enabled":true,"service_name":"billing","engine_ws_url":"ws://engine:49134","metrics_export_interval_ms":30000,"logs_batch_size":1,"reconnection_config":{"initial_delay_ms":1000,"max_delay_ms":30000,"backoff_multiplier":2,"jitter_factor":0.3,"max_retries":null,"max_pending_messages":1000}}`, new(OtelConfig)},
		"whole otel":           {`{"enabled":false,"service_name":"","service_version":"1","service_namespace":"n","service_instance_id":"i","engine_ws_url":"u","metrics_enabled":false,"metrics_export_interval_ms":0,"shutdown_timeout_ms":0,"channel_capacity":0,"spans_flush_interval_ms":0,"logs_enabled":false,"logs_flush_interval_ms":0,"logs_batch_size":1,"fetch_instrumentation_enabled":false,"live_spans":false}`, new(OtelConfig)},
		"empty otel":           {`{}`, new(OtelConfig)},
		"reconnection":         {`{"initial_delay_ms":500,"max_delay_ms":10000,"backoff_multiplier":1.5,"jitter_factor":0.2,"max_retries":8,"max_pending_messages":200}`, new(ReconnectionConfig)},
		"reconnection of 0":    {`{"initial_delay_ms":0,"max_delay_ms":0,"backoff_multiplier":0,"jitter_factor":0,"max_retries":0,"max_pending_messages":0}`, new(ReconnectionConfig)},
		"connection state":     {`"reconnecting"`, new(ConnectionState)},
		"telemetry frame":      {`{"prefix":"OTLP","data":"e30="}`, new(OtelMessage)},
		"gauges":               {`{"worker_id":"0b7c9d7e","worker_name":"billing"}`, new(WorkerGaugesOptions)},
		"gauges without name":  {`{"worker_id":"0b7c9d7e"}`, new(WorkerGaugesOptions)},
		"metrics":              {`{"memory_rss":18446744073709551615,"memory_virtual":734003200,"cpu_percent":3.5,"uptime_seconds":12.25,"timestamp_ms":1760000000000,"runtime":"go"}`, new(WorkerMetrics)},
		"receipt":              {`{"messageReceiptId":"8f14e45f-ceea-467f-a0e6-3b1f3a9b2c10"}`, new(EnqueueResult)},
		"path of keys":         {`["rooms","r1","members"]`, new(MergePath)},
		"path of one key":      {`"a.b is one key"`, new(MergePath)},
		"root as text":         {`""`, new(MergePath)},
		"root as keys":         {`[]`, new(MergePath)},
		"set":                  {`{"type":"set","path":"status","value":"open"}`, new(UpdateOp)},
		"set null":             {`{"type":"set","path":"","value":null}`, new(UpdateOp)},
		"set a large integer":  {`{"type":"set","path":"a","value":{"big":18446744073709551615,"f":2.0,"z":-0}}`, new(UpdateOp)},
		"merge":                {`{"type":"merge","path":["limits","daily"],"value":{"max":10}}`, new(UpdateOp)},
		"merge one key":        {`{"type":"merge","path":"limits","value":{"max":10}}`, new(UpdateOp)},
		"merge root":           {`{"type":"merge","value":{"seen":true}}`, new(UpdateOp)},
		"merge empty path":     {`{"type":"merge","path":"","value":{}}`, new(UpdateOp)},
		"merge no keys":        {`{"type":"merge","path":[],"value":{}}`, new(UpdateOp)},
		"increment":            {`{"type":"increment","path":"views","by":-9223372036854775808}`, new(UpdateOp)},
		"decrement":            {`{"type":"decrement","path":"stock","by":9223372036854775807}`, new(UpdateOp)},
		"increment by 0":       {`{"type":"increment","path":"","by":0}`, new(UpdateOp)},
		"append":               {`{"type":"append","path":["log","entries"],"value":{"at":1}}`, new(UpdateOp)},
		"append to root":       {`{"type":"append","value":"tail"}`, new(UpdateOp)},
		"remove":               {`{"type":"remove","path":"draft"}`, new(UpdateOp)},
		"update error":         {`{"op_index":1,"code":"increment.not_number","message":"Expected number at path 'title', got string.","doc_url":"https://iii.dev/docs/workers/iii-state#error-codes"}`, new(UpdateOpError)},
		"short update error":   {`{"op_index":0,"code":"c","message":"m"}`, new(UpdateOpError)},
		"set result":           {`{"old_value":null,"new_value":{"title":"hello"}}`, new(StreamSetResult)},
		"update result":        {`{"old_value":{"n":1},"new_value":{"n":2},"errors":[{"op_index":1,"code":"c","message":"m"}]}`, new(StreamUpdateResult)},
		"clean update result":  {`{"old_value":null,"new_value":null}`, new(StreamUpdateResult)},
		"delete result":        {`{"old_value":{"title":"hello"}}`, new(StreamDeleteResult)},
		"get":                  {`{"stream_name":"chat","group_id":"room-1","item_id":"m-1"}`, new(StreamGetInput)},
		"stream set":           {`{"stream_name":"chat","group_id":"room-1","item_id":"m-1","data":null}`, new(StreamSetInput)},
		"delete":               {`{"stream_name":"","group_id":"","item_id":""}`, new(StreamDeleteInput)},
		"list":                 {`{"stream_name":"chat","group_id":"room-1"}`, new(StreamListInput)},
		"list groups":          {`{"stream_name":"chat"}`, new(StreamListGroupsInput)},
		"update":               {`{"stream_name":"chat","group_id":"room-1","item_id":"m-1","ops":[{"type":"increment","path":"likes","by":1}]}`, new(StreamUpdateInput)},
		"update without ops":   {`{"stream_name":"chat","group_id":"room-1","item_id":"m-1","ops":[]}`, new(StreamUpdateInput)},
		"stream auth":          {`{"headers":{"host":"localhost:3112"},"path":"/","query_params":{"tag":["a","b"],"flag":[""],"none":[]},"addr":"127.0.0.1:53122"}`, new(StreamAuthInput)},
		"stream auth result":   {`{"context":{"user_id":"u-7"}}`, new(StreamAuthResult)},
		"no stream context":    {`{"context":null}`, new(StreamAuthResult)},
		"join event":           {`{"subscription_id":"sub-1","stream_name":"chat","group_id":"room-1","id":null,"context":{"user_id":"u-7"}}`, new(StreamJoinLeaveEvent)},
		"join event of item":   {`{"subscription_id":"sub-1","stream_name":"chat","group_id":"room-1","id":"","context":null}`, new(StreamJoinLeaveEvent)},
		"join result":          {`{"unauthorized":false}`, new(StreamJoinResult)},
		"stream trigger":       {`{"stream_name":"chat","group_id":"room-1","item_id":"m-1","condition_function_id":"chat::only-public"}`, new(StreamTriggerConfig)},
		"bare stream trigger":  {`{}`, new(StreamTriggerConfig)},
		"join trigger":         {`{"stream_name":"chat","condition_function_id":"f"}`, new(StreamJoinLeaveTriggerConfig)},
		"bare join trigger":    {`{}`, new(StreamJoinLeaveTriggerConfig)},
		"event type":           {`"create"`, new(StreamEventType)},
		"create":               {`{"type":"create","data":{"text":"hi"}}`, new(StreamChangeEventDetail)},
		"create null":          {`{"type":"create","data":null}`, new(StreamChangeEventDetail)},
		"sync":                 {`{"type":"sync","data":null}`, new(StreamChangeEventDetail)},
		"sent event":           {`{"type":"event","event":{"type":"typing","data":null}}`, new(StreamChangeEventDetail)},
		"unauthorized":         {`{"type":"unauthorized"}`, new(StreamChangeEventDetail)},
		"future event":         {`{"type":"moved","data":1,"event":null}`, new(StreamChangeEventDetail)},
		"change":               {`{"type":"stream","timestamp":-1,"streamName":"chat","groupId":"room-1","id":"m-1","event":{"type":"delete","data":{"text":"hi"}}}`, new(StreamChangeEvent)},
		"stream message":       {`{"type":"stream","timestamp":1760000000000,"streamName":"chat","groupId":"room-1","id":null,"event":{"type":"unauthorized"}}`, new(StreamMessage)},
		"subscription":         {`{"subscriptionId":"s","streamName":"chat","groupId":"room-1","id":"m-1"}`, new(StreamSubscription)},
		"join":                 {`{"type":"join","data":{"subscriptionId":"s","streamName":"chat","groupId":"room-1"}}`, new(StreamCommand)},
		"auth":                 {`{"headers":{"authorization":"Bearer abc"},"query_params":{"api_key":["k1"]},"ip_address":"10.0.0.4"}`, new(AuthInput)},
		"auth result":          {`{"allowed_functions":["orders::read"],"forbidden_functions":["orders::purge"],"allowed_trigger_types":["state","stream"],"allow_trigger_type_registration":true,"allow_function_registration":false,"context":{"tenant":"acme"},"function_registration_prefix":"acme","namespaces":{"shop":["a","match(\"b*\")"]}}`, new(AuthResult)},
		"no trigger types":     {`{"allowed_functions":[],"forbidden_functions":[],"allowed_trigger_types":[],"allow_trigger_type_registration":false,"allow_function_registration":true,"context":null,"namespaces":{"none":[]}}`, new(AuthResult)},
		"middleware":           {`{"function_id":"f","payload":null,"action":null,"context":{},"namespace":"default"}`, new(MiddlewareInput)},
		"middleware of void":   {`{"function_id":"f","payload":1,"action":{"type":"void"},"context":{},"namespace":"default"}`, new(MiddlewareInput)},
		"function hook":        {`{"function_id":"orders::create","description":"create an order","metadata":null,"namespace":"default","context":{"tenant":"acme"}}`, new(OnFunctionRegistrationInput)},
		"bare function hook":   {`{"function_id":"orders::create","description":null,"metadata":{"a":1},"namespace":"shop","context":null}`, new(OnFunctionRegistrationInput)},
		"trigger hook":         {`{"trigger_id":"t-1","trigger_type":"state","function_id":"orders::on-change","config":{"scope":"orders"},"metadata":null,"namespace":"default","context":{}}`, new(OnTriggerRegistrationInput)},
		"type hook":            {`{"trigger_type_id":"webhook","description":"external webhook","context":{"tenant":"acme"}}`, new(OnTriggerTypeRegistrationInput)},
		"function hook result": {`{"function_id":"acme_orders::create","description":"","metadata":null}`, new(OnFunctionRegistrationResult)},
		"trigger hook result":  {`{"trigger_id":"t","trigger_type":"state","function_id":"f","config":null}`, new(OnTriggerRegistrationResult)},
		"type hook result":     {`{"trigger_type_id":"acme-webhook","description":"tenant webhook"}`, new(OnTriggerTypeRegistrationResult)},
		"unchanged function":   {`{}`, new(OnFunctionRegistrationResult)},
		"unchanged trigger":    {`{}`, new(OnTriggerRegistrationResult)},
		"unchanged type":       {`{}`, new(OnTriggerTypeRegistrationResult)},
		"registered":           {`{"type":"workerregistered","worker_id":"w"}`, new(WorkerRegisteredMessage)},
		"reattach":             {`{"type":"reattach","previous_worker_id":"w","reattach_token":"t"}`, new(ReattachMessage)},
		"function":             {`{"type":"registerfunction","id":"f","description":"","request_format":{"type":"object"},"metadata":null,"invocation":{"url":"u","method":"GET","headers":{}}}`, new(RegisterFunctionMessage)},
		"function of nulls":    {`{"type":"registerfunction","id":"f","request_format":null,"response_format":null}`, new(RegisterFunctionMessage)},
		"trigger type":         {`{"type":"registertriggertype","id":"webhook","description":"","trigger_request_format":null,"call_request_format":{},"namespace":"shop"}`, new(RegisterTriggerTypeMessage)},
		"trigger":              {`{"type":"registertrigger","id":"t","trigger_type":"http","function_id":"f","config":null,"metadata":{"team":"a"},"namespace":"shop","trigger_namespace":"web"}`, new(RegisterTriggerMessage)},
		"no trigger":           {`{"type":"unregistertrigger","id":"t"}`, new(UnregisterTriggerMessage)},
		"refused trigger":      {`{"type":"triggerregistrationresult","id":"t","trigger_type":"http","function_id":"f","error":{"code":"c","message":"m","stacktrace":"s"}}`, new(TriggerRegistrationResultMessage)},
		"call":                 {`{"type":"invokefunction","invocation_id":"i","function_id":"f","data":{"x":18446744073709551615},"traceparent":"00-1-2-01","baggage":"k=v","action":{"type":"enqueue","queue":"q"},"metadata":null,"namespace":"shop"}`, new(InvokeFunctionMessage)},
		"void call":            {`{"type":"invokefunction","function_id":"f","data":null,"action":{"type":"void"}}`, new(InvokeFunctionMessage)},
		"result":               {`{"type":"invocationresult","invocation_id":"i","function_id":"f","result":null}`, new(InvocationResultMessage)},
		"no result":            {`{"type":"invocationresult","invocation_id":"i","function_id":"f","error":{"code":"c","message":"m"},"traceparent":"t","baggage":"b"}`, new(InvocationResultMessage)},
		"service":              {`{"type":"registerservice","id":"s","name":"n","description":"d","parent_service_id":"p"}`, new(RegisterServiceMessage)},
		"rejected":             {`{"type":"registrationrejected","code":"WORKER_NAMESPACE_CONFLICT","namespace":"shop","worker_name":"api","owner_worker_id":""}`, new(RegistrationRejectedMessage)},
		"refused":              {`{"type":"error","error":{"code":"AUTH_ERROR","message":"auth function returned no result"}}`, new(ErrorMessage)},
	} {
		t.Run(name, func(t *testing.T) {
			if err := roundTrip([]byte(test.doc), test.v); err != nil {
				t.Error(err)
			}
			typ := reflect.TypeOf(test.v).Elem()
			if strings.Contains(typ.Name(), "[") {
				return // generic types have no schema of their own
			}
			if err := validate(typ.Name(), []byte(test.doc)); err != nil {
				t.Errorf("not what the schema says: %v", err)
			}
		})
	}
}

// validate holds a document against the schema of a type.
func validate(name string, doc []byte) error {
	bundle, err := bundleSchema(name)
	if err != nil {
		return err
	}
	var schema jsonschema.Schema
	if err := json.Unmarshal(bundle, &schema); err != nil {
		return err
	}
	resolved, err := schema.Resolve(&jsonschema.ResolveOptions{ValidateDefaults: true})
	if err != nil {
		return err
	}
	var instance any
	if err := json.Unmarshal(doc, &instance); err != nil {
		return err
	}
	return resolved.Validate(instance)
}

// What a Go literal leaves out.
func TestTypesEncode(t *testing.T) {
	for name, test := range map[string]struct {
		v    any
		want string
	}{
		"tag of an operation":  {UpdateOp{UpdateSet{Path: "a"}}, `{"type":"set","path":"a","value":null}`},
		"tag of auth":          {&HTTPAuthConfig{HTTPAuthBearer{TokenKey: "T"}}, `{"type":"bearer","token_key":"T"}`},
		"tag of an action":     {TriggerAction{ActionVoid{}}, `{"type":"void"}`},
		"a wrong tag":          {UpdateOp{UpdateRemove{Type: UpdateOpTypeSet}}, `{"type":"remove","path":""}`},
		"root":                 {UpdateMerge{Path: &MergePath{}, Value: JSONValue(`{}`)}, `{"type":"","path":"","value":{}}`},
		"tag of a message":     {PingMessage{}, `{"type":"ping"}`},
		"call":                 {InvokeFunctionMessage{FunctionID: "f"}, `{"type":"invokefunction","function_id":"f","data":null}`},
		"trigger":              {&RegisterTriggerMessage{}, `{"type":"registertrigger","id":"","trigger_type":"","function_id":"","config":null}`},
		"POST":                 {HTTPInvocationConfig{URL: "u"}, `{"url":"u","method":"POST","headers":{}}`},
		"request":              {HTTPRequest[JSONValue]{}, `{"query_params":{},"path_params":{},"headers":{},"path":"","method":"","body":null}`},
		"response":             {HTTPResponse[JSONValue]{StatusCode: 204}, `{"status_code":204,"headers":{},"body":null}`},
		"nothing is allowed":   {AuthResult{}, `{"allowed_functions":[],"forbidden_functions":[],"allow_trigger_type_registration":false,"allow_function_registration":false,"context":{},"namespaces":{}}`},
		"default auth result":  {NewAuthResult(), `{"allowed_functions":[],"forbidden_functions":[],"allow_trigger_type_registration":false,"allow_function_registration":true,"context":{},"namespaces":{}}`},
		"nil list in a map":    {AuthInput{QueryParams: map[string][]string{"a": nil}}, `{"headers":{},"query_params":{"a":[]},"ip_address":""}`},
		"default reconnection": {DefaultReconnectionConfig(), `{"initial_delay_ms":1000,"max_delay_ms":30000,"backoff_multiplier":2,"jitter_factor":0.3,"max_retries":null,"max_pending_messages":1000}`},
		"hook":                 {OnFunctionRegistrationInput{}, `{"function_id":"","description":null,"metadata":null,"context":null}`},
		"trigger hook":         {OnTriggerRegistrationInput{}, `{"trigger_id":"","trigger_type":"","function_id":"","config":null,"metadata":null,"context":null}`},
		"set result":           {StreamSetResult{}, `{"old_value":null,"new_value":null}`},
		"update result":        {StreamUpdateResult{Errors: []UpdateOpError{}}, `{"old_value":null,"new_value":null}`},
		"delete result":        {StreamDeleteResult{}, `{"old_value":null}`},
		"update":               {StreamUpdateInput{}, `{"stream_name":"","group_id":"","item_id":"","ops":[]}`},
		"join event":           {StreamJoinLeaveEvent{}, `{"subscription_id":"","stream_name":"","group_id":"","id":null,"context":null}`},
		"auth result":          {StreamAuthResult{}, `{"context":null}`},
		"deleted":              {StreamChangeEventDetail{Type: StreamEventTypeDelete}, `{"type":"delete","data":null}`},
		"event without event":  {StreamChangeEventDetail{Type: StreamEventTypeEvent}, `{"type":"event"}`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := json.Marshal(test.v)
			if err != nil {
				t.Fatal(err)
			}
			if err := sameJSON([]byte(test.want), got); err != nil {
				t.Error(err)
			}
		})
	}
	for _, v := range []any{UpdateOp{}, HTTPAuthConfig{}, TriggerAction{}} {
		if b, err := json.Marshal(v); err == nil || !strings.Contains(err.Error(), "iii: ") {
			t.Errorf("an empty %T is encoded as %s, error %v", v, b, err)
		}
	}
}

func ptr[T any](v T) *T { return &v }

// What a document leaves out.
func TestTypesDecode(t *testing.T) {
	authResult := NewAuthResult()
	authResult.Context = JSONValue("null")
	oneRetry := DefaultReconnectionConfig()
	oneRetry.MaxRetries = ptr(uint64(1))
	for name, test := range map[string]struct {
		doc     string
		v, want any
	}{
		"invocation":           {`{"url":"u","timeout_ms":null,"auth":null,"extra":1}`, new(HTTPInvocationConfig), &HTTPInvocationConfig{URL: "u", Method: "POST"}},
		"request":              {`{}`, new(HTTPRequest[JSONValue]), &HTTPRequest[JSONValue]{}},
		"typed request":        {`{"body":null,"trigger":null}`, new(HTTPRequest[int]), &HTTPRequest[int]{}},
		"response":             {`{"status_code":200,"body":null}`, new(HTTPResponse[int]), &HTTPResponse[int]{StatusCode: 200}},
		"auth result":          {`{}`, new(AuthResult), ptr(NewAuthResult())},
		"null context":         {`{"context":null,"allowed_trigger_types":null,"function_registration_prefix":null}`, new(AuthResult), &authResult},
		"hook":                 {`{"function_id":"f","description":null}`, new(OnFunctionRegistrationInput), &OnFunctionRegistrationInput{FunctionID: "f", Namespace: "default"}},
		"trigger hook":         {`{"config":1}`, new(OnTriggerRegistrationInput), &OnTriggerRegistrationInput{Config: JSONValue("1"), Namespace: "default"}},
		"reconnection":         {`{}`, new(ReconnectionConfig), ptr(DefaultReconnectionConfig())},
		"unlimited":            {`{"max_retries":null}`, new(ReconnectionConfig), ptr(DefaultReconnectionConfig())},
		"one retry":            {`{"max_retries":1}`, new(ReconnectionConfig), &oneRetry},
		"reconnection of otel": {`{"reconnection_config":{},"enabled":null}`, new(OtelConfig), &OtelConfig{ReconnectionConfig: ptr(DefaultReconnectionConfig())}},
		"merge null":           {`{"type":"merge","path":null,"value":{}}`, new(UpdateOp), &UpdateOp{UpdateMerge{Type: "merge", Value: JSONValue("{}")}}},
		"set nothing":          {`{"type":"set","path":"a","extra":1}`, new(UpdateOp), &UpdateOp{UpdateSet{Type: "set", Path: "a"}}},
		"update result":        {`{"new_value":1}`, new(StreamUpdateResult), &StreamUpdateResult{NewValue: JSONValue("1")}},
		"null id":              {`{"id":null}`, new(StreamSubscription), &StreamSubscription{}},
		"null trigger config":  {`{"stream_name":null,"group_id":null}`, new(StreamTriggerConfig), &StreamTriggerConfig{}},
		"nulls of a call":      {`{"type":"invokefunction","invocation_id":null,"function_id":"f","data":null,"action":null,"namespace":null}`, new(InvokeFunctionMessage), &InvokeFunctionMessage{Type: "invokefunction", FunctionID: "f", Data: JSONValue("null")}},
		"unknown method":       {`"QUERY"`, new(HTTPMethod), ptr(HTTPMethod("QUERY"))},
		"unknown state":        {`"paused"`, new(ConnectionState), ptr(ConnectionState("paused"))},
		"null":                 {`null`, &AuthResult{FunctionRegistrationPrefix: ptr("p")}, &AuthResult{FunctionRegistrationPrefix: ptr("p")}},
		"over another value":   {`{"namespaces":{"b":["f"]}}`, &AuthResult{AllowedTriggerTypes: []string{"x"}, Namespaces: map[string][]string{"a": nil}}, &AuthResult{AllowFunctionRegistration: true, Context: JSONValue("{}"), Namespaces: map[string][]string{"b": {"f"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := json.Unmarshal([]byte(test.doc), test.v); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, test.v); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestTypesRefuse(t *testing.T) {
	for _, test := range []struct {
		v    any
		docs []string
	}{
		{new(HTTPAuthConfig), []string{`null`, `{}`, `[]`, `1`, `{"type":null}`, `{"type":1}`, `{"type":"apikey"}`, `{"type":"HMAC"}`, `{"type":"hmac","secret_key":1}`}},
		{new(TriggerAction), []string{`null`, `{}`, `{"type":"later"}`, `{"type":"enqueue","queue":1}`}},
		{new(UpdateOp), []string{
			`null`, `{}`, `"set"`, `{"type":"nope"}`, `{"type":"Set","path":"a"}`,
			`{"type":"set","path":["a"]}`, `{"type":"remove","path":1}`,
			`{"type":"increment","path":"a","by":1.0}`, `{"type":"increment","path":"a","by":1e2}`, `{"type":"increment","path":"a","by":"1"}`,
			`{"type":"decrement","path":"a","by":9223372036854775808}`,
			`{"type":"merge","path":1,"value":{}}`, `{"type":"append","path":["a",1],"value":1}`, `{"type":"append","path":["a",null],"value":1}`, `{"type":"append","path":{},"value":1}`,
		}},
		{new(MergePath), []string{`1`, `{}`, `true`, `[1]`, `[null]`, `[["a"]]`}},
		{new(StreamUpdateInput), []string{`{"ops":null}`, `{"ops":[null]}`, `{"ops":{}}`}},
		{new(StreamUpdateResult), []string{`{"new_value":1,"errors":null}`, `{"errors":[{"op_index":-1}]}`, `{"errors":[{"op_index":1.0}]}`}},
		{new(HTTPInvocationConfig), []string{
			`{"url":"u","method":null}`, `{"url":"u","headers":null}`, `{"url":"u","timeout_ms":-1}`, `{"url":"u","timeout_ms":1.0}`,
			`{"url":"u","timeout_ms":18446744073709551616}`, `{"url":"u","headers":{"a":1}}`, `{"url":"u","auth":{}}`, `{"url":1}`,
		}},
		{new(HTTPRequest[JSONValue]), []string{`{"query_params":null}`, `{"path_params":null}`, `{"headers":null}`, `{"path":null}`, `{"method":null}`, `{"headers":{"a":["b"]}}`, `[]`}},
		{new(HTTPResponse[JSONValue]), []string{`{"status_code":-1}`, `{"status_code":65536}`, `{"status_code":200.0}`, `{"status_code":"200"}`, `{"status_code":200,"headers":null}`}},
		{new(AuthInput), []string{`{"headers":null}`, `{"query_params":null}`, `{"query_params":{"a":null}}`, `{"query_params":{"a":"b"}}`}},
		{new(AuthResult), []string{
			`{"allowed_functions":null}`, `{"forbidden_functions":null}`, `{"allow_trigger_type_registration":null}`, `{"allow_function_registration":null}`,
			`{"namespaces":null}`, `{"namespaces":{"a":null}}`, `{"allowed_functions":"all"}`, `{"allow_function_registration":1}`, `[]`,
		}},
		{new(OnFunctionRegistrationInput), []string{`{"namespace":null}`, `{"namespace":1}`}},
		{new(OnTriggerRegistrationInput), []string{`{"namespace":null}`, `{"namespace":1}`}},
		{new(ReconnectionConfig), []string{
			`{"initial_delay_ms":null}`, `{"max_delay_ms":null}`, `{"backoff_multiplier":null}`, `{"jitter_factor":null}`, `{"max_pending_messages":null}`,
			`{"initial_delay_ms":-1}`, `{"max_retries":-1}`, `{"max_retries":1.5}`, `{"backoff_multiplier":"2"}`,
		}},
		{new(OtelConfig), []string{`{"enabled":"yes"}`, `{"channel_capacity":-1}`, `{"reconnection_config":{"max_delay_ms":null}}`}},
		{new(StreamChangeEvent), []string{`{"timestamp":1.0}`, `{"timestamp":"1"}`, `{"event":[]}`}},
		{new(InvokeFunctionMessage), []string{`{"function_id":1}`, `{"action":{}}`, `{"action":{"type":"enqueue","queue":null,"queue":1}}`}},
		{new(InvocationResultMessage), []string{`{"error":"text"}`}},
	} {
		for _, doc := range test.docs {
			if err := json.Unmarshal([]byte(doc), test.v); err == nil {
				t.Errorf("%T decodes %s as %+v", test.v, doc, test.v)
			}
		}
	}
}

func TestMergePathKeys(t *testing.T) {
	for _, test := range []struct {
		path *MergePath
		want []string
	}{
		{nil, nil},
		{&MergePath{}, nil},
		{&MergePath{Segments: []string{}}, []string{}},
		{&MergePath{Single: "a.b"}, []string{"a.b"}},
		{&MergePath{Segments: []string{"a", ""}}, []string{"a", ""}},
		{&MergePath{Single: "x", Segments: []string{"a"}}, []string{"a"}},
	} {
		if diff := cmp.Diff(test.want, test.path.Keys()); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", test.path, diff)
		}
	}
}

func TestHTTPMethodValid(t *testing.T) {
	for method, want := range map[HTTPMethod]bool{
		HTTPMethodGET: true, HTTPMethodPOST: true, HTTPMethodPUT: true, HTTPMethodPATCH: true, HTTPMethodDELETE: true,
		"": false, "get": false, "HEAD": false, "OPTIONS": false,
	} {
		if got := method.Valid(); got != want {
			t.Errorf("%q: %v", method, got)
		}
	}
}
