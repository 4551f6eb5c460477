package bus

import (
	"context"
	"sync"
	"sync/atomic"
)

// CoalescerConfig says how items become envelopes. R is what the owner wants
// back with each item's outcome.
type CoalescerConfig[R any] struct {
	// Publisher is closed by the end of Run.
	Publisher Publisher
	Exchange  string
	// Window is how many envelopes may be unconfirmed before further items wait
	// to go out together; 1 where it is 0.
	Window int
	// MaxCount and MaxBytes bound one envelope; 512 items and 256 KiB where they
	// are 0. A single item may be larger than MaxBytes and is then alone.
	MaxCount int
	MaxBytes int
	// MaxPending bounds the bytes that wait or are unconfirmed; 8 MiB where it is 0.
	MaxPending int
	// MaxEnvelopes bounds the envelopes that wait or are unconfirmed; 65,536 where it
	// is 0.
	MaxEnvelopes int
	// Flushed says that whoever adds calls Flush soon after: Add alone then does not
	// bring what it takes on its way while nothing else is.
	Flushed bool
	// Room, if set, is called after Congested has become false again. It must not
	// block, and not call the Coalescer.
	Room func()
	// Header begins an envelope; nil for none.
	Header func(b []byte, key string) []byte
	// Settle is called once for each envelope, with the refs of its items and what
	// became of it: in the order of publishing while the connection stands, and
	// perhaps from two goroutines at once when it is lost. It must not block; refs
	// is reused after it returns.
	Settle func(refs []R, err error)
}

// Coalescer joins items of one key into envelopes while earlier envelopes are
// unconfirmed: an idle one sends at once, a busy one sends large envelopes, and
// there is no timer. Add is safe to call at once and never blocks.
type Coalescer[R any] struct {
	cfg  CoalescerConfig[R]
	wake chan struct{} // holds one token: there is something to look at

	publishing sync.Mutex // held from taking envelopes to their having been published
	batch      []*envelope[R]

	mu          sync.Mutex
	open        map[string]*envelope[R] // by key, the last one of it in pending
	pending     []*envelope[R]          // in the order to publish
	free        []*envelope[R]
	kept        int    // bytes of memory in free
	sequence    uint64 // of the last envelope begun
	bytes       int    // in pending and unconfirmed
	unconfirmed int
	closed      bool

	congested atomic.Bool
}

type envelope[R any] struct {
	key        string
	sequence   uint64
	body       []byte
	refs       []R
	persistent bool
}

// keepEnvelopes bounds the emptied envelopes that wait to be used again, keepBytes the
// size of one that is kept, and an eighth of MaxPending that of all.
const (
	keepEnvelopes = 64
	keepBytes     = 512 << 10
	keepPart      = 8
)

// NewCoalescer returns a coalescer; Run publishes what is added to it.
func NewCoalescer[R any](cfg CoalescerConfig[R]) *Coalescer[R] {
	setDefault(&cfg.Window, 1)
	setDefault(&cfg.MaxCount, 512)
	setDefault(&cfg.MaxBytes, 256<<10)
	setDefault(&cfg.MaxPending, 8<<20)
	setDefault(&cfg.MaxEnvelopes, 65536)
	return &Coalescer[R]{cfg: cfg, wake: make(chan struct{}, 1), open: make(map[string]*envelope[R])}
}

func setDefault(v *int, to int) {
	if *v <= 0 {
		*v = to
	}
}

// Add puts an item, which is copied, into an envelope of its key, and returns
// that envelope's sequence number. The envelope is published after the one
// numbered after, or is that one: whoever passes the number that the last call
// returned keeps the order of its items over different keys. ErrFull and
// ErrClosed say that the item was not taken.
func (c *Coalescer[R]) Add(key string, after uint64, item []byte, persistent bool, ref R) (uint64, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return 0, ErrClosed
	}
	if c.bytes > 0 && c.bytes+len(item) > c.cfg.MaxPending {
		c.mu.Unlock()
		return 0, ErrFull
	}
	e := c.open[key]
	if e == nil || e.sequence < after || len(e.refs) >= c.cfg.MaxCount || len(e.body)+len(item) > c.cfg.MaxBytes {
		if len(c.pending)+c.unconfirmed >= c.cfg.MaxEnvelopes {
			c.mu.Unlock()
			return 0, ErrFull
		}
		e = c.begin(key)
	}
	e.body = append(e.body, item...)
	e.refs = append(e.refs, ref)
	e.persistent = e.persistent || persistent
	c.bytes += len(item)
	sequence := e.sequence
	if c.bytes > c.cfg.MaxPending/2 {
		c.congested.Store(true)
	}
	signal := c.unconfirmed < c.cfg.Window && !c.cfg.Flushed
	c.mu.Unlock()
	if signal {
		c.signal()
	}
	return sequence, nil
}

