package bustest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/motto123/minigate/pkg/bus"
)

func competingConsumers(t *testing.T, k *kit) {
	q := k.queue("a", "x")
	a := k.consume(bus.Consumer{Queue: q, Prefetch: 10})
	b := k.consume(bus.Consumer{Queue: q, Prefetch: 10})
	p := k.publisher()
	k.send(p, "x", numbered(20)...)
	first, bodiesA := a.take(10)
	second, bodiesB := b.take(10)
	for _, bodies := range [][]string{bodiesA, bodiesB} {
		if !slices.IsSortedFunc(bodies, func(x, y string) int { return number(x) - number(y) }) {
			t.Errorf("one consumer got %q", bodies)
		}
	}
	all := append(bodiesA, bodiesB...)
	slices.SortFunc(all, func(x, y string) int { return number(x) - number(y) })
	if !slices.Equal(all, numbered(20)) {
		t.Errorf("together they got %q", all)
	}
	// One that does nothing does not hold up the other.
	k.send(p, "x", "more")
	ack(t, first...)
	ack(t, a.next())
	ack(t, second...)
}

func number(body string) (n int) {
	_, _ = fmt.Sscanf(body, "message %d", &n)
	return n
}

func prefetch(t *testing.T, k *kit) {
	c := k.consume(bus.Consumer{Queue: k.queue("a", "x"), Prefetch: 3})
	k.send(k.publisher(), "x", numbered(10)...)
	ds, got := c.take(3)
	quiet(t, c.deliveries, "three are unacked, as many as the prefetch")
	ack(t, ds[1])
	d := c.next()
	quiet(t, c.deliveries, "three are unacked again")
	ack(t, ds[0], ds[2], d)
	ds, more := c.take(3)
	ack(t, ds...)
	ds, last := c.take(3)
	ack(t, ds...)
	got = append(append(append(got, string(d.Body)), more...), last...)
	if !slices.Equal(got, numbered(10)) {
		t.Errorf("got %q", got)
	}
}

func redeliveryAfterConsumerDies(t *testing.T, k *kit) {
	q := k.queue("a", "x")
	first := k.consume(bus.Consumer{Queue: q, Prefetch: 8})
	k.send(k.publisher(), "x", numbered(10)...)
	ds, _ := first.take(8)
	for _, d := range ds {
		if d.Redelivered {
			t.Errorf("%q is marked as redelivered the first time", d.Body)
		}
	}
	ack(t, ds[0], ds[1], ds[4])
	first.stop()
	if err := ds[2].Ack(); !errors.Is(err, bus.ErrStale) {
		t.Errorf("ack after Consume ended: %v, want %v", err, bus.ErrStale)
	}
	second := k.consume(bus.Consumer{Queue: q})
	ds, got := second.take(7)
	want := []string{"message 2", "message 3", "message 5", "message 6", "message 7", "message 8", "message 9"}
	if !slices.Equal(got, want) {
		t.Errorf("redelivered %q, want %q", got, want)
	}
	for i, d := range ds[:5] {
		if !d.Redelivered {
			t.Errorf("%q came again and is not marked as redelivered", got[i])
		}
	}
	ack(t, ds...)
}

func rejectRequeues(t *testing.T, k *kit) {
	c := k.consume(bus.Consumer{Queue: k.queue("a", "x")})
	k.send(k.publisher(), "x", "again")
	for i := range 3 {
		d := c.next()
		if string(d.Body) != "again" || d.Redelivered != (i > 0) {
			t.Errorf("round %d: %q, redelivered %v", i, d.Body, d.Redelivered)
		}
		if i == 2 {
			ack(t, d)
		} else if err := d.Reject(true); err != nil {
			t.Fatalf("reject: %v", err)
		}
	}
	quiet(t, c.deliveries, "it is acked")
}

