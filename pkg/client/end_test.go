package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/client"
	"github.com/motto123/minigate/proto/chatpb"
)

// newSilent is a server that takes connections and says nothing.
func newSilent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

func TestKick(t *testing.T) {
	both(t, func(t *testing.T, web bool) {
		g := newGate(t, web, func(c *conn, _ *codec.Message) {
			c.send(codec.Kick, 0, []byte(`{"code":"draining","reason":"going","retry_after_ms":250,"resume":true}`))
		})
		c := dial(t, g, client.Options{})
		err := c.Call(t.Context(), "test.any", nil, nil)
		var kick *client.KickError
		if status.Code(err) != codes.Unavailable || !errors.As(err, &kick) {
			t.Fatalf("the waiting call: %v", err)
		}
		wait(t, "the end", c.Done())
		if want := (client.KickError{Code: "draining", Reason: "going", RetryAfter: 250 * time.Millisecond, Resume: true}); *kick != want || c.Err() != error(kick) {
			t.Errorf("got %+v, then %v", kick, c.Err())
		}
		if err := c.Call(t.Context(), "test.any", nil, nil); !errors.As(err, &kick) {
			t.Errorf("a later call: %v", err)
		}
	})
}

func TestClose(t *testing.T) {
	both(t, func(t *testing.T, web bool) {
		got := make(chan string, 8)
		g := newGate(t, web, func(_ *conn, m *codec.Message) { got <- string(m.Route) })
		c := dial(t, g, client.Options{})
		waiting := make(chan error, 1)
		go func() { waiting <- c.Call(context.Background(), "test.hold", nil, nil) }()
		if route := <-got; route != "test.hold" {
			t.Fatal(route)
		}
		if err := c.Notify(t.Context(), "test.last", nil); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-waiting; !errors.Is(err, client.ErrClosed) || status.Code(err) != codes.Unavailable {
			t.Errorf("the waiting call: %v", err)
		}
		select {
		case route := <-got:
			if route != "test.last" {
				t.Errorf("got %s", route)
			}
		case <-time.After(10 * time.Second):
			t.Error("what was queued was not written")
		}
		if err := c.Close(); err != nil || c.Err() != client.ErrClosed {
			t.Errorf("closed again: %v, %v", err, c.Err())
		}
	})
}

// TestMalformed: whatever a gate sends, the connection ends with an error that
// says what it was.
func TestMalformed(t *testing.T) {
	message := func(body ...byte) []byte {
		b, err := codec.AppendPacket(nil, codec.Data, 0, body)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, test := range map[string]struct {
		bytes []byte
		want  error
	}{
		"unknown packet":       {[]byte{9, 0, 0, 0, 0}, codec.ErrPacketType},
		"oversize packet":      {[]byte{4, 0xff, 0xff, 0xff, 0}, codec.ErrPacketLength},
		"truncated message":    {message(0x12, 1), codec.ErrTruncated},
		"reserved bits":        {message(0xff, 0, 0, 0), codec.ErrFlag},
		"a request":            {message(0x02, 1, 1, 1, 'a', 0), client.ErrProtocol},
		"a push with no code":  {message(0x1e, 0, 1, 99, 0), client.ErrProtocol},
		"second handshake ack": {[]byte{2, 0, 0, 0, 0}, client.ErrProtocol},
		"late fragment":        {[]byte{4, 0, 0, 1, 3, 'x'}, codec.ErrFragmentFirst},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, web bool) {
				g := newGate(t, web, nil)
				c := dial(t, g, client.Options{OnPush: func(client.Push) error { return nil }})
				g.connected().raw(test.bytes)
				wait(t, "the end", c.Done())
				if !errors.Is(c.Err(), test.want) {
					t.Errorf("ended with %v, want %v", c.Err(), test.want)
				}
			})
		})
	}
}

func TestLateAndUnknownAnswers(t *testing.T) {
	g := newGate(t, false, func(c *conn, m *codec.Message) {
		// An answer to nothing, and an Ack of a request, mean nothing.
		c.message(&codec.Message{Type: codec.Response, ID: 12345, Route: []byte("test.x")})
		c.message(&codec.Message{Type: codec.Ack, ID: m.ID, Route: []byte("test.x")})
		c.reply(m, "", m.Data, m.Body)
	})
	c := dial(t, g, client.Options{})
	got, err := c.CallRaw(t.Context(), "test.echo", codec.Text, "", []byte("x"))
	if err != nil || string(got.Body) != "x" {
		t.Errorf("%q, %v", got.Body, err)
	}
}

func TestHeartbeat(t *testing.T) {
	both(t, func(t *testing.T, web bool) {
		g := newGate(t, web, nil)
		g.welcome = `{"code":200,"sys":{"heartbeat":0.3}}`
		c := dial(t, g, client.Options{})
		server := g.connected()
		deadline := time.Now().Add(10 * time.Second)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for server.heard() < 4 { // more than the silence that is allowed
			if time.Now().After(deadline) || c.Err() != nil {
				t.Fatalf("%d heartbeats, %v", server.heard(), c.Err())
			}
			<-tick.C
		}
	})
}

