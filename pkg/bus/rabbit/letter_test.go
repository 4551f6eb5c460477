package rabbit

import (
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/motto123/minigate/pkg/bus"
)

// What was a dead letter tells so, and is not taken for something that was on its
// way for as long as it was dead.
func TestLettersThatComeBack(t *testing.T) {
	url, topology := broker(t), own()
	remove := sweep(t, url, topology)
	b := openBus(t, url, topology)
	until := watch(t, b)
	p, err := b.Publisher()
	if err != nil {
		t.Fatal(err)
	}
	queue := topology.WorkerQueue("back")
	deliveries := make(chan bus.Delivery, 8)
	ready := make(chan struct{}, 8)
	ended := make(chan error, 1)
	go func() {
		ended <- b.Consume(t.Context(), bus.Consumer{
			Queue: bus.Queue{Name: queue, DeadLetter: true, Bindings: []bus.Binding{{Exchange: topology.RequestExchange(), Key: "back.#"}}},
			Ready: func() { ready <- struct{}{} },
			Handle: func(d bus.Delivery) {
				if err := d.Ack(); err != nil {
					t.Errorf("ack: %v", err)
				}
				deliveries <- d
			},
		})
	}()
	t.Cleanup(func() {
		if err := <-ended; err != nil {
			t.Errorf("consume: %v", err)
		}
		remove(queue)
	})
	<-ready
	until(bus.Up) // publishers have a connection of their own
	letter := bus.Letter{Reason: "no envelope", Attempts: 1}
	letter.DiedAgain(bus.Letter{}, time.Now())
	for name, c := range map[string]struct {
		headers map[string]string
		sent    bool
	}{
		"new":      {nil, true},
		"a header": {map[string]string{"other": "x"}, true},
		"a letter": {letter.Headers(), false},
	} {
		done := make(chan error, 1)
		p.Publish(bus.Message{Exchange: topology.RequestExchange(), Key: "back.x", Body: []byte(name), Headers: c.headers}, func(err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		d := <-deliveries
		if len(d.Headers) != len(c.headers) || d.Sent.IsZero() == c.sent {
			t.Errorf("%s: headers %v, sent %v", name, d.Headers, d.Sent)
		}
		for key, text := range c.headers {
			if d.Headers[key] != text {
				t.Errorf("%s: header %s is %v, want %s", name, key, d.Headers[key], text)
			}
		}
		if got := d.Letter(); got.Reason != c.headers["reason"] {
			t.Errorf("%s: the letter is %+v", name, got)
		}
	}

	// And what the broker dead-lettered itself.
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	err = ch.PublishWithContext(t.Context(), "", queue, false, false, amqp.Publishing{
		MessageId: messageID(0, time.Now()), Headers: amqp.Table{"x-death": []any{amqp.Table{"queue": queue, "count": int64(1)}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := <-deliveries; !d.Sent.IsZero() {
		t.Errorf("sent at %v, want nothing", d.Sent)
	}
}
