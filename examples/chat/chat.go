package main

import (
	"context"
	"crypto/rand"
	_ "embed"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/iii-go/iii"
)

// message is an item of the messages stream, which has one group per room.
type message struct {
	ID     string `json:"id"`
	Author string `json:"author"`
	Text   string `json:"text"`
}

// people is the item in the presence stream that counts the people in a room.
type people struct {
	Count int `json:"count"`
}

// rooms lists the rooms of the chat.
var rooms = []string{"lobby", "kitchen"}

//go:embed page.html
var pageSource string

var page = template.Must(template.New("page").Parse(pageSource))

type chat struct {
	client    *iii.Client
	name      string
	streamURL string // address to which pages subscribe
	messages  *iii.Stream[message]
	presence  *iii.Stream[people]

	mu   sync.Mutex
	here map[string]map[string]bool // ids of subscriptions by room
}

func newChat(client *iii.Client, name, streamURL string) *chat {
	return &chat{
		client: client, name: name, streamURL: streamURL,
		messages: iii.NewStream[message](client, name+"-messages"),
		presence: iii.NewStream[people](client, name+"-presence"),
		here:     map[string]map[string]bool{},
	}
}

// register registers the HTTP routes and the join and leave triggers.
func (c *chat) register() error {
	if _, err := c.client.MountHTTP(http.MethodGet, "/"+c.name, http.HandlerFunc(c.servePage)); err != nil {
		return err
	}
	if _, err := iii.HandleHTTP(c.client, http.MethodPost, "/"+c.name+"/:room", c.post); err != nil {
		return err
	}
	join, err := iii.Handle(c.client, c.name+"::join", c.join)
	if err != nil {
		return err
	}
	if _, err := c.client.Trigger(join.ID(), iii.StreamJoinTrigger{}); err != nil {
		return err
	}
	leave, err := iii.Handle(c.client, c.name+"::leave", c.leave)
	if err != nil {
		return err
	}
	_, err = c.client.Trigger(leave.ID(), iii.StreamLeaveTrigger{})
	return err
}

// servePage serves the page. The template inserts the stream socket's address and the stream
// names.
func (c *chat) servePage(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = page.Execute(w, map[string]any{
		"stream": c.streamURL, "messages": c.messages.Name(), "presence": c.presence.Name(), "rooms": rooms,
	})
}

// post stores a message. The engine broadcasts the new item to all of the room's subscribers.
func (c *chat) post(ctx context.Context, r *iii.HTTPRequest[message]) (*iii.HTTPResponse[any], error) {
	room, m := r.PathParams["room"], r.Body
	m.Author, m.Text = strings.TrimSpace(m.Author), strings.TrimSpace(m.Text)
	switch {
	case !slices.Contains(rooms, room):
		return refusal(http.StatusNotFound, "there is no such room"), nil
	case m.Author == "" || m.Text == "" || len(m.Author)+len(m.Text) > 4<<10:
		return refusal(http.StatusBadRequest, "want an author and a text, of 4 KiB at most"), nil
	}
	m.ID = rand.Text()
	if _, err := c.messages.Set(ctx, room, m.ID, m); err != nil {
		return nil, err
	}
	return &iii.HTTPResponse[any]{StatusCode: http.StatusCreated, Body: m}, nil
}

func refusal(status uint16, reason string) *iii.HTTPResponse[any] {
	return &iii.HTTPResponse[any]{StatusCode: status, Body: map[string]string{"error": reason}}
}

// join accepts or rejects a subscription to a stream. The engine calls join for every stream,
// so join must also accept subscriptions to other programs' streams.
func (c *chat) join(ctx context.Context, e iii.StreamJoinLeaveEvent) (iii.StreamJoinResult, error) {
	ours := e.StreamName == c.messages.Name()
	if !ours && e.StreamName != c.presence.Name() {
		return iii.StreamJoinResult{}, nil
	}
	if !slices.Contains(rooms, e.GroupID) {
		return iii.StreamJoinResult{Unauthorized: true}, nil
	}
	if !ours {
		return iii.StreamJoinResult{}, nil
	}
	return iii.StreamJoinResult{}, c.count(ctx, e.GroupID, func(here map[string]bool) { here[e.SubscriptionID] = true })
}

// leave runs when a subscriber unsubscribes or disconnects.
func (c *chat) leave(ctx context.Context, e iii.StreamJoinLeaveEvent) (any, error) {
	if e.StreamName != c.messages.Name() || !slices.Contains(rooms, e.GroupID) {
		return nil, nil
	}
	return nil, c.count(ctx, e.GroupID, func(here map[string]bool) { delete(here, e.SubscriptionID) })
}

// count calls change to update the set of subscriptions to a room, and publishes the new
// number of people. It holds mu while publishing, so the numbers arrive in order.
func (c *chat) count(ctx context.Context, room string, change func(here map[string]bool)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.here[room] == nil {
		c.here[room] = map[string]bool{}
	}
	change(c.here[room])
	_, err := c.presence.Set(ctx, room, "people", people{Count: len(c.here[room])})
	return err
}
