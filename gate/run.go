package gate

import (
	"context"
	"errors"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/tracing"
	"github.com/motto123/minigate/proto/gatepb"
)

// consume takes envelopes from the gate's own queue.
func (g *Gate) consume(ctx context.Context) error {
	t := g.cfg.Topology
	return g.cfg.Bus.Consume(ctx, bus.Consumer{
		Queue: bus.Queue{
			Name: t.GateQueue(g.id),
			Bindings: []bus.Binding{
				{Exchange: t.ReplyExchange(), Key: t.GateKey(g.id)},
				{Exchange: t.ReplyExchange(), Key: t.AllGates()},
			},
			Expires: keepQueue, MaxBytes: maxReplyQueue,
		},
		Prefetch: prefetch,
		Handle:   g.deliver,
		Ready: func() {
			g.canReply.Store(true)
			g.consumes.Do(func() { close(g.consuming) })
			g.askForRoutes()
			// While the queue was gone, pushes that found no queue took users out.
			g.users.announceAll()
		},
		Lost: func() { g.canReply.Store(false) },
	})
}

// ack settles deliveries that the loops are done with.
func (g *Gate) ack(ctx context.Context) {
	for {
		select {
		case d := <-g.done:
			settle := d.Ack
			if !d.ok {
				settle = func() error { return d.Reject(false) }
			}
			if err := settle(); err != nil {
				g.log.WithError(err).Debug("ack an envelope of replies")
			}
		case <-ctx.Done():
			return
		}
	}
}

// askForRoutes asks every service to announce its routes to this gate.
func (g *Gate) askForRoutes() {
	// The announce key is no route, so it can not meet a client's. One replica of
	// each service answers; a service that starts later announces itself.
	_, err := g.shards[0].Add(g.cfg.Topology.AnnounceKey(), 0, nil, false, ref{})
	if err != nil {
		g.asked(err)
		return
	}
	g.shards[0].Flush()
}

// asked hears what became of askForRoutes. That nobody was there to be asked is no
// failure.
func (g *Gate) asked(err error) {
	if err == nil || errors.Is(err, bus.ErrNoRoute) {
		return
	}
	if !errors.Is(err, bus.ErrClosed) {
		g.log.WithError(err).Warn("ask services for their routes")
	}
	g.askAgain.Store(true)
}

// announced takes a service's routes into the dictionary.
func (g *Gate) announced(a *bus.Announcement) error {
	var routes []string
	bad, example := 0, ""
	for _, route := range a.Routes {
		switch {
		case !bus.ValidRoute(route) || bus.Service(route) != a.Service:
			bad, example = bad+1, route
		case len(routes) < g.cfg.Limits.Routes:
			routes = append(routes, strings.Clone(route)) // it aliases the envelope
		}
	}
	if bad > 0 { // one line, however many there are
		g.stats.AnnouncementsFailed.Add(int64(bad))
		g.log.Warnf("service %.64q announces %d names that are no routes of it, such as %.64q", a.Service, bad, example)
	}
	g.measures.announced(routes)
	if err := g.dictionary.Add(routes...); err != nil {
		// Clients then name these routes in full.
		g.stats.AnnouncementsFailed.Add(1)
		g.log.WithError(err).WithField("service", a.Service).Warn("a route gets no code")
	}
	return nil
}

// dictionaryJSON is the JSON of the first n codes, made once a growth.
func (g *Gate) dictionaryJSON(n int) []byte {
	if c := g.dictCache.Load(); c != nil && c.n == n {
		return c.json
	}
	c := &dictionaryJSON{n, g.dictionary.JSON(n)}
	g.dictCache.Store(c)
	return c.json
}

// sinceBegan is the time since Run, in milliseconds and never 0.
func (g *Gate) sinceBegan() int64 { return time.Since(g.began).Milliseconds() + 1 }

// tick lets time pass on all loops.
func (g *Gate) tick(ctx context.Context) {
	ticker := time.NewTicker(wheelTick * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if g.cfg.Bus.State() == bus.Up && g.askAgain.Swap(false) {
				g.askForRoutes()
			}
			for _, l := range g.loops {
				l.post(l.tick)
			}
		case <-ctx.Done():
			return
		}
	}
}

// newLoop adds a loop, whose turn comes after wake.
func (g *Gate) newLoop(wake func() error) *loop {
	l := newLoop(g, len(g.loops), wake)
	g.loops = append(g.loops, l)
	return l
}

// panicked counts and logs a panic that was caught, with the session that was served;
// nil is none.
func (g *Gate) panicked(p any, s *session) {
	g.stats.Panics.Add(1)
	log := g.log
	if s != nil {
		log = s.log()
	}
	log.WithField("stack", string(debug.Stack())).Errorf("panic: %v", p)
}

// overLimit is how many connections beyond the limit are kept long enough to be
// told so.
func (l Limits) overLimit() int { return min(1000, l.Connections/10+1) }

