package gate

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/pkg/metrics"
)

// Metrics are the gate's, for a registry of Prometheus.
func (g *Gate) Metrics() prometheus.Collector { return g.measures }

// measures are what a gate measures beside its Stats, and all of it in Prometheus'
// words. What is called for each request takes no lock and allocates nothing.
type measures struct {
	gate     *Gate
	families metrics.Families

	answers, errors, kicks, limited, pauses, pushes, handshakes *metrics.Family
	seconds                                                     *metrics.Family
	loopLag, inFlight, sessions, users, groups                  *metrics.Family
	limits                                                      *metrics.Family
	plain                                                       []plain

	routes  *metrics.Routes[answers]
	reached [len(limitNames)]atomic.Uint64
}

// plain is a metric without labels, and where it is read.
type plain struct {
	family *metrics.Family
	value  func() int64
}

// answers are what is measured of one route.
type answers struct {
	codes   metrics.Codes
	seconds *metrics.Histogram
}

// limit is one that clients may reach.
type limit int

const (
	limitConnections limit = iota
	limitTokens
	limitHandshakeTime
	limitInFlight
	limitRate
	limitMessage
	limitAnswer
	limitUnfinished
	limitWriteQueue
	limitPending
	limitRoutes
	limitGroups
)

var limitNames = [...]string{
	"connections", "tokens", "handshake_time", "in_flight", "rate", "message", "answer", "unfinished", "write_queue",
	"pending", "routes", "groups",
}

func newMeasures(g *Gate) *measures {
	m := &measures{gate: g, routes: metrics.NewRoutes(func() *answers {
		return &answers{seconds: metrics.NewHistogram(metrics.Latency)}
	})}
	f, s := &m.families, &g.stats
	m.answers = f.Counter("minigate_gate_answers_total", "Answers to requests, the gate's own included, by the code that the client gets.", "route", "code")
	m.seconds = f.Histogram("minigate_gate_request_seconds", "From taking a request to its answer, as the gate sees it.", "route")
	m.errors = f.Counter("minigate_gate_errors_total", "Errors that the gate itself answered.", "code")
	m.kicks = f.Counter("minigate_gate_kicks_total", "Clients that were sent away.", "reason")
	m.limited = f.Counter("minigate_gate_limited_total", "Times that a limit was reached.", "limit")
	m.limits = f.Gauge("minigate_gate_limit", "What each limit is set to: a number, bytes, or requests a second; 0 is none.", "limit")
	m.pauses = f.Counter("minigate_gate_pauses_total", "Times that the gate stopped reading: from a client with too much in flight, from one while there is no broker, or from all of a loop while its publisher is full.", "reason")
	m.pushes = f.Counter("minigate_gate_pushes_total", "Pushes to clients, each one counted: written, dropped as too large, or replaced by a later one.", "outcome")
	m.handshakes = f.Counter("minigate_gate_handshakes_total", "Handshakes that were answered.", "outcome")
	m.loopLag = f.Gauge("minigate_gate_loop_lag_seconds", "How long a task waits for its event loop, as tried by this scrape.", "loop")
	m.sessions = f.Gauge("minigate_gate_sessions", "Sessions of an event loop, those in their handshake included.", "loop")
	m.inFlight = f.Gauge("minigate_gate_in_flight", "Requests that wait for their answers.")
	m.users = f.Gauge("minigate_gate_users", "Users with a session on this gate.")
	m.groups = f.Gauge("minigate_gate_groups", "Groups with a member on this gate, once for each event loop.")

	counter := func(name, help string, v *atomic.Int64) {
		m.plain = append(m.plain, plain{f.Counter("minigate_gate_"+name+"_total", help), v.Load})
	}
	gauge := func(name, help string, v func() int64) {
		m.plain = append(m.plain, plain{f.Gauge("minigate_gate_"+name, help), v})
	}
	gauge("connections", "Connections that are open.", s.Connections.Load)
	gauge("unsent_bytes", "What waits in the write queues of slow clients.", g.unsent.Load)
	gauge("slow_clients", "Clients for whom something waits in their write queue.", g.slow.Load)
	gauge("unfinished_bytes", "Messages, and parts of them, that have not come whole yet or wait for their turn.", g.unfinished.Load)
	gauge("pending_bytes", "Requests that wait for the broker or its confirm.", g.pendingBytes)
	gauge("routes", "Routes with a code in the dictionary.", func() int64 { return int64(g.dictionary.Len()) })
	gauge("draining", "1 while the gate ends.", func() int64 { return int64(metrics.Flag(g.draining.Load())) })
	counter("connections_refused", "Connections closed without a word, far over the limit.", &s.ConnectionsRefused)
	counter("accepts_failed", "Connections that could not be accepted, for want of a file or of memory.", &s.AcceptsFailed)
	counter("messages", "Requests, notifies and acks from clients.", &s.Messages)
	counter("rejected", "Of them, those that were not published.", &s.Rejected)
	counter("replies", "Replies of services that were written to clients.", &s.Replies)
	counter("replies_late", "Replies whose session or request was gone.", &s.RepliesLate)
	counter("deadlines", "Requests that nobody answered in time.", &s.Deadlines)
	counter("envelopes", "Envelopes that came for this gate.", &s.Envelopes)
	counter("envelopes_malformed", "Of them, those that can not be read.", &s.EnvelopesMalformed)
	counter("envelopes_failed", "Envelopes of requests that the broker did not take.", &s.EnvelopesFailed)
	counter("events_dropped", "Events of sessions that could not be published.", &s.EventsDropped)
	counter("panics", "Panics that were caught while a session was served.", &s.Panics)
	return m
}

