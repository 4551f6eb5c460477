package grpcserver

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

// slow is a service that answers when it is let.
type slow struct {
	authpb.UnimplementedAuthServer
	deaf    bool // to its context
	entered chan struct{}
	answer  chan struct{}
}

func (s *slow) Verify(ctx context.Context, _ *authpb.VerifyRequest) (*authpb.VerifyResponse, error) {
	s.entered <- struct{}{}
	over := ctx.Done()
	if s.deaf {
		over = nil
	}
	select {
	case <-s.answer:
		return &authpb.VerifyResponse{}, nil
	case <-over:
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

// served is a server that runs, and what it is told.
type served struct {
	*slow
	address string
	ending  *parts.Ending
	stop    func()
	ended   chan error
}

func serve(t *testing.T, limit time.Duration) *served {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	s := &served{
		slow:    &slow{entered: make(chan struct{}, 1), answer: make(chan struct{})},
		address: listener.Addr().String(), ending: parts.NewEnding(), stop: stop, ended: make(chan error, 1),
	}
	go func() {
		s.ended <- Serve(ctx, Config{
			Name: "gRPC", Listener: listener, Limit: limit, Ending: s.ending,
			Register: func(r grpc.ServiceRegistrar) { authpb.RegisterAuthServer(r, s.slow) },
		})
	}()
	return s
}

// call has a call enter, and returns what it will end with.
func (s *served) call(t *testing.T) <-chan error {
	t.Helper()
	conn, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	called := make(chan error, 1)
	go func() {
		_, err := authpb.NewAuthClient(conn).Verify(t.Context(), &authpb.VerifyRequest{})
		called <- err
	}()
	<-s.entered
	return called
}

// ends waits for the end of the server.
func (s *served) ends(t *testing.T, within time.Duration) {
	t.Helper()
	begun := time.Now()
	select {
	case err := <-s.ended:
		if err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took > within {
			t.Errorf("the end took %v, want less than %v", took, within)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the server does not end")
	}
}

// A call that runs when the server is to end is answered, unless that takes too
// long, or there is a hurry: then it is cut off, and said to be.
func TestCallsEnd(t *testing.T) {
	for _, c := range []struct {
		name         string
		limit        time.Duration
		answer, deaf bool
		hurry        bool
		want         codes.Code
	}{
		{name: "answered", limit: time.Hour, answer: true, want: codes.OK},
		{name: "too slow", limit: 100 * time.Millisecond, want: codes.Unavailable},
		{name: "hurried", limit: time.Hour, hurry: true, want: codes.Unavailable},
		{name: "deaf", limit: 100 * time.Millisecond, deaf: true, want: codes.Unavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, c.limit)
			s.deaf = c.deaf
			called := s.call(t)
			s.stop()
			if c.hurry {
				s.ending.Hurry()
			}
			if c.answer {
				close(s.answer)
			} else {
				defer close(s.answer)
			}
			s.ends(t, 5*time.Second)
			if err := <-called; status.Code(err) != c.want {
				t.Errorf("the call ends with %v, want %v", err, c.want)
			}
			var cut []string
			if c.want != codes.OK {
				cut = []string{"gRPC: 1 calls"}
			}
			if got := s.ending.Cut(); !slices.Equal(got, cut) {
				t.Errorf("%q was cut off, want %q", got, cut)
			}
		})
	}
}

// A connection that says nothing, as a port scan or a check of a load balancer
// makes one, does not keep the server, and is nothing that is cut off.
func TestASilentConnectionDoesNotKeepTheEnd(t *testing.T) {
	for _, c := range []struct {
		name   string
		hurry  bool
		within time.Duration
	}{
		{"in time", false, Greeting + 2*time.Second},
		{"hurried", true, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, time.Hour)
			close(s.answer)
			silent, err := net.Dial("tcp", s.address)
			if err != nil {
				t.Fatal(err)
			}
			defer silent.Close()
			if err := <-s.call(t); err != nil { // so the silent one, which came before, was accepted
				t.Fatal(err)
			}
			s.stop()
			if c.hurry {
				s.ending.Hurry()
			}
			s.ends(t, c.within)
			if cut := s.ending.Cut(); len(cut) > 0 {
				t.Errorf("%q was cut off", cut)
			}
		})
	}
}

// What has spoken, or had its time, is not kept in mind.
func TestOldConnectionsAreForgotten(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	l := &listener{Listener: inner}
	for range 3 {
		conn, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		taken, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		for i := range l.new {
			l.new[i].at = l.new[i].at.Add(-Greeting - 2*time.Second)
		}
	}
	if len(l.new) != 1 {
		t.Errorf("%d connections are kept in mind, want 1", len(l.new))
	}
}
