package auth

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/worker"
	"github.com/motto123/minigate/proto/authpb"
)

// silentGates take calls and never answer.
type silentGates struct{}

func (silentGates) Bind(ctx context.Context, _ worker.Session, _ int64) error {
	<-ctx.Done()
	return status.FromContextError(ctx.Err()).Err()
}

func (silentGates) KickUser(ctx context.Context, _ int64, _, _ string) (int, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

// A gate that hangs keeps a login no longer than a few seconds after its time: what
// waits for it would take all that the worker may handle at once.
func TestLoginOnASilentGate(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.add(t, "ann")
		f.Service.gates = silentGates{}
		ctx, cancel := context.WithTimeout(from(t), 300*time.Millisecond)
		defer cancel()
		ended := make(chan error, 1)
		go func() {
			_, err := f.Login(ctx, &authpb.LoginRequest{Account: "ann", Password: secret})
			ended <- err
		}()
		select {
		case err := <-ended:
			if c := status.Code(err); c != codes.Unavailable && c != codes.DeadlineExceeded {
				t.Errorf("got %v", err)
			}
			if n := len(f.keys(t, "token:")); n != 0 {
				t.Errorf("%d tokens are left", n)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the login does not end")
		}
	})
}
