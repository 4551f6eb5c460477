package worker

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/pkg/errors"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/motto123/minigate/pkg/metrics"
)

// measures are what a worker counts and measures for Prometheus, beside its Stats.
type measures struct {
	families metrics.Families

	requests, expired, panics, redelivered, malformed *metrics.Family
	replies, retries, pushes, goneGates               *metrics.Family
	unknownAcks, announced                            *metrics.Family
	handlerSeconds, transitSeconds, laneSeconds       *metrics.Family
	inFlight, waiting, consuming, outbox              *metrics.Family

	lane   *metrics.Histogram
	others *measured // requests of routes without a handler
}

// measured is what is counted of one route.
type measured struct {
	codes   metrics.Codes
	handler *metrics.Histogram
	transit *metrics.Histogram
}

func newMeasured() *measured {
	return &measured{handler: metrics.NewHistogram(metrics.Latency), transit: metrics.NewHistogram(metrics.Latency)}
}

func newMeasures(service string) *measures {
	m := &measures{lane: metrics.NewHistogram(metrics.Latency), others: newMeasured()}
	f := &m.families
	f.Fix("service", service)
	m.requests = f.Counter("minigate_worker_requests_total", "Requests, notifies and acks that came to an end, by the code they were answered with.", "route", "code")
	m.handlerSeconds = f.Histogram("minigate_worker_handler_seconds", "Time in the handler of a route, with decoding and checks.", "route")
	m.transitSeconds = f.Histogram("minigate_worker_transit_seconds", "From publishing an envelope of requests to taking it from the queue, by the clocks of both.", "route")
	m.laneSeconds = f.Histogram("minigate_worker_lane_seconds", "From taking a request from the queue to the start of its handler: the lag of its lane.")
	m.inFlight = f.Gauge("minigate_worker_in_flight", "Handlers that run.")
	m.waiting = f.Gauge("minigate_worker_waiting", "Requests taken whose handlers have not started.")
	m.consuming = f.Gauge("minigate_worker_consuming", "1 while the worker consumes its service's queue.")
	m.outbox = f.Gauge("minigate_worker_outbox_bytes", "Replies and pushes that wait for the broker or its confirm, and replies that it did not take; 16 MiB of each at the most.")
	m.expired = f.Counter("minigate_worker_expired_total", "Requests dropped because their deadline had passed before they were handled.")
	m.panics = f.Counter("minigate_worker_panics_total", "Panics of handlers that were caught.")
	m.redelivered = f.Counter("minigate_worker_redelivered_total", "Envelopes that may have been handled before.")
	m.malformed = f.Counter("minigate_worker_malformed_total", "Envelopes that became dead letters because they can not be read.")
	m.replies = f.Counter("minigate_worker_replies_total", "Replies, by what became of them: confirmed, gone with their gate, or given up as late.", "outcome")
	m.retries = f.Counter("minigate_worker_reply_retries_total", "Replies that were published again.")
	m.pushes = f.Counter("minigate_worker_pushes_total", "Pushes that the broker confirmed, one for each gate.")
	m.goneGates = f.Counter("minigate_worker_gone_gates_total", "Gates taken off a user because the broker does not know them.")
	m.unknownAcks = f.Counter("minigate_worker_unknown_acks_total", "Acks of pushes for which there is no handler.")
	m.announced = f.Counter("minigate_worker_announced_total", "Announcements of routes that the broker confirmed.")
	return m
}

// measure gives each route that has a handler its counts. Requests and acks of one
// name have the same.
func (w *Worker) measure() {
	counts := make(map[string]*measured)
	for _, table := range []map[string]*route{w.routes, w.acks} {
		for name, r := range table {
			if counts[name] == nil {
				counts[name] = newMeasured()
			}
			r.measured = counts[name]
		}
	}
	w.measured.Store(&counts)
}

// Describe is half of a prometheus.Collector.
func (w *Worker) Describe(to chan<- *prometheus.Desc) { w.measures.families.Describe(to) }

// Collect is the other half: a worker may be registered before it runs.
func (w *Worker) Collect(to chan<- prometheus.Metric) {
	m, s := w.measures, &w.stats
	if counts := w.measured.Load(); counts != nil {
		for _, name := range slices.Sorted(maps.Keys(*counts)) {
			m.send(to, name, (*counts)[name])
		}
	}
	m.send(to, metrics.Other, m.others)
	m.laneSeconds.SendHistogram(to, m.lane)

	var waiting, running, outbox int
	if l := w.lanes.Load(); l != nil {
		waiting, running, _ = l.load()
	}
	if out := w.out.Load(); out != nil {
		outbox, _ = out.coalescer.Pending()
		outbox += int(out.unsent.Load())
	}
	m.waiting.Send(to, float64(waiting))
	m.inFlight.Send(to, float64(running))
	m.outbox.Send(to, float64(outbox))
	m.consuming.Send(to, metrics.Flag(w.ready.Load()))

	m.expired.Count(to, s.expired.Load())
	m.panics.Count(to, s.panics.Load())
	m.redelivered.Count(to, s.redelivered.Load())
	m.malformed.Count(to, s.malformed.Load())
	m.replies.Count(to, s.replies.Load(), "confirmed")
	m.replies.Count(to, s.goneReplies.Load(), "gone")
	m.replies.Count(to, s.lateReplies.Load(), "late")
	m.retries.Count(to, s.retries.Load())
	m.pushes.Count(to, s.pushes.Load())
	m.goneGates.Count(to, s.goneGates.Load())
	m.unknownAcks.Count(to, s.unknownAcks.Load())
	m.announced.Count(to, s.announced.Load())
}

func (m *measures) send(to chan<- prometheus.Metric, route string, of *measured) {
	of.codes.Send(m.requests, to, route)
	m.handlerSeconds.SendHistogram(to, of.handler, route)
	m.transitSeconds.SendHistogram(to, of.transit, route)
}

// stuckAfter is how long requests may wait, with no handler starting, before the
// worker is taken for stuck. It is well over what a handler may take that looks at
// its context.
const stuckAfter = 2 * time.Minute

// progress remembers when the lanes were last seen to move.
type progress struct {
	mu    sync.Mutex
	begun uint64
	since time.Time
}

// Live is nil unless requests wait and no handler has started for two minutes, as
// far as its calls have seen: then all places are taken by handlers that do not
// end, and only a new process helps.
func (w *Worker) Live() error {
	l := w.lanes.Load()
	if l == nil {
		return nil
	}
	waiting, running, begun := l.load()
	p := &w.progress
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if waiting == 0 || begun != p.begun || p.since.IsZero() {
		p.begun, p.since = begun, now
		return nil
	}
	if stood := now.Sub(p.since); stood >= stuckAfter {
		return errors.Errorf("worker %s: %d requests wait, %d handlers run, and none has started for %v", w.service, waiting, running, stood.Round(time.Second))
	}
	return nil
}
