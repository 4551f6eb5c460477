package gate

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/presence"
	"github.com/motto123/minigate/proto/gatepb"
)

// whoAmI is the session behind a connection, as a service sees it.
func whoAmI(t testing.TB, c *wire, s *stub) asked {
	t.Helper()
	c.send(request(1, "a.who", ""))
	a := s.next()
	echo(s, a)
	c.message()
	return a
}

// here reports whether presence has a user on a gate.
func here(t testing.TB, p *presence.Store, user int64, r *rig) bool {
	t.Helper()
	gates, err := p.Gates(context.Background(), user)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range gates {
		if g.ID == r.gate.ID() {
			if g.Address != r.gate.GRPCAddress() {
				t.Errorf("presence has the address %q, want %q", g.Address, r.gate.GRPCAddress())
			}
			return true
		}
	}
	return false
}

func TestBind(t *testing.T) {
	p, events := store(t), new(journal)
	r := start(t, func(c *Config) { c.Presence, c.Events = p, events })
	s := serve(t, r.bus, "a", nil)
	calls := r.calls()
	c := r.login(t, overTCP, "")
	session := whoAmI(t, c, s).Session
	bind := func(user int64) {
		t.Helper()
		if _, err := calls.Bind(t.Context(), &gatepb.BindRequest{Session: session, User: user}); err != nil {
			t.Fatal(err)
		}
		if a := whoAmI(t, c, s); a.User != user {
			t.Errorf("a request after the bind is of user %d, want %d", a.User, user)
		}
	}
	bind(7)
	if !here(t, p, 7, r) {
		t.Error("user 7 is not in presence")
	}
	bind(7) // twice is once
	bind(8)
	if !here(t, p, 8, r) {
		t.Error("user 8 is not in presence")
	}
	eventually(t, "user 7 is out of presence", func() bool { return !here(t, p, 7, r) })
	bind(0)
	eventually(t, "user 8 is out of presence", func() bool { return !here(t, p, 8, r) })
	bind(9)
	c.close()
	eventually(t, "user 9 is out of presence", func() bool { return !here(t, p, 9, r) })
	for _, x := range []struct {
		in   *gatepb.BindRequest
		want codes.Code
	}{
		{&gatepb.BindRequest{Session: session, User: 9}, codes.NotFound},
		{&gatepb.BindRequest{Session: 12345678, User: 9}, codes.NotFound},
		{&gatepb.BindRequest{Session: 255, User: 9}, codes.NotFound},
		{&gatepb.BindRequest{Session: session, User: -1}, codes.InvalidArgument},
	} {
		if _, err := calls.Bind(t.Context(), x.in); status.Code(err) != x.want {
			t.Errorf("%v: got %v, want %v", x.in, err, x.want)
		}
	}
	eventually(t, "nobody is bound", func() bool { return r.gate.users.count() == 0 && !here(t, p, 9, r) })
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	var got []string
	for _, e := range events.all() {
		switch e := e.(type) {
		case *gatepb.SessionBound:
			got = append(got, "bound")
		case *gatepb.SessionClosed:
			got = append(got, e.GetReason())
		}
	}
	want := []string{"bound", "unbound", "bound", "unbound", "bound", "closed"}
	if len(got) != len(want) {
		t.Fatalf("events %q, want %q", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("events %q, want %q", got, want)
		}
	}
}

// TestBindWithoutRedis: nobody is bound whom presence does not have.
func TestBindWithoutRedis(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1, DialTimeout: time.Second})
	t.Cleanup(func() { _ = client.Close() })
	for name, p := range map[string]*presence.Store{"unreachable": storeOn(t, client), "none": nil} {
		t.Run(name, func(t *testing.T) {
			r := start(t, func(c *Config) {
				c.Presence = p
				c.Verify = verifier(func(context.Context, string) (int64, error) { return 5, nil })
			})
			s := serve(t, r.bus, "a", nil)
			c := r.login(t, overTCP, "")
			session := whoAmI(t, c, s).Session
			_, err := r.calls().Bind(t.Context(), &gatepb.BindRequest{Session: session, User: 5})
			if status.Code(err) != codes.Unavailable {
				t.Errorf("got %v", err)
			}
			if a := whoAmI(t, c, s); a.User != 0 {
				t.Errorf("the session is bound to %d", a.User)
			}
			if n := r.gate.users.count(); n != 0 {
				t.Errorf("%d users are counted", n)
			}
			if a := r.connect(t, overTCP).handshake(hi("any")); a.Code != 503 {
				t.Errorf("a handshake with a token: got %+v", a)
			}
		})
	}
}

