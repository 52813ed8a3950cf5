package iiitest

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"

	"github.com/google/uuid"

	"github.com/iii-go/iii"
)

// The messages of a worker, with the fields that the engine reads. Those that
// must be there follow the rules of decodeInput; null and absent mean the same
// for the others.
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

		http *iii.HTTPInvocationConfig // Invocation, decoded
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
		Traceparent  *string         `json:"traceparent"` // of these only the type matters
		Baggage      *string         `json:"baggage"`
	}
	registerServiceMessage struct {
		ID              string  `json:"id"`
		Name            string  `json:"name,omitempty"`
		Description     *string `json:"description"`
		ParentServiceID *string `json:"parent_service_id"`
	}
	// workerRegistered, registrationRejected, ping and pong carry nothing that
	// the engine reads from a worker.
	ignoredMessage struct{}
	pingMessage    struct{}
)

// decodeMessage decodes a message of a worker. An error means that the engine
// drops it without a word.
func decodeMessage(raw []byte) (any, error) {
	if err := checkJSON(raw); err != nil {
		return nil, err
	}
	if kindOf(raw) != '{' {
		return nil, errors.New("no object")
	}
	members, twice := (&scanner{b: raw}).membersOf(func(key string) bool { return key == "type" })
	typ := members["type"]
	if twice != "" || kindOf(typ) != '"' {
		return nil, errors.New("no type")
	}
	switch unquote(typ) {
	case "reattach":
		return decodeAs[reattachMessage](raw)
	case "registerfunction":
		return decodeAs[registerFunctionMessage](raw)
	case "unregisterfunction":
		return decodeAs[unregisterFunctionMessage](raw)
	case "registertriggertype":
		return decodeAs[registerTriggerTypeMessage](raw)
	case "registertrigger":
		return decodeAs[registerTriggerMessage](raw)
	case "unregistertrigger":
		return decodeAs[unregisterTriggerMessage](raw)
	case "triggerregistrationresult":
		return decodeAs[triggerRegistrationResultMessage](raw)
	case "invokefunction":
		return decodeAs[invokeFunctionMessage](raw)
	case "invocationresult":
		return decodeAs[invocationResultMessage](raw)
	case "registerservice":
		return decodeAs[registerServiceMessage](raw)
	case "ping":
		return pingMessage{}, nil
	case "pong", "workerregistered", "registrationrejected":
		return ignoredMessage{}, nil
	default:
		return nil, fmt.Errorf("unknown type %s", typ)
	}
}

// quoted finds the values in a text about a wrong message: they may be secret,
// and the text goes to the log.
var quoted = regexp.MustCompile(`"(\\.|[^"\\])*"`)

func decodeAs[T any](raw []byte) (any, error) {
	var m T
	if detail := decodeStrict(raw, &m); detail != "" {
		return nil, errors.New(quoted.ReplaceAllString(detail, `"…"`))
	}
	if c, ok := any(&m).(interface{ check() error }); ok {
		if err := c.check(); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// check refuses an id that is no UUID and an unknown action, and brings the id
// into its usual form.
func (m *invokeFunctionMessage) check() error {
	if m.InvocationID != nil {
		id, err := uuid.Parse(*m.InvocationID)
		if err != nil {
			return errors.New("invocation_id is no UUID")
		}
		*m.InvocationID = id.String()
	}
	switch {
	case m.Action == nil, m.void(), m.Action.Type == "enqueue" && m.Action.Queue != nil:
	default:
		return errors.New("unknown action")
	}
	m.Data, m.Metadata = canonicalValid(m.Data), optional(m.Metadata)
	return nil
}

// void reports whether the caller wants no answer.
func (m *invokeFunctionMessage) void() bool { return m.Action != nil && m.Action.Type == "void" }

// check decodes how a function is to be called over HTTP.
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

func (m *invocationResultMessage) check() error {
	id, err := uuid.Parse(m.InvocationID)
	if err != nil {
		return errors.New("invocation_id is no UUID")
	}
	m.InvocationID = id.String()
	m.Result = optional(m.Result)
	_, err = decodeError(m.Error)
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

// optional is the canonical form of a value for which null means absent.
func optional(raw json.RawMessage) json.RawMessage {
	if isNull(raw) {
		return nil
	}
	return canonicalValid(raw)
}

// decodeError decodes the error of a message; nil for an absent one.
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

// isNull reports whether raw is absent or null.
func isNull(raw json.RawMessage) bool {
	k := kindOf(raw)
	return k == 0 || k == 'n'
}

func errorJSON(e *wireError) json.RawMessage {
	return new(object).str("code", e.Code).str("message", e.Message).optStr("stacktrace", e.Stacktrace).bytes()
}
