package rabbit

import (
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/motto123/minigate/pkg/bus"
)

const (
	// maxUnconfirmed bounds what a publisher has under way. Publish waits beyond it.
	maxUnconfirmed = 16_384
	// maxKey is what AMQP can carry (0-9-1, section 4.2.5.3, short strings).
	maxKey = 255
)

// publisher has a channel of its own on the publishing connection, and with it
// an order of its own.
type publisher struct {
	bus *Bus

	// order is held while a message is written: the order of the calls is the
	// order on the wire, and amqp091 holds a lock of its own there anyway.
	order sync.Mutex
	next  uint64 // number of the next message; guarded by order

	mu          sync.Mutex
	change      sync.Cond // of anything below, and of the bus's state
	channel     *channel  // nil while there is none
	unconfirmed int
	closing     bool

	loops sync.WaitGroup // of each channel
	done  chan struct{}  // closed when Close is done
}

// Publisher opens a publisher. Where the broker is not there, it begins to work
// when the broker comes.
func (b *Bus) Publisher() (bus.Publisher, error) {
	p := &publisher{bus: b, done: make(chan struct{})}
	p.change.L = &p.mu
	b.mu.Lock()
	if b.isClosing() {
		b.mu.Unlock()
		return nil, bus.ErrClosed
	}
	b.publishers[p] = struct{}{}
	// From here on openPublishers sees it; a session that is there already, nobody
	// else opens it on.
	s, _ := b.publishing.session()
	b.mu.Unlock()
	if s == nil {
		return p, nil
	}
	if err := p.open(s, true); err != nil && !s.conn.IsClosed() {
		b.forget(p)
		return nil, fmt.Errorf("open publisher: %w", err)
	}
	// Where the connection was lost, openPublishers opens it on the next one.
	return p, nil
}

func (b *Bus) forget(p *publisher) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.publishers, p)
}

// openPublishers opens all publishers on a new session, and then publishes it.
func (b *Bus) openPublishers(s *session, publish func()) error {
	opened := make(map[*publisher]bool)
	for {
		var missing []*publisher
		b.mu.Lock()
		for p := range b.publishers {
			if !opened[p] {
				missing = append(missing, p)
			}
		}
		if len(missing) == 0 {
			publish()
			b.mu.Unlock()
			return nil
		}
		b.mu.Unlock()
		for _, p := range missing {
			if err := p.open(s, false); err != nil {
				return err
			}
			opened[p] = true
		}
	}
}

// open gives the publisher a channel on the session, and a goroutine that
// reports its confirms. The first one is not needed where the session was lost
// meanwhile and the next has given it one.
func (p *publisher) open(s *session, first bool) error {
	c, err := openChannel(s)
	if err != nil {
		return err
	}
	p.mu.Lock()
	if p.closing || first && p.channel != nil {
		p.mu.Unlock()
		return s.call(c.amqp.Close)
	}
	p.channel = c
	p.loops.Add(1)
	go p.serve(s, c)
	p.mu.Unlock()
	return nil
}

// serve reports what becomes of the messages on a channel. Where the broker
// closes the channel and not the connection, it opens another one.
func (p *publisher) serve(s *session, c *channel) {
	defer p.loops.Done()
	for attempt := 0; ; attempt++ {
		began := time.Now()
		c.run(p.report, p.lost)
		if time.Since(began) > stable {
			attempt = 0
		}
		p.detach(c)
		for {
			if s.conn.IsClosed() || p.isClosing() || !pause(attempt, s.lost, p.bus.closing) {
				return
			}
			var err error
			if c, err = openChannel(s); err == nil {
				break
			}
			p.bus.config.Report(fmt.Errorf("rabbit: reopen publisher: %w", err))
			attempt++
		}
		if !p.attach(c) {
			_ = s.call(c.amqp.Close)
			return
		}
	}
}

// detach takes a channel that is closed out of use. The next session may have
// given the publisher another one already.
func (p *publisher) detach(c *channel) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.channel == c {
		p.channel = nil
	}
	p.change.Broadcast()
}

// attach takes a reopened channel into use, unless the publisher is closed or
// has one on the next session.
func (p *publisher) attach(c *channel) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing || p.channel != nil {
		return false
	}
	p.channel = c
	return true
}

