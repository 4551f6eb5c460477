package gate

import (
	"sync"
	"time"

	"github.com/motto123/minigate/pkg/bus"
)

// loop is one thread of sessions. All that a session is and does happens on its
// loop, so that nothing of it needs a lock; whoever comes from another
// goroutine posts a task.
type loop struct {
	gate   *Gate
	poller *poller // nil in tests of sessions alone
	index  uint64
	wake   func() error // has turn called on the loop's thread, soon; it is the poller's

	inbox struct {
		sync.Mutex
		tasks     []func()
		scheduled bool
		closed    bool
		waking    sync.WaitGroup // calls of wake
	}

	// Everything below belongs to the loop's thread.

	sessions map[uint64]*session
	users    map[int64][]*session
	groups   map[string]map[*session]struct{}
	wheel    wheel
	busy     list // sessions with requests that wait
	counter  uint64
	now      int64 // milliseconds from the gate's beginning to this turn's
	micros   int64 // the same in microseconds
	wall     int64 // the same instant in Unix milliseconds, which other processes read
	shard    *bus.Coalescer[ref]
	present  []*session // that are still to be told that the gate ends
	dirty    []*session // have bytes to write at the end of this turn
	pushed   int        // bytes of pushes among them, no less
	added    bool       // something to the shard in this turn
	traces              // of this turn
	backpressure

	// Used again and again within one turn.
	tasks   []func()
	request bus.Request
	item    []byte
	message []byte
	frame   [maxFrameHeader]byte
	buffers [][]byte    // write buffers that no session holds
	kept    int         // bytes of them
	waiting [][]pending // lists of requests that no session holds
}

// The loop keeps write buffers of up to so many bytes each and together: a push to
// ten thousand needs as many at once. Of lists of requests it keeps so many, of so
// many requests.
const (
	newBufferBytes  = 512
	keepBufferBytes = 64 << 10
	keepBytes       = 4 << 20
	keepLists       = 1024
	keepPending     = 64
)

func newLoop(g *Gate, index int, wake func() error) *loop {
	l := &loop{
		gate: g, index: uint64(index), wake: wake,
		sessions: make(map[uint64]*session),
		users:    make(map[int64][]*session),
		groups:   make(map[string]map[*session]struct{}),
		shard:    g.shards[index%len(g.shards)],
	}
	l.setNow()
	l.wheel.init(l.now)
	return l
}

// post runs f on the loop's thread. It does not wait and does not block; after
// the loop's end it returns false and f is never run, so whoever waits for f also
// waits for the gate's end.
func (l *loop) post(f func()) bool {
	l.inbox.Lock()
	if l.inbox.closed {
		l.inbox.Unlock()
		return false
	}
	l.inbox.tasks = append(l.inbox.tasks, f)
	wake := !l.inbox.scheduled
	l.inbox.scheduled = true
	if wake {
		l.inbox.waking.Add(1)
	}
	l.inbox.Unlock()
	if !wake {
		return true
	}
	defer l.inbox.waking.Done()
	if err := l.wake(); err != nil {
		l.gate.log.WithError(err).Error("wake a loop")
	}
	return true
}

// closeInbox has post drop what comes from now on, and waits until nobody is
// about to wake the poller.
func (l *loop) closeInbox() {
	l.inbox.Lock()
	l.inbox.closed = true
	l.inbox.Unlock()
	l.inbox.waking.Wait()
}

// turn runs what was posted, and then writes what that left to be written: one
// write a session, however many replies it got.
func (l *loop) turn() {
	l.inbox.Lock()
	tasks := l.inbox.tasks
	l.inbox.tasks, l.inbox.scheduled = l.tasks[:0], false
	l.inbox.Unlock()

	l.setNow()
	for i, f := range tasks {
		l.do(f)
		tasks[i] = nil
	}
	l.tasks = tasks
	l.flush()
}

// do keeps a panic in one task from ending the gate.
func (l *loop) do(f func()) {
	defer func() {
		if p := recover(); p != nil {
			l.gate.panicked(p, nil)
		}
	}()
	f()
}

