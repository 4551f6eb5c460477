package gate

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/proto/gatepb"
)

func TestConnectionLimits(t *testing.T) {
	for _, x := range []struct {
		name  string
		limit Limits
	}{
		{"in all", Limits{Connections: 3}},
		{"by address", Limits{Connections: 100, ConnectionsPerIP: 3}},
	} {
		t.Run(x.name, func(t *testing.T) {
			r := start(t, func(c *Config) { c.Limits = x.limit })
			both(t, func(t *testing.T, over transport) {
				var clients []*wire
				for range 3 {
					clients = append(clients, r.login(t, over, ""))
				}
				full := r.gate.stats.ConnectionsFull.Load()
				c := r.connect(t, over)
				if a := c.handshake(hi("")); a.Code != 503 || a.RetryAfterMS <= 0 {
					t.Errorf("got %+v", a)
				}
				c.ends()
				c.close()
				if n := r.gate.stats.ConnectionsFull.Load(); n != full+1 {
					t.Errorf("%d are counted", n-full)
				}
				clients[0].close()
				eventually(t, "there is a place", func() bool { return r.gate.stats.Connections.Load() == 2 })
				clients[0] = r.login(t, over, "")
				for _, c := range clients {
					c.close()
				}
				eventually(t, "all are gone", func() bool { return r.gate.stats.Connections.Load() == 0 })
			})
			r.gate.limits.Lock()
			defer r.gate.limits.Unlock()
			if n := len(r.gate.limits.of); n != 0 {
				t.Errorf("%d addresses are kept", n)
			}
		})
	}
}

// TestFarOverLimit: those that are not even told so are closed and counted.
func TestFarOverLimit(t *testing.T) {
	r := start(t, func(c *Config) { c.Limits.Connections = 1 })
	for range 2 {
		if _, err := r.raw(t, overTCP); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "both are there", func() bool { return r.gate.stats.Connections.Load() == 2 })
	c, err := r.raw(t, overTCP)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.read(); err == nil {
		t.Error("the gate says something")
	}
	if n := r.gate.stats.ConnectionsRefused.Load(); n != 1 {
		t.Errorf("%d are counted", n)
	}
}

// TestInFlightLimit: a gate without the memory to let requests over the limit wait
// answers them at once.
func TestInFlightLimit(t *testing.T) {
	r := start(t, func(c *Config) { c.Limits.InFlight, c.Limits.Unfinished = 4, 1 })
	s := serve(t, r.bus, "a", nil)
	want := uint64(0)
	both(t, func(t *testing.T, over transport) {
		c := r.login(t, over, "")
		rejected := r.gate.stats.Rejected.Load()
		var five []*codec.Message
		for i := range 5 {
			five = append(five, request(uint64(i), "a.b", ""))
		}
		c.send(five...) // which one read brings
		if m := c.message(); failed(t, m) != codes.ResourceExhausted || m.ID != 4 {
			t.Errorf("got %+v", m)
		}
		want++
		if n := r.gate.stats.Rejected.Load(); n != rejected+1 || r.gate.measures.reached[limitUnfinished].Load() != want {
			t.Errorf("%d are counted, and %d in all, want %d", n-rejected, r.gate.measures.reached[limitUnfinished].Load(), want)
		}
		for range 4 {
			echo(s, s.next())
		}
		for range 4 {
			if m := c.message(); failed(t, m) != codes.OK {
				t.Errorf("got %+v", m)
			}
		}
		c.send(request(9, "a.b", "again"))
		echo(s, s.next())
		if m := c.message(); failed(t, m) != codes.OK {
			t.Errorf("got %+v", m)
		}
	})
}

// TestRateLimit: over the rate comes RESOURCE_EXHAUSTED, and who does not listen is
// kicked; requests that nobody serves count like any other.
func TestRateLimit(t *testing.T) {
	r := start(t, func(c *Config) { c.Limits.RequestsPerSecond = 20 })
	serve(t, r.bus, "echo", echo)
	both(t, func(t *testing.T, over transport) {
		for _, route := range []string{"echo.echo", "no-route"} {
			c := r.login(t, over, "")
			kicked, limited := r.gate.stats.KickedRate.Load(), r.gate.measures.reached[limitRate].Load()
			var ms []*codec.Message
			for i := range 100 {
				ms = append(ms, request(uint64(i), route, ""))
			}
			c.send(ms...)
			exhausted := 0
			for {
				p := c.next()
				if p.Type == codec.Kick {
					if kick := kickOf(t, p); kick != kickRate {
						t.Errorf("kick %q", kick)
					}
					break
				}
				m := new(codec.Message)
				if err := codec.DecodeMessage(p.Body, m); err != nil {
					t.Fatal(err)
				}
				if failed(t, m) == codes.ResourceExhausted {
					exhausted++
				}
			}
			if exhausted < 15 || exhausted > 25 {
				t.Errorf("%d requests are refused before the kick, want 20", exhausted)
			}
			if n := r.gate.stats.KickedRate.Load(); n != kicked+1 {
				t.Errorf("%d kicks are counted", n-kicked)
			}
			if n := r.gate.measures.reached[limitRate].Load() - limited; n < uint64(exhausted) {
				t.Errorf("%d are counted, want %d", n, exhausted)
			}
		}
	})
}

