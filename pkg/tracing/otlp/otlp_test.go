package otlp

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/motto123/minigate/pkg/logging/loggingtest"
	"github.com/motto123/minigate/pkg/parts"
	"github.com/motto123/minigate/pkg/tracing/tracingtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run runs an exporter; stop ends it, and says how long that took.
func run(t *testing.T, cfg Config) (e *Exporter, said *loggingtest.Lines, stop func() time.Duration) {
	t.Helper()
	cfg.Log, said = loggingtest.New()
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	stop = sync.OnceValue(func() time.Duration {
		begun := time.Now()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		return time.Since(begun)
	})
	t.Cleanup(func() { stop() })
	return e, said, stop
}

// TestExport: what has ended is at the collector at the latest when Run is over.
func TestExport(t *testing.T) {
	c := tracingtest.NewCollector(t)
	for _, endpoint := range []string{c.Address, "http://" + c.Address} {
		e, said, stop := run(t, Config{Endpoint: endpoint, Sample: 1, Service: endpoint, System: "rabbitmq"})
		ctx, root := e.Tracer().Root(t.Context(), "root")
		_, below := e.Tracer().Start(ctx, "below")
		below.End()
		root.End()
		stop()
		var mine tracingtest.Spans
		for _, s := range c.Spans() {
			if s.Service == endpoint {
				mine = append(mine, s)
			}
		}
		if len(mine) != 2 || len(mine.Named("root")) != 1 || len(mine.Below(mine.Named("root")[0])) != 1 || mine[0].Trace != mine[1].Trace {
			t.Errorf("%s: got %+v", endpoint, mine)
		}
		if said.String() != "" || e.spans.exported.Load() != 2 || e.spans.lost.Load() != 0 || e.spans.waiting.Load() != 0 {
			t.Errorf("%s: exported %d, lost %d, waiting %d; %s", endpoint, e.spans.exported.Load(), e.spans.lost.Load(), e.spans.waiting.Load(), said)
		}
	}
}

// TestAttributesOfTheProcess: they say what runs, and the environment may add to it.
func TestAttributesOfTheProcess(t *testing.T) {
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=desk")
	r, err := about(t.Context(), Config{Service: "minigate-chat", Namespace: "minigate", Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"service.name": "minigate-chat", "service.namespace": "minigate", "service.version": "v1", "deployment.environment.name": "desk",
	} {
		if got := find(r.Attributes(), name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	t.Setenv("OTEL_SERVICE_NAME", "another")
	if r, err = about(t.Context(), Config{Service: "minigate-chat"}); err != nil || find(r.Attributes(), "service.name") != "another" {
		t.Errorf("the environment names it %v, %v", r, err)
	}
}

// TestNobodyIsThere: spans for a collector that refuses connections are lost, and
// nothing else is; one line in the log says so.
func TestNobodyIsThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	e, said, stop := run(t, Config{Endpoint: nobody, Sample: 1})
	for range 3 * batch {
		_, s := e.Tracer().Root(t.Context(), "root")
		s.End()
	}
	if took := stop(); took > endTimeout+2*time.Second {
		t.Errorf("the end took %v", took)
	}
	if lost := e.spans.lost.Load(); lost != 3*batch {
		t.Errorf("%d spans are lost, want %d", lost, 3*batch)
	}
	if n := strings.Count(said.String(), "traces are lost"); n != 1 {
		t.Errorf("%d lines, want 1:\n%s", n, said)
	}
}

// stuck is a collector that takes connections and says nothing.
func stuck(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = conn.Close() })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		accepting.Wait()
	})
	return l.Addr().String()
}

