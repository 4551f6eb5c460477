package bus_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/motto123/minigate/pkg/bus"
)

// held is a publisher whose confirms a test gives.
type held struct {
	published chan publishing
	now       func(bus.Message) error // confirms at once, where it is set
	waits     bool                    // Close waits for closed
	closing   chan struct{}           // closed by Close
	closed    chan struct{}
}

type publishing struct {
	bus.Message
	body string // as it was when it was published
	done func(error)
}

func newHeld() *held {
	return &held{published: make(chan publishing, 10_000), closing: make(chan struct{}), closed: make(chan struct{})}
}

func (p *held) Publish(m bus.Message, done func(error)) {
	if p.now != nil {
		done(p.now(m))
		return
	}
	p.published <- publishing{m, string(m.Body), done}
}

func (p *held) Close() error {
	close(p.closing)
	if p.now == nil && p.waits {
		<-p.closed
	}
	return nil
}

func (p *held) next(t testing.TB) publishing {
	t.Helper()
	select {
	case m := <-p.published:
		return m
	case <-time.After(10 * time.Second):
		t.Fatal("nothing is published")
		return publishing{}
	}
}

type outcome struct {
	refs []int
	err  error
}

// coalescer runs one whose settlements go to the channel.
func coalescer(t testing.TB, p bus.Publisher, change func(*bus.CoalescerConfig[int])) (c *bus.Coalescer[int], settled chan outcome, stop func()) {
	t.Helper()
	settled = make(chan outcome, 10_000)
	cfg := bus.CoalescerConfig[int]{
		Publisher: p, Exchange: "x",
		Settle: func(refs []int, err error) { settled <- outcome{slices.Clone(refs), err} },
	}
	if change != nil {
		change(&cfg)
	}
	c = bus.NewCoalescer(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	wait.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = func() { cancel(); wait.Wait() }
	return c, settled, stop
}

func add(t testing.TB, c *bus.Coalescer[int], key string, after uint64, item string, ref int) uint64 {
	t.Helper()
	n, err := c.Add(key, after, []byte(item), false, ref)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestCoalesce: an idle coalescer sends at once; what comes while that is
// unconfirmed goes out together, one envelope a key.
func TestCoalesce(t *testing.T) {
	p := newHeld()
	c, settled, stop := coalescer(t, p, func(cfg *bus.CoalescerConfig[int]) {
		cfg.Header = func(b []byte, key string) []byte { return append(b, key+":"...) }
	})
	add(t, c, "a", 0, "1", 1)
	first := p.next(t)
	if first.body != "a:1" || first.Key != "a" || first.Exchange != "x" || first.Persistent {
		t.Errorf("got %+v", first)
	}
	add(t, c, "a", 0, "2", 2)
	add(t, c, "b", 0, "3", 3)
	if _, err := c.Add("a", 0, []byte("4"), true, 4); err != nil {
		t.Error(err)
	}
	if bytes, unconfirmed := c.Pending(); bytes != len("a:1a:24b:3") || unconfirmed != 1 {
		t.Errorf("pending %d bytes, %d unconfirmed", bytes, unconfirmed)
	}
	first.done(nil)
	second, third := p.next(t), p.next(t)
	if second.body != "a:24" || !second.Persistent || third.body != "b:3" || third.Persistent {
		t.Errorf("got %q and %q", second.body, third.body)
	}
	failure := errors.New("no")
	second.done(failure)
	third.done(nil)
	for _, want := range []outcome{{[]int{1}, nil}, {[]int{2, 4}, failure}, {[]int{3}, nil}} {
		if got := <-settled; !slices.Equal(got.refs, want.refs) || !errors.Is(got.err, want.err) {
			t.Errorf("settled %v, want %v", got, want)
		}
	}
	stop()
	if bytes, unconfirmed := c.Pending(); bytes != 0 || unconfirmed != 0 {
		t.Errorf("pending %d bytes, %d unconfirmed", bytes, unconfirmed)
	}
}

// TestOrderOverKeys: who passes the number of its last envelope on has its items
// published in order, whatever keys they have.
func TestOrderOverKeys(t *testing.T) {
	for _, window := range []int{1, 3} {
		const owners, each = 8, 500
		p := newHeld()
		var mu sync.Mutex
		var seen []string
		p.now = func(m bus.Message) error {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, strings.Fields(string(m.Body))...)
			return nil
		}
		c, _, stop := coalescer(t, p, func(cfg *bus.CoalescerConfig[int]) {
			cfg.Window, cfg.MaxCount = window, 7
			cfg.Settle = func([]int, error) {}
		})
		var wait sync.WaitGroup
		for owner := range owners {
			wait.Go(func() {
				var after uint64
				for i := range each {
					after = add(t, c, fmt.Sprint((i*7+owner)%3), after, fmt.Sprintf("%d/%d ", owner, i), 0)
				}
			})
		}
		wait.Wait()
		stop()
		next := make([]int, owners)
		for _, s := range seen {
			var owner, i int
			if _, err := fmt.Sscanf(s, "%d/%d", &owner, &i); err != nil || i != next[owner] {
				t.Fatalf("window %d: %s comes when %d is due; %v", window, s, next[owner], err)
			}
			next[owner]++
		}
		if len(seen) != owners*each {
			t.Errorf("window %d: %d items are published", window, len(seen))
		}
	}
}

func TestBounds(t *testing.T) {
	p := newHeld()
	c, _, stop := coalescer(t, p, func(cfg *bus.CoalescerConfig[int]) {
		cfg.MaxCount, cfg.MaxBytes, cfg.MaxPending = 3, 10, 45
	})
	add(t, c, "k", 0, "first", 0)
	first := p.next(t)
	for i := range 4 {
		add(t, c, "k", 0, "ab", i) // three and one
	}
	add(t, c, "k", 0, "123456789", 0)             // would be over ten bytes
	add(t, c, "k", 0, strings.Repeat("x", 20), 0) // is alone
	add(t, c, "k", 0, "abc", 0)
	if _, err := c.Add("k", 0, []byte("y"), false, 0); !errors.Is(err, bus.ErrFull) {
		t.Errorf("over 45 bytes: %v", err)
	}
	first.done(nil)
	for _, want := range []string{"ababab", "ab", "123456789", strings.Repeat("x", 20), "abc"} {
		m := p.next(t)
		if m.body != want {
			t.Errorf("got %q, want %q", m.body, want)
		}
		m.done(nil)
	}
	add(t, c, "k", 0, strings.Repeat("z", 1000), 0) // alone, over every bound
	p.next(t).done(nil)
	stop()
	if _, err := c.Add("k", 0, nil, false, 0); !errors.Is(err, bus.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// TestEmptiedEnvelopesKeepLittle: many envelopes that were large once are not kept
// large for ever.
func TestEmptiedEnvelopesKeepLittle(t *testing.T) {
	const keys, large = 64, 200 << 10
	p := newHeld()
	c, settled, stop := coalescer(t, p, nil)
	defer stop()
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for round := range 4 * keys {
		add(t, c, "first", 0, "x", 0)
		first := p.next(t)
		for key := range keys {
			size := 1
			if key == round%keys {
				size = large
			}
			add(t, c, fmt.Sprint(key), 0, strings.Repeat("x", size), 0)
		}
		first.done(nil)
		for range keys {
			p.next(t).done(nil)
		}
		for range keys + 1 {
			<-settled
		}
	}
	if after := heap(); after > before+4<<20 {
		t.Errorf("%d KiB are kept", (after-before)>>10)
	}
	runtime.KeepAlive(c)
}

// TestEnvelopeBound: many keys are bounded, too, until their envelopes are settled.
func TestEnvelopeBound(t *testing.T) {
	p := newHeld()
	c, _, stop := coalescer(t, p, func(cfg *bus.CoalescerConfig[int]) { cfg.MaxEnvelopes = 3 })
	add(t, c, "a", 0, "1", 1)
	first := p.next(t)
	add(t, c, "b", 0, "2", 2)
	add(t, c, "c", 0, "3", 3)
	if _, err := c.Add("d", 0, []byte("4"), false, 4); !errors.Is(err, bus.ErrFull) {
		t.Errorf("a fourth envelope: %v", err)
	}
	add(t, c, "c", 0, "5", 5) // into one that is there
	first.done(nil)
	second, third := p.next(t), p.next(t)
	add(t, c, "d", 0, "6", 6)
	second.done(nil)
	third.done(nil)
	p.next(t).done(nil)
	stop()
}

// TestDrain: what waits when Run is to end is published at once, and Run ends when
// the publisher has settled all of it, also where no confirm ever comes.
func TestDrain(t *testing.T) {
	p := newHeld()
	p.waits = true
	c, settled, stop := coalescer(t, p, nil)
	add(t, c, "a", 0, "1", 1)
	first := p.next(t) // which nobody confirms: the window stays full
	add(t, c, "a", 0, "2", 2)
	ended := make(chan struct{})
	go func() { stop(); close(ended) }()
	second := p.next(t)
	if !strings.HasPrefix(second.body, "2") {
		t.Errorf("got %q", second.body)
	}
	if _, err := c.Add("a", 0, nil, false, 3); !errors.Is(err, bus.ErrClosed) {
		t.Errorf("an item is taken after the end: %v", err)
	}
	<-p.closing
	select {
	case <-ended:
		t.Error("Run has ended with envelopes unconfirmed")
	default:
	}
	first.done(nil)
	second.done(bus.ErrClosed)
	close(p.closed) // as a publisher does that has settled everything
	<-ended
	if got := <-settled; got.err != nil || got.refs[0] != 1 {
		t.Errorf("settled %v", got)
	}
	if got := <-settled; !errors.Is(got.err, bus.ErrClosed) || got.refs[0] != 2 {
		t.Errorf("settled %v", got)
	}
}

// TestFailingPublisher: each item is settled once, with the error, however many
// there are; the coalescer goes on.
func TestFailingPublisher(t *testing.T) {
	p := newHeld()
	p.now = func(bus.Message) error { return bus.ErrUnavailable }
	var mu sync.Mutex
	counts := map[int]int{}
	c, _, stop := coalescer(t, p, func(cfg *bus.CoalescerConfig[int]) {
		cfg.MaxPending = 1 << 30
		cfg.Settle = func(refs []int, err error) {
			mu.Lock()
			defer mu.Unlock()
			for _, ref := range refs {
				counts[ref]++
			}
			if !errors.Is(err, bus.ErrUnavailable) {
				t.Errorf("settled with %v", err)
			}
		}
	})
	const n = 5000
	for i := range n {
		add(t, c, fmt.Sprint(i%5), 0, "item", i)
	}
	stop()
	for i := range n {
		if counts[i] != 1 {
			t.Fatalf("item %d is settled %d times", i, counts[i])
		}
	}
}

// TestCoalesceAllocations: in the steady state an item costs no allocation.
func TestCoalesceAllocations(t *testing.T) {
	p := newHeld()
	p.now = func(bus.Message) error { return nil }
	done := make(chan struct{}, 1)
	c, _, stop := coalescer(t, p, func(cfg *bus.CoalescerConfig[int]) {
		cfg.Settle = func([]int, error) { done <- struct{}{} }
	})
	defer stop()
	item := make([]byte, 200)
	if n := testing.AllocsPerRun(200, func() {
		if _, err := c.Add("key", 0, item, false, 1); err != nil {
			t.Error(err)
		}
		<-done
	}); n > 1 { // the callback of an envelope, however many items it has
		t.Errorf("%v allocations for an envelope of one", n)
	}
}

// TestFlush: what was added is published by who calls Flush while nothing is
// unconfirmed, and by Run otherwise; nothing that was added is left lying.
func TestFlush(t *testing.T) {
	p := newHeld()
	c, settled, stop := coalescer(t, p, func(cfg *bus.CoalescerConfig[int]) { cfg.Flushed = true })
	defer stop()
	add(t, c, "a", 0, "1", 1)
	add(t, c, "b", 0, "2", 2)
	if len(p.published) != 0 {
		t.Error("published without a Flush")
	}
	c.Flush()
	if len(p.published) != 2 {
		t.Fatalf("%d envelopes are published by Flush, want 2", len(p.published))
	}
	first, second := p.next(t), p.next(t)
	add(t, c, "a", 0, "3", 3)
	c.Flush() // has to wait for the confirms
	if len(p.published) != 0 {
		t.Error("published beyond the window")
	}
	first.done(nil)
	second.done(nil)
	if m := p.next(t); m.body != "3" { // by Run
		t.Errorf("got %q", m.body)
	} else {
		m.done(nil)
	}
	for range 3 {
		<-settled
	}
	// Very much is not written by who adds.
	add(t, c, "a", 0, string(make([]byte, 100_000)), 4)
	c.Flush()
	p.next(t).done(nil)
	<-settled
	c.Flush() // of nothing
	if len(p.published) != 0 {
		t.Error("nothing was published")
	}
}

// TestFlushAtOnce: many add and flush at once, and everything is published once.
func TestFlushAtOnce(t *testing.T) {
	p := newHeld()
	p.now = func(bus.Message) error { return nil }
	c, settled, stop := coalescer(t, p, func(cfg *bus.CoalescerConfig[int]) { cfg.Flushed = true })
	const adders, each = 8, 500
	var wait sync.WaitGroup
	for i := range adders {
		wait.Go(func() {
			for j := range each {
				if _, err := c.Add("key", 0, []byte("x"), false, i*each+j); err != nil {
					t.Error(err)
				}
				c.Flush()
			}
		})
	}
	wait.Wait()
	seen := make(map[int]bool)
	for len(seen) < adders*each {
		select {
		case o := <-settled:
			for _, r := range o.refs {
				if seen[r] {
					t.Errorf("%d came twice", r)
				}
				seen[r] = true
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("only %d of %d came", len(seen), adders*each)
		}
	}
	stop()
}
