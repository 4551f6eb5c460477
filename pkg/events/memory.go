package events

import (
	"context"
	"fmt"
	"sync"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/semaphore"

	"github.com/motto123/minigate/pkg/bus"
)

// memory is a broker in this process: watermill's channels, with the bound that
// they lack. They start a goroutine for each message and hold it until it is
// acked; so a message takes one place of the backlog for each group, and a
// publisher waits for places.
type memory struct {
	log      logrus.Ext1FieldLogger
	channels *gochannel.GoChannel
	backlog  *semaphore.Weighted

	subscribed chan struct{} // closed when the router has subscribed to everything
	mu         sync.Mutex
	groups     map[string]int64 // subscriptions of an event
	stopped    chan struct{}
}

func newMemory(c Config, log logrus.Ext1FieldLogger, adapter watermill.LoggerAdapter) *memory {
	return &memory{
		log:        log,
		channels:   gochannel.NewGoChannel(gochannel.Config{}, adapter),
		backlog:    semaphore.NewWeighted(int64(c.Backlog)),
		subscribed: make(chan struct{}),
		groups:     make(map[string]int64),
		stopped:    make(chan struct{}),
	}
}

func (b *memory) publish(event string, m *message.Message) error {
	ctx := m.Context()
	select {
	case <-b.stopped:
		return bus.ErrClosed
	case <-b.subscribed:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", bus.ErrUnavailable, context.Cause(ctx))
	}
	b.mu.Lock()
	groups := b.groups[event]
	b.mu.Unlock()
	if groups == 0 {
		return nil // as on a broker with no queue for it
	}
	if err := b.backlog.Acquire(ctx, groups); err != nil {
		return fmt.Errorf("%w: %w", bus.ErrRefused, err)
	}
	if err := b.channels.Publish(event, m); err != nil {
		b.backlog.Release(groups)
		return fmt.Errorf("%w: %w", bus.ErrClosed, err)
	}
	return nil
}

func (b *memory) settled() { b.backlog.Release(1) }

// abandon has nothing to give back to: what is not handled when this process ends
// is lost.
func (b *memory) abandon() {}

// connected is true between the router's start and its end.
func (b *memory) connected() (publishing, consuming bool) {
	select {
	case <-b.stopped:
		return false, false
	default:
	}
	select {
	case <-b.subscribed:
		return true, true
	default:
		return false, false
	}
}

// bury has nowhere to keep a letter: its payload may be a secret, so the log
// that the caller writes does not hold it either.
func (b *memory) bury(queue, *message.Message) error { return nil }

func (b *memory) run(ctx context.Context, _ []queue, ready func()) error {
	ready()
	<-ctx.Done()
	close(b.stopped)
	if err := b.channels.Close(); err != nil {
		return fmt.Errorf("events: %w", err)
	}
	return nil
}

func (b *memory) running() { close(b.subscribed) }

func (b *memory) subscriber(s *subscription) message.Subscriber {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.groups[s.event]++
	return b.channels
}

// consume has nothing to fill: the channels do it, and end with the context that
// the Router gives them.
func (b *memory) consume(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
