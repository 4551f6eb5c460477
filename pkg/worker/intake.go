package worker

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/errors"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/stack"
)

// envelope is a delivery whose requests are under way. It is acked with the
// last of them.
type envelope struct {
	delivery bus.Delivery
	taken    time.Time
	number   uint64       // in the order of delivery
	key      string       // where its replies go
	left     atomic.Int32 // requests that have not come to their end
	lost     atomic.Bool  // one of them was given up: it must be delivered again
}

// intake makes calls of deliveries. It is called by one goroutine.
type intake struct {
	w      *Worker
	base   context.Context // of the calls
	lanes  *lanes
	acks   *settler
	gates  map[string]gateName
	answer func(gate string) // a gate asks who is here
	dead   bus.Publisher     // of dead letters
	taken  uint64            // envelopes
}

// gateName is a gate as it stands in envelopes, in strings that do not keep an
// envelope alive.
type gateName struct{ id, address, key string }

// keepGates bounds the names that are kept.
const keepGates = 1024

// errEmpty has the stack of where it is made.
func errEmpty() error { return errors.New("worker: the envelope names no gate or no route") }

func (in *intake) handle(d bus.Delivery) {
	w := in.w
	if d.Redelivered {
		w.stats.redelivered.Add(1)
	}
	in.taken++
	e := &envelope{delivery: d, taken: time.Now(), number: in.taken}
	first, announce, err := in.read(e)
	switch {
	case err != nil:
		w.stats.malformed.Add(1)
		w.log.WithFields(namesOf(&d)).Errorf("envelope dead-lettered: %+v", err)
		in.bury(e, err)
	case announce != "":
		in.answer(announce)
		in.acks.put(e, bus.Acked)
	case first == nil:
		in.acks.put(e, bus.Acked)
	default:
		for c := in.lanes.add(first); c != nil; c = c.next {
			e.lost.Store(true)
			in.acks.done(c.envelope)
		}
	}
}

// maxNamed bounds what an envelope that can not be read has to say of itself.
const maxNamed = 256

// namesOf is what names an envelope in the log, as far as it can be read.
func namesOf(d *bus.Delivery) logrus.Fields {
	fields := logrus.Fields{"key": d.Key}
	var h bus.Header
	_ = bus.ReadRequests(d.Body, &h, func(*bus.Request) error { return nil }) // it says again what is known
	for name, text := range map[string]string{"gate": h.Gate, "route": h.Route} {
		if text != "" {
			fields[name] = bus.Clip(text, maxNamed)
		}
	}
	return fields
}

// bury publishes the dead letter of an envelope itself, because a reject can not
// carry the reason, and acks the envelope when the broker has confirmed the letter.
// A process that dies in between leaves the envelope to the next replica, and then
// its letter is there twice. Where the letter can not be published, the broker
// makes one, without a reason.
func (in *intake) bury(e *envelope, cause error) {
	d := &e.delivery
	t, before := in.w.cfg.Topology, d.Letter()
	letter := bus.Letter{Reason: cause.Error(), Stack: stack.Of(cause), Route: before.Route, Attempts: 1}
	if d.Exchange == t.RequestExchange() { // and not put back into the queue, by its name
		letter.Route = d.Key
	}
	letter.DiedAgain(before, time.Now())
	in.dead.Publish(bus.Message{
		Exchange:   t.DeadExchange(),
		Key:        t.WorkerQueue(in.w.service),
		Body:       d.Body,
		Persistent: true,
		Headers:    letter.Headers(),
	}, func(err error) {
		as := bus.Acked
		if err != nil {
			as = bus.DeadLetter
		}
		in.acks.put(e, as)
	})
}

// maxCalls bounds the calls that are made in one piece of memory, all of which stays
// while any of them runs.
const maxCalls = 64

