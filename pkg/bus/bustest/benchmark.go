package bustest

import (
	"fmt"
	"testing"

	"github.com/motto123/minigate/pkg/bus"
)

const bodySize = 200

// Benchmark measures a bus: messages published with confirms, and round trips
// of a request over a topic exchange and its reply back to the asker's queue.
func Benchmark(b *testing.B, open func(t testing.TB) Env) {
	for _, window := range []int{1, 256} {
		b.Run(fmt.Sprintf("Publish/%d", window), func(b *testing.B) {
			benchmarkPublish(b, newKit(b, open(b)), window)
		})
	}
	for _, window := range []int{1, 256} {
		b.Run(fmt.Sprintf("RoundTrip/%d", window), func(b *testing.B) {
			benchmarkRoundTrip(b, newKit(b, open(b)), window)
		})
	}
}

// benchmarkPublish keeps window messages unconfirmed. A bus that confirms faster
// than the consumer acks has to wait for it at times, or the queue would fill.
func benchmarkPublish(b *testing.B, k *kit, window int) {
	backlog := make(chan struct{}, 10_000)
	k.consume(bus.Consumer{Queue: k.queue("a", "x"), Prefetch: 256, Handle: func(d bus.Delivery) {
		if err := d.Ack(); err != nil {
			b.Error(err)
		}
		<-backlog
	}})
	p := k.publisher()
	m := k.message("x", string(make([]byte, bodySize)))
	free := make(chan struct{}, window)
	done := func(err error) {
		if err != nil {
			b.Error(err)
		}
		<-free
	}
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		backlog <- struct{}{}
		free <- struct{}{}
		p.Publish(m, done)
	}
	for range window {
		free <- struct{}{}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

// benchmarkRoundTrip keeps window requests unanswered.
func benchmarkRoundTrip(b *testing.B, k *kit, window int) {
	asker, answerer := k.publisher(), k.publisher()
	request := k.message("echo.echo", string(make([]byte, bodySize)))
	reply := bus.Message{Exchange: k.Topology.ReplyExchange(), Key: k.Topology.GateKey("g")}
	confirmed := func(err error) {
		if err != nil {
			b.Error(err)
		}
	}
	k.consume(bus.Consumer{Queue: k.queue("echo", "echo.#"), Prefetch: 256, Handle: func(d bus.Delivery) {
		m := reply
		m.Body = d.Body
		answerer.Publish(m, func(err error) {
			confirmed(err)
			confirmed(d.Ack())
		})
	}})
	free := make(chan struct{}, window)
	replies := k.queue("replies")
	replies.Bindings = []bus.Binding{{Exchange: reply.Exchange, Key: reply.Key}}
	k.consume(bus.Consumer{Queue: replies, Prefetch: 256, Handle: func(d bus.Delivery) {
		confirmed(d.Ack())
		<-free
	}})
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		free <- struct{}{}
		asker.Publish(request, confirmed)
	}
	for range window {
		free <- struct{}{}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "round-trips/s")
}
