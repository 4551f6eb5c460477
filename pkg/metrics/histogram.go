package metrics

import (
	"sync/atomic"
	"time"
)

// maxBounds is how many bounds a layout may have.
const maxBounds = 16

// Layout says into which buckets a histogram counts: bounds, ascending, each of
// them the largest value of its bucket, in units of which one is unit of what
// Prometheus gets to see.
type Layout struct {
	bounds []uint64
	unit   float64
}

// The layouts. They are few and fixed: buckets are what a histogram costs a
// Prometheus, for each route.
var (
	// Latency counts nanoseconds and shows seconds, from 100 µs to 10 s.
	Latency = &Layout{unit: 1e-9, bounds: durations(
		100*time.Microsecond, 250*time.Microsecond, 500*time.Microsecond,
		time.Millisecond, 2500*time.Microsecond, 5*time.Millisecond,
		10*time.Millisecond, 25*time.Millisecond, 50*time.Millisecond,
		100*time.Millisecond, 250*time.Millisecond, 500*time.Millisecond,
		time.Second, 2500*time.Millisecond, 5*time.Second, 10*time.Second,
	)}
	// Bytes counts bytes, from 64 to 16 MiB.
	Bytes = &Layout{unit: 1, bounds: []uint64{64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20}}
	// Items counts things, from 1 to 512.
	Items = &Layout{unit: 1, bounds: []uint64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512}}
)

func durations(all ...time.Duration) (bounds []uint64) {
	for _, d := range all {
		bounds = append(bounds, uint64(d))
	}
	return bounds
}

// Histogram counts values by size. Its methods are safe to call at once, and take
// no lock and allocate nothing. Its zero value is not usable: see NewHistogram.
type Histogram struct {
	layout *Layout
	sum    atomic.Uint64
	counts [maxBounds + 1]atomic.Uint64 // the last is over all bounds
}

// NewHistogram returns an empty histogram.
func NewHistogram(l *Layout) *Histogram { return &Histogram{layout: l} }

// Observe counts one value in the layout's unit: bytes, or things.
//
// Hot path (BenchmarkObserve): two atomic additions.
func (h *Histogram) Observe(v uint64) {
	bounds := h.layout.bounds
	low, high := 0, len(bounds)
	for low < high {
		middle := int(uint(low+high) >> 1)
		if v <= bounds[middle] {
			high = middle
		} else {
			low = middle + 1
		}
	}
	h.counts[low].Add(1)
	h.sum.Add(v)
}

// Took counts one duration in a histogram of the layout Latency. One that is less
// than nothing, since two clocks differ, is nothing.
func (h *Histogram) Took(d time.Duration) { h.Observe(uint64(max(d, 0))) }

// snapshot is what Prometheus wants: all that was counted, its sum, and how many
// values are at most each bound. The count is made of the buckets, so that the
// two agree whatever is being counted meanwhile.
func (h *Histogram) snapshot() (count uint64, sum float64, buckets map[float64]uint64) {
	buckets = make(map[float64]uint64, len(h.layout.bounds))
	for i, bound := range h.layout.bounds {
		count += h.counts[i].Load()
		buckets[float64(bound)*h.layout.unit] = count
	}
	count += h.counts[len(h.layout.bounds)].Load()
	return count, float64(h.sum.Load()) * h.layout.unit, buckets
}
