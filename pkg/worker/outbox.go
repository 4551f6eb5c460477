package worker

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
	"go.opentelemetry.io/otel/trace"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/tracing"
)

// outbox sends replies and pushes, joined into envelopes for each gate. A reply
// is kept until the broker has it: while the broker is away it is tried again,
// until its deadline.
type outbox struct {
	coalescer *bus.Coalescer[*parcel]
	stats     *counters
	settled   func(*envelope) // one request of an envelope came to its end
	exchange  string
	tracer    *tracing.Tracer

	unsent atomic.Int64 // bytes of replies that have failed and are still to be sent

	mu      sync.Mutex
	room    chan struct{} // closed at the next settlement; nil where nobody waits
	failed  []*parcel     // to be tried again; at most what the prefetch lets in
	wake    chan struct{} // holds one token: there is something in failed
	stopped bool
}

// parcel is one reply or push on its way.
type parcel struct {
	key        string
	item       []byte
	persistent bool

	// Of a reply.
	envelope *envelope
	deadline time.Time
	buffer   *buffer    // that item is in
	failed   bool       // and counted in unsent
	span     trace.Span // nil where the request is not traced here

	// Of a push: takes one error.
	outcome chan error
}

// How the outbox publishes. The window keeps the broker's pipe full while one
// batch is on its way; what waits beyond outboxBytes makes handlers wait, and so does
// as much of what has failed.
const (
	outboxWindow = 4
	outboxBytes  = 16 << 20
)

// The pauses before failed replies are tried again.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = time.Second
)

var parcels = sync.Pool{New: func() any { return new(parcel) }}

func newOutbox(p bus.Publisher, exchange string, stats *counters, settled func(*envelope)) *outbox {
	o := &outbox{stats: stats, settled: settled, exchange: exchange, wake: make(chan struct{}, 1)}
	o.coalescer = bus.NewCoalescer(bus.CoalescerConfig[*parcel]{
		Publisher:  p,
		Exchange:   exchange,
		Window:     outboxWindow,
		MaxPending: outboxBytes,
		Settle:     o.settle,
	})
	return o
}

// reply sends the answer to a request, which is in the buffer as an item of an
// envelope; span, if there is one, ends with it. Where too much waits, the handler that
// calls it waits too.
func (o *outbox) reply(c *call, b *buffer, span trace.Span) {
	p, ok := parcels.Get().(*parcel)
	if !ok {
		p = new(parcel)
	}
	p.key, p.envelope, p.deadline = c.envelope.key, c.envelope, c.deadline
	p.buffer, p.item, p.span = b, b.b, span
	err := o.settleDown(c)
	if err == nil {
		err = o.add(c, p)
	}
	if err != nil {
		o.outcome(p, err)
	}
}

// settleDown waits while too much has failed, until ctx ends: a broker that takes
// nothing refuses each reply at once, and would have all of them wait to be tried again.
func (o *outbox) settleDown(ctx context.Context) error {
	for o.unsent.Load() >= outboxBytes {
		room := o.nextRoom()
		if o.unsent.Load() < outboxBytes { // since the last settlement
			return nil
		}
		select {
		case <-room:
		case <-ctx.Done():
			return bus.ErrFull
		}
	}
	return nil
}

// add hands a parcel to the coalescer, and waits for room until ctx ends.
func (o *outbox) add(ctx context.Context, p *parcel) error {
	for {
		_, err := o.coalescer.Add(p.key, 0, p.item, p.persistent, p)
		if !errors.Is(err, bus.ErrFull) {
			return err
		}
		room := o.nextRoom()
		// Again, since the last settlement may have been before nextRoom.
		if _, err = o.coalescer.Add(p.key, 0, p.item, p.persistent, p); !errors.Is(err, bus.ErrFull) {
			return err
		}
		select {
		case <-room:
		case <-ctx.Done():
			return bus.ErrFull
		}
	}
}

func (o *outbox) nextRoom() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.room == nil {
		o.room = make(chan struct{})
	}
	return o.room
}

// settle is the coalescer's, for one envelope of replies.
func (o *outbox) settle(ps []*parcel, err error) {
	for _, p := range ps {
		o.outcome(p, err)
	}
	o.settledOne()
}

// settledOne has those look again who wait for room.
func (o *outbox) settledOne() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.room != nil {
		close(o.room)
		o.room = nil
	}
}

func (o *outbox) outcome(p *parcel, err error) {
	switch {
	case p.outcome != nil:
		p.outcome <- err
	case err == nil:
		o.stats.replies.Add(1)
		o.end(p, err)
	case errors.Is(err, bus.ErrNoRoute):
		o.stats.goneReplies.Add(1)
		o.end(p, err)
	default:
		o.again(p)
	}
}

// end takes what the broker has said, or why it has not been asked again.
func (o *outbox) end(p *parcel, err error) {
	e := p.envelope
	if p.span != nil {
		endReply(p.span, err)
	}
	if p.failed {
		o.unsent.Add(-int64(len(p.item)))
		o.settledOne()
	}
	p.buffer.free()
	*p = parcel{}
	parcels.Put(p)
	o.settled(e)
}

func (o *outbox) again(p *parcel) {
	if !p.failed {
		p.failed = true
		o.unsent.Add(int64(len(p.item)))
	}
	o.mu.Lock()
	stopped := o.stopped
	if !stopped {
		o.failed = append(o.failed, p)
	}
	o.mu.Unlock()
	if stopped {
		o.lose(p)
		return
	}
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// lose gives a reply up at the end of Run: its request will be delivered again.
func (o *outbox) lose(p *parcel) {
	o.stats.lostReplies.Add(1)
	p.envelope.lost.Store(true)
	o.end(p, bus.ErrClosed)
}

// retry sends what has failed again, with growing pauses while it goes on
// failing, until ctx ends.
func (o *outbox) retry(ctx context.Context) {
	pause := firstPause
	var replies uint64
	for {
		select {
		case <-o.wake:
		case <-ctx.Done():
			for _, p := range o.take(true) {
				o.lose(p)
			}
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			continue
		}
		pause = min(2*pause, lastPause)
		if n := o.stats.replies.Load(); n != replies {
			pause, replies = firstPause, n
		}
		o.resend(ctx, o.take(false))
	}
}

func (o *outbox) take(stop bool) []*parcel {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stopped = o.stopped || stop
	ps := o.failed
	o.failed = nil
	return ps
}

func (o *outbox) resend(ctx context.Context, ps []*parcel) {
	now := time.Now()
	for _, p := range ps {
		if !now.Before(p.deadline) {
			// Nobody waits for it any more, and the handler has done its work: that is
			// the end of this request, not a reason to handle it again.
			o.stats.lateReplies.Add(1)
			o.end(p, bus.ErrUnavailable)
			continue
		}
		o.stats.retries.Add(1)
		if err := o.add(ctx, p); err != nil {
			o.outcome(p, err)
		}
	}
}
