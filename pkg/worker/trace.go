package worker

import (
	"context"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/tracing"
)

// traced is what a request has that belongs to a trace.
type traced struct {
	id   trace.TraceID
	span trace.Span // of its handling; nil where this process makes none
}

// belongs has a call belong to the trace that its envelope names. What is malformed
// is passed over: a request without a trace is a request.
func (c *call) belongs(to []byte) {
	from, ok := tracing.Parse(to)
	if !ok {
		return
	}
	c.caller.trace = &traced{id: from.TraceID()}
	// For what the handler calls, also where this process makes no spans.
	c.parent = trace.ContextWithRemoteSpanContext(c.parent, from)
}

// Name is the request's: a call is tracing.Named.
func (c *call) Name() tracing.Request {
	return tracing.Request{Gate: c.caller.Session.Gate, Session: c.caller.Session.ID, Sequence: c.caller.Sequence}
}

// Fields are the caller's.
func (c *call) Fields() map[string]any { return c.caller.Fields() }

// trace begins the span of a call whose trace is kept: it began when the worker took
// the envelope, and waited in its lane since.
func (w *Worker) trace(c *call) {
	if w.cfg.Tracer == nil || !tracing.Sampled(c.parent) {
		return
	}
	attributes := append(tracing.Of(c.Name(), c.caller.User), tracing.Call(c.caller.Route)...)
	attributes = append(attributes, tracing.Bytes(len(c.raw.Data)))
	if c.caller.ID != 0 {
		attributes = append(attributes, tracing.Message(c.caller.ID))
	}
	if c.caller.Redelivered {
		attributes = append(attributes, tracing.Redelivered.Bool(true))
	}
	options := w.cfg.Tracer.Options(tracing.Process, w.cfg.Topology.RequestExchange(), c.caller.Route, attributes...)
	ctx, span := w.cfg.Tracer.Start(c.parent, tracing.Process.Name(c.spanRoute()), append(options, trace.WithTimestamp(c.envelope.taken))...)
	span.AddEvent("handler") // what is before is the lag of the lane
	c.parent, c.caller.trace.span = ctx, span
}

// end ends the span of a request that was answered.
func (t *traced) end(code codes.Code) {
	if t.span != nil {
		tracing.Answered(t.span, code)
		t.span.End()
	}
}

// spanRoute is the route as it stands in the name of a span: clients make up what
// they like, and such names are few.
func (c *call) spanRoute() string {
	if c.route.unknown {
		return "other"
	}
	return c.caller.Route
}

// traceReply begins the span of a reply's publishing, and returns it with what the
// reply is to say of it; where this process makes no spans, what the request said.
func (o *outbox) traceReply(c *call, r *bus.Reply) (trace.Span, []byte) {
	if c.caller.trace.span == nil {
		return nil, passOn(c.parent)
	}
	_, span := o.tracer.Start(c.parent, tracing.Reply.Name(c.spanRoute()),
		o.tracer.Options(tracing.Reply, o.exchange, c.envelope.key, tracing.Bytes(len(r.Data)))...)
	return span, tracing.Append(nil, span.SpanContext())
}

// passOn is what an envelope is to say of the trace that ctx belongs to: nothing,
// unless it is kept.
func passOn(ctx context.Context) []byte {
	if c := trace.SpanContextFromContext(ctx); c.IsSampled() {
		return tracing.Append(nil, c)
	}
	return nil
}

// endReply ends the span of a reply, with what became of its publishing.
func endReply(span trace.Span, err error) {
	if err != nil {
		tracing.Failed(span, bus.Outcome(err))
	}
	span.End()
}

// tracePush begins the span of a push, which ends with its last confirm, and has the
// push say whose it is.
func (w *Worker) tracePush(ctx context.Context, reply *bus.Reply, keys []string) (context.Context, trace.Span) {
	if w.cfg.Tracer == nil || len(keys) == 0 || !tracing.Sampled(ctx) {
		reply.Trace = passOn(ctx)
		return ctx, noop.Span{}
	}
	key := keys[0]
	if len(keys) > 1 {
		key = "" // several, each a gate's
	}
	ctx, span := w.cfg.Tracer.Start(ctx, tracing.Publish.Name(reply.Route),
		w.cfg.Tracer.Options(tracing.Publish, w.cfg.Topology.ReplyExchange(), key, tracing.Bytes(len(reply.Data)))...)
	reply.Trace = tracing.Append(nil, span.SpanContext())
	return ctx, span
}
