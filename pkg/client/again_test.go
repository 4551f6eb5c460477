package client_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/client"
	"github.com/motto123/minigate/proto/authpb"
)

// TestTokenOfALogin: the next connection is logged in by what the last one learnt.
func TestTokenOfALogin(t *testing.T) {
	s := newStates()
	g := newGate(t, false, func(c *conn, m *codec.Message) {
		switch string(m.Name) {
		case "auth.LoginRequest":
			c.reply(m, "auth.LoginResponse", codec.JSON, []byte(`{"token":"of protobuf","expiresAt":"1"}`))
		case "wrong":
			c.reply(m, "common.Error", codec.Text, []byte("UNAUTHENTICATED: no"))
		default:
			c.reply(m, "auth.LoginResponse", codec.JSON, []byte(`{"token":"of JSON"}`))
		}
	})
	c := dial(t, g, client.Options{Token: "first", Reconnect: s.quick()})
	step := func(what, want string, do func() error) {
		t.Helper()
		s.wait(t, client.Connected)
		if err := do(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		_ = g.connected().Close()
		s.wait(t, client.Reconnecting)
		s.wait(t, client.Connected)
		if got := g.token(); got != want {
			t.Errorf("after %s the token is %q, want %q", what, got, want)
		}
		_ = g.connected().Close()
	}
	raw := func(route, name string) func() error {
		return func() error {
			_, err := c.CallRaw(t.Context(), route, codec.JSON, name, []byte(`{}`))
			return err
		}
	}
	step("nothing", "first", func() error { return nil })
	step("a login in protobuf", "of protobuf", func() error {
		out := &authpb.LoginResponse{}
		if err := c.Call(t.Context(), "auth.login", &authpb.LoginRequest{}, out); err != nil || out.GetToken() != "of protobuf" {
			return fmt.Errorf("answered %v, %w", out, err)
		}
		return nil
	})
	step("a login in JSON", "of JSON", raw("auth.login", ""))
	step("a login that failed", "of JSON", func() error {
		if err := raw("auth.login", "wrong")(); status.Code(err) != codes.Unauthenticated {
			return fmt.Errorf("got %w", err)
		}
		return nil
	})
	step("another call", "of JSON", raw("test.login", ""))
	step("a logout", "", raw("auth.logout", ""))
	step("SetToken", "set", func() error { c.SetToken("set"); return nil })
}

// TestCloseDuringBackoff: nobody waits for an attempt that is an hour away.
func TestCloseDuringBackoff(t *testing.T) {
	s := newStates()
	g := newGate(t, false, nil)
	c := dial(t, g, client.Options{Reconnect: s.quick()})
	g.connected().send(codec.Kick, 0, []byte(`{"code":"draining","retry_after_ms":360000000}`))
	if lost := s.wait(t, client.Reconnecting); lost.Wait != time.Hour {
		t.Errorf("stays away for %v", lost.Wait)
	}
	closed := make(chan struct{})
	go func() {
		_ = c.Close()
		close(closed)
	}()
	wait(t, "Close", closed)
	if end := s.wait(t, client.Ended); end.Err != client.ErrClosed {
		t.Errorf("ended as %+v", end)
	}
}

// dialled is a Dialer that tells of each connection.
type dialled chan struct{}

func (d dialled) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	d <- struct{}{}
	return conn, err
}

// TestCloseDuringAnAttempt: nor for a gate that does not answer a handshake.
func TestCloseDuringAnAttempt(t *testing.T) {
	both(t, func(t *testing.T, web bool) {
		s := newStates()
		g := newGate(t, web, nil)
		r := s.quick()
		silent := "tcp://" + newSilent(t)
		r.Addresses = []string{silent}
		d := make(dialled, 2)
		c := dial(t, g, client.Options{Reconnect: r, Timeout: time.Hour, Dialer: d})
		wait(t, "the first connection", d)
		_ = g.connected().Close()
		if lost := s.wait(t, client.Reconnecting); lost.Address != silent {
			t.Errorf("tries %s", lost.Address)
		}
		wait(t, "the attempt", d)
		closed := make(chan struct{})
		go func() {
			_ = c.Close()
			close(closed)
		}()
		wait(t, "Close", closed)
	})
}

// TestAddressesInTurn: Dial passes over who is not there, and so do the attempts.
func TestAddressesInTurn(t *testing.T) {
	s := newStates()
	a, b, gone := newGate(t, false, nil), newGate(t, true, nil), newGate(t, false, nil)
	gone.close()
	r := s.quick()
	r.Addresses = []string{a.address(), b.address()}
	dial(t, gone, client.Options{Reconnect: r})
	if first := s.wait(t, client.Connected); first.Address != a.address() {
		t.Errorf("began at %s", first.Address)
	}
	for i, g := range []*gate{a, b, a, b} {
		_ = g.connected().Close()
		next := []*gate{b, a}[i%2]
		if back := s.wait(t, client.Connected); back.Address != next.address() {
			t.Errorf("%d: back at %s, want %s", i, back.Address, next.address())
		}
	}
}

func TestDialOfMoreAddresses(t *testing.T) {
	no, yes, gone := newGate(t, false, nil), newGate(t, false, nil), newGate(t, false, nil)
	gone.close()
	no.answers(`{"code":401}`)
	r := &client.Reconnect{Addresses: []string{no.address(), yes.address()}}
	if _, err := client.Dial(t.Context(), gone.address(), client.Options{Reconnect: r}); !refused(401, 0)(err) {
		t.Errorf("after a refusal: %v", err)
	}
	if n := yes.connections(); n != 0 {
		t.Errorf("%d connections were made after a refusal", n)
	}
	r.Addresses = []string{"localhost"}
	if _, err := client.Dial(t.Context(), yes.address(), client.Options{Reconnect: r}); err == nil {
		t.Error("a bad address was taken")
	}
}

