package iiitest

import (
	"errors"
	"fmt"
	"slices"

	"github.com/iii-go/iii"
)

// Protocol is a worker protocol version that the engine supports.
type Protocol int

const (
	// Protocol023 is the protocol of engines 0.23 and 0.24. It has triggers but no observers,
	// and the engine lists no features.
	Protocol023 Protocol = 23

	// Protocol025 is the protocol of engine 0.25. It adds observers. The engine lists the
	// features observe.v1 and local-dispatch.v1.
	Protocol025 Protocol = 25

	// Protocol026 is the protocol of engine 0.26. The worker that hosts an observed function
	// can select a call's observers or call the observers' targets itself, and the engine's
	// trigger types become functions that can be observed. The engine also lists observe.v2,
	// but never observe.capture. Unlike a real 0.26 engine, the development engine still
	// accepts triggers, so that workers of all versions can share it; see WithStrictProtocol.
	// Protocol026 is the default.
	Protocol026 Protocol = 26
)

// protocols lists the supported versions, oldest first.
var protocols = []struct {
	protocol Protocol
	text     string
	version  string // engine version reported to workers
	features []string
}{
	{Protocol023, "0.23", "0.23.0-rc.4", nil},
	{Protocol025, "0.25", "0.25.0", []string{iii.FeatureObserveV1, iii.FeatureLocalDispatchV1}},
	{Protocol026, "0.26", "0.26.0-rc.4", []string{iii.FeatureObserveV1, iii.FeatureObserveV2, iii.FeatureLocalDispatchV1}},
}

var errProtocol = errors.New("unknown protocol, want 0.23, 0.25 or 0.26")

func (p Protocol) index() int {
	for i := range protocols {
		if protocols[i].protocol == p {
			return i
		}
	}
	return -1
}

// String returns "0.23", "0.25" or "0.26".
func (p Protocol) String() string {
	if i := p.index(); i >= 0 {
		return protocols[i].text
	}
	return fmt.Sprintf("Protocol(%d)", int(p))
}

// MarshalText returns the same text as String. It returns an error if p is not one of the
// constants.
func (p Protocol) MarshalText() ([]byte, error) {
	if p.index() < 0 {
		return nil, errProtocol
	}
	return []byte(p.String()), nil
}

// UnmarshalText parses "0.23", "0.25" or "0.26", and can be used with flag.TextVar. It rejects
// any other text.
func (p *Protocol) UnmarshalText(text []byte) error {
	for _, known := range protocols {
		if known.text == string(text) {
			*p = known.protocol
			return nil
		}
	}
	return errProtocol
}

func (p Protocol) features() []string { return slices.Clone(protocols[p.index()].features) }

// WithProtocol sets the worker protocol version for new connections. SetProtocol can change it
// later. The default is Protocol026.
func WithProtocol(p Protocol) Option {
	return func(c *config) error {
		if p.index() < 0 {
			return fmt.Errorf("iiitest: WithProtocol: %w", errProtocol)
		}
		c.protocol = p
		return nil
	}
}

// WithStrictProtocol makes Protocol026 treat triggers as a real 0.26 engine does: the engine
// ignores messages about triggers and trigger types, and hides the functions that no longer
// exist in engine 0.26. By default, the engine accepts triggers.
func WithStrictProtocol() Option {
	return func(c *config) error {
		c.strict = true
		return nil
	}
}

// WithLocalDispatch sets whether workers with the feature local-dispatch.v1 may run calls to
// their own functions in process. The engine reports the setting to them in the local_dispatch
// member of functionregistered messages. SetLocalDispatch can change the setting later. The
// default is true.
func WithLocalDispatch(on bool) Option {
	return func(c *config) error {
		c.localDispatch = on
		return nil
	}
}

// SetProtocol sets the worker protocol version for new connections. Existing connections keep
// their version; use Drop to make workers reconnect. SetProtocol returns an error if p is not
// one of the Protocol constants.
func (e *Engine) SetProtocol(p Protocol) error {
	if p.index() < 0 {
		return fmt.Errorf("iiitest: SetProtocol: %w", errProtocol)
	}
	e.protocol.Store(int32(p))
	return nil
}

// Protocol returns the worker protocol version for new connections.
func (e *Engine) Protocol() Protocol { return Protocol(e.protocol.Load()) }

// version returns the engine version reported to new connections.
func (e *Engine) version() string { return protocols[e.Protocol().index()].version }
