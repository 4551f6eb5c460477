package otlp

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/motto123/minigate/pkg/metrics"
)

// Metrics are the exporter's, for a registry of Prometheus; none on nil.
func (e *Exporter) Metrics() prometheus.Collector {
	m := new(measures)
	if e == nil {
		return m
	}
	m.spans = e.spans
	m.total = m.families.Counter("minigate_tracing_spans_total", "Spans of traces that are kept, by what became of them: exported, or lost because the collector did not take them in time.", "outcome")
	m.waiting = m.families.Gauge("minigate_tracing_spans_waiting", "Spans that wait for the collector; more than 4,096 are lost.")
	return m
}

type measures struct {
	families       metrics.Families
	spans          *spans
	total, waiting *metrics.Family
}

// Describe is half of a prometheus.Collector.
func (m *measures) Describe(to chan<- *prometheus.Desc) { m.families.Describe(to) }

// Collect is the other half.
func (m *measures) Collect(to chan<- prometheus.Metric) {
	if m.spans == nil {
		return
	}
	m.total.Count(to, m.spans.exported.Load(), "exported")
	m.total.Count(to, m.spans.lost.Load(), "lost")
	m.waiting.Send(to, float64(m.spans.waiting.Load()))
}
