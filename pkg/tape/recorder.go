package tape

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/motto123/minigate/pkg/parts"
)

// Store keeps what a Recorder gives it.
type Store interface {
	// Write takes a batch, and calls done once with what became of it: nil when it is
	// kept. It may wait until ctx ends, and done may be called after it has returned,
	// from any goroutine. b.Body must not change until then. Write is called by one
	// goroutine at a time.
	Write(ctx context.Context, b Batch, done func(error))
}

// Batch is entries that are kept together: one message of a stream, or one record of a
// file.
type Batch struct {
	Body    []byte // a tapepb.Batch
	Entries int
	Last    time.Time // the latest of their times
}

// ErrTooLarge is of a batch that has no room on the tape, whatever goes from it.
var ErrTooLarge = errors.New("tape: more than the tape may have")

// RecorderConfig is what a Recorder needs. Only Store must be set.
type RecorderConfig struct {
	Store Store
	// MaxBatch is the size at which a batch is written, 256 KiB where it is 0, and
	// Patience how long the first entry of a smaller one waits, 20 ms where it is 0.
	MaxBatch int
	Patience time.Duration
	// MaxBytes bounds what waits or is being written, 8 MiB where it is 0.
	MaxBytes int
	// Ending, if set, may cut short what Run waits for at its end.
	Ending *parts.Ending
	// Log takes why entries are lost, at most once a minute; logrus' standard logger
	// where it is nil.
	Log logrus.FieldLogger
}

// Recorder collects entries into batches and has them kept. It never makes anybody
// wait: what there is no room for is dropped, and counted.
type Recorder struct {
	cfg      RecorderConfig
	measures measures
	wake     chan struct{} // holds one token: there is something to look at

	said atomic.Int64 // when Log was last told, in Unix nanoseconds

	mu      sync.Mutex
	open    *batch   // that entries are added to; nil for none
	full    []*batch // in the order to write
	free    []*batch
	bytes   int           // in open, in full, and with the store
	writing int           // batches that are with the store
	unkept  int           // entries in these
	dropped int           // entries that were lost since ending
	settled chan struct{} // closed and replaced when one of them is not any more; nil where nobody waits
	closed  bool
	ending  bool // Run's context has ended
}

// batch is a Batch while it is filled.
type batch struct {
	Batch
	began time.Time

	// Of the last entry, which more replies may be added to.
	last  Entry // without its envelope
	place place
}

const (
	defaultBatch    = 256 << 10
	defaultPatience = 20 * time.Millisecond
	defaultBytes    = 8 << 20

	// together is how long after the first of them replies are put into its entry:
	// they have its time.
	together = 50 * time.Microsecond
	// endTime is what the last batches have to be kept in.
	endTime = 2 * time.Second
	// remind is how often the log is told of losses that go on.
	remind = time.Minute
	// keepBatches bounds the emptied batches that wait to be used again, keepBytes the
	// size of each.
	keepBatches = 8
	keepBytes   = 512 << 10
)

// NewRecorder returns a recorder; Run has what it is given kept.
func NewRecorder(cfg RecorderConfig) *Recorder {
	if cfg.MaxBatch <= 0 {
		cfg.MaxBatch = defaultBatch
	}
	if cfg.Patience <= 0 {
		cfg.Patience = defaultPatience
	}
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = defaultBytes
	}
	cfg.MaxBytes = min(cfg.MaxBytes, maxEntry)
	if cfg.Log == nil {
		cfg.Log = logrus.StandardLogger()
	}
	r := &Recorder{cfg: cfg, wake: make(chan struct{}, 1)}
	r.measures.declare()
	return r
}

// Record copies an entry, whose Position has no meaning here. It is safe to call at
// once, and never waits.
//
// Hot path (BenchmarkRecord): every request and every reply of a worker.
func (r *Recorder) Record(e Entry) {
	size := sizeOf(&e)
	r.mu.Lock()
	if r.closed || r.bytes+size > r.cfg.MaxBytes {
		if r.ending {
			r.dropped++
		}
		r.mu.Unlock()
		r.measures.full.Add(1)
		r.lost(errors.New("the tape takes less than there is"))
		return
	}
	b, woken := r.open, false
	switch {
	case b != nil && b.joins(&e) && len(b.Body)+len(e.Envelope) <= r.cfg.MaxBatch:
		b.Body = extend(b.Body, b.place, e.Envelope)
		r.bytes += len(e.Envelope)
	default:
		if b != nil && len(b.Body)+size > r.cfg.MaxBatch {
			r.seal()
			b, woken = nil, true
		}
		if b == nil {
			b, woken = r.begin(), true
		}
		before := len(b.Body)
		b.Body, b.place = appendEntry(b.Body, &e)
		r.bytes += len(b.Body) - before
		b.last = e
		b.last.Envelope = nil
		b.Entries++
		if e.Time.After(b.Last) {
			b.Last = e.Time
		}
	}
	if len(b.Body) >= r.cfg.MaxBatch {
		r.seal()
		woken = true
	}
	r.mu.Unlock()
	if woken {
		r.signal()
	}
}

