package events

import (
	"errors"
	"iter"

	"github.com/ThreeDotsLabs/watermill"
	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/motto123/minigate/pkg/bus"
)

// RequestConfig lets any watermill handler subscribe to routes: the topic of
// Subscribe is the pattern of routes, such as "chat.send" or "chat.#", and the
// replicas that name the same group share a queue for each pattern.
//
//	c := events.RequestConfig(url, topology, "audit")
//	subscriber, err := amqp.NewSubscriber(c, events.NewLogger(log))
//	router.AddConsumerHandler("audit", "chat.send", subscriber,
//		func(m *message.Message) error {
//			for r, err := range events.Requests(m) {
//				if err != nil {
//					return err
//				}
//				fmt.Printf("%d said %s on %s\n", r.User, r.Data, events.RequestHeader(m).Route)
//			}
//			return nil
//		})
//
// An envelope of the bus holds several requests and is acked as one, so a
// message is the envelope: a handler that fails gets all of its requests again.
// Clients get no answer from such a handler; where it is the only one of a route
// their requests run into the deadline. Whoever answers is a pkg/worker.
func RequestConfig(url string, t bus.Topology, group string) wamqp.Config {
	key := func(pattern string) string { return pattern }
	return wamqp.Config{
		Connection: wamqp.ConnectionConfig{AmqpURI: url},
		Marshaler:  RequestMarshaler{},
		Exchange: wamqp.ExchangeConfig{
			GenerateName: func(string) string { return t.RequestExchange() },
			Type:         "topic",
			Durable:      true,
		},
		Queue: wamqp.QueueConfig{
			// A queue for each pattern: watermill-amqp binds a queue that two
			// subscriptions share to both, and then each gets what is the other's.
			GenerateName: func(pattern string) string { return t.WorkerQueue(group + "." + pattern) },
			Durable:      true,
			Arguments:    queueArguments(),
		},
		QueueBind:       wamqp.QueueBindConfig{GenerateRoutingKey: key},
		Publish:         wamqp.PublishConfig{GenerateRoutingKey: key},
		Consume:         wamqp.ConsumeConfig{Qos: wamqp.QosConfig{PrefetchCount: 1}},
		TopologyBuilder: &wamqp.DefaultTopologyBuilder{},
	}
}

// RequestMarshaler reads deliveries of the request exchange for watermill-amqp:
// the payload is the envelope as it came, for Requests to read.
type RequestMarshaler struct{}

var _ wamqp.Marshaler = RequestMarshaler{}

// Marshal fails: only gates publish requests.
func (RequestMarshaler) Marshal(*message.Message) (amqp.Publishing, error) {
	return amqp.Publishing{}, errors.New("events: requests are published by gates only")
}

// Unmarshal passes on what is no envelope too: an error would bring it back for
// ever. Requests reports it.
func (RequestMarshaler) Unmarshal(d amqp.Delivery) (*message.Message, error) {
	if d.Acknowledger == nil {
		return nil, errNoDelivery
	}
	return message.NewMessage(watermill.NewUUID(), d.Body), nil
}

// RequestHeader says which gate sent the message and what for; it is zero where
// the message is no envelope.
func RequestHeader(m *message.Message) bus.Header {
	var h bus.Header
	if err := bus.ReadRequests(m.Payload, &h, func(*bus.Request) error { return errEnough }); err != nil && !errors.Is(err, errEnough) {
		return bus.Header{}
	}
	return h
}

// Requests yields the requests of a message, in order. A request is reused for
// the next one; what it points to belongs to the message. The last may be an
// error that wraps bus.ErrEnvelope, with a nil request: poison, no retry.
func Requests(m *message.Message) iter.Seq2[*bus.Request, error] {
	return func(yield func(*bus.Request, error) bool) {
		var h bus.Header
		err := bus.ReadRequests(m.Payload, &h, func(r *bus.Request) error {
			if !yield(r, nil) {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			yield(nil, Permanent(err))
		}
	}
}

// errEnough ends the reading of an envelope.
var errEnough = errors.New("enough")
