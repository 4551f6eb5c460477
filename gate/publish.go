package gate

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
)

// ref leads from an envelope back to the request: to answer it when the envelope
// is not taken, and to acknowledge a notify when it is.
type ref struct {
	session  uint64
	sequence uint32
	notify   bool // the client waits for an Ack
	traced   bool // see publishings
}

// pending is a request that waits for its reply, or a notify for its Ack.
type pending struct {
	id         uint64 // the client's
	deadline   int64  // as loop.now
	began      int64  // as loop.micros
	route      string
	sequence   uint32
	code       uint16 // the route's code, where compressed
	compressed bool   // the client named the route by its code
	notify     bool
	data       codec.DataType
	traced     *traced // nil for most
}

// publish sends a client's message to whatever service has bound its route. It
// is the hot path: BenchmarkGate counts its allocations.
func (s *session) publish(m *codec.Message) {
	l := s.loop
	g := l.gate
	g.stats.Messages.Add(1)
	p := pending{
		id: m.ID, data: m.Data, code: m.Code, compressed: m.Compressed,
		notify: m.Type == codec.Notify, deadline: l.now + g.timeoutMillis, began: l.micros,
	}
	if g.cfg.Tracer != nil {
		p.traced = s.trace(m)
	}
	if !s.allowed() {
		s.reject(m, &p, codes.ResourceExhausted, fmt.Sprintf("over %d requests a second", g.cfg.Limits.RequestsPerSecond))
		return
	}
	if m.Compressed {
		var ok bool
		if p.route, ok = g.dictionary.Route(m.Code); !ok || m.Code > s.known {
			p.route = ""
			s.reject(m, &p, codes.NotFound, fmt.Sprintf("the dictionary has no code %d", m.Code))
			return
		}
	} else {
		var ok bool
		if p.route, ok = g.route(m.Route); !ok {
			s.reject(m, &p, codes.NotFound, "no service has this route")
			return
		}
	}
	p.traced.asks(g, p.route)
	waits := m.Type == codec.Request || m.Type == codec.Notify && m.ID != 0
	if s.isFull { // and no memory to let it wait: what does wait is not overtaken
		s.reject(m, &p, codes.ResourceExhausted, fmt.Sprintf("over %d requests in flight", g.cfg.Limits.InFlight))
		g.measures.hit(limitUnfinished)
		return
	}
	if g.cutting.Load() {
		s.reject(m, &p, codes.Unavailable, "the gate is shutting down")
		return
	}
	if g.cfg.Bus.State() != bus.Up || !g.canReply.Load() {
		s.reject(m, &p, codes.Unavailable, "the broker is not available")
		s.refuseInput()
		return
	}

	s.sequence++
	if s.sequence == 0 { // 0 marks a push
		s.sequence = 1
	}
	p.sequence = s.sequence
	r := &l.request
	r.Session, r.Sequence, r.User = s.id, s.sequence, s.user
	r.Type, r.DataType, r.ID = uint8(m.Type), uint8(m.Data), m.ID
	r.Name, r.Data, r.Deadline = m.Name, m.Body, 0
	if m.Type == codec.Request { // what nobody waits for is never too late
		r.Deadline = l.wall + g.timeoutMillis
	}
	r.Address, r.Trace = appendAddress(r.Address[:0], s.address), nil
	if p.traced != nil {
		r.Trace = s.tracePublish(&p, m)
	}
	l.item = bus.AppendRequest(l.item[:0], r)
	r.Name, r.Data = nil, nil // they alias what was read from the socket

	// A confirmed notify is acknowledged as safe, so it must survive the broker.
	safe := p.notify && waits
	item := ref{session: s.id, sequence: p.sequence, notify: safe, traced: p.traced != nil}
	envelope, err := l.shard.Add(p.route, s.envelope, l.item, safe, item)
	if err != nil {
		if item.traced {
			g.publishings.end(item, err)
		}
		if errors.Is(err, bus.ErrFull) {
			g.measures.hit(limitPending)
		}
		code, text := refusal(err)
		s.reject(m, &p, code, text)
		return
	}
	s.envelope, l.added = envelope, true
	l.congest()
	if waits {
		s.wait(p)
		return
	}
	s.endTrace(&p, codes.OK)
}

// wait keeps p until its reply comes. The list goes back to the loop as soon as
// nothing waits: an idle session holds none.
func (s *session) wait(p pending) {
	if s.pending == nil {
		s.pending = s.loop.pendings()
	}
	s.pending = append(s.pending, p)
	s.loop.busy.add(s)
	if len(s.pending) >= s.loop.gate.cfg.Limits.InFlight {
		s.fill()
	}
}