func TestAttempts(t *testing.T) {
	s := newStates()
	g := newGate(t, false, nil)
	r := s.quick()
	r.Attempts = 3
	c := dial(t, g, client.Options{Reconnect: r})
	_ = g.connected().Close()
	s.wait(t, client.Reconnecting)
	s.wait(t, client.Connected) // a success counts as none
	g.close()
	for range 3 {
		s.wait(t, client.Reconnecting)
	}
	var refused *net.OpError
	if end := <-s; end.Phase != client.Ended || !errors.As(end.Err, &refused) {
		t.Errorf("after three attempts: %+v", end)
	}
	wait(t, "the end", c.Done())
}

// TestSlowOnState: it may call, keeps nobody waiting, and is told how it ended.
func TestSlowOnState(t *testing.T) {
	g := newGate(t, false, nil)
	told, held := make(chan client.State, 16), make(chan struct{})
	r := &client.Reconnect{First: time.Millisecond, Longest: time.Millisecond}
	r.OnState = func(c *client.Client, s client.State) {
		switch s.Phase {
		case client.Connected:
			_, s.Err = c.CallRaw(context.Background(), "test.echo", codec.Text, "", []byte("x"))
		case client.Reconnecting:
			<-held
		}
		told <- s
	}
	c := dial(t, g, client.Options{Reconnect: r})
	if s := <-told; s.Phase != client.Connected || s.Err != nil {
		t.Errorf("began with %+v", s)
	}
	for range 3 { // connections, while OnState is at the loss of the first
		_ = g.connected().Close()
	}
	g.connected()
	close(held)
	if s := <-told; s.Phase != client.Reconnecting {
		t.Errorf("then %+v", s)
	}
	s := <-told
	if s.Phase == client.Reconnecting { // the last time: the client is about to have connected
		s = <-told
	}
	if s.Phase != client.Connected || s.Err != nil {
		t.Errorf("not the newest, but %+v", s)
	}
	_ = c.Close()
	if s := <-told; s.Phase != client.Ended || s.Err != client.ErrClosed || len(told) > 0 {
		t.Errorf("in the end %+v, and %d more", s, len(told))
	}
}

// TestPushOfALostConnection: it is handled, and not acknowledged to another gate.
func TestPushOfALostConnection(t *testing.T) {
	s := newStates()
	acks := make(chan uint64, 4)
	g := newGate(t, false, func(c *conn, m *codec.Message) {
		if m.Type == codec.Ack {
			acks <- m.ID
			return
		}
		c.reply(m, "", m.Data, m.Body)
	})
	handled, goOn := make(chan uint64), make(chan struct{})
	dial(t, g, client.Options{Reconnect: s.quick(), OnPush: func(p client.Push) error {
		handled <- p.ID
		<-goOn
		return nil
	}})
	server := g.connected()
	for id := range uint64(2) {
		server.message(&codec.Message{Type: codec.Push, ID: id + 1, Route: []byte("test.push")})
	}
	<-handled
	s.wait(t, client.Connected)
	server.send(codec.Kick, 0, []byte(`{"code":"draining"}`))
	s.wait(t, client.Connected)
	goOn <- struct{}{}
	if id := <-handled; id != 2 {
		t.Errorf("push %d is handled", id)
	}
	goOn <- struct{}{}
	g.connected().message(&codec.Message{Type: codec.Push, ID: 3, Route: []byte("test.push")})
	<-handled
	goOn <- struct{}{}
	if id := <-acks; id != 3 {
		t.Errorf("push %d is acknowledged to the next connection", id)
	}
}

// TestCutUnderLoad: each call is answered or lost, and none is done twice.
func TestCutUnderLoad(t *testing.T) {
	both(t, func(t *testing.T, web bool) {
		s := newStates()
		var seen sync.Map
		var left atomic.Int32
		left.Store(40)
		g := newGate(t, web, func(c *conn, m *codec.Message) {
			if _, twice := seen.LoadOrStore(string(m.Body), true); twice {
				t.Errorf("call %s came twice", m.Body)
			}
			c.reply(m, "", m.Data, m.Body)
			if rand.N(100) == 0 && left.Add(-1) >= 0 {
				_ = c.Close()
			}
		})
		r := s.quick()
		r.OnState = nil
		c := dial(t, g, client.Options{Reconnect: r})
		var group sync.WaitGroup
		var answered, lost atomic.Int32
		for i := range 16 {
			group.Go(func() {
				for j := range 200 {
					body := fmt.Append(nil, i, j)
					got, err := c.CallRaw(t.Context(), "test.echo", codec.Text, "", body)
					switch {
					case errors.Is(err, client.ErrLost):
						lost.Add(1)
					case err != nil || string(got.Body) != string(body):
						t.Errorf("call %s: %q, %v", body, got.Body, err)
						return
					default:
						answered.Add(1)
					}
				}
			})
		}
		group.Wait()
		if n := g.connections(); n < 5 || answered.Load() < 1000 {
			t.Errorf("%d connections, %d calls answered and %d lost: that shows nothing", n, answered.Load(), lost.Load())
		}
	})
}
