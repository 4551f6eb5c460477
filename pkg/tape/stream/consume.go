package stream

import (
	"context"
	"errors"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"
)

// follow reads until ctx ends or the connection is lost.
func (r *reader) follow(ctx context.Context, c *connection) error {
	var channel *amqp.Channel
	var deliveries <-chan amqp.Delivery
	if err := c.call(func() (err error) {
		if channel, err = r.open(c); err == nil {
			deliveries, err = r.consume(channel, "all", r.from())
		}
		return err
	}); err != nil {
		return err
	}
	for {
		select {
		case d, ok := <-deliveries:
			if !ok {
				return errors.New("tape: the broker ended the consumer")
			}
			if _, err := r.hand(ctx, &d); err != nil {
				return err
			}
			if err := d.Ack(false); err != nil {
				return fmt.Errorf("tape: ack: %w", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// open opens a channel, if there is a stream.
func (r *reader) open(c *connection) (*amqp.Channel, error) {
	channel, err := c.Channel()
	if err != nil {
		return nil, fmt.Errorf("tape: open channel: %w", err)
	}
	if _, err := channel.QueueDeclarePassive(r.source.name, true, false, false, false, nil); err != nil {
		if refused(err, amqp.NotFound) {
			err = fmt.Errorf("%w: %w", ErrNoTape, err) // or its node is down
		}
		return nil, fmt.Errorf("open %s: %w", r.source.name, err)
	}
	if err := channel.Qos(prefetch, 0, false); err != nil {
		return nil, fmt.Errorf("tape: set prefetch: %w", err)
	}
	return channel, nil
}

// consume begins at an offset, a time, or what else the broker knows by a word.
func (r *reader) consume(channel *amqp.Channel, tag string, from any) (<-chan amqp.Delivery, error) {
	deliveries, err := channel.Consume(r.source.name, tag, false, false, false, false, amqp.Table{"x-stream-offset": from})
	if err != nil {
		return nil, fmt.Errorf("tape: consume %s from %v: %w", r.source.name, from, err)
	}
	return deliveries, nil
}

// page is what the stream has from some place on: all of it, or at least prefetch
// messages. Nothing means that there is nothing, and not that it has not come yet.
//
// A consumer is told of what there is by the stream's process, which the channel's
// process asks when the consumer begins, and does not wait for. A second consumer makes
// the channel's process ask the same one again, and wait: then the first answer is
// before whatever the channel is asked next, and so is what it has delivered for it. A
// cancel waits for that, and its answer comes behind the deliveries.
func (r *reader) page(c *connection, from any) (all []amqp.Delivery, err error) {
	err = c.call(func() error {
		channel, err := r.open(c)
		if err != nil {
			return err
		}
		deliveries, err := r.consume(channel, "first", from)
		if err != nil {
			return err
		}
		others, err := r.consume(channel, "second", "next")
		if err != nil {
			return err
		}
		for _, tag := range []string{"second", "first"} {
			if err := channel.Cancel(tag, false); err != nil {
				return fmt.Errorf("tape: cancel: %w", err)
			}
		}
		for d := range deliveries {
			all = append(all, d)
		}
		for range others { // what was written just now
		}
		return channel.Close()
	})
	return all, err
}

// findEnd is the offset of the last message, or -1 where there is none.
func (r *reader) findEnd(c *connection) (end int64, err error) {
	end = -1
	for from := any("last"); ; from = end + 1 {
		all, err := r.page(c, from)
		if err != nil {
			return 0, err
		}
		for i := range all {
			if offset, ok := all[i].Headers["x-stream-offset"].(int64); ok {
				end = max(end, offset)
			}
		}
		if len(all) < prefetch {
			return end, nil
		}
	}
}