// read returns the calls of an envelope, linked by next, or the gate that asks
// for an announcement.
func (in *intake) read(e *envelope) (first *call, announce string, err error) {
	w, d := in.w, &e.delivery
	var (
		header bus.Header
		last   *call
		gate   gateName
		rt     *route
		ack    *route
		count  int32
		free   []call // made for this envelope, a few at a time
		more   = 1
	)
	err = bus.ReadRequests(d.Body, &header, func(r *bus.Request) error {
		if count == 0 {
			if header.Gate == "" || header.Route == "" {
				return errEmpty()
			}
			gate = in.gate(&header)
			e.key = gate.key
			rt, ack = w.routes[header.Route], w.acks[header.Route]
			if rt == nil {
				rt = w.unknown(strings.Clone(header.Route))
			}
			if !d.Redelivered && !d.Sent.IsZero() {
				of := rt
				if rt.unknown && ack != nil {
					of = ack
				}
				of.measured.transit.Took(e.taken.Sub(d.Sent))
			}
		}
		if len(free) == 0 {
			free = make([]call, more)
			more = min(4*more, maxCalls)
		}
		c := &free[0]
		free = free[1:]
		c.envelope, c.route, c.parent = e, rt, in.base
		c.caller = Caller{
			Session:     Session{Gate: gate.id, GateAddress: gate.address, ID: r.Session},
			User:        r.User,
			Type:        MessageType(r.Type),
			DataType:    DataType(r.DataType),
			ID:          r.ID,
			Sequence:    r.Sequence,
			Redelivered: d.Redelivered,
		}
		switch c.caller.Type {
		case Request, Notify:
		case Ack:
			if ack == nil {
				w.stats.unknownAcks.Add(1)
				return nil
			}
			c.route = ack
		default:
			return errors.Errorf("message type %d", r.Type)
		}
		c.caller.Route = c.route.name
		if len(r.Trace) > 0 {
			c.belongs(r.Trace)
		}
		c.caller.Address, _ = netip.AddrFromSlice(r.Address)
		if r.Deadline != 0 {
			c.deadline = time.UnixMilli(r.Deadline)
		}
		c.raw = Raw{DataType: c.caller.DataType, Name: c.route.nameOf(r.Name), Data: r.Data}
		if last == nil {
			first = c
		} else {
			last.next = c
		}
		last = c
		count++
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	e.left.Store(count)
	if d.Key == w.cfg.Topology.AnnounceKey() {
		if header.Gate == "" {
			return nil, "", errEmpty()
		}
		return nil, strings.Clone(header.Gate), nil
	}
	if w.cfg.Tape != nil && rt != nil {
		w.record(e, rt)
	}
	return first, "", nil
}

func (in *intake) gate(h *bus.Header) gateName {
	g, ok := in.gates[h.Gate]
	if ok && g.address == h.GateAddress {
		return g
	}
	if len(in.gates) >= keepGates {
		clear(in.gates)
	}
	g = gateName{id: strings.Clone(h.Gate), address: strings.Clone(h.GateAddress)}
	g.key = in.w.cfg.Topology.GateKey(g.id)
	in.gates[g.id] = g
	return g
}

// nameOf is a string of b, without an allocation where it is what the route
// expects.
func (r *route) nameOf(b []byte) string {
	if string(b) == r.inName {
		return r.inName
	}
	return string(b)
}

// unknown is the route of requests that came because the service's queue gets
// all of SERVICE.#, and that has no handler.
func (w *Worker) unknown(name string) *route {
	return &route{name: name, unknown: true, measured: w.measures.others, serve: func(context.Context, any) (any, error) {
		return nil, status.Errorf(codes.NotFound, "there is no route %s", name)
	}}
}

// settler acks envelopes: apart from whoever finished the last request, since
// that may be the goroutine of the publisher's confirms, which must not wait for
// the consumer's socket.
type settler struct {
	log func(error)

	mu   sync.Mutex
	list []settlement // at most what the prefetch lets in
	back []settlement // to be given back together, so that their order is kept
	open bool         // no more waits in back
	wake chan struct{}
}

type settlement struct {
	delivery bus.Delivery
	as       bus.Settlement
	number   uint64 // of the envelope
}

func newSettler(log func(error)) *settler {
	return &settler{log: log, wake: make(chan struct{}, 1)}
}

// done says that one request of an envelope came to its end.
func (s *settler) done(e *envelope) {
	if e.left.Add(-1) != 0 {
		return
	}
	as := bus.Acked
	if e.lost.Load() {
		as = bus.Requeued
	}
	s.put(e, as)
}

func (s *settler) put(e *envelope, as bus.Settlement) {
	one := settlement{delivery: e.delivery, as: as, number: e.number}
	s.mu.Lock()
	if as == bus.Requeued && !s.open {
		s.back = append(s.back, one)
	} else {
		s.list = append(s.list, one)
	}
	s.mu.Unlock()
	s.signal()
}

// giveBack has the envelopes given back that were given up until now, in the order in
// which they came: who takes them over gets them one after the other.
func (s *settler) giveBack() {
	s.mu.Lock()
	slices.SortFunc(s.back, func(a, b settlement) int { return cmp.Compare(a.number, b.number) })
	s.list, s.back, s.open = append(s.list, s.back...), nil, true
	s.mu.Unlock()
	s.signal()
}

func (s *settler) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run settles until ctx ends, and then what is still there.
func (s *settler) run(ctx context.Context) {
	var list []settlement
	for {
		ending := ctx.Err() != nil // looked at before the list, which is then the last
		s.mu.Lock()
		list, s.list = s.list, list[:0]
		s.mu.Unlock()
		for _, one := range list {
			// ErrStale: it comes again by itself, and was handled once too often.
			if err := one.delivery.Settle(one.as); err != nil && !errors.Is(err, bus.ErrStale) {
				s.log(err)
			}
		}
		clear(list)
		if ending {
			return
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
		}
	}
}
