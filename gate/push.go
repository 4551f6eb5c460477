package gate

import (
	"slices"
	"strings"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
)

// pushCache holds one push as packets, in the forms in which sessions want it,
// so that a push to ten thousand is encoded once and copied.
type pushCache [4][]byte

// push writes a push to whom it is for on this loop.
func (l *loop) push(r *bus.Reply, cache *pushCache) {
	if len(r.Trace) > 0 {
		l.tracePush(r)
	}
	switch {
	case r.Everyone:
		for _, s := range l.sessions {
			s.push(r, cache)
			l.relieve()
		}
	case r.Group != "":
		for s := range l.groups[r.Group] {
			s.push(r, cache)
			l.relieve()
		}
	case r.User != 0:
		// Backwards: a write that fails takes its session out of the list.
		for _, s := range slices.Backward(l.users[r.User]) {
			s.push(r, cache)
		}
	case r.Session&loopMask == l.index:
		if s := l.sessions[r.Session]; s != nil {
			s.push(r, cache)
		} else {
			l.gate.stats.RepliesLate.Add(1)
		}
	}
	l.relieve()
}

// pushedBytes is how much pushes may leave to be written at the end of a turn of one
// loop: a large one to ten thousand is ten thousand copies. As little as this also stays
// in the processor's cache until it is written, in buffers that are used again.
const pushedBytes = 1 << 20

// relieve writes before the end of the turn what pushes have left, if it is much. It
// may close any session, and so is not called where a list of them is gone through.
func (l *loop) relieve() {
	if l.pushed >= pushedBytes {
		l.writeDirty()
	}
}

// push writes one push: with the route's code where the session's dictionary
// holds it, and in JSON where that is what the session speaks.
func (s *session) push(r *bus.Reply, cache *pushCache) {
	g := s.loop.gate
	if s.state != active {
		return
	}
	code, coded := g.dictionary.CodeOf(r.Route)
	coded = coded && code <= s.known
	inJSON := s.data != codec.Protobuf && len(r.JSON) > 0 || r.DataType == uint8(codec.JSON)
	form := 0
	if coded {
		form |= 1
	}
	if inJSON {
		form |= 2
	}
	if packet := cache[form]; packet != nil {
		g.stats.Pushes.Add(1)
		if r.LatestOnly && s.conflates() {
			s.conflate(keyOf(r), packet)
			s.begin() // has the write queue looked at
			return
		}
		s.out = append(s.begin(), packet...)
		s.loop.pushed += len(packet)
		s.flushLarge()
		return
	}

	m := codec.Message{
		Type: codec.Push, Data: codec.DataType(r.DataType), ID: r.ID, Compressed: coded, Code: code, Name: r.Name, Body: r.Data,
	}
	if inJSON {
		m.Data = codec.JSON
		if len(r.JSON) > 0 {
			m.Body = r.JSON
		}
	}
	if !coded {
		m.Code, m.Route = 0, []byte(r.Route)
	}
	start := len(s.begin())
	if err := s.encode(&m); err != nil {
		g.stats.PushesDropped.Add(1)
		g.logOfReply(r).WithError(err).WithField("route", r.Route).Debug("push")
		return
	}
	g.stats.Pushes.Add(1)
	many := r.Everyone || r.Group != ""
	if many && m.Size() <= codec.MaxBody { // a larger one goes only to who takes fragments
		cache[form] = append([]byte(nil), s.out[start:]...)
	}
	if r.LatestOnly && s.conflates() {
		s.conflate(keyOf(r), s.out[start:])
		s.out = s.out[:start]
		return
	}
	s.loop.pushed += len(s.out) - start
	s.flushLarge()
}

// keyOf is what a push of which only the latest matters replaces the last one of.
func keyOf(r *bus.Reply) latestKey {
	return latestKey{strings.Clone(r.Route), strings.Clone(r.Group)} // they alias the envelope
}