// TestPresenceOfTwo: a user leaves presence with the last of its sessions.
func TestPresenceOfTwo(t *testing.T) {
	r := start(t, withUsers(t))
	p := r.gate.cfg.Presence
	first, second := r.login(t, overTCP, "user 3"), r.login(t, overWebSocket, "user 3")
	first.close()
	eventually(t, "the first is gone", func() bool { return r.gate.stats.Connections.Load() == 1 })
	third := r.login(t, overTCP, "user 4") // whose presence is written behind whatever else is
	if !here(t, p, 3, r) {
		t.Error("user 3 is out of presence, and has a session")
	}
	second.close()
	eventually(t, "user 3 is out of presence", func() bool { return !here(t, p, 3, r) })
	third.close()
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if here(t, p, 4, r) {
		t.Error("user 4 is in presence after the gate's end")
	}
}

// TestRebinding: however quickly users come and go on sessions, presence and the
// counts agree with who is bound in the end.
func TestRebinding(t *testing.T) {
	r := start(t, withUsers(t))
	s := serve(t, r.bus, "a", nil)
	calls := r.calls()
	const sessions, users, rounds = 6, 3, 60
	var clients []*wire
	last := make([]int64, sessions)
	var wait sync.WaitGroup
	for i := range sessions {
		c := r.login(t, transport(i%2), "")
		clients = append(clients, c)
		session := whoAmI(t, c, s).Session
		wait.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 1))
			for range rounds {
				last[i] = random.Int64N(users + 1)
				if _, err := calls.Bind(t.Context(), &gatepb.BindRequest{Session: session, User: last[i]}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	bound := make(map[int64]int)
	for _, user := range last {
		bound[user]++
	}
	for user := int64(1); user <= users; user++ {
		eventually(t, "presence is right", func() bool {
			return here(t, r.gate.cfg.Presence, user, r) == (bound[user] > 0)
		})
		answer, err := calls.Sessions(t.Context(), &gatepb.SessionsRequest{User: user})
		if n := len(answer.GetSessions()); n != bound[user] || (status.Code(err) == codes.NotFound) != (n == 0) {
			t.Errorf("user %d has %d sessions, want %d; %v", user, n, bound[user], err)
		}
	}
	for _, c := range clients {
		c.close()
	}
	eventually(t, "nobody is bound", func() bool { return r.gate.users.count() == 0 })
	for user := int64(1); user <= users; user++ {
		eventually(t, "presence is empty", func() bool { return !here(t, r.gate.cfg.Presence, user, r) })
	}
}

func TestKick(t *testing.T) {
	r := start(t, withUsers(t))
	s := serve(t, r.bus, "a", nil)
	calls := r.calls()
	both(t, func(t *testing.T, over transport) {
		c := r.login(t, over, "")
		session := whoAmI(t, c, s).Session
		answer, err := calls.Kick(t.Context(), &gatepb.KickRequest{Session: session, Reason: "go"})
		if err != nil || answer.GetKicked() != 1 {
			t.Errorf("got %v, %v", answer, err)
		}
		if kick := c.ends(); kick != kickKicked {
			t.Errorf("kick %q", kick)
		}
		one, two := r.login(t, over, "user 3"), r.login(t, overTCP, "user 3")
		answer, err = calls.Kick(t.Context(), &gatepb.KickRequest{User: 3, Code: kickReplaced, Reason: strings.Repeat("go ", 2000)})
		if err != nil || answer.GetKicked() != 2 {
			t.Errorf("got %v, %v", answer, err)
		}
		// Who is kicked is nobody's at once, however long its client takes to close.
		if _, err := calls.Sessions(t.Context(), &gatepb.SessionsRequest{User: 3}); status.Code(err) != codes.NotFound {
			t.Errorf("sessions after the kick: %v", err)
		}
		eventually(t, "the user is out of presence", func() bool { return !here(t, r.gate.cfg.Presence, 3, r) })
		for _, c := range []*wire{one, two} {
			if kick := c.ends(); kick != kickReplaced {
				t.Errorf("kick %q", kick)
			}
		}
		for _, x := range []struct {
			in   *gatepb.KickRequest
			want codes.Code
		}{
			{&gatepb.KickRequest{Session: session}, codes.NotFound},
			{&gatepb.KickRequest{User: 3}, codes.NotFound},
			{&gatepb.KickRequest{}, codes.InvalidArgument},
			{&gatepb.KickRequest{User: 3, Code: "unheard_of"}, codes.InvalidArgument},
		} {
			if _, err := calls.Kick(t.Context(), x.in); status.Code(err) != x.want {
				t.Errorf("%v: got %v, want %v", x.in, err, x.want)
			}
		}
	})
}

// TestOnlyTheGateDrains: a kick that says that what is unanswered was never taken, so
// that clients ask it again elsewhere, is nothing that a service can know.
func TestOnlyTheGateDrains(t *testing.T) {
	r := start(t)
	s := serve(t, r.bus, "a", nil)
	c := r.login(t, overTCP, "")
	c.send(request(1, "a.slow", ""))
	a := s.next()
	_, err := r.calls().Kick(t.Context(), &gatepb.KickRequest{Session: a.Session, Code: kickDraining})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("got %v", err)
	}
	echo(s, a)
	if p := c.next(); p.Type != codec.Data {
		t.Errorf("instead of the answer to what was taken comes a %v: %s", p.Type, p.Body)
	}
}

