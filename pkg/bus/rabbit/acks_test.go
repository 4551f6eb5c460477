package rabbit

import (
	"context"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/motto123/minigate/pkg/bus"
)

// What was taken and not handed out keeps its place until the broker sends no more:
// given back before, it could come to the same consumer, behind what follows it.
func TestWhatIsNotHandedOutWaitsForTheCancel(t *testing.T) {
	url, topology := broker(t), own()
	sweep(t, url, topology)
	b := openBus(t, url, topology)
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	channel, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	a := newAcks(ctx, channel, b.meter)
	defer a.end()
	cancel()
	deliveries := make(chan amqp.Delivery, 1)
	deliveries <- amqp.Delivery{DeliveryTag: 1}
	for len(deliveries) > 0 { // it may see first that it is to end
		if err := b.handOut(ctx, deliveries, a, func(bus.Delivery) { t.Error("it is handed out") }); err != nil {
			t.Fatal(err)
		}
	}
	if !a.unsettled() {
		t.Error("it is given back while more may come")
	}
	a.cancel()
	if a.unsettled() {
		t.Error("it is not given back when no more comes")
	}
}