// announced gives the routes of a service a label of their own. Clients' routes get
// none, however often they ask.
func (m *measures) announced(routes []string) { m.routes.Add(routes...) }

// answered measures the answer to a request of a route, which may be any text.
//
// Hot path (BenchmarkAnswered).
func (m *measures) answered(route string, code codes.Code, micros int64) {
	a := m.routes.Of(route)
	a.codes.Add(uint32(code))
	a.seconds.Took(time.Duration(micros) * time.Microsecond)
}

// hit counts a limit that has no other counter.
func (m *measures) hit(l limit) { m.reached[l].Add(1) }

// Describe is half of a prometheus.Collector.
func (m *measures) Describe(to chan<- *prometheus.Desc) { m.families.Describe(to) }

// Collect is the other half.
func (m *measures) Collect(to chan<- prometheus.Metric) {
	g := m.gate
	s := &g.stats
	for _, p := range m.plain {
		p.family.Send(to, float64(p.value()))
	}
	m.routes.Each(func(route string, a *answers) {
		a.codes.Send(m.answers, to, route)
		m.seconds.SendHistogram(to, a.seconds, route)
	})
	var errors metrics.Codes
	for code := range s.Errors {
		errors[code].Store(uint64(s.Errors[code].Load()))
	}
	errors.Send(m.errors, to)
	count := func(f *metrics.Family, v *atomic.Int64, label string) { f.Count(to, uint64(v.Load()), label) }
	count(m.handshakes, &s.Handshakes, "accepted")
	count(m.handshakes, &s.HandshakesRefused, "refused")
	count(m.pushes, &s.Pushes, "written")
	count(m.pushes, &s.PushesDropped, "dropped")
	count(m.pushes, &s.PushesConflated, "conflated")
	count(m.kicks, &s.KickedProtocol, kickProtocol)
	count(m.kicks, &s.KickedHeartbeat, kickHeartbeat)
	count(m.kicks, &s.KickedSlow, kickSlow)
	count(m.kicks, &s.KickedRate, kickRate)
	count(m.kicks, &s.KickedOther, metrics.Other)
	count(m.pauses, &s.PausedInFlight, "in_flight")
	count(m.pauses, &s.PausedBroker, "broker")
	count(m.pauses, &s.PausedPublisher, "publisher")
	m.collectLimits(to)
	if g.isReady() {
		m.collectLoops(to)
	}
}

