package gate

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/bus/mem"
	"github.com/motto123/minigate/pkg/failure"
	"github.com/motto123/minigate/pkg/worker"
	"github.com/motto123/minigate/proto/gatepb"
)

// TestTwoGates: replies go to the gate that asked, and a push to a group or to
// everyone is one message of the broker to each gate.
func TestTwoGates(t *testing.T) {
	b := mem.New(mem.Config{})
	t.Cleanup(func() { _ = b.Close() })
	gates := []*rig{startOn(t, b), startOn(t, b)}
	s := serve(t, b, "a", nil)
	var clients []*wire
	for i, r := range gates {
		c := r.login(t, transport(i), "")
		clients = append(clients, c)
		a := whoAmI(t, c, s)
		if a.gate != r.gate.ID() {
			t.Errorf("gate %d: the request names %q", i, a.gate)
		}
		if _, err := r.calls().Join(t.Context(), &gatepb.JoinRequest{Session: a.Session, Group: "g"}); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range clients {
		c.send(request(uint64(i), "a.b", "x"))
	}
	for range clients {
		echo(s, s.next())
	}
	for i, c := range clients {
		if m := c.message(); m.ID != uint64(i) || string(m.Body) != "x" {
			t.Errorf("gate %d: got %+v", i, m)
		}
	}
	envelopes := []int64{gates[0].gate.stats.Envelopes.Load(), gates[1].gate.stats.Envelopes.Load()}
	s.toAll(&bus.Reply{Group: "g", Route: "a.push"})
	for i, c := range clients {
		if m := c.message(); string(m.Route) != "a.push" {
			t.Errorf("gate %d: got %+v", i, m)
		}
		if n := gates[i].gate.stats.Envelopes.Load() - envelopes[i]; n != 1 {
			t.Errorf("gate %d: %d messages of the broker", i, n)
		}
	}
}

// TestServiceAfterGate: a real worker that starts beside a running gate is in the
// dictionary of the next connection, and callable from those that are there.
func TestServiceAfterGate(t *testing.T) {
	r := start(t)
	before := r.login(t, overTCP, "")
	if m := before.call(request(1, "late.echo", "x")); failed(t, m) != codes.NotFound {
		t.Errorf("got %+v", m)
	}
	runEcho(t, r.bus, "late")
	eventually(t, "the service can be called", func() bool {
		return string(before.call(request(1, "late.echo", "x")).Body) == "x"
	})
	eventually(t, "the gate knows its route", func() bool { return r.gate.dictionary.Len() == 1 })
	if a := r.connect(t, overWebSocket).handshake(hi("")); a.Sys.Dict["late.echo"] != 1 {
		t.Errorf("got %+v", a)
	}
	second := startOn(t, r.bus) // which asks
	eventually(t, "a later gate knows its route", func() bool { return second.gate.dictionary.Len() == 1 })
}

func runEcho(t testing.TB, b bus.Bus, service string) {
	w := worker.New(service, worker.Config{Bus: b, Log: quiet()})
	worker.HandleRaw(w, service+".echo", func(_ context.Context, in worker.Raw) (worker.Raw, error) { return in, nil }, worker.Public())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestOnlyRequestsHaveADeadline: a notify that was acknowledged as safe, and an ack,
// may wait for their service as long as it takes.
func TestOnlyRequestsHaveADeadline(t *testing.T) {
	r := start(t)
	s := serve(t, r.bus, "a", nil)
	c := r.login(t, overTCP, "")
	for kind, want := range map[codec.MessageType]bool{codec.Request: true, codec.Notify: false, codec.Ack: false} {
		m := request(1, "a.b", "")
		m.Type = kind
		c.send(m)
		if a := s.next(); a.Type != uint8(kind) || (a.Deadline != 0) != want {
			t.Errorf("%v: got type %d with deadline %d", kind, a.Type, a.Deadline)
		}
	}
}

// TestRepliesCanNotCome: while the gate's queue is gone, a request is refused rather
// than published for an answer that would be lost; with the queue everything is
// back, and who is here is in presence again.
func TestRepliesCanNotCome(t *testing.T) {
	r := start(t, withUsers(t))
	serve(t, r.bus, "a", echo)
	c := r.login(t, overTCP, "user 5")
	c.call(request(1, "a.b", ""))
	r.gate.canReply.Store(false) // as Consumer.Lost does
	if m := c.call(request(2, "a.b", "")); failed(t, m) != codes.Unavailable {
		t.Errorf("got %+v", m)
	}
	if err := r.gate.cfg.Presence.Remove(t.Context(), 5, r.gate.id); err != nil {
		t.Fatal(err)
	}
	r.gate.canReply.Store(true)
	r.gate.users.announceAll()
	if m := c.call(request(3, "a.b", "")); m.Type != codec.Response || string(m.Name) == failure.Name {
		t.Errorf("got %+v", m)
	}
	eventually(t, "user 5 is in presence again", func() bool { return here(t, r.gate.cfg.Presence, 5, r) })
}

// TestRunFails: Run says what it can not have, and ends all that it had started.
func TestRunFails(t *testing.T) {
	running := start(t)
	closed := mem.New(mem.Config{})
	_ = closed.Close()
	for name, change := range map[string]func(*Config){
		"tcp":       func(c *Config) { c.TCP = running.gate.TCPAddress() },
		"websocket": func(c *Config) { c.WebSocket = running.gate.TCPAddress() },
		"gRPC":      func(c *Config) { c.GRPC = running.gate.TCPAddress() },
		"publisher": func(c *Config) { c.Bus = closed },
		"consumer":  func(c *Config) { c.Bus = noQueue{running.bus} },
	} {
		cfg := Config{TCP: "127.0.0.1:0", WebSocket: "127.0.0.1:0", GRPC: "127.0.0.1:0", Bus: running.bus, Log: quiet()}
		change(&cfg)
		g, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Run(t.Context()); err == nil {
			t.Errorf("%s: Run returns nil", name)
		}
	}
}

// noQueue is a bus whose queues can not be had.
type noQueue struct{ bus.Bus }

func (noQueue) Consume(context.Context, bus.Consumer) error { return errors.New("no queue") }

// TestCalledAfterEnd: a call that comes when the loops have ended is answered.
func TestCalledAfterEnd(t *testing.T) {
	r := start(t)
	r.login(t, overTCP, "")
	l := r.gate.loops[0]
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	var ran atomic.Bool
	if _, err := onLoop(t.Context(), l, func() (int, error) { ran.Store(true); return 0, nil }); err == nil || ran.Load() {
		t.Errorf("got %v", err)
	}
}

// TestReplyIsNoAck: what a service replies to a notify is not taken for the broker's
// confirm.
func TestReplyIsNoAck(t *testing.T) {
	_, l := newFake(t, nil, inline)
	s, c := l.fakeSession()
	s.received(packet(codec.Handshake, 0, []byte(hi(""))))
	s.received(dataPackets(&codec.Message{Type: codec.Notify, ID: 5, Route: []byte("a.b")}))
	l.flush()
	c.out = nil
	l.reply(&bus.Reply{Session: s.id, Sequence: s.sequence, Data: []byte("x")})
	l.flush()
	if len(c.out) != 0 || len(s.pending) != 1 {
		t.Errorf("the reply is written: %q", c.out)
	}
	l.gate.settled([]ref{{session: s.id, sequence: s.sequence, notify: true}}, nil)
	if len(c.out) == 0 || len(s.pending) != 0 {
		t.Error("no Ack after the confirm")
	}
}
