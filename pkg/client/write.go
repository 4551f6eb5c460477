package client

import (
	"context"
	"time"

	"github.com/motto123/minigate/codec"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// send queues a message to be written; in, if any, becomes its body. Where call
// is not nil the message gets an id, and call is what waits for its answer.
func (c *Client) send(ctx context.Context, call *call, route string, m *codec.Message, in proto.Message) error {
	if ctx.Err() != nil {
		return ended(ctx, route)
	}
	if code, ok := c.welcome.Sys.Dictionary.CodeOf(route); ok {
		m.Compressed, m.Code = true, code
	} else {
		m.Route = []byte(route)
	}
	if err := c.reserve(ctx, route); err != nil {
		return err
	}
	defer c.mu.Unlock()
	if call != nil {
		m.ID = c.nextID()
	}
	if err := c.append(m, in); err != nil {
		return err
	}
	if call != nil {
		c.calls[m.ID] = call
	}
	c.signal()
	return nil
}

// reserve waits until there is room in the queue, and returns with c.mu held
// where it returns nil.
func (c *Client) reserve(ctx context.Context, route string) error {
	c.mu.Lock()
	for c.err == nil && len(c.out) >= c.opts.WriteQueue {
		if c.room == nil {
			c.room = make(chan struct{})
		}
		room := c.room
		c.mu.Unlock()
		select {
		case <-room:
		case <-c.done:
		case <-ctx.Done():
			return ended(ctx, route)
		}
		c.mu.Lock()
	}
	if c.err != nil {
		defer c.mu.Unlock()
		return c.failure()
	}
	return nil
}

// nextID is never 0, and no id of a call that waits. c.mu is held.
func (c *Client) nextID() uint64 {
	for {
		c.lastID++
		if _, taken := c.calls[c.lastID]; c.lastID != 0 && !taken {
			return c.lastID
		}
	}
}

// append encodes a message into the queue, body and all, without another copy.
// c.mu is held.
func (c *Client) append(m *codec.Message, in proto.Message) error {
	start := len(c.out)
	out := codec.BeginPacket(c.out, codec.Data, 0)
	out, err := codec.AppendMessage(out, m)
	if err == nil && in != nil {
		out, err = proto.MarshalOptions{}.MarshalAppend(out, in)
	}
	if err != nil {
		return &Error{code: codes.InvalidArgument, Message: "the message can not be written", cause: err}
	}
	limit := c.welcome.maxMessage()
	if c.opts.NoFragments {
		limit = min(limit, codec.MaxBody)
	}
	if len(out)-start-codec.HeaderSize > limit {
		return &Error{code: codes.ResourceExhausted, Message: "the message is too large for this connection", cause: codec.ErrMessageSize}
	}
	out, err = codec.EndFragments(out, start)
	if err != nil {
		return &Error{code: codes.ResourceExhausted, Message: "the message is too large", cause: err}
	}
	c.out = out
	return nil
}

func (c *Client) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// queueControl takes a WebSocket control frame to write. Of a flood of pings
// some stay unanswered, which RFC 6455, 5.5.3 allows.
func (c *Client) queueControl(frame []byte) {
	c.mu.Lock()
	if len(c.control)+len(frame) <= keepControlBytes {
		c.control = append(c.control, frame...)
	}
	c.mu.Unlock()
	c.signal()
}

// write writes what is queued, all that has come together at once, and a
// heartbeat as often as the gate wants one. It ends with the connection, which
// it closes.
func (c *Client) write() {
	defer func() { _ = c.transport.Close() }() // why it ends is known already
	var beat <-chan time.Time
	if interval := c.welcome.interval(); interval > 0 {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		beat = ticker.C
	}
	var packets, control []byte
	for {
		ending := false
		select {
		case <-c.wake:
		case <-beat:
			c.mu.Lock()
			c.out = codec.BeginPacket(c.out, codec.Heartbeat, 0)
			c.mu.Unlock()
		case <-c.done:
			ending = true
		}
		if ending && c.Err() != ErrClosed {
			return
		}
		packets, control = c.take(packets, control)
		if len(packets)+len(control) > 0 {
			if err := c.transport.Write(packets, control); err != nil {
				c.end(err)
				return
			}
		}
		if ending {
			_ = c.transport.Goodbye() // a courtesy
			return
		}
	}
}

// take swaps the queue for the buffers of the last one.
func (c *Client) take(packets, control []byte) (_, _ []byte) {
	if cap(packets) > keepWriteBuffer {
		packets = nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out, packets = packets[:0], c.out
	c.control, control = control[:0], c.control
	if c.room != nil {
		close(c.room)
		c.room = nil
	}
	return packets, control
}
