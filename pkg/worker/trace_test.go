package worker

import (
	"context"
	"errors"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/logging/loggingtest"
	"github.com/motto123/minigate/pkg/tracing"
	"github.com/motto123/minigate/pkg/tracing/tracingtest"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/chatpb"
)

// What a gate's envelope says of a request whose trace is kept.
const (
	traceOfGate = "0a00000000000000000000000000009c"
	spanOfGate  = "b700000000000031"
)

func ofGate(flags byte) []byte { return []byte{0x0a, 15: 0x9c, 16: 0xb7, 23: 0x31, 24: flags} }

// tracedWorker answers auth.find, with a push on the way, and runs.
func tracedWorker(t *testing.T, tracer *tracing.Tracer) (g *gate, said *loggingtest.Lines, fields func() map[string]any) {
	t.Helper()
	b := newMem(t)
	logger, said := logged()
	w := New("auth", Config{Bus: b, Log: logger, Tracer: tracer})
	got := make(chan map[string]any, 16)
	Handle(w, "auth.find", func(ctx context.Context, in *authpb.FindRequest) (*authpb.FindResponse, error) {
		got <- tracing.Fields(ctx)
		ctx, cancel := context.WithCancel(ctx) // as handlers do
		defer cancel()
		switch in.GetAccount() {
		case "nobody":
			return nil, status.Error(codes.NotFound, "nobody")
		case "broken":
			return nil, errors.New("on purpose")
		}
		return &authpb.FindResponse{}, w.Push(ctx, ToSession(From(ctx).Session), "auth.found", &chatpb.Message{Text: "secret"})
	}, Public())
	run(t, w)
	return newGate(t, b, bus.NewTopology(""), "g1"), said, func() map[string]any { return <-got }
}

// find asks auth.find.
func (g *gate) find(account string, trace []byte) {
	g.t.Helper()
	g.send("auth.find", bus.Request{
		Session: 5, Sequence: 77, User: 42, ID: 9, DataType: uint8(JSON), Data: []byte(`{"account":"` + account + `"}`), Trace: trace,
	})
}

// TestTracedRequest: the span of a request is below the one that published it, and
// those of its reply and its pushes are below that; both say so on the bus.
func TestTracedRequest(t *testing.T) {
	tracer, spans := tracingtest.New(t, 0)
	g, _, fields := tracedWorker(t, tracer)
	g.find("alice", ofGate(1))
	if f := fields(); f["trace_id"] != traceOfGate || f["request"] != uint32(77) || f["session"] != uint64(5) || f["gate"] != "g1" || f["route"] != "auth.find" {
		t.Errorf("the handler's context has the fields %v", f)
	}
	push, reply := g.reply(), g.reply()

	process := tracingtest.One(t, spans, "process auth.find")
	if process.Trace != traceOfGate || process.Parent != spanOfGate || process.Kind != "consumer" {
		t.Errorf("got %+v", process)
	}
	for name, want := range map[string]string{
		"rpc.method": "auth.find", "rpc.response.status_code": "OK", "user.id": "42", "minigate.gate": "g1", "minigate.session": "5",
		"minigate.request_number": "77", "messaging.message.id": "9", "messaging.destination.name": bus.NewTopology("").RequestExchange(),
	} {
		if process.Attributes[name] != want {
			t.Errorf("%s is %q, want %q", name, process.Attributes[name], want)
		}
	}
	for name, r := range map[string]*bus.Reply{"reply auth.find": reply, "publish auth.found": push} {
		s := tracingtest.One(t, spans, name)
		c, ok := tracing.Parse(r.Trace)
		if s.Parent != process.ID || s.Kind != "producer" || !ok || !c.IsSampled() || c.TraceID().String() != traceOfGate || c.SpanID().String() != s.ID {
			t.Errorf("got %+v, and on the bus % x", s, r.Trace)
		}
	}
	for _, s := range spans.Spans() {
		for name, value := range s.Attributes {
			if strings.Contains(value, "secret") || strings.Contains(value, "alice") {
				t.Errorf("%s: %s tells %q", s.Name, name, value)
			}
		}
	}
}