func rejectDeadLetters(t *testing.T, k *kit) {
	kept, dropped := k.queue("kept", "x.kept"), k.queue("dropped", "x.dropped")
	kept.DeadLetter = true
	dead := k.consume(bus.Consumer{Queue: bus.Queue{Name: k.Topology.DeadQueue()}})
	a, b := k.consume(bus.Consumer{Queue: kept}), k.consume(bus.Consumer{Queue: dropped})
	p := k.publisher()
	k.send(p, "x.dropped", "this one is dropped")
	d := b.next()
	if err := d.Reject(false); err != nil {
		t.Fatalf("reject: %v", err)
	}
	k.send(p, "x.kept", "this one is kept")
	d = a.next()
	if err := d.Reject(false); err != nil {
		t.Fatalf("reject: %v", err)
	}
	d = dead.next()
	if string(d.Body) != "this one is kept" || d.Exchange != k.Topology.DeadExchange() || d.Key != kept.Name {
		t.Errorf("dead letter %q from %s with key %s, want the kept one from %s with key %s",
			d.Body, d.Exchange, d.Key, k.Topology.DeadExchange(), kept.Name)
	}
	ack(t, d)
	quiet(t, a.deliveries, "it was rejected for good")
	quiet(t, b.deliveries, "it was rejected for good")
}

func settledTwice(t *testing.T, k *kit) {
	c := k.consume(bus.Consumer{Queue: k.queue("a", "x"), Prefetch: 1})
	k.send(k.publisher(), "x", "first", "second", "third")
	first := c.next()
	ack(t, first)
	second := c.next()
	if err := first.Ack(); err == nil {
		t.Error("a second ack of one delivery is no error")
	}
	quiet(t, c.deliveries, "the second is not acked, only the first was, twice")
	ack(t, second)
	ack(t, c.next())
}

// settledInAnyOrder acks and rejects from several goroutines in an order of its
// own: what is acked never comes again, what is rejected comes again once.
func settledInAnyOrder(t *testing.T, k *kit) {
	const n, window = 2000, 100
	q := k.queue("a", "x")
	c := k.consume(bus.Consumer{Queue: q, Prefetch: window, Drain: Patience})
	k.send(k.publisher(), "x", numbered(n)...)
	random := rand.New(rand.NewPCG(1, 2))
	acked, rejected := make(map[string]bool), make(map[string]bool)
	var held []bus.Delivery
	for len(acked) < n {
		if len(held) < window && len(acked)+len(held) < n {
			held = append(held, c.next())
			continue
		}
		random.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
		settle := held[:1+random.IntN(len(held))]
		held = held[len(settle):]
		var all sync.WaitGroup
		for i := range settle {
			body := string(settle[i].Body)
			if acked[body] {
				t.Fatalf("%q was acked and came again", body)
			}
			again := !rejected[body] && random.IntN(5) == 0
			if again {
				rejected[body] = true
			} else {
				acked[body] = true
			}
			all.Add(1)
			go func() {
				defer all.Done()
				how := bus.Acked
				if again {
					how = bus.Requeued
				}
				if err := settle[i].Settle(how); err != nil {
					t.Errorf("settle: %v", err)
				}
			}()
		}
		all.Wait()
	}
	c.stop()
	next := k.consume(bus.Consumer{Queue: q})
	quiet(t, next.deliveries, "everything is acked")
}

func drainLetsAcksThrough(t *testing.T, k *kit) {
	q := k.queue("a", "x")
	c := k.consume(bus.Consumer{Queue: q, Prefetch: 3, Drain: Patience})
	k.send(k.publisher(), "x", numbered(10)...)
	ds, _ := c.take(3)
	c.cancel()
	select {
	case <-c.done:
		t.Fatal("Consume returned before its deliveries were acked")
	case <-time.After(50 * time.Millisecond):
	}
	ack(t, ds[2], ds[0])
	quiet(t, c.deliveries, "the context has ended")
	ack(t, ds[1])
	c.stop()
	next := k.consume(bus.Consumer{Queue: q})
	if _, got := next.take(7); !slices.Equal(got, numbered(10)[3:]) {
		t.Errorf("the next consumer got %q", got)
	}
}

// drainKeepsOnlyWhatWasHandedOut: what a consumer was sent and has not handed out
// is another's while the first one still drains.
func drainKeepsOnlyWhatWasHandedOut(t *testing.T, k *kit) {
	q := k.queue("a", "x")
	held, leave := make(chan bus.Delivery, 10), make(chan struct{})
	c := k.consume(bus.Consumer{Queue: q, Drain: Patience, Handle: func(d bus.Delivery) {
		held <- d
		<-leave
	}})
	k.send(k.publisher(), "x", numbered(5)...)
	first := wait(t, held, "a delivery")
	c.cancel()
	close(leave)
	next := k.consume(bus.Consumer{Queue: q})
	ds, got := next.take(4)
	if !slices.Equal(got, numbered(5)[1:]) {
		t.Errorf("the next consumer got %q", got)
	}
	select {
	case <-c.done:
		t.Error("Consume returned before its delivery was acked")
	default:
	}
	ack(t, first)
	ack(t, ds...)
	c.stop()
}

