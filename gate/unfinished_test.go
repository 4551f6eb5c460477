package gate

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/gobwas/ws"
	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/certificates/certtest"
)

// TestUnfinishedLimit: parts of messages are bounded over all sessions; who adds to too
// much of it is kicked, and the others are not disturbed.
func TestUnfinishedLimit(t *testing.T) {
	r := start(t, func(c *Config) { c.Limits.Unfinished = 100_000 })
	serve(t, r.bus, "a", echo)
	first, second, third := r.login(t, overTCP, ""), r.login(t, overWebSocket, ""), r.login(t, overTCP, "")
	part := make([]byte, 60_000)
	first.packet(codec.Data, 0x80, part)
	eventually(t, "the first part is held", func() bool { return r.gate.unfinished.Load() == 60_000 })
	second.packet(codec.Data, 0x80, part)
	if kick := second.ends(); kick != kickProtocol {
		t.Errorf("kick %q", kick)
	}
	if n := r.gate.measures.reached[limitUnfinished].Load(); n != 1 {
		t.Errorf("%d are counted", n)
	}
	second.close()
	third.call(request(1, "a.b", "others go on"))
	first.close()
	eventually(t, "nothing is held", func() bool { return r.gate.unfinished.Load() == 0 })
}

// fills has clients do something one after the other, by which the gate holds n bytes
// more or reaches its limit, and returns for each whether it was the latter. The gate
// never holds more than it may.
func (r *rig) fills(t *testing.T, clients, n int, do func(i int)) (refused []bool) {
	t.Helper()
	most := int64(r.gate.cfg.Limits.Unfinished)
	for i := range clients {
		held, reached := r.gate.unfinished.Load(), r.gate.measures.reached[limitUnfinished].Load()
		do(i)
		over := held+int64(n) > most
		eventually(t, "the gate has read it", func() bool {
			if over {
				return r.gate.measures.reached[limitUnfinished].Load() == reached+1 && r.gate.unfinished.Load() == held
			}
			return r.gate.unfinished.Load() == held+int64(n)
		})
		refused = append(refused, over)
	}
	return refused
}

// TestHalfPackets: packets of which only a part has come are bounded over all
// connections, before their handshakes, too; who adds to too much of it is kicked, and
// the others are not disturbed.
func TestHalfPackets(t *testing.T) {
	const clients, half, fit = 20, 60_000, 8
	r := start(t, func(c *Config) { c.Limits.Unfinished = fit*half + half/2 })
	serve(t, r.bus, "a", echo)
	both(t, func(t *testing.T, over transport) {
		other := r.login(t, over, "")
		for name, x := range map[string]struct {
			of      codec.PacketType
			connect func() *wire
		}{
			"a handshake": {codec.Handshake, func() *wire { return r.connect(t, over) }},
			"data":        {codec.Data, func() *wire { return r.login(t, over, "") }},
		} {
			whole := packet(x.of, 0, make([]byte, half+100))
			var all []*wire
			refused := r.fills(t, clients, half, func(int) {
				c := x.connect()
				all = append(all, c)
				c.bytes(whole[:half])
			})
			if n := slices.Index(refused, true); n != fit {
				t.Errorf("%s: %d clients fit, want %d", name, n, fit)
			}
			other.call(request(1, "a.b", strings.Repeat("others go on", 100)))
			for i, c := range all {
				if refused[i] {
					if kick := c.ends(); kick != kickProtocol {
						t.Errorf("%s: client %d: kick %q", name, i, kick)
					}
				}
				c.close()
			}
			eventually(t, "nothing is held", func() bool { return r.gate.unfinished.Load() == 0 })
		}
	})
}

// TestHalfPacketThatEnds: what is whole is not counted any more.
func TestHalfPacketThatEnds(t *testing.T) {
	r := start(t)
	serve(t, r.bus, "a", echo)
	both(t, func(t *testing.T, over transport) {
		c := r.login(t, over, "")
		whole := dataPackets(request(1, "a.b", strings.Repeat("x", 50_000)))
		for _, n := range []int{3, 40_000} {
			c.bytes(whole[:n])
			eventually(t, "a part is held", func() bool { return r.gate.unfinished.Load() == int64(n) })
			c.bytes(whole[n:])
			if m := c.message(); len(m.Body) != 50_000 {
				t.Errorf("got %d bytes", len(m.Body))
			}
			if n := r.gate.unfinished.Load(); n != 0 {
				t.Errorf("%d bytes are held", n)
			}
		}
		c.close()
	})
}

