package auth

import (
	"context"
	"slices"
	"testing"

	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/pkg/worker"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/emailpb"
)

// resetCode requests a reset and returns the code that is mailed.
func (f *fixture) resetCode(t *testing.T, account string) string {
	t.Helper()
	before := f.events.count(eventPasswordReset)
	if _, err := f.RequestReset(from(t), &authpb.RequestResetRequest{Account: account}); err != nil {
		t.Fatal("request a reset:", err)
	}
	eventually(t, "the code is mailed", func() bool { return f.events.count(eventPasswordReset) > before })
	mail, ok := f.events.last(eventPasswordReset).(*emailpb.PasswordReset)
	if !ok || mail.GetTo() == "" || mail.GetExpiresAt() <= now() {
		t.Fatalf("the mail is %v", mail)
	}
	return mail.GetCode()
}

func (f *fixture) reset(t *testing.T, account, code, password string) error {
	t.Helper()
	_, err := f.ResetPassword(from(t), &authpb.ResetPasswordRequest{Account: account, Code: code, Password: password})
	return err
}

func TestReset(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.run(t)
		u, verification := f.add(t, "Ann")
		logins := []string{f.mustLogin(t, "ann", secret).GetToken(), f.mustLogin(t, "ann", secret).GetToken()}
		bob, _ := f.add(t, "bob")
		bobs := f.mustLogin(t, "bob", secret).GetToken()
		code := f.resetCode(t, "ANN")
		wantCode(t, "a wrong code", f.reset(t, "ann", wrong(code), "a new password"), codes.PermissionDenied)
		wantCode(t, "another account", f.reset(t, "bob", code, "a new password"), codes.PermissionDenied)
		if code != verification {
			wantCode(t, "the code of the other mail", f.reset(t, "ann", verification, "a new password"), codes.PermissionDenied)
		}
		if err := f.reset(t, "ann", code, "a new password"); err != nil {
			t.Fatal(err)
		}
		for i, token := range logins {
			if f.whose(t, token) != 0 {
				t.Errorf("token %d outlives the password", i)
			}
		}
		if f.whose(t, bobs) != bob.GetId() {
			t.Error("another user's token ended")
		}
		if !slices.Equal(f.gates.kicked, []int64{u.GetId()}) {
			t.Errorf("kicked: %v, want %d", f.gates.kicked, u.GetId())
		}
		_, err := f.login(t, "ann", secret)
		wantCode(t, "the old password", err, codes.Unauthenticated)
		if !f.mustLogin(t, "ann", "a new password").GetUser().GetEmailVerified() {
			t.Error("the code came by mail: the address is proved")
		}
		wantCode(t, "the code again", f.reset(t, "ann", code, "yet another one"), codes.PermissionDenied)
	})
}

// request_reset answers before anybody has looked whether there is an account,
// and asks Redis the same; reset_password does the same work up to its answer.
func TestResetTellsNotWhoHasAnAccount(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.cfg.Limits.ResetAddress = Limit{Burst: 1000, Every: 1e9}
		f.cfg.Limits.ResetAccount = f.cfg.Limits.ResetAddress
		f.cfg.Limits.CodeAccount = f.cfg.Limits.ResetAddress
		f.add(t, "ann")
		accounts := []string{"ann", "bob", "not an account"}
		var traffic [][]string
		ask := func(account string) {
			f.traffic.take()
			if _, err := f.RequestReset(from(t), &authpb.RequestResetRequest{Account: account}); err != nil {
				t.Errorf("%q: %v", account, err)
			}
			request := f.traffic.take()
			runs := f.passwords.runs.Load()
			wantCode(t, account, f.reset(t, account, "123456", "a new password"), codes.PermissionDenied)
			if f.passwords.runs.Load() != runs {
				t.Errorf("%q: a wrong code was worth a hash", account)
			}
			traffic = append(traffic, append(request, f.traffic.take()...))
		}
		// Once for the scripts, which Redis does not know yet.
		ask("somebody")
		traffic = nil
		for _, account := range accounts {
			ask(account)
		}
		for i, names := range traffic {
			if !slices.Equal(names, traffic[0]) || len(names) == 0 {
				t.Errorf("%q: Redis is asked %v, want %v", accounts[i], names, traffic[0])
			}
		}
		if n := len(f.resets); n != 4 {
			t.Fatalf("%d requests wait, want all 4", n)
		}
		// What was accepted is done, though the service is told to end.
		f.run(t)()
		if n := f.events.count(eventPasswordReset); n != 1 {
			t.Errorf("%d mails, want 1: only ann exists", n)
		}
		_, err := f.RequestReset(from(t), &authpb.RequestResetRequest{Account: "ann"})
		wantCode(t, "after Run has ended", err, codes.Unavailable)
	})
}

func TestResetQueueIsBounded(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		for range maxResets {
			if _, err := f.RequestReset(from(t), &authpb.RequestResetRequest{Account: "nobody"}); err != nil {
				t.Fatal(err)
			}
		}
		_, err := f.RequestReset(from(t), &authpb.RequestResetRequest{Account: "nobody"})
		wantCode(t, "one more", err, codes.Unavailable)
	})
}

