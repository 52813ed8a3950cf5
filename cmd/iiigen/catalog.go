package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/iii-go/iii"
)

// catalogVersion is the version of the catalog file format.
const catalogVersion = 1

// catalog describes an engine's functions and trigger types.
type catalog struct {
	Version      int           `json:"version"`
	Functions    []function    `json:"functions"`
	TriggerTypes []triggerType `json:"trigger_types"`

	noObservers bool // the engine lacks observer support, so it does not report Observable and Args
}

// function describes a function as the engine lists it.
type function struct {
	ID          string          `json:"id"`
	Namespace   string          `json:"namespace,omitempty"`
	Worker      string          `json:"worker,omitempty"`
	Description string          `json:"description,omitempty"`
	Metadata    json.RawMessage `json:"metadata,omitempty"`
	Request     json.RawMessage `json:"request_schema,omitempty"`
	Response    json.RawMessage `json:"response_schema,omitempty"`
	Args        json.RawMessage `json:"args_schema,omitempty"` // schema of observer arguments
	Private     bool            `json:"private,omitempty"`     // can be observed but not called
	Observable  bool            `json:"observable,omitempty"`
}

// triggerType describes a trigger type as the engine lists it.
type triggerType struct {
	ID          string          `json:"id"`
	Namespace   string          `json:"namespace,omitempty"`
	Worker      string          `json:"worker,omitempty"`
	Description string          `json:"description,omitempty"`
	Config      json.RawMessage `json:"config_schema,omitempty"`
	Payload     json.RawMessage `json:"payload_schema,omitempty"`
}

// loadCatalog reads a saved catalog.
func loadCatalog(name string) (*catalog, error) {
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	c, err := parseCatalog(raw)
	if err != nil {
		return nil, fmt.Errorf("catalog %s: %w", name, err)
	}
	return c, nil
}

func parseCatalog(raw []byte) (*catalog, error) {
	var c catalog
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, err
	}
	if c.Version != catalogVersion {
		return nil, fmt.Errorf("version %d is not supported; want %d", c.Version, catalogVersion)
	}
	for _, f := range c.Functions {
		if strings.TrimSpace(f.ID) == "" {
			return nil, errors.New("a function has a blank id")
		}
	}
	for _, t := range c.TriggerTypes {
		if strings.TrimSpace(t.ID) == "" {
			return nil, errors.New("a trigger type has a blank id")
		}
	}
	c.normalize()
	return &c, nil
}

// encode returns the catalog in its file format. Functions, trigger types and schema keys are
// sorted, so equal catalogs produce equal files.
func (c *catalog) encode() ([]byte, error) {
	c.normalize()
	raw, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var doc any
	if err := d.Decode(&doc); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err = e.Encode(doc)
	return b.Bytes(), err
}

func (c *catalog) normalize() {
	c.Version = catalogVersion
	c.Functions = append([]function{}, c.Functions...)
	c.TriggerTypes = append([]triggerType{}, c.TriggerTypes...)
	slices.SortFunc(c.Functions, func(a, b function) int {
		return cmp.Or(strings.Compare(a.ID, b.ID), strings.Compare(a.Namespace, b.Namespace))
	})
	slices.SortFunc(c.TriggerTypes, func(a, b triggerType) int {
		return cmp.Or(strings.Compare(a.ID, b.ID), strings.Compare(a.Namespace, b.Namespace))
	})
	for i := range c.Functions {
		f := &c.Functions[i]
		f.Metadata, f.Request, f.Response, f.Args = present(f.Metadata), present(f.Request), present(f.Response), present(f.Args)
	}
	for i := range c.TriggerTypes {
		t := &c.TriggerTypes[i]
		t.Config, t.Payload = present(t.Config), present(t.Payload)
	}
	c.replaceDefaultNames()
}

// defaultName matches default worker names: the host name and the process id, sometimes
// followed by a number.
var defaultName = regexp.MustCompile(`^.+:[0-9]+(:[0-9]+)?$`)

// anonymous is the prefix of names assigned by replaceDefaultNames.
const anonymous = "#"

// replaceDefaultNames replaces default worker names, which change whenever a worker restarts.
// All of a worker's functions and trigger types get the same replacement.
func (c *catalog) replaceDefaultNames() {
	names := make(map[string]string)
	replace := func(worker *string, id string) {
		if !defaultName.MatchString(*worker) || strings.HasPrefix(*worker, anonymous) {
			return
		}
		if names[*worker] == "" {
			names[*worker] = anonymous + id
		}
		*worker = names[*worker]
	}
	for i := range c.Functions {
		replace(&c.Functions[i].Worker, c.Functions[i].ID)
	}
	for i := range c.TriggerTypes {
		replace(&c.TriggerTypes[i].Worker, c.TriggerTypes[i].ID)
	}
}

