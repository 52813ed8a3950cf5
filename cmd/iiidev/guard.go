package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/iii-go/iii/iiitest"
)

// guardConfig is the -guard config. It uses the same keys as the engine's configuration.
type guardConfig struct {
	Host       string      `json:"host"`
	Port       uint16      `json:"port"`
	Middleware string      `json:"middleware_function_id"`
	RBAC       *rbacConfig `json:"rbac"`
}

type rbacConfig struct {
	Auth          string         `json:"auth_function_id"`
	OnFunction    string         `json:"on_function_registration_function_id"`
	OnTrigger     string         `json:"on_trigger_registration_function_id"`
	OnTriggerType string         `json:"on_trigger_type_registration_function_id"`
	OnObserver    string         `json:"on_observer_registration_function_id"`
	Expose        []exposeConfig `json:"expose_functions"`
}

// exposeConfig is encoded as a string of the form match("pattern"), or as an object with the
// key match or metadata and, optionally, namespace.
type exposeConfig struct{ iiitest.ExposeFilter }

func (x *exposeConfig) UnmarshalJSON(b []byte) error {
	if json.Unmarshal(b, &x.Match) == nil {
		return nil
	}
	var filter struct {
		Namespace string         `json:"namespace"`
		Match     string         `json:"match"`
		Metadata  map[string]any `json:"metadata"`
	}
	if err := decodeStrictly(string(b), &filter); err != nil {
		return err
	}
	x.ExposeFilter = iiitest.ExposeFilter(filter)
	return nil
}

// guardOption returns the option for a -guard config.
func guardOption(config string) (iiitest.Option, error) {
	c := guardConfig{Host: "127.0.0.1", Port: 49135}
	if err := decodeStrictly(config, &c); err != nil {
		return nil, fmt.Errorf("config of the guarded listener: %w", err)
	}
	g := iiitest.Guard{
		Addr:                 net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))),
		MiddlewareFunctionID: c.Middleware,
		ExposeAll:            c.RBAC == nil,
	}
	if c.RBAC != nil {
		g.AuthFunctionID, g.OnFunction = c.RBAC.Auth, c.RBAC.OnFunction
		g.OnTrigger, g.OnTriggerType, g.OnObserver = c.RBAC.OnTrigger, c.RBAC.OnTriggerType, c.RBAC.OnObserver
		for _, x := range c.RBAC.Expose {
			g.ExposeFilters = append(g.ExposeFilters, x.ExposeFilter)
		}
	}
	return iiitest.WithGuard(g), nil
}

// decodeStrictly decodes one JSON value. It rejects unknown keys, which are probably typos.
func decodeStrictly(text string, into any) error {
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	switch err := d.Decode(into); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("unexpected end of JSON")
	case err != nil:
		return err
	}
	if d.More() {
		return errors.New("more than one value")
	}
	return nil
}