func TestMessageLimit(t *testing.T) {
	r := start(t, func(c *Config) { c.Limits.Message = 2000 })
	serve(t, r.bus, "echo", echo)
	want := uint64(0)
	both(t, func(t *testing.T, over transport) {
		c := r.login(t, over, "")
		empty := request(1, "echo.echo", "").Size()
		if m := c.call(request(1, "echo.echo", strings.Repeat("x", 2000-empty))); len(m.Body) != 2000-empty {
			t.Errorf("got %+v", m)
		}
		c.send(request(1, "echo.echo", strings.Repeat("x", 2001-empty)))
		if kick := c.ends(); kick != kickProtocol {
			t.Errorf("kick %q", kick)
		}
		want++
		if n := r.gate.measures.reached[limitMessage].Load(); n != want || r.gate.stats.KickedProtocol.Load() != int64(want) {
			t.Errorf("%d are counted, and %d kicks, want %d", n, r.gate.stats.KickedProtocol.Load(), want)
		}
	})
}

// TestSlowConsumer: who does not read while pushes come is kicked, and finds the
// kick behind what it had not read.
func TestSlowConsumer(t *testing.T) {
	r := start(t, func(c *Config) { c.Limits.WriteQueue = 100_000 })
	s := serve(t, r.bus, "a", nil)
	both(t, func(t *testing.T, over transport) {
		c := r.login(t, over, "")
		kicked := r.gate.stats.KickedSlow.Load()
		c.send(request(1, "a.b", ""))
		a := s.next()
		push := &bus.Reply{Session: a.Session, Route: "a.push", Data: make([]byte, 60_000)}
		eventually(t, "the session is kicked", func() bool {
			s.reply(a.gate, push)
			return r.gate.stats.KickedSlow.Load() == kicked+1
		})
		if waits := r.gate.unsent.Load(); waits > 2*(100_000+2*flushBytes) { // and for the one before
			t.Errorf("%d bytes wait for it", waits)
		}
		for {
			p := c.next()
			if p.Type == codec.Kick {
				if kick := kickOf(t, p); kick != kickSlow {
					t.Errorf("kick %q", kick)
				}
				break
			}
		}
	})
	t.Run("pings", func(t *testing.T) {
		c := r.login(t, overWebSocket, "")
		kicked := r.gate.stats.KickedSlow.Load()
		var pings []byte
		for range 100 {
			pings = append(pings, frameBytes(9, make([]byte, 125), nil)...)
		}
		go func() {
			for {
				if _, err := c.conn.Write(pings); err != nil {
					return
				}
			}
		}()
		eventually(t, "the session is kicked", func() bool { return r.gate.stats.KickedSlow.Load() == kicked+1 })
		c.close()
	})
}

// TestLargeAnswer: one message over the write queue does not make a client slow.
func TestLargeAnswer(t *testing.T) {
	const size = 6 << 20
	r := start(t, func(c *Config) { c.Limits.WriteQueue, c.Limits.Message = 1000, maxMessage })
	serve(t, r.bus, "big", func(s *stub, a asked) {
		s.reply(a.gate, &bus.Reply{Session: a.Session, Sequence: a.Sequence, Data: make([]byte, size)})
	})
	both(t, func(t *testing.T, over transport) {
		c := r.login(t, over, "")
		if m := c.call(request(1, "big.one", "")); len(m.Body) != size {
			t.Errorf("got %d bytes", len(m.Body))
		}
	})
}

func TestGroupLimit(t *testing.T) {
	r := start(t, func(c *Config) { c.Limits.GroupsPerSession = 2 })
	s := serve(t, r.bus, "a", nil)
	c := r.login(t, overTCP, "")
	c.send(request(1, "a.b", ""))
	a := s.next()
	calls := r.calls()
	for i, want := range []codes.Code{codes.OK, codes.OK, codes.ResourceExhausted} {
		_, err := calls.Join(t.Context(), &gatepb.JoinRequest{Session: a.Session, Group: fmt.Sprint("g", i)})
		if status.Code(err) != want {
			t.Errorf("group %d: got %v, want %v", i, err, want)
		}
	}
	if _, err := calls.Join(t.Context(), &gatepb.JoinRequest{Session: a.Session, Group: "g1"}); err != nil {
		t.Errorf("a group that it is in: %v", err)
	}
	if n := r.gate.stats.GroupsRefused.Load(); n != 1 {
		t.Errorf("%d are counted", n)
	}
}

