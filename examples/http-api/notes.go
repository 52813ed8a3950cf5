package main

import (
	"bytes"
	"crypto/rand"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/iii-go/iii"
)

type note struct {
	ID     int    `json:"id"`
	Author string `json:"author"`
	Text   string `json:"text"`
}

// notes implements the API with ordinary net/http handlers. Only the handler for events uses
// the worker.
type notes struct {
	mu       sync.Mutex
	sessions map[string]string // user by session
	all      []note            // ordered by id, starting at 1
	changed  time.Time
	added    chan struct{} // closed and replaced when a note is added
}

func newNotes() *notes {
	return &notes{sessions: map[string]string{}, changed: time.Now(), added: make(chan struct{})}
}

// login starts a session. A response can set several cookies.
func (n *notes) login(w http.ResponseWriter, r *http.Request) {
	user := r.PostFormValue("user")
	if user == "" {
		http.Error(w, "who are you?", http.StatusBadRequest)
		return
	}
	session := rand.Text()
	n.mu.Lock()
	n.sessions[session] = user
	n.mu.Unlock()
	http.SetCookie(w, &http.Cookie{Name: "session", Value: session, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
	http.SetCookie(w, &http.Cookie{Name: "user", Value: user, Path: "/", SameSite: http.SameSiteLaxMode})
	w.WriteHeader(http.StatusNoContent)
}

// user returns the name of the logged-in user.
func (n *notes) user(r *http.Request) (name string, ok bool) {
	session, err := r.Cookie("session")
	if err != nil {
		return "", false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	name, ok = n.sessions[session.Value]
	return name, ok
}

// add stores a note from a JSON body. The Location header is derived from r.URL, which is the
// URL that the client requested.
func (n *notes) add(w http.ResponseWriter, r *http.Request) {
	user, ok := n.user(r)
	if !ok {
		http.Error(w, "log in first", http.StatusUnauthorized)
		return
	}
	var in note
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&in); err != nil || in.Text == "" {
		http.Error(w, `want {"text": "..."}`, http.StatusBadRequest)
		return
	}
	n.mu.Lock()
	in.ID, in.Author = len(n.all)+1, user
	n.all, n.changed = append(n.all, in), time.Now()
	close(n.added)
	n.added = make(chan struct{})
	n.mu.Unlock()
	w.Header().Set("Location", fmt.Sprintf("%s/%d", r.URL.Path, in.ID))
	writeJSON(w, http.StatusCreated, in)
}

// since returns the notes whose ids are higher than id, and a channel that is closed when the
// next note is added.
func (n *notes) since(id int) (news []note, added <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.all[max(0, min(id, len(n.all))):]), n.added
}

func (n *notes) list(w http.ResponseWriter, r *http.Request) {
	all, _ := n.since(0)
	writeJSON(w, http.StatusOK, map[string]any{"notes": all})
}

func (n *notes) get(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.Atoi(r.PathValue("id"))
	all, _ := n.since(0)
	if err != nil || id < 1 || id > len(all) {
		http.NotFound(w, r)
		return
	}
	writeJSON(w, http.StatusOK, all[id-1])
}

// download serves the notes as a file. http.ServeContent supports conditional and range
// requests, so clients can resume a download.
func (n *notes) download(w http.ResponseWriter, r *http.Request) {
	all, _ := n.since(0)
	var file bytes.Buffer
	sheet := csv.NewWriter(&file)
	_ = sheet.Write([]string{"id", "author", "text"}) // writing to a bytes.Buffer cannot fail
	for _, note := range all {
		_ = sheet.Write([]string{strconv.Itoa(note.ID), note.Author, note.Text})
	}
	sheet.Flush()
	n.mu.Lock()
	changed := n.changed
	n.mu.Unlock()
	w.Header().Set("Content-Disposition", `attachment; filename="notes.csv"`)
	http.ServeContent(w, r, "notes.csv", changed, bytes.NewReader(file.Bytes()))
}

// events sends each note as a server-sent event. A browser that reconnects sends the id of the
// last event that it received, and the new stream continues after that event.
func (n *notes) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	seen, _ := strconv.Atoi(r.Header.Get("Last-Event-ID"))
	ping := time.NewTicker(15 * time.Second)
	defer ping.Stop()
	for {
		news, added := n.since(seen)
		for _, note := range news {
			data, err := json.Marshal(note)
			if err != nil {
				return
			}
			fmt.Fprintf(w, "id: %d\ndata: %s\n\n", note.ID, data)
			seen = note.ID
		}
		// Without Flush, the event would remain in the response buffer.
		if err := http.NewResponseController(w).Flush(); err != nil {
			return
		}
		select {
		case <-added:
		case <-ping.C: // a write fails if the client has disconnected
			fmt.Fprint(w, ": ping\n\n")
		case <-r.Context().Done():
			return
		case <-iii.Stopping(r.Context()): // the worker is shutting down; the client can reconnect to another one
			return
		}
	}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // fails only if the client has disconnected
}