// Without Redis nothing is changed, and the code is good for another try.
func TestResetWithoutRedis(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.run(t)
		f.add(t, "ann")
		token := f.mustLogin(t, "ann", secret).GetToken()
		code := f.resetCode(t, "ann")
		f.traffic.intercept(func(cmd redis.Cmder) error {
			if cmd.Name() == "zrange" {
				return errAway
			}
			return nil
		})
		wantCode(t, "Redis fails", f.reset(t, "ann", code, "a new password"), codes.Unavailable)
		f.traffic.intercept(nil)
		f.mustLogin(t, "ann", secret)
		if err := f.reset(t, "ann", code, "a new password"); err != nil {
			t.Fatal("the second try:", err)
		}
		if f.whose(t, token) != 0 {
			t.Error("the token outlives the password")
		}
	})
}

// A login is under way between the two times at which a reset ends tokens.
func TestResetEndsATokenIssuedMeanwhile(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.run(t)
		u, _ := f.add(t, "ann")
		code := f.resetCode(t, "ann")
		var issued string
		seen := 0
		f.traffic.intercept(func(cmd redis.Cmder) error {
			if cmd.Name() != "zrange" {
				return nil
			}
			if seen++; seen == 2 {
				f.traffic.intercept(nil)
				var err error
				issued, _, err = f.tokens.issue(t.Context(), u.GetId(), "")
				return err
			}
			return nil
		})
		if err := f.reset(t, "ann", code, "a new password"); err != nil {
			t.Fatal(err)
		}
		if issued == "" || f.whose(t, issued) != 0 {
			t.Fatalf("the token %q that was issued meanwhile is good", issued)
		}
	})
}

func TestResetRedelivered(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.run(t)
		f.add(t, "ann")
		in := &authpb.ResetPasswordRequest{Account: "ann", Code: f.resetCode(t, "ann"), Password: "a new password"}
		if _, err := f.ResetPassword(from(t), in); err != nil {
			t.Fatal(err)
		}
		again := as(t, worker.Caller{Session: session, Redelivered: true})
		if _, err := f.ResetPassword(again, in); err != nil {
			t.Error("delivered again:", err)
		}
		in.Password = "yet another one"
		_, err := f.ResetPassword(again, in)
		wantCode(t, "another password", err, codes.PermissionDenied)
		in.Account = "bob"
		_, err = f.ResetPassword(again, in)
		wantCode(t, "nobody's account", err, codes.PermissionDenied)
	})
}

// A replica that dies when the password is replaced has not ended what came in with
// the old one meanwhile: the next replica does, before it says that all is done.
func TestResetOfAReplicaThatDied(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.run(t)
		account, _ := f.add(t, "ann")
		in := &authpb.ResetPasswordRequest{Account: "ann", Code: f.resetCode(t, "ann"), Password: "a new password"}
		u, err := f.users.byKey(t.Context(), "ann")
		if err != nil {
			t.Fatal(err)
		}
		hash, err := f.passwords.hash(t.Context(), in.GetPassword())
		if err != nil {
			t.Fatal(err)
		}
		issued, _, err := f.tokens.issue(t.Context(), u.id, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.users.setPassword(t.Context(), u, hash, true); err != nil {
			t.Fatal(err)
		}
		again := as(t, worker.Caller{Session: session, Redelivered: true})
		if _, err := f.ResetPassword(again, in); err != nil {
			t.Fatal("delivered again:", err)
		}
		if f.whose(t, issued) != 0 {
			t.Error("a token outlives the password")
		}
		if !slices.Equal(f.gates.kicked, []int64{account.GetId()}) {
			t.Errorf("kicked: %v, want %d", f.gates.kicked, account.GetId())
		}
	})
}

// The request's time is over just when the password is replaced: what came in with the
// old one ends all the same, for nobody can ask for it again with this code.
func TestResetWhoseTimeIsOver(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.run(t)
		u, _ := f.add(t, "ann")
		token := f.mustLogin(t, "ann", secret).GetToken()
		in := &authpb.ResetPasswordRequest{Account: "ann", Code: f.resetCode(t, "ann"), Password: "a new password"}
		ctx, cancel := context.WithCancel(from(t))
		defer cancel()
		seen := 0
		f.traffic.intercept(func(cmd redis.Cmder) error {
			if cmd.Name() == "zrange" {
				if seen++; seen == 2 {
					cancel()
				}
			}
			return nil
		})
		if _, err := f.ResetPassword(ctx, in); err != nil {
			t.Fatal(err)
		}
		if f.whose(t, token) != 0 {
			t.Error("the token outlives the password")
		}
		if !slices.Equal(f.gates.kicked, []int64{u.GetId()}) {
			t.Errorf("kicked: %v, want %d", f.gates.kicked, u.GetId())
		}
	})
}
