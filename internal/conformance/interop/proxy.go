package main

import (
	"errors"
	"io"
	"net"
	"sync"
)

// proxy is a TCP proxy between a peer and the engine. It can cut connections.
type proxy struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu    sync.Mutex
	pairs map[*pair]struct{}
	done  bool
}

// pair is one connection through the proxy.
type pair struct {
	peer, engine net.Conn
	held         bool // keep the engine's side open after the peer's side is closed
}

// newProxy starts a proxy that forwards connections to target.
func newProxy(target string) (*proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: listener, target: target, pairs: map[*pair]struct{}{}}
	p.wg.Go(p.accept)
	return p, nil
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(conn) })
	}
}

func (p *proxy) serve(conn net.Conn) {
	engine, err := net.Dial("tcp", p.target)
	if err != nil {
		_ = conn.Close()
		return
	}
	c := &pair{peer: conn, engine: engine}
	p.mu.Lock()
	if p.done {
		p.mu.Unlock()
		_, _ = conn.Close(), engine.Close()
		return
	}
	p.pairs[c] = struct{}{}
	p.mu.Unlock()
	var copies sync.WaitGroup
	copies.Go(func() { _, _ = io.Copy(engine, conn); p.closePair(c) })
	copies.Go(func() { _, _ = io.Copy(conn, engine); p.closePair(c) })
	copies.Wait()
}

// closePair closes both sides of a pair, or only the peer's side if the engine's side is held.
func (p *proxy) closePair(c *pair) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = c.peer.Close()
	if !c.held {
		_ = c.engine.Close()
		delete(p.pairs, c)
	}
}

// cut resets the peer's side of all connections. If hold is set, the engine does not notice:
// its side of each connection stays open and idle until the proxy is closed.
func (p *proxy) cut(hold bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.pairs {
		c.held = c.held || hold
		if tcp, ok := c.peer.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // makes Close send a reset
		}
		_ = c.peer.Close()
		if !c.held {
			_ = c.engine.Close()
			delete(p.pairs, c)
		}
	}
}

// Close closes the proxy and all its connections.
func (p *proxy) Close() error {
	p.mu.Lock()
	p.done = true
	var errs []error
	errs = append(errs, p.listener.Close())
	for c := range p.pairs {
		errs = append(errs, ignoreClosed(c.peer.Close()), ignoreClosed(c.engine.Close()))
	}
	p.mu.Unlock()
	p.wg.Wait()
	return errors.Join(errs...)
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
