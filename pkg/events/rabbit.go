package events

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/sirupsen/logrus"

	"github.com/motto123/minigate/pkg/bus"
)

// queueMessages bounds each event queue. Publishing into a full one is refused,
// loudly: a group that is gone for good has to have its queue deleted. It is not
// a setting, because a queue can not be declared again with another bound.
const queueMessages = 1_000_000

// queueArguments of an event queue, the same wherever it is declared.
func queueArguments() amqp.Table {
	return amqp.Table{"x-max-length": int64(queueMessages), "x-overflow": "reject-publish"}
}

// rabbit is the broker for real.
type rabbit struct {
	config    Config
	log       logrus.Ext1FieldLogger
	adapter   watermill.LoggerAdapter
	publisher *publisher
	marshal   Marshaler

	consuming atomic.Bool
	abandoned chan struct{} // closed: what is not settled is given back

	// Set up before anything runs.
	queues  []queue
	streams []*stream
}

func newRabbit(c Config, log logrus.Ext1FieldLogger, adapter watermill.LoggerAdapter) (*rabbit, error) {
	if _, err := amqp.ParseURI(c.URL); err != nil {
		return nil, fmt.Errorf("events: broker's URL: %w", err)
	}
	r := &rabbit{config: c, log: log, adapter: adapter, abandoned: make(chan struct{})}
	r.publisher = newPublisher(c.URL, c.Backlog, r.declare, log)
	return r, nil
}

// publish refuses what the broker would close the channel for. A dead letter is not
// larger than what was taken already.
func (r *rabbit) publish(event string, m *message.Message) error {
	if len(m.Payload) > bus.MaxBody {
		return fmt.Errorf("%w: it has %d bytes, more than the %d that it may have", bus.ErrRefused, len(m.Payload), bus.MaxBody)
	}
	return r.send(r.config.Topology.EventExchange(), event, m)
}

func (r *rabbit) bury(q queue, m *message.Message) error {
	return r.send(r.config.Topology.DeadExchange(), r.config.Topology.EventQueue(q.group, q.event), m)
}

func (r *rabbit) send(exchange, key string, m *message.Message) error {
	p, err := r.marshal.Marshal(m)
	if err != nil {
		return err
	}
	return r.publisher.publish(m.Context(), exchange, key, p)
}

func (r *rabbit) settled() {}

func (r *rabbit) abandon() { close(r.abandoned) }

func (r *rabbit) connected() (publishing, consuming bool) {
	return r.publisher.open(), r.consuming.Load()
}

func (r *rabbit) running() {}

func (r *rabbit) run(ctx context.Context, queues []queue, ready func()) error {
	r.queues = queues
	return r.publisher.run(ctx, ready)
}

// declare makes what the events of this process need. Subscribers declare their
// queues again with each reconnect; here it is found out, and said by Run, when
// the broker will not have one.
func (r *rabbit) declare(connection *amqp.Connection) error {
	t := r.config.Topology
	channel, err := connection.Channel()
	if err != nil {
		return fmt.Errorf("open channel: %w", err)
	}
	for _, exchange := range []string{t.EventExchange(), t.DeadExchange()} {
		if err := channel.ExchangeDeclare(exchange, "topic", true, false, false, false, nil); err != nil {
			return fmt.Errorf("declare exchange %s: %w", exchange, err)
		}
	}
	for _, q := range r.queues {
		name := t.EventQueue(q.group, q.event)
		if _, err := channel.QueueDeclare(name, true, false, false, false, queueArguments()); err != nil {
			return fmt.Errorf("declare queue %s: %w", name, err)
		}
		if err := channel.QueueBind(name, q.event, t.EventExchange(), false, nil); err != nil {
			return fmt.Errorf("bind queue %s: %w", name, err)
		}
	}
	// Somebody else may have made the dead queue, with bounds of their own; asking
	// for one that is not there closes the channel.
	if _, err := channel.QueueDeclarePassive(t.DeadQueue(), true, false, false, false, nil); err != nil {
		if channel, err = connection.Channel(); err != nil {
			return fmt.Errorf("open channel: %w", err)
		}
		if _, err := channel.QueueDeclare(t.DeadQueue(), true, false, false, false, t.DeadArguments()); err != nil {
			return fmt.Errorf("declare queue %s: %w", t.DeadQueue(), err)
		}
	}
	if err := channel.QueueBind(t.DeadQueue(), "#", t.DeadExchange(), false, nil); err != nil {
		return fmt.Errorf("bind queue %s: %w", t.DeadQueue(), err)
	}
	return channel.Close()
}

// Marshaler is the format of events on AMQP, for watermill-amqp: the payload is
// the body, metadata are headers, watermill's UUID is the header "id". What it
// publishes is persistent.
type Marshaler struct{}

var _ wamqp.Marshaler = Marshaler{}

// Marshal makes a publishing.
func (Marshaler) Marshal(m *message.Message) (amqp.Publishing, error) {
	headers := make(amqp.Table, len(m.Metadata)+1)
	for key, value := range m.Metadata {
		headers[key] = value
	}
	headers[metadataID] = m.UUID
	published := time.Now()
	if s, err := strconv.ParseInt(m.Metadata.Get(metadataPublished), 10, 64); err == nil {
		published = time.Unix(s, 0) // of what is published once more, as a dead letter
	}
	delete(headers, metadataPublished)
	return amqp.Publishing{
		Headers:      headers,
		ContentType:  "application/x-protobuf",
		DeliveryMode: amqp.Persistent,
		MessageId:    m.UUID,
		Timestamp:    published,
		Body:         m.Payload,
	}, nil
}

// errNoDelivery is the answer to the zero delivery with which a lost connection
// ends: watermill-amqp would hand it on as an empty message.
var errNoDelivery = errors.New("events: not a delivery, the connection is lost")

// Unmarshal reads a delivery. Headers that are not strings (RabbitMQ adds such)
// become text: an error would have watermill-amqp give the message back to the
// queue, and get it again, for ever.
func (Marshaler) Unmarshal(d amqp.Delivery) (*message.Message, error) {
	if d.Acknowledger == nil {
		return nil, errNoDelivery
	}
	id := d.MessageId
	metadata := make(message.Metadata, len(d.Headers))
	for key, value := range d.Headers {
		text, ok := value.(string)
		if !ok {
			text = fmt.Sprint(value)
		}
		if key == metadataID {
			id = text
			continue
		}
		metadata[key] = text
	}
	if !d.Timestamp.IsZero() {
		metadata[metadataPublished] = strconv.FormatInt(d.Timestamp.Unix(), 10)
	}
	m := message.NewMessage(id, d.Body)
	m.Metadata = metadata
	return m, nil
}

var _ broker = (*rabbit)(nil)
