// Package bus is what gates and workers need of a message broker: the contract,
// the envelopes that travel on it, the names of exchanges and queues, and the
// coalescing of many small messages into few envelopes.
//
// It refuses to know what a broker is (pkg/bus/rabbit and pkg/bus/mem do), what
// a gate is, and what a worker is. Events and jobs, where retry matters more
// than speed, are pkg/events.
package bus

import (
	"context"
	"time"
)

// Bus is a broker as one process sees it. All methods are safe to call at once.
type Bus interface {
	// Publisher opens a publisher with an order of its own.
	Publisher() (Publisher, error)

	// Consume declares a queue with its bindings and hands its deliveries to
	// c.Handle, one at a time and in the queue's order, until ctx ends or the bus
	// is closed. It reconnects by itself; what was delivered and not acked before
	// is then delivered again. It returns nil when ctx ended, and only after the
	// running Handle has returned; an error means that the queue can not be had,
	// for example because it exists with other properties.
	//
	// When ctx ends no more is handed out, but the deliveries already handed out
	// can be acked until ctx's end plus c.Drain; Consume returns when all of them
	// are, or when that time is over (the broker then delivers the rest again).
	Consume(ctx context.Context, c Consumer) error

	// State says whether publishing has a chance now.
	State() State

	// Watch calls f with every later change of the state, in order, from one
	// goroutine at a time, until the returned function is called. f must not block.
	Watch(f func(State)) (stop func())

	// Close ends the connections and waits for everything the bus started. What
	// is unconfirmed then is reported with ErrClosed. Close first stops taking
	// publishings, then waits up to 5 s for outstanding confirms.
	Close() error
}

// Publisher publishes in the order of the calls. Its methods are safe to call
// at once; calls that overlap have no order among them.
type Publisher interface {
	// Publish hands m to the broker and calls done exactly once with what became
	// of it: nil when the broker has taken responsibility for it, or ErrNoRoute,
	// ErrRefused, ErrUnavailable, ErrUnconfirmed or ErrClosed. done may be called
	// before Publish returns, must not block, and must not call Publish; while the
	// connection stands, the calls of done keep the order of publishing. m.Body
	// must not change until then.
	//
	// Publish itself may block while the broker's socket takes no more; it never
	// queues without a bound and never waits for a reconnect.
	Publish(m Message, done func(error))

	// Close waits up to 5 s for outstanding confirms, and reports the rest with
	// ErrClosed before it returns. It may be called again.
	Close() error
}

// Message is one message on its way to the broker.
type Message struct {
	Exchange string
	Key      string
	Body     []byte
	// Persistent messages survive a restart of the broker, and are confirmed
	// only when they are on its disk.
	Persistent bool
	// Optional: a message that no queue is bound for is confirmed instead of
	// reported with ErrNoRoute.
	Optional bool
	// Items is how many requests, replies or pushes Body holds, for whoever counts;
	// 0 where that has no meaning.
	Items int
	// Headers go with the message, for whoever reads a queue from outside; nil but
	// for dead letters. A bus that is one process has no outside, and drops them.
	Headers map[string]string
}

// Delivery is one message from a queue. Exactly one of Ack and Reject is to be
// called, from any goroutine; until then it counts against the prefetch, and
// comes again if this consumer dies.
type Delivery struct {
	Exchange string
	Key      string
	// Body belongs to the receiver.
	Body []byte
	// Redelivered says that somebody may have handled it before.
	Redelivered bool
	// Sent is when it was published, by the publisher's clock; zero where nobody
	// says so, and for what was a dead letter meanwhile.
	Sent time.Time
	// Headers are those of the broker's message, nil where it has none; see Letter.
	Headers map[string]any

	// Settle is set by the bus that delivers, and called by Ack and Reject.
	Settle func(Settlement) error
}

// Settlement is what a consumer says of a delivery.
type Settlement uint8

// The three settlements.
const (
	Acked      Settlement = iota // done with
	Requeued                     // deliver it again
	DeadLetter                   // to the dead-letter queue, or dropped where the queue has none
)

// Ack says that the delivery is done with. ErrStale means that the connection
// over which it came is gone, so that it will be delivered again.
func (d *Delivery) Ack() error { return d.Settle(Acked) }

// Reject gives the delivery back: to be delivered again, or to be dead-lettered.
func (d *Delivery) Reject(requeue bool) error {
	if requeue {
		return d.Settle(Requeued)
	}
	return d.Settle(DeadLetter)
}

// Consumer is what Consume needs.
type Consumer struct {
	Queue Queue
	// Prefetch is how many deliveries may be unacked; 64 where it is 0.
	Prefetch int
	// Handle is called with each delivery, one at a time.
	Handle func(Delivery)
	// Ready, if set, is called each time the queue is bound and consuming has
	// begun: once at the start and once after each reconnect. It must not block.
	Ready func()
	// Lost, if set, is called after Ready when the connection was lost, before
	// Consume tries to consume again. It must not block.
	Lost func()
	// Drain is how long after ctx's end deliveries may still be acked.
	Drain time.Duration
}

// Queue is a durable queue and what it is bound to.
type Queue struct {
	Name     string
	Bindings []Binding
	// Expires deletes the queue when it had no consumer for that long; 0 never.
	Expires time.Duration
	// MaxMessages and MaxBytes bound what waits in the queue; what is published
	// beyond that is refused with ErrRefused. 0 is no bound.
	MaxMessages int
	MaxBytes    int
	// DeadLetter sends rejected deliveries to the dead-letter exchange, with the
	// queue's name as key.
	DeadLetter bool
	// Quorum asks for a replicated queue where the broker has such.
	Quorum bool
}

// Binding routes messages of an exchange to a queue. Key is a topic pattern:
// words between dots, * is exactly one word, # is any number of them.
type Binding struct {
	Exchange string
	Key      string
}

// State is whether publishing has a chance.
type State uint8

// The states of a bus.
const (
	Down    State = iota // not connected: publishing is answered ErrUnavailable at once
	Blocked              // connected, but the broker takes nothing now: the same
	Up
)

func (s State) String() string {
	switch s {
	case Down:
		return "down"
	case Blocked:
		return "blocked"
	case Up:
		return "up"
	}
	return "unknown"
}
