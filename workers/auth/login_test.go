package auth

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/sqldb/sqldbtest"
	"github.com/motto123/minigate/pkg/worker"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/gatepb"
)

func TestLoginAndLogout(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		u, _ := f.add(t, "ann")
		other := f.mustLogin(t, "ann", secret)
		login := f.mustLogin(t, "ann", secret)
		if login.GetToken() == other.GetToken() || len(login.GetToken()) != 43 {
			t.Fatalf("tokens %q and %q", login.GetToken(), other.GetToken())
		}
		if f.gates.bound[session] != u.GetId() {
			t.Fatalf("the session is bound to %d", f.gates.bound[session])
		}
		if f.whose(t, login.GetToken()) != u.GetId() {
			t.Fatal("the token is not the user's")
		}
		for _, key := range append(f.keys(t, "token"), f.keys(t, "session")...) {
			value, _ := f.redis.Get(t.Context(), key).Result()
			if strings.Contains(key+value, login.GetToken()) {
				t.Errorf("Redis holds the token itself, in %s", key)
			}
		}
		if _, err := f.Logout(by(t, u.GetId()), &authpb.LogoutRequest{}); err != nil {
			t.Fatal(err)
		}
		if f.whose(t, login.GetToken()) != 0 || f.gates.bound[session] != 0 {
			t.Error("after logout the token or the session is still the user's")
		}
		if f.whose(t, other.GetToken()) != u.GetId() {
			t.Error("another login ended too")
		}
		if len(f.keys(t, "session")) != 0 {
			t.Error("Redis remembers the session")
		}
		if _, err := f.Logout(by(t, u.GetId()), &authpb.LogoutRequest{}); err != nil {
			t.Error("logout again:", err)
		}
	})
}

// A session that brought its token along in the handshake ends it like one that
// logged in.
func TestLogoutOfAVerifiedSession(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		u, _ := f.add(t, "ann")
		login := f.mustLogin(t, "ann", secret)
		verify := &authpb.VerifyRequest{Token: login.GetToken(), Gate: "g2", Session: 9}
		answer, err := server{service: f.Service}.Verify(t.Context(), verify)
		if err != nil || answer.GetUser() != u.GetId() || answer.GetExpiresAt() != login.GetExpiresAt() {
			t.Fatalf("verify: %v, %v", answer, err)
		}
		there := as(t, worker.Caller{Session: worker.Session{Gate: "g2", ID: 9}, User: u.GetId()})
		if _, err := f.Logout(there, &authpb.LogoutRequest{}); err != nil {
			t.Fatal(err)
		}
		if f.whose(t, login.GetToken()) != 0 {
			t.Error("the token is still good")
		}
		// The session that is gone is forgotten; its token is not. One that goes on, and
		// was another user's before, is not forgotten.
		login = f.mustLogin(t, "ann", secret)
		unbound := &gatepb.SessionClosed{Gate: session.Gate, Session: session.ID, Reason: "unbound"}
		if err := f.SessionClosed(t.Context(), unbound); err != nil || len(f.keys(t, "session")) != 1 {
			t.Errorf("after an unbind: %v, sessions %v", err, f.keys(t, "session"))
		}
		if err := f.SessionClosed(t.Context(), &gatepb.SessionClosed{Gate: session.Gate, Session: session.ID}); err != nil {
			t.Fatal(err)
		}
		if len(f.keys(t, "session")) != 0 || f.whose(t, login.GetToken()) != u.GetId() {
			t.Error("closing a session should forget it, and leave the token")
		}
	})
}

// The answer, the hashing and the traffic are the same whether an account does
// not exist, can not exist, or has another password.
func TestLoginTellsNotWhoHasAnAccount(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.cfg.Limits.LoginAddress = Limit{Burst: 1000, Every: 1e9}
		f.cfg.Limits.LoginAccount = f.cfg.Limits.LoginAddress
		f.add(t, "ann")
		// Redis has seen the scripts, and answers EVALSHA from here on.
		_, _ = f.login(t, "ann", "a wrong one")
		f.traffic.take()
		var want error
		var wantTraffic []string
		for i, account := range []string{"ann", "bob", "not an account", ""} {
			runs := f.passwords.runs.Load()
			_, err := f.login(t, account, "a wrong one")
			wantCode(t, account, err, codes.Unauthenticated)
			if n := f.passwords.runs.Load() - runs; n != 1 {
				t.Errorf("%q: %d hashes, want 1", account, n)
			}
			traffic := f.traffic.take()
			if i == 0 {
				want, wantTraffic = err, traffic
			}
			if err == nil || err.Error() != want.Error() {
				t.Errorf("%q: %v, want %v", account, err, want)
			}
			if !slices.Equal(traffic, wantTraffic) {
				t.Errorf("%q: Redis is asked %v, want %v", account, traffic, wantTraffic)
			}
		}
	})
}

