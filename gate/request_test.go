package gate

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
)

// TestResponse: a Response repeats id and route in the form of its Request.
func TestResponse(t *testing.T) {
	r := start(t)
	s := serve(t, r.bus, "echo", echo)
	s.announced(r, "echo.echo")
	both(t, func(t *testing.T, over transport) {
		c := r.login(t, over, "")
		for _, compressed := range []bool{false, true} {
			for _, data := range []codec.DataType{codec.Text, codec.JSON, codec.Protobuf} {
				for _, id := range []uint64{0, 1, 255, 256, math.MaxUint64} {
					m := &codec.Message{
						Data: data, ID: id, Compressed: compressed, Code: 1,
						Name: []byte("a.Name"), Body: []byte("body \x00\xff"),
					}
					if !compressed {
						m.Code, m.Route = 0, []byte("echo.echo")
					}
					want := *m
					want.Type = codec.Response
					got := c.call(m)
					if got.Type != want.Type || got.ID != want.ID || got.Data != want.Data || got.Compressed != want.Compressed ||
						got.Code != want.Code || !bytes.Equal(got.Route, want.Route) || !bytes.Equal(got.Name, want.Name) ||
						!bytes.Equal(got.Body, want.Body) {
						t.Errorf("got %+v, want %+v", got, want)
					}
				}
			}
		}
	})
}

// TestRequestOnTheBus: what a service sees of a request.
func TestRequestOnTheBus(t *testing.T) {
	r := start(t)
	s := serve(t, r.bus, "a", nil)
	both(t, func(t *testing.T, over transport) {
		c := r.login(t, over, "")
		before := time.Now().UnixMilli()
		c.send(&codec.Message{Data: codec.JSON, ID: 300, Route: []byte("a.b.c"), Name: []byte("a.B"), Body: []byte("{}")})
		got := s.next()
		if got.route != "a.b.c" || got.gate != r.gate.ID() || got.address != r.gate.GRPCAddress() ||
			string(got.Name) != "a.B" || string(got.Data) != "{}" || got.ID != 300 || got.DataType != 1 || got.Type != 0 ||
			got.Session == 0 || got.Sequence == 0 || got.User != 0 || !bytes.Equal(got.Address, []byte{127, 0, 0, 1}) {
			t.Errorf("got %+v", got)
		}
		if d := got.Deadline - before; d < 9_900 || d > 12_000 {
			t.Errorf("the deadline is in %d ms, want about 10,000", d)
		}
	})
}

// TestSameID: requests in flight with the same id of the client are told apart by
// the gate's own number, whatever the order of the replies.
func TestSameID(t *testing.T) {
	r := start(t)
	s := serve(t, r.bus, "a", nil)
	both(t, func(t *testing.T, over transport) {
		c := r.login(t, over, "")
		c.send(request(5, "a.one", ""), request(5, "a.two", ""), request(5, "a.three", ""))
		requests := []asked{s.next(), s.next(), s.next()}
		for _, a := range slices.Backward(requests) {
			s.reply(a.gate, &bus.Reply{Session: a.Session, Sequence: a.Sequence, Data: []byte(a.route)})
		}
		for _, want := range []string{"a.three", "a.two", "a.one"} {
			if m := c.message(); string(m.Body) != want || string(m.Route) != want || m.ID != 5 {
				t.Errorf("got %+v, want %s", m, want)
			}
		}
	})
}

func TestNotify(t *testing.T) {
	r := start(t)
	s := serve(t, r.bus, "a", nil)
	both(t, func(t *testing.T, over transport) {
		c := r.login(t, over, "")
		c.send(&codec.Message{Type: codec.Notify, Route: []byte("a.b"), Body: []byte("silent")})
		c.send(&codec.Message{Type: codec.Notify, Data: codec.JSON, ID: 9, Route: []byte("a.c"), Body: []byte("acked")})
		for _, want := range []string{"silent", "acked"} {
			if a := s.next(); a.Type != uint8(codec.Notify) || string(a.Data) != want {
				t.Errorf("got %+v, want %s", a, want)
			}
		}
		if m := c.message(); m.Type != codec.Ack || m.ID != 9 || string(m.Route) != "a.c" || len(m.Body) != 0 {
			t.Errorf("got %+v, want the ack of 9", m)
		}
		// An Ack of a push goes to the service.
		c.send(&codec.Message{Type: codec.Ack, ID: 77, Route: []byte("a.push")})
		if a := s.next(); a.Type != uint8(codec.Ack) || a.ID != 77 || a.route != "a.push" {
			t.Errorf("got %+v, want the ack of 77", a)
		}
		// A Notify that nobody serves is an error where it asked for an Ack.
		c.send(&codec.Message{Type: codec.Notify, Route: []byte("nobody.here")})
		if m := c.call(&codec.Message{Type: codec.Notify, ID: 3, Route: []byte("nobody.here")}); failed(t, m) != codes.NotFound || m.ID != 3 {
			t.Errorf("got %+v", m)
		}
	})
}

