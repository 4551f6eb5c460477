package client

import (
	"context"
	"errors"
	"time"

	"github.com/motto123/minigate/codec"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// errNotSent: the connection had ended before the message was queued.
var errNotSent = errors.New("client: not sent")

// send queues a message to be written; in, if any, becomes its body. Where call
// is not nil the message gets an id, and call is what waits for its answer. With
// errNotSent, m may be sent over another connection.
func (n *conn) send(ctx context.Context, call *call, route string, m *codec.Message, in proto.Message) error {
	if ctx.Err() != nil {
		return ended(ctx, route)
	}
	if code, ok := n.welcome.Sys.Dictionary.CodeOf(route); ok {
		m.Compressed, m.Code = true, code
	} else {
		m.Compressed, m.Route = false, []byte(route)
	}
	if err := n.reserve(ctx, route); err != nil {
		return err
	}
	defer n.mu.Unlock()
	if call != nil {
		m.ID = n.nextID()
	}
	if err := n.append(m, in); err != nil {
		return err
	}
	if call != nil {
		n.calls[m.ID] = call
	}
	n.signal()
	return nil
}

// reserve waits until there is room in the queue, and returns with n.mu held
// where it returns nil.
func (n *conn) reserve(ctx context.Context, route string) error {
	n.mu.Lock()
	for n.err == nil && len(n.out) >= n.opts.WriteQueue {
		if n.room == nil {
			n.room = make(chan struct{})
		}
		room := n.room
		n.mu.Unlock()
		select {
		case <-room:
		case <-n.done:
		case <-ctx.Done():
			return ended(ctx, route)
		}
		n.mu.Lock()
	}
	if n.err != nil {
		n.mu.Unlock()
		return errNotSent
	}
	return nil
}

// nextID is never 0, and no id of a call that waits. n.mu is held.
func (n *conn) nextID() uint64 {
	for {
		n.lastID++
		if _, taken := n.calls[n.lastID]; n.lastID != 0 && !taken {
			return n.lastID
		}
	}
}

// append encodes a message into the queue, body and all, without another copy.
// n.mu is held.
func (n *conn) append(m *codec.Message, in proto.Message) error {
	start := len(n.out)
	out := codec.BeginPacket(n.out, codec.Data, 0)
	out, err := codec.AppendMessage(out, m)
	if err == nil && in != nil {
		out, err = proto.MarshalOptions{}.MarshalAppend(out, in)
	}
	if err != nil {
		return &Error{code: codes.InvalidArgument, Message: "the message can not be written", cause: err}
	}
	limit := n.welcome.maxMessage()
	if n.opts.NoFragments {
		limit = min(limit, codec.MaxBody)
	}
	if len(out)-start-codec.HeaderSize > limit {
		return &Error{code: codes.ResourceExhausted, Message: "the message is too large for this connection", cause: codec.ErrMessageSize}
	}
	out, err = codec.EndFragments(out, start)
	if err != nil {
		return &Error{code: codes.ResourceExhausted, Message: "the message is too large", cause: err}
	}
	n.out = out
	return nil
}

func (n *conn) signal() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// queueControl takes a WebSocket control frame to write. Of a flood of pings
// some stay unanswered, which RFC 6455, 5.5.3 allows.
func (n *conn) queueControl(frame []byte) {
	n.mu.Lock()
	if len(n.control)+len(frame) <= keepControlBytes {
		n.control = append(n.control, frame...)
	}
	n.mu.Unlock()
	n.signal()
}

// write writes what is queued, all that has come together at once, and a
// heartbeat as often as the gate wants one. It ends with the connection, which
// it closes.
func (n *conn) write() {
	defer func() { _ = n.transport.Close() }() // why it ends is known already
	var beat <-chan time.Time
	if interval := n.welcome.interval(); interval > 0 {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		beat = ticker.C
	}
	var packets, control []byte
	for {
		ending := false
		select {
		case <-n.wake:
		case <-beat:
			n.mu.Lock()
			n.out = codec.BeginPacket(n.out, codec.Heartbeat, 0)
			n.mu.Unlock()
		case <-n.done:
			ending = true
		}
		if ending && n.ended() != ErrClosed {
			return
		}
		packets, control = n.take(packets, control)
		if len(packets)+len(control) > 0 {
			if err := n.transport.Write(packets, control); err != nil {
				n.end(err)
				return
			}
		}
		if ending {
			_ = n.transport.Goodbye() // a courtesy
			return
		}
	}
}

// take swaps the queue for the buffers of the last one.
func (n *conn) take(packets, control []byte) (_, _ []byte) {
	if cap(packets) > keepWriteBuffer {
		packets = nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.out, packets = packets[:0], n.out
	n.control, control = control[:0], n.control
	if n.room != nil {
		close(n.room)
		n.room = nil
	}
	return packets, control
}
