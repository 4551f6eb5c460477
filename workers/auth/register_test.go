package auth

import (
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/motto123/minigate/pkg/sqldb/sqldbtest"
	"github.com/motto123/minigate/pkg/worker"
	"github.com/motto123/minigate/proto/authpb"
)

func TestRegisterVerifyLogin(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		answer, err := f.RegisterUser(from(t), &authpb.RegisterRequest{
			Account: "Ann.B", Password: secret, Nickname: "Ann \U0001F600", Email: "ann@example.com"})
		if err != nil {
			t.Fatal(err)
		}
		want := &authpb.User{Id: answer.GetUser().GetId(), Account: "Ann.B", Nickname: "Ann \U0001F600", Email: "ann@example.com"}
		if diff := cmp.Diff(want, answer.GetUser(), protocmp.Transform()); diff != "" || want.GetId() == 0 {
			t.Fatal("the new user:", diff)
		}
		registered, _ := f.events.last(eventRegistered).(*authpb.UserRegistered)
		if registered.GetUser() != want.GetId() || registered.GetAccount() != "Ann.B" || registered.GetRegisteredAt() == 0 {
			t.Errorf("the event: %v", registered)
		}
		login := f.mustLogin(t, "ann.b", secret)
		if diff := cmp.Diff(want, login.GetUser(), protocmp.Transform()); diff != "" {
			t.Error("who logged in:", diff)
		}
		mail := f.events.last(eventVerification).(interface {
			GetCode() string
			GetExpiresAt() int64
		})
		if mail.GetExpiresAt() <= now() {
			t.Error("the code in the mail is over already")
		}
		verified, err := f.VerifyEmail(by(t, want.GetId()), &authpb.VerifyEmailRequest{Code: mail.GetCode()})
		if err != nil || !verified.GetUser().GetEmailVerified() {
			t.Fatalf("verify: %v, %v", verified, err)
		}
		if !f.mustLogin(t, "ann.b", secret).GetUser().GetEmailVerified() {
			t.Error("that the address is verified was not stored")
		}
		if len(f.keys(t, "code:")) != 0 {
			t.Error("the code can be used again")
		}
		// A repeat of the request is told the same.
		if _, err := f.VerifyEmail(by(t, want.GetId()), &authpb.VerifyEmailRequest{Code: "000000"}); err != nil {
			t.Error("verify again:", err)
		}
		_, err = f.ResendVerification(by(t, want.GetId()), &authpb.ResendVerificationRequest{})
		wantCode(t, "resend to a verified address", err, codes.FailedPrecondition)
	})
}

func TestAccountsAreComparedWithoutCase(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.add(t, "Käthe")
		for _, taken := range []string{"Käthe", "käthe", "KÄTHE", "Ka\u0308the"} {
			_, err := f.RegisterUser(from(t), &authpb.RegisterRequest{Account: taken, Password: secret, Email: "b@example.com"})
			wantCode(t, taken, err, codes.AlreadyExists)
			f.mustLogin(t, taken, secret)
		}
		f.add(t, "Kathe")
		for _, bad := range []string{"a b", "a\u200bb", "a\x00b", strings.Repeat("\U00020000", 64)} {
			_, err := f.RegisterUser(from(t), &authpb.RegisterRequest{Account: bad, Password: secret, Email: "b@example.com"})
			wantCode(t, bad, err, codes.InvalidArgument)
		}
	})
}

func TestOneOfManyRegistersAnAccount(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		const tries = 8
		results := make([]codes.Code, tries)
		var wg sync.WaitGroup
		for i := range tries {
			wg.Go(func() {
				_, err := f.RegisterUser(from(t), &authpb.RegisterRequest{Account: "ann", Password: secret, Email: "ann@example.com"})
				results[i] = status.Code(err)
			})
		}
		wg.Wait()
		won := 0
		for _, code := range results {
			switch code {
			case codes.OK:
				won++
			case codes.AlreadyExists:
			default:
				t.Errorf("one was told %v", code)
			}
		}
		if won != 1 {
			t.Fatalf("%d registered the same account", won)
		}
	})
}

// Who is told success gets a mail; who is not has no account, and may try again.
func TestRegisterWithoutMail(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		in := &authpb.RegisterRequest{Account: "ann", Password: secret, Email: "ann@example.com"}
		f.events.failing(eventVerification, errAway)
		_, err := f.RegisterUser(from(t), in)
		wantCode(t, "without the broker", err, codes.Unavailable)
		if strings.Contains(status.Convert(err).Message(), errAway.Error()) {
			t.Errorf("the client is told what is for the log: %v", err)
		}
		if _, err := f.users.byKey(t.Context(), "ann"); err != errNoUser {
			t.Fatalf("the user is there though registering failed: %v", err)
		}
		f.events.failing("", nil)
		if _, err := f.RegisterUser(from(t), in); err != nil {
			t.Fatal("the second try:", err)
		}
		f.events.failing(eventRegistered, errAway)
		if _, err := f.RegisterUser(from(t), &authpb.RegisterRequest{Account: "bob", Password: secret, Email: "b@example.com"}); err != nil {
			t.Error("only user.registered failed:", err)
		}
	})
}

