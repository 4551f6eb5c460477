// Package snowflakes makes ids that are unique among all processes of an
// installation and rise with time: bwmarrin's snowflakes, 41 bits of
// milliseconds, 10 bits of node number, 12 bits of sequence. Two processes must
// never use the same node number in the same millisecond, so node numbers are
// leased in Redis; see lease.go for what a lease promises.
//
// It refuses to make an id that it can not prove to be the only one: without a
// lease there are no ids, and callers get ErrNoLease.
package snowflakes

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/bwmarrin/snowflake"
	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus"
)

var (
	// ErrNoLease: no node number is leased just now. The same call may succeed
	// later.
	ErrNoLease = errors.New("snowflakes: no node number is leased")
	// ErrExhausted: all node numbers are leased by others.
	ErrExhausted = errors.New("snowflakes: all node numbers are leased by others")
	// ErrClosed: Run has ended.
	ErrClosed = errors.New("snowflakes: closed")
)

// Nodes is how many node numbers there are.
const Nodes = 1024

// Config is what a Generator needs. Only Redis must be set.
type Config struct {
	// Redis keeps the leases. Its replicas and snapshots do not matter as long
	// as it does not forget: where it comes back empty, a node number can be
	// leased twice until its first owner tries to renew, a third of Lease later.
	Redis redis.UniversalClient
	// Prefix begins the names of all keys; "minigate" where it is empty. All
	// processes whose ids meet must use the same Redis and prefix.
	Prefix string
	// Lease is how long a node number stays with a process that says nothing;
	// 30 s where it is 0, at least 100 ms. It is renewed at a third of it.
	Lease time.Duration
	// Wait is how long Next waits for a lease before it gives up; 2 s where it
	// is 0. It bridges the start and a lease that was just lost.
	Wait time.Duration
	// Log is told of leases taken and lost; logrus' standard logger where it is
	// nil.
	Log logrus.FieldLogger

	// nodes is Nodes, and fewer in tests, which then run out of them.
	nodes int
}

const (
	firstPause   = 100 * time.Millisecond
	longestPause = 2 * time.Second
	// releasing happens after the context of Run has ended.
	releaseTimeout = 2 * time.Second
)

// Generator makes ids while it runs. Next is safe for concurrent use.
type Generator struct {
	cfg  Config
	keys keys
	lost chan struct{} // holds at most one notice that Next dropped the lease

	mu      sync.Mutex
	lease   *lease        // nil without one
	ready   chan struct{} // closed while there is a lease, or never will be again
	failure error         // why there is no lease
	closed  bool
}

// New checks the configuration and starts nothing.
func New(cfg Config) (*Generator, error) {
	if cfg.Redis == nil {
		return nil, errors.New("snowflakes: Redis is not set")
	}
	if cfg.Prefix == "" {
		cfg.Prefix = "minigate"
	}
	if cfg.Lease == 0 {
		cfg.Lease = 30 * time.Second
	}
	if cfg.Lease < 100*time.Millisecond {
		return nil, fmt.Errorf("snowflakes: lease %v is too short, want at least 100ms", cfg.Lease)
	}
	if cfg.Wait == 0 {
		cfg.Wait = 2 * time.Second
	}
	if cfg.Wait < 0 {
		return nil, fmt.Errorf("snowflakes: wait %v is negative", cfg.Wait)
	}
	if cfg.Log == nil {
		cfg.Log = logrus.StandardLogger()
	}
	if cfg.nodes == 0 {
		cfg.nodes = Nodes
	}
	return &Generator{
		cfg:   cfg,
		keys:  newKeys(cfg.Prefix),
		lost:  make(chan struct{}, 1),
		ready: make(chan struct{}),
	}, nil
}

// Next returns a new id, greater than 0. Without a lease it waits for one as
// long as Config.Wait and ctx allow, and then fails with an error that is
// ErrNoLease and tells the cause. After Run has ended it is ErrClosed.
//
// It takes less than a microsecond, and makes at most 4,096 ids a millisecond.
func (g *Generator) Next(ctx context.Context) (int64, error) {
	var timeout <-chan time.Time
	for {
		g.mu.Lock()
		id, ok := g.take()
		ready, closed := g.ready, g.closed
		g.mu.Unlock()
		switch {
		case ok:
			return id, nil
		case closed:
			return 0, ErrClosed
		}
		if timeout == nil {
			timer := time.NewTimer(g.cfg.Wait)
			defer timer.Stop()
			timeout = timer.C
		}
		select {
		case <-ready:
		case <-timeout:
			return 0, g.noLease(nil)
		case <-ctx.Done():
			return 0, g.noLease(ctx.Err())
		}
	}
}

