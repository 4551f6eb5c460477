package auth

import (
	"net"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/motto123/minigate/pkg/sqldb/sqldbtest"
	"github.com/motto123/minigate/pkg/worker"
	"github.com/motto123/minigate/proto/authpb"
)

// dial serves the service on a port and returns a client of it.
func dial(t *testing.T, f *fixture) authpb.AuthClient {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	f.RegisterGRPC(s)
	done := make(chan error, 1)
	go func() { done <- s.Serve(listener) }()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		s.Stop()
		if err := <-done; err != nil {
			t.Error("serve:", err)
		}
	})
	return authpb.NewAuthClient(conn)
}

func TestGRPC(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		client := dial(t, f)
		ann, _ := f.add(t, "ann")
		bob, _ := f.add(t, "bob")
		login := f.mustLogin(t, "ann", secret)
		answer, err := client.Verify(t.Context(), &authpb.VerifyRequest{Token: login.GetToken()})
		if err != nil || answer.GetUser() != ann.GetId() || answer.GetExpiresAt() != login.GetExpiresAt() {
			t.Errorf("verify: %v, %v", answer, err)
		}
		_, err = client.Verify(t.Context(), &authpb.VerifyRequest{Token: "nonsense"})
		wantCode(t, "verify nonsense", err, codes.Unauthenticated)

		users, err := client.Users(t.Context(), &authpb.UsersRequest{Ids: []int64{bob.GetId(), 5, ann.GetId(), bob.GetId()}})
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(users.Users, func(a, b *authpb.User) int { return int(a.GetId() - b.GetId()) })
		want := []*authpb.User{{Id: ann.GetId(), Account: "ann", Nickname: "ann"}, {Id: bob.GetId(), Account: "bob", Nickname: "bob"}}
		if diff := cmp.Diff(want, users.GetUsers(), protocmp.Transform()); diff != "" {
			t.Error("users:", diff)
		}
		if none, err := client.Users(t.Context(), &authpb.UsersRequest{}); err != nil || len(none.GetUsers()) != 0 {
			t.Errorf("no ids: %v, %v", none, err)
		}
		if _, err := client.Users(t.Context(), &authpb.UsersRequest{Ids: make([]int64, maxUsers)}); err != nil {
			t.Error("as many ids as allowed:", err)
		}
		_, err = client.Users(t.Context(), &authpb.UsersRequest{Ids: make([]int64, maxUsers+1)})
		wantCode(t, "one id more", err, codes.InvalidArgument)

		// A column that is gone is a fault of ours, whose text stays here.
		if _, err := f.cfg.DB.ExecContext(t.Context(), "ALTER TABLE users RENAME COLUMN nickname TO gone"); err != nil {
			t.Fatal(err)
		}
		_, err = client.Users(t.Context(), &authpb.UsersRequest{Ids: []int64{1}})
		if want := "rpc error: code = Internal desc = internal error"; err == nil || err.Error() != want {
			t.Errorf("without its column: %v, want %s", err, want)
		}
	})
}

func TestRoutes(t *testing.T) {
	f := newFixture(t, sqldbtest.SQLite(t), inProcess(t), Config{})
	w := worker.New("auth", worker.Config{})
	f.Register(w)
	want := []string{"auth.find", "auth.login", "auth.logout", "auth.register", "auth.request_reset",
		"auth.resend_verification", "auth.reset_password", "auth.verify_email"}
	got := slices.Sorted(slices.Values(w.Routes()))
	if !slices.Equal(got, want) {
		t.Errorf("routes %v, want %v", got, want)
	}
}