// TestHalfUpgrades: the same for requests of which only a part has come. They are told
// so as what they are, and those that end are not counted any more.
func TestHalfUpgrades(t *testing.T) {
	const clients, half, fit = 10, 8000, 6
	r := start(t, func(c *Config) { c.Limits.Unfinished = fit*half + half/2 })
	request := strings.Replace(upgradeRequest(webSocketPath), "\r\n\r\n", "\r\nX: "+strings.Repeat("x", half-100)+"\r\n\r\n", 1)
	var all []*wire
	refused := r.fills(t, clients, half, func(int) {
		c, err := r.raw(t, overWebSocket)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
		for part := range slices.Chunk([]byte(request[:half]), half/2) {
			if _, err := c.conn.Write(part); err != nil {
				t.Fatal(err)
			}
		}
	})
	if n := slices.Index(refused, true); n != fit {
		t.Errorf("%d clients fit, want %d", n, fit)
	}
	for i, c := range all {
		if refused[i] {
			if a := parseResponse(t, readAll(t, c)); a.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("client %d: got %+v", i, a)
			}
		} else if i%2 == 0 {
			if _, err := c.conn.Write([]byte(request[half:])); err != nil {
				t.Fatal(err)
			}
			if line, err := c.in.ReadString('\n'); err != nil || !strings.Contains(line, "101") {
				t.Errorf("client %d: got %q, %v", i, line, err)
			}
		}
	}
	eventually(t, "those that have ended are not counted", func() bool { return r.gate.unfinished.Load() == fit/2*half })
	for _, c := range all {
		c.close()
	}
	eventually(t, "nothing is held", func() bool { return r.gate.unfinished.Load() == 0 })
}

// TestHalfRecords: the same for records of TLS.
func TestHalfRecords(t *testing.T) {
	const clients, half, fit = 6, 15_000, 4
	a := certtest.NewAuthority(t, "authority")
	cfg := &tls.Config{RootCAs: a.Pool(t), ServerName: "gate"}
	r := start(t, secured(t, a, t.TempDir()), func(c *Config) { c.Limits.Unfinished = fit*half + half/2 })
	var all []net.Conn
	var first []byte
	refused := r.fills(t, clients, half, func(i int) {
		conn, s := r.handshaken(t, cfg, net.Dialer{Timeout: patience})
		all = append(all, conn)
		record := s.append(nil, recordApplication, packet(codec.Data, 0x80, make([]byte, 16_000)))
		if i == 0 {
			first = record[half:]
		}
		if _, err := conn.Write(record[:half]); err != nil {
			t.Fatal(err)
		}
	})
	if n := slices.Index(refused, true); n != fit || r.gate.stats.KickedProtocol.Load() != clients-fit {
		t.Errorf("%d clients fit, want %d; %d are kicked", n, fit, r.gate.stats.KickedProtocol.Load())
	}
	for _, c := range all[1:] {
		_ = c.Close()
	}
	eventually(t, "those that are gone are not counted", func() bool { return r.gate.unfinished.Load() == half })
	if _, err := all[0].Write(first); err != nil {
		t.Fatal(err)
	}
	eventually(t, "there is a part of a message, and none of a record", func() bool { return r.gate.unfinished.Load() == 16_000 })
	_ = all[0].Close()
	eventually(t, "nothing is held", func() bool { return r.gate.unfinished.Load() == 0 })
}

// TestHeldHandshakes: what comes while a token is verified counts, too.
func TestHeldHandshakes(t *testing.T) {
	_, l := newFake(t, nil, inline)
	l.gate.cfg.Limits.Unfinished = 50_000
	for i, want := range []state{verifying, closing} {
		s, _ := l.fakeSession()
		s.state = verifying
		s.received(packet(codec.Data, 0, make([]byte, 30_000)))
		if s.state != want {
			t.Errorf("session %d is in state %d, want %d", i, s.state, want)
		}
	}
	if n := l.gate.unfinished.Load(); n != 30_000+codec.HeaderSize {
		t.Errorf("%d bytes are held", n)
	}
}

