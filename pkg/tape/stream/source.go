package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/tape"
)

// Source is the tape of an installation. Its methods are safe to call at once.
type Source struct {
	// Report, if set before the first Read, is told why a reader has lost the broker that
	// tries again. It must not block.
	Report func(error)

	url     string
	name    string
	closing context.Context
	end     context.CancelFunc
	reading sync.WaitGroup
}

var _ tape.Source = (*Source)(nil)

// ErrNoTape: there is no stream, since no worker that records has run yet; or the node
// of the broker that has it is down.
var ErrNoTape = errors.New("there is no tape: no worker has recorded anything")

// Open checks the URL of the broker; Read connects.
func Open(url string, topology bus.Topology) (*Source, error) {
	if err := checkURL(url); err != nil {
		return nil, err
	}
	if topology == (bus.Topology{}) {
		topology = bus.NewTopology("")
	}
	s := &Source{url: url, name: topology.TapeStream(), Report: func(error) {}}
	s.closing, s.end = context.WithCancel(context.Background())
	return s, nil
}

// Close ends all that read, and waits for them.
func (s *Source) Close() error {
	s.end()
	s.reading.Wait()
	return nil
}

// Read implements tape.Source. A reader that follows comes back by itself when it has
// lost the broker; that it could be reached in the beginning it expects as any other.
func (s *Source) Read(ctx context.Context, start tape.Start, follow bool, each func(*tape.Entry) error) error {
	s.reading.Add(1)
	defer s.reading.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.closing, cancel)()
	r := &reader{source: s, start: start, each: each}
	err := r.read(ctx, follow)
	for attempt := 0; ctx.Err() == nil && (r.early(err, attempt) || follow && r.lost(err)); attempt++ {
		s.Report(err)
		if !pause(ctx, attempt) {
			break
		}
		before := r.next
		if err = r.read(ctx, follow); r.next > before {
			attempt = 0
		}
	}
	if failed := (*callerError)(nil); errors.As(err, &failed) {
		return failed.err
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// reader is one Read, over one connection after the other.
type reader struct {
	source *Source
	start  tape.Start
	each   func(*tape.Entry) error
	began  bool  // it was connected, and next says what to read
	was    bool  // next is of a place that the stream had, and nobody's guess
	next   int64 // offset of the next message, where it is known; else -1
}

// callerError is what each has returned.
type callerError struct{ err error }

func (e *callerError) Error() string { return e.err.Error() }

// lost says whether another connection may mend an error.
func (r *reader) lost(err error) bool {
	return r.began && err != nil && !errors.Is(err, tape.ErrMalformed) && !errors.As(err, new(*callerError)) &&
		!refused(err, amqp.AccessRefused)
}

// early says whether an error may be that of a stream which is being made just now: the
// broker then knows it, and does not find its process, or no replica of it. Where a
// node of a cluster never has one, that stays the error.
func (r *reader) early(err error, attempt int) bool {
	return attempt < 5 && (refused(err, amqp.InternalError) || refused(err, amqp.PreconditionFailed))
}

// prefetch is how many messages are on their way: each has up to 256 KiB, or one entry.
const prefetch = 32

// read reads over one connection, until it is lost or all is read.
func (r *reader) read(ctx context.Context, follow bool) error {
	c, err := connect(ctx, r.source.url, r.source.name+" reader")
	if err != nil {
		return err
	}
	defer c.close()
	defer context.AfterFunc(ctx, c.cut)()
	end, err := r.findEnd(c)
	if err != nil {
		return err
	}
	if !r.began {
		r.begin(end)
	} else if r.was && r.next > end+1 {
		r.next = 0 // it is another stream, which somebody has made anew
	}
	if follow {
		return r.follow(ctx, c)
	}
	for r.next <= end {
		all, err := r.page(c, r.from())
		if err != nil {
			return err
		}
		if len(all) == 0 {
			return nil // a time later than all
		}
		for i := range all {
			if offset, err := r.hand(ctx, &all[i]); err != nil || offset >= end {
				return err
			}
		}
	}
	return nil
}

// begin finds the first message to read; end is the offset of the last one, or -1.
func (r *reader) begin(end int64) {
	r.began = true
	switch {
	case r.start.Position != nil:
		r.next = max(r.start.Position.Offset, 0)
	case !r.start.Since.IsZero():
		r.next = -1
	case r.start.Live:
		r.next, r.was = end+1, true
	}
}

// from is where the broker is to begin.
func (r *reader) from() any {
	if r.next < 0 {
		return r.start.Since // which AMQP rounds down to seconds
	}
	return r.next
}

// hand hands out the entries of a message.
func (r *reader) hand(ctx context.Context, d *amqp.Delivery) (offset int64, err error) {
	offset, ok := d.Headers["x-stream-offset"].(int64)
	if !ok {
		return 0, fmt.Errorf("%w: a message of %s has no offset", tape.ErrMalformed, r.source.name)
	}
	if offset < r.next {
		return offset, nil
	}
	err = tape.ReadBatch(d.Body, offset, func(e *tape.Entry) error {
		if p := r.start.Position; p != nil && e.Position.Offset == p.Offset && e.Position.Index < p.Index {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := r.each(e); err != nil {
			return &callerError{err}
		}
		return nil
	})
	if errors.Is(err, tape.ErrMalformed) {
		err = fmt.Errorf("%w: message %d of %s", err, offset, r.source.name)
	}
	r.was, r.next = true, offset+1
	return offset, err
}
