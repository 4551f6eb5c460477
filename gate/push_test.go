package gate

import (
	"fmt"
	"testing"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/proto/gatepb"
)

// quietUntilBeat fails the test if anything but the answer to a heartbeat comes.
func quietUntilBeat(t testing.TB, c *wire) {
	t.Helper()
	c.packet(codec.Heartbeat, 0, nil)
	if p := c.next(); p.Type != codec.Heartbeat {
		t.Errorf("got a %v %q that is for others", p.Type, p.Body)
	}
}

func TestPushTargets(t *testing.T) {
	r := start(t, withUsers(t))
	s := serve(t, r.bus, "a", nil)
	calls := r.calls()
	one, two := r.login(t, overTCP, "user 1"), r.login(t, overWebSocket, "user 1")
	other := r.login(t, overTCP, "user 2")
	nobody := r.login(t, overWebSocket, "")
	all := []*wire{one, two, other, nobody}
	ids := make(map[*wire]uint64)
	for _, c := range all {
		ids[c] = whoAmI(t, c, s).Session
	}
	join := func(c *wire, group string) {
		t.Helper()
		if _, err := calls.Join(t.Context(), &gatepb.JoinRequest{Session: ids[c], Group: group}); err != nil {
			t.Fatal(err)
		}
	}
	join(two, "g")
	join(nobody, "g")
	join(nobody, "g") // twice is once
	join(nobody, "other")
	for _, x := range []struct {
		name   string
		target bus.Reply
		want   []*wire
	}{
		{"session", bus.Reply{Session: ids[two]}, []*wire{two}},
		{"user", bus.Reply{User: 1}, []*wire{one, two}},
		{"group", bus.Reply{Group: "g"}, []*wire{two, nobody}},
		{"everyone", bus.Reply{Everyone: true}, all},
		{"nobody's group", bus.Reply{Group: "x"}, nil},
		{"nobody's user", bus.Reply{User: 77}, nil},
	} {
		t.Run(x.name, func(t *testing.T) {
			push := x.target
			push.Route, push.ID, push.DataType = "a.push", 17, uint8(codec.Protobuf)
			push.Name, push.Data = []byte("a.Push"), []byte(x.name)
			pushes := r.gate.stats.Pushes.Load()
			marker := &bus.Reply{Everyone: true, Route: "a.marker"}
			s.reply(r.gate.ID(), &push, marker)
			for _, c := range x.want {
				m := c.message()
				if m.Type != codec.Push || m.ID != 17 || string(m.Route) != "a.push" || m.Compressed ||
					string(m.Name) != "a.Push" || string(m.Body) != x.name || m.Data != codec.Protobuf {
					t.Errorf("got %+v", m)
				}
			}
			for _, c := range all {
				if m := c.message(); string(m.Route) != "a.marker" {
					t.Errorf("got %+v, which is for others", m)
				}
			}
			if n := r.gate.stats.Pushes.Load() - pushes; n != int64(len(x.want)+len(all)) {
				t.Errorf("%d pushes are counted, want %d", n, len(x.want)+len(all))
			}
		})
	}
	if _, err := calls.Leave(t.Context(), &gatepb.LeaveRequest{Session: ids[nobody], Group: "g"}); err != nil {
		t.Fatal(err)
	}
	s.toAll(&bus.Reply{Group: "g", Route: "a.push"})
	if m := two.message(); string(m.Route) != "a.push" {
		t.Errorf("got %+v", m)
	}
	quietUntilBeat(t, nobody)
}

// TestPushForm: JSON for who speaks JSON or text, protobuf for all others, and the
// route's code for who has it. An Ack does not change what a client speaks.
func TestPushForm(t *testing.T) {
	r := start(t)
	s := serve(t, r.bus, "a", echo)
	old := r.login(t, overTCP, "")
	s.announced(r, "a.push")
	both(t, func(t *testing.T, over transport) {
		for _, spoken := range []codec.DataType{codec.Text, codec.JSON, codec.Protobuf} {
			c := r.login(t, over, "")
			c.call(&codec.Message{Data: spoken, ID: 1, Route: []byte("a.b")})
			c.send(&codec.Message{Type: codec.Ack, Data: codec.Text, ID: 1, Route: []byte("a.b")})
			s.toAll(&bus.Reply{Everyone: true, Route: "a.push", DataType: uint8(codec.Protobuf), Data: []byte("protobuf"), JSON: []byte("json")})
			m := c.message()
			want := "json"
			if spoken == codec.Protobuf {
				want = "protobuf"
			}
			if string(m.Body) != want || m.Data.String() != want || !m.Compressed || m.Code != 1 {
				t.Errorf("who speaks %v gets %+v", spoken, m)
			}
			if m := old.message(); m.Compressed || string(m.Route) != "a.push" || string(m.Body) != "protobuf" {
				t.Errorf("who does not have the code gets %+v", m)
			}
			c.close()
		}
		// Without JSON, all get what there is.
		c := r.login(t, over, "")
		c.call(&codec.Message{Data: codec.JSON, ID: 1, Route: []byte("a.b")})
		s.toAll(&bus.Reply{Everyone: true, Route: "a.push", DataType: uint8(codec.Text), Data: []byte("text")})
		if m := c.message(); m.Data != codec.Text || string(m.Body) != "text" {
			t.Errorf("got %+v", m)
		}
		old.message()
		c.close()
	})
}

// TestPushSizes: a push that needs fragments goes to who takes them, and is dropped
// and counted for others; so is one that can not be written.
func TestPushSizes(t *testing.T) {
	r := start(t)
	s := serve(t, r.bus, "a", echo)
	takes := r.login(t, overTCP, "")
	plain := r.connect(t, overWebSocket)
	plain.handshake(`{"sys":{"version":"1.0"}}`)
	body := make([]byte, 200_000)
	for i := range body {
		body[i] = byte(i)
	}
	s.toAll(&bus.Reply{Everyone: true, Route: "a.push", Data: body},
		&bus.Reply{Everyone: true, Route: "a.push", DataType: 3},
		&bus.Reply{Everyone: true, Route: "a.push", Name: make([]byte, 256)},
		&bus.Reply{Everyone: true, Route: "a.small"})
	if m := takes.message(); string(m.Body) != string(body) {
		t.Errorf("got %d bytes", len(m.Body))
	}
	for _, c := range []*wire{takes, plain} {
		if m := c.message(); string(m.Route) != "a.small" {
			t.Errorf("got %+v", m)
		}
	}
	if n := r.gate.stats.PushesDropped.Load(); n != 5 {
		t.Errorf("%d are counted as dropped, want 5", n)
	}
}

// TestPushOrder: pushes to one session keep their order, small and large.
func TestPushOrder(t *testing.T) {
	r := start(t, func(c *Config) { c.Limits.WriteQueue = 64 << 20 })
	s := serve(t, r.bus, "a", echo)
	both(t, func(t *testing.T, over transport) {
		c := r.login(t, over, "")
		const n = 300
		for i := range n {
			s.toAll(&bus.Reply{Everyone: true, Route: "a.push", Data: fmt.Appendf(nil, "%d %s", i, make([]byte, i%7*20_000))})
		}
		for i := range n {
			var got int
			if _, err := fmt.Sscanf(string(c.message().Body), "%d", &got); err != nil || got != i {
				t.Fatalf("got push %d, want %d; %v", got, i, err)
			}
		}
		c.close()
		eventually(t, "it is gone", func() bool { return r.gate.stats.Connections.Load() == 0 })
	})
}
