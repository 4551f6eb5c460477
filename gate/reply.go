package gate

import (
	"errors"
	"net/netip"
	"sync/atomic"

	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
)

// deliver takes an envelope from the gate's queue to the loops. Each loop reads
// of it what is its own; the last one has it acked.
func (g *Gate) deliver(d bus.Delivery) {
	g.stats.Envelopes.Add(1)
	if isAnnouncement(d.Body) {
		err := bus.ReadReplies(d.Body, func(*bus.Reply) error { return nil }, g.announced)
		g.settleDelivery(d, err)
		return
	}
	loops := g.loops
	if len(loops) == 0 {
		g.settleDelivery(d, nil)
		return
	}
	left := new(atomic.Int32)
	left.Store(int32(len(loops)))
	for _, l := range loops {
		l.post(func() {
			var err error
			defer func() { // after a panic too, which the same envelope would bring again
				if left.Add(-1) == 0 {
					g.settleDelivery(d, err)
				}
			}()
			err = l.replies(d.Body)
		})
	}
}

// isAnnouncement reports whether an envelope begins with field 2 of
// buspb.Replies: a service that announces its routes says nothing else.
func isAnnouncement(b []byte) bool { return len(b) > 0 && b[0] == 2<<3|2 }

// settleDelivery hands a delivery that is done with to the goroutine that acks,
// so that no loop waits for the broker's socket. The channel holds as many as
// may be unacked.
func (g *Gate) settleDelivery(d bus.Delivery, err error) {
	if err != nil {
		g.stats.EnvelopesMalformed.Add(1)
		g.log.WithError(err).Error("read an envelope of replies")
	}
	g.done <- settledDelivery{d, err == nil}
}

// replies takes what belongs to this loop out of an envelope.
func (l *loop) replies(b []byte) error {
	var cache pushCache
	mine := func(session uint64) bool { return session&loopMask == l.index }
	return bus.ReadRepliesOf(b, mine, func(r *bus.Reply) error {
		if r.Sequence != 0 {
			if mine(r.Session) {
				l.reply(r)
			}
			return nil
		}
		cache = pushCache{}
		l.push(r, &cache)
		return nil
	}, func(*bus.Announcement) error { return nil })
}

// reply answers one request.
func (l *loop) reply(r *bus.Reply) {
	g := l.gate
	s := l.sessions[r.Session]
	if s == nil {
		g.stats.RepliesLate.Add(1)
		l.traceLate(r)
		return
	}
	p, ok := s.settle(r.Sequence, false)
	if !ok { // answered before: a redelivery, or after its deadline
		g.stats.RepliesLate.Add(1)
		l.traceLate(r)
		return
	}
	g.stats.Replies.Add(1)
	if len(r.Trace) > 0 {
		l.delivered(r, g.spanRoute(p.route))
	}
	if p.traced != nil {
		p.traced.code = codes.Code(r.Code)
	}
	if r.DataType > uint8(codec.Protobuf) {
		s.fail(&p, codes.Internal, "the service answered in an unknown data type")
		return
	}
	if s.respond(&p, codec.Response, codec.DataType(r.DataType), r.Name, r.Data) {
		g.measures.answered(p.route, codes.Code(r.Code), l.micros-p.began)
	}
}

// respond writes a Response or an Ack, in the form of route that the request
// used. Where it can not, it writes an error and returns false.
func (s *session) respond(p *pending, t codec.MessageType, data codec.DataType, name, body []byte) bool {
	if s.state != active {
		s.endTrace(p, codes.Canceled)
		return true
	}
	m := codec.Message{
		Type: t, Data: data, ID: p.id, Compressed: p.compressed, Code: p.code, Name: name, Body: body,
	}
	if !p.compressed {
		m.Route = append(s.loop.message[:0], p.route...)
		s.loop.message = m.Route
	}
	switch err := s.encode(&m); {
	case err == nil:
		s.endTrace(p, p.traced.answer())
		s.flushLarge()
		return true
	case errors.Is(err, errTooLarge):
		s.loop.gate.measures.hit(limitAnswer)
		s.fail(p, codes.ResourceExhausted, "the answer is too large for this client")
	default: // a name that is none, for example
		s.logOf(p).WithError(err).Error("encode an answer")
		s.fail(p, codes.Internal, "the service's answer can not be written")
	}
	return false
}

// errTooLarge: the message is over the limit, or over one packet and the client
// takes no fragments.
var errTooLarge = errors.New("gate: the message is too large for this client")

// encode leaves a message to be written as a packet, or in fragments where it is
// larger than one and the client takes them.
func (s *session) encode(m *codec.Message) error {
	size := m.Size()
	if size > codec.MaxBody && !s.fragment || size > s.loop.gate.cfg.Limits.Message {
		return errTooLarge
	}
	out := s.begin()
	start := len(out)
	out, err := codec.AppendMessage(codec.BeginPacket(out, codec.Data, 0), m)
	if err == nil {
		out, err = codec.EndFragments(out, start)
	}
	if err != nil {
		s.out = out[:start]
		return err
	}
	s.out = out
	return nil
}

// appendAddress appends an address in 4 or 16 bytes.
func appendAddress(b []byte, a netip.Addr) []byte {
	if a.Is4() {
		v := a.As4()
		return append(b, v[:]...)
	}
	if a.Is6() {
		v := a.As16()
		return append(b, v[:]...)
	}
	return b
}
