package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/motto123/minigate/pkg/load"
)

// held is a load in this process that holds its connections until it is let go.
type held struct {
	*load.Load
	began  time.Time
	cancel context.CancelFunc
	ended  chan struct{}
	result *load.Result
	err    error
}

// hold opens connections and returns when all are open.
func hold(ctx context.Context, cfg load.Config) (*held, error) {
	l, err := load.New(cfg)
	if err != nil {
		return nil, err
	}
	h := &held{Load: l, ended: make(chan struct{})}
	ctx, h.cancel = context.WithCancel(ctx)
	go func() {
		defer close(h.ended)
		h.result, h.err = l.Run(ctx)
	}()
	<-l.Connected() // or Run has ended
	h.began = time.Now().Add(-l.Since())
	if l.Open() < cfg.Connections {
		_, err := h.release()
		return nil, errors.Join(fmt.Errorf("bench: %d of %d connections are open", l.Open(), cfg.Connections), err)
	}
	return h, nil
}

// release closes the connections. None of them may have ended by itself.
func (h *held) release() (*load.Result, error) {
	h.cancel()
	<-h.ended
	if h.err != nil {
		return nil, h.err
	}
	return h.result, h.result.Failed()
}

// releaseAll releases several.
func releaseAll(all []*held) error {
	var errs []error
	for _, h := range all {
		_, err := h.release()
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// until waits for done, without taking the processor from whom it waits for.
func until(ctx context.Context, limit time.Duration, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	pause := time.NewTicker(5 * time.Millisecond)
	defer pause.Stop()
	for !done() {
		select {
		case <-pause.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
