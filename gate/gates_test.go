package gate

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/bus/mem"
	"github.com/motto123/minigate/pkg/failure"
	"github.com/motto123/minigate/pkg/parts"
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

// TestEnd: requests in flight are answered, new ones not taken, and then everybody
// reads why the gate closes and when to come back.
func TestEnd(t *testing.T) {
	r := start(t, withUsers(t))
	s := serve(t, r.bus, "a", nil)
	var clients []*wire
	for i := range 6 {
		c := r.login(t, transport(i%2), "user 5")
		c.send(request(1, "a.b", "in flight"))
		clients = append(clients, c)
	}
	var requests []asked
	for range clients {
		requests = append(requests, s.next())
	}
	opened := r.connect(t, overTCP)
	half, err := r.raw(t, overWebSocket)
	if err != nil {
		t.Fatal(err)
	}
	idle := r.login(t, overTCP, "")
	eventually(t, "all are connected", func() bool { return r.gate.stats.Connections.Load() == 9 })
	ended := make(chan error, 1)
	begun := time.Now()
	go func() { ended <- r.stop() }()
	eventually(t, "the gate drains", r.gate.Draining)
	for _, c := range []*wire{opened, idle} { // have nothing to wait for
		if kick := c.ends(); kick != kickDraining {
			t.Errorf("kick %q", kick)
		}
		c.close()
	}
	if c, err := r.raw(t, overTCP); err == nil {
		c.close()
		t.Error("a gate that ends takes a connection")
	}
	clients[0].send(request(2, "a.b", "too late"))
	for _, a := range requests {
		echo(s, a)
	}
	for i, c := range clients {
		if m := c.message(); string(m.Body) != "in flight" {
			t.Errorf("client %d: got %+v", i, m)
		}
		if kick := c.ends(); kick != kickDraining { // and no answer to what was not taken
			t.Errorf("client %d: kick %q", i, kick)
		}
		c.close()
	}
	select {
	case a := <-s.got:
		t.Errorf("a request was taken after its client was sent away: %q", a.Data)
	default:
	}
	if a := parseResponse(t, readAll(t, half)); a.StatusCode != 503 {
		t.Errorf("who had sent no request: got %+v", a)
	}
	half.close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > lingerTime {
		t.Errorf("the end took %v, with nobody to wait for", took)
	}
	if here(t, r.gate.cfg.Presence, 5, r) {
		t.Error("user 5 is in presence after the gate's end")
	}
}

