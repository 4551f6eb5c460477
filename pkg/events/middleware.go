package events

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	pkgerrors "github.com/pkg/errors"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/semaphore"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/stack"
)

// Metadata keys, beside those of bus.Letter, which a message has that was a dead
// letter and was put back.
const (
	metadataName = "name" // protobuf full name of the payload
	metadataID   = "id"   // watermill's UUID, as an AMQP header

	// In this process, and no headers on the broker: how often the handler was called
	// with the message, the stack of its last error, and when it was published, in
	// Unix seconds.
	metadataAttempts  = "this_attempts"
	metadataStack     = "this_stack"
	metadataPublished = "this_published"
)

// middleware is what a message passes on its way to the handler, outermost
// first. ctx is the one whose end stops the router.
func (e *Events) middleware(ctx context.Context, s *subscription) []message.HandlerMiddleware {
	grave := grave{events: e, queue: s.queue, counts: s.counts}
	buryAll, errAll := middleware.PoisonQueueWithFilter(grave, s.String(), func(err error) bool { return !errors.Is(err, errReleased) })
	buryPermanent, errPermanent := middleware.PoisonQueueWithFilter(grave, s.String(), IsPermanent)
	if errAll != nil || errPermanent != nil { // only for an empty topic, and that has a slash
		panic(errors.Join(errAll, errPermanent))
	}
	retry := middleware.Retry{
		MaxRetries:          s.retries,
		InitialInterval:     e.config.RetryDelay,
		MaxInterval:         e.config.RetryMaxDelay,
		Multiplier:          3,
		RandomizationFactor: 0.5,
		// Not ShouldRetry: with it, the delay grows twice with each attempt.
	}
	return []message.HandlerMiddleware{
		e.settle(ctx, s),
		buryAll,
		release,
		retry.Middleware,
		// Inside of retry, so that a permanent error never meets it; while the
		// dead letter can not be published, that is what is retried.
		buryPermanent,
		e.attempt(s),
	}
}

// settle gives back what comes while the router stops, and bounds how many
// messages are handled at once: the broker in this process hands out all it has,
// and after a reconnect some come while the same are still being handled.
func (e *Events) settle(ctx context.Context, s *subscription) message.HandlerMiddleware {
	places := semaphore.NewWeighted(int64(s.concurrency))
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(m *message.Message) ([]*message.Message, error) {
			if err := places.Acquire(ctx, 1); err != nil {
				return nil, err
			}
			defer places.Release(1)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			out, err := next(m)
			if err == nil {
				e.broker.settled()
			}
			return out, err
		}
	}
}

// errReleased is a failure after the message's context has ended, because the
// router stops or the message's connection is lost: retries were cut short, the
// broker delivers the message again, and it is no dead letter. With Canceled in
// it, the Router does not log it.
var errReleased = fmt.Errorf("events: message released: %w", context.Canceled)

func release(next message.HandlerFunc) message.HandlerFunc {
	return func(m *message.Message) ([]*message.Message, error) {
		out, err := next(m)
		if err != nil && m.Context().Err() != nil {
			return nil, errReleased
		}
		return out, err
	}
}

// attempt counts attempts, logs each failure, and keeps its stack for the letter
// that the message may become. A panic is a failure.
func (e *Events) attempt(s *subscription) message.HandlerMiddleware {
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(m *message.Message) ([]*message.Message, error) {
			n, _ := strconv.Atoi(m.Metadata.Get(metadataAttempts)) // absent is 0
			n++
			m.Metadata.Set(metadataAttempts, strconv.Itoa(n))
			if n > 1 {
				s.counts.retried.Add(1)
			}
			s.counts.running.Add(1)
			began := time.Now()
			out, panicked, err := call(next, m)
			s.counts.seconds.Took(time.Since(began))
			s.counts.running.Add(-1)
			if err == nil {
				s.counts.handled.Add(1)
				return out, nil
			}
			s.counts.failed.Add(1)
			fields := logrus.Fields{"event": s.event, "group": s.group, "id": m.UUID, "attempt": n, logrus.ErrorKey: err}
			from := bus.Clip(stack.Of(err), bus.MaxStack)
			if panicked {
				s.counts.panics.Add(1)
				fields["stack"] = from // of other errors it is logged once, with the dead letter
			}
			m.Metadata.Set(metadataStack, from)
			e.log.WithFields(requestOf(m)).WithFields(fields).Warn("events: handler failed")
			return out, err
		}
	}
}

// call calls a handler and makes a panic an error, with the stack of where it
// happened: the deferred function runs on top of it.
func call(h message.HandlerFunc, m *message.Message) (out []*message.Message, panicked bool, err error) {
	defer func() {
		if reason := recover(); reason != nil {
			out, panicked, err = nil, true, pkgerrors.Errorf("panic: %v", reason)
		}
	}()
	out, err = h(m)
	return out, false, err
}

// grave is the publisher of watermill's poison queue. It puts the headers of
// bus.Letter in place of watermill's, and of those of an earlier death.
type grave struct {
	events *Events
	queue  queue
	counts *counts
}

func (g grave) Publish(_ string, messages ...*message.Message) error {
	for _, m := range messages {
		attempts, _ := strconv.Atoi(m.Metadata.Get(metadataAttempts)) // set by attempt
		l := bus.Letter{
			Reason:   m.Metadata.Get(middleware.ReasonForPoisonedKey),
			Stack:    m.Metadata.Get(metadataStack),
			Event:    g.queue.event,
			Group:    g.queue.group,
			Attempts: attempts,
		}
		l.DiedAgain(bus.ReadLetter(m.Metadata.Get), time.Now())
		dead := message.NewMessage(m.UUID, m.Payload)
		for key, value := range m.Metadata {
			switch key {
			case middleware.ReasonForPoisonedKey, middleware.PoisonedTopicKey,
				middleware.PoisonedHandlerKey, middleware.PoisonedSubscriberKey, metadataAttempts, metadataStack:
			default:
				dead.Metadata.Set(key, bus.Clip(value, bus.MaxReason))
			}
		}
		for _, key := range bus.LetterHeaders {
			delete(dead.Metadata, key)
		}
		maps.Copy(dead.Metadata, l.Headers())
		// Not the message's context: it may have ended with the subscription.
		ctx, cancel := context.WithTimeout(context.Background(), g.events.config.PublishTimeout)
		dead.SetContext(ctx)
		err := g.events.broker.bury(g.queue, dead)
		cancel()
		if err != nil {
			return err
		}
		g.counts.dead.Add(1)
		fields := logrus.Fields{
			"event": l.Event, "group": l.Group, "id": m.UUID, "attempts": l.Attempts, "reason": bus.Clip(l.Reason, bus.MaxReason),
		}
		if l.Stack != "" {
			fields["stack"] = l.Stack
		}
		g.events.log.WithFields(requestOf(m)).WithFields(fields).Error("events: message is a dead letter")
	}
	return nil
}

// Close has nothing to close: the broker outlives the router.
func (grave) Close() error { return nil }
