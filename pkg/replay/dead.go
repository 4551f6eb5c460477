package replay

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/tape"
)

// deadSource reads the requests among the dead letters of an installation as if they
// were a tape without answers: the number of a letter is its offset. It takes none away: the broker gives
// all of them back into their places when the reading ends, however it does.
type deadSource struct {
	conn     *amqp.Connection
	topology bus.Topology
}

// OpenDead opens the dead-letter queue of an installation for reading.
func OpenDead(url string, t bus.Topology) (tape.Source, error) {
	conn, err := dial(url, t.Prefix()+" replay dead")
	if err != nil {
		return nil, err
	}
	return &deadSource{conn, t}, nil
}

func (s *deadSource) Close() error { return closing(s.conn) }

// Read implements tape.Source. While it reads nobody else sees the letters that it has
// read. follow has no meaning here.
func (s *deadSource) Read(ctx context.Context, start tape.Start, _ bool, each func(*tape.Entry) error) (err error) {
	channel, err := s.conn.Channel()
	if err != nil {
		return fmt.Errorf("replay: read dead letters: %w", err)
	}
	defer func() { err = errors.Join(err, closing(channel)) }()
	queue, err := channel.QueueDeclarePassive(s.topology.DeadQueue(), true, false, false, false, nil)
	if missing(err) {
		return fmt.Errorf("replay: there is no queue %s", s.topology.DeadQueue())
	}
	if err != nil {
		return fmt.Errorf("replay: read dead letters: %w", err)
	}
	for offset := range int64(queue.Messages) { // and not what it gets meanwhile
		if ctx.Err() != nil {
			return nil
		}
		d, ok, err := channel.Get(s.topology.DeadQueue(), false)
		if err != nil {
			return fmt.Errorf("replay: read dead letters: %w", err)
		}
		if !ok {
			return nil
		}
		if start.Position != nil && offset < start.Position.Offset || !s.isRequests(&d) {
			continue
		}
		if err := each(&tape.Entry{
			Position: tape.Position{Offset: offset}, Kind: tape.Requests, Time: died(&d), Redelivered: true, Envelope: d.Body,
		}); err != nil {
			return err
		}
	}
	return nil
}

// isRequests tells requests from events, and from what can not be read.
func (s *deadSource) isRequests(d *amqp.Delivery) bool {
	var h bus.Header
	if bus.ReadRequests(d.Body, &h, func(*bus.Request) error { return nil }) != nil || h.Gate == "" || !bus.ValidRoute(h.Route) {
		return false
	}
	return strings.HasPrefix(d.RoutingKey, s.topology.WorkerQueue(bus.Service(h.Route)))
}

// died is when a letter became one.
func died(d *amqp.Delivery) time.Time {
	if deaths, ok := d.Headers["x-death"].([]any); ok && len(deaths) > 0 {
		if last, ok := deaths[0].(amqp.Table); ok {
			if at, ok := last["time"].(time.Time); ok {
				return at
			}
		}
	}
	return d.Timestamp
}
