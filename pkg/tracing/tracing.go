// Package tracing has a request leave a trace: spans of OpenTelemetry that follow
// it from the gate over the bus to workers, to what those call, and back. It also
// carries a request's name along, so that every line in the log says whose it is.
//
// It refuses to export spans (pkg/tracing/otlp does, in processes that are told
// where to), and to look into what a message carries: a span says who asked what
// of whom, when and with which code, and never what.
//
// A nil *Tracer traces nothing, and is what everything has unless told otherwise:
// hot paths ask whether it is nil, and whether a request carries a trace.
package tracing

import (
	"context"
	"math"
	"math/rand/v2"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// scope names who made a span.
const scope = "github.com/motto123/minigate"

// Tracer makes the spans of one process. Its methods are safe to call at once, and
// on nil.
type Tracer struct {
	provider trace.TracerProvider
	tracer   trace.Tracer
	system   attribute.KeyValue
	below    uint64 // of the numbers from 0 to 2^63, those below it are sampled
}

// New returns a tracer whose spans are p's. share, from 0 to 1, is the part of the
// traces that begin here which is kept; one that has begun elsewhere is kept where
// it says so. system is what OpenTelemetry calls the broker, such as rabbitmq.
func New(p trace.TracerProvider, share float64, system string) *Tracer {
	return &Tracer{
		provider: p, tracer: p.Tracer(scope), below: below(share),
		system: attribute.String(systemKey, system),
	}
}

// below is share of 2^63.
func below(share float64) uint64 {
	switch {
	case !(share > 0): // and what is no number
		return 0
	case share >= 1:
		return 1 << 63
	}
	return uint64(math.Ldexp(share, 63))
}

// Provider is for libraries that make spans of their own; one that makes none where
// the tracer is nil.
func (t *Tracer) Provider() trace.TracerProvider {
	if t == nil {
		return noop.NewTracerProvider()
	}
	return t.provider
}

// Sample decides whether a trace that begins here is kept. It costs a random number,
// and nothing on nil; see Root.
func (t *Tracer) Sample() bool {
	return t != nil && rand.Uint64()>>1 < t.below
}

// Root starts the first span of a trace that Sample has chosen. ctx gives the
// deadline, and not the trace.
func (t *Tracer) Root(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	return t.tracer.Start(context.WithValue(ctx, chosenKey{}, true), name, append(options, trace.WithNewRoot())...)
}

// Start starts a span below that of ctx. On nil it starts none, and returns the one
// that ctx has.
func (t *Tracer) Start(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	if t == nil {
		return ctx, trace.SpanFromContext(ctx)
	}
	return t.tracer.Start(ctx, name, options...)
}

// chosenKey is under which a context says that Sample has chosen its trace.
type chosenKey struct{}

// Chosen reports whether a root span that is started in ctx is one of Root's, for
// samplers: it has been chosen already.
func Chosen(ctx context.Context) bool {
	chosen, _ := ctx.Value(chosenKey{}).(bool)
	return chosen
}

// Sampled reports whether ctx belongs to a trace that is kept: otherwise nobody has
// to look for what a span would say.
func Sampled(ctx context.Context) bool {
	return trace.SpanContextFromContext(ctx).IsSampled()
}