func drainEnds(t *testing.T, k *kit) {
	q := k.queue("a", "x")
	const drain = 200 * time.Millisecond
	c := k.consume(bus.Consumer{Queue: q, Drain: drain})
	k.send(k.publisher(), "x", "never acked")
	c.next()
	began := time.Now()
	c.stop()
	if took := time.Since(began); took < drain/2 {
		t.Errorf("Consume did not wait for the ack: %v of %v", took, drain)
	}
	next := k.consume(bus.Consumer{Queue: q})
	if d := next.next(); string(d.Body) != "never acked" || !d.Redelivered {
		t.Errorf("then came %q, redelivered %v", d.Body, d.Redelivered)
	}
}

func consumeWaitsForHandle(t *testing.T, k *kit) {
	entered, leave := make(chan struct{}), make(chan struct{})
	left := false
	c := k.consume(bus.Consumer{Queue: k.queue("a", "x"), Handle: func(d bus.Delivery) {
		close(entered)
		<-leave
		left = true
	}})
	k.send(k.publisher(), "x", "only")
	wait(t, entered, "Handle")
	c.cancel()
	select {
	case <-c.done:
		t.Fatal("Consume returned while Handle ran")
	case <-time.After(50 * time.Millisecond):
	}
	close(leave)
	c.stop()
	if !left {
		t.Error("Consume returned before Handle")
	}
}

func expires(t *testing.T, k *kit) {
	q := k.queue("a", "x")
	q.Expires = 400 * time.Millisecond
	c := k.consume(bus.Consumer{Queue: q})
	p := k.publisher()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < 2*q.Expires; <-tick.C {
		k.send(p, "x", "it has a consumer")
		ack(t, c.next())
	}
	c.stop()
	k.send(p, "x", "it is kept for a moment")
	c = k.consume(bus.Consumer{Queue: q})
	ack(t, c.next())
	c.stop()
	began := time.Now()
	for {
		err := publish(t, p, k.message("x", ""))[0]
		if errors.Is(err, bus.ErrNoRoute) {
			break
		}
		if err != nil || time.Since(began) > Patience {
			t.Fatalf("%v after the last consumer left: %v", time.Since(began), err)
		}
		<-tick.C
	}
	if since := time.Since(began); since < q.Expires/2 {
		t.Errorf("the queue was gone after %v, want %v", since, q.Expires)
	}
}

func quorumQueue(t *testing.T, k *kit) {
	q := k.queue("a", "x")
	q.Quorum, q.MaxMessages, q.DeadLetter = true, 1000, true
	first := k.consume(bus.Consumer{Queue: q, Prefetch: 100})
	k.send(k.publisher(), "x", numbered(100)...)
	ds, got := first.take(100)
	if !slices.Equal(got, numbered(100)) {
		t.Errorf("got %q …", got[:3])
	}
	ack(t, ds[:50]...)
	first.stop()
	ds, got = k.consume(bus.Consumer{Queue: q, Prefetch: 100}).take(50)
	if !slices.Equal(got, numbered(100)[50:]) || !ds[0].Redelivered {
		t.Errorf("then came %q …, redelivered %v", got[:3], ds[0].Redelivered)
	}
	ack(t, ds...)
}

func queueThatCanNotBeHad(t *testing.T, k *kit) {
	q := k.declare(k.queue("a", "x"))
	other := q
	other.MaxMessages = 7
	nowhere := k.queue("b", "x")
	nowhere.Bindings[0].Exchange = k.Topology.Prefix() + ".no-such-exchange"
	for name, queue := range map[string]bus.Queue{"with other properties": other, "bound to no exchange": nowhere} {
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
		err := k.Bus.Consume(ctx, bus.Consumer{Queue: queue, Handle: func(bus.Delivery) {}})
		if err == nil || ctx.Err() != nil {
			t.Errorf("a queue %s: Consume = %v, want an error at once", name, err)
		}
		cancel()
	}
	// Neither harmed anybody else.
	c := k.consume(bus.Consumer{Queue: q})
	k.send(k.publisher(), "x", "fine")
	ack(t, c.next())
}
