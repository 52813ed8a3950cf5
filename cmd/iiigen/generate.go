package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/iii-go/iii"
)

// generation is the state of one run of the generator, which writes one output.
type generation struct {
	pkg         string
	byWorker    bool
	catalog     *catalog
	groups      []*group
	roots       []*decl
	definitions []*decl        // declarations without a parent, in order of creation
	shared      map[string]use // types of definitions, keyed by builder.closure
	notes       []note
	names       scope
	helpers     map[string]bool
}

// note explains why a schema, or a part of one, became json.RawMessage.
type note struct{ about, at, why string }

func (n note) String() string {
	at := n.at
	if at == "" {
		at = "/"
	}
	return fmt.Sprintf("%s: %s: %s", n.about, at, n.why)
}

func (g *generation) note(about, at, why string) {
	g.notes = append(g.notes, note{about, at, why})
}

// group is the content of one generated file: a client for the functions and trigger types
// that share an id prefix or a worker.
type group struct {
	key      string
	client   string
	schemas  string // variable with the hashes of the schemas
	file     string
	methods  []*method
	triggers []*trigger
	decls    []*decl
	taken    scope // method and field names of the client
}

type method struct {
	function *function
	name     string
	send     string
	enqueue  string
	source   string // source, observe and on are "" if the function cannot be observed
	observe  string
	on       string
	observed string // name of the type that observer targets receive
	in, out  root
	args     root
	codes    []code
	hashes   iii.FunctionSchemas
}

type trigger struct {
	of              *triggerType
	base            string // name from which the names of its types and methods are derived
	add, handle     string
	config, payload root
}

// root is the Go type generated for a root schema.
type root struct {
	use  use
	decl *decl // nil if there is no schema
}

type code struct{ name, value, doc string }

// groupOf returns the key of the group to which a function or trigger type belongs: its id
// prefix or, if byWorker is set or the id has no prefix, the worker's name.
func (g *generation) groupOf(id, worker string) string {
	if strings.HasPrefix(worker, anonymous) {
		worker = ""
	}
	prefix, _, ok := strings.Cut(id, "::")
	if g.byWorker && worker != "" || !ok || prefix == "" {
		return cmp.Or(worker, prefix, id)
	}
	return prefix
}

// rest returns id without its group prefix.
func (g *generation) rest(id, key string) string {
	if rest, ok := strings.CutPrefix(id, key+"::"); ok && rest != "" {
		return rest
	}
	return id
}