func TestLoginThatCannotBind(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.add(t, "ann")
		f.gates.fail = errAway
		_, err := f.login(t, "ann", secret)
		wantCode(t, "the gate is gone", err, codes.Unavailable)
		if left := f.keys(t, "token"); len(left) != 0 {
			t.Errorf("a token that nobody has: %v", left)
		}
	})
}

func TestLogoutOfASessionThatIsGone(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		u, _ := f.add(t, "ann")
		login := f.mustLogin(t, "ann", secret)
		f.gates.fail = errAway
		_, err := f.Logout(by(t, u.GetId()), &authpb.LogoutRequest{})
		wantCode(t, "the gate does not answer", err, codes.Unavailable)
		f.gates.fail = status.Error(codes.NotFound, "no such session")
		if _, err := f.Logout(by(t, u.GetId()), &authpb.LogoutRequest{}); err != nil {
			t.Error("the session is gone:", err)
		}
		if f.whose(t, login.GetToken()) != 0 {
			t.Error("the token is still good")
		}
	})
}

func TestOldestTokenEnds(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.tokens.max = 3
		u, _ := f.add(t, "ann")
		var secrets []string
		for range 5 {
			before := now()
			eventually(t, "the clock goes on, so that one token is older", func() bool { return now() > before })
			secrets = append(secrets, f.mustLogin(t, "ann", secret).GetToken())
		}
		for i, token := range secrets {
			want := u.GetId()
			if i < 2 {
				want = 0
			}
			if got := f.whose(t, token); got != want {
				t.Errorf("token %d of 5 belongs to %d, want %d", i, got, want)
			}
		}
		if n := len(f.keys(t, "token:")); n != 3 {
			t.Errorf("Redis holds %d tokens, want 3", n)
		}
	})
}

func TestTokensEnd(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.tokens.life = 50e6
		f.add(t, "ann")
		login := f.mustLogin(t, "ann", secret)
		eventually(t, "the token ends", func() bool { return f.whose(t, login.GetToken()) == 0 })
		if now() < login.GetExpiresAt() {
			t.Error("it ended before its time")
		}
		if f.whose(t, "") != 0 || f.whose(t, "nonsense") != 0 {
			t.Error("nonsense is somebody's token")
		}
	})
}

func TestPasswordIsHashedAgain(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		u, _ := f.add(t, "ann")
		before, err := f.users.byID(t.Context(), u.GetId())
		if err != nil {
			t.Fatal(err)
		}
		stronger, err := newPasswords(PasswordConfig{MemoryKiB: 128, Iterations: 2})
		if err != nil {
			t.Fatal(err)
		}
		f.passwords = stronger
		f.mustLogin(t, "ann", secret)
		after, err := f.users.byID(t.Context(), u.GetId())
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(after.passwordHash, "$m=128,t=2,p=1$") {
			t.Fatalf("the hash is %s, was %s", after.passwordHash, before.passwordHash)
		}
		runs := stronger.runs.Load()
		f.mustLogin(t, "ann", secret)
		if n := stronger.runs.Load() - runs; n != 1 {
			t.Errorf("a login at today's cost computes %d hashes", n)
		}
	})
}

// A reset while a login with the old password is under way: the login's token
// must not outlive it, though the reset came too early to see it.
func TestResetDuringLogin(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		u, _ := f.add(t, "ann")
		f.traffic.intercept(func(cmd redis.Cmder) error {
			if cmd.Name() != "set" {
				return nil
			}
			f.traffic.intercept(nil)
			_, err := f.cfg.DB.ExecContext(t.Context(), "UPDATE users SET password_hash = ? WHERE id = ?", f.passwords.dummy, u.GetId())
			return err
		})
		_, err := f.login(t, "ann", secret)
		wantCode(t, "a login with the password from before", err, codes.Unauthenticated)
		if left := f.keys(t, "token"); len(left) != 0 {
			t.Errorf("its token is still there: %v", left)
		}
		if f.gates.bound[session] != 0 {
			t.Error("its session is bound")
		}
	})
}

func TestLoginWithoutStorage(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		u, _ := f.add(t, "ann")
		for _, command := range []string{"evalsha", "set", "del"} {
			f.traffic.intercept(func(cmd redis.Cmder) error {
				if cmd.Name() == command || cmd.Name() == "eval" && command == "evalsha" {
					return errAway
				}
				return nil
			})
			if command == "del" {
				f.gates.fail = errAway
			}
			_, err := f.login(t, "ann", secret)
			wantCode(t, "Redis fails at "+command, err, codes.Unavailable)
			f.traffic.intercept(nil)
			f.gates.fail = nil
			if f.gates.bound[session] != 0 {
				t.Errorf("Redis fails at %s: the session is bound all the same", command)
			}
		}
		f.traffic.intercept(func(redis.Cmder) error { return errAway })
		_, err := f.Logout(by(t, u.GetId()), &authpb.LogoutRequest{})
		wantCode(t, "logout without Redis", err, codes.Unavailable)
		_, err = server{service: f.Service}.Verify(t.Context(), &authpb.VerifyRequest{Token: "x"})
		wantCode(t, "verify without Redis", err, codes.Unavailable)
	})
}

