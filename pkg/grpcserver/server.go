// Package grpcserver serves gRPC, and ends in time whatever stays connected.
//
// It refuses to know services and who may call them: those are registered, and come
// with the options.
package grpcserver

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/motto123/minigate/pkg/parts"
)

// Config is what Serve needs. All but Options and Ending are required.
type Config struct {
	Name     string // in what is cut off
	Listener net.Listener
	Options  []grpc.ServerOption
	Register func(grpc.ServiceRegistrar)
	// Limit is how long calls that run may go on when the server ends.
	Limit time.Duration
	// Ending, if set, may cut that short, and is told of calls that were cut off.
	Ending *parts.Ending
}

const (
	// Greeting is how long a connection has to say that it speaks gRPC, with its TLS
	// handshake. grpc's servers wait for all of these when they end, and with its
	// default that is two minutes.
	Greeting = 3 * time.Second
	// stopTime is how long the end of calls that were cut off is waited for.
	stopTime = time.Second
)

// Serve serves until ctx ends, and lets running calls end then. What runs after
// Config.Limit, or when Config.Ending hurries, is cut off.
func Serve(ctx context.Context, cfg Config) error {
	var running atomic.Int64
	server := grpc.NewServer(append(slices.Clip(cfg.Options), grpc.ConnectionTimeout(Greeting), grpc.ChainUnaryInterceptor(
		func(ctx context.Context, in any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			running.Add(1)
			defer running.Add(-1)
			return handle(ctx, in)
		}))...)
	cfg.Register(server)
	listener := &listener{Listener: cfg.Listener}
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
	within, cancel := cfg.Ending.Within(context.WithoutCancel(ctx), cfg.Limit)
	defer cancel()
	select {
	case <-stopped:
	case <-within.Done():
		if n := running.Load(); n > 0 {
			cfg.Ending.CutOff("%s: %d calls", cfg.Name, n)
		}
		listener.closeNew()
		server.Stop()
		select {
		case <-stopped:
		case <-time.After(stopTime): // a call does not heed its context
		}
	}
	if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

// listener knows the connections that may not have said yet what they speak, for
// which the server's Stop waits, too. They are not wrapped, since grpc sets options
// of a *net.TCPConn.
type listener struct {
	net.Listener

	mu  sync.Mutex
	new []accepted // oldest first
}

type accepted struct {
	net.Conn
	at time.Time
}

// Accept forgets those that have spoken by now, or were closed.
func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	old := 0
	for old < len(l.new) && now.Sub(l.new[old].at) > Greeting+time.Second {
		old++
	}
	l.new = append(slices.Delete(l.new, 0, old), accepted{conn, now})
	return conn, nil
}

// closeNew closes those that are known, whether they have spoken or not.
func (l *listener) closeNew() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.new {
		_ = c.Close() // which the server does, too
	}
	l.new = nil
}