// prepare builds all types and assigns all names.
func (g *generation) prepare() error {
	g.shared = make(map[string]use)
	g.helpers = make(map[string]bool)
	byKey := make(map[string]*group)
	at := func(key string) *group {
		if byKey[key] == nil {
			byKey[key] = &group{key: key, taken: scope{"Client": true, "Options": true, "CheckSchemas": true}}
		}
		return byKey[key]
	}
	for i := range g.catalog.Functions {
		f := &g.catalog.Functions[i]
		gr := at(g.groupOf(f.ID, f.Worker))
		gr.methods = append(gr.methods, &method{function: f})
	}
	for i := range g.catalog.TriggerTypes {
		t := &g.catalog.TriggerTypes[i]
		gr := at(g.groupOf(t.ID, t.Worker))
		gr.triggers = append(gr.triggers, &trigger{of: t})
	}
	for _, gr := range byKey {
		g.groups = append(g.groups, gr)
	}
	slices.SortFunc(g.groups, func(a, b *group) int { return strings.Compare(a.key, b.key) })

	// Clients are named first, so no type can take their names.
	g.names = scope{}
	files := scope{"iiigen": true}
	for _, gr := range g.groups {
		gr.client = goName(gr.key)
		for n := 1; g.names[gr.client] || g.names["New"+gr.client]; n++ {
			gr.client = goName(gr.key) + "Client"
			if n > 1 {
				gr.client += fmt.Sprint(n)
			}
		}
		g.names[gr.client], g.names["New"+gr.client] = true, true
		gr.schemas = g.names.add(unexported(gr.client) + "Schemas")
		gr.file = files.add(fileStem(gr.key)) + "_gen.go"
	}
	for _, gr := range g.groups {
		for _, m := range gr.methods {
			name := goName(g.rest(m.function.ID, gr.key))
			m.name = gr.taken.add(name, name+"Function")
		}
		for _, m := range gr.methods {
			m.send = gr.taken.add("Send" + m.name)
			m.enqueue = gr.taken.add("Enqueue" + m.name)
		}
		for _, t := range gr.triggers {
			t.base = goName(g.rest(t.of.ID, gr.key))
			t.add = gr.taken.add("Trigger"+t.base, "Trigger"+t.base+"Type")
			t.handle = gr.taken.add("On"+t.base, "On"+t.base+"Type")
		}
		for _, m := range gr.methods {
			if !m.function.Observable {
				continue
			}
			m.source = gr.taken.add(m.name+"Source", m.name+"ObserverSource")
			m.observe = gr.taken.add("Observe"+m.name, "Observe"+m.name+"Function")
			if rest, ok := strings.CutPrefix(m.name, "On"); ok && m.function.Private && rest != "" && unicode.IsUpper([]rune(rest)[0]) {
				m.on = m.name // not taken, because a private function has no call method
			} else {
				m.on = gr.taken.add("On"+m.name, "On"+m.name+"Function")
			}
		}
	}

	for _, gr := range g.groups {
		for _, m := range gr.methods {
			f := m.function
			var err error
			if m.in, err = g.root(gr, f.ID, "request", m.name, "Input", f.Request); err != nil {
				return err
			}
			if m.out, err = g.root(gr, f.ID, "response", m.name, "Output", f.Response); err != nil {
				return err
			}
			m.hashes.FunctionID = f.ID
			if f.Namespace != defaultNamespace {
				m.hashes.Namespace = f.Namespace
			}
			if m.hashes.Request, err = iii.HashSchema(f.Request); err != nil {
				return fmt.Errorf("function %q: request: %w", f.ID, err)
			}
			if m.hashes.Response, err = iii.HashSchema(f.Response); err != nil {
				return fmt.Errorf("function %q: response: %w", f.ID, err)
			}
			if !f.Observable || present(f.Args) == nil {
				continue
			}
			if m.args, err = g.root(gr, f.ID, "args", m.name, "Args", f.Args); err != nil {
				return err
			}
			if m.hashes.Args, err = iii.HashSchema(f.Args); err != nil {
				return fmt.Errorf("function %q: args: %w", f.ID, err)
			}
		}
		for _, t := range gr.triggers {
			var err error
			if t.config, err = g.root(gr, t.of.ID, "config", t.base, "Config", t.of.Config); err != nil {
				return err
			}
			if t.payload, err = g.root(gr, t.of.ID, "payload", t.base, "Payload", t.of.Payload); err != nil {
				return err
			}
		}
	}
	g.breakCycles()
	g.boundSizes()
	g.nameDecls()
	for _, gr := range g.groups {
		for _, m := range gr.methods {
			if m.source != "" && !m.function.Private {
				m.observed = g.names.add(m.name+"Observed", gr.client+m.name+"Observed")
			}
			if m.function.Private {
				continue
			}
			for _, c := range codesOf(m.function.Metadata) {
				c.name = g.names.add(m.name+"Code"+valueName(c.value), gr.client+m.name+"Code"+valueName(c.value))
				m.codes = append(m.codes, c)
			}
		}
	}
	return nil
}

// root builds a root schema's type. Without a schema, the type is json.RawMessage.
func (g *generation) root(gr *group, id, part, name, kind string, raw json.RawMessage) (root, error) {
	about := id + ": " + part
	if present(raw) == nil {
		return root{use: use{expr: &expr{op: opRaw}}}, nil
	}
	s, err := parseSchema(raw)
	if err != nil {
		return root{}, fmt.Errorf("%s schema of %q: %w", part, id, err)
	}
	proto := &decl{preferred: []string{name + kind, gr.client + name + kind}, group: gr, root: true, schemaOf: id, part: part}
	slot := &memo{slot: use{expr: &expr{op: opNamed, decl: proto}}}
	b := &builder{g: g, doc: document{s}, group: gr, about: about, method: gr.client + name + kind, memo: map[string]*memo{"#": slot}, merges: map[string]*memo{}}
	u := b.formOf(s, "", proto, "", slot)
	u = slot.settle(u)
	d := u.decl
	if u.op != opNamed || !isRootOf(d, proto) {
		// The schema is represented by another type. Declare the root's name as an alias.
		form := formAlias
		if u.op == opArray && !u.null { // a defined array type loses no methods and can have JSONSchema
			form = formDefined
		}
		d = &decl{form: form, preferred: proto.preferred, group: gr, to: u, doc: textOf(s), why: u.why}
		d.children = proto.children
		for _, c := range d.children {
			c.parent = d
		}
		g.definitions = append(g.definitions, d)
		u = use{expr: &expr{op: opNamed, decl: d}}
	} else {
		g.place(u, proto)
	}
	d.root, d.schemaOf, d.part = true, id, part
	g.roots = append(g.roots, d)
	return root{u, d}, nil
}

