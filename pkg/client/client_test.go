package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/client"
	"github.com/motto123/minigate/proto/chatpb"
	"github.com/motto123/minigate/proto/commonpb"
)

func dial(t testing.TB, g *gate, opts client.Options) *client.Client {
	t.Helper()
	return dialTo(t, g.address(), opts)
}

func dialTo(t testing.TB, address string, opts client.Options) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), address, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// both runs a test over TCP and over WebSocket.
func both(t *testing.T, f func(t *testing.T, web bool)) {
	t.Run("tcp", func(t *testing.T) { f(t, false) })
	t.Run("websocket", func(t *testing.T) { f(t, true) })
}

func wait(t testing.TB, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(10 * time.Second):
		t.Fatalf("waited 10 s for %s", what)
	}
}

func TestHandshake(t *testing.T) {
	both(t, func(t *testing.T, web bool) {
		g := newGate(t, web, nil)
		c := dial(t, g, client.Options{Token: "secret token", ClientType: "test"})
		if c.Session() != "secret" || c.UserID() != 42 || c.Dictionary().Len() != 2 {
			t.Errorf("session %q, user %d, %d codes", c.Session(), c.UserID(), c.Dictionary().Len())
		}
		want := "map[sys:map[client_type:test fragment:true version:1.0.1] user:map[token:secret token]]"
		if got := fmt.Sprint(g.lastHello()); got != want {
			t.Errorf("handshake %s\nwant %s", got, want)
		}
	})
}