// Publish implements bus.Publisher. Calls of done keep the order of publishing,
// but for ErrUnavailable and ErrClosed, which come at once. A key over 255 bytes
// has no route, and a body over 16 MiB is refused.
//
// Hot path (BenchmarkBus/Publish).
func (p *publisher) Publish(m bus.Message, done func(error)) {
	p.order.Lock()
	c, err := p.begin()
	if err != nil {
		p.order.Unlock()
		p.bus.meter.Refused(m.Exchange, err)
		done(err)
		return
	}
	u := unconfirmed{done: done, traffic: p.bus.meter.Of(m.Exchange), began: time.Now()}
	p.bus.meter.Began(u.traffic, &m)
	switch {
	case !p.bus.exchanges[m.Exchange] || len(m.Key) > maxKey:
		u.err = bus.ErrNoRoute
	case len(m.Body) > bus.MaxBody:
		u.err = bus.ErrRefused
	default:
		p.write(c, m, &u)
	}
	taken := c.add(u)
	p.order.Unlock()
	if !taken {
		// The channel is gone, and all before this one have been reported.
		p.report(u, p.lost())
	}
}

// begin takes a place among the unconfirmed, and waits for one where there is
// none.
func (p *publisher) begin() (*channel, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.closing:
			return nil, bus.ErrClosed
		case p.channel == nil || p.bus.State() != bus.Up:
			return nil, bus.ErrUnavailable
		case p.unconfirmed < maxUnconfirmed:
			p.unconfirmed++
			return p.channel, nil
		}
		p.change.Wait()
	}
}

func (p *publisher) write(c *channel, m bus.Message, u *unconfirmed) {
	out := amqp.Publishing{Body: m.Body, DeliveryMode: amqp.Transient}
	if m.Persistent {
		out.DeliveryMode = amqp.Persistent
	}
	if !m.Optional {
		// The broker says with its number that it could not route a message.
		p.next++
		u.number = p.next
	}
	out.MessageId = messageID(u.number, u.began)
	if len(m.Headers) > 0 {
		out.Headers = make(amqp.Table, len(m.Headers))
		for name, text := range m.Headers {
			out.Headers[name] = text
		}
	}
	confirm, err := c.amqp.PublishWithDeferredConfirm(m.Exchange, m.Key, !m.Optional, false, out)
	switch {
	case err == nil:
		u.confirm = confirm
	case errors.Is(err, amqp.ErrClosed):
		u.err = bus.ErrUnavailable // nothing, or less than a message, was written
	default:
		u.err = bus.ErrUnconfirmed
	}
}

// report says what became of a message.
func (p *publisher) report(u unconfirmed, err error) {
	if u.err != nil {
		err = u.err
	}
	p.bus.meter.Ended(u.traffic, err, time.Since(u.began))
	u.done(err)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.unconfirmed--; p.unconfirmed == 0 || p.unconfirmed == maxUnconfirmed-1 {
		p.change.Broadcast()
	}
}

// lost is what became of a message whose channel is gone.
func (p *publisher) lost() error {
	if p.isClosing() {
		return bus.ErrClosed
	}
	return bus.ErrUnconfirmed
}

func (p *publisher) isClosing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closing
}

// nudge makes who waits for room look again at the state.
func (p *publisher) nudge() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.change.Broadcast()
}

// Close implements bus.Publisher. Where the confirms do not come in time, the
// broker does not answer any more, and the connection is cut.
func (p *publisher) Close() error {
	p.mu.Lock()
	if p.closing {
		p.mu.Unlock()
		<-p.done
		return nil
	}
	p.closing = true
	p.change.Broadcast()
	late := false
	timer := time.AfterFunc(closeTimeout, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		late = true
		p.change.Broadcast()
	})
	defer timer.Stop()
	for p.unconfirmed > 0 && !late && p.channel != nil {
		p.change.Wait()
	}
	c := p.channel
	p.mu.Unlock()
	switch {
	case c == nil:
	case late:
		c.session.cut()
	default:
		_ = c.session.call(c.amqp.Close) // an error says that it is gone already
	}
	p.loops.Wait()
	p.bus.forget(p)
	close(p.done)
	return nil
}
