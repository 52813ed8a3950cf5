package iii

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/iii-go/iii/internal/rawjson"
	"github.com/iii-go/iii/internal/wsconn"
)

var (
	// ErrChannelNotFound means that the engine has no channel with that id and key: it
	// never existed, both ends have ended, or an end was not opened within five minutes.
	ErrChannelNotFound = errors.New("iii: channel not found")

	// ErrChannelClosed means that this end is closed, or that the other end is gone and
	// accepts nothing more.
	ErrChannelClosed = errors.New("iii: channel is closed")

	// ErrChannelBacklog means that only bytes, or only messages, were read from the channel,
	// and that too much unread data of the other kind has accumulated.
	ErrChannelBacklog = errors.New("iii: channel has too much unread data")
)

// channelChunk is the maximum size of the frames into which bytes are split.
const channelChunk = 64 << 10

// ChannelOption configures a new channel.
type ChannelOption func(*ChannelCreateInput) error

// WithChannelBuffer sets how many frames the engine buffers between the two ends: 1 to
// 1024, default 64. When the buffer is full, the writer waits (backpressure).
func WithChannelBuffer(frames int) ChannelOption {
	return func(in *ChannelCreateInput) error {
		if frames < 1 || frames > 1024 {
			return fmt.Errorf("iii: WithChannelBuffer: %d is not between 1 and 1024", frames)
		}
		n := uint64(frames)
		in.BufferSize = &n
		return nil
	}
}

// CreateChannel creates a one-way channel inside the engine: what is written to the writer
// arrives at the reader, frame by frame and in order. Use one end here and pass the other
// end's Ref in a payload or a result to the worker that opens it with [Client.OpenReader]
// or [Client.OpenWriter]. An end connects when it is first used, and each end can be
// opened only once, so do not use an end here after giving its Ref away. A channel
// outlives the connection of the worker that created it.
func (c *Client) CreateChannel(ctx context.Context, opts ...ChannelOption) (*ChannelWriter, *ChannelReader, error) {
	var in ChannelCreateInput
	if err := applyOptions(&in, opts, callOption); err != nil {
		return nil, nil, public(err)
	}
	var out ChannelCreateResult
	if err := c.Call(ctx, "engine::channels::create", in, &out); err != nil {
		return nil, nil, err
	}
	return newChannelWriter(c, out.Writer), newChannelReader(c, out.Reader), nil
}

// OpenWriter connects to the writing end of a channel. ctx limits only the time for opening.
// The error is an [ErrChannelNotFound] if no such channel exists. If another writer has
// already opened the end, a Write fails, but not necessarily the first one: the engine
// disconnects the second writer, and it takes time until the client notices. A reference to
// the reading end is an error, because data written to it would be lost.
func (c *Client) OpenWriter(ctx context.Context, ref StreamChannelRef) (*ChannelWriter, error) {
	w := newChannelWriter(c, ref)
	if err := w.end.open(ctx, "write"); err != nil {
		return nil, err
	}
	return w, nil
}

// OpenReader connects to the reading end of a channel; see [Client.OpenWriter]. If another
// reader has already opened the end, the first Read returns io.EOF. A reference to the writing
// end is an error, because nothing would ever arrive from it.
func (c *Client) OpenReader(ctx context.Context, ref StreamChannelRef) (*ChannelReader, error) {
	r := newChannelReader(c, ref)
	if err := r.open(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// channelEnd is the part that readers and writers share: a socket that is opened once.
type channelEnd struct {
	client     *Client
	ref        StreamChannelRef
	sendBuffer int // size of the socket's send buffer; 0 is the system default

	mu      sync.Mutex
	conn    *wsconn.Conn
	opened  bool  // the attempt to open is over, successful or not
	failed  error // why opening failed
	given   bool  // Ref was called before the end was opened
	closed  bool
	attempt chan struct{}      // closed when the attempt to connect ends; nil if there is none
	stop    context.CancelFunc // cancels the attempt; nil if there is none
	pumping sync.WaitGroup     // the goroutines that connect and that read the socket
	onOpen  func(*wsconn.Conn)
}

// channelLock is a lock that can be acquired with a context.
type channelLock chan struct{}

func newChannelLock() channelLock { return make(channelLock, 1) }

func (l channelLock) lock(ctx context.Context) error {
	select {
	case l <- struct{}{}:
		return nil
	default:
	}
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctxError(ctx)
	}
}

func (l channelLock) tryLock() bool {
	select {
	case l <- struct{}{}:
		return true
	default:
		return false
	}
}

func (l channelLock) unlock() { <-l }

// channelDeadline is a deadline that can be changed while others wait for it.
type channelDeadline struct {
	mu    sync.Mutex
	timer *time.Timer
	over  context.Context // done when the deadline passes
	end   context.CancelFunc
}

// passed returns a context that ends when the deadline has passed; if the deadline is changed
// in the meantime, the new one applies.
func (d *channelDeadline) passed() context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.current()
}

func (d *channelDeadline) current() context.Context {
	if d.over == nil {
		d.over, d.end = context.WithCancel(context.Background())
	}
	return d.over
}

