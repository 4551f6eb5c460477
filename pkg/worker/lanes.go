package worker

import "sync"

// laneKey names a session among all sessions of all gates.
type laneKey struct {
	gate    string
	session uint64
}

// lane holds the calls of one session that wait. It exists while there are any
// or one of them runs, and is in the list of ready lanes or in the hands of one
// goroutine, never both: that is what keeps a session in order.
type lane struct {
	key        laneKey
	head, tail *call
	runs       *call // nil where none does
	next       *lane
}

// lanes run calls: those of one session one after the other in the order of add,
// those of different sessions in parallel, on at most limit goroutines. A lane
// is a queue and costs no goroutine. How much waits is bounded by the prefetch,
// since no envelope is acked before its calls have run.
type lanes struct {
	run    func(*call)
	idling func() // called by a goroutine that has run calls and finds no more; nil for none
	limit  int

	mu         sync.Mutex
	wake       sync.Cond // idle goroutines wait
	lanes      map[laneKey]*lane
	head, tail *lane // ready
	unused     *lane
	unusedLen  int
	goroutines int
	idle       int
	waiting    int    // calls that have not begun
	running    int    // calls
	begun      uint64 // calls, ever
	waking     bool   // a goroutine was woken or started and has not looked yet
	closed     bool
	ended      sync.WaitGroup
}

// turn is how many calls of one lane run before others get their turn.
const turn = 16

// keepLanes bounds the unused lanes that are kept.
const keepLanes = 1024

func newLanes(limit int, run func(*call)) *lanes {
	l := &lanes{run: run, limit: limit, lanes: make(map[laneKey]*lane)}
	l.wake.L = &l.mu
	return l
}

// add takes a list of calls, linked by next. It returns what it did not take
// because the lanes are closed.
func (l *lanes) add(calls *call) (refused *call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return calls
	}
	for c := calls; c != nil; {
		next := c.next
		c.next = nil
		l.enqueue(c)
		c = next
	}
	l.wakeOne()
	return nil
}

func (l *lanes) enqueue(c *call) {
	l.waiting++
	key := laneKey{gate: c.caller.Session.Gate, session: c.caller.Session.ID}
	n := l.lanes[key]
	if n != nil {
		// Its goroutine, or whoever gets it from the ready list, will see the call.
		if n.tail == nil {
			n.head = c
		} else {
			n.tail.next = c
		}
		n.tail = c
		return
	}
	if n = l.unused; n != nil {
		l.unused, n.next = n.next, nil
		l.unusedLen--
	} else {
		n = new(lane)
	}
	n.key, n.head, n.tail = key, c, c
	l.lanes[key] = n
	l.push(n)
}

func (l *lanes) push(n *lane) {
	if l.tail == nil {
		l.head = n
	} else {
		l.tail.next = n
	}
	l.tail = n
}

// wakeOne brings in one more goroutine where there is work for it. That one
// brings in the next: short handlers are then done by few goroutines that need
// no waking, and slow ones still get all of them within microseconds.
func (l *lanes) wakeOne() {
	if l.head == nil || l.waking {
		return
	}
	switch {
	case l.idle > 0:
		l.waking = true
		l.idle--
		l.wake.Signal()
	case l.goroutines < l.limit:
		l.waking = true
		l.goroutines++
		l.ended.Add(1)
		go l.work()
	}
}

func (l *lanes) work() {
	defer l.ended.Done()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waking = false
	ran := false
	for {
		for l.head == nil && !l.closed {
			if ran && l.idling != nil {
				ran = false
				l.mu.Unlock()
				l.idling()
				l.mu.Lock()
				continue
			}
			l.idle++
			l.wake.Wait()
			l.waking = false
		}
		if l.closed {
			return
		}
		n := l.head
		if l.head = n.next; l.head == nil {
			l.tail = nil
		}
		n.next = nil
		l.wakeOne()
		l.turn(n)
		ran = true
	}
}

// turn runs some calls of a lane without the lock, then gives it back.
func (l *lanes) turn(n *lane) {
	for range turn {
		c := n.head
		if n.head = c.next; n.head == nil {
			n.tail = nil
		}
		c.next = nil
		n.runs = c
		l.waiting--
		l.running++
		l.begun++
		l.mu.Unlock()
		l.run(c)
		l.mu.Lock()
		n.runs = nil
		l.running--
		if n.head == nil {
			delete(l.lanes, n.key)
			n.key = laneKey{}
			if l.unusedLen < keepLanes {
				n.next, l.unused = l.unused, n
				l.unusedLen++
			}
			return
		}
		if l.closed {
			return
		}
	}
	l.push(n)
	l.wakeOne()
}

// load is how many calls wait and run, and how many have begun, ever.
func (l *lanes) load() (waiting, running int, begun uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting, l.running, l.begun
}

// stop lets no further call run.
func (l *lanes) stop() {
	l.mu.Lock()
	l.closed = true
	l.wake.Broadcast()
	l.mu.Unlock()
}

// close stops, waits until the calls that run have returned, and returns those
// that never will begin, linked by next. Where await, which is given what is closed
// then, returns before that, those that run are among them, and are given up.
func (l *lanes) close(await func(ended <-chan struct{})) (left *call) {
	l.stop()
	ended := make(chan struct{})
	go func() {
		l.ended.Wait()
		close(ended)
	}()
	await(ended)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.lanes {
		for c := n.head; c != nil; {
			next := c.next
			c.next, left = left, c
			c = next
		}
		n.head, n.tail = nil, nil
		if c := n.runs; c != nil && c.told.CompareAndSwap(false, true) {
			c.deaf = true
			c.next, left = left, c
		}
	}
	clear(l.lanes)
	return left
}
