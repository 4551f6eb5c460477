package mem

import (
	"sync/atomic"
	"time"

	"github.com/motto123/minigate/pkg/bus"
)

// publisher has no state but whether it is closed: a message is in its queues
// when Publish returns.
type publisher struct {
	bus    *Bus
	closed atomic.Bool
}

// Publisher opens a publisher.
func (b *Bus) Publisher() (bus.Publisher, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return nil, bus.ErrClosed
	}
	return &publisher{bus: b}, nil
}

// Publish puts a copy of m into every queue that its key leads to, and calls
// done before it returns. Where one of several queues is full, the others have
// the message and done gets ErrRefused, as with RabbitMQ.
//
// Hot path: one look-up, one lock a queue (BenchmarkRoundTrip).
func (p *publisher) Publish(m bus.Message, done func(error)) {
	meter := p.bus.meter
	if p.closed.Load() {
		meter.Refused(m.Exchange, bus.ErrClosed)
		done(bus.ErrClosed)
		return
	}
	traffic := meter.Of(m.Exchange)
	meter.Began(traffic, &m)
	err := p.bus.publish(m, time.Now())
	meter.Ended(traffic, err, 0) // there is nothing to wait for
	done(err)
}

// Close ends the publisher; nothing is outstanding, ever.
func (p *publisher) Close() error {
	p.closed.Store(true)
	return nil
}

func (b *Bus) publish(m bus.Message, sent time.Time) error {
	r, err := b.route(m.Exchange, m.Key)
	if err != nil {
		return err
	}
	routed, refused := false, false
	for _, q := range r.queues {
		switch q.put(r, m.Body, sent) {
		case taken:
			routed = true
		case full:
			routed, refused = true, true
		case deleted:
		}
	}
	switch {
	case refused:
		return bus.ErrRefused
	case !routed && len(r.queues) > 0 && b.State() == bus.Down:
		return bus.ErrClosed // while the queues were asked
	case !routed && !m.Optional:
		return bus.ErrNoRoute
	}
	return nil
}

// route returns where a key leads, or ErrNoRoute for an exchange that is none.
func (b *Bus) route(name, key string) (*route, error) {
	b.mu.RLock()
	e, closed := b.exchanges[name], b.closed
	var r *route
	if e != nil {
		r = e.routes[key]
	}
	b.mu.RUnlock()
	switch {
	case closed:
		return nil, bus.ErrClosed
	case e == nil:
		return nil, bus.ErrNoRoute
	case r != nil:
		return r, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return e.find(key), nil
}

// deadLetter moves a rejected message to where its queue's name leads.
func (b *Bus) deadLetter(q *queue, body []byte) {
	r, err := b.route(b.topology.DeadExchange(), q.spec.Name)
	if err != nil {
		return // closed: everything is gone anyway
	}
	for _, dead := range r.queues {
		dead.put(r, body, time.Time{})
	}
}
