package iiitest

import (
	_ "embed"
	"encoding/json"
	"sync"
)

// published/0.23.json contains the descriptions, metadata and JSON Schemas of functions and
// trigger types, as recorded from a real engine.
//
//go:embed published/0.23.json
var publishedJSON []byte

type publishedFunction struct {
	Description    *string         `json:"description"`
	Metadata       json.RawMessage `json:"metadata"`
	RequestSchema  json.RawMessage `json:"request_schema"`
	ResponseSchema json.RawMessage `json:"response_schema"`
}

type publishedTriggerType struct {
	ConfigurationSchema json.RawMessage `json:"configuration_schema"`
	RequestSchema       json.RawMessage `json:"request_schema"`
	ResponseSchema      json.RawMessage `json:"response_schema"`
}

var published = sync.OnceValue(func() (p struct {
	Functions    map[string]publishedFunction    `json:"functions"`
	TriggerTypes map[string]publishedTriggerType `json:"trigger_types"`
}) {
	if err := json.Unmarshal(publishedJSON, &p); err != nil {
		panic("iiitest: published/0.23.json: " + err.Error())
	}
	return p
})
