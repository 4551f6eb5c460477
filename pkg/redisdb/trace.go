package redisdb

import (
	"context"
	"errors"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// Trace makes a span of each command of c that belongs to a trace that is kept: with
// the command's name, and never with its arguments. It is called once, before the
// first command.
func Trace(c redis.UniversalClient, p trace.TracerProvider) {
	c.AddHook(tracer{p.Tracer("github.com/motto123/minigate/pkg/redisdb")})
}

type tracer struct{ trace.Tracer }

// DialHook makes a span of a connection that a command had to wait for.
func (t tracer) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, span := t.start(ctx, "CONNECT")
		conn, err := next(ctx, network, address)
		end(span, err)
		return conn, err
	}
}

// ProcessHook makes the span of a command.
func (t tracer) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		ctx, span := t.start(ctx, strings.ToUpper(cmd.FullName()))
		err := next(ctx, cmd)
		end(span, err)
		return err
	}
}

// ProcessPipelineHook makes one span of all commands of a pipeline.
func (t tracer) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		ctx, span := t.start(ctx, "PIPELINE", semconv.DBOperationBatchSize(len(cmds)))
		err := next(ctx, cmds)
		end(span, err)
		return err
	}
}

// start returns a nil span where there is nothing to trace.
func (t tracer) start(ctx context.Context, name string, more ...attribute.KeyValue) (context.Context, trace.Span) {
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		return ctx, nil
	}
	more = append(more, semconv.DBSystemNameRedis, semconv.DBOperationName(name))
	return t.Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(more...))
}

// end does not say what an error says, which may hold a key. That there is no such
// key is no error.
func end(span trace.Span, err error) {
	if span == nil {
		return
	}
	if err != nil && !errors.Is(err, redis.Nil) {
		span.SetAttributes(semconv.ErrorType(err))
		span.SetStatus(codes.Error, "")
	}
	span.End()
}
