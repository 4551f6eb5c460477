package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/motto123/minigate/pkg/bus"
)

// roundTrip is the bare round trip through RabbitMQ with amqp091-go alone: a
// client publishes to a topic exchange, a server acks what it consumes and
// publishes the same back. Both have publisher confirms and manual acks, as gate
// and worker have, and a connection of their own.
type roundTrip struct {
	url        string
	inFlight   int // requests
	perMessage int // requests a message: what coalescing could reach at best
	payload    int
	persistent bool
	quorum     bool
	warmup     time.Duration
	duration   time.Duration
}

// trips is what a round trip has shown.
type trips struct {
	perSecond float64 // requests
	p50, p99  time.Duration
}

const (
	longestTrip = int64(time.Minute)
	stampBytes  = 8
)

// side is one of the two, with what it publishes and consumes.
type side struct {
	conn      *amqp.Connection
	publisher *amqp.Channel
	consumer  *amqp.Channel
	confirms  chan amqp.Confirmation
	exchange  string
	in        <-chan amqp.Delivery
}

func openSide(url, exchange, inQueue, inExchange string, t roundTrip) (s *side, err error) {
	s = &side{exchange: exchange}
	if s.conn, err = amqp.Dial(url); err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	if s.publisher, err = s.conn.Channel(); err != nil {
		return s, err
	}
	if s.consumer, err = s.conn.Channel(); err != nil {
		return s, err
	}
	if err = s.publisher.Confirm(false); err != nil {
		return s, err
	}
	s.confirms = s.publisher.NotifyPublish(make(chan amqp.Confirmation, 4096))
	for _, name := range []string{exchange, inExchange} {
		if err = s.consumer.ExchangeDeclare(name, amqp.ExchangeTopic, true, false, false, false, nil); err != nil {
			return s, err
		}
	}
	args := amqp.Table{}
	if t.quorum {
		args[amqp.QueueTypeArg] = amqp.QueueTypeQuorum
	}
	if _, err = s.consumer.QueueDeclare(inQueue, true, false, false, false, args); err != nil {
		return s, err
	}
	if err = s.consumer.QueueBind(inQueue, "bench.trip", inExchange, false, nil); err != nil {
		return s, err
	}
	if err = s.consumer.Qos(max(64, t.inFlight), 0, false); err != nil {
		return s, err
	}
	s.in, err = s.consumer.Consume(inQueue, "", false, false, false, false, nil)
	return s, err
}

func (s *side) publish(ctx context.Context, body []byte, persistent bool) error {
	mode := amqp.Transient
	if persistent {
		mode = amqp.Persistent
	}
	return s.publisher.PublishWithContext(ctx, s.exchange, "bench.trip", true, false, amqp.Publishing{DeliveryMode: mode, Body: body})
}

// run measures.
func (t roundTrip) run(ctx context.Context) (result trips, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("bare RabbitMQ round trip: %w", err)
		}
	}()
	names := bus.NewTopology(fmt.Sprintf("minigate-bench-%d", time.Now().UnixNano()))
	request, reply := names.RequestExchange(), names.ReplyExchange()
	server, err := openSide(t.url, reply, request, request, t)
	if server != nil {
		defer func() { err = errors.Join(err, server.remove(request)) }()
	}
	if err != nil {
		return trips{}, err
	}
	client, err := openSide(t.url, request, reply, reply, t)
	if client != nil {
		defer func() { err = errors.Join(err, client.remove(reply)) }()
	}
	if err != nil {
		return trips{}, err
	}

	ctx, cancel := context.WithTimeout(ctx, t.warmup+t.duration)
	defer cancel()
	var failed atomic.Pointer[error]
	fail := func(err error) {
		if ctx.Err() == nil {
			failed.CompareAndSwap(nil, &err)
			cancel()
		}
	}
	var running sync.WaitGroup
	for _, s := range []*side{server, client} {
		running.Go(func() { s.confirmed(ctx, fail) })
	}
	running.Go(func() {
		server.consume(ctx, fail, func(d amqp.Delivery) error { return server.publish(ctx, d.Body, t.persistent) })
	})

	messages := max(1, t.inFlight/t.perMessage)
	places := make(chan struct{}, messages)
	latency := hdrhistogram.New(1000, longestTrip, 3)
	began := time.Now()
	counted := began.Add(t.warmup)
	running.Go(func() {
		client.consume(ctx, fail, func(d amqp.Delivery) error {
			if len(d.Body) != t.payload*t.perMessage {
				return fmt.Errorf("%d bytes came back instead of %d", len(d.Body), t.payload*t.perMessage)
			}
			sent := time.Duration(binary.BigEndian.Uint64(d.Body))
			if now := time.Now(); now.After(counted) {
				if err := latency.RecordValue(min(int64(now.Sub(began)-sent), longestTrip)); err != nil {
					return err
				}
			}
			<-places
			return nil
		})
	})
	running.Go(func() {
		for {
			select {
			case places <- struct{}{}:
			case <-ctx.Done():
				return
			}
			body := make([]byte, max(t.payload*t.perMessage, stampBytes))
			binary.BigEndian.PutUint64(body, uint64(time.Since(began)))
			if err := client.publish(ctx, body, t.persistent); err != nil {
				fail(err)
				return
			}
		}
	})
	<-ctx.Done()
	seconds := time.Since(counted).Seconds()
	running.Wait()
	if err := failed.Load(); err != nil {
		return trips{}, *err
	}
	if latency.TotalCount() == 0 {
		return trips{}, errors.New("nothing came back")
	}
	return trips{
		perSecond: float64(latency.TotalCount()) * float64(t.perMessage) / seconds,
		p50:       time.Duration(latency.ValueAtPercentile(50)), p99: time.Duration(latency.ValueAtPercentile(99)),
	}, nil
}

func (s *side) consume(ctx context.Context, fail func(error), f func(amqp.Delivery) error) {
	for {
		select {
		case d, ok := <-s.in:
			if !ok {
				fail(errors.New("the consumer was closed"))
				return
			}
			err := f(d)
			if err == nil {
				err = d.Ack(false)
			}
			if err != nil {
				fail(err)
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// confirmed takes the broker's confirms, without which there is no round trip.
func (s *side) confirmed(ctx context.Context, fail func(error)) {
	for {
		select {
		case c, ok := <-s.confirms:
			if !ok || !c.Ack {
				fail(errors.New("a message was not confirmed"))
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// remove takes away what openSide has declared.
func (s *side) remove(queue string) error {
	// A channel of its own: the others may be closed by an error.
	if ch, err := s.conn.Channel(); err == nil {
		_, _ = ch.QueueDelete(queue, false, false, false)
		_ = ch.ExchangeDelete(queue, false, false)
	}
	if err := s.conn.Close(); err != nil && !errors.Is(err, amqp.ErrClosed) {
		return err
	}
	return nil
}

// brokerVersion is what the broker says of itself.
func brokerVersion(url string) (string, error) {
	c, err := amqp.Dial(url)
	if err != nil {
		return "", fmt.Errorf("bench: RabbitMQ: %w", err)
	}
	defer c.Close()
	version, _ := c.Properties["version"].(string)
	return version, nil
}
