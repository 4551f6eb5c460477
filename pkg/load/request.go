package load

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/gobwas/ws"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/failure"
)

// request is what is sent again and again, as bytes in which only the id and the
// stamp at the beginning of the payload change.
type request struct {
	packets []byte
	frame   []byte // the same for WebSocket
	id      int    // where it is in packets
	stamp   int    // where the payload is in packets, and how much of it is stamped
	stamped int
	body    []byte
	check   bool // the answer's payload must be this one's; an Ack has none
}

// The ids of a connection are those with four bytes, so that every request has
// its fields in the same places.
const (
	firstID = 1 << 24
	lastID  = 1<<32 - 1
	// The stamp is the connection's number and the request's id: what comes back
	// to the wrong client, or for the wrong request, is seen.
	stampSize = 8
)

func newRequest(cfg Config, code uint16, coded bool) (*request, error) {
	m := cfg.message()
	m.ID = firstID
	if coded {
		m.Compressed, m.Code, m.Route = true, code, nil
	}
	message, err := codec.AppendMessage(nil, &m)
	if err != nil {
		return nil, fmt.Errorf("load: request: %w", err)
	}
	r := &request{body: m.Body, check: cfg.Body == "" && !cfg.Notify, id: codec.HeaderSize + 2}
	if cfg.Body == "" {
		r.stamped = min(len(m.Body), stampSize)
	}
	r.stamp = codec.HeaderSize + len(message) - len(m.Body)
	if r.packets, err = codec.AppendFragments(nil, message); err != nil {
		return nil, fmt.Errorf("load: request: %w", err)
	}
	r.frame = appendFrame(nil, ws.OpBinary, r.packets)
	return r, nil
}

// slot is a request in flight, or the place for one.
type slot struct {
	id   uint32 // of the last request here
	busy bool
	at   int64 // when it was sent, or was to be sent
}

// put appends a request to what is to be written to c.
func (l *loop) put(c *conn, at int, due int64) {
	t := c.traffic
	s := &t.slots[at]
	// The slot can be told from the id.
	next := int64(s.id) + int64(len(t.slots))
	if s.id == 0 || next > lastID {
		next = firstID + int64(at)
	}
	s.id, s.busy, s.at = uint32(next), true, due
	t.busy++
	t.left--
	l.requests++
	l.counts.outstanding.Add(1)

	r := c.request
	start := len(l.out)
	shift := 0
	if c.target.webSocket {
		l.out = append(l.out, r.frame...)
		shift = len(r.frame) - len(r.packets)
	} else {
		l.out = append(l.out, r.packets...)
	}
	b := l.out[start+shift:]
	binary.BigEndian.PutUint32(b[r.id:], s.id)
	if r.stamped > 0 {
		var stamp [stampSize]byte
		putStamp(&stamp, c.index, s.id)
		copy(b[r.stamp:], stamp[:r.stamped])
	}
}

func putStamp(b *[stampSize]byte, index int32, id uint32) {
	binary.BigEndian.PutUint32(b[:], id)
	binary.BigEndian.PutUint32(b[4:], uint32(index))
}

// message handles a message from the gate.
func (c *conn) message(b []byte) error {
	var m codec.Message
	if err := codec.DecodeMessage(b, &m); err != nil {
		return err
	}
	l := c.loop
	switch {
	case m.Type == codec.Response, m.Type == codec.Request && l.load.cfg.Bare:
		l.answered(c, &m)
	case m.Type == codec.Push:
		l.counts.pushes.Add(1)
		l.counts.lastPush.Store(l.now)
		if m.ID != 0 {
			return l.acknowledge(c, &m)
		}
	case m.Type == codec.Ack:
		if l.load.cfg.Notify {
			l.answered(c, &m)
		}
	default:
		return fmt.Errorf("unexpected %v message", m.Type)
	}
	return nil
}

// answered takes a Response, and sends the next request.
func (l *loop) answered(c *conn, m *codec.Message) {
	t, at := c.traffic, -1
	if m.ID >= firstID && m.ID <= lastID && t != nil {
		at = int(uint32(m.ID-firstID) % uint32(len(t.slots)))
	}
	if at < 0 || !t.slots[at].busy || uint64(t.slots[at].id) != m.ID {
		l.wrong++ // answers nothing, or something twice
		l.counts.errors.Add(1)
		return
	}
	s := &t.slots[at]
	s.busy = false
	t.busy--
	l.counts.outstanding.Add(-1)
	l.next(c, at, !l.judge(c, s, m))
	if !t.sends() {
		l.counts.senders.Add(-1)
	}
}

// judge counts an answer, and reports whether it is right.
func (l *loop) judge(c *conn, s *slot, m *codec.Message) bool {
	switch {
	case string(m.Name) == failure.Name: // it comes sooner than an answer, and would flatter
		l.errors[errorCode(m)]++
		l.counts.errors.Add(1)
	case c.request.check && !c.request.answeredBy(m.Body, c.index, s.id):
		l.wrong++
		l.counts.errors.Add(1)
	default:
		l.record(l.latency, l.now-s.at)
		l.answers++
		l.counts.answered.Add(1)
		return true
	}
	return false
}

// answeredBy reports whether a payload is that of a request.
func (r *request) answeredBy(body []byte, index int32, id uint32) bool {
	if len(body) != len(r.body) {
		return false
	}
	var stamp [stampSize]byte
	putStamp(&stamp, index, id)
	return string(body[:r.stamped]) == string(stamp[:r.stamped]) && bytes.Equal(body[r.stamped:], r.body[r.stamped:])
}

func errorCode(m *codec.Message) string {
	e, err := failure.Decode(m.Body, m.Data)
	if err != nil {
		return "MALFORMED"
	}
	return failure.CodeName(e.GetCode())
}

// acknowledge answers a push that wants an Ack.
func (l *loop) acknowledge(c *conn, push *codec.Message) error {
	ack := codec.Message{
		Type: codec.Ack, Data: push.Data, ID: push.ID,
		Compressed: push.Compressed, Code: push.Code, Route: push.Route,
	}
	b := codec.BeginPacket(l.scratch[:0], codec.Data, 0)
	b, err := codec.AppendMessage(b, &ack)
	if err == nil {
		b, err = codec.EndPacket(b, 0)
	}
	if err != nil {
		return err
	}
	l.scratch = b
	l.appendPackets(c, b)
	return nil
}
