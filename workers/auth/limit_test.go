package auth

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/sqldb"
	"github.com/motto123/minigate/pkg/sqldb/sqldbtest"
	"github.com/motto123/minigate/pkg/worker"
	"github.com/motto123/minigate/proto/authpb"
)

func TestLimit(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		limit := Limit{Burst: 3, Every: time.Hour}
		for range 3 {
			if err := f.allow(t.Context(), "x", "ann", limit); err != nil {
				t.Fatal(err)
			}
		}
		err := f.allow(t.Context(), "x", "ann", limit)
		wantCode(t, "the fourth", err, codes.ResourceExhausted)
		if message := status.Convert(err).Message(); message != "too many tries, wait 3600 s" {
			t.Errorf("the message is %q, it should say how long to wait", message)
		}
		if err := f.allow(t.Context(), "x", "bob", limit); err != nil {
			t.Error("somebody else:", err)
		}
		if err := f.allow(t.Context(), "y", "ann", limit); err != nil {
			t.Error("something else:", err)
		}
		for _, key := range f.keys(t, "limit:") {
			if f.redis.PTTL(t.Context(), key).Val() <= 0 {
				t.Errorf("%s stays for ever", key)
			}
		}
	})
}

func TestLimitRefills(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		limit := Limit{Burst: 2, Every: 50 * time.Millisecond}
		began := time.Now()
		allowed := 0
		eventually(t, "ten tries are allowed", func() bool {
			if f.allow(t.Context(), "x", "ann", limit) == nil {
				allowed++
			}
			return allowed == 10
		})
		if took := time.Since(began); took < 8*limit.Every {
			t.Errorf("2 at once and 8 more took %v, want %v or more", took, 8*limit.Every)
		}
	})
}

// Each route asks its limits before it does any work.
func TestRoutesAreLimited(t *testing.T) {
	one := Limit{Burst: 1, Every: time.Hour}
	none := Limit{Burst: -1}
	off := Limits{none, none, none, none, none, none, none}
	type call func(t *testing.T, f *fixture, account, address string) error
	anonymous := func(t *testing.T, address string) worker.Caller {
		return worker.Caller{Session: session, Address: netip.MustParseAddr(address)}
	}
	login := func(t *testing.T, f *fixture, account, address string) error {
		_, err := f.Login(as(t, anonymous(t, address)), &authpb.LoginRequest{Account: account, Password: "x"})
		return err
	}
	register := func(t *testing.T, f *fixture, account, address string) error {
		_, err := f.RegisterUser(as(t, anonymous(t, address)), &authpb.RegisterRequest{Account: account, Password: secret, Email: account + "@example.com"})
		return err
	}
	request := func(t *testing.T, f *fixture, account, address string) error {
		_, err := f.RequestReset(as(t, anonymous(t, address)), &authpb.RequestResetRequest{Account: account})
		return err
	}
	reset := func(t *testing.T, f *fixture, account, address string) error {
		_, err := f.ResetPassword(as(t, anonymous(t, address)), &authpb.ResetPasswordRequest{Account: account, Code: "123456", Password: secret})
		return err
	}
	const a, b = "192.0.2.1", "192.0.2.2"
	for _, c := range []struct {
		name      string
		set       func(l *Limits)
		call      call
		byAddress bool
	}{
		{"login by address", func(l *Limits) { l.LoginAddress = one }, login, true},
		{"login by account", func(l *Limits) { l.LoginAccount = one }, login, false},
		{"register by address", func(l *Limits) { l.RegisterAddress = one }, register, true},
		{"register by mail", func(l *Limits) { l.Mail = one }, func(t *testing.T, f *fixture, account, address string) error {
			_, err := f.RegisterUser(as(t, anonymous(t, address)), &authpb.RegisterRequest{
				Account: account + strings.ReplaceAll(address, ".", ""), Password: secret, Email: account + "@example.com"})
			return err
		}, false},
		{"request_reset by address", func(l *Limits) { l.ResetAddress = one }, request, true},
		{"request_reset by account", func(l *Limits) { l.ResetAccount = one }, request, false},
		{"reset_password by address", func(l *Limits) { l.ResetAddress = one }, reset, true},
		{"reset_password by account", func(l *Limits) { l.CodeAccount = one }, reset, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			limits := off
			c.set(&limits)
			f := newFixture(t, sqldbtest.SQLite(t), inProcess(t), Config{Limits: limits})
			exhausted := func(account, address string) bool {
				return status.Code(c.call(t, f, account, address)) == codes.ResourceExhausted
			}
			if exhausted("ann", a) {
				t.Fatal("the first try is limited")
			}
			// By address: another account from there counts too. By account: the
			// same from elsewhere, however its letters are written.
			if c.byAddress && !exhausted("bob", a) || !c.byAddress && !exhausted("ANN", b) {
				t.Error("the second try is not limited")
			}
			if exhausted("cid", b) {
				t.Error("somebody else is limited")
			}
		})
	}
}

func TestVerifyIsLimited(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		u, code := f.add(t, "ann")
		f.cfg.Limits.CodeAccount = Limit{Burst: 1, Every: time.Hour}
		f.cfg.Limits.Mail = Limit{Burst: 1, Every: time.Hour}
		_, err := f.VerifyEmail(by(t, u.GetId()), &authpb.VerifyEmailRequest{Code: wrong(code)})
		wantCode(t, "a wrong code", err, codes.PermissionDenied)
		_, err = f.VerifyEmail(by(t, u.GetId()), &authpb.VerifyEmailRequest{Code: code})
		wantCode(t, "the second try", err, codes.ResourceExhausted)
		if _, err := f.ResendVerification(by(t, u.GetId()), &authpb.ResendVerificationRequest{}); err != nil {
			t.Fatal(err)
		}
		_, err = f.ResendVerification(by(t, u.GetId()), &authpb.ResendVerificationRequest{})
		wantCode(t, "the second mail", err, codes.ResourceExhausted)
	})
}

func TestNetwork(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64",
	} {
		if got := network(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s counts as %s, want %s", address, got, want)
		}
	}
	if network(netip.Addr{}) == "" {
		t.Error("an address that is not known has no name")
	}
}

func TestBadConfigurations(t *testing.T) {
	db := sqldbtest.SQLite(t)
	client := inProcess(t)
	good := Config{DB: db, Redis: client, IDs: &counter{}, Events: &recorder{}}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(c *Config){
		"DB":            func(c *Config) { c.DB = (*sqldb.DB)(nil) },
		"Redis":         func(c *Config) { c.Redis = nil },
		"IDs":           func(c *Config) { c.IDs = nil },
		"Events":        func(c *Config) { c.Events = nil },
		"token life":    func(c *Config) { c.TokenLife = -1 },
		"code life":     func(c *Config) { c.CodeLife = 1 },
		"tokens":        func(c *Config) { c.TokensPerUser = -1 },
		"memory":        func(c *Config) { c.Passwords.MemoryKiB = 1 },
		"much memory":   func(c *Config) { c.Passwords.MemoryKiB = 2 << 20 },
		"concurrency":   func(c *Config) { c.Passwords.Concurrent = -1 },
		"limit":         func(c *Config) { c.Limits.Mail = Limit{Burst: 1} },
		"limit of none": func(c *Config) { c.Limits.Mail = Limit{Every: time.Second} },
	} {
		c := good
		spoil(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
