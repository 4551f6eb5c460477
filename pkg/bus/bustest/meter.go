package bustest

import (
	"errors"
	"strings"
	"testing"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/metrics/metricstest"
)

// metered is a bus that counts.
type metered interface{ Meter() *bus.Meter }

// counts looks at what a bus has counted, after a message of each fate.
func counts(t *testing.T, k *kit) {
	b, ok := k.Bus.(metered)
	if !ok {
		t.Fatalf("%T has no Meter", k.Bus)
	}
	c := k.consume(bus.Consumer{Queue: k.queue("a", "x")})
	full := k.queue("full", "full")
	full.MaxMessages = 1
	k.declare(full)
	p := k.publisher()
	three := k.message("x", strings.Repeat("m", 300))
	three.Items = 3
	for want, m := range map[error]bus.Message{
		bus.ErrNoRoute: k.message("nobody", "lost"), nil: three,
		bus.ErrRefused: {Exchange: k.Topology.RequestExchange(), Key: "full", Body: make([]byte, 100), Items: 700},
	} {
		if errors.Is(want, bus.ErrRefused) {
			k.send(p, "full", "the only one")
		}
		if got := publish(t, p, m)[0]; !errors.Is(got, want) {
			t.Fatalf("publish to %s: got %v, want %v", m.Key, got, want)
		}
	}
	first := c.next()
	if first.Sent.IsZero() {
		t.Error("a delivery does not say when it was sent")
	}
	if err := first.Reject(true); err != nil {
		t.Fatal(err)
	}
	again := c.next()
	if !again.Redelivered {
		t.Error("it comes again, and does not say so")
	}
	ack(t, again)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	publish(t, p, k.message("x", "late"))

	metricstest.Expect(t, b.Meter(),
		`minigate_bus_published_total{exchange="request",outcome="confirmed"} 2`,
		`minigate_bus_published_total{exchange="request",outcome="returned"} 1`,
		`minigate_bus_published_total{exchange="request",outcome="refused"} 1`,
		`minigate_bus_published_total{exchange="request",outcome="closed"} 1`,
		`minigate_bus_published_total{exchange="reply",outcome="confirmed"} 0`,
		`minigate_bus_delivered_total{exchange="request"} 2`,
		`minigate_bus_redelivered_total{exchange="request"} 1`,
		`minigate_bus_settled_total{as="acked"} 1`,
		`minigate_bus_settled_total{as="requeued"} 1`,
		`minigate_bus_settled_total{as="dead_letter"} 0`,
		`minigate_bus_confirm_seconds_count{exchange="request"} 2`,
		`minigate_bus_transit_seconds_count{exchange="request"} 1`,
		`minigate_bus_envelope_bytes_bucket{exchange="request",le="64"} 2`,
		`minigate_bus_envelope_bytes_bucket{exchange="request",le="256"} 3`,
		`minigate_bus_envelope_bytes_count{exchange="request"} 4`,
		`minigate_bus_envelope_items_bucket{exchange="request",le="2"} 0`,
		`minigate_bus_envelope_items_bucket{exchange="request",le="4"} 1`,
		`minigate_bus_envelope_items_bucket{exchange="request",le="512"} 1`,
		`minigate_bus_envelope_items_count{exchange="request"} 2`,
		`minigate_bus_unconfirmed 0`,
		`minigate_bus_state{state="up"} 1`,
		`minigate_bus_state{state="down"} 0`,
	)
}