func TestSessions(t *testing.T) {
	r := start(t, withUsers(t))
	calls := r.calls()
	before := time.Now().UnixMilli()
	r.login(t, overTCP, "user 3")
	r.login(t, overWebSocket, "user 3")
	answer, err := calls.Sessions(t.Context(), &gatepb.SessionsRequest{User: 3})
	if err != nil || len(answer.GetSessions()) != 2 {
		t.Fatalf("got %v, %v", answer, err)
	}
	transports := map[string]bool{}
	for _, s := range answer.GetSessions() {
		transports[s.GetTransport()] = true
		if s.GetUser() != 3 || s.GetAddress() != "127.0.0.1" || s.GetClientType() != "test" ||
			s.GetConnectedAt() < before-10 || s.GetConnectedAt() > time.Now().UnixMilli()+10 {
			t.Errorf("got %v", s)
		}
	}
	if !transports["tcp"] || !transports["websocket"] {
		t.Errorf("got %v", answer)
	}
}

func TestJoinErrors(t *testing.T) {
	r := start(t)
	calls := r.calls()
	for _, x := range []struct {
		in   *gatepb.JoinRequest
		want codes.Code
	}{
		{&gatepb.JoinRequest{Session: 999, Group: "g"}, codes.NotFound},
		{&gatepb.JoinRequest{Session: 999}, codes.InvalidArgument},
		{&gatepb.JoinRequest{Session: 999, Group: strings.Repeat("g", 129)}, codes.InvalidArgument},
	} {
		if _, err := calls.Join(t.Context(), x.in); status.Code(err) != x.want {
			t.Errorf("%v: got %v, want %v", x.in, err, x.want)
		}
	}
	if _, err := calls.Leave(t.Context(), &gatepb.LeaveRequest{Session: 999, Group: "g"}); status.Code(err) != codes.NotFound {
		t.Errorf("got %v", err)
	}
}
