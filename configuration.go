package iii

import (
	"context"
	"encoding/json"
	"errors"
)

// Configuration provides access to the engine's configuration store. The store holds JSON
// values, identified by id, and validates each value against a JSON Schema. A trigger with a
// [ConfigurationTriggerConfig] runs a function when a value changes.
//
// The zero value is not usable; use [Client.Configuration]. All methods are safe for
// concurrent use and return the same errors as [Client.Call]. The engine's [*Error] codes
// include INVALID_ID, SCHEMA_INVALID for a rejected value or schema, and NOT_REGISTERED or
// NOT_FOUND for an unknown entry.
type Configuration struct{ client *Client }

// Configuration returns the engine's configuration store. It performs no I/O.
func (c *Client) Configuration() *Configuration { return &Configuration{client: c} }

// Register registers an entry. If the entry already exists, Register replaces its description
// and its schema. It keeps the value if entry.InitialValue is nil, and otherwise replaces it.
// To set a value only if there is none, register the entry without a value, then call Set if
// the returned Value is null. Registering an existing entry fires triggers with
// [ConfigurationEventTypeUpdated].
func (c *Configuration) Register(ctx context.Context, entry ConfigurationRegisterInput) (ConfigurationEntry, error) {
	return Call[ConfigurationEntry](ctx, c.client, "configuration::register", entry)
}

// Get decodes an entry's value into value, which must be a non-nil pointer of a type that
// [Client.Call] accepts as out. A stored null is decoded as in encoding/json. An entry that
// was registered without an initial value is null. If its schema does not allow null, Get
// returns an error with the code SCHEMA_INVALID until a value is set. The engine expands
// references to its environment variables, such as ${NAME:default}. To get the unexpanded
// value, call configuration::get with [ConfigurationGetInput].Raw set.
func (c *Configuration) Get(ctx context.Context, id string, value any) error {
	const functionID = "configuration::get"
	err := errors.New("value is nil, want a pointer to decode into")
	if value != nil {
		err = checkOut(value)
	}
	if err != nil {
		return &callError{verb: "call", functionID: functionID, err: err}
	}
	result, err := Call[ConfigurationGetResult](ctx, c.client, functionID, ConfigurationGetInput{ID: id})
	if err != nil {
		return err
	}
	if err := json.Unmarshal(orNull(result.Value), value); err != nil {
		return notDecodable(functionID, "value", err)
	}
	return nil
}

// Set replaces a registered entry's value.
func (c *Configuration) Set(ctx context.Context, id string, value any) (ConfigurationSetResult, error) {
	const functionID = "configuration::set"
	raw, err := rawOf(value)
	if err != nil {
		return ConfigurationSetResult{}, notEncodable(functionID, err)
	}
	return Call[ConfigurationSetResult](ctx, c.client, functionID, ConfigurationSetInput{ID: id, Value: raw})
}

// List returns the descriptions of all entries, without their values.
func (c *Configuration) List(ctx context.Context) ([]ConfigurationSchema, error) {
	result, err := Call[ConfigurationListResult](ctx, c.client, "configuration::list", EmptyInput{})
	return result.Configurations, err
}

// Schema returns the description of one entry, without its value.
func (c *Configuration) Schema(ctx context.Context, id string) (ConfigurationSchema, error) {
	return Call[ConfigurationSchema](ctx, c.client, "configuration::schema", ConfigurationSchemaInput{ID: id})
}

func orNull(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return json.RawMessage("null")
	}
	return raw
}
