package gate

import "slices"

// latest holds the pushes of a slow client of which only the latest matters, such
// as positions: one a route and group. While something waits for the client they
// replace each other here, and are written when it has read what waits.
type latest struct {
	order   []latestKey
	packets map[latestKey][]byte
	bytes   int
}

type latestKey struct{ route, group string }

// latestOverhead is about what one entry takes beside its packet, in bytes.
const latestOverhead = 128

// conflates reports whether a push of which only the latest matters is to be kept
// in latest now.
func (s *session) conflates() bool { return s.latest != nil || s.conn.buffered() > 0 }

// conflate keeps a packet instead of the one before it. flush then looks at what
// waits in all.
func (s *session) conflate(key latestKey, packet []byte) {
	g := s.loop.gate
	if s.latest == nil {
		s.latest = &latest{packets: make(map[latestKey][]byte)}
	}
	l := s.latest
	before := l.bytes
	if old, ok := l.packets[key]; ok {
		l.bytes -= len(old) + latestOverhead
		g.stats.PushesConflated.Add(1)
	} else {
		l.order = append(l.order, key)
	}
	l.packets[key] = slices.Clone(packet)
	l.bytes += len(packet) + latestOverhead
	g.unsent.Add(int64(l.bytes - before))
}

func (s *session) latestBytes() int {
	if s.latest == nil {
		return 0
	}
	return s.latest.bytes
}

// drained is called by the transport when all that waited is sent.
func (s *session) drained() {
	l := s.latest
	if l == nil || s.state != active {
		return
	}
	s.forgetLatest()
	for _, key := range l.order {
		if s.state != active { // a flush found it too slow, or gone
			return
		}
		s.out = append(s.begin(), l.packets[key]...)
		s.flushLarge()
	}
}

func (s *session) forgetLatest() {
	s.loop.gate.unsent.Add(-int64(s.latestBytes()))
	s.latest = nil
}
