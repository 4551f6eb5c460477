package grpcauth

import (
	"context"
	"crypto/tls"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/certificates"
	"github.com/motto123/minigate/pkg/certificates/certtest"
	"github.com/motto123/minigate/pkg/grpcauth/grpctest"
	"github.com/motto123/minigate/pkg/settings"
	"github.com/motto123/minigate/pkg/tracing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCallers(t *testing.T) {
	one, two := certtest.NewAuthority(t, "one"), certtest.NewAuthority(t, "two")
	good := issue(t, one, certtest.Options{})
	named := issue(t, one, certtest.Options{Name: "gate"})
	foreign := issue(t, two, certtest.Options{})
	tlsOnly := certificates.Config{Cert: good.Cert, Key: good.Key}
	trusting := certificates.Config{CA: good.CA}
	const token = "a-token-of-services"

	mutual, both := Config{Files: good}, Config{Files: good, Tokens: token}
	for name, c := range map[string]struct {
		server, caller Config
		want           codes.Code
		reason         string // in the error, and in the server's log
	}{
		"nothing is asked for":      {Config{}, Config{}, codes.OK, ""},
		"a certificate":             {mutual, mutual, codes.OK, ""},
		"TLS without certificates":  {Config{Files: tlsOnly}, Config{Files: trusting}, codes.OK, ""},
		"no certificate":            {mutual, Config{Files: trusting}, codes.Unauthenticated, "no certificate"},
		"another authority":         {mutual, Config{Files: as(foreign, good)}, codes.Unauthenticated, "certificate signed by unknown authority"},
		"a server's certificate":    {mutual, Config{Files: issue(t, one, certtest.Options{Server: true})}, codes.Unauthenticated, "incompatible key usage"},
		"a name that may":           {Config{Files: good, Names: "auth, gate"}, Config{Files: named}, codes.OK, ""},
		"a name that may not":       {Config{Files: good, Names: "auth, chat"}, Config{Files: named}, codes.Unauthenticated, "want one of"},
		"a token":                   {Config{Tokens: token}, Config{Tokens: token}, codes.OK, ""},
		"a new token":               {Config{Tokens: "old-token, " + token}, Config{Tokens: token + ",old-token"}, codes.OK, ""},
		"an old token":              {Config{Tokens: token + ",new-token"}, Config{Tokens: token}, codes.OK, ""},
		"a wrong token":             {Config{Tokens: token}, Config{Tokens: token + "x," + token}, codes.Unauthenticated, "a wrong service token"},
		"the beginning of a token":  {Config{Tokens: token}, Config{Tokens: token[:5]}, codes.Unauthenticated, "a wrong service token"},
		"no token":                  {Config{Tokens: token}, Config{}, codes.Unauthenticated, "no service token"},
		"certificate and token":     {both, both, codes.OK, ""},
		"certificate without token": {both, mutual, codes.Unauthenticated, "no service token"},
		"token without certificate": {both, Config{Files: trusting, Tokens: token}, codes.Unauthenticated, "no certificate"},
		"TLS and a token":           {Config{Files: tlsOnly, Tokens: token}, Config{Files: trusting, Tokens: token}, codes.OK, ""},
	} {
		t.Run(name, func(t *testing.T) {
			server, log := guard(t, c.server)
			caller, _ := guard(t, c.caller)
			address := serve(t, server)
			err := grpctest.Call(t, grpctest.Connect(t, address, caller.DialOptions()...))
			if status.Code(err) != c.want {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if Refused(err) != (c.want == codes.Unauthenticated) {
				t.Errorf("Refused says %v of %v", Refused(err), err)
			}
			if c.want == codes.OK {
				if got := log.Take(); got != "" {
					t.Errorf("the log has\n%s", got)
				}
				return
			}
			if !strings.Contains(err.Error(), c.reason) {
				t.Errorf("got %v, want %q", err, c.reason)
			}
			got := log.Await(t, "a gRPC call was refused")
			for _, part := range []string{"peer=\"127.0.0.1:", c.reason, "/grpc.health.v1.Health/Check"} {
				if !strings.Contains(got, part) {
					t.Errorf("the log has no %q:\n%s", part, got)
				}
			}
			if strings.Contains(got, token[:5]) || strings.Contains(err.Error(), token[:5]) {
				t.Errorf("a token is in the log or in the error: %v\n%s", err, got)
			}
			if n := strings.Count(got+log.Take(), "refused"); n != 1 {
				t.Errorf("got %d lines of one reason", n)
			}
		})
	}
}

// TestExpiredCaller: what can not be loaded any more may still be in use.
func TestExpiredCaller(t *testing.T) {
	one := certtest.NewAuthority(t, "one")
	cfg := Config{Files: issue(t, one, certtest.Options{})}
	server, log := guard(t, cfg)
	address := serve(t, server)
	certificate, key := one.Issue(t, certtest.Options{NotAfter: time.Now().Add(-time.Minute)})
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	caller, _ := guard(t, cfg)
	shown := caller.files.Client("127.0.0.1")
	shown.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	c := grpctest.Connect(t, address, grpc.WithTransportCredentials(credentials.NewTLS(shown)))
	if err := grpctest.Call(t, c); status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "expired") {
		t.Errorf("got %v", err)
	}
	log.Await(t, "certificate has expired")
}

