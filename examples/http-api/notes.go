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

// note is what the API keeps.
type note struct {
	ID     int    `json:"id"`
	Author string `json:"author"`
	Text   string `json:"text"`
}

// notes is the API. Its handlers are those of any web server; only that for events
// knows that a worker serves them.
type notes struct {
	mu       sync.Mutex
	sessions map[string]string // user by session
	all      []note            // by id, which counts from 1
	changed  time.Time
	added    chan struct{} // closed, and made anew, when there is a new note
}

func newNotes() *notes {
	return &notes{sessions: map[string]string{}, changed: time.Now(), added: make(chan struct{})}
}

// login begins a session. A response may set several cookies.
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

// user tells who is logged in.
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

// add takes a note as JSON. The path as the client sees it is in r.URL.
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

// since returns the notes after one, and what is closed when there are more.
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

// download is a file. http.ServeContent answers conditional requests, and those for a
// part of it, with which a client resumes a download.
func (n *notes) download(w http.ResponseWriter, r *http.Request) {
	all, _ := n.since(0)
	var file bytes.Buffer
	sheet := csv.NewWriter(&file)
	_ = sheet.Write([]string{"id", "author", "text"}) // a bytes.Buffer takes everything
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

// events tells of each note as a server-sent event. A browser that has lost the
// connection makes a new one and says which event it has seen last.
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
		// What is flushed is on its way; what is not is kept until there is more of it.
		if err := http.NewResponseController(w).Flush(); err != nil {
			return
		}
		select {
		case <-added:
		case <-ping.C: // that a client has gone shows when it is written to
			fmt.Fprint(w, ": ping\n\n")
		case <-r.Context().Done():
			return
		case <-iii.Stopping(r.Context()): // the worker is about to; another may take over
			return
		}
	}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // an error means that the client has gone
}
