package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/client"
	"github.com/motto123/minigate/proto/chatpb"
)

// states are what a client tells of itself.
type states chan client.State

// quick reconnects soon, and tells states.
func (s states) quick() *client.Reconnect {
	return &client.Reconnect{First: time.Millisecond, Longest: 20 * time.Millisecond, OnState: s.on}
}

func (s states) on(_ *client.Client, state client.State) { s <- state }

// wait waits for the next state of a phase.
func (s states) wait(t testing.TB, phase client.Phase) client.State {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case state := <-s:
			if state.Phase == phase {
				return state
			}
			if state.Phase == client.Ended {
				t.Fatalf("ended with %v, want %v", state.Err, phase)
			}
		case <-deadline:
			t.Fatalf("waited 10 s for %v", phase)
		}
	}
}

func newStates() states { return make(states, 1000) }

func TestReconnects(t *testing.T) {
	both(t, func(t *testing.T, web bool) {
		s, pushed := newStates(), make(chan string, 8)
		acked := make(chan uint64, 8)
		g := newGate(t, web, func(c *conn, m *codec.Message) {
			if m.Type == codec.Ack {
				acked <- m.ID
				return
			}
			c.reply(m, "", m.Data, m.Body)
		})
		c := dial(t, g, client.Options{Token: "mine", Reconnect: s.quick(), OnPush: func(p client.Push) error {
			pushed <- string(p.Body)
			return nil
		}})
		if first := s.wait(t, client.Connected); first.Address != g.address() || first.Err != nil {
			t.Errorf("began as %+v", first)
		}
		for i := range 3 {
			server := g.connected()
			server.message(&codec.Message{Type: codec.Push, ID: uint64(i + 1), Route: []byte("test.push"), Body: fmt.Append(nil, i)})
			if got := <-pushed; got != fmt.Sprint(i) {
				t.Errorf("push %q, want %d", got, i)
			}
			if id := <-acked; id != uint64(i+1) {
				t.Errorf("Ack of %d, want %d", id, i+1)
			}
			got, err := c.CallRaw(t.Context(), "test.echo", codec.Text, "", []byte("x"))
			if err != nil || string(got.Body) != "x" {
				t.Fatalf("call %d: %q, %v", i, got.Body, err)
			}
			_ = server.Close()
			if lost := s.wait(t, client.Reconnecting); lost.Err == nil || lost.Address != g.address() || lost.Wait > 20*time.Millisecond {
				t.Errorf("lost as %+v", lost)
			}
			if again := s.wait(t, client.Connected); again.Err != nil || g.token() != "mine" {
				t.Errorf("back as %+v with token %q", again, g.token())
			}
		}
		if err := c.Err(); err != nil {
			t.Error(err)
		}
		_ = c.Close()
		if end := s.wait(t, client.Ended); end.Err != client.ErrClosed {
			t.Errorf("ended as %+v", end)
		}
	})
}

// TestGateRestarted: on the same port, with a call that waited for it.
func TestGateRestarted(t *testing.T) {
	both(t, func(t *testing.T, web bool) {
		s := newStates()
		g := newGate(t, web, func(c *conn, m *codec.Message) {
			if m.Compressed || string(m.Route) != "test.coded" {
				t.Errorf("the call has the code of another connection: %+v", m)
			}
			c.reply(m, string(m.Name), m.Data, m.Body)
		})
		c := dial(t, g, client.Options{Reconnect: s.quick()})
		g.close()
		g.answers(`{"code":200}`) // without a dictionary
		for range 3 {             // attempts in vain
			s.wait(t, client.Reconnecting)
		}
		answered := make(chan error, 1)
		in, out := &chatpb.SendRequest{To: 7}, &chatpb.SendRequest{}
		go func() { answered <- c.Call(t.Context(), "test.coded", in, out) }()
		s.wait(t, client.Reconnecting)
		select {
		case err := <-answered:
			t.Fatalf("without a gate: %v", err)
		default:
		}
		g.restart()
		s.wait(t, client.Connected)
		if err := <-answered; err != nil || out.GetTo() != 7 {
			t.Errorf("got %v, %v", out, err)
		}
	})
}

