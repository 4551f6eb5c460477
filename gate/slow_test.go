package gate

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
)

// TestShareOfSlowClients: the less is left for all of them, the less may wait for each.
func TestShareOfSlowClients(t *testing.T) {
	g, l := newFake(t, nil, inline)
	g.cfg.Limits.WriteQueue, g.cfg.Limits.WriteQueues = 100*smallQueue, 10_000*smallQueue
	s, c := l.fakeSession()
	for _, x := range []struct {
		waits, all int64 // in smallQueue
		want       bool
	}{
		{100, 100, false},
		{101, 101, true},
		{100, 9200, false},
		{99, 9208, false},
		{100, 9208, true}, // an eighth of 792
		{10, 9920, false},
		{11, 9920, true},
		{1, 10_000, false},
		{2, 10_000, true},
		{1, 20_000, false},
		{2, 20_000, true},
	} {
		c.waits = int(x.waits * smallQueue)
		g.unsent.Store(x.all * smallQueue)
		if got := s.tooSlow(); got != x.want {
			t.Errorf("%d of %d wait for one: got %v", x.waits, x.all, got)
		}
	}
	g.cfg.Limits.WriteQueue = 1000 // less than smallQueue
	c.waits = 1001
	if !s.tooSlow() {
		t.Error("more may wait than the write queue")
	}
}

// TestSilentSlowClients: who has let much wait, and now gets nothing more, is cut off
// when others need the room, with what waits; who has little waiting is not, and
// nobody while there is room.
func TestSilentSlowClients(t *testing.T) {
	g, l := newFake(t, nil, inline)
	g.cfg.Limits.WriteQueue, g.cfg.Limits.WriteQueues = 1<<20, 4<<20
	slow, slowConn := l.fakeSession()
	other, otherConn := l.fakeSession()
	left, leftConn := l.fakeSession()
	for _, s := range []*session{slow, other, left} {
		s.state = active
	}
	left.end("kicked") // and may still read why
	slowConn.waits, otherConn.waits, leftConn.waits = 900<<10, 100<<10, 900<<10
	g.unsent.Store(2 << 20)
	l.tick()
	if slowConn.closed || otherConn.closed || leftConn.closed || g.stats.KickedSlow.Load() != 0 {
		t.Error("somebody is cut off while there is room")
	}
	g.unsent.Store(2<<20 + 1)
	slowConn.waits = 200 << 10
	l.tick()
	if slowConn.closed || otherConn.closed || !leftConn.closed {
		t.Error("not only who has left with too much is cut off")
	}
	slowConn.waits = 300 << 10
	l.tick()
	if !slowConn.closed || otherConn.closed {
		t.Error("not only who is slow is cut off")
	}
	if n := g.stats.KickedSlow.Load(); n != 1 {
		t.Errorf("%d kicks are counted", n)
	}
	if len(l.sessions) != 1 {
		t.Errorf("%d sessions are left", len(l.sessions))
	}
}

// TestKickIsLast: of the pushes that were kept for a slow client none is written behind
// its kick.
func TestKickIsLast(t *testing.T) {
	g, l := newFake(t, nil, inline)
	g.cfg.Limits.WriteQueue, g.cfg.Limits.WriteQueues = 1<<20, 8<<20
	s, c := l.fakeSession()
	s.received(packet(codec.Handshake, 0, []byte(hi(""))))
	l.flush()
	c.waits = 1
	for i := range 15 {
		r := &bus.Reply{Session: s.id, LatestOnly: true, Route: fmt.Sprintf("a.push%d", i), Data: make([]byte, 60<<10)}
		l.push(r, new(pushCache))
	}
	l.flush()
	if s.latest == nil || s.state != active {
		t.Fatal("nothing is kept")
	}
	c.out, c.waits = nil, 0
	c.wrote = func(b []byte) { c.out = append(c.out, b...); c.waits += len(b) } // it does not read on
	g.unsent.Add(4 << 20)                                                       // and others neither
	s.drained()
	l.flush()
	var last codec.PacketType
	var d codec.Decoder
	if err := d.Feed(c.out, func(p codec.Packet) error {
		if last == codec.Kick {
			t.Errorf("a %v of %d bytes is behind the kick", p.Type, len(p.Body))
		}
		last = p.Type
		return nil
	}); err != nil {
		t.Error(err)
	}
	if last != codec.Kick {
		t.Errorf("the last is a %v", last)
	}
}

// TestTheRestIsAllThatWaits: who reads most of what waited for him, and then no more, takes
// about the memory that is counted for the rest.
func TestTheRestIsAllThatWaits(t *testing.T) {
	const n, size = 20, 900 << 10
	g, l := newFake(t, nil, inline)
	p := &poller{loop: l}
	sockets := make([]*socket, n)
	before := memory()
	for i := range sockets {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err == nil {
			err = unix.SetNonblock(fds[0], true)
		}
		if err != nil {
			t.Fatal(err)
		}
		s := &socket{poller: p, fd: int32(fds[0])}
		s.session.init(l, s, overTCP, netip.Addr{})
		sockets[i] = s
		s.write(make([]byte, size))
		read := make([]byte, 4096)
		for len(s.unsent) > 10<<10 {
			if _, err := unix.Read(fds[1], read); err != nil {
				t.Fatal(err)
			}
			s.sendRest()
		}
		t.Cleanup(func() {
			s.close()
			_ = unix.Close(fds[1])
		})
	}
	counted := uint64(g.unsent.Load())
	if counted == 0 {
		t.Fatal("nothing waits")
	}
	if held := memory() - before; held > 10*counted+1<<20 {
		t.Errorf("%d bytes wait, and %d are held", counted, held)
	}
	runtime.KeepAlive(sockets)
}

// TestOneTurnAtATime: whoever sends faster than he is read has one turn among the others,
// however often it is told that more has come.
func TestOneTurnAtATime(t *testing.T) {
	_, l := newFake(t, nil, func(func()) error { return nil })
	p := &poller{loop: l, in: make([]byte, 1<<10)}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		err = unix.SetNonblock(fds[0], true)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fds[1]) }()
	s := &socket{poller: p, fd: int32(fds[0])}
	s.session.init(l, s, overTCP, netip.Addr{})
	defer s.close()
	s.session.state = active
	const beats = 20_000
	var b []byte
	for range beats {
		b = append(b, packet(codec.Heartbeat, 0, nil)...)
	}
	if _, err := unix.Write(fds[1], b); err != nil {
		t.Fatal(err)
	}
	turns := 0
	for ; s.readable || turns == 0; turns++ {
		p.serve(s, happening{readable: true})
		if n := len(l.inbox.tasks); n > 1 {
			t.Fatalf("it has %d turns", n)
		}
		l.turn()
	}
	if s.fd < 0 || s.session.state != active || turns < 2 {
		t.Errorf("in the state %d after %d turns", s.session.state, turns)
	}
}