// set changes the deadline; the zero time means no deadline.
func (d *channelDeadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.over != nil && d.over.Err() != nil {
		d.over = nil
	}
	if t.IsZero() {
		return
	}
	d.current()
	left := time.Until(t)
	if left <= 0 {
		d.end()
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(left, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.timer == timer { // the deadline has not been moved meanwhile
			d.end()
		}
	})
	d.timer = timer
}

// open connects on the first call. The attempt continues after ctx ends, because the engine
// lets each end be opened only once, and this attempt may already have opened it. The next
// caller gets the outcome.
func (e *channelEnd) open(ctx context.Context, direction string) error {
	if settled, err := e.settled(); settled {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("iii: channel %s: %w", direction, ctxError(ctx))
	}
	e.mu.Lock()
	if e.attempt == nil && !e.closed {
		var attempt context.Context
		attempt, e.stop = context.WithTimeout(context.WithoutCancel(ctx), wsconn.DialTimeout)
		e.attempt = make(chan struct{})
		e.pumping.Go(func() { e.connect(attempt, direction) })
	}
	over := e.attempt
	e.mu.Unlock()
	if over != nil {
		select {
		case <-over:
		case <-ctx.Done():
			return fmt.Errorf("iii: channel %s: %w", direction, ctxError(ctx))
		}
	}
	_, err := e.settled()
	return err
}

// connect makes the attempt to connect.
func (e *channelEnd) connect(ctx context.Context, direction string) {
	unwatch := context.AfterFunc(e.client.handlers, e.stop)
	conn, err := e.client.dialChannel(ctx, e.ref, direction)
	unwatch()
	e.stop()
	e.mu.Lock()
	defer e.mu.Unlock()
	defer close(e.attempt)
	e.opened, e.failed = true, err
	switch {
	case e.closed: // closing has cancelled the attempt
		e.failed = ErrChannelClosed
	case err == nil && !e.client.channels.add(e):
		e.failed = ErrClosed
	}
	if e.failed != nil {
		if err == nil {
			conn.Abort()
		}
		return
	}
	e.conn = conn
	if e.sendBuffer > 0 {
		conn.SetWriteBuffer(e.sendBuffer)
	}
	e.pumping.Go(func() { e.onOpen(conn) })
}

// openWithin opens the end within the deadline and, if longest is not 0, within longest.
func (e *channelEnd) openWithin(ctx context.Context, d *channelDeadline, longest time.Duration, direction string) error {
	if settled, err := e.settled(); settled {
		return err
	}
	opening, cancel := context.WithCancel(ctx)
	if longest > 0 {
		opening, cancel = context.WithTimeout(ctx, longest)
	}
	defer cancel()
	defer context.AfterFunc(d.passed(), cancel)()
	err := e.open(opening, direction)
	if err != nil && opening.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("iii: channel %s: %w", direction, os.ErrDeadlineExceeded)
	}
	return err
}

// settled reports whether the attempt to open the end is over, and returns its error if it
// failed.
func (e *channelEnd) settled() (settled bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		return true, ErrChannelClosed
	case e.opened:
		return true, e.failed
	}
	return false, nil
}

// socket returns the connection, or nil before the end is open.
func (e *channelEnd) socket() *wsconn.Conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.conn
}

// reference implements Ref. Calling it on an end that is not open yet leaves that end to the
// receiver of the reference.
func (e *channelEnd) reference() StreamChannelRef {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.opened {
		e.given = true
	}
	return e.ref
}

// abort closes the socket immediately, cancels an attempt to connect, and waits for the
// goroutine that reads the socket.
func (e *channelEnd) abort() {
	e.mu.Lock()
	e.closed = true
	conn := e.conn
	if e.stop != nil {
		e.stop()
	}
	e.mu.Unlock()
	if conn != nil {
		conn.Abort()
	}
	e.pumping.Wait()
	if conn != nil {
		e.client.channels.remove(e)
	}
}

// dialChannel opens the socket of one end. Frames are written directly to the socket, so that
// a full channel blocks the writer for as long as it is full.
func (c *Client) dialChannel(ctx context.Context, ref StreamChannelRef, direction string) (*wsconn.Conn, error) {
	if ref.ChannelID == "" || ref.AccessKey == "" {
		return nil, errors.New("iii: channel reference lacks channel_id or access_key")
	}
	switch {
	case direction == "write" && ref.Direction == StreamChannelDirectionRead:
		return nil, errors.New("iii: channel write: the reference is to the reading end")
	case direction == "read" && ref.Direction == StreamChannelDirectionWrite:
		return nil, errors.New("iii: channel read: the reference is to the writing end")
	}
	u := *c.cfg.URL
	u.Path = strings.TrimRight(u.Path, "/") + "/ws/channels/" + ref.ChannelID
	u.RawPath = ""
	u.RawQuery = url.Values{"key": {ref.AccessKey}, "dir": {direction}}.Encode()
	d := c.cfg.Dialer
	d.URL, d.Unbuffered = &u, true
	conn, err := d.Dial(ctx)
	var refused *wsconn.StatusError
	switch {
	case errors.As(err, &refused) && refused.Code == http.StatusNotFound:
		return nil, fmt.Errorf("%w: %s", ErrChannelNotFound, ref.ChannelID)
	case err != nil:
		return nil, public(err)
	}
	return conn, nil
}

