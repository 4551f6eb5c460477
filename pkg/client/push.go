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

// Unmarshal reads what the push holds, protobuf or JSON.
func (p *Push) Unmarshal(out proto.Message) error {
	return read(p.Data, []byte(p.Name), p.Body, out)
}

// pushed queues a push. It belongs to the reader, which waits while the queue
// is full: the gate then learns from TCP that it is too fast.
func (c *Client) pushed(m *codec.Message) error {
	if c.opts.OnPush == nil {
		return nil
	}
	route := string(m.Route)
	if m.Compressed {
		var ok bool
		if route, ok = c.welcome.Sys.Dictionary.Route(m.Code); !ok {
			return fmt.Errorf("%w: a push with the unknown code %d", ErrProtocol, m.Code)
		}
	}
	p := Push{Route: route, ID: m.ID, Data: m.Data, Name: string(m.Name), Body: append([]byte(nil), m.Body...)}
	select {
	case c.pushes <- p:
		return nil
	default:
	}
	// It is the handler that may be waiting for an answer now, which nobody reads
	// meanwhile: so not for ever.
	patience := time.NewTimer(c.opts.PushPatience)
	defer patience.Stop()
	select {
	case c.pushes <- p:
		return nil
	case <-patience.C:
		return ErrSlow
	case <-c.done:
		return c.Err()
	}
}

// handlePushes calls OnPush until the connection ends; what is queued then is
// not handled any more, nor acknowledged.
func (c *Client) handlePushes() {
	for {
		select {
		case <-c.done:
			return
		case p := <-c.pushes:
			if err := c.opts.OnPush(p); err == nil && p.ID != 0 {
				// The error is the connection's, which ends and says so itself.
				_ = c.send(context.Background(), nil, p.Route, &codec.Message{Type: codec.Ack, ID: p.ID}, nil)
			}
		}
	}
}