func (c *Coalescer[R]) begin(key string) *envelope[R] {
	var e *envelope[R]
	if n := len(c.free); n > 0 {
		e, c.free = c.free[n-1], c.free[:n-1]
		c.kept -= cap(e.body)
	} else {
		e = &envelope[R]{}
	}
	c.sequence++
	e.key, e.sequence = key, c.sequence
	if c.cfg.Header != nil {
		e.body = c.cfg.Header(e.body, key)
	}
	c.bytes += len(e.body)
	c.open[key] = e
	c.pending = append(c.pending, e)
	return e
}

func (c *Coalescer[R]) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// flushBytes is how much Flush publishes itself: what a socket takes at once that
// has nothing in it.
const flushBytes = 32 << 10

// Flush publishes what was added, if it is little and nothing is unconfirmed: an
// idle bus is then written to by who has something to say, without waking another
// goroutine for it. Otherwise Run does it, as soon as it may.
func (c *Coalescer[R]) Flush() {
	if !c.publishing.TryLock() {
		c.signal() // Run may have looked before the last Add
		return
	}
	defer c.publishing.Unlock()
	c.mu.Lock()
	idle, size := len(c.pending) > 0 && c.unconfirmed == 0 && !c.closed, 0
	for _, e := range c.pending {
		size += len(e.body)
	}
	inline := idle && size <= flushBytes
	wake := !inline && len(c.pending) > 0 && c.unconfirmed < c.cfg.Window
	if inline {
		c.batch = c.takeAll(c.batch[:0])
	}
	c.mu.Unlock()
	if wake {
		c.signal()
	}
	if inline {
		c.publishBatch()
	}
}

// publishBatch publishes c.batch, with c.publishing held.
func (c *Coalescer[R]) publishBatch() {
	for _, e := range c.batch {
		c.publish(e)
	}
	clear(c.batch)
	c.batch = c.batch[:0]
}

// Run publishes until ctx ends. It then publishes what is still there and closes
// the publisher, which waits for a while for confirms and settles the rest, so
// that Run ends also while the broker takes nothing.
func (c *Coalescer[R]) Run(ctx context.Context) error {
	for {
		ended := false
		select {
		case <-c.wake:
		case <-ctx.Done():
			ended = true
		}
		c.publishing.Lock()
		if ended {
			c.batch = c.end(c.batch[:0])
		} else {
			c.batch = c.take(c.batch[:0])
		}
		c.publishBatch()
		c.publishing.Unlock()
		if ended {
			return c.cfg.Publisher.Close()
		}
	}
}

// take moves what may be published now out of pending. All that waited goes out
// together, one envelope a key: the window is looked at between batches.
func (c *Coalescer[R]) take(batch []*envelope[R]) []*envelope[R] {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unconfirmed < c.cfg.Window {
		batch = c.takeAll(batch)
	}
	return batch
}

// end takes no more items, and moves what there is out of pending.
func (c *Coalescer[R]) end(batch []*envelope[R]) []*envelope[R] {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return c.takeAll(batch)
}

func (c *Coalescer[R]) takeAll(batch []*envelope[R]) []*envelope[R] {
	batch = append(batch, c.pending...)
	clear(c.pending)
	c.pending = c.pending[:0]
	clear(c.open)
	c.unconfirmed += len(batch)
	return batch
}

func (c *Coalescer[R]) publish(e *envelope[R]) {
	c.cfg.Publisher.Publish(Message{
		Exchange: c.cfg.Exchange, Key: e.key, Body: e.body, Persistent: e.persistent, Items: len(e.refs),
	}, func(err error) {
		c.cfg.Settle(e.refs, err)
		c.settled(e)
	})
}

func (c *Coalescer[R]) settled(e *envelope[R]) {
	clear(e.refs)
	e.key, e.refs, e.persistent = "", e.refs[:0], false
	size, room := len(e.body), cap(e.body)
	e.body = e.body[:0]

	c.mu.Lock()
	c.unconfirmed--
	c.bytes -= size
	if room <= keepBytes && c.kept+room <= c.cfg.MaxPending/keepPart && len(c.free) < keepEnvelopes {
		c.free = append(c.free, e)
		c.kept += room
	}
	signal := c.unconfirmed < c.cfg.Window && len(c.pending) > 0
	relaxed := c.congested.Load() && c.bytes <= c.cfg.MaxPending/4
	if relaxed {
		c.congested.Store(false)
	}
	c.mu.Unlock()
	if signal {
		c.signal()
	}
	if relaxed && c.cfg.Room != nil {
		c.cfg.Room()
	}
}

// Congested reports whether over half of MaxPending waits or is unconfirmed: who
// can, adds nothing until Room is called, which is when a quarter is left.
func (c *Coalescer[R]) Congested() bool { return c.congested.Load() }

// Pending is how many bytes wait or are unconfirmed, and how many envelopes are
// unconfirmed.
func (c *Coalescer[R]) Pending() (bytes, unconfirmed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes, c.unconfirmed
}
