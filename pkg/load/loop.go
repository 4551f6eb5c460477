package load

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	errorx "github.com/panjf2000/gnet/v2/pkg/errors"
	"github.com/panjf2000/gnet/v2/pkg/netpoll"
	"github.com/panjf2000/gnet/v2/pkg/queue"
	"golang.org/x/sys/unix"

	"github.com/motto123/minigate/codec"
)

// loop is one thread of connections, on gnet's poller. It reads and writes the
// sockets itself, into one buffer for all of them. gnet's own connections take as
// much of the processor for a request (measured: there is little beside the two
// system calls), but each holds more memory, and they connect one after the
// other, in the way of everything else.
type loop struct {
	load   *Load
	index  int
	poller *netpoll.Poller
	tick   queue.Func
	ticks  atomic.Bool // one is on its way

	counts counts

	// Everything below belongs to the loop's thread.

	slab    []conn  // all that there will be
	byFD    []*conn // by descriptor
	conns   []*conn // that are not closed
	spare   *partial
	in      []byte
	out     []byte // to be written to the connection at hand
	scratch []byte
	now     int64 // nanoseconds since the load's beginning

	opened  int // of the connections that are this loop's
	opening int
	looked  int // position of the round through conns
	lookAt  int64
	round   time.Duration // how long one takes

	text, coded *request // with the route as text, and as its code
	dictionary  []byte   // of the last handshake, as it was sent
	codec       codec.ClientDictionary

	pace
	tally
}

// counts are read by others at any time.
type counts struct {
	established, failed, open     atomic.Int64
	answered, errors, outstanding atomic.Int64
	senders                       atomic.Int64 // connections that have requests to send, or to be answered
	pushes, lastPush              atomic.Int64
}

// tally is what a loop has counted since its last reset.
type tally struct {
	latency    *hdrhistogram.Histogram // nanoseconds
	connecting *hdrhistogram.Histogram
	requests   int64
	answers    int64 // that are right
	wrong      int64 // that are not those of their request
	unanswered int64
	unsent     int64
	errors     map[string]int64 // answers, by code
	kicks      map[string]int64
	ends       map[string]int64 // connections that nobody here has closed
	refusals   map[string]int64 // connections that did not come to be
}

const (
	// readBuffer is the largest read of one connection at once.
	readBuffer = 64 << 10
	// maxOpening is how many connections of one loop may be on their way at once:
	// all loops together stay under the kernel's queue of a listener.
	maxOpening = 128
	// The round through all connections takes a tenth of a heartbeat, within these
	// bounds, in steps of lookStep.
	shortRound = 500 * time.Millisecond
	longRound  = 5 * time.Second
	lookStep   = 10 * time.Millisecond
)

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(100, int64(maxLatency), 3)
}

const maxLatency = 10 * time.Minute

func newTally() tally {
	return tally{
		latency: newHistogram(), connecting: newHistogram(), errors: make(map[string]int64),
		kicks: make(map[string]int64), ends: make(map[string]int64), refusals: make(map[string]int64),
	}
}

func newLoop(l *Load, index int) (*loop, error) {
	p, err := netpoll.OpenPoller()
	if err != nil {
		return nil, fmt.Errorf("load: open a poller: %w", err)
	}
	share := (l.cfg.Connections - index + l.cfg.Loops - 1) / l.cfg.Loops
	loop := &loop{
		load: l, index: index, poller: p, in: make([]byte, readBuffer), tally: newTally(), round: longRound,
		slab: make([]conn, share), conns: make([]*conn, 0, share),
	}
	loop.tick = func(any) error { loop.onTick(); return nil }
	loop.text, err = newRequest(l.cfg, 0, false)
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return loop, nil
}

func (l *loop) run() error {
	err := l.poller.Polling(l.event)
	for len(l.conns) > 0 {
		l.conns[len(l.conns)-1].close()
	}
	if errors.Is(err, errorx.ErrEngineShutdown) {
		err = nil
	}
	return errors.Join(err, l.poller.Close())
}

// wake lets time pass. It may be called at any time, until stop.
func (l *loop) wake() error {
	if l.ticks.Swap(true) {
		return nil
	}
	return l.poller.Trigger(queue.HighPriority, l.tick, nil)
}

// post runs f on the loop's thread.
func (l *loop) post(f func()) error {
	return l.poller.Trigger(queue.HighPriority, func(any) error { l.now = l.load.now(); f(); return nil }, nil)
}

// stop ends run.
func (l *loop) stop() error {
	return l.poller.Trigger(queue.HighPriority, func(any) error { return errorx.ErrEngineShutdown }, nil)
}

