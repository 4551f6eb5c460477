package worker

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"

	"github.com/motto123/minigate/pkg/tracing"
)

// call is one request on its way through the worker, and the context of its
// handler. It is one allocation and is never used again for another request: a
// handler may keep its context, for example in a goroutine.
type call struct {
	caller   Caller
	route    *route
	envelope *envelope
	raw      Raw
	name     [64]byte    // room for the name of the answer
	scratch  *buffer     // where the answer is encoded; nil until it is needed
	next     *call       // in its lane
	told     atomic.Bool // its end, to who waits for that: by serve, or instead of it
	deaf     bool        // it was given up while its handler ran

	// Set before the handler starts.
	parent   context.Context
	deadline time.Time

	mu     sync.Mutex
	inner  context.Context // nil until somebody asks for Done
	cancel context.CancelFunc
	over   bool
}

// callKey is the key under which a context gives its call.
type callKey struct{}

var _ context.Context = (*call)(nil)

// errShutdown is the cause of contexts that end because the worker stops.
var errShutdown = errors.New("worker: shutting down")

// Deadline is when nobody waits for the answer any more.
func (c *call) Deadline() (time.Time, bool) { return c.deadline, true }

// Done makes the timer and the place in the parent's list that a context with a
// deadline costs only for handlers that ask.
func (c *call) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner == nil {
		c.inner, c.cancel = context.WithDeadline(c.parent, c.deadline)
		if c.over {
			c.cancel()
		}
	}
	return c.inner.Done()
}

// Err is as a context's, with or without somebody who asked for Done.
func (c *call) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.inner != nil:
		return c.inner.Err()
	case c.over:
		return context.Canceled
	case c.parent.Err() != nil:
		return c.parent.Err()
	case !time.Now().Before(c.deadline):
		return context.DeadlineExceeded
	}
	return nil
}

// Value goes through inner where there is one: contexts that are made from this
// one then find it and need no goroutine to watch Done.
func (c *call) Value(key any) any {
	switch key.(type) {
	case callKey, tracing.RequestKey:
		return c
	}
	c.mu.Lock()
	inner := c.inner
	c.mu.Unlock()
	if inner != nil {
		return inner.Value(key)
	}
	return c.parent.Value(key)
}

// finish ends the context after the handler has returned.
func (c *call) finish() {
	c.mu.Lock()
	c.over = true
	cancel := c.cancel
	c.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	if c.scratch != nil {
		c.scratch.free()
		c.scratch = nil
	}
	c.raw = Raw{} // a context that is kept does not keep the envelope
}

// buffer is where the answer is encoded. It goes back with finish.
func (c *call) buffer() *buffer {
	if c.scratch == nil {
		c.scratch = newBuffer()
	}
	return c.scratch
}

// buffer is bytes that are used again.
type buffer struct{ b []byte }

// keepBuffer bounds the size of a buffer that is kept.
const keepBuffer = 64 << 10

var buffers = sync.Pool{New: func() any { return new(buffer) }}

func newBuffer() *buffer {
	b, ok := buffers.Get().(*buffer)
	if !ok {
		return new(buffer)
	}
	return b
}

func (b *buffer) free() {
	if cap(b.b) <= keepBuffer {
		b.b = b.b[:0]
		buffers.Put(b)
	}
}
