package gate

import (
	"context"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/bus/mem"
)

// broker is a bus in memory whose state and whose outcomes of publishing a test
// can set.
type broker struct {
	bus.Bus
	mu      sync.Mutex
	state   bus.State
	outcome error         // of every publishing, instead of doing it
	hold    chan struct{} // while it is not nil, outcomes wait for it
	wait    sync.WaitGroup
}

func newBroker(t testing.TB) *broker {
	b := &broker{Bus: mem.New(mem.Config{}), state: bus.Up}
	t.Cleanup(func() {
		b.wait.Wait()
		_ = b.Close()
	})
	return b
}

func (b *broker) set(state bus.State, outcome error, hold chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state, b.outcome, b.hold = state, outcome, hold
}

func (b *broker) State() bus.State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state
}

func (b *broker) Publisher() (bus.Publisher, error) {
	p, err := b.Bus.Publisher()
	return &brokerPublisher{p, b}, err
}

type brokerPublisher struct {
	bus.Publisher
	broker *broker
}

func (p *brokerPublisher) Publish(m bus.Message, done func(error)) {
	p.broker.mu.Lock()
	outcome, hold := p.broker.outcome, p.broker.hold
	p.broker.mu.Unlock()
	finish := func() {
		if outcome != nil {
			done(outcome)
			return
		}
		p.Publisher.Publish(m, done)
	}
	if hold == nil {
		finish()
		return
	}
	p.broker.wait.Go(func() {
		<-hold
		finish()
	})
}

func startOnBroker(t testing.TB, b *broker, change ...func(*Config)) *rig {
	t.Helper()
	m, ok := b.Bus.(*mem.Bus)
	if !ok {
		t.Fatal("not a bus in memory")
	}
	return startOn(t, m, append(change, func(c *Config) { c.Bus = b })...)
}

// TestBrokerOutcomes: each failure of the broker has its code, and once the broker
// is back so is the service.
func TestBrokerOutcomes(t *testing.T) {
	b := newBroker(t)
	r := startOnBroker(t, b)
	serve(t, r.bus, "echo", echo)
	both(t, func(t *testing.T, over transport) {
		c := r.login(t, over, "")
		for _, x := range []struct {
			state   bus.State
			outcome error
			want    codes.Code
		}{
			{bus.Down, nil, codes.Unavailable},
			{bus.Blocked, nil, codes.Unavailable},
			{bus.Up, bus.ErrUnavailable, codes.Unavailable},
			{bus.Up, bus.ErrUnconfirmed, codes.Unavailable},
			{bus.Up, bus.ErrClosed, codes.Unavailable},
			{bus.Up, bus.ErrRefused, codes.ResourceExhausted},
			{bus.Up, bus.ErrNoRoute, codes.NotFound},
			{bus.Up, nil, codes.OK},
		} {
			b.set(x.state, x.outcome, nil)
			if m := c.call(request(1, "echo.echo", "x")); failed(t, m) != x.want {
				t.Errorf("%v, %v: got %+v", x.state, x.outcome, m)
			}
			notify := &codec.Message{Type: codec.Notify, ID: 2, Route: []byte("echo.echo")}
			if m := c.call(notify); failed(t, m) != x.want || x.want == codes.OK && m.Type != codec.Ack {
				t.Errorf("notify, %v, %v: got %+v", x.state, x.outcome, m)
			}
		}
	})
}

// TestAckAfterConfirm: the Ack of a Notify comes after the broker's confirm.
func TestAckAfterConfirm(t *testing.T) {
	b := newBroker(t)
	r := startOnBroker(t, b)
	serve(t, r.bus, "echo", echo)
	hold := make(chan struct{})
	c := r.login(t, overTCP, "")
	eventually(t, "the gate's own question is settled", func() bool {
		bytes, unconfirmed := r.gate.shards[0].Pending()
		return bytes == 0 && unconfirmed == 0
	})
	b.set(bus.Up, nil, hold)
	c.send(&codec.Message{Type: codec.Notify, ID: 2, Route: []byte("echo.echo")})
	c.packet(codec.Heartbeat, 0, nil)
	if p := c.next(); p.Type != codec.Heartbeat {
		t.Errorf("got a %v before the confirm", p.Type)
	}
	close(hold)
	if m := c.message(); m.Type != codec.Ack || m.ID != 2 {
		t.Errorf("got %+v", m)
	}
}

// TestQueueFull: a service whose queue is full is RESOURCE_EXHAUSTED.
func TestQueueFull(t *testing.T) {
	r := start(t)
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ready := make(chan struct{})
	ended.Go(func() {
		_ = r.bus.Consume(ctx, bus.Consumer{
			Queue: bus.Queue{
				Name: "slow", MaxMessages: 1,
				Bindings: []bus.Binding{{Exchange: r.topology.RequestExchange(), Key: "slow.#"}},
			},
			Prefetch: 1, Handle: func(bus.Delivery) {}, Ready: func() { close(ready) },
		})
	})
	t.Cleanup(func() { cancel(); ended.Wait() })
	<-ready
	c := r.login(t, overTCP, "")
	for i := range 3 { // one with the consumer, one in the queue, and one too many
		c.send(request(uint64(i), "slow.down", ""))
		c.packet(codec.Heartbeat, 0, nil)
		if p := c.next(); p.Type != codec.Heartbeat && i < 2 { // now the request has been read
			t.Fatalf("got a %v packet", p.Type)
		} else if p.Type == codec.Data { // the refusal came first
			var m codec.Message
			if err := codec.DecodeMessage(p.Body, &m); err != nil || failed(t, &m) != codes.ResourceExhausted || r.gate.stats.EnvelopesFailed.Load() != 1 {
				t.Fatalf("got %+v, %v, and %d are counted", m, err, r.gate.stats.EnvelopesFailed.Load())
			}
			return
		}
		eventually(t, "the request is published", func() bool {
			bytes, unconfirmed := r.gate.shards[0].Pending()
			return bytes == 0 && unconfirmed == 0
		})
	}
	if m := c.message(); failed(t, m) != codes.ResourceExhausted || r.gate.stats.EnvelopesFailed.Load() != 1 {
		t.Errorf("got %+v, and %d are counted", m, r.gate.stats.EnvelopesFailed.Load())
	}
}

// TestAsksAgain: a gate whose question for routes did not get through asks again.
func TestAsksAgain(t *testing.T) {
	b := newBroker(t)
	b.set(bus.Up, bus.ErrUnavailable, nil)
	r := startOnBroker(t, b)
	eventually(t, "the question has failed", r.gate.askAgain.Load)
	heard := make(chan struct{}, 64)
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() {
		_ = r.bus.Consume(ctx, bus.Consumer{
			Queue: bus.Queue{
				Name: "s", Bindings: []bus.Binding{{Exchange: r.topology.RequestExchange(), Key: r.topology.AnnounceKey()}},
			},
			Handle: func(d bus.Delivery) { _ = d.Ack(); heard <- struct{}{} },
			Ready:  func() { b.set(bus.Up, nil, nil) },
		})
	})
	t.Cleanup(func() { cancel(); ended.Wait() })
	select {
	case <-heard:
	case <-time.After(patience):
		t.Error("the gate does not ask again")
	}
}
