package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/motto123/minigate/pkg/bus"
)

// Target is the installation whose workers get the calls, as the broker knows it.
type Target struct {
	conn     *amqp.Connection
	topology bus.Topology
}

// OpenTarget looks whether there is such an installation. It makes nothing on the
// broker.
func OpenTarget(url string, t bus.Topology) (*Target, error) {
	conn, err := dial(url, t.Prefix()+" replay")
	if err != nil {
		return nil, err
	}
	target := &Target{conn, t}
	err = target.channel(func(c *amqp.Channel) error {
		return c.ExchangeDeclarePassive(t.RequestExchange(), amqp.ExchangeTopic, true, false, false, false, nil)
	})
	if missing(err) {
		err = fmt.Errorf("replay: %w under the prefix %s: nothing has ever run with it; start a worker there: %s",
			ErrNoWorker, t.Prefix(), start("chat", t))
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return target, nil
}

// Check says whether somebody takes the requests of a service: a worker that has
// stopped leaves its queue, in which they would wait for it.
func (t *Target) Check(_ context.Context, service string) error {
	name := t.topology.WorkerQueue(service)
	var queue amqp.Queue
	err := t.channel(func(c *amqp.Channel) (err error) {
		queue, err = c.QueueDeclarePassive(name, true, false, false, false, nil)
		return err
	})
	switch {
	case missing(err): // the broker says of each route whether it has one
		return nil
	case err != nil:
		return fmt.Errorf("replay: look at the queue %s: %w", name, err)
	case queue.Consumers == 0:
		return fmt.Errorf("replay: %w of %s under the prefix %s: the queue %s has no consumer; start a worker there: %s",
			ErrNoWorker, service, t.topology.Prefix(), name, start(service, t.topology))
	}
	return nil
}

// CheckGate says whether a gate that was recorded is there: then this is the
// installation that was recorded, whatever it was called by.
func (t *Target) CheckGate(_ context.Context, gate string) error {
	name := t.topology.GateQueue(gate)
	err := t.channel(func(c *amqp.Channel) error {
		_, err := c.QueueDeclarePassive(name, true, false, false, false, nil)
		return err
	})
	switch {
	case missing(err):
		return nil
	case err != nil && !locked(err): // another's for sure
		return fmt.Errorf("replay: look at the queue %s: %w", name, err)
	}
	return errProduction(t.topology)
}

// Forget removes the queue of a gate that has ended. It would go by itself a minute
// later.
func (t *Target) Forget(gate string) error {
	return t.channel(func(c *amqp.Channel) error {
		_, err := c.QueueDelete(t.topology.GateQueue(gate), false, false, false)
		return err
	})
}

// Close ends the connection.
func (t *Target) Close() error { return closing(t.conn) }

// channel runs f on a channel of its own: the broker closes one on which something was
// missing.
func (t *Target) channel(f func(*amqp.Channel) error) error {
	c, err := t.conn.Channel()
	if err != nil {
		return fmt.Errorf("open a channel: %w", err)
	}
	if err := f(c); err != nil {
		_ = c.Close() // it may be closed already
		return err
	}
	return closing(c)
}

const dialTime = 10 * time.Second

func dial(address, name string) (*amqp.Connection, error) {
	if _, err := amqp.ParseURI(address); err != nil {
		if whole := (*url.Error)(nil); errors.As(err, &whole) {
			err = whole.Err // without the URL, which has a password in it
		}
		return nil, fmt.Errorf("replay: broker URL: %w", err)
	}
	properties := amqp.NewConnectionProperties()
	properties.SetClientConnectionName(name)
	conn, err := amqp.DialConfig(address, amqp.Config{Properties: properties, Dial: amqp.DefaultDial(dialTime)})
	if err != nil {
		return nil, fmt.Errorf("replay: connect to RabbitMQ: %w", err)
	}
	return conn, nil
}

func missing(err error) bool {
	reason := new(amqp.Error)
	return errors.As(err, &reason) && reason.Code == amqp.NotFound
}

func locked(err error) bool {
	reason := new(amqp.Error)
	return errors.As(err, &reason) && reason.Code == amqp.ResourceLocked
}

// closing closes what the broker may have closed already.
func closing(c io.Closer) error {
	if err := c.Close(); err != nil && !errors.Is(err, amqp.ErrClosed) {
		return fmt.Errorf("replay: close: %w", err)
	}
	return nil
}
