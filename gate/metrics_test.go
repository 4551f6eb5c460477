package gate

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/metrics"
	"github.com/motto123/minigate/pkg/metrics/metricstest"
)

func TestMetricsOfAGate(t *testing.T) {
	r := start(t, func(c *Config) { c.Limits = Limits{Connections: 7} })
	m := r.gate.Metrics()
	s := serve(t, r.bus, "echo", nil)
	s.announced(r, "echo.echo", "echo.other")
	c := r.login(t, overTCP, "")
	c.send(request(1, "echo.echo", "hello"))
	a := s.next()
	metricstest.Expect(t, m,
		`minigate_gate_connections 1`,
		`minigate_gate_handshakes_total{outcome="accepted"} 1`,
		`minigate_gate_handshakes_total{outcome="refused"} 0`,
		`minigate_gate_messages_total 1`,
		`minigate_gate_in_flight 1`,
		`minigate_gate_replies_total 0`,
		`minigate_gate_limit{limit="connections"} 7`,
		`minigate_gate_limit{limit="in_flight"} 64`,
		`minigate_gate_limited_total{limit="connections"} 0`,
		`minigate_gate_routes 2`,
		`minigate_gate_draining 0`,
		`minigate_gate_users 0`,
		`minigate_gate_unsent_bytes 0`,
	)
	echo(s, a)
	c.message()
	c.call(request(2, "nobody.here", "hello"))
	c.packet(codec.Handshake, 0, []byte(hi("")))
	if code := c.ends(); code != kickProtocol {
		t.Fatalf("a second handshake ends with %q", code)
	}
	metricstest.Expect(t, m,
		`minigate_gate_replies_total 1`,
		`minigate_gate_in_flight 0`,
		`minigate_gate_errors_total{code="NOT_FOUND"} 1`,
		`minigate_gate_errors_total{code="UNAVAILABLE"} 0`,
		`minigate_gate_kicks_total{reason="protocol_error"} 1`,
		`minigate_gate_kicks_total{reason="slow_consumer"} 0`,
	)
	text := metricstest.Text(t, m)
	for loop := range 2 {
		if !strings.Contains(text, fmt.Sprintf(`minigate_gate_loop_lag_seconds{loop="%d"}`, loop)) {
			t.Errorf("loop %d has no lag", loop)
		}
	}
}

// The limits are counted wherever their counter is.
func TestMetricsOfLimits(t *testing.T) {
	g, _ := newFake(t, nil, inline)
	m := newMeasures(g)
	g.stats.ConnectionsFull.Add(2)
	g.stats.ConnectionsRefused.Add(3)
	g.stats.HandshakesFull.Add(4)
	g.stats.PausedInFlight.Add(5)
	g.stats.KickedSlow.Add(6)
	g.stats.GroupsRefused.Add(7)
	g.stats.AnnouncementsFailed.Add(8)
	for l := range limitNames {
		m.hit(limit(l))
	}
	for name, want := range map[string]int{
		"connections": 6, "tokens": 5, "handshake_time": 1, "in_flight": 6, "rate": 1, "message": 1, "answer": 1, "unfinished": 1,
		"write_queue": 7, "pending": 1, "routes": 9, "groups": 8,
	} {
		metricstest.Expect(t, m, fmt.Sprintf(`minigate_gate_limited_total{limit="%s"} %d`, name, want))
	}
}

// Routes that nobody announced have no series of their own.
func TestClientsMakeNoSeries(t *testing.T) {
	g, _ := newFake(t, nil, inline)
	m := newMeasures(g)
	m.announced([]string{"chat.send"})
	m.answered("chat.send", codes.OK, 1500)
	m.answered("chat.send", codes.Unavailable, 20)
	m.answered("", codes.NotFound, 20)
	before := metricstest.Series(t, m)
	for i := range 1000 {
		m.answered(fmt.Sprintf("chat.x%d", i), codes.NotFound, 20)
		m.answered("chat.send", codes.OK, 1500)
	}
	if after := metricstest.Series(t, m); after != before {
		t.Errorf("%d series, %d before", after, before)
	}
	metricstest.Expect(t, m,
		`minigate_gate_answers_total{code="OK",route="chat.send"} 1001`,
		`minigate_gate_answers_total{code="UNAVAILABLE",route="chat.send"} 1`,
		`minigate_gate_answers_total{code="NOT_FOUND",route="other"} 1001`,
		`minigate_gate_request_seconds_bucket{route="chat.send",le="0.001"} 1`,
		`minigate_gate_request_seconds_bucket{route="chat.send",le="0.0025"} 1002`,
		`minigate_gate_request_seconds_count{route="chat.send"} 1002`,
		`minigate_gate_request_seconds_count{route="other"} 1001`,
	)
	many := make([]string, 2*metrics.MaxRoutes)
	for i := range many {
		many[i] = fmt.Sprintf("many.x%d", i)
	}
	m.announced(many) // by a service that has lost its mind
	if n := strings.Count(metricstest.Text(t, m), "minigate_gate_request_seconds_count{"); n != metrics.MaxRoutes+1 {
		t.Errorf("%d routes have series, want %d", n, metrics.MaxRoutes+1)
	}
}

