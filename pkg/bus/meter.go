package bus

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/motto123/minigate/pkg/metrics"
)

// Meter counts what goes over a bus, for Prometheus: what carries the bus tells it.
// Its methods are safe to call at once, and those that are called for each message
// take no lock and allocate nothing.
type Meter struct {
	all      metrics.Families
	families meterFamilies

	traffic map[string]*Traffic // by the exchange's name
	others  *Traffic            // of all other exchanges

	unconfirmed atomic.Int64
	settled     [DeadLetter + 1]atomic.Uint64

	mu       sync.Mutex
	state    State
	since    time.Time
	spent    [Up + 1]time.Duration // in each state, before since
	sessions map[string]uint64     // by connection
}

type meterFamilies struct {
	published, redelivered, delivered, settled  *metrics.Family
	confirm, transit, bytes, items, unconfirmed *metrics.Family
	state, spent, sessions                      *metrics.Family
}

// Traffic is what a Meter counts of one exchange.
type Traffic struct {
	label       string
	outcomes    Outcomes
	delivered   atomic.Uint64
	redelivered atomic.Uint64
	confirm     *metrics.Histogram
	transit     *metrics.Histogram
	bytes       *metrics.Histogram
	items       *metrics.Histogram
}

var settlements = [...]string{Acked: "acked", Requeued: "requeued", DeadLetter: "dead_letter"}

// NewMeter returns a Meter of a bus that is Down. The connections are those that it
// will be told of.
func NewMeter(t Topology, connections ...string) *Meter {
	m := &Meter{
		traffic: map[string]*Traffic{t.RequestExchange(): newTraffic("request"), t.ReplyExchange(): newTraffic("reply")},
		others:  newTraffic(metrics.Other),
		since:   time.Now(), sessions: make(map[string]uint64),
	}
	for _, c := range connections {
		m.sessions[c] = 0
	}
	a := &m.all
	m.families = meterFamilies{
		published:   a.Counter("minigate_bus_published_total", "Messages for the broker, by what became of them.", "exchange", "outcome"),
		confirm:     a.Histogram("minigate_bus_confirm_seconds", "From publishing a message to the broker's confirm.", "exchange"),
		transit:     a.Histogram("minigate_bus_transit_seconds", "From publishing a message to taking it from its queue, by the clocks of both.", "exchange"),
		bytes:       a.Histogram("minigate_bus_envelope_bytes", "Size of the messages published.", "exchange"),
		items:       a.Histogram("minigate_bus_envelope_items", "Requests, replies or pushes in one message published.", "exchange"),
		unconfirmed: a.Gauge("minigate_bus_unconfirmed", "Messages published that the broker has not confirmed."),
		delivered:   a.Counter("minigate_bus_delivered_total", "Messages taken from queues.", "exchange"),
		redelivered: a.Counter("minigate_bus_redelivered_total", "Of them, those that somebody may have handled before.", "exchange"),
		settled:     a.Counter("minigate_bus_settled_total", "What was said of messages taken: acked, requeued or dead_letter.", "as"),
		state:       a.Gauge("minigate_bus_state", "1 for the state that the connection for publishing is in: down, blocked or up.", "state"),
		spent:       a.Counter("minigate_bus_state_seconds_total", "Time spent in each state: down and blocked are outages.", "state"),
		sessions:    a.Counter("minigate_bus_connects_total", "Connections to the broker that were made, the first one included.", "connection"),
	}
	return m
}

func newTraffic(label string) *Traffic {
	return &Traffic{
		label:   label,
		confirm: metrics.NewHistogram(metrics.Latency), transit: metrics.NewHistogram(metrics.Latency),
		bytes: metrics.NewHistogram(metrics.Bytes), items: metrics.NewHistogram(metrics.Items),
	}
}

// Of is the traffic of an exchange.
func (m *Meter) Of(exchange string) *Traffic {
	if t := m.traffic[exchange]; t != nil {
		return t
	}
	return m.others
}

// Began counts a message that is on its way to the broker.
func (m *Meter) Began(t *Traffic, message *Message) {
	m.unconfirmed.Add(1)
	t.bytes.Observe(uint64(len(message.Body)))
	if message.Items > 0 {
		t.items.Observe(uint64(message.Items))
	}
}

// Ended counts what became of a message that Began counted.
func (m *Meter) Ended(t *Traffic, err error, took time.Duration) {
	m.unconfirmed.Add(-1)
	if err == nil {
		t.confirm.Took(took)
	}
	t.outcomes.Add(err)
}

// Refused counts a message that did not begin its way.
func (m *Meter) Refused(exchange string, err error) {
	m.Of(exchange).outcomes.Add(err)
}

// Delivered counts a delivery that is handed out now.
func (m *Meter) Delivered(d *Delivery) {
	t := m.Of(d.Exchange)
	t.delivered.Add(1)
	if d.Redelivered {
		t.redelivered.Add(1)
		return // how long it has waited says nothing about the broker
	}
	if !d.Sent.IsZero() {
		t.transit.Took(time.Since(d.Sent))
	}
}

// Settled counts what was said of a delivery.
func (m *Meter) Settled(as Settlement) {
	if int(as) < len(m.settled) {
		m.settled[as].Add(1)
	}
}

// Changed notes the bus's new state.
func (m *Meter) Changed(to State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.spent[m.state] += now.Sub(m.since)
	m.state, m.since = to, now
}

// Connected counts a connection that can be used now.
func (m *Meter) Connected(connection string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sessions[connection]++
}

// Describe is half of a prometheus.Collector.
func (m *Meter) Describe(to chan<- *prometheus.Desc) { m.all.Describe(to) }

// Collect is the other half.
func (m *Meter) Collect(to chan<- prometheus.Metric) {
	f := &m.families
	for _, t := range m.traffic {
		m.collect(t, to)
	}
	m.collect(m.others, to)
	f.unconfirmed.Send(to, float64(m.unconfirmed.Load()))
	for as, name := range settlements {
		f.settled.Count(to, m.settled[as].Load(), name)
	}
	m.mu.Lock()
	state, spent, sessions := m.state, m.spent, make(map[string]uint64, len(m.sessions))
	spent[state] += time.Since(m.since)
	for name, n := range m.sessions {
		sessions[name] = n
	}
	m.mu.Unlock()
	for _, s := range []State{Down, Blocked, Up} {
		f.state.Send(to, metrics.Flag(s == state), s.String())
		f.spent.Send(to, spent[s].Seconds(), s.String())
	}
	for name, n := range sessions {
		f.sessions.Count(to, n, name)
	}
}

func (m *Meter) collect(t *Traffic, to chan<- prometheus.Metric) {
	f := &m.families
	t.outcomes.Send(f.published, to, t.label)
	f.delivered.Count(to, t.delivered.Load(), t.label)
	f.redelivered.Count(to, t.redelivered.Load(), t.label)
	f.confirm.SendHistogram(to, t.confirm, t.label)
	f.transit.SendHistogram(to, t.transit, t.label)
	f.bytes.SendHistogram(to, t.bytes, t.label)
	f.items.SendHistogram(to, t.items, t.label)
}