// admit counts a connection, against no address where that is not valid. One that
// is admitted but not counted is to be told that the gate is full.
func (g *Gate) admit(address netip.Addr) (admitted, counted bool) {
	l := g.cfg.Limits
	g.limits.Lock()
	defer g.limits.Unlock()
	if g.limits.connections < l.Connections && (!address.IsValid() || g.countAddress(address)) {
		g.limits.connections++
		g.stats.Connections.Add(1)
		return true, true
	}
	if g.uncounted() >= l.overLimit() { // or one address could take the places of all others
		g.stats.ConnectionsRefused.Add(1)
		return false, false
	}
	g.stats.Connections.Add(1)
	return true, false
}

// uncounted is how many connections there are over a limit. g.limits is held.
func (g *Gate) uncounted() int { return int(g.stats.Connections.Load()) - g.limits.connections }

// admitAddress is admit for a connection that is counted, and of which only now is
// known whose it is.
func (g *Gate) admitAddress(address netip.Addr) (admitted, counted bool) {
	g.limits.Lock()
	defer g.limits.Unlock()
	if g.countAddress(address) {
		return true, true
	}
	g.limits.connections--
	if g.uncounted() > g.cfg.Limits.overLimit() {
		g.stats.ConnectionsRefused.Add(1)
		return false, false
	}
	return true, false
}

// countAddress counts a connection of an address, if it may have one more.
// g.limits is held.
func (g *Gate) countAddress(address netip.Addr) bool {
	most := g.cfg.Limits.ConnectionsPerIP
	if most == 0 {
		return true
	}
	if g.limits.of[address] >= most {
		return false
	}
	g.limits.of[address]++
	return true
}

// forget counts a connection less.
func (g *Gate) forget(address netip.Addr, counted, byAddress bool) {
	g.limits.Lock()
	defer g.limits.Unlock()
	g.stats.Connections.Add(-1)
	if !counted {
		return
	}
	g.limits.connections--
	if byAddress && g.cfg.Limits.ConnectionsPerIP > 0 {
		if g.limits.of[address]--; g.limits.of[address] <= 0 {
			delete(g.limits.of, address)
		}
	}
}

// verify runs f on a goroutine of its own, if there is a place for one.
func (g *Gate) verify(f func(ctx context.Context)) bool {
	select {
	case g.handshakes <- struct{}{}:
	default:
		return false
	}
	g.verifiers.Go(func() {
		defer func() { <-g.handshakes }()
		ctx, cancel := context.WithTimeout(g.base, g.cfg.HandshakeTimeout)
		defer cancel()
		f(ctx)
	})
	return true
}

// event is one event that waits to be published.
type event struct {
	of   context.Context // the request that it came of, see tracing.Detach
	name string
	m    proto.Message
}

const (
	maxEvents    = 4096
	eventTimeout = 5 * time.Second
	// hurriedEvents is for a broker that answers; there is no time for another.
	hurriedEvents = time.Second
)

func (g *Gate) sessionBound(ctx context.Context, session uint64, user int64) {
	g.emit(ctx, "session.bound", &gatepb.SessionBound{Gate: g.id, Session: session, User: user, At: time.Now().UnixMilli()})
}

func (g *Gate) sessionClosed(ctx context.Context, session uint64, user int64, reason string) {
	g.emit(ctx, "session.closed", &gatepb.SessionClosed{
		Gate: g.id, Session: session, User: user, At: time.Now().UnixMilli(), Reason: reason,
	})
}

// emit never blocks: a loop calls it. What does not fit is dropped and counted.
func (g *Gate) emit(ctx context.Context, name string, m proto.Message) {
	if g.cfg.Events == nil {
		return
	}
	select {
	case g.events <- event{tracing.Detach(ctx), name, m}:
	default:
		g.stats.EventsDropped.Add(1)
	}
}

// publishEvents publishes until ctx ends, and then what is still there, as far as it
// gets in eventTimeout, or in a hurry in hurriedEvents.
func (g *Gate) publishEvents(ctx context.Context) {
	late, stop := context.WithCancel(context.WithoutCancel(ctx))
	var limit sync.WaitGroup
	limit.Go(func() {
		select {
		case <-ctx.Done():
			g.cfg.Ending.Await(late.Done(), eventTimeout, hurriedEvents)
			stop()
		case <-late.Done():
		}
	})
	defer limit.Wait()
	defer stop()
	publish := func(e event) {
		call, cancel := context.WithTimeout(e.of, eventTimeout) // also when ctx has ended
		defer cancel()
		defer context.AfterFunc(late, cancel)()
		if err := g.cfg.Events.Publish(call, e.name, e.m); err != nil {
			g.stats.EventsDropped.Add(1)
			g.log.WithFields(tracing.Fields(e.of)).WithError(err).Warn("publish " + e.name)
		}
	}
	for ctx.Err() == nil {
		select {
		case e := <-g.events:
			publish(e)
		case <-ctx.Done():
		}
	}
	for len(g.events) > 0 && late.Err() == nil { // nobody emits any more
		publish(<-g.events)
	}
	g.stats.EventsDropped.Add(int64(len(g.events)))
	if lost := g.stats.EventsDropped.Load() - g.droppedBefore.Load(); lost > 0 {
		g.cfg.Ending.CutOff("gate: %d events of sessions", lost)
	}
}
