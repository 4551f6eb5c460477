package gate

// What waits for slow clients is bounded for each and for all together. Of what is
// left for all, a client may have an eighth: the more is taken, the less each may
// have, and those for whom most waits are the first to go, long before those who
// read but not at this moment. Equal shares were tried, and cut off the latter.
const (
	freePart = 8
	// smallQueue is what may wait for a client however much waits for all.
	smallQueue = 16 << 10
)

// mayWait is how many bytes may wait for one client now.
func (g *Gate) mayWait() int64 {
	l := &g.cfg.Limits
	free := int64(l.WriteQueues) - g.unsent.Load()
	return min(int64(l.WriteQueue), max(free/freePart, smallQueue))
}

// crowded reports whether half of what may wait for all does.
func (g *Gate) crowded() bool { return g.unsent.Load() > int64(g.cfg.Limits.WriteQueues)/2 }

// tooSlow reports whether more waits for the client than may.
func (s *session) tooSlow() bool {
	return int64(s.conn.buffered()+s.latestBytes()) > s.loop.gate.mayWait()
}

// cutOff kicks a session that is too slow. It may read why behind what waits for it,
// unless others need the memory now.
func (s *session) cutOff() {
	s.kick(kickSlow, "too much waits for this client")
	if s.loop.gate.crowded() {
		s.conn.close()
	}
}

// cutSlow cuts off those for whom nothing more came since they were not too slow.
func (l *loop) cutSlow() {
	if !l.gate.crowded() {
		return
	}
	for _, s := range l.sessions {
		if s.tooSlow() {
			s.cutOff()
		}
	}
}
