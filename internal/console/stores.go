package console

import (
	"encoding/json"
	"net/http"

	"github.com/iii-go/iii/internal/secret"
)

// storedGroup is an entry in the list of groups.
type storedGroup struct {
	Stream      string             `json:"stream,omitempty"`
	Group       string             `json:"group"`
	Items       int                `json:"items"`
	Subscribers int                `json:"subscribers"`
	Clients     []storedSubscriber `json:"clients,omitempty"` // the first subscribers
	Provider    string             `json:"provider,omitempty"`
}

type storedSubscriber struct {
	ID     string  `json:"id"`
	Item   *string `json:"item"` // null for the whole group
	Client string  `json:"client"`
}

// storedItem is an entry in the list of items.
type storedItem struct {
	Stream  string `json:"stream,omitempty"`
	Group   string `json:"group"`
	Key     string `json:"key"`
	Preview string `json:"preview"`
	Size    int    `json:"size"`
}

// serveStore lists a store's groups and the first items of each group. If the parameters
// stream and group are set, it lists only that group's items.
func (c *console) serveStore(w http.ResponseWriter, r *http.Request, s Store) {
	groups := c.source.Groups(s)
	answered := struct {
		Groups     []storedGroup `json:"groups"`
		GroupsLeft int           `json:"groups_left"` // groups omitted because of the limit
		Items      []storedItem  `json:"items"`
		ItemsLeft  int           `json:"items_left"`
	}{Groups: []storedGroup{}, GroupsLeft: max(0, len(groups)-maxListed), Items: []storedItem{}}
	q, clients := r.URL.Query(), 0
	for n, g := range groups {
		if n < maxListed {
			listed := storedGroup{Stream: g.Stream, Group: g.Group, Items: g.Items, Subscribers: len(g.Subscribers), Provider: g.Provider}
			for _, sub := range g.Subscribers[:min(maxListed-clients, len(g.Subscribers))] {
				listed.Clients = append(listed.Clients, storedSubscriber(sub))
				clients++
			}
			answered.Groups = append(answered.Groups, listed)
		}
		if q.Has("group") && (g.Stream != q.Get("stream") || g.Group != q.Get("group")) {
			continue
		}
		items := []Item{}
		if room := maxListed - len(answered.Items); room > 0 && g.Items > 0 {
			items = c.source.Items(s, g.Stream, g.Group, room)
		}
		for _, i := range items {
			answered.Items = append(answered.Items, storedItem{
				Stream: g.Stream, Group: g.Group, Key: i.Key, Size: len(i.Value),
				Preview: preview(unlessSecret(i.Value, g.Stream, g.Group, i.Key)),
			})
		}
		answered.ItemsLeft += max(0, g.Items-len(items))
	}
	answer(w, answered)
}

// serveItem returns an item's value, or only the size of a value that is too large to show.
func (c *console) serveItem(w http.ResponseWriter, r *http.Request, s Store) {
	q := r.URL.Query()
	stream, group, key := q.Get("stream"), q.Get("group"), q.Get("key")
	value, ok := c.source.Item(s, stream, group, key)
	if !ok {
		http.Error(w, "no such item", http.StatusNotFound)
		return
	}
	answer(w, struct {
		Value any  `json:"value"`
		Size  int  `json:"size"`
		Kept  bool `json:"kept"`
	}{payload(bounded(unlessSecret(value, stream, group, key))), len(value), len(value) <= maxPayload})
}

var redactedValue = json.RawMessage(`"` + secret.Redacted + `"`)

// unlessSecret returns value, or a placeholder if one of the names marks it as secret. The
// names of scopes, streams, groups and items follow the same rules as document keys.
func unlessSecret(value json.RawMessage, names ...string) json.RawMessage {
	for _, name := range names {
		if secret.Key(name) {
			return redactedValue
		}
	}
	return value
}

// bounded returns data, or nil if it is too large to show.
func bounded(data json.RawMessage) json.RawMessage {
	if len(data) > maxPayload {
		return nil
	}
	return data
}

// deadLetter is an entry in the dead-letter list.
type deadLetter struct {
	ID        string  `json:"id"`
	Queue     string  `json:"queue"`
	Namespace string  `json:"namespace"`
	Function  string  `json:"function"`
	Group     string  `json:"group,omitempty"`
	Attempts  int     `json:"attempts"`
	Error     string  `json:"error"`
	FailedAt  float64 `json:"failed_at"` // milliseconds since 1970
	Preview   string  `json:"preview"`
	Size      int     `json:"size"`
}

func (d *DeadLetter) listed() deadLetter {
	return deadLetter{
		ID: d.ID, Queue: d.Queue, Namespace: d.Namespace, Function: d.Function, Group: d.Group, Attempts: d.Attempts,
		Error: secret.Text(d.Error), FailedAt: float64(d.FailedAt.UnixMicro()) / 1e3, Preview: preview(d.Payload), Size: len(d.Payload),
	}
}

// serveQueues lists queues, topics and the newest dead letters.
func (c *console) serveQueues(w http.ResponseWriter, _ *http.Request) {
	queues := append([]Queue{}, c.source.Queues()...)
	left := max(0, len(queues)-maxListed)
	letters, lettersLeft := c.source.DeadLetters(maxListed)
	list := make([]deadLetter, len(letters))
	for n := range letters {
		list[n] = letters[n].listed()
	}
	answer(w, struct {
		Queues          []Queue      `json:"queues"`
		QueuesLeft      int          `json:"queues_left"`
		DeadLetters     []deadLetter `json:"dead_letters"`
		DeadLettersLeft int          `json:"dead_letters_left"`
	}{queues[:len(queues)-left], left, list, lettersLeft})
}

// serveDeadLetter returns a dead letter. It omits the payload if that is too large to show.
func (c *console) serveDeadLetter(w http.ResponseWriter, r *http.Request) {
	d, ok := c.source.DeadLetter(r.PathValue("id"))
	if !ok {
		http.Error(w, "no such dead letter", http.StatusNotFound)
		return
	}
	answer(w, struct {
		deadLetter
		Payload any  `json:"payload"`
		Kept    bool `json:"kept"`
	}{d.listed(), payload(bounded(d.Payload)), len(d.Payload) <= maxPayload})
}
