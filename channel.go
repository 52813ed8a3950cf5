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
	// ErrChannelNotFound means that the engine has no channel with the given id and key.
	// Either the channel never existed, or both of its ends are closed, or one end was not
	// opened within five minutes.
	ErrChannelNotFound = errors.New("iii: channel not found")

	// ErrChannelClosed means that this end is closed, or that the other end has disconnected
	// and accepts no more data.
	ErrChannelClosed = errors.New("iii: channel is closed")

	// ErrChannelBacklog means that the program reads only bytes or only messages from the
	// channel, and that too much unread data of the other kind has accumulated.
	ErrChannelBacklog = errors.New("iii: channel has too much unread data")
)

// channelChunk is the maximum frame size in bytes. Larger writes are split.
const channelChunk = 64 << 10

// ChannelOption configures a new channel.
type ChannelOption func(*ChannelCreateInput) error

// WithChannelBuffer sets how many frames the engine buffers between the two ends: 1 to 1024,
// 64 by default. Writes block once this buffer and the socket buffers between the workers and
// the engine are full.
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

// CreateChannel creates a one-way channel inside the engine. Frames arrive at the reader in
// the order in which they were written. Use one end locally, and pass the other end's Ref to
// another worker in a payload or a result. That worker opens it with [Client.OpenReader] or
// [Client.OpenWriter]. An end connects when it is first used, and each end can be opened only
// once, so do not use an end locally after passing on its Ref. A channel outlives the
// connection of the worker that created it.
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

// OpenWriter connects to the writing end of a channel. ctx applies only to opening the
// channel. If the channel does not exist, the error matches [ErrChannelNotFound]. If another
// writer has already opened this end, a later Write fails, but not necessarily the first one:
// the engine disconnects the second writer, and the client notices the disconnect only after a
// delay. A reference to the reading end is rejected, because data written through it would be
// lost.
func (c *Client) OpenWriter(ctx context.Context, ref StreamChannelRef) (*ChannelWriter, error) {
	w := newChannelWriter(c, ref)
	if err := w.end.open(ctx, "write"); err != nil {
		return nil, err
	}
	return w, nil
}

// OpenReader connects to the reading end of a channel; see [Client.OpenWriter]. If another
// reader has already opened this end, the first Read returns io.EOF. A reference to the
// writing end is rejected, because no data would ever arrive.
func (c *Client) OpenReader(ctx context.Context, ref StreamChannelRef) (*ChannelReader, error) {
	r := newChannelReader(c, ref)
	if err := r.open(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// channelEnd holds what readers and writers have in common: a socket that is opened once.
type channelEnd struct {
	client     *Client
	ref        StreamChannelRef
	sendBuffer int // size of the socket's send buffer; 0 means the system default

	mu      sync.Mutex
	conn    *wsconn.Conn
	opened  bool  // opening has succeeded or failed
	failed  error // why opening failed
	given   bool  // Ref was called before the end was opened
	closed  bool
	attempt chan struct{}      // closed when the connection attempt finishes; nil before it starts
	stop    context.CancelFunc // cancels the attempt; nil before it starts
	pumping sync.WaitGroup     // the goroutines that connect and read the socket
	onOpen  func(*wsconn.Conn)
}

// channelLock is a mutex whose acquisition can be canceled by a context.
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

// channelDeadline is a deadline that can be moved while goroutines wait for it.
type channelDeadline struct {
	mu    sync.Mutex
	timer *time.Timer
	over  context.Context // done when the deadline passes
	end   context.CancelFunc
}

// passed returns a context that is done when the deadline passes. If the deadline is moved
// before it passes, the context follows the new deadline.
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
		if d.timer == timer { // the deadline has not been moved
			d.end()
		}
	})
	d.timer = timer
}

// open connects on the first call. The attempt continues after ctx is canceled: the engine
// lets each end be opened only once, and this attempt may already have opened it. The next
// caller receives the attempt's outcome.
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
	case e.closed: // abort has canceled the attempt
		e.failed = ErrChannelClosed
	case e.client.handlers.Err() != nil, err == nil && !e.client.channels.add(e):
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

// openWithin is like open, but gives up when the deadline d passes or limit has elapsed. A
// limit of 0 means no limit.
func (e *channelEnd) openWithin(ctx context.Context, d *channelDeadline, limit time.Duration, direction string) error {
	if settled, err := e.settled(); settled {
		return err
	}
	opening, cancel := context.WithCancel(ctx)
	if limit > 0 {
		opening, cancel = context.WithTimeout(ctx, limit)
	}
	defer cancel()
	defer context.AfterFunc(d.passed(), cancel)()
	err := e.open(opening, direction)
	if err != nil && opening.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("iii: channel %s: %w", direction, os.ErrDeadlineExceeded)
	}
	return err
}

// settled reports whether the attempt to open the end has finished, and returns the attempt's
// error, if any.
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

// socket returns the connection, or nil if the end is not open yet.
func (e *channelEnd) socket() *wsconn.Conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.conn
}

// reference implements Ref. If the end is not open yet, it is left for the reference's
// recipient to open, and Close does not open it.
func (e *channelEnd) reference() StreamChannelRef {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.opened {
		e.given = true
	}
	return e.ref
}

// abort closes the socket immediately, cancels a connection attempt in progress, and waits for
// the goroutine that reads the socket.
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

// Sizes of read buffers. Long messages bypass the buffer. A writing end has a small buffer,
// because it receives only control frames, and a worker may have thousands of writing ends.
const (
	channelReadBuffer    = 16 << 10
	channelControlBuffer = 1 << 10
)

// dialChannel opens the socket of one end. The socket is unbuffered, so a writer blocks while
// the channel is full.
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
	if d.ReadBuffer = channelReadBuffer; direction == "write" {
		d.ReadBuffer = channelControlBuffer
	}
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

// channelSet tracks a client's open channels. Closing the client closes them.
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

// ChannelRefAt is a reference to a channel and its position in a payload.
type ChannelRefAt struct {
	// Path is the position of the reference: "a.b[0].c" is member c of the first element of
	// member b of member a, and "" is the payload itself. Keys are not escaped, so a path is
	// ambiguous if a key contains dots or brackets.
	Path string
	// Ref is the reference. Pass it to [Client.OpenReader] or [Client.OpenWriter].
	Ref StreamChannelRef
}

// ChannelRefs returns the channel references in a payload, in document order. A reference is
// an object, at any depth, whose members channel_id, access_key and direction are strings.
// ChannelRefs does not search inside references. It returns nil if the payload contains no
// references or is not valid JSON.
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

// refScan scans a document token by token. It does not recurse, so deep nesting cannot exhaust
// the stack.
type refScan struct {
	decoder *json.Decoder
	open    []refLevel // the objects and arrays that enclose the next token
	found   []ChannelRefAt
}

// refLevel is an object or array that is still open.
type refLevel struct {
	object   bool
	inValue  bool   // in an object: key has been read, its value has not
	key      string // only in an object
	index    int    // only in an array
	ref      StreamChannelRef
	strings  uint8 // which members of ref are strings, as a bit set
	children int   // number of references found before this level
}

const (
	hasChannelID = 1 << iota
	hasAccessKey
	hasDirection
	isChannelRef = hasChannelID | hasAccessKey | hasDirection
)

// next processes one token. It returns false at the end of the document.
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

// member processes the beginning of a value. If a key occurs twice, the last value wins.
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

// close processes the end of an object or array.
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