func (m *measures) collectLimits(to chan<- prometheus.Metric) {
	s, l := &m.gate.stats, &m.gate.cfg.Limits
	elsewhere := map[limit]int64{
		limitConnections: s.ConnectionsFull.Load() + s.ConnectionsRefused.Load(), limitTokens: s.HandshakesFull.Load(),
		limitInFlight: s.PausedInFlight.Load(), limitWriteQueue: s.KickedSlow.Load(), limitGroups: s.GroupsRefused.Load(),
		limitRoutes: s.AnnouncementsFailed.Load(),
	}
	for i, name := range limitNames {
		m.limited.Count(to, m.reached[i].Load()+uint64(elsewhere[limit(i)]), name)
	}
	for name, v := range map[string]int{
		"connections": l.Connections, "connections_of_address": l.ConnectionsPerIP, "tokens": l.Handshakes, "in_flight": l.InFlight,
		"rate": l.RequestsPerSecond, "message": l.Message, "unfinished": l.Unfinished, "write_queue": l.WriteQueue,
		"write_queues": l.WriteQueues, "pending": l.PendingPerPublisher * m.gate.cfg.Publishers, "routes": l.Routes, "groups": l.GroupsPerSession,
	} {
		m.limits.Send(to, float64(v), name)
	}
}

// loopTimeout is how long a scrape waits for an event loop.
const loopTimeout = time.Second

// collectLoops asks the loops. One that does not answer has no series but its lag.
func (m *measures) collectLoops(to chan<- prometheus.Metric) {
	g := m.gate
	ctx, cancel := context.WithTimeout(context.Background(), loopTimeout)
	defer cancel()
	type found struct{ sessions, groups, inFlight int }
	var all found
	for i, l := range g.loops {
		name := fmt.Sprint(i)
		posted := time.Now()
		of, err := onLoop(ctx, l, func() (f found, _ error) {
			f.sessions, f.groups = len(l.sessions), len(l.groups)
			for s := l.busy.first; s != nil; s = s.busyNext {
				f.inFlight += len(s.pending)
			}
			return f, nil
		})
		m.loopLag.Send(to, time.Since(posted).Seconds(), name)
		if err != nil {
			continue
		}
		m.sessions.Send(to, float64(of.sessions), name)
		all.groups += of.groups
		all.inFlight += of.inFlight
	}
	m.groups.Send(to, float64(all.groups))
	m.inFlight.Send(to, float64(all.inFlight))
	g.users.mu.Lock()
	users := len(g.users.sessions)
	g.users.mu.Unlock()
	m.users.Send(to, float64(users))
}

// isReady reports whether the gate has its loops and publishers.
func (g *Gate) isReady() bool {
	select {
	case <-g.ready:
		return true
	default:
		return false
	}
}

// pendingBytes is what all publishers hold.
func (g *Gate) pendingBytes() (n int64) {
	if g.isReady() {
		for _, shard := range g.shards {
			bytes, _ := shard.Pending()
			n += int64(bytes)
		}
	}
	return n
}

// Health is nil while clients should connect here. Not so a gate that has not had
// the broker yet: it may be set up wrongly, and nobody misses it. One that has had it
// stays well while the broker is away: all gates share it, so that none could do
// better, and the clients that it holds hear UNAVAILABLE and need not connect again
// all at once when the broker is back.
func (g *Gate) Health() error {
	switch {
	case !g.isReady():
		return errors.New("gate: not listening yet")
	case g.draining.Load():
		return errors.New("gate: draining")
	}
	select {
	case <-g.consuming:
		return nil
	default:
		return errors.New("gate: the broker has not been there yet")
	}
}

// Replies is nil while clients can be answered: the gate's queue of replies is
// consumed.
func (g *Gate) Replies() error {
	if !g.canReply.Load() {
		return errors.New("gate: its queue of replies is not consumed")
	}
	return nil
}

// Live is nil unless an event loop does not come to what it is asked within ctx: it
// is stuck then, with all its clients.
func (g *Gate) Live(ctx context.Context) error {
	if !g.isReady() {
		return nil
	}
	for i, l := range g.loops {
		_, err := onLoop(ctx, l, func() (struct{}, error) { return struct{}{}, nil })
		select {
		case <-g.ended:
			return nil
		default:
		}
		if err != nil {
			return fmt.Errorf("gate: event loop %d does not answer: %w", i, err)
		}
	}
	return nil
}
