// Package load drives a gate over TCP or WebSocket with many connections, and
// says how fast and how reliably it answers: the generator behind minigate load
// and minigate bench.
//
// It takes a fraction of the processor that the gate takes: a few event loops,
// no goroutine a connection and no allocation a request. Each answer is held
// against its request, byte by byte. It refuses to be a client library
// (pkg/client is), and to be pointed at somebody else's machine unless it is
// told to.
package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/motto123/minigate/codec"
)

// Load is one run of the generator. Run it once; everything else is safe to call
// at any time.
type Load struct {
	cfg     Config
	targets []target
	hello   []byte // the handshake, as a packet
	began   time.Time
	loops   []*loop

	connected chan struct{}
	opened    Connections // once connected is closed
	stopped   atomic.Bool // no more connections are to be opened
}

// New checks cfg, looks the gates up, and starts nothing.
func New(cfg Config) (*Load, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	l := &Load{cfg: cfg, connected: make(chan struct{})}
	var err error
	if l.targets, err = cfg.resolve(); err != nil {
		return nil, err
	}
	l.cfg.Addresses = addresses(cfg, l.targets)
	if err := cfg.checkFiles(); err != nil {
		return nil, err
	}
	hello, err := json.Marshal(map[string]any{
		"sys":  map[string]any{"version": "1.0.0", "client_type": "load", "fragment": true},
		"user": map[string]any{"token": cfg.Token},
	})
	if err == nil {
		l.hello, err = codec.AppendPacket(nil, codec.Handshake, 0, hello)
	}
	if err != nil {
		return nil, fmt.Errorf("load: handshake: %w", err)
	}
	return l, nil
}

// Connected is closed when all connections are open or have failed.
func (l *Load) Connected() <-chan struct{} { return l.connected }

// Opened says how the connections came, once Connected is closed.
func (l *Load) Opened() Connections {
	select {
	case <-l.connected:
		return l.opened
	default:
		return Connections{}
	}
}

// Pushes is how many pushes have come in all, and how long after the beginning of
// Run the last one of them did.
func (l *Load) Pushes() (n int64, last time.Duration) {
	for _, loop := range l.started() {
		n += loop.counts.pushes.Load()
		last = max(last, time.Duration(loop.counts.lastPush.Load()))
	}
	return n, last
}

// Open is how many connections are open.
func (l *Load) Open() int { return int(l.sum(func(c *counts) *atomic.Int64 { return &c.open })) }

// Answered is how many requests were answered in all.
func (l *Load) Answered() int64 {
	return l.sum(func(c *counts) *atomic.Int64 { return &c.answered })
}

// Since is how long Run runs.
func (l *Load) Since() time.Duration {
	if len(l.started()) == 0 {
		return 0
	}
	return time.Duration(l.now())
}

// started are the loops, once Connected is closed.
func (l *Load) started() []*loop {
	select {
	case <-l.connected:
		return l.loops
	default:
		return nil
	}
}

func (l *Load) sum(of func(*counts) *atomic.Int64) (n int64) {
	for _, loop := range l.started() {
		n += of(&loop.counts).Load()
	}
	return n
}

func (l *Load) now() int64 { return int64(time.Since(l.began)) }

// Run opens the connections, then sends requests, first for Config.Warmup and then
// for Config.Duration, and then waits for what is unanswered. When ctx ends
// earlier, the result says what there was until then. An error says that there is
// no result.
func (l *Load) Run(ctx context.Context) (result *Result, err error) {
	l.began = time.Now()
	r := &run{Load: l, progress: newProgress(&l.cfg), result: newResult(&l.cfg)}
	for i := range l.cfg.Loops {
		loop, err := newLoop(l, i)
		if err != nil {
			for _, earlier := range l.loops {
				err = errors.Join(err, earlier.poller.Close())
			}
			return nil, err
		}
		l.loops = append(l.loops, loop)
	}
	ended := make(chan error, len(l.loops))
	for _, loop := range l.loops {
		go func() { ended <- loop.run() }()
	}
	err = r.run(ctx)
	for _, loop := range l.loops {
		err = errors.Join(err, loop.stop())
	}
	for range l.loops {
		err = errors.Join(err, <-ended)
	}
	select {
	case <-l.connected:
	default:
		close(l.connected)
	}
	if err != nil {
		return nil, err
	}
	return r.result, nil
}

// run is the one goroutine that says what the loops do next.
type run struct {
	*Load
	progress progress
	result   *Result
	latency  *tally // of the answers that count
}

func (r *run) run(ctx context.Context) error {
	usage := newUsage()
	if err := r.connect(ctx); err != nil {
		return err
	}
	if r.result.Connections.Established == 0 {
		return fmt.Errorf("load: no connection: %s", reasons(r.result.Connections.Failures))
	}
	if r.cfg.Idle < 1 {
		if err := r.requests(ctx); err != nil {
			return err
		}
	} else if err := r.hold(ctx); err != nil {
		return err
	}
	return errors.Join(r.finish(), usage.into(r.result))
}