// keepObservers copies the observer properties of functions from an earlier catalog, for use
// with an engine that does not report them.
func (c *catalog) keepObservers(before *catalog) {
	for i := range c.Functions {
		f := &c.Functions[i]
		at := slices.IndexFunc(before.Functions, func(b function) bool { return b.ID == f.ID && b.Namespace == f.Namespace })
		if at >= 0 && before.Functions[at].Observable {
			f.Observable, f.Args = true, before.Functions[at].Args
		}
	}
}

// present returns raw without surrounding white space, or nil if it is empty or null.
func present(raw json.RawMessage) json.RawMessage {
	if raw = bytes.TrimSpace(raw); len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	return raw
}

// selection selects part of a catalog.
type selection struct {
	functions []string // patterns
	triggers  []string // patterns; may be empty, see selectFrom
	namespace string
	lenient   bool // function patterns need not match anything
}

// pattern compiles a pattern in which * matches any characters.
func pattern(p string) *regexp.Regexp {
	parts := strings.Split(p, "*")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile(`^(?s:` + strings.Join(parts, ".*") + `)$`)
}

func matchesAny(patterns []string, id string) bool {
	for _, p := range patterns {
		if pattern(p).MatchString(id) {
			return true
		}
	}
	return false
}

// engineOwned reports whether id is reserved for the engine's own functions.
func engineOwned(id string) bool { return strings.HasPrefix(id, "engine::") }

// internal reports whether the engine lists the function only on request.
func (f function) internal() bool {
	var meta struct {
		Internal bool `json:"internal"`
	}
	_ = json.Unmarshal(f.Metadata, &meta) // ignore metadata of any other form
	return engineOwned(f.ID) || meta.Internal
}

// named reports whether id matches a pattern that does not begin with *.
func named(patterns []string, id string) bool {
	for _, p := range patterns {
		if prefix, _, _ := strings.Cut(p, "*"); prefix != "" && pattern(p).MatchString(id) {
			return true
		}
	}
	return false
}

// builtinTriggers lists the trigger types whose config types are in package iii.
var builtinTriggers = []string{"http", "cron", "durable:subscriber", "subscribe", "state", "stream", "stream:join", "stream:leave", "log", "trace", "configuration"}

// selectFrom returns the selected part of c. Without trigger patterns, it selects the trigger
// types that match the function patterns and those that the selected functions' workers
// provide. It omits functions that other workers can neither call nor observe. If a function
// id exists in several namespaces, selectFrom selects the function in "default" or, if there
// is none, returns an error.
func (s selection) selectFrom(c *catalog) (*catalog, error) {
	patterns := s.functions
	if len(patterns) == 0 {
		patterns = []string{"*"}
	}
	triggers := s.triggers
	if len(triggers) == 0 {
		triggers = patterns
	}
	picked := &catalog{}
	at := make(map[string]int)
	pick := func(f function) error {
		if s.namespace != "" && f.Namespace != s.namespace || f.Private && !f.Observable {
			return nil
		}
		i, twice := at[f.ID]
		switch {
		case !twice:
			at[f.ID] = len(picked.Functions)
			picked.Functions = append(picked.Functions, f)
		case f.Namespace == defaultNamespace:
			picked.Functions[i] = f
		case picked.Functions[i].Namespace != defaultNamespace:
			return fmt.Errorf("function %q exists in the namespaces %q and %q; select one with -namespace", f.ID, picked.Functions[i].Namespace, f.Namespace)
		}
		return nil
	}
	matches := func(patterns []string, f function) bool {
		return matchesAny(patterns, f.ID) && (!f.internal() || named(patterns, f.ID))
	}
	for _, f := range c.Functions {
		if matches(patterns, f) {
			if err := pick(f); err != nil {
				return nil, err
			}
		}
	}
	workers := make(map[string]bool)
	for _, f := range picked.Functions {
		workers[f.Worker] = f.Worker != "" && !engineOwned(f.ID)
	}
	for _, f := range c.Functions { // on engine 0.26, private functions replace trigger types
		if f.Private && !matches(patterns, f) && (matches(s.triggers, f) || len(s.triggers) == 0 && workers[f.Worker] && !f.internal()) {
			if err := pick(f); err != nil {
				return nil, err
			}
		}
	}
	atTrigger := make(map[string]int)
	for _, t := range c.TriggerTypes {
		wanted := named(triggers, t.ID) || matchesAny(triggers, t.ID) && !engineOwned(t.ID) && !slices.Contains(builtinTriggers, t.ID) || len(s.triggers) == 0 && workers[t.Worker] && !engineOwned(t.ID)
		if s.namespace != "" && t.Namespace != s.namespace || !wanted {
			continue
		}
		i, twice := atTrigger[t.ID]
		switch {
		case !twice:
			atTrigger[t.ID] = len(picked.TriggerTypes)
			picked.TriggerTypes = append(picked.TriggerTypes, t)
		case t.Namespace == defaultNamespace:
			picked.TriggerTypes[i] = t
		case picked.TriggerTypes[i].Namespace != defaultNamespace:
			return nil, fmt.Errorf("trigger type %q exists in the namespaces %q and %q; select one with -namespace", t.ID, picked.TriggerTypes[i].Namespace, t.Namespace)
		}
	}
	for _, p := range patterns {
		matches := func(id string) bool { return pattern(p).MatchString(id) }
		if !s.lenient && !slices.ContainsFunc(picked.Functions, func(f function) bool { return matches(f.ID) }) &&
			!slices.ContainsFunc(picked.TriggerTypes, func(t triggerType) bool { return matches(t.ID) }) {
			return nil, fmt.Errorf("no function or trigger type matches %q", p)
		}
	}
	return picked, nil
}

