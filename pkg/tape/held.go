package tape

import (
	"strings"
	"time"
)

type sessionKey struct {
	gate    string
	session uint64
}

type key struct {
	sessionKey
	sequence uint32
}

// callSize is about what a call takes besides its data.
const callSize = 512

// waiting is a call that a Joiner holds: until it has ended, and all before it of its
// session have.
type waiting struct {
	call    *Call
	key     key
	size    int
	settled bool      // nothing comes before it any more
	clock   time.Time // the tape's when it came
	now     time.Time // of the Tick before it came
	expires time.Time
	at      int // in an expiry; -1 where it is not
	ended   bool

	before, after *waiting // of its session, in the order of their sequences
	older, newer  *waiting // of all, in the order of the tape
}

// line are the held calls of one session.
type line struct{ first, last *waiting }

// held are the calls that a Joiner holds, in two orders.
type held struct {
	sessions       map[sessionKey]*line
	oldest, newest *waiting
	settledTo      *waiting // all older ones are settled; nil where all are
	count, bytes   int
	settling       int // not settled
}

// add puts a call behind all others, and into its place within its session.
func (h *held) add(w *waiting) {
	of := h.sessions[w.key.sessionKey]
	if of == nil {
		of = &line{}
		h.sessions[w.key.sessionKey] = of
	}
	before := of.last
	for before != nil && !before.settled && w.precedes(before) {
		before = before.before
	}
	w.before = before
	if before == nil {
		w.after, of.first = of.first, w
	} else {
		w.after, before.after = before.after, w
	}
	if w.after == nil {
		of.last = w
	} else {
		w.after.before = w
	}

	if w.older = h.newest; w.older == nil {
		h.oldest = w
	} else {
		w.older.newer = w
	}
	h.newest = w
	if h.settledTo == nil {
		h.settledTo = w
	}
	h.settling++
	h.count++
	h.bytes += w.size
}

// precedes reports whether the client sent w before v. Sequences begin again after
// the last; 0 is none.
func (w *waiting) precedes(v *waiting) bool {
	return w.key.sequence != 0 && v.key.sequence != 0 && int32(w.key.sequence-v.key.sequence) < 0
}

// unsettled is the first call on the tape that is not settled, nil for none.
func (h *held) unsettled() *waiting {
	for h.settledTo != nil && h.settledTo.settled {
		h.settledTo = h.settledTo.newer
	}
	return h.settledTo
}

func (h *held) settle(w *waiting) {
	w.settled = true
	h.settling--
}

// has reports whether a call is held still.
func (h *held) has(w *waiting) bool { return w == h.oldest || w.older != nil }

// remove takes out the first call of a session.
func (h *held) remove(w *waiting) {
	of := h.sessions[w.key.sessionKey]
	if of.first = w.after; of.first == nil {
		delete(h.sessions, w.key.sessionKey)
	} else {
		of.first.before = nil
	}
	if h.settledTo == w {
		h.settledTo = w.newer
	}
	if w.older == nil {
		h.oldest = w.newer
	} else {
		w.older.newer = w.newer
	}
	if w.newer == nil {
		h.newest = w.older
	} else {
		w.newer.older = w.older
	}
	w.older, w.newer, w.before, w.after = nil, nil, nil, nil
	h.count--
	h.bytes -= w.size
}

// Past reports whether the tape is behind all that the filter may want, or the time is
// and nothing comes any more, and nothing is held.
func (j *Joiner) Past() bool {
	until := j.cfg.Filter.Until
	if until.IsZero() || j.held.count > 0 {
		return false
	}
	last := until.Add(pastUntil)
	return j.clock.After(last) || j.now.After(last) && !j.added && j.now.Sub(j.idle) >= pastUntil
}

// pastUntil is how much later than another's the batch of a worker may be on the tape,
// and its clock be wrong.
const pastUntil = time.Minute

// expiry is a heap of the calls that wait for an answer, the first to expire first.
type expiry []*waiting

func (e expiry) Len() int           { return len(e) }
func (e expiry) Less(i, j int) bool { return e[i].expires.Before(e[j].expires) }

func (e expiry) Swap(i, j int) {
	e[i], e[j] = e[j], e[i]
	e[i].at, e[j].at = i, j
}

// Push implements heap.Interface.
func (e *expiry) Push(x any) {
	if w, ok := x.(*waiting); ok {
		w.at = len(*e)
		*e = append(*e, w)
	}
}

// Pop implements heap.Interface.
func (e *expiry) Pop() any {
	last := len(*e) - 1
	w := (*e)[last]
	(*e)[last] = nil
	*e = (*e)[:last]
	w.at = -1
	return w
}

// keepRecent bounds the ended calls that are remembered.
const keepRecent = 65536

// recent remembers the calls that ended last, to know those that a worker was given
// again although it had answered them.
type recent struct {
	ring []key
	at   int
	set  map[key]struct{}
}

func newRecent() recent { return recent{set: make(map[key]struct{})} }

func (r *recent) has(k key) bool {
	_, ok := r.set[k]
	return ok
}

func (r *recent) add(k key) {
	if r.has(k) {
		return
	}
	r.set[k] = struct{}{}
	if len(r.ring) < keepRecent {
		r.ring = append(r.ring, k)
		return
	}
	delete(r.set, r.ring[r.at])
	r.ring[r.at] = k
	r.at = (r.at + 1) % keepRecent
}

// keepNames bounds the names that are kept.
const keepNames = 4096

// names gives the same string for the same name, and one that keeps no envelope in
// memory.
type names map[string]string

func (n names) of(s string) string {
	if s == "" {
		return ""
	}
	if kept, ok := n[s]; ok {
		return kept
	}
	if len(n) >= keepNames {
		clear(n)
	}
	s = strings.Clone(s)
	n[s] = s
	return s
}
