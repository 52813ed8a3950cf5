package iii

import (
	"cmp"
	"encoding/json"
	"errors"
)

// UnmarshalJSON implements json.Unmarshaler. An absent or empty http_method is GET;
// null is an error for it.
func (c *HTTPTriggerConfig) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	type plain HTTPTriggerConfig
	var p struct {
		plain
		HTTPMethod defaulted[string] `json:"http_method"`
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	if err := p.HTTPMethod.to(&p.plain.HTTPMethod, "http_method"); err != nil {
		return err
	}
	*c = HTTPTriggerConfig(p.plain)
	c.HTTPMethod = cmp.Or(c.HTTPMethod, "GET")
	return nil
}

// UnmarshalJSON implements json.Unmarshaler. An absent or empty level is LogLevelAll;
// null is an error for it.
func (c *LogTriggerConfig) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	var p struct {
		Level defaulted[LogLevel] `json:"level"`
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	var config LogTriggerConfig
	if err := p.Level.to(&config.Level, "level"); err != nil {
		return err
	}
	config.Level = cmp.Or(config.Level, LogLevelAll)
	*c = config
	return nil
}

// UnmarshalJSON implements json.Unmarshaler. Null is an error for raw.
func (i *ConfigurationGetInput) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	type plain ConfigurationGetInput
	var p struct {
		plain
		Raw defaulted[bool] `json:"raw"`
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	if err := p.Raw.to(&p.plain.Raw, "raw"); err != nil {
		return err
	}
	*i = ConfigurationGetInput(p.plain)
	return nil
}

// UnmarshalJSON implements json.Unmarshaler. An absent limit stays nil, which means
// 50; null is an error for it and for offset.
func (i *DeadLettersInput) UnmarshalJSON(b []byte) error {
	if isNull(b) {
		return nil
	}
	type plain DeadLettersInput
	var p struct {
		plain
		Offset defaulted[uint64]  `json:"offset"`
		Limit  defaulted[*uint64] `json:"limit"`
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	if err := errors.Join(
		p.Offset.to(&p.plain.Offset, "offset"),
		p.Limit.to(&p.plain.Limit, "limit"),
	); err != nil {
		return err
	}
	*i = DeadLettersInput(p.plain)
	return nil
}
