package gate

import (
	"context"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/tracing"
)

// A request that is traced has a span from being read to its answer's being
// written, and below that one for its publishing, until the broker's confirm: see
// publishings. What comes back for a gate names the span that has published it, and
// gets one below that until it is written: see delivered. Requests that are not
// traced have none of this, and cost a look at a pointer.

// traced is what a request has that is traced. Its methods take nil, too.
type traced struct {
	ctx  context.Context // of span
	span trace.Span      // from reading the request to writing its answer
	code codes.Code      // of the service's answer
}

// traces are a loop's, and belong to its thread.
type traces struct {
	parents map[uint64]context.Context // of the sessions whose clients have named a trace
	spans   []trace.Span               // that end when this turn is written
	carried [tracing.Size]byte         // used again with each request
}

// trace begins the span of a message that the session is about to publish, if it
// is traced.
func (s *session) trace(m *codec.Message) *traced {
	l := s.loop
	t := l.gate.cfg.Tracer
	parent, begin := context.Background(), t.Root
	if of := l.parents[s.id]; of != nil {
		parent, begin = of, t.Start
		if !tracing.Sampled(parent) {
			return nil
		}
	} else if !t.Sample() {
		return nil
	}
	attributes := tracing.Of(tracing.Request{Gate: l.gate.id, Session: s.id, Sequence: s.sequence + 1}, s.user)
	if m.ID != 0 {
		attributes = append(attributes, tracing.Message(m.ID))
	}
	ctx, span := begin(parent, unnamed, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(attributes...))
	return &traced{ctx: ctx, span: span}
}

// unnamed is a route that no service has announced: clients make up what they like,
// and names of spans are few.
const unnamed = "other"

// spanRoute is the route as it stands in the name of a span.
func (g *Gate) spanRoute(route string) string {
	if _, ok := g.dictionary.CodeOf(route); ok {
		return route
	}
	return unnamed
}

// asks says which route a request is for.
func (t *traced) asks(g *Gate, route string) {
	if t != nil {
		t.span.SetName(g.spanRoute(route))
		t.span.SetAttributes(tracing.Call(route)...)
	}
}

// answer is the code of the answer that came.
func (t *traced) answer() codes.Code {
	if t == nil {
		return codes.OK
	}
	return t.code
}

// endTrace ends a request's span, when this turn is written.
func (s *session) endTrace(p *pending, code codes.Code) {
	if p.traced == nil {
		return
	}
	tracing.Answered(p.traced.span, code)
	s.loop.spans = append(s.loop.spans, p.traced.span)
}

// endSpans is called when all is written.
func (l *loop) endSpans() {
	for i, span := range l.spans {
		span.End()
		l.spans[i] = nil
	}
	l.spans = l.spans[:0]
}

// follow has the session's requests belong to the trace that its client names, as
// W3C's Trace Context writes it. What is malformed is passed over, as members of a
// handshake are that a gate does not know.
func (s *session) follow(text string) {
	g, l := s.loop.gate, s.loop
	if g.cfg.Tracer == nil || !g.cfg.TraceClients || text == "" {
		return
	}
	parent, ok := tracing.TraceParent(text)
	if !ok {
		return
	}
	if l.parents == nil {
		l.parents = make(map[uint64]context.Context)
	}
	l.parents[s.id] = trace.ContextWithRemoteSpanContext(context.Background(), parent)
}

// traceHandshake begins the span of a token's being verified, if that is traced.
// parent is the trace that the client has named, or nil.
func (g *Gate) traceHandshake(ctx, parent context.Context, session uint64) (context.Context, trace.Span) {
	t, begin := g.cfg.Tracer, g.cfg.Tracer.Root
	if parent != nil {
		begin = g.cfg.Tracer.Start
		ctx = trace.ContextWithRemoteSpanContext(ctx, trace.SpanContextFromContext(parent))
	}
	if parent != nil && !tracing.Sampled(parent) || parent == nil && !t.Sample() {
		return ctx, noop.Span{}
	}
	return begin(ctx, "handshake", trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(tracing.Of(tracing.Request{Gate: g.id, Session: session}, 0)...))
}
