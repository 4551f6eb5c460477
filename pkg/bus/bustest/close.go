package bustest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/motto123/minigate/pkg/bus"
)

func publisherClose(t *testing.T, k *kit) {
	q := k.declare(k.queue("a", "x"))
	p, other := k.publisher(), k.publisher()
	const n = 500
	var mu sync.Mutex
	var results []error
	for _, body := range numbered(n) {
		p.Publish(k.message("x", body), func(err error) {
			mu.Lock()
			defer mu.Unlock()
			results = append(results, err)
		})
	}
	if err := p.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	mu.Lock()
	if len(results) != n || slices.ContainsFunc(results, func(err error) bool { return err != nil }) {
		t.Errorf("after Close %d of %d are confirmed", len(results), n)
	}
	mu.Unlock()
	if err := publish(t, p, k.message("x", "late"))[0]; !errors.Is(err, bus.ErrClosed) {
		t.Errorf("publish on a closed publisher: %v, want %v", err, bus.ErrClosed)
	}
	k.send(other, "x", "another publisher")
	_, got := k.consume(bus.Consumer{Queue: q}).take(64) // the prefetch
	if !slices.Equal(got, numbered(n)[:64]) {
		t.Errorf("delivered %q …", got[:3])
	}
}

// closingWithoutLoss closes right after publishing: what is then confirmed is
// delivered, and the rest has its error.
func closingWithoutLoss(t *testing.T, k *kit) {
	const n = 2000
	q := k.declare(k.queue("a", "x"))
	target := k.Bus
	if k.Open != nil {
		target = k.Open(t)
		waitUp(t, target)
	}
	p := openPublisher(t, target)
	var mu sync.Mutex
	confirmed, reported := make(map[string]bool), 0
	for _, body := range numbered(n) {
		m := k.message("x", body)
		m.Persistent = true
		p.Publish(m, func(err error) {
			mu.Lock()
			defer mu.Unlock()
			reported++
			if err == nil {
				confirmed[body] = true
			}
		})
	}
	if k.Open != nil {
		if err := target.Close(); err != nil {
			t.Fatalf("close: %v", err)
		}
	} else if err := p.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if reported != n || len(confirmed) == 0 {
		t.Fatalf("after Close %d of %d are reported, %d confirmed", reported, n, len(confirmed))
	}
	c := k.consume(bus.Consumer{Queue: q, Prefetch: n})
	for len(confirmed) > 0 {
		d := c.next()
		delete(confirmed, string(d.Body))
		ack(t, d)
	}
}

func stateAndClose(t *testing.T, k *kit) {
	if s := k.Bus.State(); s != bus.Up {
		t.Fatalf("state %v, want up", s)
	}
	states := make(chan bus.State, 10)
	k.Bus.Watch(func(s bus.State) { states <- s })
	unwatched := make(chan bus.State, 10)
	k.Bus.Watch(func(s bus.State) { unwatched <- s })()
	p := k.publisher()
	c := k.consume(bus.Consumer{Queue: k.queue("a", "x")})
	if err := k.Bus.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	if s := wait(t, states, "a change of state"); s != bus.Down || k.Bus.State() != bus.Down {
		t.Errorf("state %v and %v after Close, want down", s, k.Bus.State())
	}
	if len(unwatched) > 0 {
		t.Error("a watcher that was stopped is still called")
	}
	wait(t, c.done, "Consume to end with the bus")
	if !errors.Is(c.err, bus.ErrClosed) {
		t.Errorf("Consume = %v when the bus closed, want %v", c.err, bus.ErrClosed)
	}
	if err := publish(t, p, k.message("x", ""))[0]; !errors.Is(err, bus.ErrClosed) {
		t.Errorf("Publish on a closed bus: %v, want %v", err, bus.ErrClosed)
	}
	if _, err := k.Bus.Publisher(); !errors.Is(err, bus.ErrClosed) {
		t.Errorf("Publisher on a closed bus: %v, want %v", err, bus.ErrClosed)
	}
	err := k.Bus.Consume(context.Background(), bus.Consumer{Queue: bus.Queue{Name: k.Topology.WorkerQueue("b")}})
	if !errors.Is(err, bus.ErrClosed) {
		t.Errorf("Consume on a closed bus: %v, want %v", err, bus.ErrClosed)
	}
	if err := k.Bus.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}
