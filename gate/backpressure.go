package gate

import (
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
//     until it holds a quarter;
//   - from a session that is to leave, because the gate ends.
//
// What was read before is never lost: it is answered, or waits in the session.
type backpressure struct {
	congested bool       // the loop's publisher holds too much
	held      []*session // that had something to read meanwhile
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
	l := s.loop
	if l.congested && !s.isHeld {
		s.isHeld = true
		l.held = append(l.held, s)
	}
	return !l.congested
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
	held := l.held
	l.held = nil
	for _, s := range held {
		s.isHeld = false
		l.do(s.goOn)
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
	if s != bus.Up {
		return
	}
	for _, l := range g.loops {
		l.post(l.resumeRefused)
	}
}