// upgrading is a WebSocket whose request a test feeds.
func upgrading(t testing.TB) (*webSocket, *loop) {
	t.Helper()
	_, l := newFake(t, nil, inline)
	c := new(fakeConn)
	w := &webSocket{stream: c}
	w.session = newSession(l, w, overWebSocket, netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	w.session.counted, c.session = true, w.session
	return w, l
}

// TestUpgradeInPieces: a request may come in any cut, with what is behind it; the
// largest there may be, too, and none that is larger.
func TestUpgradeInPieces(t *testing.T) {
	behind := frameBytes(ws.OpBinary, packet(codec.Handshake, 0, []byte(hi(""))), nil)
	small := upgradeRequest(webSocketPath)
	sized := func(n int) string {
		return strings.Replace(small, "\r\n\r\n", "\r\nX: "+strings.Repeat("x", n-len(small)-len("\r\nX: "))+"\r\n\r\n", 1)
	}
	for _, request := range []string{small, sized(maxHTTPHeader), sized(maxHTTPHeader + 1)} {
		whole := append([]byte(request), behind...)
		cuts := []int{1, 2, 3, len(request) - 3, len(request) - 2, len(request) - 1, len(request), len(request) + 1, len(whole)}
		if request == small {
			for i := range len(whole) {
				cuts = append(cuts, i+1)
			}
		}
		for _, piece := range cuts {
			w, l := upgrading(t)
			for part := range slices.Chunk(slices.Clone(whole), piece) {
				w.received(part)
			}
			l.flush()
			if got, want := w.session.state, len(request) <= maxHTTPHeader; (got == active) != want {
				t.Errorf("%d bytes in pieces of %d: the session is in state %d", len(request), piece, got)
			}
			if l.gate.unfinished.Load() != 0 || w.partial != nil {
				t.Errorf("%d bytes in pieces of %d: %d are held", len(request), piece, len(w.partial))
			}
		}
	}
}

// TestUpgradeIsLinear: a request that comes byte by byte is not copied again and again.
func TestUpgradeIsLinear(t *testing.T) {
	w, _ := upgrading(t)
	request := []byte("GET /ws HTTP/1.1\r\nX: " + strings.Repeat("x", maxHTTPHeader-100))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range request {
		w.received(request[i : i+1])
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 16*maxHTTPHeader {
		t.Errorf("%d bytes are allocated for a request of %d", n, len(request))
	}
}

// TestNothingOvertakes: what finds no memory to wait for its turn is not taken before
// what waits, also where nobody waits for its answer.
func TestNothingOvertakes(t *testing.T) {
	g, l := newFake(t, nil, inline)
	g.cfg.Limits.InFlight, g.cfg.Limits.Unfinished = 1, 1200
	s, _ := l.fakeSession()
	s.received(packet(codec.Handshake, 0, []byte(hi(""))))
	var b []byte
	for i, kind := range []codec.MessageType{codec.Request, codec.Notify, codec.Notify} {
		m := request(0, fmt.Sprintf("a.number%d", i), strings.Repeat("x", 1000))
		m.Type = kind
		b = append(b, dataPackets(m)...)
	}
	s.received(b)
	if s.sequence != 1 || len(s.held) == 0 || g.stats.Rejected.Load() != 1 {
		t.Errorf("%d are published, %d bytes wait, and %d are rejected", s.sequence, len(s.held), g.stats.Rejected.Load())
	}
}

// TestTheRestIsAllThatIsHeld: packets that have had their turn take no memory any more,
// while the last of them waits for its own.
func TestTheRestIsAllThatIsHeld(t *testing.T) {
	const n, size = 200, 60_000
	g, l := newFake(t, nil, inline)
	g.cfg.Limits.InFlight = 1
	sessions := make([]*session, n)
	b := slices.Concat(dataPackets(request(1, "a.first", "")),
		dataPackets(&codec.Message{Type: codec.Notify, Route: []byte("no route"), Body: make([]byte, size)}),
		dataPackets(request(2, "a.second", "")), dataPackets(request(3, "a.third", "")))
	before := memory()
	for i := range sessions {
		s, _ := l.fakeSession()
		s.received(packet(codec.Handshake, 0, []byte(hi(""))))
		s.received(b)
		s.failPending(codes.Unavailable, "answered")
		l.flush()
		sessions[i] = s
	}
	counted := uint64(g.unfinished.Load())
	if counted == 0 || counted > n*100 {
		t.Fatalf("%d bytes wait", counted)
	}
	if held := memory() - before; held > n*size/10 {
		t.Errorf("%d bytes wait, and %d are held", counted, held)
	}
	runtime.KeepAlive(sessions)
}

// TestFragmentWithoutRoom: a fragment that finds no memory to wait for its turn ends its
// session for that, and not for a mistake that its client has not made.
func TestFragmentWithoutRoom(t *testing.T) {
	g, l := newFake(t, nil, inline)
	g.cfg.Limits.InFlight, g.cfg.Limits.Unfinished = 1, codec.HeaderSize+codec.MaxBody
	s, c := l.fakeSession()
	s.received(packet(codec.Handshake, 0, []byte(hi(""))))
	l.flush()
	c.out = nil
	s.received(append(dataPackets(request(1, "a.first", "")), dataPackets(request(2, "a.large", strings.Repeat("x", codec.MaxBody)))...))
	l.flush()
	if !strings.Contains(string(c.out), errUnfinished.Error()) {
		t.Errorf("got %q", c.out)
	}
	if n := g.measures.reached[limitUnfinished].Load(); n != 1 {
		t.Errorf("%d times the limit was reached", n)
	}
	if n := g.unfinished.Load(); n != 0 {
		t.Errorf("%d bytes are still counted", n)
	}
}