func TestSilence(t *testing.T) {
	g := newGate(t, false, nil)
	// The first packet that comes is answered; nothing is after that.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	served := make(chan struct{})
	go func() {
		defer close(served)
		raw, err := l.Accept()
		if err != nil {
			return
		}
		defer raw.Close()
		(&conn{Conn: raw, gate: g}).send(codec.HandshakeAck, 0, []byte(`{"code":200,"sys":{"heartbeat":0.02}}`))
		buffer := make([]byte, 1024)
		for {
			if _, err := raw.Read(buffer); err != nil {
				return
			}
		}
	}()
	c, err := client.Dial(t.Context(), "tcp://"+l.Addr().String(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, "the end", c.Done())
	if c.Err() != client.ErrSilent {
		t.Errorf("ended with %v", c.Err())
	}
	_ = c.Close()
	<-served
}

// TestStuck: a gate that reads nothing keeps nobody, neither who closes nor who
// has heard nothing for too long.
func TestStuck(t *testing.T) {
	for name, heartbeat := range map[string]string{"closed": "30", "silent": "0.2"} {
		t.Run(name, func(t *testing.T) {
			hold := make(chan struct{})
			g := newGate(t, false, func(*conn, *codec.Message) { <-hold })
			g.welcome = `{"code":200,"sys":{"heartbeat":` + heartbeat + `}}`
			c := dial(t, g, client.Options{})
			defer close(hold)
			for full := false; !full; { // until the socket takes no more
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				err := c.Notify(ctx, "test.stuck", &chatpb.Message{Text: strings.Repeat("x", 60_000)})
				full = err != nil
				cancel()
			}
			if name == "silent" {
				wait(t, "the end", c.Done())
				if c.Err() != client.ErrSilent {
					t.Errorf("ended with %v", c.Err())
				}
			}
			closed := make(chan struct{})
			go func() {
				_ = c.Close()
				close(closed)
			}()
			wait(t, "Close", closed)
		})
	}
}

func TestPushes(t *testing.T) {
	both(t, func(t *testing.T, web bool) {
		const n = 5000
		acked := make(chan uint64, n)
		g := newGate(t, web, func(_ *conn, m *codec.Message) {
			if m.Type != codec.Ack || !m.Compressed || m.Code != 300 {
				t.Errorf("got %+v", m)
			}
			acked <- m.ID
		})
		var next int64
		refused := uint64(17)
		c := dial(t, g, client.Options{PushQueue: 4, OnPush: func(p client.Push) error {
			var m chatpb.Message
			if err := p.Unmarshal(&m); err != nil || p.Route != "chat.message" || m.GetNumber() != next {
				t.Errorf("push %+v, %v, want number %d", p, err, next)
			}
			next++
			if p.ID == refused {
				return errors.New("not now")
			}
			return nil
		}})
		server := g.connected()
		go func() {
			for i := range n {
				m := codec.Message{Type: codec.Push, ID: uint64(i), Compressed: true, Code: 300, Data: codec.JSON,
					Name: []byte("chat.Message"), Body: fmt.Appendf(nil, `{"number":"%d"}`, i)}
				server.message(&m)
			}
		}()
		for i := 1; i < n; i++ { // the push with id 0 wants no Ack
			if uint64(i) == refused {
				continue
			}
			select {
			case id := <-acked:
				if id != uint64(i) {
					t.Fatalf("Ack of %d, want %d", id, i)
				}
			case <-c.Done():
				t.Fatal(c.Err())
			}
		}
	})
}

// TestCallFromOnPush: a handler may call while further pushes come.
func TestCallFromOnPush(t *testing.T) {
	g := newGate(t, false, nil)
	done := make(chan error, 1)
	var c *client.Client
	ready := make(chan struct{})
	c = dial(t, g, client.Options{OnPush: func(client.Push) error {
		<-ready
		_, err := c.CallRaw(context.Background(), "test.echo", codec.Text, "", []byte("x"))
		done <- err
		return err
	}})
	close(ready)
	g.connected().message(&codec.Message{Type: codec.Push, Route: []byte("test.push")})
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestSlow: a handler that waits for itself does not wait for ever.
func TestSlow(t *testing.T) {
	g := newGate(t, false, nil)
	end := make(chan struct{})
	c := dial(t, g, client.Options{PushQueue: 1, PushPatience: 20 * time.Millisecond, OnPush: func(client.Push) error {
		<-end
		return nil
	}})
	server := g.connected()
	for range 3 { // one is handled, one waits, one finds no room
		server.message(&codec.Message{Type: codec.Push, Route: []byte("test.push")})
	}
	wait(t, "the end", c.Done())
	close(end)
	if c.Err() != client.ErrSlow {
		t.Errorf("ended with %v", c.Err())
	}
}
