package stream

import (
	"context"
	"testing"

	"github.com/motto123/minigate/pkg/tape"
)

// TestWhatADeletedStreamDoesNotKeep: the broker confirms what it returns, too. No more
// batches are said to be kept than there are on the new stream.
func TestWhatADeletedStreamDoesNotKeep(t *testing.T) {
	url := broker(t)
	topology := own(t, url)
	w, s := newWriter(t, url, topology, 1<<20), open(t, url, topology)
	w.write(2, 10)
	remove(t, url, topology)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	outcomes, kept := make(chan error, 100), 0
	for n := range 100 {
		w.Write(ctx, batch(t, 2*n, 10), func(err error) { outcomes <- err })
	}
	for range 100 {
		if <-outcomes == nil {
			kept++
		}
	}
	there := make(map[int64]bool)
	eventually(t, "there is a stream", func() bool {
		w.Write(ctx, batch(t, 1000, 10), func(err error) { outcomes <- err })
		if <-outcomes == nil {
			kept++
		}
		clear(there)
		return s.Read(ctx, tape.Start{}, false, func(e *tape.Entry) error { there[e.Position.Offset] = true; return nil }) == nil && len(there) > 0
	})
	if kept > len(there) || kept == 0 {
		t.Errorf("%d are said to be kept, and %d are there", kept, len(there))
	}
}