func TestHealthAndLife(t *testing.T) {
	g, err := New(Config{TCP: "127.0.0.1:0", Bus: upBus{}, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	if g.Health() == nil || g.Live(t.Context()) != nil {
		t.Errorf("before it runs it is well (%v) or dead (%v)", g.Health(), g.Live(t.Context()))
	}

	r := start(t)
	eventually(t, "it is well", func() bool { return r.gate.Health() == nil })
	if err := r.gate.Live(t.Context()); err != nil {
		t.Errorf("it is not alive: %v", err)
	}
	if err := r.gate.Replies(); err != nil {
		t.Errorf("with its queue: %v", err)
	}
	r.gate.canReply.Store(false)
	if err := r.gate.Replies(); err == nil || !strings.Contains(err.Error(), "queue") {
		t.Errorf("without its queue: %v", err)
	}
	if err := r.gate.Health(); err != nil {
		t.Errorf("without its queue it is to hold its clients, and take others: %v", err)
	}
	r.gate.canReply.Store(true)

	// A loop that is stuck.
	stuck, free := make(chan struct{}), make(chan struct{})
	r.gate.loops[1].post(func() { close(stuck); <-free })
	<-stuck
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.gate.Live(ctx); err == nil || !strings.Contains(err.Error(), "loop 1") {
		t.Errorf("with a loop that is stuck: %v", err)
	}
	text := metricstest.Text(t, r.gate.Metrics())
	if strings.Contains(text, `minigate_gate_sessions{loop="1"}`) || !strings.Contains(text, `minigate_gate_sessions{loop="0"}`) {
		t.Errorf("a loop that is stuck has sessions, or the other has none:\n%s", text)
	}
	close(free)
	if err := r.gate.Live(t.Context()); err != nil {
		t.Errorf("when it goes on: %v", err)
	}

	r.gate.draining.Store(true)
	if err := r.gate.Health(); err == nil || !strings.Contains(err.Error(), "draining") {
		t.Errorf("while it ends: %v", err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if err := r.gate.Live(t.Context()); err != nil {
		t.Errorf("after its end: %v, want nil: nobody has to kill it", err)
	}
}

// lateQueue is a bus whose queues are there only later.
type lateQueue struct {
	bus.Bus
	open chan struct{}
}

func (b lateQueue) Consume(ctx context.Context, c bus.Consumer) error {
	select {
	case <-b.open:
		return b.Bus.Consume(ctx, c)
	case <-ctx.Done():
		return nil
	}
}

// TestHealthWithoutABroker: a gate that has never had the broker is not well, although
// clients can connect; one that has had it stays well without it.
func TestHealthWithoutABroker(t *testing.T) {
	b := newBroker(t)
	open := make(chan struct{})
	r := start(t, func(c *Config) { c.Bus = lateQueue{b, open} })
	if err := r.gate.Health(); err == nil || !strings.Contains(err.Error(), "broker") {
		t.Errorf("before the broker was there: %v", err)
	}
	r.login(t, overTCP, "")
	close(open)
	eventually(t, "it is well", func() bool { return r.gate.Health() == nil })
	for _, state := range []bus.State{bus.Down, bus.Blocked} {
		b.set(state, nil, nil)
		if err := r.gate.Health(); err != nil {
			t.Errorf("while the broker is %v: %v", state, err)
		}
	}
	b.set(bus.Up, nil, nil)
}

func BenchmarkAnswered(b *testing.B) {
	g, _ := newFake(b, nil, inline)
	m := newMeasures(g)
	m.announced([]string{"echo.echo"})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for micros := int64(1); pb.Next(); micros = micros*3&0xffff + 1 {
			m.answered("echo.echo", codes.OK, micros)
		}
	})
}
