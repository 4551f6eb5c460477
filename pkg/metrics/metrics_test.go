package metrics

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// part is what a package does with Families.
type part struct {
	Families
	collect func(to chan<- prometheus.Metric)
}

func (p *part) Collect(to chan<- prometheus.Metric) { p.collect(to) }

// expect compares what a part sends with Prometheus' text.
func expect(t *testing.T, p *part, want string) {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(p); err != nil {
		t.Fatal(err)
	}
	if err := testutil.GatherAndCompare(r, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

func TestHistogram(t *testing.T) {
	h := NewHistogram(Items)
	for _, v := range []uint64{0, 1, 2, 3, 4, 512, 513, 1 << 40} {
		h.Observe(v)
	}
	p := new(part)
	f := p.Histogram("things", "How many.", "kind")
	p.collect = func(to chan<- prometheus.Metric) { f.SendHistogram(to, h, "small") }
	expect(t, p, `
# HELP things How many.
# TYPE things histogram
things_bucket{kind="small",le="1"} 2
things_bucket{kind="small",le="2"} 3
things_bucket{kind="small",le="4"} 5
things_bucket{kind="small",le="8"} 5
things_bucket{kind="small",le="16"} 5
things_bucket{kind="small",le="32"} 5
things_bucket{kind="small",le="64"} 5
things_bucket{kind="small",le="128"} 5
things_bucket{kind="small",le="256"} 5
things_bucket{kind="small",le="512"} 6
things_bucket{kind="small",le="+Inf"} 8
things_sum{kind="small"} 1.099511628811e+12
things_count{kind="small"} 8
`)
}

// Every bound of every layout is the largest value of its bucket.
func TestBounds(t *testing.T) {
	for name, layout := range map[string]*Layout{"latency": Latency, "bytes": Bytes, "items": Items} {
		if len(layout.bounds) > maxBounds {
			t.Fatalf("%s has %d bounds, more than %d", name, len(layout.bounds), maxBounds)
		}
		for i, bound := range layout.bounds {
			h := NewHistogram(layout)
			h.Observe(bound)
			h.Observe(bound + 1)
			if h.counts[i].Load() != 1 || h.counts[i+1].Load() != 1 {
				t.Errorf("%s: %d and one more are not in the buckets %d and %d", name, bound, i, i+1)
			}
		}
	}
}

func TestLatencyIsInSeconds(t *testing.T) {
	h := NewHistogram(Latency)
	h.Took(2 * time.Millisecond)
	h.Took(-time.Hour)
	count, sum, buckets := h.snapshot()
	if count != 2 || math.Abs(sum-0.002) > 1e-12 {
		t.Errorf("got %d values of %v s together, want 2 of 0.002", count, sum)
	}
	for bound, want := range map[float64]uint64{1e-4: 1, 1e-3: 1, 2.5e-3: 2, 10: 2} {
		got, found := uint64(0), false
		for b, n := range buckets {
			if math.Abs(b-bound) < 1e-12 {
				got, found = n, true
			}
		}
		if !found || got != want {
			t.Errorf("up to %v s: got %d (%v), want %d", bound, got, found, want)
		}
	}
}

// A name with another number of labels is reported by the scrape.
func TestWrongLabelsFailTheScrape(t *testing.T) {
	p := new(part)
	f := p.Gauge("size", "How large.", "of")
	p.collect = func(to chan<- prometheus.Metric) { f.Send(to, 1) }
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(p)
	if _, err := r.Gather(); err == nil {
		t.Error("a series without its label is taken")
	}
}

// Two parts of one kind, in one process.
func TestFixedLabels(t *testing.T) {
	r := prometheus.NewPedanticRegistry()
	for _, name := range []string{"one", "two"} {
		p := new(part)
		p.Fix("service", name)
		f := p.Gauge("size", "How large.", "of")
		p.collect = func(to chan<- prometheus.Metric) { f.Send(to, 1, "it") }
		if err := r.Register(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := testutil.GatherAndCompare(r, strings.NewReader(`
# HELP size How large.
# TYPE size gauge
size{of="it",service="one"} 1
size{of="it",service="two"} 1
`)); err != nil {
		t.Error(err)
	}
}

func TestCodes(t *testing.T) {
	var c Codes
	for _, code := range []uint32{0, 0, 5, 16, 17, math.MaxUint32} {
		c.Add(code)
	}
	p := new(part)
	f := p.Counter("answers_total", "Answers.", "route", "code")
	p.collect = func(to chan<- prometheus.Metric) { c.Send(f, to, "a.b") }
	expect(t, p, `
# HELP answers_total Answers.
# TYPE answers_total counter
answers_total{code="DEADLINE_EXCEEDED",route="a.b"} 0
answers_total{code="INTERNAL",route="a.b"} 0
answers_total{code="NOT_FOUND",route="a.b"} 1
answers_total{code="OK",route="a.b"} 2
answers_total{code="UNAUTHENTICATED",route="a.b"} 1
answers_total{code="UNAVAILABLE",route="a.b"} 0
answers_total{code="UNKNOWN",route="a.b"} 2
`)
}

func TestRoutesAreBounded(t *testing.T) {
	type counter struct{ n int }
	r := NewRoutes(func() *counter { return new(counter) })
	r.Add("chat.send", "chat.send")
	r.Of("chat.send").n++
	for i := range 1000 { // made up by a client
		r.Of(fmt.Sprintf("chat.x%d", i)).n++
	}
	for i := range 2 * MaxRoutes { // announced by a service that has very many
		r.Add(fmt.Sprintf("many.x%d", i))
	}
	got := make(map[string]int)
	var last string
	r.Each(func(route string, c *counter) {
		if route <= last && route != Other {
			t.Errorf("%s comes after %s", route, last)
		}
		last, got[route] = route, c.n
	})
	if len(got) != MaxRoutes+1 || last != Other {
		t.Errorf("%d routes, the last %s; want %d and the others", len(got), last, MaxRoutes)
	}
	if got["chat.send"] != 1 || got[Other] != 1000 {
		t.Errorf("chat.send has %d, want 1; others %d, want 1000", got["chat.send"], got[Other])
	}
}

// What is counted while routes are added is not lost, and nothing races.
func TestRoutesAreSafeToCallAtOnce(t *testing.T) {
	r := NewRoutes(func() *Codes { return new(Codes) })
	r.Add("a.a")
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 1000 {
				r.Of("a.a").Add(0)
				if i%100 == 0 {
					r.Add(fmt.Sprintf("a.b%d", i))
				}
			}
		})
	}
	all.Wait()
	if n := r.Of("a.a")[0].Load(); n != 4000 {
		t.Errorf("counted %d, want 4000", n)
	}
}

func BenchmarkObserve(b *testing.B) {
	h := NewHistogram(Latency)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for d := time.Microsecond; pb.Next(); d = (d*3)&0xffffff + 1 {
			h.Took(d)
		}
	})
}

func BenchmarkRoutes(b *testing.B) {
	r := NewRoutes(func() *Codes { return new(Codes) })
	for i := range 50 {
		r.Add(fmt.Sprintf("service%d.method", i))
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r.Of("service7.method").Add(0)
		}
	})
}

// BenchmarkPrometheus is the same with the client library's own vectors: why this
// package exists.
func BenchmarkPrometheus(b *testing.B) {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h", Buckets: prometheus.DefBuckets})
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "c"}, []string{"route", "code"})
	b.Run("observe", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for d := time.Microsecond; pb.Next(); d = (d*3)&0xffffff + 1 {
				h.Observe(d.Seconds())
			}
		})
	})
	b.Run("count", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				c.WithLabelValues("service7.method", "OK").Inc()
			}
		})
	})
}
