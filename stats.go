package iii

// ClientStats are counters since New, and sizes at the moment.
type ClientStats struct {
	FramesSent      uint64 // messages written
	FramesReceived  uint64 // messages read
	BytesSent       uint64 // bytes of the messages written
	FramesMalformed uint64 // received messages that did not decode
	Reconnects      uint64 // connections after the first that became ready

	CallsInFlight     int // calls that wait for their answer
	HandlersRunning   int // handlers that run
	InvocationsQueued int // invocations that wait for a handler to end
	Buffered          int // requests that wait for a connection
	BufferedBytes     int // their size in bytes

	SendsConfirmed uint64 // messages of Send that the engine has read
	SendsUnknown   uint64 // written to a connection that died before it confirmed them
	SendsDropped   uint64 // accepted while not connected and never sent, since the client ended
	RepliesDropped uint64 // answers whose connection was gone
	LateResults    uint64 // answers that no call waited for any more
	Overloaded     uint64 // invocations refused because too many waited

	FunctionsRefused int // functions that another worker holds at the moment ([Function.Err])
}

// Stats reads the counters, each by itself: they need not be of one moment.
func (c *Client) Stats() ClientStats {
	s := &c.out.stats
	stats := ClientStats{
		FramesSent:     s.framesSent.Load(),
		BytesSent:      s.bytesSent.Load(),
		SendsConfirmed: s.sendsConfirmed.Load(),
		SendsUnknown:   s.sendsLost.Load(),
		SendsDropped:   s.sendsDropped.Load(),
		RepliesDropped: s.repliesDropped.Load(),
		LateResults:    s.lateResults.Load(),
		Overloaded:     c.dispatch.overloaded.Load(),
		FramesReceived: c.received.Load(),
	}
	stats.FunctionsRefused = c.registry.refusedFunctions()
	stats.CallsInFlight, stats.Buffered, stats.BufferedBytes = c.out.counts()
	stats.HandlersRunning, stats.InvocationsQueued = c.dispatch.counts()
	stats.FramesMalformed = c.malformed.Load()
	c.mu.Lock()
	stats.Reconnects = c.reconnects
	c.mu.Unlock()
	return stats
}
