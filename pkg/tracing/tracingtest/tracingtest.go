// Package tracingtest is what tests look at traces with: a tracer that keeps its
// spans, and a collector that takes those of other processes.
package tracingtest

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/grpc"

	"github.com/motto123/minigate/pkg/tracing"
)

// patience is how long a test waits for a span.
const patience = 30 * time.Second

// Span is one that has ended.
type Span struct {
	Service           string // empty of a Recorder's
	Name, Kind        string // the kind in lower case, such as server
	Trace, ID, Parent string // in hex; no parent is empty
	Attributes        map[string]string
	Failed            bool
	Status            string   // what it says of its failure
	Events            []string // their names
}

// Spans are all those that have ended so far.
type Spans []Span

// Named are those with a name.
func (all Spans) Named(name string) (found Spans) {
	for _, s := range all {
		if s.Name == name {
			found = append(found, s)
		}
	}
	return found
}

// Below are those whose parent s is.
func (all Spans) Below(s Span) (found Spans) {
	for _, other := range all {
		if other.Parent == s.ID && other.Trace == s.Trace {
			found = append(found, other)
		}
	}
	return found
}

// Names are the names, for people.
func (all Spans) Names() string {
	var names []string
	for _, s := range all {
		names = append(names, strings.TrimSpace(s.Service+" "+s.Name))
	}
	return strings.Join(names, ", ")
}

// Source is what has spans.
type Source interface{ Spans() Spans }

// One waits for the one span of a name, and fails the test where there are others.
func One(t testing.TB, from Source, name string) Span {
	t.Helper()
	Eventually(t, from, "one span "+name, func(all Spans) bool { return len(all.Named(name)) > 0 })
	found := from.Spans().Named(name)
	if len(found) != 1 {
		t.Fatalf("%d spans are named %s, want 1", len(found), name)
	}
	return found[0]
}

// Eventually waits until ok says true.
func Eventually(t testing.TB, from Source, what string, ok func(Spans) bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(from.Spans()); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v; there are: %s", what, patience, from.Spans().Names())
		}
	}
}

// Recorder keeps spans of this process.
type Recorder struct{ exported *tracetest.InMemoryExporter }

// New returns a tracer that keeps a share of the traces, and where their spans are.
func New(t testing.TB, share float64) (*tracing.Tracer, *Recorder) {
	t.Helper()
	r := &Recorder{exported: tracetest.NewInMemoryExporter()}
	p := sdktrace.NewTracerProvider(sdktrace.WithSyncer(r.exported))
	t.Cleanup(func() {
		if err := p.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return tracing.New(p, share, "test"), r
}

// Spans are those that have ended.
func (r *Recorder) Spans() (all Spans) {
	for _, s := range r.exported.GetSpans() {
		span := Span{
			Name: s.Name, Kind: s.SpanKind.String(), Trace: s.SpanContext.TraceID().String(), ID: s.SpanContext.SpanID().String(),
			Attributes: make(map[string]string), Failed: s.Status.Code.String() == "Error", Status: s.Status.Description,
		}
		if s.Parent.IsValid() {
			span.Parent = s.Parent.SpanID().String()
		}
		for _, a := range s.Attributes {
			span.Attributes[string(a.Key)] = a.Value.String()
		}
		for _, e := range s.Events {
			span.Events = append(span.Events, e.Name)
		}
		all = append(all, span)
	}
	return all
}

// Collector takes spans by OTLP over gRPC.
type Collector struct {
	collector.UnimplementedTraceServiceServer

	// Address is where it listens.
	Address string

	mu  sync.Mutex
	all Spans
}

// NewCollector returns one that listens until the test ends.
func NewCollector(t testing.TB, options ...grpc.ServerOption) *Collector {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &Collector{Address: l.Addr().String()}
	server := grpc.NewServer(options...)
	collector.RegisterTraceServiceServer(server, c)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
	return c
}

// Spans are those that have come.
func (c *Collector) Spans() Spans {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append(Spans(nil), c.all...)
}

// Export takes a batch.
func (c *Collector) Export(_ context.Context, in *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, of := range in.GetResourceSpans() {
		service := attributes(of.GetResource().GetAttributes())["service.name"]
		for _, scope := range of.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				span := Span{
					Service: service, Name: s.GetName(), Kind: strings.ToLower(strings.TrimPrefix(s.GetKind().String(), "SPAN_KIND_")),
					Trace: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()), Parent: hex.EncodeToString(s.GetParentSpanId()),
					Attributes: attributes(s.GetAttributes()), Failed: s.GetStatus().GetCode() == 2, Status: s.GetStatus().GetMessage(),
				}
				for _, e := range s.GetEvents() {
					span.Events = append(span.Events, e.GetName())
				}
				c.all = append(c.all, span)
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func attributes(all []*common.KeyValue) map[string]string {
	found := make(map[string]string, len(all))
	for _, a := range all {
		switch v := a.GetValue().GetValue().(type) {
		case *common.AnyValue_StringValue:
			found[a.GetKey()] = v.StringValue
		case *common.AnyValue_IntValue:
			found[a.GetKey()] = fmt.Sprint(v.IntValue)
		case *common.AnyValue_BoolValue:
			found[a.GetKey()] = fmt.Sprint(v.BoolValue)
		default:
			found[a.GetKey()] = a.GetValue().String()
		}
	}
	return found
}
