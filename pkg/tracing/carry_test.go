package tracing_test

import (
	"context"
	"net"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/motto123/minigate/pkg/tracing"
	"github.com/motto123/minigate/pkg/tracing/tracingtest"
	"github.com/motto123/minigate/proto/authpb"
)

// asked is a server that tells what its handler and an interceptor behind ours know
// of the request.
type asked struct {
	authpb.UnimplementedAuthServer
	handler, interceptor map[string]any
	span                 trace.SpanContext
}

func (a *asked) Verify(ctx context.Context, _ *authpb.VerifyRequest) (*authpb.VerifyResponse, error) {
	a.handler, a.span = tracing.Fields(ctx), trace.SpanContextFromContext(ctx)
	return &authpb.VerifyResponse{User: 42}, nil
}

// call calls a server over a connection in memory.
func call(t *testing.T, ctx context.Context, caller, callee *tracing.Tracer) *asked {
	t.Helper()
	a := new(asked)
	server := grpc.NewServer(append(callee.ServerOptions(), grpc.ChainUnaryInterceptor(
		func(ctx context.Context, in any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			a.interceptor = tracing.Fields(ctx)
			return next(ctx, in)
		}))...)
	authpb.RegisterAuthServer(server, a)
	l := bufconn.Listen(1 << 16)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(l); err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient("passthrough:///memory", append(caller.DialOptions(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := authpb.NewAuthClient(conn).Verify(ctx, &authpb.VerifyRequest{Token: "secret"}); err != nil {
		t.Error(err)
	}
	_ = conn.Close()
	server.Stop()
	serving.Wait()
	return a
}

// TestCalls: whoever is called knows for which request, and in which trace, whether
// or not it or its caller makes spans.
func TestCalls(t *testing.T) {
	r := tracing.Request{Gate: "g", Session: 7, Sequence: 3}
	of := tracing.With(t.Context(), r)
	tracer, recorder := tracingtest.New(t, 1)
	for name, c := range map[string]struct{ caller, callee *tracing.Tracer }{
		"nobody": {nil, nil}, "the caller": {tracer, nil}, "the callee": {nil, tracer}, "both": {tracer, tracer},
	} {
		parent := span(trace.FlagsSampled)
		a := call(t, trace.ContextWithRemoteSpanContext(of, parent), c.caller, c.callee)
		for who, got := range map[string]map[string]any{"the handler": a.handler, "the interceptor": a.interceptor} {
			if got["gate"] != "g" || got["session"] != uint64(7) || got["request"] != uint32(3) || got["trace_id"] != parent.TraceID().String() {
				t.Errorf("%s makes spans: %s knows %v", name, who, got)
			}
		}
		if made := a.span.SpanID() != parent.SpanID(); made != (c.caller != nil || c.callee != nil) {
			t.Errorf("%s makes spans: the handler's is %v", name, a.span.SpanID())
		}
	}
	all := recorder.Spans().Named("auth.Auth/Verify")
	if len(all) != 4 {
		t.Fatalf("got %s, want four calls", recorder.Spans().Names())
	}
	servers := 0
	for _, s := range all {
		for _, below := range all.Below(s) {
			if s.Kind == "client" && below.Kind == "server" {
				servers++
			}
		}
		for key, value := range s.Attributes {
			if value == "secret" {
				t.Errorf("%s tells the token", key)
			}
		}
	}
	if servers != 1 {
		t.Errorf("%d servers' spans are below a client's, want 1", servers)
	}
}

// TestCallsOfNothing: a call that belongs to no request names none.
func TestCallsOfNothing(t *testing.T) {
	if a := call(t, t.Context(), nil, nil); len(a.handler) != 0 {
		t.Errorf("the handler knows %v", a.handler)
	}
}
