package tracing

import (
	"context"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/trace"
)

// Request names one request among all: by its gate, by its session there, and by
// the gate's number of it within the session.
type Request struct {
	Gate     string
	Session  uint64
	Sequence uint32
}

// maxGate bounds the name of a gate that another process sent.
const maxGate = 64

// String is GATE/SESSION/REQUEST.
func (r Request) String() string {
	return r.Gate + "/" + strconv.FormatUint(r.Session, 10) + "/" + strconv.FormatUint(uint64(r.Sequence), 10)
}

// ParseRequest reads what String wrote; false where it is anything else.
func ParseRequest(text string) (Request, bool) {
	gate, rest, _ := strings.Cut(text, "/")
	session, sequence, ok := strings.Cut(rest, "/")
	if !ok || gate == "" || len(gate) > maxGate {
		return Request{}, false
	}
	id, err := strconv.ParseUint(session, 10, 64)
	if err != nil {
		return Request{}, false
	}
	n, err := strconv.ParseUint(sequence, 10, 32)
	if err != nil {
		return Request{}, false
	}
	return Request{Gate: gate, Session: id, Sequence: uint32(n)}, true
}

// Fields are what a line in the log says of it.
func (r Request) Fields() map[string]any {
	return map[string]any{"gate": r.Gate, "session": r.Session, "request": r.Sequence}
}

// Name is r: a Request is Named, too.
func (r Request) Name() Request { return r }

// RequestKey is the key under which a context gives the Named request that it
// belongs to.
type RequestKey struct{}

// Named is a request that is on its way: it has a name, and says more of itself in
// the log.
type Named interface {
	Name() Request
	Fields() map[string]any
}

// With returns a context of a request.
func With(ctx context.Context, r Request) context.Context {
	return context.WithValue(ctx, RequestKey{}, r)
}

// RequestOf is the request that ctx belongs to; false where it is none's.
func RequestOf(ctx context.Context) (Request, bool) {
	if n, ok := ctx.Value(RequestKey{}).(Named); ok {
		return n.Name(), true
	}
	return Request{}, false
}

// Fields are what every line in the log says of the request that ctx belongs to,
// for logrus' WithFields: its name, and its trace where it has one. Contexts of
// handlers, of gRPC servers and of events' handlers know both.
func Fields(ctx context.Context) map[string]any {
	fields := make(map[string]any, 8)
	if n, ok := ctx.Value(RequestKey{}).(Named); ok {
		fields = n.Fields()
	}
	if id := trace.SpanContextFromContext(ctx).TraceID(); id.IsValid() {
		fields[TraceField] = id.String()
	}
	return fields
}

// TraceField is what a line in the log calls the trace.
const TraceField = "trace_id"

// Detach returns a context that belongs to the same request and trace as ctx, and
// has nothing else of it: for what goes on when ctx is over.
func Detach(ctx context.Context) context.Context {
	detached := context.Background()
	if r, ok := RequestOf(ctx); ok {
		detached = With(detached, r)
	}
	if c := trace.SpanContextFromContext(ctx); c.IsValid() {
		detached = trace.ContextWithSpanContext(detached, c)
	}
	return detached
}