func TestRegisterWithoutRedis(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.traffic.intercept(func(redis.Cmder) error { return errAway })
		_, err := f.RegisterUser(from(t), &authpb.RegisterRequest{Account: "ann", Password: secret, Email: "ann@example.com"})
		wantCode(t, "without Redis", err, codes.Unavailable)
		if _, err := f.users.byKey(t.Context(), "ann"); err != errNoUser {
			t.Fatalf("the user is there though registering failed: %v", err)
		}
		if n := f.events.count(eventVerification); n != 0 {
			t.Errorf("%d mails without a code", n)
		}
	})
}

// The broker delivers a request again whose answer was lost.
func TestRegisterRedelivered(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		first, _ := f.add(t, "ann")
		again := as(t, worker.Caller{Session: session, Address: netip.MustParseAddr("192.0.2.1"), Redelivered: true})
		answer, err := f.RegisterUser(again, &authpb.RegisterRequest{Account: "ann", Password: secret, Email: "ann@example.com"})
		if err != nil || answer.GetUser().GetId() != first.GetId() {
			t.Errorf("delivered again: %v, %v; want the user %d", answer, err, first.GetId())
		}
		if n := f.events.count(eventVerification); n != 1 {
			t.Errorf("%d mails, want 1", n)
		}
		for name, in := range map[string]*authpb.RegisterRequest{
			"another password": {Account: "ann", Password: "another one", Email: "ann@example.com"},
			"another address":  {Account: "ann", Password: secret, Email: "eve@example.com"},
		} {
			_, err := f.RegisterUser(again, in)
			wantCode(t, name, err, codes.AlreadyExists)
		}
		_, err = f.RegisterUser(from(t), &authpb.RegisterRequest{Account: "ann", Password: secret, Email: "ann@example.com"})
		wantCode(t, "the same by a stranger", err, codes.AlreadyExists)
	})
}

func TestCodesDieOfWrongTries(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		u, code := f.add(t, "ann")
		verify := func(code string) error {
			_, err := f.VerifyEmail(by(t, u.GetId()), &authpb.VerifyEmailRequest{Code: code})
			return err
		}
		for range maxTries {
			wantCode(t, "a wrong code", verify(wrong(code)), codes.PermissionDenied)
		}
		wantCode(t, "the right code after too many wrong ones", verify(code), codes.PermissionDenied)

		former := code
		if _, err := f.ResendVerification(by(t, u.GetId()), &authpb.ResendVerificationRequest{}); err != nil {
			t.Fatal(err)
		}
		code = f.events.last(eventVerification).(interface{ GetCode() string }).GetCode()
		if code != former {
			wantCode(t, "the former code", verify(former), codes.PermissionDenied)
		}
		for range maxTries - 2 {
			wantCode(t, "a wrong code", verify(wrong(code)), codes.PermissionDenied)
		}
		if err := verify(code); err != nil {
			t.Fatal("the right code within the tries:", err)
		}
	})
}

func TestCodesEnd(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.codes.life = time.Millisecond
		u, code := f.add(t, "ann")
		made := now()
		eventually(t, "the code's time passes", func() bool { return now() > made+1 })
		_, err := f.VerifyEmail(by(t, u.GetId()), &authpb.VerifyEmailRequest{Code: code})
		wantCode(t, "a code that is over", err, codes.PermissionDenied)
	})
}

// Codes belong to one user and one purpose, and Redis alone does not tell them.
func TestCodesAreKeyed(t *testing.T) {
	f := newFixture(t, sqldbtest.SQLite(t), inProcess(t), Config{})
	ctx := t.Context()
	code, _, err := f.codes.create(ctx, verifyEmail, 1, "hash")
	if err != nil {
		t.Fatal(err)
	}
	for name, ok := range map[string]func() (bool, error){
		"another purpose":  func() (bool, error) { return f.codes.check(ctx, resetPassword, 1, "hash", code) },
		"another user":     func() (bool, error) { return f.codes.check(ctx, verifyEmail, 2, "hash", code) },
		"another password": func() (bool, error) { return f.codes.check(ctx, verifyEmail, 1, "other", code) },
	} {
		if right, err := ok(); right || err != nil {
			t.Errorf("%s: %v, %v", name, right, err)
		}
	}
	if right, err := f.codes.check(ctx, verifyEmail, 1, "hash", code); !right || err != nil {
		t.Errorf("the right one: %v, %v", right, err)
	}
	stored := f.redis.HGetAll(ctx, f.codes.key(verifyEmail, 1)).Val()
	if stored["digest"] == codeDigest(verifyEmail, 1, "", code) || strings.Contains(stored["digest"], code) {
		t.Error("what Redis has tells the code")
	}
}

func TestFind(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		u, _ := f.add(t, "Ann")
		for name, in := range map[string]*authpb.FindRequest{"account": {Account: "ANN"}, "id": {Id: u.GetId()}} {
			answer, err := f.Find(by(t, 1), in)
			want := &authpb.User{Id: u.GetId(), Account: "Ann", Nickname: "Ann"}
			if diff := cmp.Diff(want, answer.GetUser(), protocmp.Transform()); diff != "" || err != nil {
				t.Errorf("by %s: %v %s", name, err, diff)
			}
		}
		for name, in := range map[string]*authpb.FindRequest{"account": {Account: "bob"}, "no account": {Account: "a b"}, "id": {Id: 5}} {
			_, err := f.Find(by(t, 1), in)
			wantCode(t, "unknown "+name, err, codes.NotFound)
		}
	})
}
