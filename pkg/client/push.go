package client

import (
	"context"
	"fmt"
	"time"

	"github.com/motto123/minigate/codec"
	"google.golang.org/protobuf/proto"
)

// Push is a message that came unasked.
type Push struct {
	Route string
	ID    uint64 // 0 where the gate wants no Ack
	Data  codec.DataType
	Name  string // protobuf full name of what Body holds; may be empty
	Body  []byte
}

// received is a push, and the connection that wants to know that it is handled.
type received struct {
	conn *conn
	Push
}

// Unmarshal reads what the push holds, protobuf or JSON.
func (p *Push) Unmarshal(out proto.Message) error {
	return read(p.Data, []byte(p.Name), p.Body, out)
}

// pushed queues a push. It belongs to the reader, which waits while the queue
// is full: the gate then learns from TCP that it is too fast.
func (n *conn) pushed(m *codec.Message) error {
	if n.opts.OnPush == nil {
		return nil
	}
	route := string(m.Route)
	if m.Compressed {
		var ok bool
		if route, ok = n.welcome.Sys.Dictionary.Route(m.Code); !ok {
			return fmt.Errorf("%w: a push with the unknown code %d", ErrProtocol, m.Code)
		}
	}
	r := received{conn: n, Push: Push{Route: route, ID: m.ID, Data: m.Data, Name: string(m.Name), Body: append([]byte(nil), m.Body...)}}
	select {
	case n.client.pushes <- r:
		return nil
	default:
	}
	// It is the handler that may be waiting for an answer now, which nobody reads
	// meanwhile: so not for ever.
	patience := time.NewTimer(n.opts.PushPatience)
	defer patience.Stop()
	select {
	case n.client.pushes <- r:
		return nil
	case <-patience.C:
		return ErrSlow
	case <-n.done:
		return n.ended()
	}
}

// handlePushes calls OnPush until the client ends; what is queued then is not
// handled any more, nor acknowledged. What came over a connection that is gone
// was received, and is handled, but its Ack would mean nothing to the next one.
func (c *Client) handlePushes() {
	for {
		select {
		case <-c.done:
			return
		case r := <-c.pushes:
			if err := c.opts.OnPush(r.Push); err == nil && r.ID != 0 {
				// The error is the connection's, which ends and says so itself.
				_ = r.conn.send(context.Background(), nil, r.Route, &codec.Message{Type: codec.Ack, ID: r.ID}, nil)
			}
		}
	}
}
