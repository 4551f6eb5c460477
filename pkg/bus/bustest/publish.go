package bustest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/motto123/minigate/pkg/bus"
)

func topicPatterns(t *testing.T, k *kit) {
	keys := []string{"game.move", "game.move.fast", "game", "chat.send", "chat.room.send", "other.game", "a.b.c.d"}
	patterns := map[string][]string{
		"game.move":   {"game.move"},
		"game.#":      {"game.move", "game.move.fast", "game"},
		"game.*":      {"game.move"},
		"*.game":      {"other.game"},
		"#":           keys,
		"*":           {"game"},
		"*.*":         {"game.move", "chat.send", "other.game"},
		"#.send":      {"chat.send", "chat.room.send"},
		"chat.*.send": {"chat.room.send"},
		"chat.#.send": {"chat.send", "chat.room.send"},
		"a.#.d":       {"a.b.c.d"},
		"a.*.#.*.d":   {"a.b.c.d"},
		"a.*.d":       nil,
		"gam.#":       nil,
	}
	const last = "$last" // goes to every queue, after all others
	p := k.publisher()
	consumers := map[string]*running{}
	for pattern := range patterns {
		q := k.queue(fmt.Sprintf("pattern%d", len(consumers)), pattern, last)
		consumers[pattern] = k.consume(bus.Consumer{Queue: q})
	}
	for _, key := range keys {
		k.send(p, key, "to "+key)
	}
	k.send(p, last, "")
	for pattern, want := range patterns {
		var got []string
		for {
			d := consumers[pattern].next()
			ack(t, d)
			if d.Key == last {
				break
			}
			if d.Exchange != k.Topology.RequestExchange() || string(d.Body) != "to "+d.Key {
				t.Errorf("%s: exchange %q, key %q, body %q", pattern, d.Exchange, d.Key, d.Body)
			}
			got = append(got, d.Key)
		}
		// "#" and "*" match the last key too; it came once all the same.
		if !slices.Equal(got, want) {
			t.Errorf("%s got %q, want %q", pattern, got, want)
		}
	}
}

func oneCopyPerQueue(t *testing.T, k *kit) {
	c := k.consume(bus.Consumer{Queue: k.queue("a", "x.#", "x.*", "x.y", "last")})
	p := k.publisher()
	k.send(p, "x.y", "once")
	k.send(p, "last", "last")
	if _, got := c.take(2); !slices.Equal(got, []string{"once", "last"}) {
		t.Errorf("got %q, want one copy although three bindings match", got)
	}
}

func noRoute(t *testing.T, k *kit) {
	k.declare(k.queue("a", "bound.#"))
	p := k.publisher()
	optional := k.message("unbound.x", "")
	optional.Optional = true
	elsewhere := k.message("bound.x", "")
	elsewhere.Exchange = k.Topology.ReplyExchange()
	unknown := k.message("bound.x", "")
	unknown.Exchange = k.Topology.Prefix() + ".no-such-exchange"
	got := publish(t, p,
		k.message("unbound.x", ""), optional, k.message("bound.x", ""), elsewhere, unknown, k.message("bound.x", ""))
	for i, want := range []error{bus.ErrNoRoute, nil, nil, bus.ErrNoRoute, bus.ErrNoRoute, nil} {
		if !errors.Is(got[i], want) {
			t.Errorf("message %d: %v, want %v", i, got[i], want)
		}
	}
}

func bodiesOfAllSizes(t *testing.T, k *kit) {
	c := k.consume(bus.Consumer{Queue: k.queue("a", "x")})
	p := k.publisher()
	random := rand.NewChaCha8([32]byte{1})
	for _, size := range []int{0, 1, 255, 65_536, 131_072 - 8, 131_072, 1 << 20} {
		body := make([]byte, size)
		_, _ = random.Read(body)
		for _, persistent := range []bool{false, true} {
			m := k.message("x", "")
			m.Body, m.Persistent = body, persistent
			if err := publish(t, p, m)[0]; err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
			d := c.next()
			if !bytes.Equal(d.Body, body) {
				t.Errorf("%d bytes came back as %d other ones", size, len(d.Body))
			}
			ack(t, d)
		}
	}
}

func bodyIsThePublishersAgain(t *testing.T, k *kit) {
	q := k.declare(k.queue("a", "x"))
	p := k.publisher()
	body := make([]byte, 100)
	for i := range 20 {
		for j := range body {
			body[j] = byte(i)
		}
		m := k.message("x", "")
		m.Body = body
		if err := publish(t, p, m)[0]; err != nil {
			t.Fatal(err)
		}
	}
	c := k.consume(bus.Consumer{Queue: q})
	for i := range 20 {
		if d := c.next(); !bytes.Equal(d.Body, bytes.Repeat([]byte{byte(i)}, 100)) {
			t.Fatalf("message %d arrived as %v", i, d.Body[:8])
		}
	}
}

