package tape

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/motto123/minigate/pkg/metrics"
)

// measures are what a Recorder counts for Prometheus.
type measures struct {
	families metrics.Families

	entriesTotal, bytesTotal, batchesTotal, droppedTotal, waitingBytes *metrics.Family

	entries, bytes, batches atomic.Uint64 // kept
	full, lost              atomic.Uint64 // entries that are not
}

func (m *measures) declare() {
	f := &m.families
	m.entriesTotal = f.Counter("minigate_tape_entries_total", "Entries that are on the tape: envelopes of requests, and replies to one gate.")
	m.bytesTotal = f.Counter("minigate_tape_bytes_total", "Bytes of these.")
	m.batchesTotal = f.Counter("minigate_tape_batches_total", "Batches that they were written in.")
	m.droppedTotal = f.Counter("minigate_tape_dropped_total", "Entries that are not on the tape: there was no room for them to wait (full), or they could not be written (lost).", "reason")
	m.waitingBytes = f.Gauge("minigate_tape_waiting_bytes", "Entries that wait to be written or are being written; 8 MiB at the most.")
}

// Describe is half of a prometheus.Collector.
func (r *Recorder) Describe(to chan<- *prometheus.Desc) { r.measures.families.Describe(to) }

// Collect is the other half.
func (r *Recorder) Collect(to chan<- prometheus.Metric) {
	m := &r.measures
	m.entriesTotal.Count(to, m.entries.Load())
	m.bytesTotal.Count(to, m.bytes.Load())
	m.batchesTotal.Count(to, m.batches.Load())
	m.droppedTotal.Count(to, m.full.Load(), "full")
	m.droppedTotal.Count(to, m.lost.Load(), "lost")
	r.mu.Lock()
	waiting := r.bytes
	r.mu.Unlock()
	m.waitingBytes.Send(to, float64(waiting))
}
