package authrpc

import (
	"context"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/certificates"
	"github.com/motto123/minigate/pkg/certificates/certtest"
	"github.com/motto123/minigate/pkg/grpcauth"
	"github.com/motto123/minigate/proto/authpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// replica is an Auth service that knows one token.
type replica struct {
	authpb.UnimplementedAuthServer
	calls       atomic.Int32
	unavailable atomic.Bool
}

func (r *replica) Verify(_ context.Context, in *authpb.VerifyRequest) (*authpb.VerifyResponse, error) {
	r.calls.Add(1)
	if r.unavailable.Load() {
		return nil, status.Error(codes.Unavailable, "Redis is gone")
	}
	if in.GetToken() != "good" || in.GetGate() != "g" || in.GetSession() != 7 {
		return nil, status.Error(codes.Unauthenticated, "no such token")
	}
	return &authpb.VerifyResponse{User: 42}, nil
}

func (r *replica) Users(context.Context, *authpb.UsersRequest) (*authpb.UsersResponse, error) {
	return &authpb.UsersResponse{Users: []*authpb.User{{Id: 42}}}, nil
}

func serve(t *testing.T, options ...grpc.ServerOption) (*replica, string) {
	t.Helper()
	return serveAt(t, "127.0.0.1:0", options...)
}

func serveAt(t *testing.T, address string, options ...grpc.ServerOption) (*replica, string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	r, s := new(replica), grpc.NewServer(options...)
	authpb.RegisterAuthServer(s, r)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r, l.Addr().String()
}

func client(t *testing.T, addresses ...string) *Client {
	t.Helper()
	c, err := New(Config{Address: strings.Join(addresses, ",")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestCallsAreSharedByTheReplicasAndTriedAgain(t *testing.T) {
	a, addressA := serve(t)
	b, addressB := serve(t)
	c := client(t, addressA, addressB)
	ctx := context.Background()
	verify := func() {
		t.Helper()
		if user, err := c.Verify(ctx, "good", "g", 7); err != nil || user != 42 {
			t.Fatalf("got %d, %v", user, err)
		}
	}
	for a.calls.Load() == 0 || b.calls.Load() == 0 {
		verify() // both replicas get calls, as soon as both are connected
	}
	a.unavailable.Store(true)
	for range 20 {
		verify()
	}
	if _, err := c.Verify(ctx, "bad", "g", 7); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a bad token: got %v", err)
	}
	if out, err := c.Users(ctx, &authpb.UsersRequest{Ids: []int64{42}}); err != nil || len(out.GetUsers()) != 1 {
		t.Errorf("users: got %v, %v", out, err)
	}
}

// TestNobodyThere: a call waits for a replica, but not for ever.
func TestNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{Address: address, Timeout: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Verify(t.Context(), "good", "g", 7); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Users(ctx, &authpb.UsersRequest{}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("when the caller's time is over: %v", err)
	}
	for _, bad := range []string{"", "http://auth:7102"} {
		if _, err := New(Config{Address: bad}); err == nil {
			t.Errorf("the address %q was taken", bad)
		}
	}
}

// TestReplicaThatComesLate: who asks meanwhile gets an answer.
func TestReplicaThatComesLate(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := client(t, l.Addr().String())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Users(brief(t), &authpb.UsersRequest{}); status.Code(err) != codes.DeadlineExceeded {
		t.Fatalf("without a replica: %v", err)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := c.Verify(t.Context(), "good", "g", 7)
		answered <- err
	}()
	serveAt(t, l.Addr().String())
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

// brief is a context that ends soon.
func brief(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func guard(t *testing.T, cfg grpcauth.Config) *grpcauth.Guard {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	cfg.Log = log
	g, err := grpcauth.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// TestServicesShowWhoTheyAre: and a process that is refused does not take it for
// an answer about a user's token.
func TestServicesShowWhoTheyAre(t *testing.T) {
	f := certtest.NewAuthority(t, "one").Write(t, t.TempDir(), certtest.Options{})
	cfg := grpcauth.Config{Files: certificates.Config{Cert: f.Cert, Key: f.Key, CA: f.CA}, Tokens: "a-token-of-services"}
	options, err := guard(t, cfg).ServerOptions()
	if err != nil {
		t.Fatal(err)
	}
	_, address := serve(t, options...)
	try := func(cfg grpcauth.Config) error {
		t.Helper()
		c, err := New(Config{Address: address, Timeout: time.Second, Options: guard(t, cfg).DialOptions()})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Verify(t.Context(), "good", "g", 7)
		_, users := c.Users(t.Context(), &authpb.UsersRequest{Ids: []int64{42}})
		if status.Code(users) != status.Code(err) {
			t.Errorf("Verify came to %v, Users to %v", err, users)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		return err
	}
	if err := try(cfg); err != nil {
		t.Error(err)
	}
	cfg.Tokens = "another-token"
	if err := try(cfg); status.Code(err) != codes.Unavailable {
		t.Errorf("a wrong service token: got %v", err)
	}
	if err := try(grpcauth.Config{}); status.Code(err) != codes.Unavailable {
		t.Errorf("plain text: got %v", err)
	}
	if _, err := New(Config{Address: "nowhere"}); err == nil {
		t.Error("an address without a port was taken")
	}
}
