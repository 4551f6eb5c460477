package events

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"
)

// stream is what one subscription gets, over all connections: a watermill
// Subscriber for the Router, which would take one that ends with its connection
// for finished.
type stream struct {
	*subscription
	out chan *message.Message
}

// Subscribe is called once, by the Router; consume ends the channel.
func (s *stream) Subscribe(context.Context, string) (<-chan *message.Message, error) {
	return s.out, nil
}

// Close has nothing to close: the end of Run's context ends everything.
func (s *stream) Close() error { return nil }

func (r *rabbit) subscriber(s *subscription) message.Subscriber {
	st := &stream{subscription: s, out: make(chan *message.Message)}
	r.streams = append(r.streams, st)
	return st
}

// consume fills the streams until ctx has ended and what was handed out is
// settled. Each connection has subscribers of its own: watermill-amqp's
// reconnecting writes what its subscribers read, so it is not used (see dismiss).
func (r *rabbit) consume(ctx context.Context) error {
	defer func() {
		for _, s := range r.streams {
			close(s.out)
		}
	}()
	delay := reconnectFirst
	for ctx.Err() == nil {
		err := r.consumeOnce(ctx, func() { delay = reconnectFirst })
		if unmendable(err) {
			return fmt.Errorf("events: consume: %w", err)
		}
		if ctx.Err() != nil {
			break
		}
		wait := jitter(delay)
		r.log.WithError(err).WithField("retry_in", wait).Warn("events: not consuming")
		delay = min(delay*2, reconnectMost)
		pause(ctx, wait)
	}
	return nil
}

// consumeOnce holds one connection until it is lost or ctx has ended. It is a
// connection of its own, because a broker short of memory stops reading those
// that publish.
func (r *rabbit) consumeOnce(ctx context.Context, up func()) (err error) {
	connection, err := r.dial(ctx)
	if err != nil {
		return err
	}
	lost := connection.Connection().NotifyClose(make(chan *amqp.Error, 1))
	var subscribers []*wamqp.Subscriber
	var forwarders sync.WaitGroup
	closeAll := sync.OnceFunc(func() {
		for _, s := range subscribers {
			err = errors.Join(err, s.Close())
		}
		err = errors.Join(err, connection.Close())
	})
	defer forwarders.Wait()
	defer closeAll()

	for _, s := range r.streams {
		subscriber, err := wamqp.NewSubscriberWithConnection(r.consumerConfig(s.group), r.adapter, connection)
		if err != nil {
			return err
		}
		subscribers = append(subscribers, subscriber)
		// Each hands out one message and waits for its ack.
		for range s.concurrency {
			messages, err := subscriber.Subscribe(ctx, s.event)
			if err != nil {
				return fmt.Errorf("%s: %w", s.queue, err)
			}
			forwarders.Go(func() {
				for m := range messages {
					s.out <- m // the Router takes each at once, until out is closed
				}
			})
		}
	}
	up()
	r.consuming.Store(true)
	defer r.consuming.Store(false)
	settled := make(chan struct{})
	go func() {
		forwarders.Wait()
		close(settled)
	}()
	// When ctx ends, each subscription ends after the ack of what it handed out.
	select {
	case e := <-lost:
		err = fmt.Errorf("connection lost: %w", asError(e))
	case <-settled:
	case <-r.abandoned: // the end of the subscribers gives back what they handed out
	}
	closeAll()
	<-settled
	return err
}

// dial opens watermill-amqp's connection without its reconnecting.
func (r *rabbit) dial(ctx context.Context) (*wamqp.ConnectionWrapper, error) {
	watch := &dismiss{LoggerAdapter: r.adapter, gone: make(chan struct{})}
	connection, err := wamqp.NewConnection(wamqp.ConnectionConfig{
		AmqpURI: r.config.URL,
		AmqpConfig: &amqp.Config{
			Heartbeat:  heartbeat,
			Properties: amqp.Table{"connection_name": "events consumer"},
			Dial:       dialer(ctx),
		},
	}, watch)
	if err != nil {
		return nil, err
	}
	timer := time.NewTimer(dialTimeout)
	defer timer.Stop()
	select {
	case <-watch.gone:
		return connection, nil
	case <-timer.C:
		return nil, errors.Join(errors.New("watermill-amqp keeps reconnecting by itself"), connection.Close())
	}
}

// dismiss is the log of a connection of watermill-amqp v3.1.0, and ends the
// goroutine that would reconnect it. That goroutine replaces the channel
// "connected" while subscribers read it, without a lock; and after Close, with
// the broker gone, it waits for ever. It is the only one that logs between the
// connection's opening and the first Subscribe, before it does anything else.
type dismiss struct {
	watermill.LoggerAdapter
	once sync.Once
	gone chan struct{}
}

// Debug ends the goroutine of the first call.
func (d *dismiss) Debug(text string, fields watermill.LogFields) {
	d.once.Do(func() {
		close(d.gone)
		runtime.Goexit()
	})
	d.LoggerAdapter.Debug(text, fields)
}

// Error is a detail here: what it tells of ends in a lost connection, which
// consume logs once, and not once for each subscription.
func (d *dismiss) Error(text string, err error, fields watermill.LogFields) {
	d.LoggerAdapter.Info(text, fields.Add(watermill.LogFields{"error": err}))
}

func (r *rabbit) consumerConfig(group string) wamqp.Config {
	t := r.config.Topology
	key := func(event string) string { return event }
	return wamqp.Config{
		Connection: wamqp.ConnectionConfig{AmqpURI: r.config.URL},
		Marshaler:  r.marshal,
		Exchange: wamqp.ExchangeConfig{
			GenerateName: func(string) string { return t.EventExchange() },
			Type:         "topic",
			Durable:      true,
		},
		Queue: wamqp.QueueConfig{
			GenerateName: func(event string) string { return t.EventQueue(group, event) },
			Durable:      true,
			Arguments:    queueArguments(),
		},
		QueueBind: wamqp.QueueBindConfig{GenerateRoutingKey: key},
		Publish:   wamqp.PublishConfig{GenerateRoutingKey: key},
		// One at a time is handled, so one is taken: the next may go to a replica
		// that is free.
		Consume:         wamqp.ConsumeConfig{Qos: wamqp.QosConfig{PrefetchCount: 1}},
		TopologyBuilder: &wamqp.DefaultTopologyBuilder{},
	}
}