// TestTheQueueIsBounded: what does not fit is lost at once, and nobody waits.
func TestTheQueueIsBounded(t *testing.T) {
	ending := parts.NewEnding()
	e, _, stop := run(t, Config{Endpoint: stuck(t), Sample: 1, Ending: ending})
	const more = 100
	for range maxQueue + more {
		_, s := e.Tracer().Root(t.Context(), "root")
		s.End()
	}
	if lost, waiting := e.spans.lost.Load(), e.spans.waiting.Load(); lost != more || waiting != maxQueue {
		t.Errorf("%d are lost and %d wait, want %d and %d", lost, waiting, more, maxQueue)
	}
	ending.Hurry()
	if took := stop(); took > time.Second {
		t.Errorf("a hurried end took %v", took)
	}
	if lost := e.spans.lost.Load(); lost != maxQueue+more {
		t.Errorf("%d are lost at the end, want %d", lost, maxQueue+more)
	}
}

// TestTheEndIsBounded: a collector that says nothing holds nobody up for long.
func TestTheEndIsBounded(t *testing.T) {
	e, _, stop := run(t, Config{Endpoint: stuck(t), Sample: 1})
	_, s := e.Tracer().Root(t.Context(), "root")
	s.End()
	if took := stop(); took > endTimeout+2*time.Second {
		t.Errorf("the end took %v", took)
	}
}

// TestLostIsSaidOnceInAWhile: with the number since the last time.
func TestLostIsSaidOnceInAWhile(t *testing.T) {
	logger, said := loggingtest.New()
	s := &spans{log: logger}
	for range 5 {
		s.lose(2, errors.New("away"))
	}
	s.said = time.Now().Add(-quiet)
	s.lose(1, errors.New("away"))
	if lines := said.String(); strings.Count(lines, "\n") != 2 || !strings.Contains(lines, "spans=2") || !strings.Contains(lines, "spans=9") {
		t.Errorf("got\n%s", lines)
	}
}

// TestSampling: what Sample has chosen is kept whatever the share, the rest goes by
// the share or by what the trace says.
func TestSampling(t *testing.T) {
	c := tracingtest.NewCollector(t)
	e, _, stop := run(t, Config{Endpoint: c.Address, Sample: 0})
	library := e.Tracer().Provider().Tracer("library")
	remote := func(flags trace.TraceFlags) context.Context {
		return trace.ContextWithRemoteSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: flags, Remote: true,
		}))
	}
	_, chosen := e.Tracer().Root(remote(0), "chosen")
	_, unchosen := library.Start(t.Context(), "unchosen")
	_, kept := library.Start(remote(trace.FlagsSampled), "kept")
	_, dropped := library.Start(remote(0), "dropped")
	for _, s := range []trace.Span{chosen, unchosen, kept, dropped} {
		s.End()
	}
	stop()
	if all := c.Spans(); len(all) != 2 || len(all.Named("chosen")) != 1 || len(all.Named("kept")) != 1 {
		t.Errorf("got %s, want chosen and kept", all.Names())
	}
}

// TestOff: without an endpoint there is nothing.
func TestOff(t *testing.T) {
	e, err := New(Config{Sample: 1})
	if e != nil || err != nil || e.Tracer() != nil {
		t.Fatalf("got %v, %v", e, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.Run(ctx); err != nil {
		t.Error(err)
	}
	if n := testutil.CollectAndCount(e.Metrics()); n != 0 {
		t.Errorf("%d metrics", n)
	}
}

func TestMetrics(t *testing.T) {
	e, _, _ := run(t, Config{Endpoint: "127.0.0.1:1"})
	e.spans.exported.Store(3)
	e.spans.lost.Store(2)
	e.spans.waiting.Store(1)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(e.Metrics())
	if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP minigate_tracing_spans_total Spans of traces that are kept, by what became of them: exported, or lost because the collector did not take them in time.
# TYPE minigate_tracing_spans_total counter
minigate_tracing_spans_total{outcome="exported"} 3
minigate_tracing_spans_total{outcome="lost"} 2
# HELP minigate_tracing_spans_waiting Spans that wait for the collector; more than 4,096 are lost.
# TYPE minigate_tracing_spans_waiting gauge
minigate_tracing_spans_waiting 1
`)); err != nil {
		t.Error(err)
	}
}