// channelSet holds the channels that a client has open, so that closing the client closes
// them.
type channelSet struct {
	mu     sync.Mutex
	open   map[*channelEnd]struct{}
	closed bool
}

func (s *channelSet) add(e *channelEnd) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.open == nil {
		s.open = map[*channelEnd]struct{}{}
	}
	s.open[e] = struct{}{}
	return true
}

func (s *channelSet) remove(e *channelEnd) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, e)
}

// close aborts all channels and prevents new ones from being opened.
func (s *channelSet) close() {
	s.mu.Lock()
	s.closed = true
	open := make([]*channelEnd, 0, len(s.open))
	for e := range s.open {
		open = append(open, e)
	}
	s.mu.Unlock()
	for _, e := range open {
		e.abort()
	}
}

// ChannelRefAt is a reference to a channel together with its position in a payload.
type ChannelRefAt struct {
	// Path locates the reference: "a.b[0].c" is member c of the first element of
	// member b of member a; "" is the payload itself. Keys are not escaped, so keys
	// that contain dots or brackets make the path ambiguous.
	Path string
	// Ref is the reference, with which [Client.OpenReader] or [Client.OpenWriter] opens the
	// channel.
	Ref StreamChannelRef
}

// ChannelRefs returns the channel references in a payload, in document order. A
// reference is any object, at any depth, whose members channel_id, access_key and
// direction are strings; the inside of a reference is not searched. ChannelRefs
// returns nil if there are none or if the payload is not valid JSON.
func ChannelRefs(payload json.RawMessage) []ChannelRefAt {
	if !rawjson.Valid(payload) {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(payload))
	decoder.UseNumber()
	s := refScan{decoder: decoder}
	for s.next() {
	}
	return s.found
}

// refScan reads a document once, token by token and without recursion, so deep nesting does
// not use the stack.
type refScan struct {
	decoder *json.Decoder
	open    []refLevel // the objects and lists around the next token
	found   []ChannelRefAt
}

// refLevel is an object or a list that is still open.
type refLevel struct {
	object   bool
	inValue  bool   // in an object: key is set and its value comes next
	key      string // in an object
	index    int    // in a list
	ref      StreamChannelRef
	strings  uint8 // which members of ref are strings
	children int   // references found before it began
}

const (
	hasChannelID = 1 << iota
	hasAccessKey
	hasDirection
	isChannelRef = hasChannelID | hasAccessKey | hasDirection
)

// next processes one token; it returns false at the end.
func (s *refScan) next() bool {
	token, err := s.decoder.Token()
	if err != nil {
		return false
	}
	if delim, ok := token.(json.Delim); ok {
		switch delim {
		case '{', '[':
			s.member("", false)
			s.open = append(s.open, refLevel{object: delim == '{', children: len(s.found)})
		default:
			s.close()
			s.done()
		}
		return true
	}
	text, isString := token.(string)
	if top := s.top(); isString && top != nil && top.object && !top.inValue {
		top.key, top.inValue = text, true
		return true
	}
	s.member(text, isString)
	s.done()
	return true
}

func (s *refScan) top() *refLevel {
	if len(s.open) == 0 {
		return nil
	}
	return &s.open[len(s.open)-1]
}

// member processes the beginning of a value. If a key occurs twice, the last value
// counts.
func (s *refScan) member(text string, isString bool) {
	top := s.top()
	if top == nil || !top.object {
		return
	}
	var bit uint8
	switch top.key {
	case "channel_id":
		bit, top.ref.ChannelID = hasChannelID, text
	case "access_key":
		bit, top.ref.AccessKey = hasAccessKey, text
	case "direction":
		bit, top.ref.Direction = hasDirection, StreamChannelDirection(text)
	}
	top.strings &^= bit
	if isString {
		top.strings |= bit
	}
}

// done processes the end of a value.
func (s *refScan) done() {
	switch top := s.top(); {
	case top == nil:
	case top.object:
		top.inValue = false
	default:
		top.index++
	}
}

// close processes the end of an object or a list.
func (s *refScan) close() {
	last := *s.top()
	s.open = s.open[:len(s.open)-1]
	if last.object && last.strings == isChannelRef {
		s.found = append(s.found[:last.children], ChannelRefAt{Path: s.path(), Ref: last.ref})
	}
}

// path returns the path of the value that was just closed.
func (s *refScan) path() string {
	var b strings.Builder
	for _, level := range s.open {
		switch {
		case !level.object:
			b.WriteString("[" + strconv.Itoa(level.index) + "]")
		case b.Len() > 0:
			b.WriteString("." + level.key)
		default:
			b.WriteString(level.key)
		}
	}
	return b.String()
}