// TestDictionaryOfTheNextGate: a code means something on one connection only.
func TestDictionaryOfTheNextGate(t *testing.T) {
	s := newStates()
	seen := make(chan string, 4)
	g := newGate(t, false, func(c *conn, m *codec.Message) {
		seen <- fmt.Sprintf("%t %d %s", m.Compressed, m.Code, m.Route)
		c.reply(m, "", m.Data, m.Body)
	})
	c := dial(t, g, client.Options{Reconnect: s.quick()})
	for i, want := range []string{"true 7 ", "false 0 test.coded", "true 9 "} {
		if err := c.Call(t.Context(), "test.coded", nil, nil); err != nil {
			t.Fatal(err)
		}
		if got := <-seen; got != want {
			t.Errorf("call %d came as %q, want %q", i, got, want)
		}
		g.answers([]string{`{"code":200}`, `{"code":200,"sys":{"dict":{"test.coded":9}}}`, welcome}[i])
		_ = g.connected().Close()
		s.wait(t, client.Reconnecting)
		s.wait(t, client.Connected)
	}
}

func TestComesBackAfterTheToldTime(t *testing.T) {
	both(t, func(t *testing.T, web bool) {
		s := newStates()
		g := newGate(t, web, nil)
		dial(t, g, client.Options{Reconnect: s.quick()})
		kicked := time.Now()
		g.connected().send(codec.Kick, 0, []byte(`{"code":"draining","retry_after_ms":150}`))
		lost := s.wait(t, client.Reconnecting)
		var kick *client.KickError
		if lost.Wait != 150*time.Millisecond || !errors.As(lost.Err, &kick) || kick.Code != "draining" {
			t.Errorf("lost as %+v", lost)
		}
		g.answers(`{"code":503,"retry_after_ms":100}`)
		refused := s.wait(t, client.Reconnecting)
		if early := 150*time.Millisecond - time.Since(kicked); early > 0 {
			t.Errorf("came back %v before it was told to", early)
		}
		var refusal *client.HandshakeError
		if refused.Wait < 100*time.Millisecond || !errors.As(refused.Err, &refusal) || refusal.Code != 503 {
			t.Errorf("refused as %+v", refused)
		}
		s.wait(t, client.Connected)
		if early := 250*time.Millisecond - time.Since(kicked); early > 0 {
			t.Errorf("came back %v before it was told to, the second time", early)
		}
	})
}

// TestDoesNotComeBack: who may not come back ends, with the reason.
func TestDoesNotComeBack(t *testing.T) {
	kick := func(code string) func(error) bool {
		return func(err error) bool {
			var kick *client.KickError
			return errors.As(err, &kick) && kick.Code == code
		}
	}
	for name, test := range map[string]struct {
		packet codec.PacketType // what ends the connection; 0 cuts it
		body   string
		answer string // to the next handshake
		conns  int    // that are made in all
		check  func(error) bool
	}{
		"replaced":       {codec.Kick, `{"code":"replaced"}`, "", 1, kick("replaced")},
		"kicked":         {codec.Kick, `{"code":"kicked"}`, "", 1, kick("kicked")},
		"protocol_error": {codec.Kick, `{"code":"protocol_error","retry_after_ms":5}`, "", 1, kick("protocol_error")},
		"no protocol":    {codec.HandshakeAck, ``, "", 1, isProtocol},
		"no message": {codec.Data, "\xff\x00\x00\x00", "", 1, func(err error) bool {
			return isProtocol(err) && errors.Is(err, codec.ErrFlag)
		}},
		"400":     {0, "", `{"code":400}`, 2, refused(400, 0)},
		"401":     {0, "", `{"code":401}`, 2, refused(401, 0)},
		"426":     {0, "", `{"code":426}`, 2, refused(426, 0)},
		"no JSON": {0, "", `?`, 2, isProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStates()
			g := newGate(t, false, func(*conn, *codec.Message) {})
			c := dial(t, g, client.Options{Token: "token", Reconnect: s.quick()})
			g.answers(test.answer)
			if server := g.connected(); test.packet != 0 {
				server.send(test.packet, 0, []byte(test.body))
			} else {
				_ = server.Close()
			}
			end := s.wait(t, client.Ended)
			if !test.check(end.Err) || !test.check(c.Err()) {
				t.Errorf("ended with %v, then %v", end.Err, c.Err())
			}
			wait(t, "the end", c.Done())
			err := c.Call(t.Context(), "test.late", nil, nil)
			if status.Code(err) != codes.Unavailable || !test.check(err) || errors.Is(err, client.ErrLost) {
				t.Errorf("a call at the end: %v", err)
			}
			if n := g.connections(); n != test.conns {
				t.Errorf("%d connections were made, want %d", n, test.conns)
			}
		})
	}
}

