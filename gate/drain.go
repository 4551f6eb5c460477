package gate

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
)

// A gate that ends takes no more connections, and sends its clients away a few at a
// time, so that the gates they come back to are not asked by all of them at once. A
// gate with so many of them that this would take too long sends them away faster:
// whoever waits for its end kills it after a while, and then nobody is told anything.
// Whom it has told so it does not read any more; his requests that it has read are
// answered first. So what is unanswered when the Kick comes was never taken, and a
// client may ask it again elsewhere.

// drainStep is how often some clients are sent away.
const drainStep = 20 * time.Millisecond

// drain sends everybody away, and returns when all have gone or no time is left.
func (g *Gate) drain(stopAccepting []func()) {
	g.droppedBefore.Store(g.stats.EventsDropped.Load())
	g.draining.Store(true)
	for _, stop := range stopAccepting {
		stop()
	}
	g.sendAway()
	g.await(g.cfg.DrainTimeout, g.unfinishedSessions)
	if cut := g.cutOff(); cut > 0 {
		g.stats.CutOff.Add(int64(cut))
		g.cfg.Ending.CutOff("gate: requests of %d clients", cut)
		g.log.Warnf("the gate ends without waiting longer for the requests of %d clients", cut)
	}
	// Who is cut off before it has read its kick may never get to read it.
	g.await(lingerTime, func(context.Context) bool { return g.stats.Connections.Load() > 0 })
}

// Draining reports whether the gate sends its clients away: it takes no more.
func (g *Gate) Draining() bool { return g.draining.Load() }

// pace says how many clients are sent away at a time.
type pace struct {
	rate float64 // clients a second
	end  time.Duration
	owed float64 // who could have been sent away already, and was not
}

// step is how many are to be sent away now, and how many of them of one of so many
// loops at the most, so that one turn of it does not take long. left is how many
// there are, and passed the time since the beginning.
func (p *pace) step(left int, passed time.Duration, loops int) (now, ofOne int) {
	steps := max(float64(p.end-passed)/float64(drainStep), 1)
	quota := max(p.rate*drainStep.Seconds(), float64(left)/steps)
	p.owed = min(p.owed, max(quota, 1)) + quota
	return int(p.owed), int(quota/float64(loops)) + 1
}

// sendAway tells all sessions, at the rate of the configuration or faster, so that it
// ends within the time that the configuration gives it.
func (g *Gate) sendAway() {
	ctx, cancel := g.cfg.Ending.Within(g.base, g.cfg.DrainLimit) // of a loop that is stuck, too
	defer cancel()
	ticker := time.NewTicker(drainStep)
	defer ticker.Stop()
	begun, left := time.Now(), int(g.stats.Connections.Load())
	// The last tenth is for ticks that come late.
	p := pace{rate: float64(g.cfg.DrainRate), end: g.cfg.DrainLimit * 9 / 10}
	if usual := time.Duration(float64(left) / p.rate * float64(time.Second)); usual > p.end {
		g.log.Warnf("%d clients are sent away within %v, and so faster than %d a second (gate-drain-limit, gate-drain-rate)", left, g.cfg.DrainLimit, g.cfg.DrainRate)
	}
	for {
		now, ofOne := p.step(left, time.Since(begun), len(g.loops))
		left = 0
		for _, l := range g.loops {
			n := min(now, ofOne)
			r, err := onLoop(ctx, l, func() (told [2]int, err error) { return l.sendAway(n), nil })
			if err != nil {
				if ctx.Err() == nil {
					g.log.WithError(err).Warn("send clients away")
				}
				return
			}
			now -= r[0]
			p.owed -= float64(r[0])
			left += r[1]
		}
		if left == 0 {
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// sendAway tells n sessions that the gate ends. It returns how many it told, and how
// many are left.
func (l *loop) sendAway(n int) [2]int {
	if l.present == nil {
		l.present = make([]*session, 0, len(l.sessions))
		for _, s := range l.sessions {
			l.present = append(l.present, s)
		}
	}
	told := 0
	for told < n && len(l.present) > 0 {
		last := len(l.present) - 1
		s := l.present[last]
		l.present[last], l.present = nil, l.present[:last]
		if s.state == opened || s.state == active {
			told++
			s.isLeaving = true
			s.leaveWhenDone()
		}
	}
	return [2]int{told, len(l.present)}
}

// leaveWhenDone sends a session away that is to leave, once all that was read from it
// is answered.
func (s *session) leaveWhenDone() {
	if s.isLeaving && len(s.pending) == 0 && len(s.held) == 0 {
		s.kick(kickDraining, "the gate is shutting down")
	}
}

// cutOff ends what is still there, and returns how many sessions had requests that
// nobody had answered.
func (g *Gate) cutOff() (cut int) {
	ctx, cancel := context.WithTimeout(g.base, stopTime)
	defer cancel()
	g.cutting.Store(true) // what waits for its turn is not published any more
	for _, l := range g.loops {
		n, err := onLoop(ctx, l, func() (n int, err error) {
			for _, s := range l.sessions {
				if len(s.pending)+len(s.held) > 0 {
					n++
				}
				s.failPending(codes.Unavailable, "the gate is shutting down")
				s.isFull = false
				s.release()
				s.kick(kickShutdown, "the gate is shutting down")
			}
			return n, nil
		})
		if err != nil {
			g.log.WithError(err).Warn("send clients away")
		}
		cut += n
	}
	return cut
}

// await waits until there is nothing to wait for, or no time left.
func (g *Gate) await(limit time.Duration, waiting func(context.Context) bool) {
	ctx, cancel := g.cfg.Ending.Within(g.base, limit)
	defer cancel()
	ticker := time.NewTicker(drainStep)
	defer ticker.Stop()
	for waiting(ctx) {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// unfinishedSessions reports whether any session is not sent away yet.
func (g *Gate) unfinishedSessions(ctx context.Context) bool {
	for _, l := range g.loops {
		unfinished, err := onLoop(ctx, l, func() (bool, error) {
			for _, s := range l.sessions {
				if s.state < closing {
					return true, nil
				}
			}
			return false, nil
		})
		if unfinished || err != nil {
			return true
		}
	}
	return false
}

// comeBack is when a client that is sent away is to come back, in milliseconds: at
// random, so that not all of them do at once.
func (g *Gate) comeBack() int64 {
	most := g.cfg.RetryAfter.Milliseconds()
	return most/4 + rand.Int64N(most*3/4+1)
}