// connect waits until all connections are open or have failed.
func (r *run) connect(ctx context.Context) error {
	want := int64(r.cfg.Connections)
	began := time.Now()
	err := r.while(ctx, slowStep, func(time.Time) bool {
		established, failed := int64(0), int64(0)
		for _, loop := range r.loops {
			established += loop.counts.established.Load()
			failed += loop.counts.failed.Load()
		}
		r.progress.connecting(established, failed, want)
		return established+failed < want
	})
	if err != nil {
		return err
	}
	r.stopped.Store(true)
	c := &r.result.Connections
	c.Seconds = time.Since(began).Seconds()
	total := newTally()
	err = r.each(func(loop *loop) { total.add(&loop.tally) })
	c.Failures = total.refusals
	for _, loop := range r.loops {
		c.Established += int(loop.counts.established.Load())
	}
	c.PerSecond = float64(c.Established) / c.Seconds
	c.Latency = newLatency(total.connecting)
	r.opened = *c
	close(r.connected)
	return err
}

// requests sends until the time is over.
func (r *run) requests(ctx context.Context) error {
	pause := slowStep
	if r.cfg.Rate > 0 {
		pause = step
	}
	warm := time.Now().Add(r.cfg.Warmup)
	if err := r.each(func(loop *loop) { loop.begin() }); err != nil {
		return err
	}
	err := r.while(ctx, pause, func(now time.Time) bool { return now.Before(warm) && !r.exhausted() })
	if err != nil {
		return err
	}
	if r.cfg.Warmup > 0 {
		if err := r.each(func(loop *loop) {
			loop.tally.resetRequests()
			loop.tally.requests = loop.counts.outstanding.Load() // whose answers count from now on
		}); err != nil {
			return err
		}
	}
	total := newTally()
	r.latency = &total
	began := time.Now()
	end := began.Add(r.cfg.Duration)
	look := r.progress.next(began)
	var failed error
	err = r.while(ctx, pause, func(now time.Time) bool {
		if !look.IsZero() && now.After(look) {
			failed = r.interval(now)
			look = r.progress.next(now)
		}
		return failed == nil && (r.cfg.Duration == 0 || now.Before(end)) && !r.exhausted()
	})
	if err = errors.Join(err, failed); err != nil {
		return err
	}
	seconds := 0.0
	err = r.each(func(loop *loop) {
		loop.halt()
		seconds = time.Since(began).Seconds()
		r.result.Requests.answeredInTime += loop.answers
	})
	r.result.Requests.answeredInTime += total.answers
	r.result.Requests.Seconds = seconds
	if err != nil {
		return err
	}
	// What is unanswered still may be, also where a person has ended the sending.
	late := time.Now().Add(r.cfg.Timeout)
	return r.while(context.WithoutCancel(ctx), pause, func(now time.Time) bool { return now.Before(late) && r.outstanding() > 0 })
}

// hold sends heartbeats until the time is over.
func (r *run) hold(ctx context.Context) error {
	began := time.Now()
	end := began.Add(r.cfg.Duration)
	look := r.progress.next(began)
	return r.while(ctx, holdStep, func(now time.Time) bool {
		if !look.IsZero() && now.After(look) {
			r.progress.holding(r.Open(), now.Sub(began))
			look = r.progress.next(now)
		}
		return r.cfg.Duration == 0 || now.Before(end)
	})
}

// finish closes all connections and adds up.
func (r *run) finish() error {
	total := newTally()
	if r.latency != nil {
		total = *r.latency
	}
	err := r.each(func(loop *loop) {
		for _, c := range loop.conns {
			loop.abandon(c)
		}
		r.result.Connections.OpenAtEnd += int(loop.counts.open.Load())
		total.add(&loop.tally)
	})
	r.result.add(&total)
	for _, loop := range r.loops {
		r.result.Pushes += loop.counts.pushes.Load()
	}
	r.progress.end()
	return err
}

// interval takes what the loops have counted since the last time.
func (r *run) interval(now time.Time) error {
	part := newTally()
	err := r.each(func(loop *loop) {
		part.add(&loop.tally)
		loop.tally.reset()
	})
	r.progress.interval(now, &part, r.Open())
	r.latency.add(&part)
	return err
}

// exhausted reports whether there is nobody left who sends, and nothing else to
// stay for.
func (r *run) exhausted() bool {
	if r.cfg.Stay && r.Open() > 0 {
		return false
	}
	return r.sum(func(c *counts) *atomic.Int64 { return &c.senders }) == 0
}

func (r *run) outstanding() int64 {
	return r.sum(func(c *counts) *atomic.Int64 { return &c.outstanding })
}

// while wakes the loops again and again until more says no, or ctx ends.
func (r *run) while(ctx context.Context, pause time.Duration, more func(now time.Time) bool) error {
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for more(time.Now()) {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			r.result.Interrupted = true
			return nil
		}
		for _, loop := range r.loops {
			if err := loop.wake(); err != nil {
				return fmt.Errorf("load: wake a loop: %w", err)
			}
		}
	}
	return nil
}

// each runs f on every loop's thread, one after the other.
func (r *run) each(f func(*loop)) error {
	for _, loop := range r.loops {
		var done sync.WaitGroup
		done.Add(1)
		if err := loop.post(func() { defer done.Done(); f(loop) }); err != nil {
			return fmt.Errorf("load: wake a loop: %w", err)
		}
		done.Wait()
	}
	return nil
}
