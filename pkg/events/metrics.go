package events

import (
	"errors"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/metrics"
)

// measures are what Events counts for Prometheus.
type measures struct {
	families metrics.Families

	published, handled, failed, retried, dead, panics *metrics.Family
	seconds, inFlight, connected                      *metrics.Family

	outcomes bus.Outcomes // of publishings
}

// counts are those of one subscription.
type counts struct {
	handled, failed, retried, dead, panics atomic.Uint64
	running                                atomic.Int64
	seconds                                *metrics.Histogram
}

func newMeasures() *measures {
	m := new(measures)
	f := &m.families
	m.published = f.Counter("minigate_events_published_total", "Events published, by what became of them.", "outcome")
	m.handled = f.Counter("minigate_events_handled_total", "Events that their handler took.", "group", "event")
	m.failed = f.Counter("minigate_events_failures_total", "Calls of a handler that failed.", "group", "event")
	m.retried = f.Counter("minigate_events_retries_total", "Calls of a handler with an event that it had failed to take before.", "group", "event")
	m.dead = f.Counter("minigate_events_dead_letters_total", "Events that became dead letters: they were poison, or failed too often.", "group", "event")
	m.panics = f.Counter("minigate_events_panics_total", "Panics of handlers that were caught; each is a failure, too.", "group", "event")
	m.seconds = f.Histogram("minigate_events_handler_seconds", "Time in the handler of an event, for each call.", "group", "event")
	m.inFlight = f.Gauge("minigate_events_in_flight", "Handlers of events that run.", "group", "event")
	m.connected = f.Gauge("minigate_events_connected", "1 while events can be published, and while they are consumed.", "connection")
	return m
}

// Describe is half of a prometheus.Collector.
func (e *Events) Describe(to chan<- *prometheus.Desc) { e.measures.families.Describe(to) }

// Collect is the other half. It is called after the last Subscribe.
func (e *Events) Collect(to chan<- prometheus.Metric) {
	m := e.measures
	m.outcomes.Send(m.published, to)
	for _, s := range e.subscriptions {
		c := s.counts
		m.handled.Count(to, c.handled.Load(), s.group, s.event)
		m.failed.Count(to, c.failed.Load(), s.group, s.event)
		m.retried.Count(to, c.retried.Load(), s.group, s.event)
		m.dead.Count(to, c.dead.Load(), s.group, s.event)
		m.panics.Count(to, c.panics.Load(), s.group, s.event)
		m.inFlight.Send(to, float64(c.running.Load()), s.group, s.event)
		m.seconds.SendHistogram(to, c.seconds, s.group, s.event)
	}
	publishing, consuming := e.broker.connected()
	m.connected.Send(to, metrics.Flag(publishing), "publishing")
	if len(e.subscriptions) > 0 {
		m.connected.Send(to, metrics.Flag(consuming), "consuming")
	}
}

// Health is nil while events can be published, and are consumed where something is
// subscribed.
func (e *Events) Health() error {
	publishing, consuming := e.broker.connected()
	switch {
	case !publishing:
		return errors.New("events: no connection for publishing, or the broker blocks it")
	case !consuming && len(e.subscriptions) > 0:
		return errors.New("events: not consuming")
	}
	return nil
}
