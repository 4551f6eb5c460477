package events

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/motto123/minigate/pkg/parts"
)

// route runs the router until ctx ends and its handlers have, or are given up.
func (e *Events) route(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if len(e.subscriptions) == 0 {
		e.broker.running()
		<-ctx.Done()
		return nil
	}
	// The router's own time-out would let Run return while handlers still run that
	// have time.
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: math.MaxInt64}, e.adapter)
	if err != nil {
		return fmt.Errorf("events: %w", err)
	}
	handlers, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var running atomic.Int64 // handlers
	var work sync.WaitGroup
	work.Go(func() {
		select {
		case <-handlers.Done():
			return
		case <-ctx.Done():
		}
		within, cancel := e.config.Ending.Within(handlers, e.config.Drain)
		defer cancel()
		<-within.Done()
		if n := running.Load(); handlers.Err() == nil && n > 0 {
			e.config.Ending.CutOff("events: %d handlers that were stopped, whose events are delivered again", n)
		}
		stop()
	})
	for _, s := range e.subscriptions {
		h := router.AddConsumerHandler(s.String(), s.event, e.broker.subscriber(s), counted(&running, e.consumer(s, handlers)))
		h.AddMiddleware(e.middleware(ctx, s)...)
	}
	var consumeError, routeError error
	work.Go(func() {
		consumeError = e.broker.consume(ctx)
		cancel()
	})
	work.Go(func() {
		select {
		case <-router.Running():
			e.broker.running()
		case <-handlers.Done():
		}
	})
	routed := make(chan struct{})
	go func() { // and not part of work: it waits for handlers, whatever they do
		defer close(routed)
		routeError = router.Run(ctx)
		stop()
	}()
	<-handlers.Done()
	deaf := false
	if !e.config.Ending.Await(routed, parts.DeafTime, parts.DeafHurried) {
		n := running.Load()
		if deaf = n > 0; deaf {
			e.config.Ending.CutOff("events: %d handlers that do not heed their context", n)
			e.log.Warnf("events: %d handlers do not heed their context, and are left running", n)
			e.broker.abandon()
		}
	}
	if !deaf { // but a broker that is slow
		<-routed
	}
	work.Wait()
	if !deaf && routeError != nil {
		return fmt.Errorf("events: router: %w", routeError)
	}
	return consumeError
}
