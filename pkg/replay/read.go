package replay

import (
	"container/heap"
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/motto123/minigate/pkg/tape"
)

// event is what the reader tells of a call: that it is to be sent, or that its
// recorded end is known, or both.
type event struct {
	call  *tape.Call
	send  bool
	known bool
	floor tape.Place // all before it that are to be sent have been told of
}

// reader reads the tape ahead of what is sent. What it has counted is read once it
// has ended.
type reader struct {
	cfg    *Config
	events chan event // closed at its end
	quit   context.CancelFunc
	asked  atomic.Bool // to take no more
	done   sync.WaitGroup

	joiner    *tape.Joiner
	ended     byPlace // chosen by their ends, and not told of
	tell      func(*tape.Call, tape.Place) error
	sent      int
	masked    int
	repeated  int
	malformed int
	givenUp   int
	next      tape.Place
	refused   *tape.Place // the first that came over the limit
	err       error
}

// errEnough ends the reading.
var errEnough = errors.New("replay: enough was read")

// ahead is how many events wait to be looked at.
const ahead = 64

// startReader reads until the tape ends, what ends with ctx is read to its recorded end,
// or stop is called.
func startReader(ctx context.Context, cfg *Config) *reader {
	r := &reader{cfg: cfg, events: make(chan event, ahead)}
	reading, quit := context.WithCancel(context.WithoutCancel(ctx))
	r.quit = quit
	// By the outcome is chosen only what has one: then it is sent at its end. Otherwise it
	// is sent at once, and its recorded answer follows.
	late := cfg.Filter.ByOutcome()
	put := func(e event) error {
		select {
		case r.events <- e:
			return nil
		case <-reading.Done():
			return errEnough
		}
	}
	joining := tape.JoinerConfig{Filter: cfg.Filter, From: cfg.From}
	if late {
		r.tell = func(c *tape.Call, floor tape.Place) error {
			if !r.wanted(c) {
				return nil
			}
			return put(event{call: c, send: true, known: true, floor: floor})
		}
		joining.Each = func(c *tape.Call) error {
			if cfg.Filter.Takes(c) {
				heap.Push(&r.ended, c)
			}
			return nil
		}
	} else {
		joining.Took = func(c *tape.Call) error {
			if !r.wanted(c) {
				return nil
			}
			return put(event{call: c, send: true, floor: r.joiner.TookFloor()})
		}
		joining.Each = func(c *tape.Call) error { return put(event{call: c, known: true}) }
	}
	r.joiner = tape.NewJoiner(joining)
	stopAsking := context.AfterFunc(ctx, func() { r.asked.Store(true) })
	r.done.Go(func() {
		defer stopAsking()
		defer close(r.events)
		err := cfg.Source.Read(reading, cfg.Start, false, r.add)
		if err == nil && reading.Err() == nil {
			r.joiner.Full()
			if err = r.joiner.Flush(); err == nil {
				err = r.tellEnded(true)
			}
		}
		if !errors.Is(err, errEnough) {
			r.err = err
		}
		stats := r.joiner.Stats()
		r.malformed, r.givenUp = int(stats.Malformed), int(stats.GivenUp)
		if r.next = r.joiner.Next(); r.refused != nil && r.refused.Before(r.next) {
			r.next = *r.refused
		}
	})
	return r
}

func (r *reader) add(e *tape.Entry) error {
	if r.full() {
		r.joiner.Full()
	}
	if err := r.joiner.Add(e); err != nil {
		return err
	}
	if err := r.tellEnded(false); err != nil {
		return err
	}
	if r.full() && r.joiner.Held() == 0 && len(r.ended) == 0 || r.joiner.Past() {
		return errEnough
	}
	return nil
}

// tellEnded tells of calls that are chosen by their ends, in the order of the tape: one
// that ended early waits for those before it, or where to go on would be before what was
// sent. Too many do not wait.
func (r *reader) tellEnded(all bool) error {
	floor := r.joiner.Floor()
	for len(r.ended) > 0 && (all || r.ended[0].Place.Before(floor) || len(r.ended) > maxEnded) {
		c, ok := heap.Pop(&r.ended).(*tape.Call)
		if !ok {
			continue
		}
		at := floor
		if len(r.ended) > 0 && r.ended[0].Place.Before(at) {
			at = r.ended[0].Place
		}
		if err := r.tell(c, at); err != nil {
			return err
		}
	}
	return nil
}

// maxEnded bounds the calls that wait for those before them to end.
const maxEnded = 1 << 16

// byPlace is a heap of calls, the first one of the tape on top.
type byPlace []*tape.Call

func (h byPlace) Len() int           { return len(h) }
func (h byPlace) Less(i, j int) bool { return h[i].Place.Before(h[j].Place) }
func (h byPlace) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

func (h *byPlace) Push(x any) {
	if c, ok := x.(*tape.Call); ok {
		*h = append(*h, c)
	}
}

func (h *byPlace) Pop() any {
	last := len(*h) - 1
	c := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return c
}

func (r *reader) full() bool {
	return r.asked.Load() || r.cfg.Limit > 0 && r.sent >= r.cfg.Limit
}

// wanted counts a call among those that are sent, or left out.
func (r *reader) wanted(c *tape.Call) bool {
	switch {
	case c.Repeated:
		r.repeated++
		return false
	case c.Masked && !r.cfg.Masked:
		r.masked++
		return false
	case r.cfg.Limit > 0 && r.sent >= r.cfg.Limit:
		if at := c.Place; r.refused == nil || at.Before(*r.refused) {
			r.refused = &at
		}
		return false
	}
	r.sent++
	return true
}

// stop ends the reading and waits for that.
func (r *reader) stop() {
	r.quit()
	for range r.events { // it may wait to tell of one
	}
	r.done.Wait()
}