// setNow begins a turn.
func (l *loop) setNow() {
	now := time.Now()
	since := now.Sub(l.gate.began)
	l.now, l.micros, l.wall = since.Milliseconds(), since.Microseconds(), now.UnixMilli()
}

// tick lets time pass: handshakes that do not come, heartbeats that stay away,
// and requests that nobody answered.
func (l *loop) tick() {
	l.wheel.advance(l.now, (*session).expired)
	l.resumeRefused()
	l.cutSlow()
	for s := l.busy.first; s != nil; {
		next := s.busyNext
		s.expirePending()
		s = next
	}
}

// add makes a session of a connection that was opened.
func (l *loop) add(s *session) {
	l.counter++
	s.id = l.counter<<8 | l.index
	l.sessions[s.id] = s
}

// remove forgets a session that is closed.
func (l *loop) remove(s *session) {
	delete(l.sessions, s.id)
	delete(l.parents, s.id)
	l.wheel.remove(s)
	l.unhold(s)
	if s.out != nil {
		l.recycle(s.out)
		s.out = nil
	}
}

// bind makes s a session of user, or of nobody.
func (l *loop) bind(s *session, user int64) {
	l.unbind(s)
	s.user = user
	if user != 0 {
		l.users[user] = append(l.users[user], s)
	}
}

func (l *loop) unbind(s *session) {
	if s.user == 0 {
		return
	}
	of := l.users[s.user]
	for i, other := range of {
		if other == s {
			of[i] = of[len(of)-1]
			of[len(of)-1] = nil
			of = of[:len(of)-1]
			break
		}
	}
	if len(of) == 0 {
		delete(l.users, s.user)
	} else {
		l.users[s.user] = of
	}
	s.user = 0
}

func (l *loop) join(s *session, group string) {
	members := l.groups[group]
	if members == nil {
		members = make(map[*session]struct{})
		l.groups[group] = members
	}
	members[s] = struct{}{}
}

func (l *loop) leave(s *session, group string) {
	members := l.groups[group]
	delete(members, s)
	if len(members) == 0 {
		delete(l.groups, group)
	}
}

// buffer is an empty write buffer.
func (l *loop) buffer() []byte {
	if n := len(l.buffers); n > 0 {
		b := l.buffers[n-1]
		l.buffers[n-1], l.buffers = nil, l.buffers[:n-1]
		l.kept -= cap(b)
		return b
	}
	return make([]byte, 0, newBufferBytes)
}

func (l *loop) recycle(b []byte) {
	if cap(b) <= keepBufferBytes && l.kept+cap(b) <= keepBytes {
		l.buffers = append(l.buffers, b[:0])
		l.kept += cap(b)
	}
}

// pendings is an empty list of requests.
func (l *loop) pendings() []pending {
	if n := len(l.waiting); n > 0 {
		p := l.waiting[n-1]
		l.waiting = l.waiting[:n-1]
		return p
	}
	return make([]pending, 0, 2)
}

func (l *loop) recyclePendings(p []pending) {
	if cap(p) <= keepPending && len(l.waiting) < keepLists {
		clear(p[:cap(p)]) // their routes
		l.waiting = append(l.waiting, p[:0])
	}
}

// flush writes what this turn left to be written.
func (l *loop) flush() {
	l.resumeAnswered()
	if l.added {
		l.added = false
		l.shard.Flush()
	}
	l.writeDirty()
	if len(l.spans) > 0 {
		l.endSpans()
	}
}

// writeDirty writes what sessions have to be written.
func (l *loop) writeDirty() {
	l.pushed = 0
	// A write can end its session, which adds to dirty.
	for i := 0; i < len(l.dirty); i++ {
		s := l.dirty[i]
		l.dirty[i] = nil
		l.flushOne(s)
	}
	l.dirty = l.dirty[:0]
}

// flushOne keeps a panic from reaching the other sessions.
func (l *loop) flushOne(s *session) {
	defer func() {
		if p := recover(); p != nil {
			l.gate.panicked(p, s)
			s.conn.close()
		}
	}()
	s.flush()
}