func TestRouteLimit(t *testing.T) {
	r := start(t, func(c *Config) { c.Limits.Routes = 2 })
	s := serve(t, r.bus, "a", echo)
	s.announced(r, "a.one", "a.two")
	s.announce("a", "a.three")
	eventually(t, "the third is counted", func() bool { return r.gate.stats.AnnouncementsFailed.Load() == 1 })
	s.announce("a", "b.one", "no-route")
	eventually(t, "what is none of a's routes is counted", func() bool { return r.gate.stats.AnnouncementsFailed.Load() == 3 })
	c := r.connect(t, overTCP)
	if a := c.handshake(hi("")); len(a.Sys.Dict) != 2 {
		t.Errorf("got %+v", a)
	}
	if m := c.call(request(1, "a.three", "x")); string(m.Body) != "x" {
		t.Errorf("by name: got %+v", m)
	}
}

func TestHandshakeLimit(t *testing.T) {
	release := make(chan struct{})
	r := start(t, func(c *Config) {
		c.Limits.Handshakes = 1
		c.Presence = store(t)
		c.Verify = verifier(func(context.Context, string) (int64, error) {
			<-release
			return 5, nil
		})
	})
	first := r.connect(t, overTCP)
	first.packet(codec.Handshake, 0, []byte(hi("x")))
	eventually(t, "a token is being verified", func() bool { return len(r.gate.handshakes) == 1 })
	second := r.connect(t, overTCP)
	if a := second.handshake(hi("x")); a.Code != 503 || a.RetryAfterMS <= 0 {
		t.Errorf("got %+v", a)
	}
	if n := r.gate.stats.HandshakesFull.Load(); n != 1 {
		t.Errorf("%d are counted", n)
	}
	close(release)
	if a := first.answer(); a.User.ID != 5 {
		t.Errorf("got %+v", a)
	}
}

func TestHeartbeat(t *testing.T) {
	r := start(t, func(c *Config) { c.Heartbeat = time.Second })
	both(t, func(t *testing.T, over transport) {
		t.Parallel()
		silent, lively := r.login(t, over, ""), r.connect(t, over)
		if a := lively.handshake(hi("")); a.Sys.Heartbeat != 1 {
			t.Errorf("got %+v", a)
		}
		begun := time.Now()
		stop, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			ticker := time.NewTicker(200 * time.Millisecond)
			defer ticker.Stop()
			for {
				select {
				case <-ticker.C:
					_ = lively.tryBytes(packet(codec.Heartbeat, 0, nil))
				case <-stop:
					return
				}
			}
		}()
		if kick := silent.ends(); kick != kickHeartbeat {
			t.Errorf("kick %q", kick)
		}
		if took := time.Since(begun); took < 2400*time.Millisecond {
			t.Errorf("kicked after %v, want two and a half heartbeats", took)
		}
		close(stop)
		<-ended
		if p := lively.next(); p.Type != codec.Heartbeat || len(p.Body) != 0 {
			t.Errorf("got a %v %q", p.Type, p.Body)
		}
	})
}

// TestOneAddressLeavesRoom: whoever opens far more connections than his address may
// have takes nobody else's place, with a proxy before the gate or without.
func TestOneAddressLeavesRoom(t *testing.T) {
	greedy, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for name, admit := range map[string]func(*Gate, netip.Addr) (admitted, counted bool){
		"direct": (*Gate).admit,
		"behind a proxy": func(g *Gate, a netip.Addr) (admitted, counted bool) {
			if admitted, counted = g.admit(netip.Addr{}); counted {
				if admitted, counted = g.admitAddress(a); !admitted {
					g.forget(a, false, false)
				}
			}
			return admitted, counted
		},
	} {
		t.Run(name, func(t *testing.T) {
			g, _ := newFake(t, nil, inline)
			g.cfg.Limits.Connections, g.cfg.Limits.ConnectionsPerIP = 100, 3
			var places, told int
			for range 200 {
				switch admitted, counted := admit(g, greedy); {
				case counted:
					places++
				case admitted:
					told++
				}
			}
			if most := g.cfg.Limits.overLimit(); places != 3 || told != most {
				t.Errorf("one address has %d places, and %d more connections are told so, want 3 and %d", places, told, most)
			}
			if admitted, counted := admit(g, other); !admitted || !counted {
				t.Errorf("another address finds no place: %d connections are open", g.stats.Connections.Load())
			}
		})
	}
}
