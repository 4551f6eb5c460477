package bustest

import (
	"slices"
	"testing"

	"github.com/motto123/minigate/pkg/bus"
)

// requeuedAtTheEnd: what a consumer gives back in order as soon as its context has
// ended, nobody gets in another order.
func requeuedAtTheEnd(t *testing.T, k *kit) {
	const n = 200
	p := k.publisher()
	for range 10 {
		q := k.queue("a", "x")
		c := k.consume(bus.Consumer{Queue: q, Prefetch: n, Drain: Patience})
		k.send(p, "x", numbered(n)...)
		ds, _ := c.take(n)
		next := k.consume(bus.Consumer{Queue: q, Prefetch: 2 * n})
		c.cancel()
		for i := range ds {
			if err := ds[i].Reject(true); err != nil {
				t.Fatal(err)
			}
		}
		ds, got := next.take(n)
		if !slices.Equal(got, numbered(n)) {
			t.Fatalf("the next consumer got %q", got)
		}
		ack(t, ds...)
		c.stop()
		next.stop()
	}
}
