// Package mem is the contract of pkg/bus inside one process: topic exchanges,
// bounded queues, competing consumers with a prefetch, acks and dead letters.
// Embedded mode and tests run on it.
//
// It refuses to keep anything beyond the process, so that Message.Persistent
// and Queue.Quorum mean nothing here, and to hold more than it was told to: a
// queue that names no bound gets one from Config.
package mem

import (
	"sync"
	"time"

	"github.com/motto123/minigate/pkg/bus"
)

// Config is what New needs. Its zero value is usable.
type Config struct {
	// Topology names the exchanges; the default installation's where it is zero.
	Topology bus.Topology
	// MaxMessages and MaxBytes bound what waits in a queue that names no bound of
	// its own; 100,000 messages and 64 MiB where they are 0. The dead-letter queue
	// drops its oldest message for a new one.
	MaxMessages int
	MaxBytes    int
}

const (
	defaultMaxMessages = 100_000
	defaultMaxBytes    = 64 << 20
	defaultPrefetch    = 64
)

// Bus is a broker in memory. Its methods are safe to call at once.
type Bus struct {
	topology    bus.Topology
	maxMessages int
	maxBytes    int
	meter       *bus.Meter

	// mu guards the names and what they are bound to. A queue's own lock is taken
	// inside it, never the other way round.
	mu        sync.RWMutex
	exchanges map[string]*exchange
	queues    map[string]*queue
	closed    bool
	watchers  map[*watcher]struct{}

	timers sync.WaitGroup // expiry timers that have not run or been stopped
}

type watcher struct{ f func(bus.State) }

var _ bus.Bus = (*Bus)(nil)

// New returns a bus that is Up until it is closed.
func New(cfg Config) *Bus {
	if cfg.Topology == (bus.Topology{}) {
		cfg.Topology = bus.NewTopology("")
	}
	b := &Bus{
		topology:    cfg.Topology,
		meter:       bus.NewMeter(cfg.Topology),
		maxMessages: cfg.MaxMessages,
		maxBytes:    cfg.MaxBytes,
		exchanges:   make(map[string]*exchange),
		queues:      make(map[string]*queue),
		watchers:    make(map[*watcher]struct{}),
	}
	if b.maxMessages <= 0 {
		b.maxMessages = defaultMaxMessages
	}
	if b.maxBytes <= 0 {
		b.maxBytes = defaultMaxBytes
	}
	for _, name := range cfg.Topology.Exchanges() {
		b.exchanges[name] = newExchange(name)
	}
	dead := b.newQueue(bus.Queue{Name: cfg.Topology.DeadQueue()})
	dead.dropOldest = true
	b.queues[dead.spec.Name] = dead
	b.exchanges[cfg.Topology.DeadExchange()].bind("#", dead)
	b.meter.Changed(bus.Up)
	return b
}

// Meter counts what goes over the bus.
func (b *Bus) Meter() *bus.Meter { return b.meter }

// State is Up until the bus is closed.
func (b *Bus) State() bus.State {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return bus.Down
	}
	return bus.Up
}

// Watch calls f once, with Down, when the bus is closed.
func (b *Bus) Watch(f func(bus.State)) (stop func()) {
	w := &watcher{f}
	b.mu.Lock()
	b.watchers[w] = struct{}{}
	b.mu.Unlock()
	return func() {
		b.mu.Lock()
		delete(b.watchers, w)
		b.mu.Unlock()
	}
}

// Close ends all Consume calls, without their Drain, and refuses everything
// from then on. What still waits in the queues is gone.
func (b *Bus) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	for _, q := range b.queues {
		q.close()
	}
	watchers := b.watchers
	b.watchers = make(map[*watcher]struct{})
	b.mu.Unlock()
	b.meter.Changed(bus.Down)
	b.timers.Wait()
	for w := range watchers {
		w.f(bus.Down)
	}
	return nil
}

// expire deletes a queue that had no consumer for its time.
func (b *Bus) expire(q *queue, generation uint64) {
	defer b.timers.Done()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || !q.deleteUnused(generation) {
		return
	}
	delete(b.queues, q.spec.Name)
	for _, e := range b.exchanges {
		e.unbind(q)
	}
}

// afterExpiry calls expire later, and returns what stops it.
func (b *Bus) afterExpiry(q *queue, generation uint64) (stop func()) {
	b.timers.Add(1)
	t := time.AfterFunc(q.spec.Expires, func() { b.expire(q, generation) })
	return func() {
		if t.Stop() {
			b.timers.Done()
		}
	}
}
