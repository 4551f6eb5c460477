package gate

import (
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
)

// inOrder sends n requests in one piece.
func inOrder(c *wire, n int, size int) {
	var ms []*codec.Message
	for i := range n {
		ms = append(ms, request(uint64(i), "a.b", string(make([]byte, size))))
	}
	c.send(ms...)
}

// TestFullSessionIsNotRead: what a client sends over its requests in flight waits,
// and is answered in its turn. Nobody takes it for dead meanwhile.
func TestFullSessionIsNotRead(t *testing.T) {
	both(t, func(t *testing.T, over transport) {
		t.Parallel()
		r := start(t, func(c *Config) {
			c.Limits.InFlight, c.Heartbeat, c.RequestTimeout = 4, time.Second, time.Minute
		})
		s := serve(t, r.bus, "a", nil)
		c, other := r.login(t, over, ""), r.login(t, over, "")
		paused := r.gate.stats.PausedInFlight.Load()
		const n = 300
		go inOrder(c, n, 1000) // over what the sockets hold, if nobody reads
		four := []asked{s.next(), s.next(), s.next(), s.next()}
		if r.gate.stats.PausedInFlight.Load() == paused {
			t.Error("nothing is counted")
		}
		// Longer than a client may be silent.
		other.packet(codec.Heartbeat, 0, nil)
		silence := time.NewTimer(r.gate.silence + 600*time.Millisecond)
		defer silence.Stop()
		beat := time.NewTicker(400 * time.Millisecond)
		defer beat.Stop()
		for waiting := true; waiting; {
			select {
			case <-beat.C:
				other.packet(codec.Heartbeat, 0, nil)
			case <-silence.C:
				waiting = false
			case a := <-s.got:
				t.Fatalf("a request over the limit reached the service: %d", a.ID)
			}
		}
		other.close()
		for i := range uint64(n) {
			if i < 4 {
				if four[i].ID != i {
					t.Fatalf("request %d came as number %d", four[i].ID, i)
				}
				echo(s, four[i])
			} else {
				a := s.next()
				if a.ID != i {
					t.Fatalf("request %d came as number %d", a.ID, i)
				}
				echo(s, a)
			}
			if m := c.message(); failed(t, m) != codes.OK || m.ID != i {
				t.Fatalf("answer %d: got %+v", i, m)
			}
		}
		if n := r.gate.unfinished.Load(); n != 0 {
			t.Errorf("%d bytes are held", n)
		}
	})
}

// TestFullPublisher: while a publisher holds as much as it should, the sockets of its
// loops are not read, those of another are; and nothing is refused.
func TestFullPublisher(t *testing.T) {
	b := newBroker(t)
	r := startOnBroker(t, b, func(c *Config) {
		c.Loops, c.Publishers = 2, 2
		c.Limits.PendingPerPublisher, c.Limits.InFlight = 100_000, 10_000
	})
	serve(t, r.bus, "a", echo)
	for _, s := range r.gate.shards {
		eventually(t, "the gate's own question is settled", func() bool {
			bytes, unconfirmed := s.Pending()
			return bytes == 0 && unconfirmed == 0
		})
	}
	// Two clients of each loop.
	of := make(map[uint64][]*wire)
	for len(of[0]) < 2 || len(of[1]) < 2 {
		c := r.connect(t, overTCP)
		c.handshake(hi(""))
		c.send(request(1, "a.b", ""))
		c.message()
		for i, l := range r.gate.loops {
			onLoopWait(l, func() {
				if len(l.sessions) > len(of[uint64(i)]) {
					of[uint64(i)] = append(of[uint64(i)], c)
				}
			})
		}
	}
	busy, bystander, elsewhere := of[0][0], of[0][1], of[1][0]
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	t.Cleanup(release)
	b.set(bus.Up, nil, hold)
	const n = 60
	inOrder(busy, n, 1000)
	eventually(t, "the loop stops reading", func() bool { return r.gate.stats.PausedPublisher.Load() == 1 })
	bystander.packet(codec.Heartbeat, 0, nil)
	for range 20 { // and sees the bystander's heartbeat meanwhile, if it still reads
		elsewhere.packet(codec.Heartbeat, 0, nil)
		if p := elsewhere.next(); p.Type != codec.Heartbeat {
			t.Fatalf("got a %v", p.Type)
		}
	}
	_ = bystander.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := bystander.in.ReadByte(); err == nil {
		t.Error("the gate reads from the sockets of a publisher that is full")
	}
	for range r.gate.loops { // one client of each
		r.login(t, overTCP, "") // who would otherwise be kicked for saying nothing
	}
	b.set(bus.Up, nil, nil)
	release()
	for i := range uint64(n) {
		if m := busy.message(); failed(t, m) != codes.OK || m.ID != i {
			t.Fatalf("got %+v", m)
		}
	}
	if p := bystander.next(); p.Type != codec.Heartbeat {
		t.Errorf("got a %v", p.Type)
	}
}