// TestTracedFailures: a span has the code that the client gets, and a route that a
// client has made up is not its name.
func TestTracedFailures(t *testing.T) {
	tracer, spans := tracingtest.New(t, 0)
	g, said, _ := tracedWorker(t, tracer)
	for _, account := range []string{"nobody", "broken"} {
		g.find(account, ofGate(1))
		g.reply()
	}
	g.send("auth.made-up", bus.Request{Session: 5, Sequence: 1, Trace: ofGate(1)})
	g.reply()
	tracingtest.Eventually(t, spans, "three requests and their replies", func(all tracingtest.Spans) bool { return len(all) == 6 })
	got := make(map[string]bool)
	for _, s := range append(spans.Spans().Named("process auth.find"), spans.Spans().Named("process other")...) {
		got[s.Name+" "+s.Attributes["rpc.method"]+" "+s.Attributes["rpc.response.status_code"]] = s.Failed
	}
	want := map[string]bool{"process auth.find auth.find NOT_FOUND": false, "process auth.find auth.find INTERNAL": true, "process other auth.made-up NOT_FOUND": false}
	for name, failed := range want {
		if f, ok := got[name]; !ok || f != failed {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	if text := said.String(); !strings.Contains(text, "trace_id="+traceOfGate) {
		t.Errorf("the log does not name the trace:\n%s", text)
	}
}

// TestNotTraced: without a trace that is kept there are no spans, and nothing on the
// bus; nor is what is malformed anything but passed over.
func TestNotTraced(t *testing.T) {
	tracer, spans := tracingtest.New(t, 1)
	g, _, fields := tracedWorker(t, tracer)
	for name, c := range map[string]struct {
		trace []byte
		id    any
	}{
		"none": {nil, nil}, "not kept": {ofGate(0), traceOfGate}, "short": {ofGate(1)[:24], nil}, "long": {append(ofGate(1), 0), nil}, "zero": {make([]byte, 25), nil},
		"huge": {make([]byte, 100_000), nil},
	} {
		g.find("alice", c.trace)
		if got := fields()["trace_id"]; got != c.id {
			t.Errorf("%s: the log says %v, want %v", name, got, c.id)
		}
		for range 2 {
			if r := g.reply(); len(r.Trace) != 0 {
				t.Errorf("%s: on the bus is % x", name, r.Trace)
			}
		}
	}
	if all := spans.Spans(); len(all) != 0 {
		t.Errorf("got %s", all.Names())
	}
}

// TestPassedOn: a worker that makes no spans hands on the trace that it was given,
// to replies and pushes, to whatever its handlers call, and to the log.
func TestPassedOn(t *testing.T) {
	g, said, fields := tracedWorker(t, nil)
	g.find("alice", ofGate(1))
	if f := fields(); f["trace_id"] != traceOfGate {
		t.Errorf("the handler's context has the fields %v", f)
	}
	for range 2 {
		if r := g.reply(); string(r.Trace) != string(ofGate(1)) {
			t.Errorf("on the bus is % x", r.Trace)
		}
	}
	g.find("broken", ofGate(1))
	g.reply()
	if text := said.String(); !strings.Contains(text, "trace_id="+traceOfGate) {
		t.Errorf("the log does not name the trace:\n%s", text)
	}
}

// TestTracedReplyIsTriedAgain: one span, until the broker has it.
func TestTracedReplyIsTriedAgain(t *testing.T) {
	tracer, spans := tracingtest.New(t, 0)
	b := &faultyBus{Bus: newMem(t)}
	w := New("auth", Config{Bus: b, Log: quiet(), Tracer: tracer})
	Handle(w, "auth.find", func(context.Context, *authpb.FindRequest) (*authpb.FindResponse, error) { return nil, nil }, Public())
	run(t, w)
	g := newGate(t, b.Bus, bus.NewTopology(""), "g1")
	b.fail(bus.ErrUnavailable)
	g.find("alice", ofGate(1))
	eventually(t, "the reply is tried again", func() bool { return w.stats.retries.Load() > 1 })
	if n := len(spans.Spans().Named("reply auth.find")); n != 0 {
		t.Errorf("%d spans of a reply that nobody has", n)
	}
	b.fail(nil)
	g.reply()
	if s := tracingtest.One(t, spans, "reply auth.find"); s.Failed {
		t.Errorf("got %+v", s)
	}
}

// TestTheTraceOfAContext: whatever is made of a handler's context belongs to its
// trace, with a deadline of its own or without.
func TestTheTraceOfAContext(t *testing.T) {
	c := &call{parent: t.Context(), caller: Caller{Session: Session{Gate: "g", ID: 5}, Sequence: 7}}
	c.belongs(ofGate(1))
	<-c.closedSoon()
	for name, ctx := range map[string]context.Context{"itself": c, "a child": context.WithoutCancel(c)} {
		if got := trace.SpanContextFromContext(ctx); got.TraceID().String() != traceOfGate {
			t.Errorf("%s: the trace is %v", name, got.TraceID())
		}
		if r, ok := tracing.RequestOf(ctx); !ok || r.String() != "g/5/7" {
			t.Errorf("%s: the request is %v", name, r)
		}
	}
}

// closedSoon has asked for Done, as handlers do, and ends the call.
func (c *call) closedSoon() <-chan struct{} {
	done := c.Done()
	c.finish()
	return done
}
