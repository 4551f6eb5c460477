// Package otlp exports the spans of a process to a collector of OpenTelemetry's, by
// OTLP over gRPC, in batches.
//
// It refuses to wait for the collector: while that is away or slow, spans wait in a
// queue with a bound, and those beyond it are lost, counted, and spoken of in the
// log once in a while. At the end of the process it has a few seconds for the rest.
package otlp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/motto123/minigate/pkg/tracing"
)

const (
	// maxQueue bounds the spans that wait for the collector, and batch those that are
	// sent at once. A span takes about a kilobyte.
	maxQueue = 4096
	batch    = 512
	// interval is how long a span waits for others.
	interval = time.Second
	// exportTimeout bounds one attempt to send a batch. What fails is not tried again:
	// the next batch is the next attempt.
	exportTimeout = 5 * time.Second
	// endTimeout is what the end of the process waits for the collector.
	endTimeout = 3 * time.Second
	// quiet is how long nothing more is logged of lost spans.
	quiet = time.Minute

	// Bounds of one span. Ours have fewer.
	maxAttributes = 64
	maxEvents     = 32
	maxLinks      = 32
	maxText       = 2048 // bytes of one attribute
)

// Exporter exports what its Tracer traces. Run it once.
type Exporter struct {
	cfg      Config
	provider *sdktrace.TracerProvider
	tracer   *tracing.Tracer
	spans    *spans
	cut      context.CancelFunc // ends the sending that is under way
}

// New returns an exporter; it connects when there is something to send. Where
// cfg.Endpoint is empty it returns nil, of which all methods say that nothing is
// traced.
func New(cfg Config) (*Exporter, error) {
	if cfg.Endpoint == "" {
		return nil, nil
	}
	address, secure, err := parse(cfg.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("%w, got %q", err, cfg.Endpoint)
	}
	if cfg.Log == nil {
		cfg.Log = logrus.StandardLogger()
	}
	scheme := "http"
	if secure {
		scheme = "https"
	}
	ctx, cut := context.WithCancel(context.Background())
	// What OTEL_EXPORTER_OTLP_HEADERS and _CERTIFICATE say is taken, too.
	to, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpointURL(scheme+"://"+address),
		otlptracegrpc.WithTimeout(exportTimeout), otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{Enabled: false}))
	if err != nil {
		cut()
		return nil, fmt.Errorf("otlp: %w", err)
	}
	about, err := about(ctx, cfg)
	if err != nil {
		cut()
		return nil, errors.Join(fmt.Errorf("otlp: %w", err), to.Shutdown(ctx))
	}
	s := newSpans(ctx, to, cfg.Log)
	limits := sdktrace.NewSpanLimits()
	limits.AttributeCountLimit, limits.EventCountLimit, limits.LinkCountLimit = maxAttributes, maxEvents, maxLinks
	limits.AttributeValueLengthLimit = maxText
	p := sdktrace.NewTracerProvider(
		sdktrace.WithSpanProcessor(s), sdktrace.WithResource(about), sdktrace.WithRawSpanLimits(limits),
		sdktrace.WithSampler(sdktrace.ParentBased(root{sdktrace.TraceIDRatioBased(cfg.Sample)})),
	)
	return &Exporter{cfg: cfg, provider: p, tracer: tracing.New(p, cfg.Sample, cfg.System), spans: s, cut: cut}, nil
}

// about is what every span says of its process. OTEL_RESOURCE_ATTRIBUTES adds to it,
// and OTEL_SERVICE_NAME names it otherwise.
func about(ctx context.Context, cfg Config) (*resource.Resource, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("the name of this machine: %w", err)
	}
	return resource.New(ctx, resource.WithTelemetrySDK(), resource.WithAttributes(
		semconv.ServiceName(cfg.Service), semconv.ServiceNamespace(cfg.Namespace), semconv.ServiceVersion(cfg.Version),
		semconv.ServiceInstanceID(fmt.Sprintf("%s:%d", host, os.Getpid())), semconv.HostName(host),
	), resource.WithFromEnv())
}