func TestHandshakeRefused(t *testing.T) {
	for name, test := range map[string]struct {
		welcome string
		check   func(error) bool
	}{
		"400":                      {`{"code":400,"message":"what?"}`, refused(400, 0)},
		"401":                      {`{"code":401}`, refused(401, 0)},
		"426":                      {`{"code":426}`, refused(426, 0)},
		"503":                      {`{"code":503,"retry_after_ms":1500}`, refused(503, 1500*time.Millisecond)},
		"no JSON":                  {`?`, isProtocol},
		"two routes with one code": {`{"code":200,"sys":{"dict":{"a.a":1,"b.b":1}}}`, isProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, web bool) {
				g := newGate(t, web, nil)
				g.welcome = test.welcome
				c, err := client.Dial(t.Context(), g.address(), client.Options{})
				if err == nil {
					_ = c.Close()
				}
				if !test.check(err) {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

func refused(code int, after time.Duration) func(error) bool {
	return func(err error) bool {
		var refusal *client.HandshakeError
		return errors.As(err, &refusal) && refusal.Code == code && refusal.RetryAfter == after
	}
}

func isProtocol(err error) bool { return errors.Is(err, client.ErrProtocol) }

func TestDialEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	silent := newSilent(t)
	for _, address := range []string{"tcp://" + silent, "ws://" + silent + "/ws"} {
		if _, err := client.Dial(ctx, address, client.Options{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", address, err)
		}
	}
	if _, err := client.Dial(t.Context(), "tcp://127.0.0.1:0", client.Options{}); err == nil {
		t.Error("connected to port 0")
	}
}

func TestABadAddressSaysWhatIsWanted(t *testing.T) {
	for _, address := range []string{
		"", "localhost:1", "127.0.0.1:7080", "[::1]:7080", "http://localhost/", "ws://%zz", "ws:///ws", "tcp://localhost", "tcp://:7001",
	} {
		_, err := client.Dial(t.Context(), address, client.Options{})
		if err == nil || !strings.Contains(err.Error(), "want tcp://host:port or ws://host:port/ws") {
			t.Errorf("%q: %v", address, err)
		}
	}
}

func TestCall(t *testing.T) {
	both(t, func(t *testing.T, web bool) {
		type request struct {
			coded bool
			code  uint16
			route string
			id    uint64
		}
		seen := make(chan request, 2)
		g := newGate(t, web, func(c *conn, m *codec.Message) {
			seen <- request{m.Compressed, m.Code, string(m.Route), m.ID}
			c.reply(m, string(m.Name), m.Data, m.Body)
		})
		c := dial(t, g, client.Options{})
		in := &chatpb.SendRequest{To: 7, ClientId: "x", Text: "Grüße 🐙 \x00 end "}
		for _, route := range []string{"test.coded", "test.named"} {
			out := &chatpb.SendRequest{}
			if err := c.Call(t.Context(), route, in, out); err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(in, out) {
				t.Errorf("sent %v, got %v", in, out)
			}
		}
		if got, want := <-seen, (request{coded: true, code: 7, id: 1}); got != want {
			t.Errorf("the gate got %+v, want %+v", got, want)
		}
		if got, want := <-seen, (request{route: "test.named", id: 2}); got != want {
			t.Errorf("the gate got %+v, want %+v", got, want)
		}
	})
}

func TestCallRaw(t *testing.T) {
	c := dial(t, newGate(t, false, nil), client.Options{})
	for _, data := range []codec.DataType{codec.Text, codec.JSON, codec.Protobuf} {
		got, err := c.CallRaw(t.Context(), "test.raw", data, "a.Name", []byte(`{"a":1}`))
		if err != nil || got.Data != data || got.Name != "a.Name" || string(got.Body) != `{"a":1}` {
			t.Errorf("got %+v, %v", got, err)
		}
	}
}

func TestFragments(t *testing.T) {
	both(t, func(t *testing.T, web bool) {
		g := newGate(t, web, nil)
		c := dial(t, g, client.Options{})
		for _, size := range []int{codec.MaxBody - 40, codec.MaxBody, codec.MaxBody + 1, 10*codec.MaxBody + 17} {
			body := bytes.Repeat([]byte("0123456789abcde"), size/15+1)[:size]
			got, err := c.CallRaw(t.Context(), "test.raw", codec.Text, "", body)
			if err != nil || !bytes.Equal(got.Body, body) {
				t.Errorf("%d bytes: %d came back, %v", size, len(got.Body), err)
			}
		}
		_, err := c.CallRaw(t.Context(), "test.raw", codec.Text, "", make([]byte, 1<<20))
		if status.Code(err) != codes.ResourceExhausted {
			t.Errorf("over the gate's limit: %v", err)
		}
		small := dial(t, g, client.Options{NoFragments: true})
		_, err = small.CallRaw(t.Context(), "test.raw", codec.Text, "", make([]byte, codec.MaxBody))
		if status.Code(err) != codes.ResourceExhausted {
			t.Errorf("over a packet, without fragments: %v", err)
		}
		if _, err = small.CallRaw(t.Context(), "test.raw", codec.Text, "", make([]byte, 1000)); err != nil {
			t.Errorf("after a message that was too large: %v", err)
		}
	})
}

func TestErrors(t *testing.T) {
	failed, err := proto.Marshal(&commonpb.Error{
		Code: int32(codes.InvalidArgument), Message: "two fields are bad",
		Violations: []*commonpb.Violation{{Field: "email", Rule: "email"}, {Field: "text", Rule: "required"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		data codec.DataType
		body string
		code codes.Code
		text string
	}{
		"protobuf": {codec.Protobuf, string(failed), codes.InvalidArgument, "INVALID_ARGUMENT: two fields are bad (email: is not an e-mail address; text: is missing)"},
		"said already": {codec.JSON, `{"code":3,"message":"account: at least 3 characters","violations":[{"field":"account","rule":"min=3"}]}`,
			codes.InvalidArgument, "INVALID_ARGUMENT: account: at least 3 characters"},
		"JSON":           {codec.JSON, `{"code":5,"message":"gone","new":1}`, codes.NotFound, "NOT_FOUND: gone"},
		"text":           {codec.Text, "ALREADY_EXISTS: here: it is", codes.AlreadyExists, "ALREADY_EXISTS: here: it is"},
		"text, no code":  {codec.Text, "what", codes.Internal, "INTERNAL: the error can not be read"},
		"code 0":         {codec.JSON, `{}`, codes.Internal, "INTERNAL: the error can not be read"},
		"code 99":        {codec.JSON, `{"code":99}`, codes.Unknown, "UNKNOWN: "},
		"not to be read": {codec.Protobuf, "\xff", codes.Internal, "INTERNAL: the error can not be read"},
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, newGate(t, false, func(c *conn, m *codec.Message) {
				c.reply(m, "common.Error", test.data, []byte(test.body))
			}), client.Options{})
			err := c.Call(t.Context(), "test.fail", nil, nil)
			var typed *client.Error
			if !errors.As(err, &typed) || typed.Code() != test.code || status.Code(err) != test.code || err.Error() != test.text {
				t.Errorf("got %v with %v", err, status.Code(err))
			}
		})
	}
}

func TestAnswerOfAnotherType(t *testing.T) {
	c := dial(t, newGate(t, false, nil), client.Options{})
	err := c.Call(t.Context(), "test.echo", &chatpb.SendRequest{To: 1}, &chatpb.SendResponse{})
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "chat.SendRequest came where chat.SendResponse was expected") {
		t.Errorf("got %v", err)
	}
}

func TestGivenUp(t *testing.T) {
	held := make(chan codec.Message, 1)
	g := newGate(t, false, func(c *conn, m *codec.Message) {
		if string(m.Route) == "test.hold" {
			held <- codec.Message{ID: m.ID, Route: []byte("test.hold")}
			return
		}
		select {
		case late := <-held: // the answer that nobody waits for any more goes first
			c.reply(&late, "", codec.Text, []byte("late"))
		default:
		}
		c.reply(m, "", m.Data, m.Body)
	})
	c := dial(t, g, client.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := c.Call(ctx, "test.hold", nil, nil)
	if status.Code(err) != codes.DeadlineExceeded || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	got, err := c.CallRaw(t.Context(), "test.echo", codec.Text, "", []byte("mine"))
	if err != nil || string(got.Body) != "mine" {
		t.Errorf("after a late answer: %q, %v", got.Body, err)
	}
	cancel()
	if err := c.Notify(ctx, "test.echo", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

func TestNotify(t *testing.T) {
	seen := make(chan uint64, 1)
	g := newGate(t, false, func(c *conn, m *codec.Message) {
		switch {
		case m.Type != codec.Notify:
			t.Errorf("got a %s", m.Type)
		case string(m.Route) == "test.plain":
			seen <- m.ID
		case string(m.Route) == "test.safe":
			ack := *m
			ack.Type, ack.Name, ack.Body = codec.Ack, nil, nil
			c.message(&ack)
		default:
			c.reply(m, "common.Error", codec.JSON, []byte(`{"code":14,"message":"broker"}`))
		}
	})
	c := dial(t, g, client.Options{})
	if err := c.Notify(t.Context(), "test.plain", &chatpb.SendRequest{To: 1}); err != nil {
		t.Fatal(err)
	}
	if id := <-seen; id != 0 {
		t.Errorf("a Notify has the id %d", id)
	}
	if err := c.NotifyAck(t.Context(), "test.safe", &chatpb.SendRequest{To: 1}); err != nil {
		t.Errorf("acknowledged: %v", err)
	}
	if err := c.NotifyAck(t.Context(), "test.unsafe", nil); status.Code(err) != codes.Unavailable {
		t.Errorf("not acknowledged: %v", err)
	}
}

func TestManyAtOnce(t *testing.T) {
	both(t, func(t *testing.T, web bool) {
		var mu sync.Mutex
		ids := map[uint64]bool{}
		g := newGate(t, web, func(c *conn, m *codec.Message) {
			mu.Lock()
			if m.ID == 0 || ids[m.ID] {
				t.Errorf("id %d is taken", m.ID)
			}
			ids[m.ID] = true
			mu.Unlock()
			c.reply(m, string(m.Name), m.Data, m.Body)
		})
		c := dial(t, g, client.Options{WriteQueue: 256}) // so that callers wait for room
		var group sync.WaitGroup
		for i := range 16 {
			group.Go(func() {
				for j := range 100 {
					in := &chatpb.SendRequest{To: int64(i), Text: fmt.Sprint(i, j)}
					out := &chatpb.SendRequest{}
					if err := c.Call(t.Context(), "test.echo", in, out); err != nil || !proto.Equal(in, out) {
						t.Errorf("sent %v, got %v, %v", in, out, err)
						return
					}
				}
			})
		}
		group.Wait()
	})
}