// event is called by the poller. What exactly happened is not looked at, since
// nothing here blocks: epoll and kqueue then need no difference.
//
// Hot path: BenchmarkLoad.
func (l *loop) event(fd int, _ netpoll.IOEvent, _ netpoll.IOFlags) error {
	if fd >= len(l.byFD) || l.byFD[fd] == nil {
		return nil
	}
	c := l.byFD[fd]
	l.now = l.load.now()
	if c.state == connecting {
		c.connected()
	} else {
		if c.hasUnsent() {
			c.flush()
		}
		if c.state != closed {
			l.read(c)
		}
	}
	if l.opened < len(l.slab) {
		l.open()
	}
	l.sendDue()
	return nil
}

func (l *loop) read(c *conn) {
	n, err := unix.Read(int(c.fd), l.in)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return
	case err != nil:
		c.end(os.NewSyscallError("read", err).Error())
		return
	case n == 0:
		c.end("closed by the gate")
		return
	}
	c.seen = l.now
	l.out = l.out[:0]
	if err := c.received(l.in[:n]); err != nil && c.state != closed {
		c.end(err.Error())
	}
	if len(l.out) > 0 && c.state != closed {
		c.write(l.out)
	}
	c.settle()
}

// onTick is what happens without anything being received.
func (l *loop) onTick() {
	l.ticks.Store(false)
	l.now = l.load.now()
	l.open()
	l.resume()
	l.sendDue()
	if l.now < l.lookAt {
		return
	}
	// A little at a time, so that heartbeats are spread over their interval.
	since := min(l.now-l.lookAt+int64(lookStep), int64(l.round))
	l.lookAt = l.now + int64(lookStep)
	for range min(len(l.conns), len(l.conns)*int(since)/int(l.round)+1) {
		if len(l.conns) == 0 {
			break
		}
		l.looked = (l.looked + 1) % len(l.conns)
		l.conns[l.looked].look()
	}
}

// open opens the connections that are due.
func (l *loop) open() {
	cfg := &l.load.cfg
	for l.opening < maxOpening {
		i := l.opened*cfg.Loops + l.index
		if i >= cfg.Connections || l.load.stopped.Load() {
			return
		}
		if cfg.Ramp > 0 && int64(i)*int64(time.Second)/int64(cfg.Ramp) > l.now {
			return
		}
		c := &l.slab[l.opened]
		*c = conn{loop: l, index: int32(i), target: &l.load.targets[i%len(l.load.targets)], beat: l.now}
		l.opened++
		c.idle = int(float64(i+1)*cfg.Idle) > int(float64(i)*cfg.Idle)
		l.opening++
		if err := c.connect(); err != nil {
			c.fail(err.Error())
		}
	}
}

// keep makes c known to the poller's events.
func (l *loop) keep(c *conn) {
	for int(c.fd) >= len(l.byFD) { // descriptors are small numbers, given out again
		l.byFD = append(l.byFD, nil)
	}
	l.byFD[c.fd] = c
	c.position = int32(len(l.conns))
	l.conns = append(l.conns, c)
}

func (l *loop) forget(c *conn) {
	l.byFD[c.fd] = nil
	last := l.conns[len(l.conns)-1]
	l.conns[c.position] = last
	last.position = c.position
	l.conns[len(l.conns)-1] = nil
	l.conns = l.conns[:len(l.conns)-1]
}

// heartbeats makes the round short enough for a heartbeat.
func (l *loop) heartbeats(every int64) {
	if every > 0 {
		l.round = min(l.round, max(time.Duration(every)/10, shortRound))
	}
}

// routeOf chooses the request that a connection sends: with the route's code,
// where the gate has given it one.
func (l *loop) routeOf(dictionary []byte) (*request, error) {
	if string(dictionary) != string(l.dictionary) {
		// Usually all connections have the same, and it is read once.
		var d codec.ClientDictionary
		if err := d.UnmarshalJSON(dictionary); err != nil {
			return nil, err
		}
		l.dictionary, l.codec, l.coded = append(l.dictionary[:0], dictionary...), d, nil
		if code, ok := d.CodeOf(l.load.cfg.Route); ok {
			var err error
			if l.coded, err = newRequest(l.load.cfg, code, true); err != nil {
				return nil, err
			}
		}
	}
	if l.coded != nil {
		return l.coded, nil
	}
	return l.text, nil
}

// record takes a latency in nanoseconds.
func (t *tally) record(h *hdrhistogram.Histogram, ns int64) {
	// Out of range it can not be.
	_ = h.RecordValue(min(max(ns, 0), int64(maxLatency)))
}
