// Package metrics measures on hot paths, and says what was counted in Prometheus'
// words. A package that has something to say keeps its counters as atomics,
// declares its Families once, and sends them when Prometheus asks.
//
// It refuses to know any metric, to serve them (pkg/admin does), and to make a
// series of whatever text it is given: see Routes.
package metrics

import (
	"maps"

	"github.com/prometheus/client_golang/prometheus"
)

// Families are the metrics of one part of a process. The zero value is usable;
// it is filled before anybody collects.
type Families struct {
	all   []*Family
	fixed prometheus.Labels
}

// Fix gives all series of the families that are declared from now on a label with
// one value: parts of the same kind need one that differs.
func (f *Families) Fix(label, value string) {
	fixed := maps.Clone(f.fixed)
	if fixed == nil {
		fixed = make(prometheus.Labels)
	}
	fixed[label] = value
	f.fixed = fixed
}

// Family is one metric, with all its series.
type Family struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

// Counter declares a number that only grows. Its name ends in _total.
func (f *Families) Counter(name, help string, labels ...string) *Family {
	return f.add(name, help, prometheus.CounterValue, labels)
}

// Gauge declares a number that goes up and down.
func (f *Families) Gauge(name, help string, labels ...string) *Family {
	return f.add(name, help, prometheus.GaugeValue, labels)
}

// Histogram declares a histogram. Its name ends in its unit.
func (f *Families) Histogram(name, help string, labels ...string) *Family {
	return f.add(name, help, prometheus.UntypedValue, labels)
}

func (f *Families) add(name, help string, kind prometheus.ValueType, labels []string) *Family {
	family := &Family{desc: prometheus.NewDesc(name, help, labels, f.fixed), kind: kind}
	f.all = append(f.all, family)
	return family
}

// Describe is half of a prometheus.Collector.
func (f *Families) Describe(to chan<- *prometheus.Desc) {
	for _, family := range f.all {
		to <- family.desc
	}
}

// Send sends one series of a counter or gauge. What is wrong with it, such as a
// wrong number of labels, fails the scrape and not the process.
func (f *Family) Send(to chan<- prometheus.Metric, value float64, labels ...string) {
	m, err := prometheus.NewConstMetric(f.desc, f.kind, value, labels...)
	f.send(to, m, err)
}

// Count is Send with a whole number.
func (f *Family) Count(to chan<- prometheus.Metric, value uint64, labels ...string) {
	f.Send(to, float64(value), labels...)
}

// SendHistogram sends one series of a histogram.
func (f *Family) SendHistogram(to chan<- prometheus.Metric, h *Histogram, labels ...string) {
	count, sum, buckets := h.snapshot()
	m, err := prometheus.NewConstHistogram(f.desc, count, sum, buckets, labels...)
	f.send(to, m, err)
}

func (f *Family) send(to chan<- prometheus.Metric, m prometheus.Metric, err error) {
	if err != nil {
		m = prometheus.NewInvalidMetric(f.desc, err)
	}
	to <- m
}

// Flag is 1 for true and 0 for false.
func Flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
