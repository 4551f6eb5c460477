package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/motto123/minigate/pkg/bus"
)

// roundTrip is the bare round trip through RabbitMQ with amqp091-go alone: a
// client publishes, a server publishes the same back. Each has one connection, on
// which writes are joined. It comes in two ways: sure does what a gate and a
// worker have to do (topic exchanges, publisher confirms, manual acks, as many at
// once as there are), and otherwise everything is left out that can be: that is
// the fastest that RabbitMQ passes single messages on.
type roundTrip struct {
	url        string
	inFlight   int // requests
	perMessage int // requests a message: what coalescing could reach at best
	payload    int
	sure       bool
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
	dialTime    = 10 * time.Second
	longestTrip = int64(time.Minute)
	stampBytes  = 8
	tripKey     = "bench.trip"
	// ackRound is the most deliveries that one ack is for.
	ackRound = 64
)

// side is one of the two, with what it publishes and consumes.
type side struct {
	conn          *amqp.Connection
	publisher     *amqp.Channel
	consumer      *amqp.Channel
	exchange, key string
	sure          bool
	mode          uint8
	unconfirmed   []*amqp.DeferredConfirmation
	in            <-chan amqp.Delivery
}

// openSide opens the side that publishes to one queue and consumes another. Each
// queue has the name of the exchange that it is bound to.
func openSide(out, in string, t roundTrip) (s *side, err error) {
	s = &side{key: out, sure: t.sure, mode: amqp.Transient}
	if t.persistent {
		s.mode = amqp.Persistent
	}
	s.conn, err = amqp.DialConfig(t.url, amqp.Config{Dial: func(network, address string) (net.Conn, error) {
		c, err := amqp.DefaultDial(dialTime)(network, address)
		if err != nil {
			return nil, err
		}
		return newJoined(c), nil
	}})
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	if s.publisher, err = s.conn.Channel(); err != nil {
		return s, err
	}
	if s.consumer, err = s.conn.Channel(); err != nil {
		return s, err
	}
	args := amqp.Table{}
	if t.quorum {
		args[amqp.QueueTypeArg] = amqp.QueueTypeQuorum
	}
	if _, err = s.consumer.QueueDeclare(in, true, false, false, false, args); err != nil {
		return s, err
	}
	if t.sure {
		s.exchange, s.key = out, tripKey
		if err = s.publisher.Confirm(false); err != nil {
			return s, err
		}
		for _, name := range []string{out, in} {
			if err = s.consumer.ExchangeDeclare(name, amqp.ExchangeTopic, true, false, false, false, nil); err != nil {
				return s, err
			}
		}
		if err = s.consumer.QueueBind(in, tripKey, in, false, nil); err != nil {
			return s, err
		}
		if err = s.consumer.Qos(max(ackRound, t.inFlight), 0, false); err != nil {
			return s, err
		}
	}
	s.in, err = s.consumer.Consume(in, "", !t.sure, false, false, false, nil)
	return s, err
}

var errNack = errors.New("a message was not confirmed")

// publish publishes, and looks at the confirms that have come.
func (s *side) publish(body []byte) error {
	c, err := s.publisher.PublishWithDeferredConfirm(s.exchange, s.key, s.sure, false, amqp.Publishing{DeliveryMode: s.mode, Body: body})
	if err != nil || !s.sure {
		return err
	}
	s.unconfirmed = append(s.unconfirmed, c)
	for len(s.unconfirmed) > 0 {
		select {
		case <-s.unconfirmed[0].Done():
			if !s.unconfirmed[0].Acked() {
				return errNack
			}
			s.unconfirmed = s.unconfirmed[1:]
			continue
		default:
		}
		break
	}
	return nil
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
	server, err := openSide(reply, request, t)
	if server != nil {
		defer func() { err = errors.Join(err, server.remove(request)) }()
	}
	if err != nil {
		return trips{}, err
	}
	client, err := openSide(request, reply, t)
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
	running.Go(func() {
		server.consume(ctx, fail, func(d amqp.Delivery) error { return server.publish(d.Body) })
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
			if err := client.publish(body); err != nil {
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
	unacked := 0
	for {
		select {
		case d, ok := <-s.in:
			if !ok {
				fail(errors.New("the consumer was closed"))
				return
			}
			err := f(d)
			if unacked++; s.sure && (len(s.in) == 0 || unacked == ackRound) {
				err = errors.Join(err, d.Ack(unacked > 1))
				unacked = 0
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
