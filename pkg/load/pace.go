package load

import (
	"math"
	"time"

	"github.com/panjf2000/gnet/v2/pkg/netpoll"
)

// pace says when requests are sent. It belongs to the loop.
type pace struct {
	sending bool
	// What waits until its time: for the think time, and after an error.
	thinking, paused queueOf[later]

	// With a rate:
	ready queueOf[*conn] // those that may send
	start int64          // of the schedule
	until int64          // its end
	due   int64          // requests of the schedule that were sent
}

// later is a place for a request on a connection, and when it is to be used.
type later struct {
	conn *conn
	slot int
	at   int64
}

const (
	// step is how often a loop is woken to send by a rate, and how exact the times
	// of its schedule are: they are multiples of it, and so never early.
	step = 250 * time.Microsecond
	// slowStep is the same where nothing depends on it.
	slowStep = 2 * time.Millisecond
	// holdStep is the same where there is nothing to do but heartbeats.
	holdStep = 50 * time.Millisecond
	// errorPause keeps a gate that answers nothing but errors from being asked as
	// fast as it can say so.
	errorPause = 10 * time.Millisecond
)

// begin begins to send on all connections that are not idle.
func (l *loop) begin() {
	cfg := &l.load.cfg
	l.sending, l.start, l.until = true, l.now, math.MaxInt64
	if cfg.Duration > 0 {
		l.until = l.start + int64(cfg.Warmup+cfg.Duration)
	}
	senders := 0
	for _, c := range l.conns {
		if c.state == active && !c.idle {
			senders++
		}
	}
	l.counts.senders.Add(int64(senders))
	traffics := make([]traffic, senders)
	slots := make([]slot, senders*cfg.InFlight)
	free := make([]uint16, senders*cfg.InFlight)
	n := 0
	// A connection that ends meanwhile changes the list.
	for _, c := range append([]*conn(nil), l.conns...) {
		if c.state != active || c.idle {
			continue
		}
		from, to := n*cfg.InFlight, (n+1)*cfg.InFlight
		t := &traffics[n]
		c.traffic = t
		t.slots, t.left = slots[from:to:to], cfg.Requests
		if cfg.Requests == 0 {
			t.left = int(^uint(0) >> 1)
		}
		n++
		if cfg.Rate > 0 {
			t.free = free[from:from:to]
			for i := range t.slots {
				t.free = append(t.free, uint16(i))
			}
			l.makeReady(c)
			continue
		}
		l.out = l.out[:0]
		for i := range t.slots {
			switch {
			case t.left == 0:
			case cfg.Think > 0: // spread over the think time
				l.thinking.push(later{c, i, l.now + int64(cfg.Think)*int64(n)/int64(senders)})
			default:
				l.put(c, i, l.now)
			}
		}
		if len(l.out) > 0 {
			c.write(l.out)
		}
	}
}

// halt sends no more. What was due until then and was not sent, since all
// connections had as much in flight as they may, has waited in vain until now.
func (l *loop) halt() {
	cfg := &l.load.cfg
	l.sendDue() // what is due since the loop last looked
	if l.sending && cfg.Rate > 0 && l.counts.senders.Load() > 0 {
		for ; l.dueAt(l.due) <= min(l.now, l.until); l.due++ {
			l.unsent++
			l.record(l.latency, l.now-l.dueAt(l.due))
		}
	}
	l.sending = false
}

// next uses a place again, when its request was answered.
func (l *loop) next(c *conn, at int, failed bool) {
	t := c.traffic
	if l.load.cfg.Rate > 0 {
		t.free = append(t.free, uint16(at))
		if failed || !l.sending || t.left <= 0 {
			l.makeReady(c)
			return
		}
		if due := l.dueAt(l.due); due <= min(l.now, l.until) && l.ready.len() == 0 { // others are full, too
			l.due++
			l.use(c, due)
			return
		}
		l.makeReady(c)
		return
	}
	if !l.sending || t.left <= 0 {
		return
	}
	switch {
	case failed:
		l.paused.push(later{c, at, l.now + int64(errorPause)})
	case l.load.cfg.Think > 0:
		l.thinking.push(later{c, at, l.now + int64(l.load.cfg.Think)})
	default:
		l.put(c, at, l.now)
	}
}

