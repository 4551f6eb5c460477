package tracing_test

import (
	"bytes"
	"context"
	"maps"
	"math"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/pkg/tracing"
	"github.com/motto123/minigate/pkg/tracing/tracingtest"
)

// span is a span's context as it comes from elsewhere.
func span(flags trace.TraceFlags) trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{0x0a, 0xf7, 15: 0x9c}, SpanID: trace.SpanID{0xb7, 7: 0x31}, TraceFlags: flags, Remote: true,
	})
}

var golden = []byte{
	0x0a, 0xf7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x9c,
	0xb7, 0, 0, 0, 0, 0, 0, 0x31,
	0x01,
}

func TestEnvelope(t *testing.T) {
	b := tracing.Append([]byte("x"), span(trace.FlagsSampled))
	if !bytes.Equal(b[1:], golden) || len(golden) != tracing.Size {
		t.Fatalf("got % x, want % x", b[1:], golden)
	}
	for _, flags := range []trace.TraceFlags{0, trace.FlagsSampled, 0xff} {
		got, ok := tracing.Parse(tracing.Append(nil, span(flags)))
		if want := span(flags); !ok || !got.Equal(want) || !got.IsRemote() {
			t.Errorf("got %+v, %v, want %+v", got, ok, want)
		}
	}
	for _, bad := range [][]byte{nil, {}, golden[:24], append(bytes.Clone(golden), 0), make([]byte, tracing.Size), append(make([]byte, 16), golden[16:]...)} {
		if got, ok := tracing.Parse(bad); ok {
			t.Errorf("% x is taken as %+v", bad, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(golden)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, ok := tracing.Parse(b)
		if !ok {
			return
		}
		if again := tracing.Append(nil, c); !bytes.Equal(again, b) {
			t.Errorf("% x became % x", b, again)
		}
	})
}

func FuzzParseRequest(f *testing.F) {
	f.Add("01ab/513/7")
	f.Add("//")
	f.Fuzz(func(t *testing.T, text string) {
		r, ok := tracing.ParseRequest(text)
		if !ok {
			return
		}
		if again, ok := tracing.ParseRequest(r.String()); !ok || again != r {
			t.Errorf("%q is %+v, and then %+v", text, r, again)
		}
	})
}

func TestRequest(t *testing.T) {
	r := tracing.Request{Gate: "01ab", Session: math.MaxUint64, Sequence: math.MaxUint32}
	if got, ok := tracing.ParseRequest(r.String()); !ok || got != r || r.String() != "01ab/18446744073709551615/4294967295" {
		t.Errorf("%s is %+v", r, got)
	}
	for _, bad := range []string{"", "a", "a/1", "/1/1", "a/1/", "a/x/1", "a/1/4294967296", "a/1/1/1", "a/-1/1", strings.Repeat("a", 65) + "/1/1"} {
		if got, ok := tracing.ParseRequest(bad); ok {
			t.Errorf("%q is taken as %+v", bad, got)
		}
	}
}

// TestSample: the share of the traces that are kept, and what of a setting that is
// none.
func TestSample(t *testing.T) {
	for share, want := range map[float64][2]int{0: {0, 0}, -1: {0, 0}, math.NaN(): {0, 0}, 1: {10_000, 10_000}, 7: {10_000, 10_000}, 0.5: {4500, 5500}} {
		tracer, _ := tracingtest.New(t, share)
		kept := 0
		for range 10_000 {
			if tracer.Sample() {
				kept++
			}
		}
		if kept < want[0] || kept > want[1] {
			t.Errorf("of 10,000 with %v: %d are kept, want %v", share, kept, want)
		}
	}
}

// TestOff: nothing is traced on nil, nothing fails, and nothing is allocated.
func TestOff(t *testing.T) {
	var off *tracing.Tracer
	ctx := t.Context()
	if got, s := off.Start(ctx, "x"); got != ctx || s.IsRecording() {
		t.Error("a span was made")
	}
	if _, s := off.Provider().Tracer("x").Start(ctx, "x"); s.IsRecording() {
		t.Error("a library's span was made")
	}
	if n := testing.AllocsPerRun(100, func() {
		if off.Sample() || tracing.Sampled(ctx) {
			t.Error("a trace is kept")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestRoot: what Sample has chosen is a trace of its own, whatever ctx belongs to.
func TestRoot(t *testing.T) {
	tracer, recorder := tracingtest.New(t, 1)
	ctx, s := tracer.Root(trace.ContextWithRemoteSpanContext(t.Context(), span(0)), "root")
	if !tracing.Chosen(ctx) || !tracing.Sampled(ctx) {
		t.Error("it is not sampled")
	}
	s.End()
	if got := tracingtest.One(t, recorder, "root"); got.Parent != "" || got.Trace == span(0).TraceID().String() {
		t.Errorf("got %+v", got)
	}
	if tracing.Chosen(t.Context()) {
		t.Error("all are chosen")
	}
}

func TestAnswered(t *testing.T) {
	tracer, recorder := tracingtest.New(t, 1)
	for code, failed := range map[codes.Code]bool{codes.OK: false, codes.NotFound: false, codes.Internal: true, codes.Unavailable: true, codes.DeadlineExceeded: true, 99: false} {
		_, s := tracer.Start(t.Context(), tracing.CodeName(code))
		tracing.Answered(s, code)
		s.End()
		got := tracingtest.One(t, recorder, tracing.CodeName(code))
		if got.Failed != failed || got.Attributes["rpc.response.status_code"] != got.Name {
			t.Errorf("%v: got %+v", code, got)
		}
	}
	if tracing.CodeName(codes.NotFound) != "NOT_FOUND" || tracing.CodeName(99) != "CODE(99)" {
		t.Error("the names are not OpenTelemetry's")
	}
}

// TestFields: every context of a request says whose it is.
func TestFields(t *testing.T) {
	r := tracing.Request{Gate: "g", Session: 7, Sequence: 3}
	ctx := trace.ContextWithRemoteSpanContext(tracing.With(t.Context(), r), span(0))
	want := map[string]any{"gate": "g", "session": uint64(7), "request": uint32(3), "trace_id": span(0).TraceID().String()}
	ending, cancel := context.WithCancel(ctx)
	cancel()
	detached := tracing.Detach(ending)
	for name, ctx := range map[string]context.Context{"itself": ctx, "detached": detached} {
		if got := tracing.Fields(ctx); !maps.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
	if detached.Err() != nil {
		t.Error("what is detached ends with the request")
	}
	if got := tracing.Fields(t.Context()); len(got) != 0 {
		t.Errorf("a context of nothing has %v", got)
	}
}

// TestCarried: requests and traces go over what has texts by name, and nothing
// malformed does.
func TestCarried(t *testing.T) {
	r := tracing.Request{Gate: "g", Session: 7, Sequence: 3}
	carried := make(map[string]string)
	set := func(name, value string) { carried[name] = value }
	get := func(name string) string { return carried[name] }
	tracing.Inject(t.Context(), set)
	if len(carried) != 0 {
		t.Errorf("nothing is carried as %v", carried)
	}
	tracing.Inject(trace.ContextWithSpanContext(tracing.With(t.Context(), r), span(trace.FlagsSampled)), set)
	want := map[string]string{
		"minigate-request": "g/7/3", "traceparent": "00-0af7000000000000000000000000009c-b700000000000031-01",
	}
	if !maps.Equal(carried, want) {
		t.Errorf("got %v, want %v", carried, want)
	}
	ctx := tracing.Extract(t.Context(), get)
	if got, ok := tracing.RequestOf(ctx); !ok || got != r {
		t.Errorf("the request came as %+v, %v", got, ok)
	}
	if got := trace.SpanContextFromContext(ctx); !got.Equal(span(trace.FlagsSampled)) {
		t.Errorf("the trace came as %+v", got)
	}
	for _, bad := range []string{"00-0af7", "00-" + strings.Repeat("0", 32) + "-b700000000000031-01", "zz", strings.Repeat("x", 1000)} {
		carried = map[string]string{"minigate-request": bad, "traceparent": bad}
		if got := tracing.Fields(tracing.Extract(t.Context(), get)); len(got) != 0 {
			t.Errorf("%q came as %v", bad, got)
		}
	}
}
