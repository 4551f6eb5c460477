package mem

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/motto123/minigate/pkg/bus"
)

// item is one message in a queue.
type item struct {
	route       *route
	body        []byte
	sent        time.Time
	position    uint64 // in the queue, from its first message on
	redelivered bool
}

// queue hands its items to its consumers in turn, as far as their prefetch
// allows.
type queue struct {
	spec        bus.Queue
	maxMessages int
	maxBytes    int
	dropOldest  bool
	bus         *Bus

	mu        sync.Mutex
	waiting   ring   // not with any consumer
	returned  []item // came back from a consumer: before all of waiting, by position
	bytes     int    // of waiting and returned
	position  uint64
	consumers []*consumer
	next      int // the consumer whose turn it is
	deleted   bool

	unusedSince uint64 // counts the times that the last consumer left
	stopExpiry  func() // nil while there is a consumer, or no expiry
}

type putResult uint8

const (
	taken putResult = iota
	full
	deleted
)

func (b *Bus) newQueue(spec bus.Queue) *queue {
	q := &queue{spec: spec, bus: b, maxMessages: spec.MaxMessages, maxBytes: spec.MaxBytes}
	if q.maxMessages <= 0 {
		q.maxMessages = b.maxMessages
	}
	if q.maxBytes <= 0 {
		q.maxBytes = b.maxBytes
	}
	return q
}

// put adds a copy of body: it is the publisher's again when done was called,
// and the receiver's when it is delivered.
func (q *queue) put(r *route, body []byte, sent time.Time) putResult {
	own := make([]byte, len(body))
	copy(own, body)

	q.mu.Lock()
	defer q.mu.Unlock()
	if q.deleted {
		return deleted
	}
	for q.length() >= q.maxMessages || q.bytes+len(body) > q.maxBytes {
		if !q.dropOldest || q.length() == 0 {
			return full
		}
		q.take()
	}
	q.position++
	q.waiting.push(item{route: r, body: own, sent: sent, position: q.position})
	q.bytes += len(own)
	q.dispatch()
	return taken
}

func (q *queue) length() int { return len(q.returned) + q.waiting.length }

// take removes the first item.
func (q *queue) take() item {
	var it item
	if len(q.returned) > 0 {
		it, q.returned[0] = q.returned[0], item{}
		if q.returned = q.returned[1:]; len(q.returned) == 0 {
			q.returned = nil
		}
	} else {
		it = q.waiting.pop()
	}
	q.bytes -= len(it.body)
	return it
}

// giveBack puts items that a consumer had before everything that it had not.
func (q *queue) giveBack(items ...item) {
	if q.deleted {
		return
	}
	for _, it := range items {
		q.bytes += len(it.body)
	}
	q.returned = append(q.returned, items...)
	slices.SortFunc(q.returned, func(a, b item) int { return cmp.Compare(a.position, b.position) })
}

// dispatch gives what waits to the consumers that may have more, in turn.
func (q *queue) dispatch() {
	for q.length() > 0 {
		c := q.turn()
		if c == nil {
			return
		}
		c.assign(q.take())
	}
}

// turn returns the next consumer with credit, or nil.
func (q *queue) turn() *consumer {
	for range q.consumers {
		if q.next >= len(q.consumers) {
			q.next = 0
		}
		c := q.consumers[q.next]
		q.next++
		if c.credit > 0 {
			return c
		}
	}
	return nil
}

// add lets a consumer have deliveries. It returns false where the queue was
// deleted meanwhile.
func (q *queue) add(c *consumer) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.deleted {
		return false
	}
	if q.stopExpiry != nil {
		q.stopExpiry()
		q.stopExpiry = nil
	}
	q.unusedSince++ // a timer that runs already finds itself outdated
	q.consumers = append(q.consumers, c)
	q.dispatch()
	return true
}

// drop takes a consumer out of the turn. The last one to leave starts the time
// until the queue expires.
func (q *queue) drop(c *consumer) {
	i := slices.Index(q.consumers, c)
	if i < 0 {
		return
	}
	q.consumers = slices.Delete(q.consumers, i, i+1)
	if i < q.next {
		q.next--
	}
}

// unused starts the time until the queue expires, where it has no consumer.
func (q *queue) unused() {
	if len(q.consumers) > 0 || q.spec.Expires <= 0 || q.deleted || q.stopExpiry != nil {
		return
	}
	q.unusedSince++
	q.stopExpiry = q.bus.afterExpiry(q, q.unusedSince)
}

// deleteUnused marks the queue as deleted, unless it got a consumer since.
func (q *queue) deleteUnused(generation uint64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.unusedSince != generation || q.deleted {
		return false
	}
	q.empty()
	return true
}

// close ends the queue with the bus.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopExpiry != nil {
		q.stopExpiry()
		q.stopExpiry = nil
	}
	q.empty()
	for _, c := range slices.Clone(q.consumers) {
		c.cut()
	}
}

func (q *queue) empty() {
	q.deleted = true
	q.waiting, q.returned, q.bytes = ring{}, nil, 0
}

// ring is a first-in-first-out of items that keeps its memory while it is in
// use and gives it up when it has been large and is empty.
type ring struct {
	items  []item
	first  int
	length int
}

const ringKept = 1024

func (r *ring) push(it item) {
	if r.length == len(r.items) {
		grown := make([]item, max(16, 2*len(r.items)))
		n := copy(grown, r.items[r.first:])
		copy(grown[n:], r.items[:r.first])
		r.items, r.first = grown, 0
	}
	// The length is a power of two.
	r.items[(r.first+r.length)&(len(r.items)-1)] = it
	r.length++
}

func (r *ring) pop() item {
	it := r.items[r.first]
	r.items[r.first] = item{}
	r.first = (r.first + 1) & (len(r.items) - 1)
	r.length--
	if r.length == 0 && len(r.items) > ringKept {
		*r = ring{}
	}
	return it
}