// take makes an id and then asks whether it lies within the lease, in this
// order: however long the process stands still between two lines, an id whose
// own time is in the lease is nobody else's, and any other is thrown away.
func (g *Generator) take() (int64, bool) {
	l := g.lease
	if l == nil {
		return 0, false
	}
	id := l.node.Generate().Int64()
	if l.covers(id, time.Now()) {
		l.last = max(l.last, millis(id))
		return id, true
	}
	g.drop(errors.New("the lease ran out before it was renewed"))
	select {
	case g.lost <- struct{}{}:
	default:
	}
	return 0, false
}

// drop forgets the lease. The caller holds g.mu.
func (g *Generator) drop(why error) {
	g.failure = why
	if g.lease != nil {
		g.lease = nil
		g.ready = make(chan struct{})
	}
}

// Run leases a node number and keeps it, or leases another, until ctx ends;
// then it gives the number back and returns nil. It is called once.
func (g *Generator) Run(ctx context.Context) error {
	defer g.close()
	pause := firstPause
	for ctx.Err() == nil {
		l, err := g.acquire(ctx)
		if err != nil {
			g.fail(err)
			if !wait(ctx, pause/2+rand.N(pause/2)) {
				break
			}
			pause = min(2*pause, longestPause)
			continue
		}
		pause = firstPause
		g.cfg.Log.WithField("node", l.number).Debug("snowflakes: leased a node number")
		g.begin(l)
		g.keep(ctx, l)
		// Also where it is believed lost: nobody may have taken it yet, and the
		// script looks whose it is.
		g.release(ctx, l)
	}
	return nil
}

// keep renews a lease until it is lost or ctx ends. The lease is not g's any
// more when it returns.
func (g *Generator) keep(ctx context.Context, l *lease) {
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.lease == l {
			g.drop(errors.New("the lease was given back"))
		}
	}()
	next := g.cfg.Lease / 3
	for {
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-g.lost:
			timer.Stop()
			g.cfg.Log.WithField("node", l.number).Warn("snowflakes: the lease ran out before it was renewed")
			return
		case <-timer.C:
		}
		owned, err := g.renew(ctx, l)
		switch {
		case err != nil && ctx.Err() != nil:
			return
		case err != nil:
			g.cfg.Log.WithError(err).WithField("node", l.number).Warn("snowflakes: the lease could not be renewed")
			// The lease is still good for two thirds; there is time to ask again.
			next = g.cfg.Lease / 12
			if g.over(l) {
				return
			}
		case !owned:
			g.cfg.Log.WithField("node", l.number).Warn("snowflakes: the lease was lost")
			return
		default:
			next = g.cfg.Lease / 3
		}
	}
}

func (g *Generator) begin(l *lease) {
	// A notice about the lease before this one.
	select {
	case <-g.lost:
	default:
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lease, g.failure = l, nil
	close(g.ready)
}

func (g *Generator) over(l *lease) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !time.Now().Before(l.deadline)
}

// fail remembers why there is no lease, and logs it where it is news.
func (g *Generator) fail(err error) {
	g.mu.Lock()
	news := g.failure == nil || g.failure.Error() != err.Error()
	g.failure = err
	g.mu.Unlock()
	if news && !errors.Is(err, context.Canceled) {
		g.cfg.Log.WithError(err).Warn("snowflakes: no node number could be leased")
	}
}

func (g *Generator) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	close(g.ready)
}

// noLease is ErrNoLease with what is known of the cause.
func (g *Generator) noLease(gaveUp error) error {
	g.mu.Lock()
	cause := errors.Join(g.failure, gaveUp)
	g.mu.Unlock()
	if cause == nil {
		return ErrNoLease
	}
	return fmt.Errorf("%w: %w", ErrNoLease, cause)
}

// wait reports whether d passed before ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// The layout of an id, which is bwmarrin's default. Its own methods read
// variables of that package, which NewNode writes.
const (
	nodeShift = 12
	timeShift = 22
)

// Time is when an id was made, by the clock of the process that made it.
func Time(id int64) time.Time { return time.UnixMilli(millis(id)) }

// Node is the node number of the process that made an id.
func Node(id int64) int64 { return id >> nodeShift & (Nodes - 1) }

func millis(id int64) int64 { return id>>timeShift + snowflake.Epoch }
