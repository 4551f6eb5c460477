package gate

import (
	"errors"

	"github.com/motto123/minigate/codec"
)

// What a gate has read and can not pass on yet is bounded for all connections
// together: fragments that wait for their last, packets, upgrade requests and TLS
// records of which only a part has come, and packets that wait for their turn.
// Each connection alone may have one message of each, and ten thousand of them
// would be more than there is memory.

// errUnfinished ends a session that adds to what is too much already.
var errUnfinished = errors.New("the gate holds too much of messages that are not finished")

// holds counts has bytes where there were had. It is false where that adds to what is
// too much: they are then to be let go.
func (g *Gate) holds(had, has int) bool {
	if has == had {
		return true
	}
	total := g.unfinished.Add(int64(has - had))
	if has < had || total <= int64(g.cfg.Limits.Unfinished) {
		return true
	}
	g.measures.hit(limitUnfinished)
	return false
}

// mayHold reports whether the gate has the memory to let a packet of a session that
// is full wait for its turn. If not, it is answered that there is too much.
func (s *session) mayHold(p codec.Packet) bool {
	g := s.loop.gate
	return g.unfinished.Load()+int64(codec.HeaderSize+len(p.Body)) <= int64(g.cfg.Limits.Unfinished)
}

// holdsHalf counts n bytes of a packet, or of the request for an upgrade, that has
// only begun, as holds does.
func (s *session) holdsHalf(n int) bool {
	had := int(s.half)
	s.half = int32(n)
	return s.loop.gate.holds(had, n)
}
