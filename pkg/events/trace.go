package events

import (
	"context"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/sirupsen/logrus"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/tracing"
)

// An event carries the request that it came of and its trace in its metadata, as
// package tracing writes them: whoever handles it, or finds it among the dead
// letters, knows both.

// tracePublish begins the span of an event's publishing, which ends with the confirm.
func (e *Events) tracePublish(ctx context.Context, name string, size int) (context.Context, trace.Span) {
	t := e.config.Tracer
	if t == nil || !tracing.Sampled(ctx) {
		return ctx, noop.Span{}
	}
	return t.Start(ctx, tracing.Publish.Name(name),
		t.Options(tracing.Publish, e.config.Topology.EventExchange(), name, tracing.Bytes(size))...)
}

func endPublish(span trace.Span, err error) {
	if err != nil {
		tracing.Failed(span, bus.Outcome(err))
	}
	span.End()
}

// traceHandler begins the span of one call of a handler.
func (e *Events) traceHandler(ctx context.Context, s *subscription, m *message.Message) (context.Context, trace.Span) {
	t := e.config.Tracer
	if t == nil || !tracing.Sampled(ctx) {
		return ctx, noop.Span{}
	}
	return t.Start(ctx, tracing.Process.Name(s.event), t.Options(tracing.Process, e.config.Topology.EventExchange(), s.event,
		tracing.Group(s.group), tracing.Event(m.UUID), tracing.Bytes(len(m.Payload)))...)
}

// requestOf is what a line in the log says of the request that an event came of.
func requestOf(m *message.Message) logrus.Fields {
	return tracing.Fields(tracing.Extract(context.Background(), m.Metadata.Get))
}