func TestNotFound(t *testing.T) {
	r := start(t)
	s := serve(t, r.bus, "echo", echo)
	s.announced(r, "echo.echo")
	both(t, func(t *testing.T, over transport) {
		c := r.login(t, over, "")
		begun := time.Now()
		for _, data := range []codec.DataType{codec.Text, codec.JSON, codec.Protobuf} {
			for _, m := range []*codec.Message{
				{Data: data, ID: 1, Route: []byte("nobody.here")},
				{Data: data, ID: 2, Route: []byte("no-route")},
				{Data: data, ID: 3, Route: []byte("$announce")},
				{Data: data, ID: 4, Route: []byte("echo.#")},
				{Data: data, ID: 5, Route: []byte{}},
				{Data: data, ID: 6, Compressed: true, Code: 0},
				{Data: data, ID: 7, Compressed: true, Code: 2},
				{Data: data, ID: 8, Compressed: true, Code: 65535},
			} {
				got := c.call(m)
				if failed(t, got) != codes.NotFound || got.ID != m.ID || got.Data != data ||
					got.Compressed != m.Compressed || got.Code != m.Code || !bytes.Equal(got.Route, m.Route) {
					t.Errorf("%+v: got %+v", m, got)
				}
			}
		}
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("it took %v: nobody was to wait", took)
		}
	})
}

// TestLateCode: a code that the gate learns after the handshake is no code of this
// connection, and one of the next.
func TestLateCode(t *testing.T) {
	r := start(t)
	s := serve(t, r.bus, "echo", echo)
	both(t, func(t *testing.T, over transport) {
		route := fmt.Sprintf("echo.over-%v", over)
		old := r.login(t, over, "")
		s.announced(r, route)
		code, _ := r.gate.dictionary.CodeOf(route)
		m := &codec.Message{ID: 1, Compressed: true, Code: code, Body: []byte("x")}
		if got := old.call(m); failed(t, got) != codes.NotFound {
			t.Errorf("the old connection: got %+v", got)
		}
		c := r.connect(t, over)
		if a := c.handshake(hi("")); a.Sys.Dict[route] != code {
			t.Fatalf("got %+v", a)
		}
		if got := c.call(m); string(got.Body) != "x" {
			t.Errorf("the new connection: got %+v", got)
		}
		if got := old.call(request(2, route, "y")); string(got.Body) != "y" {
			t.Errorf("by name: got %+v", got)
		}
	})
}

func TestDeadline(t *testing.T) {
	r := start(t, func(c *Config) { c.RequestTimeout = 50 * time.Millisecond })
	s := serve(t, r.bus, "a", nil)
	both(t, func(t *testing.T, over transport) {
		c := r.login(t, over, "")
		late := r.gate.stats.RepliesLate.Load()
		if m := c.call(request(1, "a.b", "")); failed(t, m) != codes.DeadlineExceeded || m.ID != 1 {
			t.Errorf("got %+v", m)
		}
		a := s.next()
		reply := &bus.Reply{Session: a.Session, Sequence: a.Sequence, Data: []byte("late")}
		s.reply(a.gate, reply)
		eventually(t, "the late reply is counted", func() bool { return r.gate.stats.RepliesLate.Load() == late+1 })

		// A reply that comes twice is written once.
		c.send(request(2, "a.b", ""))
		a = s.next()
		reply = &bus.Reply{Session: a.Session, Sequence: a.Sequence, Data: []byte("twice")}
		s.reply(a.gate, reply, reply)
		if m := c.message(); string(m.Body) != "twice" {
			t.Errorf("got %+v", m)
		}
		eventually(t, "the second reply is counted", func() bool { return r.gate.stats.RepliesLate.Load() == late+2 })
		c.packet(codec.Heartbeat, 0, nil)
		if p := c.next(); p.Type != codec.Heartbeat {
			t.Errorf("got a %v %q", p.Type, p.Body)
		}
	})
	if n := r.gate.stats.Deadlines.Load(); n != 2 {
		t.Errorf("%d deadlines, want 2", n)
	}
}

