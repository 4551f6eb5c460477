// Package parts runs the parts of a process, each of which is ended by itself
// and waited for, so that what feeds another can end before it.
//
// It refuses to restart anything: a part that ends early is reported, and its
// owner ends the rest.
package parts

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
)

// Parts are goroutines with names. Its methods are safe to call at once.
type Parts struct {
	running sync.WaitGroup
	failed  chan struct{}

	mu    sync.Mutex
	err   error
	ended bool
	stops []func()
}

// New returns no parts yet.
func New() *Parts { return &Parts{failed: make(chan struct{})} }

// Start runs f until the function that it returns is called, which cancels f's
// context and waits for its end; it may be called more than once.
func (p *Parts) Start(name string, f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	p.running.Add(1)
	go func() {
		defer p.running.Done()
		defer close(done)
		err := f(ctx)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.keep(name, err)
		if ctx.Err() == nil && !p.ended {
			p.ended = true
			close(p.failed)
		}
	}()
	stop = func() {
		cancel()
		<-done
	}
	p.OnStop(stop)
	return stop
}

// Closing has Stop close c, when everything that was started after this has
// ended and before anything that was started earlier does.
func (p *Parts) Closing(name string, c io.Closer) {
	p.OnStop(func() {
		err := c.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.keep("close "+name, err)
	})
}

// OnStop has Stop call f, in its turn like the end of a part.
func (p *Parts) OnStop(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stops = append(p.stops, f)
}

// keep takes the first error. p.mu is held.
func (p *Parts) keep(name string, err error) {
	if err != nil && p.err == nil {
		p.err = fmt.Errorf("%s: %w", name, err)
	}
}

// Stop ends all parts, the last one first, each after the end of the one before.
func (p *Parts) Stop() {
	p.mu.Lock()
	stops := p.stops
	p.stops = nil
	p.mu.Unlock()
	for _, stop := range slices.Backward(stops) {
		stop()
	}
}

// Failed is closed when a part ends that nobody stopped, with an error or not.
func (p *Parts) Failed() <-chan struct{} { return p.failed }

// Wait returns the first error of a part, when all parts have ended.
func (p *Parts) Wait() error {
	p.running.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}