func TestWithoutDatabase(t *testing.T) {
	db := sqldbtest.Open(t, "mysql://u:p@"+deaf(t)+"/d")
	f := newFixture(t, db, inProcess(t), Config{})
	stop := f.run(t)
	_, err := f.login(t, "ann", secret)
	wantCode(t, "login", err, codes.Unavailable)
	_, err = f.RegisterUser(from(t), &authpb.RegisterRequest{Account: "ann", Password: secret, Email: "a@example.com"})
	wantCode(t, "register", err, codes.Unavailable)
	_, err = f.ResetPassword(from(t), &authpb.ResetPasswordRequest{Account: "ann", Code: "123456", Password: secret})
	wantCode(t, "reset", err, codes.Unavailable)
	_, err = f.VerifyEmail(by(t, 1), &authpb.VerifyEmailRequest{Code: "123456"})
	wantCode(t, "verify", err, codes.Unavailable)
	_, err = f.Find(by(t, 1), &authpb.FindRequest{Id: 1})
	wantCode(t, "find", err, codes.Unavailable)
	_, err = server{service: f.Service}.Users(t.Context(), &authpb.UsersRequest{Ids: []int64{1}})
	wantCode(t, "users", err, codes.Unavailable)
	// The answer can not depend on what is found out later.
	if _, err := f.RequestReset(from(t), &authpb.RequestResetRequest{Account: "ann"}); err != nil {
		t.Error("request a reset:", err)
	}
	stop()
	if n := len(f.events.events); n != 0 {
		t.Errorf("%d events without a database", n)
	}
}

func TestWithoutRedisServer(t *testing.T) {
	f := newFixture(t, sqldbtest.SQLite(t), open(t, deaf(t)), Config{Limits: Limits{}})
	_, err := f.login(t, "ann", secret)
	// Without limits, an unknown account is answered before Redis is asked.
	wantCode(t, "login of nobody", err, codes.Unauthenticated)
	_, err = f.RegisterUser(from(t), &authpb.RegisterRequest{Account: "ann", Password: secret, Email: "a@example.com"})
	wantCode(t, "register", err, codes.Unavailable)
	f.cfg.Limits.LoginAddress = Limit{Burst: 5, Every: 1e9}
	_, err = f.login(t, "ann", secret)
	wantCode(t, "login", err, codes.Unavailable)
}

// Where logins are made shorter, or replicas differ, a user's older tokens live
// longer than the new one: it is still the new one that stays, and all of them end
// with the password.
func TestTokensOfAShorterLife(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.tokens.max = 2
		u, _ := f.add(t, "ann")
		for range 2 {
			f.mustLogin(t, "ann", secret)
		}
		f.tokens.life = time.Hour
		token := f.mustLogin(t, "ann", secret).GetToken()
		if f.whose(t, token) != u.GetId() {
			t.Error("the new token is nobody's")
		}
		if n := len(f.keys(t, "token:")); n != 2 {
			t.Errorf("Redis holds %d tokens, want 2", n)
		}
		left, err := f.redis.PTTL(t.Context(), f.tokens.userKey(u.GetId())).Result()
		if err != nil || left < 2*time.Hour {
			t.Errorf("what lists the tokens ends in %v (%v), before one of them", left, err)
		}
		if err := f.tokens.endAll(t.Context(), u.GetId()); err != nil {
			t.Fatal(err)
		}
		if n := len(f.keys(t, "token:")); n != 0 {
			t.Errorf("%d tokens outlive the end of all", n)
		}
	})
}

// Redis goes away when a token has to make room: it stays listed until it has ended,
// so that a reset of the password finds it.
func TestSurplusTokensStayListed(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.tokens.max = 2
		u, _ := f.add(t, "ann")
		first := f.mustLogin(t, "ann", secret).GetToken()
		f.mustLogin(t, "ann", secret)
		f.traffic.intercept(func(cmd redis.Cmder) error {
			if cmd.Name() == "del" {
				return errAway
			}
			return nil
		})
		_, err := f.login(t, "ann", secret)
		wantCode(t, "a login that can not make room", err, codes.Unavailable)
		f.traffic.intercept(nil)
		if err := f.tokens.endAll(t.Context(), u.GetId()); err != nil {
			t.Fatal(err)
		}
		if f.whose(t, first) != 0 || len(f.keys(t, "token:")) != 0 {
			t.Errorf("%d tokens outlive the end of all", len(f.keys(t, "token:")))
		}
		f.mustLogin(t, "ann", secret)
		if n, err := f.redis.ZCard(t.Context(), f.tokens.userKey(u.GetId())).Result(); err != nil || n != 1 {
			t.Errorf("%d tokens are listed (%v), want 1", n, err)
		}
	})
}