// resume sends what has waited for its time.
func (l *loop) resume() {
	for _, q := range []*queueOf[later]{&l.thinking, &l.paused} {
		for q.len() > 0 && q.first().at <= l.now {
			w := q.pop()
			if l.sending && w.conn.state == active && w.conn.traffic.left > 0 {
				l.out = l.out[:0]
				l.put(w.conn, w.slot, l.now)
				w.conn.write(l.out)
			}
		}
	}
}

// dueAt is when the nth request of this loop's share of the schedule is to be
// sent.
func (l *loop) dueAt(n int64) int64 {
	cfg := &l.load.cfg
	at := (float64(n)*float64(cfg.Loops) + float64(l.index)) * float64(time.Second) / float64(cfg.Rate)
	return l.start + (int64(at)/int64(step)+1)*int64(step)
}

// sendDue sends what the schedule says, as long as a connection may send.
func (l *loop) sendDue() {
	if !l.sending || l.load.cfg.Rate == 0 {
		return
	}
	for l.ready.len() > 0 {
		due := l.dueAt(l.due)
		if due > min(l.now, l.until) {
			return
		}
		c := l.ready.pop()
		c.traffic.queued = false
		if c.state != active || len(c.traffic.free) == 0 || c.traffic.left <= 0 {
			continue
		}
		l.due++
		l.out = l.out[:0]
		l.use(c, due)
		c.write(l.out)
		l.makeReady(c)
	}
}

// use puts a request into a free place of c.
func (l *loop) use(c *conn, due int64) {
	t := c.traffic
	n := len(t.free) - 1
	at := t.free[n]
	t.free = t.free[:n]
	l.put(c, int(at), due)
}

func (l *loop) makeReady(c *conn) {
	if t := c.traffic; !t.queued && len(t.free) > 0 && t.left > 0 && c.state == active {
		t.queued = true
		l.ready.push(c)
	}
}

// abandon counts what a connection that is over will not answer any more.
func (l *loop) abandon(c *conn) {
	t := c.traffic
	if t == nil {
		return
	}
	if t.sends() {
		l.counts.senders.Add(-1)
	}
	l.counts.outstanding.Add(-int64(t.busy))
	for i := range t.slots {
		if s := &t.slots[i]; s.busy {
			s.busy = false
			l.unanswered++
			l.record(l.latency, l.now-s.at)
		}
	}
	t.busy, t.left = 0, 0
}

// sends reports whether there are requests to send, or to be answered.
func (t *traffic) sends() bool { return t.left > 0 || t.busy > 0 }

// poll asks the poller for what c waits for.
func (l *loop) poll(c *conn, write bool) error {
	a := &netpoll.PollAttachment{FD: int(c.fd)}
	switch {
	case c.state == connecting && write:
		return l.poller.AddReadWrite(a, false)
	case c.state == connecting && !c.waits:
		return l.poller.AddRead(a, false)
	case write:
		return l.poller.ModReadWrite(a, false)
	default:
		return l.poller.ModRead(a, false)
	}
}

// queueOf is a queue in a ring. It grows to what was in it at once, which is
// bounded by the places for requests.
type queueOf[T any] struct {
	ring        []T
	head, count int
}

func (q *queueOf[T]) len() int { return q.count }
func (q *queueOf[T]) first() T { return q.ring[q.head] }

func (q *queueOf[T]) push(v T) {
	if q.count == len(q.ring) {
		grown := make([]T, max(16, 2*len(q.ring)))
		for i := range q.count {
			grown[i] = q.ring[(q.head+i)%len(q.ring)]
		}
		q.ring, q.head = grown, 0
	}
	q.ring[(q.head+q.count)%len(q.ring)] = v
	q.count++
}

func (q *queueOf[T]) pop() T {
	v := q.ring[q.head]
	var none T
	q.ring[q.head] = none
	q.head, q.count = (q.head+1)%len(q.ring), q.count-1
	return v
}