// congested is a gate with one loop, whose publisher has taken so much that nobody
// reports yet that nothing is read; release has it go on.
func congested(t *testing.T, limits Limits) (r *rig, b *broker, congest, release func()) {
	b = newBroker(t)
	r = startOnBroker(t, b, func(c *Config) { c.Loops, c.Limits = 1, limits })
	eventually(t, "the gate's own question is settled", func() bool {
		bytes, unconfirmed := r.gate.shards[0].Pending()
		return bytes == 0 && unconfirmed == 0
	})
	hold := make(chan struct{})
	release = sync.OnceFunc(func() {
		b.set(bus.Up, nil, nil)
		close(hold)
	})
	t.Cleanup(release)
	busy := r.login(t, overTCP, "")
	return r, b, func() {
		b.set(bus.Up, nil, hold)
		inOrder(busy, 3, limits.PendingPerPublisher/4)
		eventually(t, "the loop stops reading", func() bool { return r.gate.stats.PausedPublisher.Load() == 1 })
	}, release
}

// TestAnsweredWaitForTheirTurn: who is answered while the publisher is full does not
// take what room it makes from those who are not read.
func TestAnsweredWaitForTheirTurn(t *testing.T) {
	r, _, congest, release := congested(t, Limits{PendingPerPublisher: 200_000, InFlight: 4})
	s := serve(t, r.bus, "a", nil)
	c := r.login(t, overTCP, "")
	const n = 30
	inOrder(c, n, 100) // all of which one read brings
	var first []asked
	for range 4 {
		first = append(first, s.next())
	}
	congest()
	before, _ := r.gate.shards[0].Pending()
	for i, a := range first {
		echo(s, a)
		if m := c.message(); m.ID != uint64(i) {
			t.Fatalf("got %+v", m)
		}
	}
	onLoopWait(r.gate.loops[0], func() {}) // the end of that turn
	if after, _ := r.gate.shards[0].Pending(); after != before {
		t.Errorf("a publisher that is full takes %d bytes more", after-before)
	}
	release()
	answered := make(map[uint64]bool)
	for range n - 4 + 3 { // and those that have filled the publisher
		a := s.next()
		echo(s, a)
		if len(a.Data) > 100 {
			continue
		}
		m := c.message()
		if failed(t, m) != codes.OK || m.ID != uint64(len(answered)+4) {
			t.Fatalf("got %+v", m)
		}
		answered[m.ID] = true
	}
}

// TestPendingLimit: of what one read brings, the publisher takes as much as it may
// hold, and the rest hears so.
func TestPendingLimit(t *testing.T) {
	b := newBroker(t)
	r := startOnBroker(t, b, func(c *Config) { c.Loops, c.Limits.PendingPerPublisher = 1, 6000 })
	serve(t, r.bus, "a", echo)
	c := r.login(t, overTCP, "")
	c.call(request(99, "a.b", "")) // so that nothing is pending any more
	hold := make(chan struct{})
	release := sync.OnceFunc(func() {
		b.set(bus.Up, nil, nil)
		close(hold)
	})
	t.Cleanup(release)
	b.set(bus.Up, nil, hold)
	const n = 12
	inOrder(c, n, 1000)
	refused := int64(0)
	for r.gate.measures.reached[limitPending].Load() == 0 || refused < int64(r.gate.measures.reached[limitPending].Load()) {
		if m := c.message(); failed(t, m) != codes.ResourceExhausted {
			t.Fatalf("got %+v", m)
		}
		refused++
	}
	if refused != n-5 {
		t.Errorf("%d of %d requests are refused", refused, n)
	}
	release()
	for i := range uint64(n - refused) {
		if m := c.message(); failed(t, m) != codes.OK || m.ID != i {
			t.Fatalf("got %+v", m)
		}
	}
}

// TestBlockedWhileFull: when the broker is blocked, those hear so who are not read
// because the publisher is full.
func TestBlockedWhileFull(t *testing.T) {
	r, b, congest, release := congested(t, Limits{PendingPerPublisher: 200_000})
	serve(t, r.bus, "a", echo)
	c := r.login(t, overTCP, "")
	congest()
	c.send(request(1, "a.b", "x"))
	eventually(t, "the client waits", func() bool {
		n := 0
		onLoopWait(r.gate.loops[0], func() { n = len(r.gate.loops[0].held) })
		return n == 2 // with who has filled it
	})
	b.mu.Lock()
	b.state = bus.Blocked
	b.mu.Unlock()
	r.gate.brokerState(bus.Blocked)
	if m := c.message(); failed(t, m) != codes.Unavailable {
		t.Errorf("got %+v", m)
	}
	release()
	r.gate.brokerState(bus.Up)
	if m := c.call(request(2, "a.b", "x")); failed(t, m) != codes.OK {
		t.Errorf("got %+v", m)
	}
}