func confirmedOnceAndInOrder(t *testing.T, k *kit) {
	const n = 3000
	k.declare(k.queue("a", "x"))
	p := k.publisher()
	var mu sync.Mutex
	var order []int
	times := make([]int, n)
	results := make([]error, n)
	all := make(chan struct{})
	for i := range n {
		m := k.message("x", "a persistent message takes the broker longer than one without a route")
		m.Persistent = i%3 == 0
		if i%7 == 6 {
			m.Key = "nobody"
		}
		p.Publish(m, func(err error) {
			mu.Lock()
			defer mu.Unlock()
			times[i]++
			results[i] = err
			if order = append(order, i); len(order) == n {
				close(all)
			}
		})
	}
	wait(t, all, "confirms")
	mu.Lock()
	defer mu.Unlock()
	if !slices.IsSorted(order) {
		t.Error("confirms are not in the order of publishing")
	}
	for i := range n {
		want := error(nil)
		if i%7 == 6 {
			want = bus.ErrNoRoute
		}
		if times[i] != 1 || !errors.Is(results[i], want) {
			t.Fatalf("message %d was reported %d times, last with %v; want once %v", i, times[i], results[i], want)
		}
	}
}

func fullQueueRefuses(t *testing.T, k *kit) {
	q := k.queue("a", "x")
	q.MaxMessages = 5
	k.declare(q)
	p := k.publisher()
	messages := make([]bus.Message, 20)
	for i, body := range numbered(20) {
		messages[i] = k.message("x", body)
	}
	k.expectFull(q, publish(t, p, messages...), 5)
	// There is room again.
	k.send(p, "x", "after")
}

func fullInBytesRefuses(t *testing.T, k *kit) {
	q := k.queue("a", "x")
	q.MaxBytes = 1000
	k.declare(q)
	p := k.publisher()
	messages := make([]bus.Message, 10)
	for i, body := range numbered(10) {
		messages[i] = k.message("x", body+string(make([]byte, 300-len(body))))
	}
	k.expectFull(q, publish(t, p, messages...), 3)
	k.send(p, "x", "after")
}

// expectFull wants the first n taken, the others refused, and only the former
// delivered.
func (k *kit) expectFull(q bus.Queue, results []error, n int) {
	k.t.Helper()
	for i, err := range results {
		if i < n && err != nil || i >= n && !errors.Is(err, bus.ErrRefused) {
			k.t.Errorf("message %d of %d into a queue with room for %d: %v", i, len(results), n, err)
		}
	}
	c := k.consume(bus.Consumer{Queue: q})
	ds, _ := c.take(n)
	quiet(k.t, c.deliveries, "it was refused")
	ack(k.t, ds...)
	c.stop()
}

func orderPerPublisher(t *testing.T, k *kit) {
	const n = 10_000
	c := k.consume(bus.Consumer{Queue: k.queue("a", "from.*"), Prefetch: 500})
	publishers := []bus.Publisher{k.publisher(), k.publisher()}
	var confirmed sync.WaitGroup
	confirmed.Add(n * len(publishers))
	for i, p := range publishers {
		go func() {
			for j := range n {
				p.Publish(k.message(fmt.Sprintf("from.%d", i), fmt.Sprint(j)), func(err error) {
					if err != nil {
						t.Errorf("message %d of publisher %d: %v", j, i, err)
					}
					confirmed.Done()
				})
			}
		}()
	}
	next := make(map[string]int)
	for range n * len(publishers) {
		d := c.next()
		if want := fmt.Sprint(next[d.Key]); string(d.Body) != want {
			t.Fatalf("%s: got %s, want %s", d.Key, d.Body, want)
		}
		next[d.Key]++
		ack(t, d)
	}
	confirmed.Wait()
}

func manyPublishersAtOnce(t *testing.T, k *kit) {
	const publishers, callers, n = 4, 4, 250
	c := k.consume(bus.Consumer{Queue: k.queue("a", "x")})
	var confirmed sync.WaitGroup
	confirmed.Add(publishers * callers * n)
	for i := range publishers {
		p := k.publisher()
		for j := range callers {
			go func() {
				for l := range n {
					p.Publish(k.message("x", fmt.Sprint(i, j, l)), func(err error) {
						if err != nil {
							t.Errorf("publish: %v", err)
						}
						confirmed.Done()
					})
				}
			}()
		}
	}
	seen := make(map[string]bool)
	for range publishers * callers * n {
		d := c.next()
		if seen[string(d.Body)] {
			t.Fatalf("%q came twice", d.Body)
		}
		seen[string(d.Body)] = true
		ack(t, d)
	}
	confirmed.Wait()
}
