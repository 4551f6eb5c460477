package worker

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/metrics/metricstest"
)

// blobs is a worker on a bus that takes no replies, whose replies have so many bytes.
func blobs(t *testing.T, cfg Config, size int) (w *Worker, b *faultyBus, g *gate, handled *atomic.Int32) {
	t.Helper()
	b = &faultyBus{Bus: newMem(t)}
	cfg.Bus, cfg.Log = b, quiet()
	w, handled = New("blob", cfg), new(atomic.Int32)
	HandleRaw(w, "blob.get", func(_ context.Context, in Raw) (Raw, error) {
		handled.Add(1)
		return Raw{DataType: in.DataType, Data: make([]byte, size)}, nil
	}, Public())
	run(t, w)
	g = newGate(t, b.Bus, bus.NewTopology(""), "g1")
	eventually(t, "the announcement", func() bool { return w.Stats().Announced == 1 })
	b.fail(bus.ErrUnavailable)
	return w, b, g, handled
}

// answered waits for the replies to sequences 1 to n, one to each.
func answered(t *testing.T, g *gate, n int) {
	t.Helper()
	seen := make(map[uint32]bool)
	for range n {
		r := g.reply()
		if r.Code != 0 || seen[r.Sequence] || r.Sequence == 0 || int(r.Sequence) > n {
			t.Fatalf("got a reply to %d with code %d, seen before: %v", r.Sequence, r.Code, seen[r.Sequence])
		}
		seen[r.Sequence] = true
	}
}

// Handlers wait while as many bytes of replies have failed as the outbox may hold: it
// may then hold as much again of which nobody knows yet.
func TestHandlersWaitWhileRepliesFail(t *testing.T) {
	const requests, size, concurrency = 100, 1 << 20, 4
	w, b, g, handled := blobs(t, Config{Concurrency: concurrency}, size)
	var all []bus.Request
	for i := range uint32(requests) {
		all = append(all, bus.Request{Session: uint64(i), Sequence: i + 1})
	}
	g.send("blob.get", all...)
	const least, most = outboxBytes / size, 2*outboxBytes/size + 2*concurrency
	eventually(t, "handlers wait", func() bool { return handled.Load() >= least })
	before := w.Stats().Retries
	eventually(t, "all are tried again, twice", func() bool { return w.Stats().Retries >= before+2*most })
	if n := handled.Load(); n > most {
		t.Errorf("%d requests are handled while the broker takes no reply, want %d at the most", n, most)
	}
	_, shown, _ := strings.Cut(metricstest.Text(t, w), "minigate_worker_outbox_bytes{service=\"blob\"} ")
	var bytes float64
	if _, err := fmt.Sscan(shown, &bytes); err != nil || bytes < outboxBytes {
		t.Errorf("the metric says %v bytes, %v", bytes, err)
	}
	b.fail(nil)
	answered(t, g, requests)
	// A reply may be there before its confirm.
	eventually(t, "no bytes are counted as failed", func() bool { return w.out.Load().unsent.Load() == 0 })
}

// A worker takes no more envelopes than its prefetch while the broker takes no reply.
func TestNothingIsConsumedWhileRepliesFail(t *testing.T) {
	const envelopes, each, prefetch = 12, 10, 3
	w, b, g, handled := blobs(t, Config{Prefetch: prefetch}, 10)
	sequence := uint32(0)
	for range envelopes {
		var of []bus.Request
		for range each {
			sequence++
			of = append(of, bus.Request{Session: uint64(sequence), Sequence: sequence})
		}
		g.send("blob.get", of...)
	}
	eventually(t, "each reply is tried again, twice", func() bool { return w.Stats().Retries >= 2*prefetch*each })
	if n := handled.Load(); n != prefetch*each {
		t.Errorf("%d requests are handled while the broker takes no reply, want %d", n, prefetch*each)
	}
	b.fail(nil)
	answered(t, g, envelopes*each)
}
