package iii

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// registry holds what this worker has registered, in the order of the program,
// and keeps each link's copy equal: a link is given all of it when it begins and
// every change after that, under one lock, so that nothing is missed or sent
// twice.
type registry struct {
	out *outbox

	mu        sync.RWMutex
	closed    error // set once: no registration is accepted any more
	link      *link // the link that is told of changes, or nil
	entries   []*entry
	functions map[string]*Function
	triggers  map[string]*Trigger
}

// entry is one registration.
type entry struct {
	add    []byte // the message that registers
	remove []byte // the message that takes it back
	renew  func() // called before add is sent on a new link
}

func newRegistry(out *outbox) *registry {
	return &registry{out: out, functions: map[string]*Function{}, triggers: map[string]*Trigger{}}
}

// begin queues first and then all registrations for l, which is attached.
func (r *registry) begin(l *link, first ...item) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.link = l
	r.out.urgent(l, first...)
	for _, e := range r.entries {
		if e.renew != nil {
			e.renew()
		}
		r.out.urgent(l, item{buf: bufferOf(e.add)})
	}
}

// end stops telling l.
func (r *registry) end(l *link) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.link == l {
		r.link = nil
	}
}

func (r *registry) push(message []byte) {
	if r.link != nil {
		r.out.urgent(r.link, item{buf: bufferOf(message)})
	}
}

func (r *registry) insert(e *entry) {
	r.entries = append(r.entries, e)
	r.push(e.add)
}

// removeEntry reports whether e was registered.
func (r *registry) removeEntry(e *entry) bool {
	i := slices.Index(r.entries, e)
	if i < 0 {
		return false
	}
	r.entries = slices.Delete(r.entries, i, i+1)
	r.push(e.remove)
	return true
}

func (r *registry) addFunction(f *Function) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed != nil {
		return r.closed
	}
	if _, taken := r.functions[f.id]; taken {
		return fmt.Errorf("iii: function %q is registered already", f.id)
	}
	r.functions[f.id] = f
	r.insert(&f.entry)
	return nil
}

func (r *registry) removeFunction(f *Function) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.functions[f.id] != f {
		return false
	}
	delete(r.functions, f.id)
	return r.removeEntry(&f.entry)
}

// addType adds a trigger type, which is never taken back.
func (r *registry) addType(e *entry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed != nil {
		return r.closed
	}
	r.insert(e)
	return nil
}

func (r *registry) addTrigger(t *Trigger) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed != nil {
		return r.closed
	}
	if _, taken := r.triggers[t.id]; taken {
		return fmt.Errorf("iii: trigger %q is registered already", t.id)
	}
	r.triggers[t.id] = t
	r.insert(&t.entry)
	return nil
}

func (r *registry) removeTrigger(t *Trigger) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.triggers[t.id] != t {
		return false
	}
	delete(r.triggers, t.id)
	return r.removeEntry(&t.entry)
}

// function finds a handler by the text between the quotes of its id.
func (r *registry) function(id []byte) *Function {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.functions[string(id)]
}

// rejectedFunction finds the function that the engine names in a refusal: by its
// id, or behind the prefix that the session's access control puts before it.
func (r *registry) rejectedFunction(id string) *Function {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for {
		if f := r.functions[id]; f != nil {
			return f
		}
		_, rest, ok := strings.Cut(id, "::")
		if !ok {
			return nil
		}
		id = rest
	}
}

func (r *registry) trigger(id string) *Trigger {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.triggers[id]
}

// withdraw takes everything back, triggers first, and accepts nothing more.
// Handlers stay in reach: what arrives is told that the worker drains.
func (r *registry) withdraw(reason error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed != nil {
		return
	}
	r.closed = reason
	triggers := make(map[*entry]bool, len(r.triggers))
	for _, t := range r.triggers {
		triggers[&t.entry] = true
	}
	for _, first := range []bool{true, false} {
		for _, e := range r.entries {
			if triggers[e] == first && e.remove != nil {
				r.push(e.remove)
			}
		}
	}
	r.entries = nil
}
