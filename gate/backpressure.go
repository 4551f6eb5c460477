package gate

import (
	"bytes"
	"errors"
	"math/bits"
	"slices"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
)

// What the gate can not pass on it does not read: the client's kernel then holds
// it back, and the client notices. Reading stops
//
//   - from a session that has as many requests unanswered as it may, until one is
//     answered;
//   - from a session that was told that the broker is not available, until it is
//     or until the next tick, so that who asks again is told again, at a pace;
//   - from all sockets of a publisher's loops, while it holds half of what it may,
//     until it holds a quarter, or the broker is not available;
//   - from a session that is to leave, because the gate ends.
//
// What was read before is never lost: it is answered, or waits in the session.
type backpressure struct {
	congested bool       // the loop's publisher holds too much
	held      []*session // that had something to read meanwhile
	unheld    int        // of them, that are closed
	answered  []*session // that were over their limit and no longer are
	refused   []*session // that were told that the broker is not available
}

// wanted reports whether to read from the session's socket now. If not, its
// conn's resume is called when that changes.
func (s *session) wanted() bool {
	if s.state >= closing { // read to see its end
		return true
	}
	if s.isFull || s.isRefused || s.isLeaving {
		return false
	}
	if s.state == opened { // a handshake is published nowhere, and has to come in time
		return true
	}
	return !s.hasToWait()
}

// hasToWait reports whether the session has to wait until its publisher holds less:
// goOn is then called. Without a broker it need not, since it will hear so.
func (s *session) hasToWait() bool {
	l := s.loop
	if !l.congested || l.gate.cfg.Bus.State() != bus.Up || l.gate.cutting.Load() {
		return false
	}
	if !s.isHeld {
		s.isHeld = true
		l.held = append(l.held, s)
	}
	return true
}

// hold keeps what the client sends while its token is verified, or while it has
// too many requests unanswered. It is not read from meanwhile but for what one read
// has brought, or the handshake.
func (s *session) hold(p codec.Packet) error {
	if p.Type == codec.Handshake {
		return errors.New("a second handshake")
	}
	held, err := codec.AppendPacket(s.held, p.Type, p.Sub, p.Body)
	if err != nil {
		return err
	}
	if s.state == verifying && len(held) > codec.HeaderSize+codec.MaxBody {
		return errors.New("too much before the handshake was answered")
	}
	room := s.loop.gate.holds(len(s.held), len(held))
	s.held = held
	if !room && s.state == verifying { // of others mayHold has said so
		return errUnfinished
	}
	return nil
}

// release handles what hold kept, as far as the session and its publisher take it:
// otherwise those who are answered would take all the room that is made, and those
// who are not read would never have their turn.
func (s *session) release() {
	had := len(s.held)
	for len(s.held) > 0 && s.state == active && !s.isFull && !s.hasToWait() {
		p, n, err := codec.DecodePacket(s.held)
		if err == nil {
			rest := s.held[n:]
			s.loop.gate.holds(n, 0)
			s.held = rest
			err = s.activePacket(p)
		}
		if err != nil {
			if !errors.Is(err, errStop) {
				s.kick(kickProtocol, err.Error())
			}
			return
		}
	}
	switch has := len(s.held); {
	case has == 0:
		s.held = nil
	case bits.Len(uint(has)) < bits.Len(uint(had)):
		// A rest keeps all the memory that it is a part of, and only the rest is counted.
		// So it is copied, each time that it is about half of what it was.
		s.held = bytes.Clone(s.held)
	}
}

// fill stops the session's input: it has as many unanswered requests as it may.
func (s *session) fill() {
	if !s.isFull {
		s.isFull = true
		s.loop.gate.stats.PausedInFlight.Add(1)
	}
}

// answeredOne lets a session go on that was full, at the end of the turn, or leave.
func (s *session) answeredOne() {
	if s.isFull && len(s.pending) < s.loop.gate.cfg.Limits.InFlight || s.isLeaving && len(s.pending) == 0 {
		s.loop.answered = append(s.loop.answered, s)
	}
}

// resumeAnswered lets sessions go on that are not full any more.
func (l *loop) resumeAnswered() {
	for i := 0; i < len(l.answered); i++ {
		s := l.answered[i]
		l.answered[i] = nil
		if s.state >= closing {
			l.do(s.conn.resume)
			continue
		}
		if len(s.pending) >= l.gate.cfg.Limits.InFlight {
			continue
		}
		if s.isFull {
			s.isFull = false
			l.do(s.goOn)
		}
		s.leaveWhenDone()
	}
	l.answered = l.answered[:0]
}

// goOn handles what waits in the session, and reads on.
func (s *session) goOn() {
	s.release()
	s.leaveWhenDone()
	if s.wanted() {
		s.conn.resume()
	}
}

// refuseInput stops the session's input until the broker is back, or the next tick.
func (s *session) refuseInput() {
	if !s.isRefused && s.state < closing {
		s.isRefused = true
		s.loop.refused = append(s.loop.refused, s)
		s.loop.gate.stats.PausedBroker.Add(1)
	}
}

// resumeRefused reads again from whom refuseInput has stopped.
func (l *loop) resumeRefused() {
	refused := l.refused
	l.refused = nil
	for _, s := range refused {
		s.isRefused = false
		l.do(s.goOn)
	}
}

// congest stops the reading of all sockets of this loop, if its publisher holds
// too much.
func (l *loop) congest() {
	if !l.congested && l.shard.Congested() {
		l.congested = true
		l.gate.stats.PausedPublisher.Add(1)
	}
}

// relax reads again after congest.
func (l *loop) relax() {
	if !l.congested || l.shard.Congested() {
		return
	}
	l.congested = false
	l.resumeHeld()
}

// resumeHeld lets those go on who wait for the publisher, as far as they may.
func (l *loop) resumeHeld() {
	held := l.held
	l.held, l.unheld = nil, 0
	for _, s := range held {
		if s.isHeld { // and not closed meanwhile
			s.isHeld = false
			l.do(s.goOn)
		}
	}
}

// unhold forgets a closed session among those that wait. They are taken out when they
// are half of all, so that who comes, asks and goes while nothing moves on leaves
// nothing behind.
func (l *loop) unhold(s *session) {
	if !s.isHeld {
		return
	}
	s.isHeld = false
	if l.unheld++; 2*l.unheld > len(l.held) {
		l.held = slices.DeleteFunc(l.held, func(h *session) bool { return !h.isHeld })
		l.unheld = 0
	}
}

// room is called when publisher i holds little enough.
func (g *Gate) room(i int) {
	for _, l := range g.loops {
		if l.shard == g.shards[i] {
			l.post(l.relax)
		}
	}
}

// brokerState is called with each change of the bus.
func (g *Gate) brokerState(s bus.State) {
	for _, l := range g.loops {
		if s == bus.Up {
			l.post(l.resumeRefused)
		} else {
			l.post(l.resumeHeld) // and hears that the broker is not available
		}
	}
}