// TestOtherKicksComeBack: a client that was slow, too fast or silent may.
func TestOtherKicksComeBack(t *testing.T) {
	s := newStates()
	g := newGate(t, false, nil)
	dial(t, g, client.Options{Reconnect: s.quick()})
	for _, code := range []string{"heartbeat_timeout", "slow_consumer", "rate_limited", "draining", "shutting_down", "something_new"} {
		s.wait(t, client.Connected)
		g.connected().send(codec.Kick, 0, fmt.Appendf(nil, `{"code":%q}`, code))
	}
	s.wait(t, client.Connected)
}

// TestInFlight: a call whose answer did not come is not sent again, and says so.
// TestUntaken: what a gate that ends has not answered it has not taken, and is sent
// again to the next; what is lost with any other kick is not.
func TestUntaken(t *testing.T) {
	s := newStates()
	var asked atomic.Int32
	g := newGate(t, false, func(c *conn, m *codec.Message) {
		if asked.Add(1) == 1 {
			c.send(codec.Kick, 0, fmt.Appendf(nil, `{"code":%q,"retry_after_ms":10}`, m.Body))
			return
		}
		c.reply(m, "", m.Data, m.Body)
	})
	c := dial(t, g, client.Options{Reconnect: s.quick()})
	reply, err := c.CallRaw(t.Context(), "test.echo", codec.Text, "", []byte("draining"))
	if err != nil || string(reply.Body) != "draining" || asked.Load() != 2 {
		t.Errorf("got %q, %v, after %d requests", reply.Body, err, asked.Load())
	}
	for _, code := range []string{"shutting_down", "slow_consumer"} {
		asked.Store(0)
		if _, err := c.CallRaw(t.Context(), "test.echo", codec.Text, "", []byte(code)); !errors.Is(err, client.ErrLost) || asked.Load() != 1 {
			t.Errorf("%s: %v, after %d requests", code, err, asked.Load())
		}
	}
}

func TestInFlight(t *testing.T) {
	s := newStates()
	var mu sync.Mutex
	got := map[string]int{}
	g := newGate(t, false, func(c *conn, m *codec.Message) {
		mu.Lock()
		got[string(m.Route)]++
		mu.Unlock()
		if string(m.Route) != "test.echo" {
			_ = c.Close()
			return
		}
		c.reply(m, "", m.Data, m.Body)
	})
	c := dial(t, g, client.Options{Reconnect: s.quick()})
	err := c.Call(t.Context(), "test.held", nil, nil)
	if !errors.Is(err, client.ErrLost) || status.Code(err) != codes.Unavailable || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a Request: %v", err)
	}
	if err := c.NotifyAck(t.Context(), "test.noted", nil); !errors.Is(err, client.ErrLost) {
		t.Errorf("a Notify: %v", err)
	}
	if err := c.Call(t.Context(), "test.echo", nil, nil); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if fmt.Sprint(got) != "map[test.echo:1 test.held:1 test.noted:1]" {
		t.Errorf("the gate got %v", got)
	}
}

// TestWaitingIsBounded: by the context of each call, and in number.
func TestWaitingIsBounded(t *testing.T) {
	s := newStates()
	g := newGate(t, false, nil)
	r := s.quick()
	r.Waiting = 2
	c := dial(t, g, client.Options{Reconnect: r})
	g.close()
	s.wait(t, client.Reconnecting)

	results := make(chan error, 3)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 3 {
		go func() { results <- c.Call(ctx, "test.echo", nil, nil) }()
	}
	if err := <-results; status.Code(err) != codes.ResourceExhausted {
		t.Errorf("the third: %v", err)
	}
	select {
	case err := <-results:
		t.Errorf("another one: %v", err)
	default:
	}
	cancel()
	for range 2 {
		err := <-results
		if status.Code(err) != codes.Canceled || !errors.Is(err, context.Canceled) || errors.Is(err, client.ErrLost) {
			t.Errorf("given up: %v", err)
		}
	}
	// Their places are free again.
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.Notify(ctx, "test.echo", nil); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("in time: %v", err)
	}
	go func() { results <- c.NotifyAck(context.Background(), "test.echo", nil) }()
	s.wait(t, client.Reconnecting)
	_ = c.Close()
	if err := <-results; !errors.Is(err, client.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}
