package events

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/semaphore"
)

// Metadata keys. All but metadataName and metadataID stand in dead letters only.
const (
	metadataName     = "name" // protobuf full name of the payload
	metadataID       = "id"   // watermill's UUID, as an AMQP header
	metadataReason   = "reason"
	metadataEvent    = "event"
	metadataGroup    = "group"
	metadataAttempts = "attempts"
)

// reasonLimit bounds a dead letter's reason in bytes: all headers together have
// to fit into one AMQP frame, and a panic's text holds its stack.
const reasonLimit = 4 << 10

// letter is what stands on a dead letter.
type letter struct{ reason, event, group, attempts string }

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
		middleware.Recoverer,
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

// attempt counts attempts and logs each failure.
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
			out, err := next(m)
			s.counts.seconds.Took(time.Since(began))
			s.counts.running.Add(-1)
			if err == nil {
				s.counts.handled.Add(1)
			} else {
				s.counts.failed.Add(1)
				e.log.WithFields(requestOf(m)).WithFields(logrus.Fields{
					"event": s.event, "group": s.group, "id": m.UUID, "attempt": n, logrus.ErrorKey: err,
				}).Warn("events: handler failed")
			}
			return out, err
		}
	}
}

// grave is the publisher of watermill's poison queue. It puts our headers in
// place of watermill's.
type grave struct {
	events *Events
	queue  queue
	counts *counts
}

func (g grave) Publish(_ string, messages ...*message.Message) error {
	for _, m := range messages {
		l := letter{
			reason:   clip(m.Metadata.Get(middleware.ReasonForPoisonedKey), reasonLimit),
			event:    g.queue.event,
			group:    g.queue.group,
			attempts: m.Metadata.Get(metadataAttempts),
		}
		dead := message.NewMessage(m.UUID, m.Payload)
		for key, value := range m.Metadata {
			switch key {
			case middleware.ReasonForPoisonedKey, middleware.PoisonedTopicKey,
				middleware.PoisonedHandlerKey, middleware.PoisonedSubscriberKey:
			default:
				dead.Metadata.Set(key, clip(value, reasonLimit))
			}
		}
		// Not the message's context: it may have ended with the subscription.
		ctx, cancel := context.WithTimeout(context.Background(), g.events.config.PublishTimeout)
		dead.SetContext(ctx)
		err := g.events.broker.bury(g.queue, l, dead)
		cancel()
		if err != nil {
			return err
		}
		g.counts.dead.Add(1)
		g.events.log.WithFields(requestOf(m)).WithFields(logrus.Fields{
			"event": l.event, "group": l.group, "id": m.UUID, "attempts": l.attempts, "reason": l.reason,
		}).Error("events: message is a dead letter")
	}
	return nil
}

// Close has nothing to close: the broker outlives the router.
func (grave) Close() error { return nil }

// clip cuts s to at most n bytes of valid UTF-8.
func clip(s string, n int) string {
	if len(s) <= n {
		return strings.ToValidUTF8(s, "\uFFFD")
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return strings.ToValidUTF8(s[:n], "\uFFFD")
}
