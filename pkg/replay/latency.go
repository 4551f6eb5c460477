package replay

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latencies are of how many calls, and in the middle and at the slow end.
type Latencies struct {
	Count    int64
	P50, P99 time.Duration
}

// latency counts durations from a microsecond to an hour, to three digits.
type latency struct{ histogram *hdrhistogram.Histogram }

func newLatency() *latency {
	return &latency{hdrhistogram.New(1, int64(time.Hour/time.Microsecond), 3)}
}

func (l *latency) add(d time.Duration) {
	_ = l.histogram.RecordValue(min(max(1, d.Microseconds()), l.histogram.HighestTrackableValue())) // it is in the range
}

func (l *latency) sum() Latencies {
	at := func(q float64) time.Duration {
		return time.Duration(l.histogram.ValueAtQuantile(q)) * time.Microsecond
	}
	return Latencies{l.histogram.TotalCount(), at(50), at(99)}
}
