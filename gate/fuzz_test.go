package gate

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/gobwas/ws"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
)

// feed gives b to a session in random cuts, and in between answers requests and lets
// time pass.
func feed(l *loop, s *session, b []byte, seed uint64, received func([]byte)) {
	random := rand.New(rand.NewPCG(seed, 3))
	for len(b) > 0 && s.state != closed {
		n := 1 + random.IntN(len(b))
		received(bytes.Clone(b[:n])) // which the session may change, as the poller's buffer
		b = b[n:]
		switch random.IntN(4) {
		case 0:
			l.reply(&bus.Reply{Session: s.id, Sequence: s.sequence, DataType: uint8(random.IntN(4)), Data: []byte("answer")})
		case 1:
			var cache pushCache
			l.push(&bus.Reply{Everyone: true, Route: "a.push", JSON: []byte("{}")}, &cache)
		case 2:
			l.now += random.Int64N(20_000)
			l.tick()
		}
		l.flush()
	}
	l.flush()
}

// leftNothing fails the test if a loop whose sessions are gone holds anything.
func leftNothing(t *testing.T, l *loop) {
	t.Helper()
	l.flush()
	g := l.gate
	if len(l.sessions)+len(l.users)+len(l.groups)+len(l.dirty) != 0 || l.busy.first != nil {
		t.Errorf("left: %d sessions, %d users, %d groups, %d dirty", len(l.sessions), len(l.users), len(l.groups), len(l.dirty))
	}
	for i := range l.wheel.slots {
		if l.wheel.slots[i].first != nil {
			t.Error("left: a session in the wheel")
		}
	}
	if g.limits.connections != 0 || g.stats.Connections.Load() != 0 || g.users.count() != 0 {
		t.Errorf("left: %d connections", g.limits.connections)
	}
	if n := g.stats.Panics.Load(); n != 0 {
		t.Errorf("%d panics", n)
	}
}

// wellFormed fails the test if b is not whole packets that a gate may send, with
// nothing behind a Kick.
func wellFormed(t *testing.T, b []byte) {
	t.Helper()
	var d codec.Decoder
	kicked := false
	var fragments codec.Assembler
	err := d.Feed(b, func(p codec.Packet) error {
		switch {
		case kicked:
			return errors.New("a packet behind the kick")
		case p.Type == codec.Handshake:
			return errors.New("a handshake")
		case p.Type == codec.Kick:
			kicked = true
		case p.Type == codec.Data:
			message, done, err := fragments.Add(p, codec.MaxMessage)
			if err != nil || !done {
				return err
			}
			var m codec.Message
			if err := codec.DecodeMessage(message, &m); err != nil {
				return err
			}
			if !m.Type.FromServer() {
				return errors.New("a message of a client")
			}
		}
		return nil
	})
	if err != nil || d.Buffered() != 0 {
		t.Errorf("the gate wrote %q: %v, %d bytes are left", b, err, d.Buffered())
	}
}

func seeds(f *testing.F, wrap func([]byte) []byte) {
	hello := packet(codec.Handshake, 0, []byte(hi("")))
	f.Add(wrap(hello), uint64(1))
	f.Add(wrap(packet(codec.Handshake, 0, []byte(hi("token")))), uint64(2))
	for i, x := range badPackets {
		f.Add(wrap(append(bytes.Clone(hello), x.sent...)), uint64(i))
	}
	good := append(bytes.Clone(hello), dataPackets(request(1, "a.b", "x"))...)
	good = append(good, dataPackets(&codec.Message{Type: codec.Notify, ID: 5, Route: []byte("a.b")})...)
	good = append(good, dataPackets(request(2, "a.c", string(make([]byte, 100_000))))...)
	f.Add(wrap(good), uint64(99))
	f.Add([]byte("GET /ws HTTP/1.1\r\n\r\n"), uint64(7))
}

func never(func()) error { return nil }

