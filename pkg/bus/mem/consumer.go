package mem

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/motto123/minigate/pkg/bus"
)

// errSettled: Ack or Reject was called twice for one delivery.
var errSettled = errors.New("mem: the delivery is settled already")

// errOther: the queue exists, and is not the one that was asked for.
var errOther = errors.New("the queue exists with other properties")

// consumer is one running Consume. Its queue's lock guards it.
type consumer struct {
	ctx    context.Context // of Consume
	drain  time.Duration
	queue  *queue
	wake   sync.Cond // assigned, settled, stopped
	credit int       // how many items it may still be given

	assigned ring   // given and not handed out yet
	slots    []slot // handed out, by the number that the delivery knows
	free     []int  // numbers of slots that are not in use
	out      int    // slots in use

	stopped  bool      // ctx ended: nothing more is handed out
	deadline time.Time // until when, after that, deliveries can be settled
	ended    bool      // nothing can be settled any more
}

// slot holds what was handed out and not settled. The generation tells a second
// Ack of one delivery from the first Ack of the next one in the same slot.
type slot struct {
	item       item
	generation uint64
	used       bool
}

// Consume implements bus.Bus. After Close it returns ErrClosed.
func (b *Bus) Consume(ctx context.Context, spec bus.Consumer) error {
	c, err := b.attach(ctx, spec)
	if err != nil {
		return fmt.Errorf("consume %s: %w", spec.Queue.Name, err)
	}
	q := c.queue
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		q.mu.Lock()
		defer q.mu.Unlock()
		c.stop(time.Now().Add(c.drain))
	})
	if spec.Ready != nil {
		spec.Ready()
	}
	c.handOut(spec)
	c.finish()
	if !stop() {
		<-stopped
	}
	if ctx.Err() == nil {
		return bus.ErrClosed
	}
	return nil
}

// attach declares the queue and its bindings, and adds a consumer.
func (b *Bus) attach(ctx context.Context, spec bus.Consumer) (*consumer, error) {
	c := &consumer{ctx: ctx, drain: spec.Drain, credit: spec.Prefetch}
	if c.credit <= 0 {
		c.credit = defaultPrefetch
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, bus.ErrClosed
	}
	for _, binding := range spec.Queue.Bindings {
		if b.exchanges[binding.Exchange] == nil {
			return nil, fmt.Errorf("there is no exchange %q", binding.Exchange)
		}
	}
	q := b.queues[spec.Queue.Name]
	if q == nil {
		q = b.newQueue(spec.Queue)
		b.queues[spec.Queue.Name] = q
	} else if !sameProperties(q.spec, spec.Queue) {
		return nil, errOther
	}
	for _, binding := range spec.Queue.Bindings {
		b.exchanges[binding.Exchange].bind(binding.Key, q)
	}
	c.queue = q
	c.wake.L = &q.mu
	q.add(c) // not deleted: that happens under b.mu
	return c, nil
}

func sameProperties(a, b bus.Queue) bool {
	return a.Expires == b.Expires && a.MaxMessages == b.MaxMessages && a.MaxBytes == b.MaxBytes &&
		a.DeadLetter == b.DeadLetter && a.Quorum == b.Quorum
}

// assign gives the consumer an item of its queue.
func (c *consumer) assign(it item) {
	c.credit--
	c.assigned.push(it)
	c.wake.Signal()
}

// handOut calls handle with each item until the consumer is stopped.
//
// Hot path: one lock and one allocation, the Settle function, a delivery.
func (c *consumer) handOut(spec bus.Consumer) {
	for {
		c.queue.mu.Lock()
		for c.assigned.length == 0 && !c.stopped {
			c.wake.Wait()
		}
		c.stopInTime()
		if c.stopped {
			c.queue.mu.Unlock()
			return
		}
		it := c.assigned.pop()
		n, generation := c.occupy(it)
		c.queue.mu.Unlock()
		d := bus.Delivery{
			Exchange:    it.route.exchange,
			Key:         it.route.key,
			Body:        it.body,
			Redelivered: it.redelivered,
			Sent:        it.sent,
			Settle:      func(s bus.Settlement) error { return c.settle(n, generation, s) },
		}
		c.queue.bus.meter.Delivered(&d)
		spec.Handle(d)
	}
}

func (c *consumer) occupy(it item) (n int, generation uint64) {
	if last := len(c.free) - 1; last >= 0 {
		n, c.free = c.free[last], c.free[:last]
	} else {
		n = len(c.slots)
		c.slots = append(c.slots, slot{})
	}
	s := &c.slots[n]
	s.item, s.used = it, true
	s.generation++
	c.out++
	return n, s.generation
}

func (c *consumer) settle(n int, generation uint64, how bus.Settlement) error {
	q := c.queue
	q.mu.Lock()
	if s := &c.slots[n]; !s.used || s.generation != generation {
		ended := c.ended
		q.mu.Unlock()
		if ended {
			return bus.ErrStale
		}
		return errSettled
	}
	it := c.slots[n].item
	c.release(n)
	c.credit++
	q.bus.meter.Settled(how)
	if how == bus.Requeued {
		it.redelivered = true
		q.giveBack(it)
		c.stopInTime() // or it could come here again, behind what follows it
	}
	q.dispatch()
	if c.stopped {
		c.wake.Signal()
	}
	q.mu.Unlock()
	if how == bus.DeadLetter && q.spec.DeadLetter {
		q.bus.deadLetter(q, it.body)
	}
	return nil
}

func (c *consumer) release(n int) {
	c.slots[n].item, c.slots[n].used = item{}, false
	c.free = append(c.free, n)
	c.out--
}

// stop ends the handing out. What was only assigned goes back at once, and
// nobody has seen it: it is not marked as redelivered.
func (c *consumer) stop(deadline time.Time) {
	if c.stopped {
		return
	}
	c.stopped, c.deadline = true, deadline
	q := c.queue
	q.drop(c)
	unseen := make([]item, 0, c.assigned.length)
	for c.assigned.length > 0 {
		unseen = append(unseen, c.assigned.pop())
	}
	q.giveBack(unseen...)
	q.dispatch()
	c.wake.Broadcast()
}

// stopInTime stops where ctx has ended: what is called then may not have run yet.
func (c *consumer) stopInTime() {
	if c.ctx.Err() != nil {
		c.stop(time.Now().Add(c.drain))
	}
}

// cut ends the consumer together with the bus: everything is gone.
func (c *consumer) cut() {
	c.stop(time.Time{})
	for n := range c.slots {
		if c.slots[n].used {
			c.release(n)
		}
	}
	c.ended = true
	c.wake.Broadcast()
}

// finish waits until all that was handed out is settled or the time for it is
// over, and gives the rest back.
func (c *consumer) finish() {
	q := c.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if left := time.Until(c.deadline); c.out > 0 && left > 0 {
		over := false
		timer := time.AfterFunc(left, func() {
			q.mu.Lock()
			defer q.mu.Unlock()
			over = true
			c.wake.Broadcast()
		})
		defer timer.Stop()
		for c.out > 0 && !over && !c.ended {
			c.wake.Wait()
		}
	}
	c.ended = true
	unsettled := make([]item, 0, c.out)
	for n := range c.slots {
		if c.slots[n].used {
			it := c.slots[n].item
			it.redelivered = true
			c.release(n)
			unsettled = append(unsettled, it)
		}
	}
	q.giveBack(unsettled...)
	q.dispatch()
	q.unused()
}
