package workers

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync/atomic"

	"google.golang.org/grpc"

	"github.com/motto123/minigate/pkg/parts"
)

// serve serves until ctx ends, and lets running calls end then. They have
// deadlines of their own, but are cut off where ending hurries.
func serve(ctx context.Context, ending *parts.Ending, listener net.Listener, register func(grpc.ServiceRegistrar), options []grpc.ServerOption) error {
	var running atomic.Int64
	server := grpc.NewServer(append(slices.Clip(options), grpc.ChainUnaryInterceptor(
		func(ctx context.Context, in any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			running.Add(1)
			defer running.Add(-1)
			return handle(ctx, in)
		}))...)
	register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		server.GracefulStop()
	}()
	select {
	case <-stopped:
	case <-ending.Hurried():
		if n := running.Load(); n > 0 {
			ending.CutOff("auth gRPC: %d calls", n)
		}
		server.Stop()
		<-stopped
	}
	if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}