// joins says whether an entry can be part of the last one: replies to the same gate,
// at about the same time.
func (b *batch) joins(e *Entry) bool {
	since := e.Time.Sub(b.last.Time)
	return e.Kind == Replies && b.last.Kind == Replies && since >= 0 && since < together && e.Gate == b.last.Gate &&
		e.Worker == b.last.Worker && e.Masked == b.last.Masked && e.Redelivered == b.last.Redelivered
}

// begin opens a batch. r.mu is held, as with seal.
func (r *Recorder) begin() *batch {
	if n := len(r.free); n > 0 {
		r.open, r.free = r.free[n-1], r.free[:n-1]
	} else {
		r.open = &batch{Batch: Batch{Body: make([]byte, 0, 4<<10)}}
	}
	r.open.began = time.Now()
	return r.open
}

// seal has the open batch written.
func (r *Recorder) seal() {
	r.full = append(r.full, r.open)
	r.open = nil
}

func (r *Recorder) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run has everything kept until ctx ends, and then what is still there, for up to two
// seconds. What is given to the recorder later is dropped. It tells
// RecorderConfig.Ending of what was not kept then.
func (r *Recorder) Run(ctx context.Context) error {
	writing, stop := context.WithCancel(context.WithoutCancel(ctx))
	var limit sync.WaitGroup
	limit.Go(func() { // ends what the store waits for, some time after ctx
		select {
		case <-ctx.Done():
		case <-writing.Done():
			return
		}
		r.end() // also where the loop below waits for the store
		late, done := r.cfg.Ending.Within(writing, endTime)
		defer done()
		<-late.Done()
		stop()
	})
	defer limit.Wait()
	defer stop()

	timer := time.NewTimer(r.cfg.Patience)
	defer timer.Stop()
	for ctx.Err() == nil {
		b, wait := r.next(time.Now(), false)
		if b != nil {
			r.write(writing, b)
			continue
		}
		var due <-chan time.Time
		if wait > 0 {
			timer.Reset(wait)
			due = timer.C
		}
		select {
		case <-r.wake:
		case <-due:
		case <-ctx.Done():
		}
	}
	r.end()
	for {
		b, _ := r.next(time.Now(), true)
		if b == nil {
			break
		}
		r.write(writing, b)
	}
	r.await(writing)
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := r.dropped + r.unkept; n > 0 {
		r.cfg.Ending.CutOff("tape: %d entries", n)
	}
	return nil
}

// end has everything counted that is lost from now on.
func (r *Recorder) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ending = true
}

// next is the batch that is to be written now, or how long until there will be one
// without anything new; 0 where nothing waits. At the end nothing more is taken.
func (r *Recorder) next(now time.Time, end bool) (b *batch, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = r.closed || end
	if r.open != nil && len(r.full) == 0 {
		if wait = r.cfg.Patience - now.Sub(r.open.began); wait > 0 && !end {
			return nil, wait
		}
		r.seal()
	}
	if len(r.full) == 0 {
		return nil, 0
	}
	b = r.full[0]
	r.full[0] = nil
	if r.full = r.full[1:]; len(r.full) == 0 {
		r.full = nil
	}
	r.writing++
	r.unkept += b.Entries
	return b, 0
}

func (r *Recorder) write(ctx context.Context, b *batch) {
	r.cfg.Store.Write(ctx, b.Batch, func(err error) { r.settle(b, err) })
}

// settle notes what became of a batch.
func (r *Recorder) settle(b *batch, err error) {
	size, entries := len(b.Body), uint64(b.Entries)
	if err == nil {
		r.measures.entries.Add(entries)
		r.measures.bytes.Add(uint64(size))
		r.measures.batches.Add(1)
	} else {
		r.measures.lost.Add(entries)
		r.lost(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bytes -= size
	r.writing--
	r.unkept -= int(entries)
	if r.ending && err != nil {
		r.dropped += int(entries)
	}
	if cap(b.Body) <= keepBytes && len(r.free) < keepBatches {
		*b = batch{Batch: Batch{Body: b.Body[:0]}}
		r.free = append(r.free, b)
	}
	if r.settled != nil {
		close(r.settled)
		r.settled = nil
	}
}

// await returns when nothing is with the store any more, or ctx ends.
func (r *Recorder) await(ctx context.Context) {
	for {
		r.mu.Lock()
		if r.writing == 0 {
			r.mu.Unlock()
			return
		}
		if r.settled == nil {
			r.settled = make(chan struct{})
		}
		settled := r.settled
		r.mu.Unlock()
		select {
		case <-settled:
		case <-ctx.Done():
			return
		}
	}
}

// lost tells the log, now and then.
func (r *Recorder) lost(err error) {
	now := time.Now().UnixNano()
	if said := r.said.Load(); now-said < int64(remind) || !r.said.CompareAndSwap(said, now) {
		return
	}
	r.cfg.Log.WithError(err).Warn("tape: entries are not recorded")
}