// TestUnavailableAtAPace: while the broker is away, who asks hears so, but only as
// often as ticks come; once it is back, everybody is served.
func TestUnavailableAtAPace(t *testing.T) {
	b := newBroker(t)
	r := startOnBroker(t, b)
	serve(t, r.bus, "echo", echo)
	both(t, func(t *testing.T, over transport) {
		c := r.login(t, over, "")
		b.set(bus.Down, nil, nil)
		paused, begun := r.gate.stats.PausedBroker.Load(), time.Now()
		const n = 6
		for i := range uint64(n) {
			if m := c.call(request(i, "echo.echo", "x")); failed(t, m) != codes.Unavailable {
				t.Fatalf("got %+v", m)
			}
		}
		if took := time.Since(begun); took < (n-2)*wheelTick*time.Millisecond {
			t.Errorf("%d refusals within %v", n, took)
		}
		if r.gate.stats.PausedBroker.Load() < paused+n-1 {
			t.Error("nothing is counted")
		}
		b.set(bus.Up, nil, nil)
		if m := c.call(request(9, "echo.echo", "x")); failed(t, m) != codes.OK {
			t.Errorf("got %+v", m)
		}
	})
}

// TestLatestOnly: of pushes of which only the latest matters, a client that does not
// read gets the first ones and the last one, and is not kicked.
func TestLatestOnly(t *testing.T) {
	r := start(t, func(c *Config) { c.Limits.WriteQueue = 200_000 })
	s := serve(t, r.bus, "a", nil)
	both(t, func(t *testing.T, over transport) {
		c := r.login(t, over, "")
		c.send(request(1, "a.b", ""))
		a := s.next()
		conflated, kicked := r.gate.stats.PushesConflated.Load(), r.gate.stats.KickedSlow.Load()
		push := &bus.Reply{Session: a.Session, Route: "a.position", LatestOnly: true, Data: make([]byte, 60_000)}
		sent := 0
		for r.gate.stats.PushesConflated.Load() < conflated+100 {
			if sent++; sent > 10_000 {
				t.Fatal("no push replaces another")
			}
			push.Data[0] = byte(sent)
			s.reply(a.gate, push)
			eventually(t, "it is taken", func() bool { return r.gate.stats.Pushes.Load() >= int64(sent) })
		}
		// Another route and another group have a place of their own.
		s.reply(a.gate, &bus.Reply{Session: a.Session, Route: "a.score", LatestOnly: true, Data: []byte("one")})
		s.reply(a.gate, &bus.Reply{Session: a.Session, Route: "a.score", LatestOnly: true, Data: []byte("two")})
		s.reply(a.gate, &bus.Reply{Session: a.Session, Sequence: a.Sequence, Data: []byte("answer")})
		got, last, score := 0, byte(0), ""
		for score != "two" { // "one" may have gone before it
			m := c.message()
			switch {
			case m.Type == codec.Response: // is not conflated
			case len(m.Body) == 60_000:
				got, last = got+1, m.Body[0]
			default:
				score = string(m.Body)
			}
		}
		if got >= sent-50 || last != byte(sent) {
			t.Errorf("%d of %d came, the last %d", got, sent, last)
		}
		if n := r.gate.stats.KickedSlow.Load(); n != kicked {
			t.Errorf("%d are kicked", n-kicked)
		}
		c.close()
		eventually(t, "nothing waits", func() bool { return r.gate.unsent.Load() == 0 && r.gate.slow.Load() == 0 })
	})
	t.Run("too many of them", func(t *testing.T) {
		c := r.login(t, overTCP, "")
		c.send(request(1, "a.b", ""))
		a := s.next()
		push := &bus.Reply{Session: a.Session, Route: "a.push", Data: make([]byte, 60_000)}
		eventually(t, "something waits", func() bool { s.reply(a.gate, push); return r.gate.unsent.Load() > 0 })
		kicked := r.gate.stats.KickedSlow.Load()
		push.LatestOnly = true
		for i := range 26 {
			push.Route = "a." + string(rune('a'+i))
			s.reply(a.gate, push)
		}
		eventually(t, "the session is kicked", func() bool { return r.gate.stats.KickedSlow.Load() == kicked+1 })
		c.close()
		eventually(t, "nothing waits", func() bool { return r.gate.unsent.Load() == 0 })
	})
}

// TestWriteQueues: slow clients share what may wait for all of them.
func TestWriteQueues(t *testing.T) {
	r := start(t, func(c *Config) { c.Limits.WriteQueue, c.Limits.WriteQueues = 1<<20, 1<<20 })
	s := serve(t, r.bus, "a", nil)
	const n = 8
	clients := make([]*wire, n)
	for i := range clients {
		clients[i] = r.login(t, overTCP, "")
	}
	clients[0].send(request(1, "a.b", ""))
	s.next()
	push := &bus.Reply{Everyone: true, Route: "a.push", Data: make([]byte, 60_000)}
	most := int64(0)
	eventually(t, "all are kicked", func() bool {
		s.toAll(push)
		most = max(most, r.gate.unsent.Load())
		return r.gate.stats.KickedSlow.Load() == n
	})
	if most > 2<<20 {
		t.Errorf("%d bytes waited for all together", most)
	}
}