// place moves the children of proto, the placeholder for a root schema's type, to the
// declaration that replaced proto. If there is no such declaration, proto remains the parent,
// because the children's names are derived from its name. proto is then not written to the
// output.
func (g *generation) place(u use, proto *decl) {
	switch {
	case len(proto.children) == 0:
	case u.op == opNamed && isRootOf(u.decl, proto):
		for _, c := range proto.children {
			c.parent = u.decl
		}
		u.decl.children = append(u.decl.children, proto.children...)
	case proto.parent == nil:
		proto.form = formPhantom
		g.definitions = append(g.definitions, proto)
	}
}

// isRootOf reports whether d is the declaration that replaced the placeholder proto.
func isRootOf(d, proto *decl) bool {
	return d.parent == nil && len(d.preferred) > 0 && &d.preferred[0] == &proto.preferred[0]
}

// codesOf returns the error codes listed in a function's metadata. The value of "errors" or
// "error_codes" is a list of codes, a list of objects with the members code and description,
// or an object that maps codes to descriptions.
func codesOf(metadata json.RawMessage) []code {
	var meta map[string]json.RawMessage
	if json.Unmarshal(metadata, &meta) != nil {
		return nil
	}
	var all []code
	add := func(value, doc string) {
		if value != "" && !slices.ContainsFunc(all, func(c code) bool { return c.value == value }) {
			all = append(all, code{value: value, doc: doc})
		}
	}
	for _, key := range []string{"errors", "error_codes"} {
		var list []json.RawMessage
		var byCode map[string]string
		switch {
		case json.Unmarshal(meta[key], &list) == nil:
			for _, raw := range list {
				var value string
				var object struct {
					Code        string `json:"code"`
					Description string `json:"description"`
				}
				if json.Unmarshal(raw, &value) == nil {
					add(value, "")
				} else if json.Unmarshal(raw, &object) == nil {
					add(object.Code, object.Description)
				}
			}
		case json.Unmarshal(meta[key], &byCode) == nil:
			for value, doc := range byCode {
				add(value, doc)
			}
		}
	}
	slices.SortFunc(all, func(a, b code) int { return strings.Compare(a.value, b.value) })
	return all
}

// embedded returns the declared type that values of u contain directly or in arrays, rather
// than through a pointer, slice or map. It returns nil if there is none.
func embedded(u use) *decl {
	for u.expr != nil && u.op == opArray && !u.null {
		u = *u.elem
	}
	if u.expr == nil || u.op != opNamed || u.null {
		return nil
	}
	return u.decl
}

// breakCycles changes fields to pointers where a type would otherwise contain itself.
func (g *generation) breakCycles() {
	const (
		unseen = iota
		open
		closed
	)
	state := make(map[*decl]int)
	var visit func(d *decl)
	visit = func(d *decl) {
		state[d] = open
		step := func(u use, cut func()) {
			inner := embedded(u)
			if inner == nil {
				return
			}
			switch state[inner] {
			case open:
				cut()
			case unseen:
				visit(inner)
			}
		}
		switch d.form {
		case formStruct:
			for _, f := range d.fields {
				if f.required {
					step(f.use, func() { f.pointer = true })
				}
			}
		case formTuple:
			for i := range d.items {
				step(d.items[i], func() { d.items[i].null = true })
			}
		case formAlias, formDefined:
			cut := func() { d.to = use{expr: &expr{op: opRaw, why: "the type refers only to itself"}} }
			step(d.to, cut)
			if d.standsForItself() {
				cut()
			}
			if d.to.op != opList && d.to.op != opMap && d.to.op != opArray {
				d.form = formAlias
			}
		}
		state[d] = closed
	}
	for _, d := range g.all() {
		if state[d] == unseen {
			visit(d)
		}
	}
}

// standsForItself reports whether d is an alias of itself or of a pointer to itself.
func (d *decl) standsForItself() bool {
	seen := make(map[*decl]bool)
	for e := d; (e.form == formAlias || e.form == formDefined) && e.to.expr != nil && e.to.op == opNamed && !seen[e]; e = e.to.decl {
		seen[e] = true
		if e.to.decl == d {
			return true
		}
	}
	return false
}