// TestServers: a caller refuses a server that is not one of its authority's, or
// has another name.
func TestServers(t *testing.T) {
	one, two := certtest.NewAuthority(t, "one"), certtest.NewAuthority(t, "two")
	good, foreign := issue(t, one, certtest.Options{}), issue(t, two, certtest.Options{})
	named := issue(t, one, certtest.Options{Name: "gate"})
	for name, c := range map[string]struct {
		server, caller Config
		want, log      string
	}{
		"another authority": {Config{Files: as(foreign, good)}, Config{Files: good}, "signed by unknown authority", "bad certificate"},
		"another host":      {Config{Files: named}, Config{Files: good}, "doesn't contain any IP SANs", "bad certificate"},
		"another name":      {Config{Files: named}, Config{Files: good, ServerName: "auth"}, "not auth", "bad certificate"},
		"plain text":        {Config{Files: good}, Config{}, "", "first record does not look like a TLS handshake"},
		"plain text server": {Config{}, Config{Files: good}, "first record does not look like a TLS handshake", ""},
	} {
		t.Run(name, func(t *testing.T) {
			server, log := guard(t, c.server)
			caller, _ := guard(t, c.caller)
			err := grpctest.Call(t, grpctest.Connect(t, serve(t, server), caller.DialOptions()...))
			if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if c.log != "" {
				if got := log.Await(t, c.log); !strings.Contains(got, "a gRPC connection was refused") || !strings.Contains(got, "peer=\"127.0.0.1:") {
					t.Errorf("the log has\n%s", got)
				}
			}
		})
	}
	t.Run("the name", func(t *testing.T) {
		server, _ := guard(t, Config{Files: named})
		caller, _ := guard(t, Config{Files: good, ServerName: "gate"})
		if err := grpctest.Call(t, grpctest.Connect(t, serve(t, server), caller.DialOptions()...)); err != nil {
			t.Error(err)
		}
	})
}

