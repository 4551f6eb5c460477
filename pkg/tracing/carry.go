package tracing

import (
	"context"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// What calls and events carry beside what they say: the trace as W3C writes it, and
// the name of the request.
const (
	traceParent = "traceparent"
	requestName = "minigate-request"
)

var w3c propagation.TraceContext

// TraceParent reads a trace as W3C's Trace Context writes it; false where it is
// anything else.
func TraceParent(text string) (trace.SpanContext, bool) {
	ctx := w3c.Extract(context.Background(), propagation.MapCarrier{traceParent: text})
	c := trace.SpanContextFromContext(ctx)
	return c, c.IsValid()
}

// Inject writes the request and the trace that ctx belongs to, as texts by name.
func Inject(ctx context.Context, set func(name, value string)) {
	if r, ok := RequestOf(ctx); ok {
		set(requestName, r.String())
	}
	carrier := propagation.MapCarrier{}
	if w3c.Inject(ctx, carrier); carrier[traceParent] != "" {
		set(traceParent, carrier[traceParent])
	}
}

// Extract returns ctx with the request and the trace that Inject wrote; what is
// malformed is left out.
func Extract(ctx context.Context, get func(name string) string) context.Context {
	if r, ok := ParseRequest(get(requestName)); ok {
		ctx = With(ctx, r)
	}
	if text := get(traceParent); text != "" {
		if c, ok := TraceParent(text); ok {
			ctx = trace.ContextWithRemoteSpanContext(ctx, c)
		}
	}
	return ctx
}

// DialOptions have the calls of a gRPC client carry their request and trace, and
// make a span of each.
func (t *Tracer) DialOptions() []grpc.DialOption {
	options := []grpc.DialOption{grpc.WithChainUnaryInterceptor(
		func(ctx context.Context, method string, in, out any, conn *grpc.ClientConn, call grpc.UnaryInvoker, options ...grpc.CallOption) error {
			Inject(ctx, func(name, value string) {
				if name == requestName || t == nil { // otelgrpc carries its own span
					ctx = metadata.AppendToOutgoingContext(ctx, name, value)
				}
			})
			return call(ctx, method, in, out, conn, options...)
		})}
	if t != nil {
		options = append(options, grpc.WithStatsHandler(otelgrpc.NewClientHandler(t.grpcOptions()...)))
	}
	return options
}

// ServerOptions have the handlers of a gRPC server know the request and the trace
// that they are called for, and make a span of each call. They stand before other
// interceptors, which then know both, too.
func (t *Tracer) ServerOptions() []grpc.ServerOption {
	options := []grpc.ServerOption{grpc.ChainUnaryInterceptor(
		func(ctx context.Context, in any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			md, _ := metadata.FromIncomingContext(ctx)
			ctx = Extract(ctx, func(name string) string {
				if values := md.Get(name); len(values) > 0 && (name == requestName || t == nil) {
					return values[0]
				}
				return ""
			})
			return handle(ctx, in)
		})}
	if t != nil {
		options = append(options, grpc.StatsHandler(otelgrpc.NewServerHandler(t.grpcOptions()...)))
	}
	return options
}

func (t *Tracer) grpcOptions() []otelgrpc.Option {
	return []otelgrpc.Option{
		otelgrpc.WithTracerProvider(t.provider), otelgrpc.WithPropagators(w3c), otelgrpc.WithMeterProvider(metricnoop.NewMeterProvider()),
	}
}
