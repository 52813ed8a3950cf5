package iiitest

import (
	"encoding/json"
	"errors"
	"reflect"
	"regexp"

	"github.com/google/uuid"

	"github.com/iii-go/iii"
	"github.com/iii-go/iii/internal/rawjson"
)

// Messages sent by workers, with the fields that the engine reads. Required fields follow the
// rules of decodeInput. In all other fields, null is treated as missing.
type (
	reattachMessage struct {
		PreviousWorkerID string  `json:"previous_worker_id"`
		ReattachToken    *string `json:"reattach_token"`
	}
	registerFunctionMessage struct {
		ID             string           `json:"id"`
		Description    *string          `json:"description"`
		RequestFormat  json.RawMessage  `json:"request_format,omitempty"`
		ResponseFormat json.RawMessage  `json:"response_format,omitempty"`
		Metadata       json.RawMessage  `json:"metadata,omitempty"`
		Invocation     *json.RawMessage `json:"invocation"`

		http     *iii.HTTPInvocationConfig // decoded from Invocation
		observed registeredObservable      // fields added in 0.25
	}
	registeredObservable struct {
		ArgsFormat json.RawMessage     `json:"args_format,omitempty"`
		Private    *bool               `json:"private"`
		Observable *bool               `json:"observable"`
		Observe    *observeDescription `json:"observe"`
	}
	// observeDescription describes an observable function in the format of engine 0.25.
	observeDescription struct {
		Delivery          *string         `json:"delivery"`
		ArgsFormat        json.RawMessage `json:"args_format,omitempty"`
		LegacyTriggerType *string         `json:"legacy_trigger_type"`
		Allow             *bool           `json:"allow"`
	}
	unregisterFunctionMessage struct {
		ID string `json:"id"`
	}
	registerTriggerTypeMessage struct {
		ID                   string          `json:"id"`
		Description          string          `json:"description"`
		TriggerRequestFormat json.RawMessage `json:"trigger_request_format,omitempty"`
		CallRequestFormat    json.RawMessage `json:"call_request_format,omitempty"`
		Namespace            *string         `json:"namespace"`
	}
	unregisterTriggerTypeMessage struct {
		ID        string  `json:"id"`
		Namespace *string `json:"namespace"`
	}
	registerTriggerMessage struct {
		ID               string          `json:"id"`
		TriggerType      string          `json:"trigger_type"`
		FunctionID       string          `json:"function_id"`
		Config           json.RawMessage `json:"config"`
		Metadata         json.RawMessage `json:"metadata,omitempty"`
		Namespace        *string         `json:"namespace"`
		TriggerNamespace *string         `json:"trigger_namespace"`
	}
	unregisterTriggerMessage struct {
		ID          string  `json:"id"`
		TriggerType *string `json:"trigger_type"`
	}
	triggerRegistrationResultMessage struct {
		ID          string          `json:"id"`
		TriggerType string          `json:"trigger_type"`
		FunctionID  string          `json:"function_id"`
		Error       json.RawMessage `json:"error,omitempty"`
	}
	invokeFunctionMessage struct {
		InvocationID *string         `json:"invocation_id"`
		FunctionID   string          `json:"function_id"`
		Data         json.RawMessage `json:"data"`
		Traceparent  *string         `json:"traceparent"`
		Baggage      *string         `json:"baggage"`
		Action       *invokeAction   `json:"action"`
		Metadata     json.RawMessage `json:"metadata,omitempty"`
		Namespace    *string         `json:"namespace"`

		observed observedInvocation // fields added in 0.25
	}
	observedInvocation struct {
		Caller     *callerInfo      `json:"caller"`
		Depth      *uint32          `json:"observe_depth"`
		Activation *throughObserver `json:"activation"`
	}
	// throughObserver marks a call made through an observer.
	throughObserver struct {
		ObserverID string `json:"observer_id"`
	}
	invokeAction struct {
		Type  string  `json:"type"`
		Queue *string `json:"queue"`
	}
	invocationResultMessage struct {
		InvocationID string          `json:"invocation_id"`
		FunctionID   string          `json:"function_id"`
		Result       json.RawMessage `json:"result,omitempty"`
		Error        json.RawMessage `json:"error,omitempty"`
		Traceparent  *string         `json:"traceparent"` // Traceparent and Baggage are only checked for their type
		Baggage      *string         `json:"baggage"`

		observed observedResult // fields added in 0.26
	}
	observedResult struct {
		Matched   *[]string `json:"matched"` // nil if the host has no match hook
		Delivered *bool     `json:"delivered"`
	}
	registerServiceMessage struct {
		ID              string  `json:"id"`
		Name            string  `json:"name,omitempty"`
		Description     *string `json:"description"`
		ParentServiceID *string `json:"parent_service_id"`
	}
	observeMessage struct {
		ID     string `json:"id"`
		Source struct {
			FunctionID string          `json:"function_id"`
			Namespace  *string         `json:"namespace"`
			Args       json.RawMessage `json:"args,omitempty"`
			Filters    json.RawMessage `json:"filters,omitempty"`
			Capture    *[]string       `json:"capture"`
			On         *string         `json:"on"`
			Deliver    *string         `json:"deliver"`
		} `json:"source"`
		Target struct {
			FunctionID string  `json:"function_id"`
			Namespace  *string `json:"namespace"`
		} `json:"target"`
		Metadata    json.RawMessage `json:"metadata,omitempty"`
		MaxFires    *uint64         `json:"max_fires"`
		ExpiresInMS *uint64         `json:"expires_in_ms"`
		MaxInFlight *uint32         `json:"max_in_flight"`
	}
	unobserveMessage struct {
		ID string `json:"id"`
	}
	observerAckMessage struct {
		FunctionID string          `json:"function_id"`
		Namespace  *string         `json:"namespace"`
		ID         string          `json:"id"`
		Revision   uint64          `json:"revision"`
		Error      json.RawMessage `json:"error,omitempty"`
	}
	invocationsObservedMessage struct {
		Items []observedItem `json:"items"`
	}
	// observedItem reports an event, or a call that a worker has run in process. In Input,
	// Output, Error and Metadata, null is distinct from a missing member.
	observedItem struct {
		FunctionID    string          `json:"function_id"`
		Namespace     *string         `json:"namespace"`
		InvocationID  string          `json:"invocation_id"`
		Matched       []string        `json:"matched"`
		Status        string          `json:"status"`
		Input         json.RawMessage `json:"input,omitempty"`
		Output        json.RawMessage `json:"output,omitempty"`
		Error         json.RawMessage `json:"error,omitempty"`
		Metadata      json.RawMessage `json:"metadata,omitempty"`
		Caller        *callerInfo     `json:"caller"`
		StartedAtMS   uint64          `json:"started_at_ms"`
		DurationMS    json.RawMessage `json:"duration_ms"`
		Depth         *uint32         `json:"observe_depth"`
		Traceparent   *string         `json:"traceparent"`
		Baggage       *string         `json:"baggage"`
		OutputIsInput *bool           `json:"output_is_input"`
	}
	localStatsMessage struct {
		WindowMS       uint64              `json:"window_ms"`
		Functions      *[]localFunction    `json:"functions"`
		DroppedReports *[]localReportDrops `json:"dropped_reports"`
	}
	localFunction struct {
		FunctionID string  `json:"function_id"`
		Count      uint64  `json:"count"`
		Errors     uint64  `json:"errors,omitempty"`
		DurationMS float64 `json:"duration_ms_sum,omitempty"`
	}
	localReportDrops struct {
		FunctionID string `json:"function_id"`
		Reason     string `json:"reason"`
		Count      uint64 `json:"count"`
	}
	// ignoredMessage represents workerregistered, registrationrejected and pong messages,
	// which the engine ignores.
	ignoredMessage struct{}
	pingMessage    struct{}
)

