package events

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/sirupsen/logrus"

	"github.com/motto123/minigate/pkg/bus"
)

const (
	heartbeat      = 10 * time.Second
	dialTimeout    = 5 * time.Second
	writeTimeout   = 5 * time.Second
	reconnectFirst = 100 * time.Millisecond
	reconnectMost  = 3 * time.Second
)

// publisher is one connection and one channel with pipelined confirms, which
// comes back by itself. See the package comment for why it is not watermill's.
type publisher struct {
	url string
	log logrus.Ext1FieldLogger
	// declare is called with each new connection, before anything is published.
	declare func(*amqp.Connection) error
	places  chan struct{} // taken by each message that is not confirmed

	mu      sync.Mutex
	channel *amqp.Channel // nil while there is none, or while the broker blocks
	change  chan struct{} // closed and replaced when channel is set
	closed  bool
}

func newPublisher(url string, inFlight int, declare func(*amqp.Connection) error, log logrus.Ext1FieldLogger) *publisher {
	return &publisher{
		url: url, log: log, declare: declare,
		places: make(chan struct{}, inFlight),
		change: make(chan struct{}),
	}
}

// publish returns when the broker has confirmed p, or ctx has ended.
func (p *publisher) publish(ctx context.Context, exchange, key string, m amqp.Publishing) error {
	select {
	case p.places <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("%w: too many publishings wait: %w", bus.ErrUnavailable, ctx.Err())
	}
	defer func() { <-p.places }()
	channel, err := p.usable(ctx)
	if err != nil {
		return err
	}
	confirm, err := channel.PublishWithDeferredConfirm(exchange, key, false, false, m)
	switch {
	case errors.Is(err, amqp.ErrClosed):
		return fmt.Errorf("%w: %w", bus.ErrUnavailable, err)
	case err != nil:
		return fmt.Errorf("%w: %w", bus.ErrUnconfirmed, err)
	}
	acked, err := confirm.WaitContext(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", bus.ErrUnconfirmed, err)
	case acked:
		return nil
	case channel.IsClosed():
		return bus.ErrUnconfirmed
	}
	return bus.ErrRefused
}

// usable waits for a channel.
func (p *publisher) usable(ctx context.Context) (*amqp.Channel, error) {
	for {
		p.mu.Lock()
		channel, change, closed := p.channel, p.change, p.closed
		p.mu.Unlock()
		if closed {
			return nil, bus.ErrClosed
		}
		if channel != nil && !channel.IsClosed() {
			return channel, nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", bus.ErrUnavailable, ctx.Err())
		}
	}
}

// open reports whether publishing has a chance now.
func (p *publisher) open() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.channel != nil && !p.channel.IsClosed()
}

func (p *publisher) set(channel *amqp.Channel) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.channel = channel
	if channel != nil {
		close(p.change)
		p.change = make(chan struct{})
	}
}

// run keeps a connection until ctx ends. It returns an error only for what a new
// connection would not mend.
func (p *publisher) run(ctx context.Context, ready func()) error {
	defer func() {
		p.mu.Lock()
		p.closed, p.channel = true, nil
		close(p.change)
		p.mu.Unlock()
	}()
	delay, said := reconnectFirst, ""
	for ctx.Err() == nil {
		err := p.connected(ctx, func() {
			delay, said = reconnectFirst, ""
			if ready != nil {
				ready()
				ready = nil
			}
		})
		if unmendable(err) {
			return fmt.Errorf("events: %w", err)
		}
		if ctx.Err() != nil {
			break
		}
		wait := jitter(delay)
		level := logrus.WarnLevel
		if err.Error() == said {
			level = logrus.DebugLevel // once is enough of an outage
		}
		said = err.Error()
		p.log.WithError(err).WithField("retry_in", wait).Log(level, "events: no connection to the broker")
		delay = min(delay*2, reconnectMost)
		pause(ctx, wait)
	}
	return nil
}

// connected holds one connection until it is lost or ctx ends.
func (p *publisher) connected(ctx context.Context, up func()) (err error) {
	connection, err := amqp.DialConfig(p.url, amqp.Config{
		Heartbeat:  heartbeat,
		Properties: amqp.Table{"connection_name": "events"},
		Dial:       dialer(ctx),
	})
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() {
		if e := connection.CloseDeadline(time.Now().Add(dialTimeout)); e != nil && !errors.Is(e, amqp.ErrClosed) && err == nil {
			err = fmt.Errorf("disconnect: %w", e)
		}
	}()
	lost := connection.NotifyClose(make(chan *amqp.Error, 1))
	blocked := connection.NotifyBlocked(make(chan amqp.Blocking, 8))
	if err := p.declare(connection); err != nil {
		return err
	}
	channel, err := connection.Channel()
	if err != nil {
		return fmt.Errorf("open channel: %w", err)
	}
	broken := channel.NotifyClose(make(chan *amqp.Error, 1))
	if err := channel.Confirm(false); err != nil {
		return fmt.Errorf("ask for confirms: %w", err)
	}
	p.set(channel)
	defer p.set(nil)
	up()
	for {
		select {
		case e := <-broken:
			// For example because the exchange was deleted: declare again. Whatever was
			// wrong was so with a message, and not with what is declared (see unmendable).
			return fmt.Errorf("channel lost: %v", asError(e))
		case e := <-lost:
			return fmt.Errorf("connection lost: %w", asError(e))
		case b, ok := <-blocked:
			switch {
			case !ok:
				blocked = nil
			case b.Active:
				p.log.WithField("reason", b.Reason).Warn("events: the broker takes no messages")
				p.set(nil)
			default:
				p.set(channel)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// asError turns the nil of a channel that was closed without a reason into an
// error that is one.
func asError(e *amqp.Error) error {
	if e == nil {
		return amqp.ErrClosed
	}
	return e
}

// unmendable errors are the broker's answer to what we declare. Not the others
// of their kind: amqp091 takes a connection that is lost in the middle of its
// handshake for a wrong password.
func unmendable(err error) bool {
	var e *amqp.Error
	return errors.As(err, &e) && e.Server && (e.Code == amqp.PreconditionFailed || e.Code == amqp.AccessRefused)
}

// dialer bounds the dial, and each write: a peer that reads nothing any more
// must not hold a publisher for longer.
func dialer(ctx context.Context) func(network, address string) (net.Conn, error) {
	return func(network, address string) (net.Conn, error) {
		d := net.Dialer{Timeout: dialTimeout}
		c, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		// The handshake's bound; amqp091 lifts it when the connection is open.
		if err := c.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		return impatient{c}, nil
	}
}

type impatient struct{ net.Conn }

func (c impatient) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// jitter is between half of d and d, so that all who lost the same broker do not
// come back at once.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1)
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
