package workers

import (
	"context"
	"net"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/parts"
	"github.com/motto123/minigate/proto/authpb"
)

// slow is an Auth service that answers when it is let.
type slow struct {
	authpb.UnimplementedAuthServer
	entered chan struct{}
	answer  chan struct{}
}

func (s *slow) Verify(ctx context.Context, _ *authpb.VerifyRequest) (*authpb.VerifyResponse, error) {
	s.entered <- struct{}{}
	select {
	case <-s.answer:
		return &authpb.VerifyResponse{}, nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

// A call that runs when the server is to end is answered, unless the process
// hurries: then it is cut off, and said to be.
func TestCallsEndUnlessTheProcessHurries(t *testing.T) {
	for _, hurry := range []bool{false, true} {
		s := &slow{entered: make(chan struct{}, 1), answer: make(chan struct{})}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ending := parts.NewEnding()
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- serve(ctx, ending, listener, func(r grpc.ServiceRegistrar) { authpb.RegisterAuthServer(r, s) }, nil)
		}()
		conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		called := make(chan error, 1)
		go func() {
			_, err := authpb.NewAuthClient(conn).Verify(t.Context(), &authpb.VerifyRequest{})
			called <- err
		}()
		<-s.entered
		stop()
		want, cut := codes.OK, []string(nil)
		if hurry {
			want, cut = codes.Unavailable, []string{"auth gRPC: 1 calls"}
			ending.Hurry()
		} else {
			close(s.answer)
		}
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("the server does not end")
		}
		if err := <-called; status.Code(err) != want {
			t.Errorf("hurry=%v: the call ends with %v, want %v", hurry, err, want)
		}
		if got := ending.Cut(); !slices.Equal(got, cut) {
			t.Errorf("hurry=%v: %q was cut off, want %q", hurry, got, cut)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
}
