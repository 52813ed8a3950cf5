package iiitest

import (
	"errors"
	"fmt"
	"slices"

	"github.com/iii-go/iii"
)

// Protocol is a generation of the worker protocol that the engine can speak.
type Protocol int

const (
	// Protocol023 is the protocol of engines 0.23 and 0.24, which have triggers but no
	// observers. The engine lists no features.
	Protocol023 Protocol = 23

	// Protocol025 is the protocol of engine 0.25, which has observers in addition to triggers.
	// The engine lists observe.v1 and local-dispatch.v1.
	Protocol025 Protocol = 25

	// Protocol026 is the protocol of engine 0.26: the host of an observed function runs
	// hooks, and the sources of the former triggers are observable functions. The
	// engine also lists observe.v2, but never observe.capture. Unlike a real engine
	// 0.26 it still accepts triggers, so workers of all generations can share it; see
	// WithStrictProtocol. It is the default.
	Protocol026 Protocol = 26
)

// protocols lists the generations, oldest first.
var protocols = []struct {
	protocol Protocol
	text     string
	version  string // engine version that it represents
	features []string
}{
	{Protocol023, "0.23", "0.23.0-rc.4", nil},
	{Protocol025, "0.25", "0.25.0", []string{iii.FeatureObserveV1, iii.FeatureLocalDispatchV1}},
	{Protocol026, "0.26", "0.26.0-rc.4", []string{iii.FeatureObserveV1, iii.FeatureObserveV2, iii.FeatureLocalDispatchV1}},
}

var errProtocol = errors.New("unknown protocol, want 0.23, 0.25 or 0.26")

// index returns the position of p in protocols, or -1.
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

// MarshalText returns the text of String. It returns an error if p is not a constant of
// this package.
func (p Protocol) MarshalText() ([]byte, error) {
	if p.index() < 0 {
		return nil, errProtocol
	}
	return []byte(p.String()), nil
}

// UnmarshalText parses the text of String, so flag.TextVar can set a Protocol. It
// rejects every other text.
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

// WithProtocol sets the generation of the worker protocol for new connections, until
// SetProtocol changes it. The default is Protocol026.
func WithProtocol(p Protocol) Option {
	return func(c *config) error {
		if p.index() < 0 {
			return fmt.Errorf("iiitest: WithProtocol: %w", errProtocol)
		}
		c.protocol = p
		return nil
	}
}

// WithStrictProtocol makes Protocol026 ignore the messages of triggers and trigger
// types, as an engine 0.26 does, and hide the functions that such an engine no longer
// has. By default the engine accepts triggers.
func WithStrictProtocol() Option {
	return func(c *config) error {
		c.strict = true
		return nil
	}
}

// WithLocalDispatch sets whether workers that list local-dispatch.v1 may run calls of
// their own functions in process (local_dispatch in functionregistered). The default is
// true. See Engine.SetLocalDispatch.
func WithLocalDispatch(on bool) Option {
	return func(c *config) error {
		c.localDispatch = on
		return nil
	}
}

// SetProtocol sets the generation of the worker protocol for new connections; existing
// connections keep theirs. Together with Drop it upgrades or downgrades the engine
// under its workers. It returns an error if p is not a constant of this package.
func (e *Engine) SetProtocol(p Protocol) error {
	if p.index() < 0 {
		return fmt.Errorf("iiitest: SetProtocol: %w", errProtocol)
	}
	e.protocol.Store(int32(p))
	return nil
}

// Protocol returns the generation for new connections.
func (e *Engine) Protocol() Protocol { return Protocol(e.protocol.Load()) }

// version returns the version of the engine that new connections see.
func (e *Engine) version() string { return protocols[e.Protocol().index()].version }
