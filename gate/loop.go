package gate

import (
	"runtime/debug"
	"sync"
	"time"

	"github.com/motto123/minigate/pkg/bus"
)

// loop is one thread of sessions. All that a session is and does happens on its
// loop, so that nothing of it needs a lock; whoever comes from another
// goroutine posts a task.
type loop struct {
	gate  *Gate
	index uint64
	// execute runs f on the loop's thread, soon; it is the transport's.
	execute func(f func()) error

	inbox struct {
		sync.Mutex
		tasks     []func()
		scheduled bool
	}

	// Everything below belongs to the loop's thread.

	sessions map[uint64]*session
	users    map[int64][]*session
	groups   map[string]map[*session]struct{}
	wheel    wheel
	busy     list // sessions with requests that wait
	counter  uint64
	now      int64 // Unix milliseconds at the start of this turn
	shard    *bus.Coalescer[ref]
	dirty    []*session // have bytes to write at the end of this turn

	// Used again and again within one turn.
	tasks   []func()
	request bus.Request
	item    []byte
	message []byte
	buffers [][]byte // write buffers that no session holds
}

// The loop keeps at most so many write buffers, of at most so many bytes each.
const (
	keepBuffers     = 256
	keepBufferBytes = 64 << 10
)

func newLoop(g *Gate, index int, execute func(func()) error) *loop {
	l := &loop{
		gate: g, index: uint64(index), execute: execute,
		sessions: make(map[uint64]*session),
		users:    make(map[int64][]*session),
		groups:   make(map[string]map[*session]struct{}),
		shard:    g.shards[index%len(g.shards)],
		now:      time.Now().UnixMilli(),
	}
	l.wheel.init(l.now)
	return l
}

// post runs f on the loop's thread. It does not wait and does not block; after
// the end of the transport f is never run, so whoever waits for f also waits
// for the gate's end.
func (l *loop) post(f func()) {
	l.inbox.Lock()
	l.inbox.tasks = append(l.inbox.tasks, f)
	wake := !l.inbox.scheduled
	l.inbox.scheduled = true
	l.inbox.Unlock()
	if wake {
		if err := l.execute(l.turn); err != nil {
			l.gate.log.WithError(err).Debug("a loop has ended and takes no more tasks")
		}
	}
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
			l.gate.stats.Panics.Add(1)
			l.gate.log.WithField("stack", string(debug.Stack())).Errorf("panic in a loop: %v", p)
		}
	}()
	f()
}

// setNow begins a turn.
func (l *loop) setNow() { l.now = time.Now().UnixMilli() }

// tick lets time pass: handshakes that do not come, heartbeats that stay away,
// and requests that nobody answered.
func (l *loop) tick() {
	l.wheel.advance(l.now, (*session).expired)
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
	l.wheel.remove(s)
	l.busy.remove(s)
	for _, group := range s.groups {
		l.leave(s, group)
	}
	s.groups = nil
	l.unbind(s)
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
		l.buffers = l.buffers[:n-1]
		return b
	}
	return make([]byte, 0, 1024)
}

func (l *loop) recycle(b []byte) {
	if cap(b) <= keepBufferBytes && len(l.buffers) < keepBuffers {
		l.buffers = append(l.buffers, b[:0])
	}
}

// flush writes what this turn left to be written.
func (l *loop) flush() {
	// A write can fail and close its session, which may add to dirty.
	for i := 0; i < len(l.dirty); i++ {
		s := l.dirty[i]
		l.dirty[i] = nil
		s.flush()
	}
	l.dirty = l.dirty[:0]
}