// TestFragments: messages of up to the limit both ways, in fragments where the
// client said that it takes them.
func TestFragments(t *testing.T) {
	const limit = 1 << 20
	r := start(t)
	serve(t, r.bus, "echo", echo)
	both(t, func(t *testing.T, over transport) {
		c := r.login(t, over, "")
		empty := request(1, "echo.echo", "")
		for _, size := range []int{codec.MaxBody, codec.MaxBody + 1, 3 * codec.MaxBody, limit} {
			body := strings.Repeat("0123456789abcdef", limit/16)[:size-empty.Size()]
			if m := c.call(request(1, "echo.echo", body)); string(m.Body) != body {
				t.Errorf("size %d: got %d bytes of %+v", size, len(m.Body), m.Type)
			}
		}
		c.send(request(1, "echo.echo", strings.Repeat("x", limit-empty.Size()+1)))
		if kick := c.ends(); kick != kickProtocol {
			t.Errorf("over the limit: kick %q", kick)
		}
	})
}

func TestTooLargeForClient(t *testing.T) {
	r := start(t)
	serve(t, r.bus, "big", func(s *stub, a asked) {
		size := map[string]int{"big.packet": codec.MaxBody, "big.limit": 1 << 20, "big.most": codec.MaxMessage}[a.route]
		s.reply(a.gate, &bus.Reply{Session: a.Session, Sequence: a.Sequence, Data: make([]byte, size)})
	})
	want := uint64(0)
	both(t, func(t *testing.T, over transport) {
		c := r.connect(t, over)
		c.handshake(`{"sys":{"version":"1.0"}}`)
		if m := c.call(request(1, "big.packet", "")); failed(t, m) != codes.ResourceExhausted {
			t.Errorf("without fragments: got %v of %d bytes", m.Type, len(m.Body))
		}
		c = r.login(t, over, "")
		for _, route := range []string{"big.limit", "big.most"} {
			if m := c.call(request(1, route, "")); failed(t, m) != codes.ResourceExhausted {
				t.Errorf("%s: got %v of %d bytes", route, m.Type, len(m.Body))
			}
		}
		if m := c.call(request(1, "big.packet", "")); len(m.Body) != codec.MaxBody {
			t.Errorf("in fragments: got %d bytes", len(m.Body))
		}
		want += 3
		if got := r.gate.measures.reached[limitAnswer].Load(); got != want {
			t.Errorf("%d are counted, want %d", got, want)
		}
	})
}

// TestBadReplies: what a service can not say to a client becomes INTERNAL.
func TestBadReplies(t *testing.T) {
	r := start(t)
	serve(t, r.bus, "bad", func(s *stub, a asked) {
		reply := &bus.Reply{Session: a.Session, Sequence: a.Sequence}
		switch a.route {
		case "bad.name":
			reply.Name = make([]byte, 256)
		case "bad.text":
			reply.Name = []byte("\xff")
		case "bad.type":
			reply.DataType = 3
		}
		s.reply(a.gate, reply)
	})
	c := r.login(t, overTCP, "")
	for _, route := range []string{"bad.name", "bad.text", "bad.type"} {
		if m := c.call(request(1, route, "")); failed(t, m) != codes.Internal {
			t.Errorf("%s: got %+v", route, m)
		}
	}
	s := serve(t, r.bus, "x", nil)
	s.publish(s.topology.GateKey(r.gate.ID()), []byte{1<<3 | 2, 200, 1})
	eventually(t, "the malformed envelope is counted", func() bool { return r.gate.stats.EnvelopesMalformed.Load() == 1 })
	if m := c.call(request(1, "bad.none", "")); failed(t, m) != codes.OK {
		t.Errorf("got %+v", m)
	}
}

// TestOrder: one session's requests over two routes of a service, and those of many
// sessions, come to the service in the order sent.
func TestOrder(t *testing.T) {
	r := start(t, func(c *Config) { c.Limits.InFlight = 100_000 })
	s := serve(t, r.bus, "a", nil)
	const sessions, each = 20, 500
	var clients []*wire
	for i := range sessions {
		clients = append(clients, r.login(t, transport(i%2), ""))
	}
	for n := 0; n < each; n += 50 {
		for i, c := range clients {
			var ms []*codec.Message
			for k := range 50 {
				route := []string{"a.one", "a.two", "a.three"}[(n+k+i)%3]
				ms = append(ms, request(uint64(n+k), route, fmt.Sprintf("%d %d", i, n+k)))
			}
			c.send(ms...)
		}
	}
	next := make([]int, sessions)
	for range sessions * each {
		a := s.next()
		var i, n int
		if _, err := fmt.Sscanf(string(a.Data), "%d %d", &i, &n); err != nil {
			t.Fatal(err)
		}
		if n != next[i] {
			t.Fatalf("session %d: request %d comes when %d is due", i, n, next[i])
		}
		next[i]++
	}
}
