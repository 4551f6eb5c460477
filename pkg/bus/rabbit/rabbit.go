// Package rabbit is the contract of pkg/bus on RabbitMQ 3.10 and later, with
// amqp091-go: pipelined confirms, mandatory publishing, manual acks, and
// connections that come back by themselves.
//
// It refuses to hold messages while the broker is away (they are answered
// ErrUnavailable at once), to log, and to use what newer brokers have given up:
// transient queues that are not exclusive, and a prefetch for a whole channel.
package rabbit

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/motto123/minigate/pkg/bus"
)

// Config is what Open needs.
type Config struct {
	// URL is amqp://user:password@host:port/vhost, or amqps.
	URL string
	// Topology names the exchanges, which are declared at each connect; the
	// default installation's where it is zero.
	Topology bus.Topology
	// Name is what the broker's management shows of the connections.
	Name string
	// Heartbeat is what is agreed with the broker, at least 1 s; 10 s where it is
	// 0. A connection on which nothing comes for one and a half of them is lost.
	Heartbeat time.Duration
	// Report, if set, is told why the broker could not be reached or was lost: at
	// once, and then once a minute as long as that lasts. It is also told of each
	// refusal by a broker that can be reached. It must not block.
	Report func(error)
	// Back, if set, is told that the broker is back after such an outage, and how
	// long that was. It must not block.
	Back func(outage time.Duration)
}

const (
	defaultHeartbeat = 10 * time.Second
	defaultPrefetch  = 64
	closeTimeout     = 5 * time.Second // for what is outstanding when something is closed
)

// Bus is a connection for publishing and one for consuming: a broker that takes
// no more from the former must still get the acks on the latter.
type Bus struct {
	config     Config
	exchanges  map[string]bool
	states     states
	meter      *bus.Meter
	publishing *link
	consuming  *link

	closing chan struct{} // closed by the first Close
	closed  chan struct{} // closed when it is done
	cancel  context.CancelFunc
	links   sync.WaitGroup

	mu         sync.Mutex
	publishers map[*publisher]struct{}
	consumers  map[chan struct{}]struct{} // each closed when its Consume returned
}

var _ bus.Bus = (*Bus)(nil)

// CheckURL says what is wrong with the URL of a broker, without its password.
func CheckURL(broker string) error {
	if strings.TrimSpace(broker) == "" {
		return errors.New("the broker URL is empty: want amqp://USER:PASSWORD@HOST:PORT/VHOST")
	}
	if _, err := amqp.ParseURI(broker); err != nil {
		if whole := (*url.Error)(nil); errors.As(err, &whole) {
			err = whole.Err // without the URL, which has a password in it
		}
		return fmt.Errorf("broker URL: %w", err)
	}
	return nil
}

// Open checks the configuration and begins to connect. It does not wait: the
// bus is Down until the broker is there, so that services start in any order.
func Open(cfg Config) (*Bus, error) {
	if err := CheckURL(cfg.URL); err != nil {
		return nil, fmt.Errorf("rabbit: %w", err)
	}
	if cfg.Heartbeat < 0 || cfg.Heartbeat > 0 && cfg.Heartbeat < time.Second {
		return nil, fmt.Errorf("rabbit: heartbeat of %v: want at least 1s", cfg.Heartbeat)
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = defaultHeartbeat
	}
	if cfg.Topology == (bus.Topology{}) {
		cfg.Topology = bus.NewTopology("")
	}
	if cfg.Name == "" {
		cfg.Name = cfg.Topology.Prefix()
	}
	if cfg.Report == nil {
		cfg.Report = func(error) {}
	}
	if cfg.Back == nil {
		cfg.Back = func(time.Duration) {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	b := &Bus{
		config:     cfg,
		exchanges:  make(map[string]bool),
		meter:      bus.NewMeter(cfg.Topology, "publishing", "consuming"),
		closing:    make(chan struct{}),
		closed:     make(chan struct{}),
		cancel:     cancel,
		publishers: make(map[*publisher]struct{}),
		consumers:  make(map[chan struct{}]struct{}),
	}
	for _, name := range cfg.Topology.Exchanges() {
		b.exchanges[name] = true
	}
	o := &outages{report: cfg.Report, back: cfg.Back, down: make(map[*link]bool)}
	b.publishing = newLink(cfg, "publishing", o, b.meter)
	b.publishing.prepare = b.openPublishers
	b.publishing.changed = b.publishingChanged
	b.consuming = newLink(cfg, "consuming", o, b.meter)
	for _, l := range []*link{b.publishing, b.consuming} {
		b.links.Add(1)
		go func() {
			defer b.links.Done()
			l.run(ctx)
		}()
	}
	return b, nil
}

// State is that of the publishing connection.
func (b *Bus) State() bus.State { return b.states.get() }

// Meter counts what goes over the bus.
func (b *Bus) Meter() *bus.Meter { return b.meter }

// Watch implements bus.Bus. f must not call Close.
func (b *Bus) Watch(f func(bus.State)) (stop func()) { return b.states.watch(f) }

func (b *Bus) publishingChanged(s bus.State) {
	b.states.set(s)
	b.meter.Changed(s)
	for _, p := range b.allPublishers() {
		p.nudge()
	}
}

// Close stops publishing, waits up to 5 s for outstanding confirms, ends all
// Consume calls without their Drain but with the acks given so far, waits up to
// 5 s for their running Handle, and closes the connections.
func (b *Bus) Close() error {
	b.mu.Lock()
	if b.isClosing() {
		b.mu.Unlock()
		<-b.closed
		return nil
	}
	close(b.closing)
	consumers := make([]chan struct{}, 0, len(b.consumers))
	for done := range b.consumers {
		consumers = append(consumers, done)
	}
	b.mu.Unlock()

	var errs []error
	var mu sync.Mutex
	var publishers sync.WaitGroup
	for _, p := range b.allPublishers() {
		publishers.Add(1)
		go func() {
			defer publishers.Done()
			if err := p.Close(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		}()
	}
	publishers.Wait()

	late := time.NewTimer(closeTimeout)
	defer late.Stop()
waiting:
	for _, done := range consumers {
		select {
		case <-done:
		case <-late.C:
			errs = append(errs, errors.New("rabbit: close: a handler is still running"))
			break waiting
		}
	}
	b.cancel()
	b.links.Wait()
	close(b.closed)
	return errors.Join(errs...)
}

func (b *Bus) isClosing() bool {
	select {
	case <-b.closing:
		return true
	default:
		return false
	}
}

func (b *Bus) allPublishers() []*publisher {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]*publisher, 0, len(b.publishers))
	for p := range b.publishers {
		all = append(all, p)
	}
	return all
}