// readMessage checks that raw is a JSON object with a type. It returns the type and appends
// the object's members to dst.
func readMessage(raw []byte, dst []member) (typ []byte, members []member, err error) {
	members = dst
	plain := rawjson.ScanPlainObject(raw, maxDepth, func(key, value []byte) {
		members = append(members, member{decodedKey(key), value})
	})
	if !plain {
		if err := checkJSON(raw); err != nil {
			return nil, nil, err
		}
		if kindOf(raw) != '{' {
			return nil, nil, errors.New("not an object")
		}
		members = (&scanner{b: raw}).list(dst)
	}
	types := 0
	for _, m := range members {
		if string(m.key) == "type" {
			types++
		}
	}
	value := valueOf(members, "type")
	if types != 1 || kindOf(value) != '"' {
		return nil, nil, errors.New("type is missing")
	}
	return unquoteBytes(value), members, nil
}

// quoted matches quoted values in errors about invalid messages. The values may be secret and
// must not be logged.
var quoted = regexp.MustCompile(`"(\\.|[^"\\])*"`)

// decodeAs decodes a message's members. It returns a *T.
func decodeAs[T any](members []member) (any, error) {
	return decodeMore[T](members, Protocol023, nil)
}

// decodeMore is like decodeAs, but in Protocol025 and later it also decodes the message's
// additional fields. more returns the destination for these fields.
func decodeMore[T any](members []member, p Protocol, more func(m *T) any) (any, error) {
	m := new(T)
	detail := decodeMembers(members, reflect.ValueOf(m).Elem())
	if detail == "" && p >= Protocol025 {
		detail = decodeMembers(members, reflect.ValueOf(more(m)).Elem())
	}
	if detail != "" {
		return nil, errors.New(quoted.ReplaceAllString(detail, `"…"`))
	}
	if c, ok := any(m).(interface{ check() error }); ok {
		if err := c.check(); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// check normalizes the invocation id and the payload. It rejects ids that are not UUIDs, and
// unknown actions.
func (m *invokeFunctionMessage) check() error {
	if m.InvocationID != nil {
		id, err := normalUUID(*m.InvocationID)
		if err != nil {
			return err
		}
		*m.InvocationID = id
	}
	switch {
	case m.Action == nil, m.void(), m.Action.Type == "enqueue" && m.Action.Queue != nil:
	default:
		return errors.New("unknown action")
	}
	m.Data, m.Metadata = canonicalValid(m.Data), optional(m.Metadata)
	return nil
}

// void reports whether the caller expects no reply.
func (m *invokeFunctionMessage) void() bool { return m.Action != nil && m.Action.Type == "void" }

// check decodes and validates the configuration for invoking the function over HTTP, if there
// is one.
func (m *registerFunctionMessage) check() error {
	if m.Invocation == nil {
		return nil
	}
	m.http = new(iii.HTTPInvocationConfig)
	if kindOf(*m.Invocation) != '{' || json.Unmarshal(*m.Invocation, m.http) != nil || !m.http.Method.Valid() {
		return errors.New("invocation cannot be decoded")
	}
	if _, there := (&scanner{b: *m.Invocation}).members()["url"]; !there {
		return errors.New("invocation has no url")
	}
	return nil
}

// normalUUID returns an invocation's id in the canonical UUID format.
func normalUUID(s string) (string, error) {
	if usualUUID(s) {
		return s, nil
	}
	id, err := uuid.Parse(s)
	if err != nil {
		return "", errors.New("invocation_id is not a UUID")
	}
	return id.String(), nil
}

// usualUUID reports whether s is a UUID in canonical format.
func usualUUID(s string) bool {
	if len(s) != len("00000000-0000-0000-0000-000000000000") {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case (c < '0' || c > '9') && (c < 'a' || c > 'f'):
			return false
		}
	}
	return true
}

func (m *invocationResultMessage) check() (err error) {
	if m.InvocationID, err = normalUUID(m.InvocationID); err != nil {
		return err
	}
	m.Result = optional(m.Result)
	_, err = decodeError(m.Error)
	return err
}

// check converts the observed values to canonical JSON.
func (m *invocationsObservedMessage) check() error {
	for i := range m.Items {
		item := &m.Items[i]
		for _, part := range []*json.RawMessage{&item.Input, &item.Output, &item.Error, &item.Metadata} {
			if *part != nil {
				*part = canonicalValid(*part)
			}
		}
		if kindOf(item.DurationMS) != '0' {
			return errors.New("duration_ms is not a number")
		}
	}
	return nil
}

func (m *observeMessage) check() error {
	m.Source.Args, m.Source.Filters, m.Metadata = optional(m.Source.Args), optional(m.Source.Filters), optional(m.Metadata)
	return nil
}

func (m *observerAckMessage) check() error {
	_, err := decodeError(m.Error)
	return err
}

func (m *triggerRegistrationResultMessage) check() error {
	_, err := decodeError(m.Error)
	return err
}

func (m *registerTriggerMessage) check() error {
	m.Config, m.Metadata = canonicalValid(m.Config), optional(m.Metadata)
	return nil
}

// optional returns the canonical form of a value, or nil for null.
func optional(raw json.RawMessage) json.RawMessage {
	if isNull(raw) {
		return nil
	}
	return canonicalValid(raw)
}

// decodeError decodes the error in a message, or returns nil if there is none.
func decodeError(raw json.RawMessage) (*wireError, error) {
	if isNull(raw) {
		return nil, nil
	}
	var body struct {
		Code       string  `json:"code"`
		Message    string  `json:"message"`
		Stacktrace *string `json:"stacktrace"`
	}
	if detail := decodeStrict(raw, &body); detail != "" {
		return nil, errors.New("error: " + detail)
	}
	e := &wireError{Code: body.Code, Message: body.Message}
	if body.Stacktrace != nil {
		e.Stacktrace = *body.Stacktrace
	}
	return e, nil
}

func isNull(raw json.RawMessage) bool {
	k := kindOf(raw)
	return k == 0 || k == 'n'
}

func errorJSON(e *wireError) json.RawMessage {
	return new(object).str("code", e.Code).str("message", e.Message).optStr("stacktrace", e.Stacktrace).bytes()
}
