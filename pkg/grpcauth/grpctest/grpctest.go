// Package grpctest has a gRPC server for tests, of gRPC's own health service, and a
// caller of it: who tests how calls are secured, found or carried needs no service of
// its own.
//
// It refuses to be part of a program: everything fails the test it is called in.
package grpctest

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// Service is what Serve serves.
const Service = "grpc.health.v1.Health"

// patience bounds a Call.
const patience = 10 * time.Second

// Serve serves until the test ends, on a port that it chooses.
func Serve(t testing.TB, options ...grpc.ServerOption) (address string) {
	t.Helper()
	address, _ = ServeAt(t, "127.0.0.1:0", options...)
	return address
}

// ServeAt serves at host:port until it is stopped, or the test ends. It returns where
// that is.
func ServeAt(t testing.TB, address string, options ...grpc.ServerOption) (at string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(options...)
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	stop = sync.OnceFunc(func() {
		s.Stop()
		// Where it was stopped before it could begin, Serve says so.
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

// Connect returns a connection to an address, in plain text unless options say
// otherwise. It is closed when the test ends.
func Connect(t testing.TB, address string, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	options = append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, options...)
	c, err := grpc.NewClient("passthrough:///"+address, options...)
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

// Call makes a unary call and one that streams, which are to end alike, and returns how
// the first did.
func Call(t testing.TB, c *grpc.ClientConn) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	health := grpc_health_v1.NewHealthClient(c)
	_, err := health.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	stream, streamed := health.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
	if streamed == nil {
		_, streamed = stream.Recv()
	}
	if status.Code(err) != status.Code(streamed) {
		t.Errorf("a call came to %v, a stream to %v", err, streamed)
	}
	return err
}
