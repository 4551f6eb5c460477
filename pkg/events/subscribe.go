package events

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/go-playground/validator/v10"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/metrics"
	"github.com/motto123/minigate/pkg/tracing"
)

// subscription is what Subscribe was told.
type subscription struct {
	queue
	concurrency int
	retries     int
	timeout     time.Duration
	handle      func(ctx context.Context, m *message.Message) error
	counts      *counts
}

// Option changes one subscription.
type Option func(*subscription)

// Concurrency is Config.Concurrency for this subscription.
func Concurrency(n int) Option { return func(s *subscription) { s.concurrency = max(n, 1) } }

// Retries is Config.Retries for this subscription; 0 is never.
func Retries(n int) Option { return func(s *subscription) { s.retries = max(n, 0) } }

// Subscribe has handle called with every event of that name, once for the whole
// group (and again after a failure). M is the pointer to a generated message. A
// payload that is not an M, or breaks the rules in M's validate tags, is a dead
// letter at once; so is one for which handle returns a Permanent error. Any
// other error, and a panic, is retried, and is a dead letter after the last
// attempt.
//
// handle is called from several goroutines. Its context ends after
// Config.Timeout, and knows the event's ID.
//
// Subscribe is called before Run, which reports what was wrong with it.
func Subscribe[M proto.Message](e *Events, group, name string, handle func(ctx context.Context, in M) error, options ...Option) {
	s := &subscription{
		queue:       queue{group, name},
		concurrency: e.config.Concurrency,
		retries:     e.config.Retries,
		timeout:     e.config.Timeout,
		counts:      &counts{seconds: metrics.NewHistogram(metrics.Latency)},
	}
	for _, o := range options {
		o(s)
	}
	var none M
	if any(none) == nil {
		e.fail(fmt.Errorf("subscribe %s: the handler's message is an interface, want a generated message", s.queue))
		return
	}
	want := none.ProtoReflect().Descriptor().FullName()
	s.handle = func(ctx context.Context, m *message.Message) error {
		if got := m.Metadata.Get(metadataName); got != "" && got != string(want) {
			return Permanent(fmt.Errorf("holds a %s, want a %s", got, want))
		}
		in, ok := none.ProtoReflect().New().Interface().(M)
		if !ok {
			return Permanent(fmt.Errorf("can not make a %s", want))
		}
		if err := proto.Unmarshal(m.Payload, in); err != nil {
			return Permanent(fmt.Errorf("decode %s: %w", want, err))
		}
		if err := e.check(in); err != nil {
			return Permanent(fmt.Errorf("invalid %s: %w", want, err))
		}
		return handle(ctx, in)
	}
	e.add(s)
}

func (e *Events) add(s *subscription) {
	if strings.Contains(s.group, ".") || !bus.ValidRoute(s.group+"."+s.event) || !bus.ValidRoute(s.event) {
		e.fail(fmt.Errorf("subscribe %q: not a name", s.queue.String()))
		return
	}
	for _, other := range e.subscriptions {
		if other.queue == s.queue {
			e.fail(fmt.Errorf("subscribe %s: subscribed already", s.queue))
			return
		}
	}
	e.subscriptions = append(e.subscriptions, s)
}

// check names the fields that break a rule, never their values: the text ends in
// logs and dead letters.
func (e *Events) check(m any) error {
	err := e.validate.Struct(m)
	var bad validator.ValidationErrors
	if !errors.As(err, &bad) {
		return err
	}
	var b strings.Builder
	for i, f := range bad {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(f.Field() + " is not " + f.Tag())
		if f.Param() != "" {
			b.WriteString("=" + f.Param())
		}
	}
	return errors.New(b.String())
}

// permanent marks an error that another attempt would not mend.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// Permanent marks err as one that no further attempt can mend: the message is a
// dead letter at once. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return permanent{err}
}

// IsPermanent reports whether err, or one that it wraps, was marked by Permanent.
func IsPermanent(err error) bool {
	var p permanent
	return errors.As(err, &p)
}

type contextKey struct{}

// ID of the event that the handler was called with. It is the same in every
// attempt and every redelivery; empty where ctx is not a handler's.
func ID(ctx context.Context) string {
	id, _ := ctx.Value(contextKey{}).(string)
	return id
}

// consumer is the end of the middleware chain. Handlers get a context of their
// own in place of the message's, which ends with the subscription: they may go
// on while the process drains.
func (e *Events) consumer(s *subscription, handlers context.Context) message.NoPublishHandlerFunc {
	return func(m *message.Message) error {
		ctx, cancel := context.WithTimeout(context.WithValue(handlers, contextKey{}, m.UUID), s.timeout)
		defer cancel()
		ctx, span := e.traceHandler(tracing.Extract(ctx, m.Metadata.Get), s, m)
		defer func() { span.End() }() // as it is, End would tell what a panic says
		err := s.handle(ctx, m)
		if err != nil {
			tracing.Failed(span, "handler")
		}
		return err
	}
}

// counted keeps count of the handlers that run.
func counted(running *atomic.Int64, handle message.NoPublishHandlerFunc) message.NoPublishHandlerFunc {
	return func(m *message.Message) error {
		running.Add(1)
		defer running.Add(-1)
		return handle(m)
	}
}
