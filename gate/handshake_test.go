package gate

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/proto/gatepb"
)

func mustURL(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

func TestHandshakeAnswer(t *testing.T) {
	r := start(t, withUsers(t))
	s := serve(t, r.bus, "auth", echo)
	s.announced(r, "auth.login", "auth.logout")
	both(t, func(t *testing.T, over transport) {
		for _, user := range []int64{0, 42} {
			c := r.connect(t, over)
			token := ""
			if user != 0 {
				token = fmt.Sprint("user ", user)
			}
			c.packet(codec.Handshake, 0, []byte(hi(token)))
			p := c.next()
			var got map[string]any
			if err := json.Unmarshal(p.Body, &got); err != nil || p.Type != codec.HandshakeAck {
				t.Fatalf("%v %q: %v", p.Type, p.Body, err)
			}
			sys, _ := got["sys"].(map[string]any)
			secret, _ := sys["session"].(string)
			if b, err := base64.RawURLEncoding.DecodeString(secret); err != nil || len(b) != 16 {
				t.Errorf("session: got %q, want 16 bytes", secret)
			}
			delete(sys, "session")
			who := map[string]any{}
			if user != 0 {
				who["id"] = float64(user)
			}
			want := map[string]any{
				"code": 200.0,
				"sys": map[string]any{
					"dict": map[string]any{"auth.login": 1.0, "auth.logout": 2.0}, "heartbeat": 30.0,
					"resumed": false, "max_message": 1048576.0,
				},
				"user": who,
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
			if m := c.call(&codec.Message{ID: 1, Compressed: true, Code: 1, Body: []byte("x")}); string(m.Body) != "x" {
				t.Errorf("got %q", m.Body)
			}
		}
	})
}

func TestHandshakeSecretsDiffer(t *testing.T) {
	r := start(t)
	seen := map[string]bool{}
	for range 20 {
		c := r.connect(t, overTCP)
		seen[c.handshake(hi("")).Sys.Session] = true
	}
	if len(seen) != 20 {
		t.Errorf("%d different secrets of 20", len(seen))
	}
}

// TestHandshakeRefused: each refusal can be read, and then the gate closes.
func TestHandshakeRefused(t *testing.T) {
	r := start(t, withUsers(t))
	garbage := strings.Repeat("\x00\xff{[", 16<<10)
	for _, c := range []struct {
		name, body string
		code       int
		retry      bool
	}{
		{"empty", "", 400, false},
		{"no JSON", "hello", 400, false},
		{"garbage of 64 KiB", garbage, 400, false},
		{"nesting of 64 KiB", strings.Repeat("[", 64<<10), 400, false},
		{"null", "null", 400, false},
		{"array", "[]", 400, false},
		{"no version", `{"sys":{}}`, 400, false},
		{"version is a number", `{"sys":{"version":1}}`, 400, false},
		{"token is a number", `{"sys":{"version":"1.0"},"user":{"token":7}}`, 400, false},
		{"fragment is a text", `{"sys":{"version":"1.0","fragment":"yes"}}`, 400, false},
		{"long client type", `{"sys":{"version":"1.0","client_type":"` + strings.Repeat("x", 65) + `"}}`, 400, false},
		{"version 2", `{"sys":{"version":"2.0"}}`, 426, false},
		{"version 10", `{"sys":{"version":"10.1"}}`, 426, false},
		{"bad token", hi("nobody's"), 401, false},
		{"long token", hi(strings.Repeat("x", 5000)), 401, false},
		{"nobody can verify", hi("unreachable"), 503, true},
		{"the user is 0", hi("user 0"), 503, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			both(t, func(t *testing.T, over transport) {
				w := r.connect(t, over)
				a := w.handshake(c.body)
				if a.Code != c.code || (a.RetryAfterMS > 0) != c.retry {
					t.Errorf("got %+v, want code %d", a, c.code)
				}
				if kick := w.ends(); kick != "" {
					t.Errorf("kick %q", kick)
				}
			})
		})
	}
	eventually(t, "all are gone", func() bool { return r.gate.stats.Connections.Load() == 0 })
	if n := r.gate.users.count(); n != 0 {
		t.Errorf("%d users are left", n)
	}
}

func TestHandshakeTaken(t *testing.T) {
	r := start(t)
	for _, body := range []string{
		`{"sys":{"version":"1.0.1"}}`,
		`{"sys":{"version":"1.99"}}`,
		`{"sys":{"version":"1"},"more":[1,2]}`,
		`{"sys":{"version":"1.0","resume":{"session":"abc","push_id":17}}}`,
		`{"sys":{"version":"1.0","resume":7,"other":{}},"user":{"name":3}}`,
	} {
		if a := r.connect(t, overTCP).handshake(body); a.Code != 200 || a.Sys.Resumed {
			t.Errorf("%s: got %+v", body, a)
		}
	}
}

func TestHandshakeTimeout(t *testing.T) {
	r := start(t, func(c *Config) { c.HandshakeTimeout = 50 * time.Millisecond })
	want := uint64(0)
	both(t, func(t *testing.T, over transport) {
		if kick := r.connect(t, over).ends(); kick != kickHeartbeat {
			t.Errorf("kick %q", kick)
		}
		half := r.connect(t, over)
		half.bytes(packet(codec.Handshake, 0, []byte(hi("")))[:20])
		if kick := half.ends(); kick != kickHeartbeat {
			t.Errorf("kick %q", kick)
		}
		want += 2
		if got := r.gate.measures.reached[limitHandshakeTime].Load(); got != want {
			t.Errorf("%d are counted, want %d", got, want)
		}
	})
}

// TestVerifyTimeout: the verifier's own time is the handshake's, and ends in 503.
func TestVerifyTimeout(t *testing.T) {
	r := start(t, func(c *Config) {
		c.HandshakeTimeout = 50 * time.Millisecond
		c.Presence = store(t)
		c.Verify = verifier(func(ctx context.Context, _ string) (int64, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		})
	})
	if a := r.connect(t, overTCP).handshake(hi("any")); a.Code != 503 {
		t.Errorf("got %+v", a)
	}
}

func TestFirstPacket(t *testing.T) {
	r := start(t)
	both(t, func(t *testing.T, over transport) {
		for _, kind := range []codec.PacketType{codec.Data, codec.Heartbeat, codec.Kick, codec.HandshakeAck} {
			c := r.connect(t, over)
			c.packet(kind, 0, nil)
			if kick := c.ends(); kick != kickProtocol {
				t.Errorf("a %v first: kick %q", kind, kick)
			}
		}
		c := r.login(t, over, "")
		c.packet(codec.Handshake, 0, []byte(hi("")))
		if kick := c.ends(); kick != kickProtocol {
			t.Errorf("a second handshake: kick %q", kick)
		}
	})
}

// TestTokenEndsMeanwhile: a session whose token ends while it is on its way is either
// kicked with the user's others or refused.
func TestTokenEndsMeanwhile(t *testing.T) {
	var r *rig
	var calls atomic.Int32
	kicked := make(chan struct{})
	r = start(t, withUsers(t), func(c *Config) {
		c.Verify = verifier(func(context.Context, string) (int64, error) {
			if calls.Add(1) == 1 {
				return 7, nil
			}
			defer close(kicked)
			// Whoever ended the token kicks the user now, and must find the session.
			if _, err := r.calls().Kick(t.Context(), &gatepb.KickRequest{User: 7, Reason: "the password was reset"}); err != nil {
				t.Errorf("kick: %v", err)
			}
			return 0, status.Error(codes.Unauthenticated, "the token has ended")
		})
	})
	c := r.connect(t, overTCP)
	c.packet(codec.Handshake, 0, []byte(hi("user 7")))
	if kick := c.ends(); kick != kickKicked {
		t.Errorf("kick %q", kick)
	}
	c.close()
	eventually(t, "user 7 has left presence", func() bool { return !here(t, r.gate.cfg.Presence, 7, r) })
	<-kicked
}

// TestGoneWhileVerifying: whatever Verify kept for a session, the end of the session
// is told after it, so that nothing of a handshake that was given up stays.
func TestGoneWhileVerifying(t *testing.T) {
	for look := int32(1); look <= 2; look++ {
		var calls atomic.Int32
		here, gone := make(chan struct{}), make(chan struct{})
		events := new(journal)
		r := start(t, withUsers(t), func(c *Config) {
			c.Events = events
			c.Verify = verifier(func(context.Context, string) (int64, error) {
				if calls.Add(1) == look {
					close(here)
					<-gone
				}
				return 7, nil
			})
		})
		c := r.connect(t, overTCP)
		c.packet(codec.Handshake, 0, []byte(hi("user 7")))
		<-here
		c.close()
		eventually(t, "the session is gone", func() bool { return r.gate.stats.Connections.Load() == 0 })
		told := len(events.all())
		close(gone)
		eventually(t, "its end is told again", func() bool {
			all := events.all()
			if len(all) <= told {
				return false
			}
			closed, ok := all[len(all)-1].(*gatepb.SessionClosed)
			return ok && closed.GetUser() == 7
		})
		if n := r.gate.users.count(); n != 0 {
			t.Errorf("look %d: %d users are counted", look, n)
		}
	}
}

// TestPipelinedBehindToken: what comes while the token is verified is handled
// afterwards, in order, and carries the user.
func TestPipelinedBehindToken(t *testing.T) {
	release := make(chan struct{})
	r := start(t, withUsers(t), func(c *Config) {
		verify := c.Verify
		c.Verify = verifier(func(ctx context.Context, token string) (int64, error) {
			<-release
			return verify.Verify(ctx, token, "", 0)
		})
	})
	s := serve(t, r.bus, "a", nil)
	both(t, func(t *testing.T, over transport) {
		c := r.connect(t, over)
		b := packet(codec.Handshake, 0, []byte(hi("user 7")))
		b = append(b, packet(codec.Heartbeat, 0, nil)...)
		for i := range 20 {
			b = append(b, dataPackets(request(uint64(i), "a.b", fmt.Sprint(i)))...)
		}
		c.bytes(b)
		release <- struct{}{}
		release <- struct{}{} // the token is looked at again when the session is bound
		if a := c.answer(); a.User.ID != 7 {
			t.Fatalf("got %+v", a)
		}
		for i := range 20 {
			if got := s.next(); string(got.Data) != fmt.Sprint(i) || got.User != 7 {
				t.Fatalf("request %d: got %q of user %d", i, got.Data, got.User)
			}
		}
		if p := c.next(); p.Type != codec.Heartbeat {
			t.Errorf("got a %v", p.Type)
		}
	})
	t.Run("too much", func(t *testing.T) {
		c := r.connect(t, overTCP)
		b := packet(codec.Handshake, 0, []byte(hi("user 7")))
		b = append(b, packet(codec.Data, 0, make([]byte, codec.MaxBody))...)
		c.bytes(append(b, packet(codec.Heartbeat, 0, nil)...))
		if kick := c.ends(); kick != kickProtocol {
			t.Errorf("kick %q", kick)
		}
		release <- struct{}{}
	})
	t.Run("gone meanwhile", func(t *testing.T) {
		c := r.connect(t, overTCP)
		c.packet(codec.Handshake, 0, []byte(hi("user 8")))
		eventually(t, "the token is being verified", func() bool { return len(r.gate.handshakes) == 1 })
		c.close()
		eventually(t, "the session is gone", func() bool { return r.gate.stats.Connections.Load() == 0 })
		release <- struct{}{}
	})
	eventually(t, "nobody is bound", func() bool { return len(r.gate.handshakes) == 0 && r.gate.users.count() == 0 })
}
