// Package events carries events and jobs between services on watermill: its
// Router, its retry and poison-queue middleware, and watermill-amqp on RabbitMQ,
// or watermill's channels when everything runs in one process. Each group of
// consumers has a durable queue of its own for each event; the replicas of a
// group share it.
//
// It refuses to carry requests and replies, where order and speed matter more
// than retries: those are pkg/bus. It keeps no order: a message that is retried
// is passed by others.
//
// Delivery is at least once. A message is acked after its handler has returned
// nil or its dead letter is confirmed; whoever can not bear a repeat keys the
// effect by ID.
//
// # What watermill-amqp does here, and what not
//
// Its Subscriber consumes, its Config says what is declared, its Marshaler is
// the format. Its Publisher (v3.1.0) is not used. It waits for a confirm
// without regard to the context; each lost connection takes the pool's channels
// that were looked at meanwhile out of the pool for ever, so that one cut under
// load with a pool of four left every later Publish waiting; an exchange that a
// fresh broker has not is never declared again; and it reads the connection's
// state while the reconnecting goroutine writes it, which the race detector
// reports. publisher.go does the same over one channel with pipelined confirms,
// and is a watermill Publisher too.
package events

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/go-playground/validator/v10"
	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/parts"
	"github.com/motto123/minigate/pkg/tracing"
)

// Config is what New needs. Zero values take the defaults that stand beside
// them.
type Config struct {
	Topology bus.Topology
	// URL of the broker, amqp:// or amqps://. Empty keeps events in this process:
	// what is not handled when it ends is lost.
	URL string
	// PublishTimeout bounds a Publish whose context ends later; 5 s.
	PublishTimeout time.Duration
	// Backlog is how many messages may be in flight: published and not yet
	// confirmed, or, in one process, not yet handled; 1024.
	Backlog int

	// Retries is how often a message that failed is tried again before it is a
	// dead letter; 5. Less than 0 is never.
	Retries int
	// RetryDelay is the first wait, 1 s. Each one is three times as long as the
	// one before, up to RetryMaxDelay, 1 min, and random by half of itself.
	RetryDelay    time.Duration
	RetryMaxDelay time.Duration
	// Timeout bounds one call of a handler; 30 s.
	Timeout time.Duration
	// Concurrency is how many messages of one subscription are under way at once,
	// those included that wait to be tried again; 4.
	Concurrency int
	// Drain is how long handlers may go on after Run's context has ended; 10 s.
	Drain time.Duration
	// Ending, if set, may cut Drain short, and is told what was cut off.
	Ending *parts.Ending
	// Tracer makes spans of events that belong to a trace that is kept; nil makes none.
	Tracer *tracing.Tracer
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, to time.Duration) {
		if *d <= 0 {
			*d = to
		}
	}
	set(&c.PublishTimeout, 5*time.Second)
	set(&c.RetryDelay, time.Second)
	set(&c.RetryMaxDelay, time.Minute)
	set(&c.Timeout, 30*time.Second)
	set(&c.Drain, 10*time.Second)
	if c.Backlog <= 0 {
		c.Backlog = 1024
	}
	if c.Retries == 0 {
		c.Retries = 5
	}
	c.Retries = max(c.Retries, 0)
	if c.Concurrency <= 0 {
		c.Concurrency = 4
	}
	c.RetryMaxDelay = max(c.RetryMaxDelay, c.RetryDelay)
	return c
}

// Events publishes and subscribes for one process. Publish is safe to call at
// once, from before Run until after it; Subscribe and Reserve come before Run.
type Events struct {
	config   Config
	log      logrus.Ext1FieldLogger
	adapter  watermill.LoggerAdapter
	validate *validator.Validate
	broker   broker
	measures *measures

	// Before Run only.
	subscriptions []*subscription
	reserved      []queue
	misuse        error
	started       sync.Once
}

// broker is where messages go and come from. rabbit and memory are the two.
type broker interface {
	// publish returns when the broker has taken responsibility for the message.
	publish(event string, m *message.Message) error
	// bury publishes a dead letter, whose metadata say why, of what came from q.
	bury(q queue, m *message.Message) error
	// run keeps the broker usable until ctx ends: it declares the queues and then
	// calls ready once. It returns nil when ctx ended.
	run(ctx context.Context, queues []queue, ready func()) error
	// subscriber is what the Router consumes; it is called before consume.
	subscriber(s *subscription) message.Subscriber
	// consume fills the subscribers until ctx ends and what was handed out is
	// settled.
	consume(ctx context.Context) error
	// running says that the router has subscribed to everything.
	running()
	// settled tells of a message that was handled for good.
	settled()
	// abandon gives back what was handed out and is not settled, so that consume ends.
	abandon()
	// connected says what is possible now.
	connected() (publishing, consuming bool)
}

