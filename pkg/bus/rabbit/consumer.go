package rabbit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/motto123/minigate/pkg/bus"
)

// maxPrefetch is what AMQP can carry (0-9-1, section 1.8.3.1, basic.qos).
const maxPrefetch = 65_535

// errLost: the broker ended the consumer or its channel. It is tried again.
var errLost = errors.New("the broker ended the consumer")

// Consume implements bus.Bus. A queue that exists with other properties, a
// binding to an exchange that the topology does not name, and a refused access
// are errors; everything else is tried again with backoff. After Close it
// returns ErrClosed.
func (b *Bus) Consume(ctx context.Context, spec bus.Consumer) error {
	for _, binding := range spec.Queue.Bindings {
		if !b.exchanges[binding.Exchange] {
			return fmt.Errorf("consume %s: there is no exchange %q", spec.Queue.Name, binding.Exchange)
		}
	}
	if spec.Prefetch <= 0 {
		spec.Prefetch = defaultPrefetch
	}
	if spec.Prefetch > maxPrefetch {
		return fmt.Errorf("consume %s: prefetch of %d: want at most %d", spec.Queue.Name, spec.Prefetch, maxPrefetch)
	}
	leave, err := b.enter()
	if err != nil {
		return err
	}
	defer leave()
	for attempt := 0; ; attempt++ {
		s, news := b.consuming.session()
		var err error
		began := time.Now()
		if s != nil {
			err = b.consumeOn(ctx, s, spec)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case b.isClosing():
			return bus.ErrClosed
		case s == nil:
			select {
			case <-news:
			case <-ctx.Done():
			case <-b.closing:
			}
			attempt = -1
			continue
		}
		var fatal *setupError
		if errors.As(err, &fatal) && fatal.permanent() {
			return fmt.Errorf("consume %s: %w", spec.Queue.Name, err)
		}
		if s.conn.IsClosed() {
			// The link reports that, and pauses before there is another session.
			select {
			case <-s.lost:
			case <-ctx.Done():
			case <-b.closing:
			}
			continue
		}
		b.config.Report(fmt.Errorf("rabbit: consume %s: %w", spec.Queue.Name, err))
		if time.Since(began) > stable {
			attempt = 0
		}
		pause(attempt, ctx.Done(), b.closing)
	}
}

// enter counts a Consume among those that Close waits for.
func (b *Bus) enter() (leave func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.isClosing() {
		return nil, bus.ErrClosed
	}
	done := make(chan struct{})
	b.consumers[done] = struct{}{}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.consumers, done)
		close(done)
	}, nil
}

// setupError: the broker refused a step on the way to consuming.
type setupError struct {
	step string
	err  error
}

func (e *setupError) Error() string { return e.step + ": " + e.err.Error() }
func (e *setupError) Unwrap() error { return e.err }

// permanent says that trying again does not help. NOT_FOUND is not among them: a
// durable queue whose node is down is not found either.
func (e *setupError) permanent() bool {
	var reason *amqp.Error
	return errors.As(e.err, &reason) && (reason.Code == amqp.PreconditionFailed || reason.Code == amqp.AccessRefused)
}

// consumeOn consumes on one session until ctx ends, the bus is closed or the
// channel is lost.
func (b *Bus) consumeOn(ctx context.Context, s *session, spec bus.Consumer) error {
	var ch *amqp.Channel
	var deliveries <-chan amqp.Delivery
	err := s.call(func() (err error) {
		ch, deliveries, err = b.subscribe(s, spec)
		return err
	})
	if err != nil {
		return err
	}
	a := newAcks(ctx, ch, b.meter)
	// The time for draining begins when ctx ends, even while Handle runs.
	var deadline time.Time
	var noted sync.WaitGroup
	noted.Add(1)
	stop := context.AfterFunc(ctx, func() {
		defer noted.Done()
		deadline = time.Now().Add(spec.Drain)
	})
	if spec.Ready != nil {
		spec.Ready()
	}
	err = b.handOut(ctx, deliveries, a, spec.Handle)
	if err != nil && spec.Lost != nil {
		spec.Lost()
	}
	if stop() { // it will not run, perhaps because ctx ended only now
		deadline = time.Now().Add(spec.Drain)
		noted.Done()
	}
	noted.Wait()
	if err == nil {
		// Nothing more is to come; what came and was not handed out goes back now,
		// not when the draining is over.
		if err = s.call(func() error { return ch.Cancel(b.config.Name, false) }); err == nil {
			a.cancel()
			for d := range deliveries {
				a.giveBack(d.DeliveryTag)
			}
			a.drain(deadline, b.closing)
		}
	}
	a.end()
	_ = s.call(ch.Close) // the broker takes back what is unsettled; an error says that it has already
	return err
}

// handOut calls handle with each delivery. It returns nil where consuming is to
// end and an error where it was cut off.
//
// Hot path (BenchmarkBus/RoundTrip).
func (b *Bus) handOut(ctx context.Context, deliveries <-chan amqp.Delivery, a *acks, handle func(bus.Delivery)) error {
	for {
		select {
		case d, ok := <-deliveries:
			if !ok {
				return errLost
			}
			if ctx.Err() != nil || b.isClosing() {
				a.giveBack(d.DeliveryTag) // both were ready
				return nil
			}
			handle(a.track(&d))
		case <-ctx.Done():
			return nil
		case <-b.closing:
			return nil
		}
	}
}

// subscribe declares the queue and its bindings, and begins to consume.
func (b *Bus) subscribe(s *session, spec bus.Consumer) (*amqp.Channel, <-chan amqp.Delivery, error) {
	ch, err := s.conn.Channel()
	if err != nil {
		return nil, nil, &setupError{"open channel", err}
	}
	fail := func(step string, err error) (*amqp.Channel, <-chan amqp.Delivery, error) {
		_ = ch.Close()
		return nil, nil, &setupError{step, err}
	}
	if err := ch.Qos(spec.Prefetch, 0, false); err != nil {
		return fail("set prefetch", err)
	}
	q := spec.Queue
	if _, err := ch.QueueDeclare(q.Name, true, false, false, false, arguments(q, b.config.Topology)); err != nil {
		return fail("declare queue", err)
	}
	for _, binding := range q.Bindings {
		if err := ch.QueueBind(q.Name, binding.Key, binding.Exchange, false, nil); err != nil {
			return fail("bind to "+binding.Exchange+" with "+binding.Key, err)
		}
	}
	deliveries, err := ch.Consume(q.Name, b.config.Name, false, false, false, false, nil)
	if err != nil {
		return fail("consume", err)
	}
	return ch, deliveries, nil
}

// arguments says in the broker's words what a queue is to be.
func arguments(q bus.Queue, topology bus.Topology) amqp.Table {
	if q.Name == topology.DeadQueue() {
		return topology.DeadArguments()
	}
	table := amqp.Table{}
	if q.Expires > 0 {
		table["x-expires"] = max(1, q.Expires.Milliseconds())
	}
	if q.MaxMessages > 0 {
		table["x-max-length"] = int64(q.MaxMessages)
	}
	if q.MaxBytes > 0 {
		table["x-max-length-bytes"] = int64(q.MaxBytes)
	}
	if q.MaxMessages > 0 || q.MaxBytes > 0 {
		table["x-overflow"] = "reject-publish"
	}
	if q.DeadLetter {
		table["x-dead-letter-exchange"] = topology.DeadExchange()
		table["x-dead-letter-routing-key"] = q.Name
	}
	if q.Quorum {
		table["x-queue-type"] = "quorum"
	}
	return table
}