// TestEndAnswersWhatIsLeft: a request that nobody answers while the gate drains is
// answered before the kick.
func TestEndAnswersWhatIsLeft(t *testing.T) {
	r := start(t, func(c *Config) { c.DrainTimeout = 50 * time.Millisecond })
	s := serve(t, r.bus, "a", nil)
	c := r.login(t, overTCP, "")
	c.send(request(1, "a.b", "never answered"))
	s.next()
	ended := make(chan error, 1)
	go func() { ended <- r.stop() }()
	if m := c.message(); m.ID != 1 || failed(t, m) != codes.Unavailable {
		t.Errorf("got %+v", m)
	}
	if kick := c.ends(); kick != kickShutdown {
		t.Errorf("kick %q", kick)
	}
	c.close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestSentAwayAtARate: clients are sent away a few at a time, and told to come back at
// different times.
func TestSentAwayAtARate(t *testing.T) {
	const n, rate = 60, 100
	r := start(t, func(c *Config) { c.DrainRate, c.RetryAfter = rate, time.Second })
	clients := make([]*wire, n)
	for i := range clients {
		clients[i] = r.login(t, transport(i%2), "")
	}
	begun := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- r.stop() }()
	times := make(map[int64]bool)
	kicked := make(chan int64, n)
	for _, c := range clients {
		go func() {
			p, err := c.read()
			var k kickBody
			if err == nil {
				err = json.Unmarshal(p.Body, &k)
			}
			if err != nil || k.Code != kickDraining || k.RetryAfterMS < 250 || k.RetryAfterMS > 1000 {
				t.Errorf("got %+v, %v", k, err)
			}
			c.close()
			kicked <- k.RetryAfterMS
		}()
	}
	for range n {
		times[<-kicked] = true
	}
	// All but those of the first two steps have waited.
	if took := time.Since(begun); took < 400*time.Millisecond {
		t.Errorf("%d clients were sent away within %v, at %d a second", n, took, rate)
	}
	if len(times) < n/4 {
		t.Errorf("%d clients come back at %d different times", n, len(times))
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
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

// TestEndWithStubbornClients: a client that does not close does not keep the gate.
func TestEndWithStubbornClients(t *testing.T) {
	r := start(t)
	c := r.login(t, overTCP, "")
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if kick := c.ends(); kick != kickDraining {
		t.Errorf("kick %q", kick)
	}
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

// TestHurriedEnd: a gate that is told to hurry does not wait for requests in flight,
// answers them, and says whom it has cut off.
func TestHurriedEnd(t *testing.T) {
	ending := parts.NewEnding()
	r := start(t, func(c *Config) { c.DrainTimeout, c.Ending = time.Hour, ending })
	s := serve(t, r.bus, "a", nil)
	c := r.login(t, overTCP, "")
	c.send(request(1, "a.b", "never answered"))
	s.next()
	ended := make(chan error, 1)
	go func() { ended <- r.stop() }()
	eventually(t, "the gate drains", r.gate.Draining)
	ending.Hurry()
	if m := c.message(); m.ID != 1 || failed(t, m) != codes.Unavailable {
		t.Errorf("got %+v", m)
	}
	if kick := c.ends(); kick != kickShutdown {
		t.Errorf("kick %q", kick)
	}
	c.close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if cut := ending.Cut(); len(cut) != 1 || !strings.Contains(cut[0], "1 client") {
		t.Errorf("cut off: %q", cut)
	}
}

// TestEndWhileVerifying: who has not heard yet whether his token is good is told to
// come back, and does not keep the gate.
func TestEndWhileVerifying(t *testing.T) {
	release := make(chan struct{})
	asked := make(chan struct{}, 2)
	r := start(t, withUsers(t), func(c *Config) {
		c.DrainTimeout = time.Minute
		c.Verify = verifier(func(context.Context, string) (int64, error) {
			asked <- struct{}{}
			<-release
			return 5, nil
		})
	})
	c := r.connect(t, overTCP)
	c.packet(codec.Handshake, 0, []byte(hi("x")))
	<-asked
	ended := make(chan error, 1)
	go func() { ended <- r.stop() }()
	eventually(t, "the gate drains", r.gate.Draining)
	close(release)
	if a := c.answer(); a.Code != 503 || a.RetryAfterMS <= 0 {
		t.Errorf("got %+v", a)
	}
	c.close()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("the gate waits for it")
	}
}

// TestEndAnswersWhatIsHeld: requests that wait for their turn when there is no more
// time are answered, too, and their client counts as cut off.
func TestEndAnswersWhatIsHeld(t *testing.T) {
	ending := parts.NewEnding()
	r := start(t, func(c *Config) { c.DrainTimeout, c.Limits.InFlight, c.Ending = 50*time.Millisecond, 1, ending })
	s := serve(t, r.bus, "a", nil)
	c := r.login(t, overTCP, "")
	inOrder(c, 3, 10)
	s.next()
	eventually(t, "two are held", func() bool { return r.gate.unfinished.Load() > 0 })
	ended := make(chan error, 1)
	go func() { ended <- r.stop() }()
	for i := range uint64(3) {
		if m := c.message(); m.ID != i || failed(t, m) != codes.Unavailable {
			t.Errorf("got %+v", m)
		}
	}
	if kick := c.ends(); kick != kickShutdown {
		t.Errorf("kick %q", kick)
	}
	c.close()
	if err := <-ended; err != nil || len(ending.Cut()) != 1 {
		t.Errorf("%v, cut off: %q", err, ending.Cut())
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