// queue is what one group has of one event.
type queue struct{ group, event string }

func (q queue) String() string { return q.group + "/" + q.event }

// New checks the configuration. It connects to nothing: Run does.
func New(c Config, log logrus.Ext1FieldLogger) (*Events, error) {
	if c.Topology.Prefix() == "" {
		return nil, errors.New("events: no topology")
	}
	if log == nil {
		return nil, errors.New("events: no log")
	}
	c = c.withDefaults()
	e := &Events{
		config:   c,
		log:      log,
		adapter:  NewLogger(log),
		validate: validator.New(validator.WithRequiredStructEnabled()),
		measures: newMeasures(),
	}
	if c.URL == "" {
		e.broker = newMemory(c, log, e.adapter)
		return e, nil
	}
	r, err := newRabbit(c, log, e.adapter)
	if err != nil {
		return nil, err
	}
	e.broker = r
	return e, nil
}

// Publish returns nil when the broker has confirmed the event, which is then in
// the queue of every group that has one: a group that has never run has none
// (see Reserve). While there is no connection it waits for one, until ctx or
// Config.PublishTimeout ends.
//
// Its errors wrap bus.ErrUnavailable and bus.ErrRefused, after which no group
// has the event, or bus.ErrUnconfirmed, after which nobody knows.
func (e *Events) Publish(ctx context.Context, name string, m proto.Message) error {
	if !bus.ValidRoute(name) {
		return fmt.Errorf("publish event %q: want service.event", name)
	}
	payload, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("publish event %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, e.config.PublishTimeout)
	defer cancel()
	ctx, span := e.tracePublish(ctx, name, len(payload))
	w := message.NewMessage(watermill.NewUUID(), payload)
	w.Metadata.Set(metadataName, string(m.ProtoReflect().Descriptor().FullName()))
	tracing.Inject(ctx, w.Metadata.Set)
	w.SetContext(ctx)
	err = e.broker.publish(name, w)
	e.measures.outcomes.Add(err)
	endPublish(span, err)
	if err != nil {
		return fmt.Errorf("publish event %s: %w", name, err)
	}
	return nil
}

// Reserve has the group's queue of an event declared before anything is
// published, so that what is published waits for a group that has never run.
// Whoever publishes a job that must not be lost reserves it. It is called before
// Run, which reports a bad name.
func (e *Events) Reserve(group, name string) {
	if !bus.ValidRoute(group + "." + name) {
		e.fail(fmt.Errorf("reserve %q for group %q: not a name", name, group))
		return
	}
	e.reserved = append(e.reserved, queue{group, name})
}

func (e *Events) fail(err error) {
	if e.misuse == nil {
		e.misuse = fmt.Errorf("events: %w", err)
	}
}

// Run connects, reconnecting by itself, and hands messages to the subscribed
// handlers until ctx ends. It then takes no more, lets the running handlers end
// (their contexts end Config.Drain later; what is not done by then is delivered
// again), and returns nil when all it started has ended. An error means that a
// subscription was wrong or that the broker refuses one of the queues. Run
// can be called once.
//
// A handler that does not return when its context ends is waited for 5 s more, or
// 1 s after a hurry. Its goroutine is then left to it, also after Run has returned,
// and its event is delivered again.
func (e *Events) Run(ctx context.Context) error {
	first := false
	e.started.Do(func() { first = true })
	if !first {
		return errors.New("events: Run called twice")
	}
	if e.misuse != nil {
		return e.misuse
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	// Handlers publish, and dead letters are published, until the router has
	// ended: so the broker outlives it.
	brokerContext, stopBroker := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBroker()
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		err := e.broker.run(brokerContext, e.queues(), func() { close(ready) })
		cancel() // without a broker the router has nothing to do
		ended <- err
	}()

	var err error
	select {
	case <-ready:
		err = e.route(ctx)
	case <-ctx.Done():
	}
	stopBroker()
	return errors.Join(err, <-ended)
}

func (e *Events) queues() []queue {
	queues := append([]queue(nil), e.reserved...)
	for _, s := range e.subscriptions {
		queues = append(queues, s.queue)
	}
	return queues
}