const defaultNamespace = "default"

// infoBatch is the maximum number of functions whose schemas are requested at once.
const infoBatch = 32

// readEngine reads the selected part of the engine's catalog.
func readEngine(ctx context.Context, c *iii.Client, s selection) (*catalog, error) {
	listed, err := iii.Call[iii.FunctionsListResult](ctx, c, "engine::functions::list", iii.FunctionFilter{IncludeInternal: true})
	if err != nil {
		return nil, fmt.Errorf("list functions: %w", err)
	}
	all := &catalog{}
	for _, f := range listed.Functions {
		all.Functions = append(all.Functions, function{ID: f.FunctionID, Namespace: f.Namespace, Worker: f.WorkerName, Description: deref(f.Description), Metadata: f.Metadata,
			Private: deref(f.Private), Observable: deref(f.Observable)})
	}
	types, err := iii.Call[iii.TriggerTypesListResult](ctx, c, "engine::triggers::list", iii.TriggerTypeFilter{IncludeInternal: true})
	var unknown *iii.Error
	switch {
	case errors.As(err, &unknown) && errors.Is(err, iii.ErrFunctionNotFound): // engine 0.26 has no trigger types
	case err != nil:
		return nil, fmt.Errorf("list trigger types: %w", err)
	}
	for _, t := range types.Triggers {
		all.TriggerTypes = append(all.TriggerTypes, triggerType{ID: t.ID, Namespace: t.Namespace, Worker: t.WorkerName, Description: t.Description})
	}
	picked, err := s.selectFrom(all)
	if err != nil {
		return nil, err
	}
	if err := describe(ctx, c, picked.Functions); err != nil {
		return nil, err
	}
	for i := range picked.TriggerTypes {
		t := &picked.TriggerTypes[i]
		detail, err := iii.Call[iii.TriggerTypeDetail](ctx, c, "engine::triggers::info", iii.TriggerTypeInfoInput{ID: t.ID, Namespace: t.Namespace})
		if err != nil {
			return nil, fmt.Errorf("trigger type %q: %w", t.ID, err)
		}
		t.Config, t.Payload = detail.ConfigurationSchema, detail.RequestSchema
	}
	picked.normalize()
	picked.noObservers = !slices.ContainsFunc(c.Features(), func(f string) bool {
		return f == iii.FeatureObserveV1 || f == iii.FeatureObserveV2 // includes observe.v1
	})
	return picked, nil
}

// describe fills in the schemas and metadata of functions, in batches of infoBatch.
func describe(ctx context.Context, c *iii.Client, functions []function) error {
	byNamespace := make(map[string][]string)
	for _, f := range functions {
		byNamespace[f.Namespace] = append(byNamespace[f.Namespace], f.ID)
	}
	type place struct{ namespace, id string }
	details := make(map[place]iii.FunctionInfoEntry)
	for ns, all := range byNamespace {
		for ids := range slices.Chunk(all, infoBatch) {
			batch, err := iii.Call[iii.FunctionInfoBatch](ctx, c, "engine::functions::info", iii.FunctionInfoInput{FunctionIDs: ids, Namespace: ns})
			if err != nil {
				return fmt.Errorf("schemas of the functions %q: %w", ids, err)
			}
			for i, entry := range batch.Functions {
				if i < len(ids) {
					details[place{ns, ids[i]}] = entry
				}
			}
		}
	}
	for i := range functions {
		f := &functions[i]
		entry := details[place{f.Namespace, f.ID}]
		switch {
		case entry.Error != nil:
			return fmt.Errorf("function %q: the engine reports %q", f.ID, entry.Error.Error)
		case entry.Detail == nil || entry.Detail.FunctionID != f.ID:
			return fmt.Errorf("function %q: the engine returned no description", f.ID)
		}
		f.Request, f.Response, f.Metadata = entry.Detail.RequestSchema, entry.Detail.ResponseSchema, entry.Detail.Metadata
		f.Args, f.Private, f.Observable = entry.Detail.ArgsFormat, deref(entry.Detail.Private), deref(entry.Detail.Observable)
		f.Description = deref(entry.Detail.Description)
	}
	return nil
}

// deref returns *p, or the zero value if p is nil.
func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
