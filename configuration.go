package iii

import (
	"context"
	"encoding/json"
	"errors"
)

// Configuration is the engine's configuration store: JSON values by id, each
// with a JSON Schema that it satisfies. It is made by [Client.Configuration];
// the zero value is of no use. All methods may be called from several goroutines
// at once. Changes fire the trigger of [ConfigurationTriggerConfig]. Errors are
// those of [Client.Call], and an [*Error] with the engine's code: INVALID_ID,
// SCHEMA_INVALID for a value or a schema that is refused, NOT_REGISTERED and
// NOT_FOUND for an unknown entry.
type Configuration struct{ client *Client }

// Configuration gives access to the engine's configuration store. It does no I/O.
func (c *Client) Configuration() *Configuration { return &Configuration{client: c} }

// Register makes an entry known, or describes it anew: then its value stays.
func (c *Configuration) Register(ctx context.Context, entry ConfigurationRegisterInput) (ConfigurationEntry, error) {
	return Call[ConfigurationEntry](ctx, c.client, "configuration::register", entry)
}

// Get decodes the value of an entry into value, a pointer, which is checked as the
// out of [Client.Call] is and must not be nil; null leaves it as encoding/json does. References such as ${NAME:default} to environment variables
// of the engine are replaced; call configuration::get with a
// [ConfigurationGetInput] for the raw value.
func (c *Configuration) Get(ctx context.Context, id string, value any) error {
	const functionID = "configuration::get"
	err := errors.New("nil in place of a pointer to decode into")
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

// Set replaces the value of an entry, which must be registered.
func (c *Configuration) Set(ctx context.Context, id string, value any) (ConfigurationSetResult, error) {
	const functionID = "configuration::set"
	raw, err := rawOf(value)
	if err != nil {
		return ConfigurationSetResult{}, notEncodable(functionID, err)
	}
	return Call[ConfigurationSetResult](ctx, c.client, functionID, ConfigurationSetInput{ID: id, Value: raw})
}

// List lists the entries, without their values.
func (c *Configuration) List(ctx context.Context) ([]ConfigurationSchema, error) {
	result, err := Call[ConfigurationListResult](ctx, c.client, "configuration::list", EmptyInput{})
	return result.Configurations, err
}

// Schema describes one entry, without its value.
func (c *Configuration) Schema(ctx context.Context, id string) (ConfigurationSchema, error) {
	return Call[ConfigurationSchema](ctx, c.client, "configuration::schema", ConfigurationSchemaInput{ID: id})
}

func orNull(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return json.RawMessage("null")
	}
	return raw
}