// TestRenewal: callers and servers take new certificates and a new authority for
// new connections; those that are open go on.
func TestRenewal(t *testing.T) {
	one, two := certtest.NewAuthority(t, "one"), certtest.NewAuthority(t, "two")
	dir := t.TempDir()
	cfg := Config{Files: files(one.Write(t, dir, certtest.Options{}))}
	cfg.Files.Every = time.Millisecond
	g, log := guard(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	address := serve(t, g)
	before := grpctest.Connect(t, address, g.DialOptions()...)
	if err := grpctest.Call(t, before); err != nil {
		t.Fatal(err)
	}
	old, _ := guard(t, Config{Files: issue(t, one, certtest.Options{})})

	two.Write(t, dir, certtest.Options{}) // each file by itself: they do not fit for a moment
	log.Await(t, "certificates were renewed")
	deadline := time.Now().Add(10 * time.Second)
	for err := errors.New("not yet"); err != nil; {
		if time.Now().After(deadline) {
			t.Fatalf("after the renewal: %v", err)
		}
		err = grpctest.Call(t, grpctest.Connect(t, address, g.DialOptions()...))
	}
	if err := grpctest.Call(t, before); err != nil || before.GetState() != connectivity.Ready {
		t.Errorf("a connection from before: %v, %v", before.GetState(), err)
	}
	if err := grpctest.Call(t, grpctest.Connect(t, address, old.DialOptions()...)); status.Code(err) != codes.Unavailable {
		t.Errorf("the old authority: got %v", err)
	}
}

func TestCheck(t *testing.T) {
	certificate := issue(t, certtest.NewAuthority(t, "one"), certtest.Options{})
	everybody, encrypted := &Config{}, &Config{Files: certificates.Config{Cert: certificate.Cert, Key: certificate.Key}}
	token, mutual := &Config{Tokens: "a-token-of-services"}, &Config{Files: certificate}
	for address, loopback := range map[string]bool{
		"127.0.0.1:1": true, "127.8.8.8:1": true, "[::1]:1": true, "localhost:1": true, "[::ffff:127.0.0.1]:1": true,
		":1": false, "0.0.0.0:1": false, "[::]:1": false, "10.0.0.1:1": false, "gate:1": false, "localhost.example.org:1": false,
	} {
		for name, g := range map[string]*Config{"everybody": everybody, "encrypted": encrypted} {
			if err := g.Check(address); errors.Is(err, ErrOpen) == loopback || (err != nil) == loopback {
				t.Errorf("%s at %s: got %v", name, address, err)
			}
		}
		for name, g := range map[string]*Config{"token": token, "mutual": mutual} {
			if err := g.Check(address); err != nil {
				t.Errorf("%s at %s: got %v", name, address, err)
			}
		}
	}
	if err := mutual.Check("nowhere"); err == nil || errors.Is(err, ErrOpen) {
		t.Errorf("an address that is none: got %v", err)
	}
}

func TestConfig(t *testing.T) {
	certificate := issue(t, certtest.NewAuthority(t, "one"), certtest.Options{})
	for name, cfg := range map[string]Config{
		"no key":                  {Files: certificates.Config{Cert: certificate.Cert, CA: certificate.CA}},
		"no file":                 {Files: certificates.Config{CA: certificate.CA + "x"}},
		"names without authority": {Files: certificates.Config{Cert: certificate.Cert, Key: certificate.Key}, Names: "gate"},
		"an empty token":          {Tokens: "a,,b"},
		"a token of two words":    {Tokens: "a b"},
		"a token of two lines":    {Tokens: "a\nb"},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	trusting, _ := guard(t, Config{Files: certificates.Config{CA: certificate.CA}})
	if _, err := trusting.ServerOptions(); err == nil {
		t.Error("a server without a certificate has options")
	}
	plain, _ := guard(t, Config{})
	if options, err := plain.ServerOptions(); err != nil || len(options) > 0 || len(plain.DialOptions()) > 0 {
		t.Errorf("plain text has options: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := plain.Run(ctx); err != nil {
		t.Error(err)
	}

	token := t.TempDir() + "/token"
	if err := os.WriteFile(token, []byte("first,second\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var cfg Config
	s := settings.Set{FlagSet: pflag.NewFlagSet("test", pflag.ContinueOnError)}
	cfg.Settings(s)
	if err := s.Parse([]string{"--grpc-cert", "c", "--grpc-key", "k", "--grpc-ca", "a", "--grpc-names", "n", "--grpc-server-name", "s"}); err != nil {
		t.Fatal(err)
	}
	if _, err := settings.Apply(s.FlagSet, "", []string{"MINIGATE_SERVICE_TOKEN_FILE=" + token}, nil); err != nil {
		t.Fatal(err)
	}
	got := [...]string{cfg.Files.Cert, cfg.Files.Key, cfg.Files.CA, cfg.Names, cfg.ServerName, cfg.Tokens}
	if want := [...]string{"c", "k", "a", "n", "s", "first,second"}; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if text := s.Lookup("service-token").Value.String(); strings.Contains(text, "first") {
		t.Errorf("the token is shown: %s", text)
	}
}

// TestRefusalsNameTheRequest: the line of a call that is refused says for whose
// request it was made.
func TestRefusalsNameTheRequest(t *testing.T) {
	var off *tracing.Tracer
	server, log := guard(t, Config{Tokens: "a-token-of-services"})
	conn := grpctest.Connect(t, serve(t, server, off.ServerOptions()...), off.DialOptions()...)
	ctx := tracing.With(t.Context(), tracing.Request{Gate: "g", Session: 5, Sequence: 7})
	if _, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{}); !Refused(err) {
		t.Fatalf("got %v", err)
	}
	if got := log.Await(t, "a gRPC call was refused"); !strings.Contains(got, "gate=g") || !strings.Contains(got, "session=5") || !strings.Contains(got, "request=7") {
		t.Errorf("the log has\n%s", got)
	}
}