// settle takes what waits under a sequence number: a notify for its Ack, or a
// request for its reply. A service that replies to a notify says nothing of that.
func (s *session) settle(sequence uint32, notify bool) (pending, bool) {
	for i := range s.pending {
		if s.pending[i].sequence != sequence || s.pending[i].notify != notify {
			continue
		}
		p := s.pending[i]
		s.pending = append(s.pending[:i], s.pending[i+1:]...)
		if len(s.pending) == 0 {
			s.loop.recyclePendings(s.pending)
			s.pending = nil
			s.loop.busy.remove(s)
		}
		s.answeredOne()
		return p, true
	}
	return pending{}, false
}

// expirePending answers what nobody has answered in time.
func (s *session) expirePending() {
	// The timeout is the same for all, so the oldest is the first.
	for len(s.pending) > 0 && s.pending[0].deadline <= s.loop.now {
		p, _ := s.settle(s.pending[0].sequence, s.pending[0].notify)
		s.loop.gate.stats.Deadlines.Add(1)
		s.fail(&p, codes.DeadlineExceeded, "no reply in time")
	}
}

// failPending answers everything that waits.
func (s *session) failPending(code codes.Code, text string) {
	for len(s.pending) > 0 {
		p, _ := s.settle(s.pending[0].sequence, s.pending[0].notify)
		s.fail(&p, code, text)
	}
}

// reject answers a message that is not published. An Ack, and a Notify without
// an id, have nobody who waits.
func (s *session) reject(m *codec.Message, p *pending, code codes.Code, text string) {
	g := s.loop.gate
	g.stats.Rejected.Add(1)
	if m.Type == codec.Ack || m.Type == codec.Notify && m.ID == 0 {
		s.endTrace(p, code)
		return
	}
	if p.route == "" && !p.compressed {
		p.route = string(m.Route)
	}
	s.fail(p, code, text)
}

// allowed takes a token of the rate limit. Who goes on for a whole second's worth
// of requests after the limit does not listen, and is kicked.
func (s *session) allowed() bool {
	rate := float32(s.loop.gate.cfg.Limits.RequestsPerSecond)
	if rate == 0 {
		return true
	}
	now := s.loop.now
	s.tokens = min(rate, s.tokens+rate*float32(now-s.tokensAt)/1000)
	s.tokensAt = now
	s.tokens--
	if s.tokens < 0 {
		s.loop.gate.measures.hit(limitRate)
	}
	if s.tokens < -rate {
		s.kick(kickRate, fmt.Sprintf("over %v requests a second", rate))
	}
	return s.tokens >= 0
}

// settled is called by the publishers with what became of an envelope.
func (g *Gate) settled(refs []ref, err error) {
	if g.cfg.Tracer != nil {
		g.publishings.endAll(refs, err)
	}
	if err == nil {
		g.confirmed(refs)
		return
	}
	if refs[0].session == 0 {
		g.asked(err)
		return
	}
	g.stats.EnvelopesFailed.Add(1)
	code, text := refusal(err)
	for l, of := range g.byLoop(refs, func(ref) bool { return true }) {
		l.post(func() {
			for _, r := range of {
				if s := l.sessions[r.session]; s != nil {
					if p, ok := s.settle(r.sequence, r.notify); ok {
						s.fail(&p, code, text)
					}
				}
			}
		})
	}
}

// confirmed acknowledges the notifies of an envelope that the broker has.
func (g *Gate) confirmed(refs []ref) {
	if !slices.ContainsFunc(refs, func(r ref) bool { return r.notify }) {
		return
	}
	for l, of := range g.byLoop(refs, func(r ref) bool { return r.notify }) {
		l.post(func() {
			for _, r := range of {
				if s := l.sessions[r.session]; s != nil {
					if p, ok := s.settle(r.sequence, r.notify); ok {
						s.respond(&p, codec.Ack, p.data, nil, nil)
					}
				}
			}
		})
	}
}

// byLoop copies refs, which are used again, by the loop of their session.
func (g *Gate) byLoop(refs []ref, want func(ref) bool) map[*loop][]ref {
	loops := g.loops
	m := make(map[*loop][]ref, len(loops))
	for _, r := range refs {
		if i := int(r.session & loopMask); i < len(loops) && want(r) {
			m[loops[i]] = append(m[loops[i]], r)
		}
	}
	return m
}

// refusal is what a client hears of a publishing that failed.
func refusal(err error) (codes.Code, string) {
	switch {
	case errors.Is(err, bus.ErrNoRoute):
		return codes.NotFound, "no service has this route"
	case errors.Is(err, bus.ErrRefused):
		return codes.ResourceExhausted, "the service has too much to do"
	case errors.Is(err, bus.ErrFull):
		return codes.ResourceExhausted, "the gate has too much to do"
	default:
		return codes.Unavailable, "the broker is not available"
	}
}

// route is the route of a message as a string: the dictionary's own where it has
// it, so that the usual request allocates none. What is no route can have no
// service, and is not worth a question to the broker.
func (g *Gate) route(b []byte) (string, bool) {
	if code, ok := g.dictionary.Code(b); ok {
		return g.dictionary.Route(code)
	}
	route := string(b)
	if !bus.ValidRoute(route) {
		return "", false
	}
	return route, true
}
