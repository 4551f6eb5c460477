package rabbit

import (
	"context"
	"errors"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/motto123/minigate/pkg/bus"
)

// errSettled: Ack or Reject was called twice for one delivery. The broker would
// close the channel for it.
var errSettled = errors.New("rabbit: the delivery is settled already")

// acks settles the deliveries of one consuming channel. Settling is cheap for
// the caller: a goroutine sends what has come together since it last did, as one
// frame where no unsettled delivery lies between. An ack alone goes out at once.
//
// What is to be delivered again once ctx has ended waits for the end of consuming:
// before that it could come here once more, behind what follows it.
type acks struct {
	ctx     context.Context // of Consume
	channel *amqp.Channel
	meter   *bus.Meter
	closed  chan *amqp.Error // told or closed when the channel is

	mu       sync.Mutex
	slots    []slot // slots[0] is the ring's anchor: next is the oldest
	free     []int
	last     uint64 // tag of the newest delivery
	acked    []uint64
	rejected []rejection
	canceled bool // no more is delivered here
	ended    bool

	wake    chan struct{} // there is something to send
	empty   chan struct{} // everything is settled; while draining
	stop    chan struct{}
	stopped chan struct{}
}

// slot is an unsettled delivery, in a ring in order of tags. The broker's
// prefetch bounds how many there are.
type slot struct {
	tag            uint64 // 0 where it is free
	back           bool   // it is to go back when no more is delivered here
	previous, next int
}

type rejection struct {
	tag     uint64
	requeue bool
}

func newAcks(ctx context.Context, ch *amqp.Channel, m *bus.Meter) *acks {
	a := &acks{
		ctx:     ctx,
		channel: ch,
		meter:   m,
		closed:  ch.NotifyClose(make(chan *amqp.Error, 1)),
		slots:   make([]slot, 1),
		wake:    make(chan struct{}, 1),
		empty:   make(chan struct{}, 1),
		stop:    make(chan struct{}),
		stopped: make(chan struct{}),
	}
	go a.run()
	return a
}

// track makes a delivery out of what came from the broker.
func (a *acks) track(d *amqp.Delivery) bus.Delivery {
	tag := d.DeliveryTag
	n := a.occupy(tag)
	_, sent := readID(d.MessageId)
	delivery := bus.Delivery{
		Exchange:    d.Exchange,
		Key:         d.RoutingKey,
		Body:        d.Body,
		Redelivered: d.Redelivered,
		Sent:        sent,
		Headers:     d.Headers,
		Settle:      func(s bus.Settlement) error { return a.settle(n, tag, s) },
	}
	if len(d.Headers) > 0 && wasDead(&delivery) {
		delivery.Sent = time.Time{} // how long it was dead says nothing about the way
	}
	a.meter.Delivered(&delivery)
	return delivery
}

// wasDead says that somebody put a dead letter back into its queue.
func wasDead(d *bus.Delivery) bool {
	_, byBroker := d.Headers["x-death"]
	return byBroker || d.Letter().Deaths > 0
}

func (a *acks) occupy(tag uint64) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.hold(tag)
}

// hold puts a delivery at the end of the ring. mu is held.
func (a *acks) hold(tag uint64) int {
	n := len(a.slots)
	if last := len(a.free) - 1; last >= 0 {
		n, a.free = a.free[last], a.free[:last]
	} else {
		a.slots = append(a.slots, slot{})
	}
	newest := a.slots[0].previous
	a.slots[n] = slot{tag: tag, previous: newest}
	a.slots[newest].next = n
	a.slots[0].previous = n
	a.last = tag
	return n
}

func (a *acks) settle(n int, tag uint64, how bus.Settlement) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended || a.channel.IsClosed() {
		return bus.ErrStale
	}
	if s := a.slots[n]; s.tag != tag || s.back {
		return errSettled
	}
	a.meter.Settled(how)
	if how == bus.Requeued && !a.canceled && a.ctx.Err() != nil {
		a.slots[n].back = true // and stays, so that no ack of several covers it
		return nil
	}
	a.release(n)
	if how == bus.Acked {
		a.acked = append(a.acked, tag)
	} else {
		a.rejected = append(a.rejected, rejection{tag, how == bus.Requeued})
	}
	wake(a.wake)
	if a.slots[0].next == 0 {
		wake(a.empty)
	}
	return nil
}

// release takes a slot out of the ring.
func (a *acks) release(n int) {
	s := a.slots[n]
	a.slots[s.previous].next = s.next
	a.slots[s.next].previous = s.previous
	a.slots[n] = slot{}
	a.free = append(a.free, n)
}

// cancel says that no more is delivered here. What waited for that goes back, in
// order.
func (a *acks) cancel() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.canceled = true
	for n := a.slots[0].next; n != 0; {
		s := a.slots[n]
		if s.back {
			a.release(n)
			a.rejected = append(a.rejected, rejection{s.tag, true})
		}
		n = s.next
	}
	wake(a.wake)
}

// giveBack returns what was not handed out, when no more is delivered here.
func (a *acks) giveBack(tag uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.canceled {
		a.slots[a.hold(tag)].back = true
		return
	}
	a.rejected = append(a.rejected, rejection{tag, true})
	wake(a.wake)
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (a *acks) run() {
	defer close(a.stopped)
	var acked []uint64
	var rejected []rejection
	for {
		stopping := false
		select {
		case <-a.wake:
		case <-a.stop:
			stopping = true
		}
		a.mu.Lock()
		acked, a.acked = a.acked, acked[:0]
		rejected, a.rejected = a.rejected, rejected[:0]
		oldest := a.last + 1
		if n := a.slots[0].next; n != 0 {
			oldest = a.slots[n].tag
		}
		if stopping {
			a.ended = true
		}
		a.mu.Unlock()
		a.send(acked, rejected, oldest)
		if stopping {
			return
		}
	}
}

// send tells the broker. Errors are not reported: they say that the channel is
// gone, and then all of it comes again.
func (a *acks) send(acked []uint64, rejected []rejection, oldest uint64) {
	// First, because an ack of several must not cover them.
	for _, r := range rejected {
		_ = a.channel.Nack(r.tag, false, r.requeue)
	}
	var newest uint64
	several := false
	for _, tag := range acked {
		if tag > oldest {
			_ = a.channel.Ack(tag, false)
			continue
		}
		several = several || newest != 0
		newest = max(newest, tag)
	}
	if newest != 0 {
		_ = a.channel.Ack(newest, several)
	}
}

// drain waits until everything is settled, at most until the deadline, and not
// where nothing can be settled any more.
func (a *acks) drain(deadline time.Time, closing <-chan struct{}) {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	for a.unsettled() {
		select {
		case <-a.empty:
		case <-timer.C:
			return
		case <-a.closed:
			return
		case <-closing:
			return
		}
	}
}

func (a *acks) unsettled() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.slots[0].next != 0
}

// end sends what is settled; from then on deliveries are stale.
func (a *acks) end() {
	close(a.stop)
	<-a.stopped
}