// maxSize is the maximum size of a type in words. The compiler rejects very large types, and a
// schema of a few lines can describe one.
const maxSize = 4096

// boundSizes changes arrays to slices and fields to pointers where a type would otherwise
// exceed maxSize.
func (g *generation) boundSizes() {
	sizes := make(map[*decl]int)
	var of func(u use) int
	var bounded func(d *decl) int
	of = func(u use) int { // visits pointer targets too, to bound their size
		if u.expr == nil {
			return 3
		}
		size := 3
		switch u.op {
		case opNamed:
			size = bounded(u.decl)
		case opList, opMap:
			of(*u.elem)
		case opArray:
			if size = u.n * of(*u.elem); size > maxSize {
				u.op, size = opList, 3
			}
		}
		if u.null {
			return 3
		}
		return size
	}
	bounded = func(d *decl) int {
		if size, ok := sizes[d]; ok {
			return size
		}
		sizes[d] = 3 // a recursive reference is a pointer
		size := 0
		switch d.form {
		case formStruct:
			for _, f := range d.fields {
				s := of(f.use)
				f.pointer = f.pointer || f.required && s > 3 && size+s > maxSize
				if f.pointer || !f.required {
					s = 3
				}
				size += s
			}
			if d.additional != nil {
				of(*d.additional)
				size++
			}
		case formTuple:
			for i := range d.items {
				s := of(d.items[i])
				if s > 3 && size+s > maxSize {
					d.items[i].null, s = true, 3
				}
				size += s
			}
			if d.rest != nil {
				of(*d.rest)
			}
		case formUnion:
			for _, v := range d.variants {
				of(v.use)
			}
			size = 3 + len(d.variants)
		case formAlias, formDefined:
			array := d.to.expr != nil && d.to.op == opArray
			size = of(d.to)
			if array && d.to.op != opArray {
				d.form = formAlias // an alias keeps the methods of its target
			}
		}
		sizes[d] = max(size, 1)
		return sizes[d]
	}
	for _, d := range g.all() {
		bounded(d)
	}
}

// all returns all declarations. Parents precede their children.
func (g *generation) all() []*decl {
	var list []*decl
	seen := make(map[*decl]bool)
	var add func(d *decl)
	add = func(d *decl) {
		if seen[d] {
			return
		}
		seen[d] = true
		list = append(list, d)
		for _, c := range d.children {
			add(c)
		}
	}
	for _, d := range g.definitions {
		add(d)
	}
	return list
}

// maxName is the maximum length of a type name in bytes. A longer name is shortened to the
// outermost type's name and the last suffix.
const maxName = 120

// nameDecls names all declarations: root schemas first, then definitions, then types named
// after their parents. If several declarations prefer the same short name, all of them get a
// longer one, so names do not depend on the order of declarations.
func (g *generation) nameDecls() {
	all := g.all()
	for _, roots := range []bool{true, false} {
		count := make(map[string]int)
		for _, d := range all {
			if d.parent == nil && d.root == roots {
				count[d.preferred[0]]++
			}
		}
		var these []*decl
		for _, d := range all {
			if d.parent == nil && d.root == roots {
				these = append(these, d)
			}
		}
		slices.SortStableFunc(these, func(a, b *decl) int {
			return cmp.Or(strings.Compare(a.group.key, b.group.key), strings.Compare(a.schemaOf, b.schemaOf), slices.Compare(a.preferred, b.preferred))
		})
		for _, d := range these {
			candidates := d.preferred
			if count[candidates[0]] > 1 && len(candidates) > 1 {
				candidates = candidates[1:]
			}
			d.name = g.names.add(candidates...)
		}
	}
	for _, d := range all {
		if d.parent != nil {
			name := d.parent.name + d.suffix
			if len(name) > maxName {
				top := d.parent
				for top.parent != nil {
					top = top.parent
				}
				name = top.name + d.suffix
			}
			d.name = g.names.add(name)
		}
		if d.form != formPhantom {
			d.group.decls = append(d.group.decls, d)
		}
	}
	for _, d := range all { // constants come last, because nothing refers to them
		for i := range d.values {
			d.values[i].name = g.names.add(d.name + valueName(d.values[i].text))
		}
	}
	for _, gr := range g.groups {
		slices.SortFunc(gr.decls, func(a, b *decl) int { return strings.Compare(a.name, b.name) })
	}
}
