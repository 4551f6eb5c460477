package gate

import (
	"context"
	"sync"

	"github.com/sirupsen/logrus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/tracing"
)

// publishings are the spans of requests that the broker has not confirmed. The
// envelopes' refs only say that there is one: they are many, and looked through by
// the garbage collector if they had pointers.
type publishings struct {
	mu    sync.Mutex
	spans map[ref]trace.Span // as many as there are unconfirmed requests, at the most
}

// tracePublish begins the span of a request's publishing, and returns what the
// envelope is to say of it.
func (s *session) tracePublish(p *pending, m *codec.Message) []byte {
	g := s.loop.gate
	_, span := g.cfg.Tracer.Start(p.traced.ctx, tracing.Publish.Name(g.spanRoute(p.route)),
		g.cfg.Tracer.Options(tracing.Publish, g.cfg.Topology.RequestExchange(), p.route, tracing.Bytes(len(m.Body)))...)
	g.publishings.add(ref{session: s.id, sequence: p.sequence}, span)
	return tracing.Append(s.loop.carried[:0], span.SpanContext())
}

func (p *publishings) add(r ref, span trace.Span) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.spans == nil {
		p.spans = make(map[ref]trace.Span)
	}
	p.spans[r] = span
}

// end ends the span of a request that was published, or was not.
func (p *publishings) end(r ref, err error) {
	key := ref{session: r.session, sequence: r.sequence}
	p.mu.Lock()
	span := p.spans[key]
	delete(p.spans, key)
	p.mu.Unlock()
	if span == nil {
		return
	}
	if err != nil {
		tracing.Failed(span, bus.Outcome(err))
	}
	span.End()
}

// endAll ends those of an envelope.
func (p *publishings) endAll(refs []ref, err error) {
	for _, r := range refs {
		if r.traced {
			p.end(r, err)
		}
	}
}

// delivered makes the span of what came for this gate, and ends it when this turn
// is written. route is for its name: one that a service says, or spanRoute.
func (l *loop) delivered(r *bus.Reply, route string, more ...attribute.KeyValue) {
	g := l.gate
	if g.cfg.Tracer == nil {
		return
	}
	from, ok := tracing.Parse(r.Trace)
	if !ok || !from.IsSampled() {
		return
	}
	key := g.cfg.Topology.GateKey(g.id)
	if r.Everyone || r.Group != "" {
		key = g.cfg.Topology.AllGates()
	}
	more = append(more, tracing.Gate(g.id), tracing.Bytes(len(r.Data)))
	_, span := g.cfg.Tracer.Start(trace.ContextWithRemoteSpanContext(context.Background(), from), tracing.Deliver.Name(route),
		g.cfg.Tracer.Options(tracing.Deliver, g.cfg.Topology.ReplyExchange(), key, more...)...)
	l.spans = append(l.spans, span)
}

// traceLate makes the span of a reply that nobody waited for any more.
func (l *loop) traceLate(r *bus.Reply) {
	if len(r.Trace) > 0 {
		l.delivered(r, unnamed, tracing.Late.Bool(true))
	}
}

// tracePush makes the span of a push, where somebody here gets it.
func (l *loop) tracePush(r *bus.Reply) {
	sessions := 0
	switch {
	case r.Everyone:
		sessions = len(l.sessions)
	case r.Group != "":
		sessions = len(l.groups[r.Group])
	case r.User != 0:
		sessions = len(l.users[r.User])
	case l.sessions[r.Session] != nil:
		sessions = 1
	}
	if sessions > 0 {
		l.delivered(r, r.Route, tracing.Sessions.Int(sessions))
	}
}

// log is the gate's log, with what names a session. An address that nobody knows is
// left out.
func (s *session) log() logrus.FieldLogger {
	fields := logrus.Fields{"session": s.id, "user": s.user}
	if s.address.IsValid() {
		fields["address"] = s.address
	}
	return s.loop.gate.log.WithFields(fields)
}

// logOf is the log, with what names a request and its trace.
func (s *session) logOf(p *pending) logrus.FieldLogger {
	fields := logrus.Fields{"route": p.route, "session": s.id, "request": p.sequence, "user": s.user}
	if p.traced != nil {
		fields[tracing.TraceField] = p.traced.span.SpanContext().TraceID().String()
	}
	return s.loop.gate.log.WithFields(fields)
}

// logOfReply is the log, with the trace that a reply or push belongs to.
func (g *Gate) logOfReply(r *bus.Reply) logrus.FieldLogger {
	if c, ok := tracing.Parse(r.Trace); ok {
		return g.log.WithField(tracing.TraceField, c.TraceID().String())
	}
	return g.log
}