// root samples what begins here: what Tracer.Sample has chosen, and of what
// libraries begin the usual part.
type root struct{ sdktrace.Sampler }

func (r root) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if tracing.Chosen(p.ParentContext) {
		return sdktrace.AlwaysSample().ShouldSample(p)
	}
	return r.Sampler.ShouldSample(p)
}

// Tracer makes the spans; nil on a nil Exporter.
func (e *Exporter) Tracer() *tracing.Tracer {
	if e == nil {
		return nil
	}
	return e.tracer
}

// Run exports until ctx ends, and then what is still there, for a few seconds at
// most. Spans that end later are lost, so it is to outlast whatever makes any.
func (e *Exporter) Run(ctx context.Context) error {
	<-ctx.Done()
	if e == nil {
		return nil
	}
	within, cancel := e.cfg.Ending.Within(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	// Its error is that of within, or what the spans have told the log.
	_ = e.spans.Shutdown(within)
	e.cut()
	// The provider alone would not do: where there is no time left it forgets its
	// processors without a word to them, and their goroutines stay.
	_ = e.provider.Shutdown(within)
	e.spans.end()
	return nil
}

// spans is what the SDK gives spans to when they end, and where its batches go: the
// bound between the two, and the count of what became of them.
type spans struct {
	sdktrace.SpanProcessor // batches
	to                     sdktrace.SpanExporter
	log                    logrus.FieldLogger
	base                   context.Context // ends with the process

	waiting        atomic.Int64 // in the queue, or being sent
	exported, lost atomic.Uint64
	over           chan struct{} // closed when nothing is sent any more
	once           sync.Once

	mu     sync.Mutex
	said   time.Time // when the log was told of lost spans
	silent uint64    // lost ones that it was told of
}

func newSpans(ctx context.Context, to sdktrace.SpanExporter, log logrus.FieldLogger) *spans {
	s := &spans{to: to, log: log, base: ctx, over: make(chan struct{})}
	s.SpanProcessor = sdktrace.NewBatchSpanProcessor(sender{s},
		sdktrace.WithMaxQueueSize(maxQueue), sdktrace.WithMaxExportBatchSize(batch),
		sdktrace.WithBatchTimeout(interval), sdktrace.WithExportTimeout(exportTimeout))
	return s
}

// OnEnd takes a span, and never waits.
func (s *spans) OnEnd(span sdktrace.ReadOnlySpan) {
	if !span.SpanContext().IsSampled() {
		return
	}
	if s.waiting.Add(1) > maxQueue {
		s.waiting.Add(-1)
		s.lose(1, errFull)
		return
	}
	s.SpanProcessor.OnEnd(span)
}

var errFull = errors.New("otlp: the queue is full")

// lose counts, and tells the log once in a while.
func (s *spans) lose(n int, err error) {
	lost := s.lost.Add(uint64(n))
	s.mu.Lock()
	now := time.Now()
	tell := s.said.IsZero() || now.Sub(s.said) >= quiet
	var since uint64
	if tell {
		since, s.silent, s.said = lost-s.silent, lost, now
	}
	s.mu.Unlock()
	if tell {
		s.log.WithError(err).WithField("spans", since).Warn("traces are lost: the collector does not take them; all else goes on")
	}
}

// end returns when nothing is sent any more.
func (s *spans) end() { <-s.over }

// sender is what the batches go to: the exporter, with its errors counted here, for
// the SDK would print them.
type sender struct{ *spans }

// ExportSpans sends a batch, once.
func (s sender) ExportSpans(ctx context.Context, batch []sdktrace.ReadOnlySpan) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(s.base, cancel)
	defer stop()
	err := s.to.ExportSpans(ctx, batch)
	s.waiting.Add(-int64(len(batch)))
	if err != nil {
		s.lose(len(batch), err)
		return nil
	}
	s.exported.Add(uint64(len(batch)))
	return nil
}

// Shutdown is the last call.
func (s sender) Shutdown(ctx context.Context) error {
	defer s.once.Do(func() { close(s.over) })
	return s.to.Shutdown(ctx)
}
