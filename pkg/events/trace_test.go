package events

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"go.opentelemetry.io/otel/trace"

	"github.com/motto123/minigate/pkg/tracing"
	"github.com/motto123/minigate/pkg/tracing/tracingtest"
	"github.com/motto123/minigate/proto/emailpb"
)

// ofRequest is a context of a request whose trace is kept, or not.
func ofRequest(flags trace.TraceFlags) context.Context {
	return trace.ContextWithRemoteSpanContext(tracing.With(context.Background(), tracing.Request{Gate: "g", Session: 5, Sequence: 7}),
		trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: flags, Remote: true}))
}

// TestEventsAreTraced: an event belongs to the trace of the request that it came of,
// each call of a handler has a span, and all lines about it name both.
func TestEventsAreTraced(t *testing.T) {
	backends(t, func(t *testing.T, c Config) {
		tracer, spans := tracingtest.New(t, 0)
		c.Tracer = tracer
		e, said := newEvents(t, c)
		fields := make(chan map[string]any, 4)
		var calls atomic.Int32
		Subscribe(e, "one", "email.verification", func(ctx context.Context, _ *emailpb.Verification) error {
			fields <- tracing.Fields(ctx)
			if calls.Add(1) == 1 {
				return errors.New("not yet, secret")
			}
			return nil
		})
		run(t, e)
		if err := e.Publish(ofRequest(trace.FlagsSampled), "email.verification", mail("secret")); err != nil {
			t.Fatal(err)
		}
		id := trace.TraceID{1}.String()
		for range 2 {
			if f := receive(t, fields); f["trace_id"] != id || f["gate"] != "g" || f["session"] != uint64(5) || f["request"] != uint32(7) {
				t.Errorf("the handler's context has the fields %v", f)
			}
		}
		tracingtest.Eventually(t, spans, "three spans", func(all tracingtest.Spans) bool { return len(all) == 3 })
		all := spans.Spans()
		publish := tracingtest.One(t, spans, "publish email.verification")
		if publish.Trace != id || publish.Parent != (trace.SpanID{2}).String() || publish.Kind != "producer" || publish.Failed {
			t.Errorf("got %+v", publish)
		}
		handled := all.Below(publish).Named("process email.verification")
		if len(handled) != 2 || handled[0].Failed == handled[1].Failed || handled[0].Kind != "consumer" || handled[0].Attributes["messaging.consumer.group.name"] != "one" {
			t.Errorf("got %+v", handled)
		}
		for _, s := range all {
			if text := strings.Join(append(s.Events, s.Status), " "); strings.Contains(text, "secret") {
				t.Errorf("%s tells what the event says: %s", s.Name, text)
			}
		}
		eventually(t, "the failure is logged with its request", func() bool {
			return strings.Contains(said.String(), "trace_id="+id) && strings.Contains(said.String(), "request=7")
		})
	})
}

// TestEventsOfNoTrace: what is not kept has no spans, and its lines name it all the
// same; what carries something malformed is handled.
func TestEventsOfNoTrace(t *testing.T) {
	backends(t, func(t *testing.T, c Config) {
		tracer, spans := tracingtest.New(t, 1)
		c.Tracer = tracer
		e, said := newEvents(t, c)
		got := make(chan map[string]any, 4)
		Subscribe(e, "one", "email.verification", func(ctx context.Context, _ *emailpb.Verification) error {
			got <- tracing.Fields(ctx)
			return Permanent(errors.New("on purpose"))
		})
		run(t, e)
		for want, ctx := range map[any]context.Context{trace.TraceID{1}.String(): ofRequest(0), nil: t.Context()} {
			if err := e.Publish(ctx, "email.verification", mail("1")); err != nil {
				t.Fatal(err)
			}
			if f := receive(t, got); f["trace_id"] != want {
				t.Errorf("got %v, want the trace %v", f, want)
			}
		}
		eventually(t, "the dead letter is logged with its request", func() bool {
			for line := range strings.Lines(said.String()) {
				if strings.Contains(line, "dead letter") && strings.Contains(line, "request=7") && strings.Contains(line, "trace_id="+trace.TraceID{1}.String()) {
					return true
				}
			}
			return false
		})
		if all := spans.Spans(); len(all) != 0 {
			t.Errorf("got %s", all.Names())
		}
	})
}