// FuzzSession: whatever comes, in whatever cuts, the session writes whole packets,
// does not panic, and leaves nothing behind.
func FuzzSession(f *testing.F) {
	seeds(f, func(b []byte) []byte { return b })
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		_, l := newFake(t, nil, never)
		s, c := l.fakeSession()
		c.failIn = int(seed % 4)
		other, otherConn := l.fakeSession()
		feed(l, s, b, seed, s.received)
		wellFormed(t, c.out)
		if s.state == closing && !c.finished {
			t.Error("a session that is done with has not finished")
		}
		if len(s.pending) > l.gate.cfg.Limits.InFlight || len(s.held) > codec.HeaderSize+codec.MaxBody {
			t.Errorf("%d requests wait, %d bytes are held", len(s.pending), len(s.held))
		}
		c.close()
		wellFormed(t, otherConn.out)
		if other.state != closed {
			otherConn.close()
		}
		leftNothing(t, l)
	})
}

// FuzzWebSocket: the same of what carries a session's packets.
func FuzzWebSocket(f *testing.F) {
	frame := func(b []byte) []byte {
		return append([]byte(upgradeRequest(webSocketPath)), frameBytes(ws.OpBinary, b, nil)...)
	}
	seeds(f, frame)
	for i := range uint64(8) {
		f.Add([]byte("GET /other HTTP/1.1\r\n\r\n"), i)
		f.Add(append([]byte(upgradeRequest(webSocketPath)), frameBytes(ws.OpText, nil, nil)...), i)
		f.Add(append([]byte(upgradeRequest(webSocketPath)), frameBytes(ws.OpClose, nil, nil)...), i)
	}
	for _, op := range []ws.OpCode{ws.OpText, ws.OpPing, ws.OpPong, ws.OpClose, ws.OpContinuation, 3, 11} {
		b := append([]byte(upgradeRequest(webSocketPath)), frameBytes(op, []byte("\x03\xe8"), nil)...)
		f.Add(append(b, frameBytes(ws.OpPing, []byte("x"), nil)...), uint64(op))
	}
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		_, l := newFake(t, nil, never)
		address := netip.AddrFrom4([4]byte{127, 0, 0, 1})
		_, counted := l.gate.admit(address)
		c := new(fakeConn)
		c.failIn = int(seed % 4)
		w := &webSocket{stream: c}
		s := newSession(l, w, overWebSocket, address)
		s.counted, w.session, c.session = counted, s, s
		feed(l, s, b, seed, w.received)
		if len(w.partial) > max(maxHTTPHeader, 14+maxControl) {
			t.Errorf("%d bytes are held", len(w.partial))
		}
		if w.upgraded && len(c.out) > 0 {
			framed(t, c.out)
		}
		c.close()
		leftNothing(t, l)
	})
}

// framed fails the test if b is not an HTTP answer and whole frames of whole
// packets, with nothing behind a close frame.
func framed(t *testing.T, b []byte) {
	t.Helper()
	_, rest, ok := bytes.Cut(b, []byte("\r\n\r\n"))
	if !ok {
		t.Errorf("the gate wrote %q", b)
	}
	r := bytes.NewReader(rest)
	var packets []byte
	for ended := false; r.Len() > 0; {
		h, err := ws.ReadHeader(r)
		if err == nil {
			err = ws.CheckHeader(h, ws.StateClientSide)
		}
		payload := make([]byte, max(0, min(h.Length, int64(r.Len()))))
		if err == nil && int64(len(payload)) < h.Length {
			err = io.ErrUnexpectedEOF
		}
		_, _ = io.ReadFull(r, payload)
		if err != nil || ended {
			t.Fatalf("the gate wrote %q: %v, after a close frame: %v", b, err, ended)
		}
		switch h.OpCode {
		case ws.OpBinary:
			packets = append(packets, payload...)
		case ws.OpClose:
			ended = true
		case ws.OpPong:
		default:
			t.Errorf("a frame %+v", h)
		}
	}
	wellFormed(t, packets)
}
