package bus_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/metrics/metricstest"
)

// The time in each state is counted to the moment, also of the one that lasts.
func TestMeterCountsOutages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := bus.NewMeter(bus.NewTopology("x"), "publishing")
		time.Sleep(time.Second)
		m.Connected("publishing")
		m.Changed(bus.Up)
		time.Sleep(2 * time.Second)
		m.Changed(bus.Blocked)
		time.Sleep(4 * time.Second)
		m.Changed(bus.Up)
		time.Sleep(8 * time.Second)
		m.Changed(bus.Down)
		time.Sleep(16 * time.Second)
		metricstest.Expect(t, m,
			`minigate_bus_connects_total{connection="publishing"} 1`,
			`minigate_bus_state{state="blocked"} 0`,
			`minigate_bus_state{state="down"} 1`,
			`minigate_bus_state{state="up"} 0`,
			`minigate_bus_state_seconds_total{state="blocked"} 4`,
			`minigate_bus_state_seconds_total{state="down"} 17`,
			`minigate_bus_state_seconds_total{state="up"} 10`,
		)
	})
}

// Exchanges and errors are of a fixed set, whoever publishes what where.
func TestMeterHasFixedLabels(t *testing.T) {
	topology := bus.NewTopology("x")
	m := bus.NewMeter(topology)
	series := metricstest.Series(t, m)
	for i := range 100 {
		exchange := fmt.Sprintf("made.up.%d", i)
		m.Refused(exchange, fmt.Errorf("wrapped: %w", bus.ErrUnavailable))
		message := bus.Message{Exchange: exchange}
		m.Began(m.Of(exchange), &message)
		m.Ended(m.Of(exchange), errors.New("of no kind"), time.Second)
		m.Delivered(&bus.Delivery{Exchange: exchange})
		m.Settled(bus.Settlement(i))
	}
	if got := metricstest.Series(t, m); got != series {
		t.Errorf("%d series, %d before", got, series)
	}
	metricstest.Expect(t, m,
		`minigate_bus_settled_total{as="acked"} 1`,
		`minigate_bus_settled_total{as="dead_letter"} 1`,
		`minigate_bus_settled_total{as="requeued"} 1`,
		`minigate_bus_published_total{exchange="other",outcome="unavailable"} 100`,
		`minigate_bus_published_total{exchange="other",outcome="failed"} 100`,
		`minigate_bus_delivered_total{exchange="other"} 100`,
	)
}

// keeper keeps what is published, and confirms it.
type keeper struct{ messages []bus.Message }

func (k *keeper) Publish(m bus.Message, done func(error)) {
	k.messages = append(k.messages, m)
	done(nil)
}

func (k *keeper) Close() error { return nil }

// A coalescer says how many items it has joined.
func TestCoalescerCountsItems(t *testing.T) {
	k := new(keeper)
	c := bus.NewCoalescer(bus.CoalescerConfig[int]{Publisher: k, Exchange: "x", Settle: func([]int, error) {}})
	for i, key := range []string{"a", "b", "a", "a"} {
		if _, err := c.Add(key, 0, []byte{1}, false, i); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // it publishes what is there
	if err := c.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if len(k.messages) != 2 || k.messages[0].Items != 3 || k.messages[1].Items != 1 {
		t.Errorf("got %+v, want 3 items of a and 1 of b", k.messages)
	}
}

func BenchmarkMeter(b *testing.B) {
	topology := bus.NewTopology("x")
	m := bus.NewMeter(topology)
	message := bus.Message{Exchange: topology.RequestExchange(), Body: make([]byte, 300), Items: 3}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			t, began := m.Of(message.Exchange), time.Now()
			m.Began(t, &message)
			m.Ended(t, nil, time.Since(began))
			m.Delivered(&bus.Delivery{Exchange: message.Exchange, Sent: began})
			m.Settled(bus.Acked)
		}
	})
}
