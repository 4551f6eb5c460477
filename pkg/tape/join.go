package tape

import (
	"container/heap"
	"net/netip"
	"time"

	"github.com/motto123/minigate/pkg/bus"
)

// JoinerConfig is what a Joiner needs. Only Each must be set.
type JoinerConfig struct {
	// Filter says which calls are kept, by Filter.Wants; nil is all.
	Filter *Filter
	// From leaves out the calls before it.
	From Place
	// Took, if set, is called with each call soon after it was taken: those of one
	// session in the order in which the client sent them, which is not that of the tape
	// where several workers write it. Of such a call only what is known then may be read
	// until Each has it.
	Took func(*Call) error
	// Each is called with each call at its end, in the same order within a session: one
	// that is not answered yet holds back those behind it.
	Each func(*Call) error
	// Window is how long a call is waited for that the client sent before; 250 ms where
	// it is 0. Workers write their batches in turns.
	Window time.Duration
	// Patience is how long a call without a deadline is waited for; 30 s where it is
	// 0, which is the workers' own.
	Patience time.Duration
	// Slack is how much later than its deadline an answer may be on the tape; 5 s where
	// it is 0. Clocks differ.
	Slack time.Duration
	// MaxCalls and MaxBytes bound what is held, answers and calls that only wait for
	// others included; 65,536 calls and 64 MiB where they are 0. Beyond it the oldest
	// call on the tape comes to Each at once, as Open where its end is not known, and
	// what only then is read of those before it comes behind it. One call alone may be
	// larger.
	MaxCalls int
	MaxBytes int
}

// Joiner joins requests with their answers, by gate, session and sequence. It is used
// by one goroutine at a time. Errors of Took and Each are returned at once; the Joiner
// is of no more use then.
type Joiner struct {
	cfg   JoinerConfig
	stats JoinerStats
	full  bool // no more calls are taken
	held  held

	waiting map[key]*waiting // without an answer
	due     expiry           // the same
	recent  recent
	names   names

	clock time.Time // the tape's: the latest that an entry has shown
	now   time.Time // of the last Tick
	idle  time.Time // since when nothing was added
	added bool      // since the last Tick
	next  Place     // behind all that was read
}

// JoinerStats counts what a Joiner has seen.
type JoinerStats struct {
	Calls     uint64 // that were wanted
	Orphans   uint64 // answers to what was not wanted, or was taken before the beginning
	Malformed uint64 // entries that can not be read
	GivenUp   uint64 // calls whose answers were not waited for, to keep the bound
}

// NewJoiner returns a Joiner.
func NewJoiner(cfg JoinerConfig) *Joiner {
	for v, to := range map[*time.Duration]time.Duration{
		&cfg.Window: 250 * time.Millisecond, &cfg.Patience: 30 * time.Second, &cfg.Slack: 5 * time.Second,
	} {
		if *v <= 0 {
			*v = to
		}
	}
	if cfg.MaxCalls <= 0 {
		cfg.MaxCalls = 65536
	}
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = 64 << 20
	}
	if cfg.Filter == nil {
		cfg.Filter = &Filter{}
	}
	if cfg.Took == nil {
		cfg.Took = func(*Call) error { return nil }
	}
	return &Joiner{
		cfg: cfg, held: held{sessions: make(map[sessionKey]*line)}, waiting: make(map[key]*waiting),
		recent: newRecent(), names: make(names), next: cfg.From,
	}
}

// Stats are the counts so far.
func (j *Joiner) Stats() JoinerStats { return j.stats }

// Held is how many calls have not come to Each.
func (j *Joiner) Held() int { return j.held.count }

// Floor is the place before which all calls have come to Each.
func (j *Joiner) Floor() Place {
	if j.held.oldest != nil {
		return j.held.oldest.call.Place
	}
	return j.next
}

// TookFloor is the place before which all calls have come to Took.
func (j *Joiner) TookFloor() Place {
	if w := j.held.unsettled(); w != nil {
		return w.call.Place
	}
	return j.next
}

// Next is the place behind all that was read until Full was called.
func (j *Joiner) Next() Place { return j.next }

// Full has the Joiner take no more calls: what it is given from now on only ends
// those that it holds.
func (j *Joiner) Full() { j.full = true }

// Add takes the next entry of a tape. It keeps nothing of the entry.
func (j *Joiner) Add(e *Entry) error {
	if e.Time.After(j.clock) {
		j.clock = e.Time
	}
	j.added = true
	var err error
	switch e.Kind {
	case Requests:
		err = j.requests(e)
	case Replies:
		err = j.replies(e)
	}
	if err != nil {
		return err
	}
	return j.pass(j.clock, j.now)
}

func (j *Joiner) requests(e *Entry) error {
	if j.full {
		return nil
	}
	var (
		header bus.Header
		common Call
		failed error // of Took or Each
		item   int
	)
	err := bus.ReadRequests(e.Envelope, &header, func(r *bus.Request) error {
		if item == 0 {
			common = Call{
				Worker: j.names.of(e.Worker), Gate: j.names.of(header.Gate), GateAddress: j.names.of(header.GateAddress),
				Route: j.names.of(header.Route), Sent: e.Sent, Taken: e.Time, Redelivered: e.Redelivered, Masked: e.Masked,
			}
		}
		at := Place{e.Position, item}
		item++
		if j.full || at.Before(j.cfg.From) {
			return nil
		}
		j.next = at.Next()
		c := common
		c.Place, c.Session, c.Sequence, c.User, c.Type, c.DataType, c.ID = at, r.Session, r.Sequence, r.User, r.Type, r.DataType, r.ID
		if !j.cfg.Filter.Wants(&c) {
			return nil
		}
		c.Name, c.Data = j.names.of(string(r.Name)), append([]byte(nil), r.Data...)
		c.Address, _ = netip.AddrFromSlice(r.Address)
		if r.Deadline != 0 {
			c.Deadline = time.UnixMilli(r.Deadline)
		}
		failed = j.take(&c)
		return failed
	})
	switch {
	case failed != nil:
		return failed
	case err != nil:
		j.stats.Malformed++
	case !j.full:
		if behind := (Place{Position{e.Position.Offset, e.Position.Index + 1}, 0}); j.next.Before(behind) {
			j.next = behind
		}
	}
	return nil
}

// typeRequest is what waits for an answer.
const typeRequest = 0

// take begins a call, and ends it where there is no answer to come.
func (j *Joiner) take(c *Call) error {
	k := key{sessionKey{c.Gate, c.Session}, c.Sequence}
	if c.Sequence != 0 {
		if j.waiting[k] != nil {
			return nil // it comes again because it was not answered: this is the same call
		}
		c.Repeated = j.recent.has(k)
	}
	j.stats.Calls++
	w := &waiting{call: c, key: k, size: len(c.Data) + len(c.Name) + callSize, at: -1, clock: j.clock, now: j.now}
	j.held.add(w)
	if c.Type != typeRequest {
		c.Outcome = Silent
		if err := j.end(w); err != nil {
			return err
		}
		return j.bound()
	}
	// The tape's clock may be ahead of a worker's, and of what was saved when it had ended.
	from := c.Taken
	if j.clock.After(from) {
		from = j.clock
	}
	w.expires = from.Add(j.patience(c) + j.cfg.Slack)
	j.waiting[k] = w
	heap.Push(&j.due, w)
	return j.bound()
}

// bound lets go of the oldest calls until what is held is within the bounds.
func (j *Joiner) bound() error {
	for j.held.count > j.cfg.MaxCalls || j.held.bytes > j.cfg.MaxBytes && j.held.count > 1 {
		n, err := j.giveUp()
		j.stats.GivenUp += uint64(n)
		if err != nil {
			return err
		}
	}
	return nil
}

// patience is how long an answer may take. Deadline and sending are of one clock,
// the taking of another.
func (j *Joiner) patience(c *Call) time.Duration {
	switch {
	case c.Deadline.IsZero():
		return j.cfg.Patience
	case c.Sent.IsZero():
		return max(0, c.Deadline.Sub(c.Taken))
	}
	return max(0, c.Deadline.Sub(c.Sent))
}

func (j *Joiner) replies(e *Entry) error {
	gate := j.names.of(e.Gate)
	var failed error
	err := bus.ReadReplies(e.Envelope, func(r *bus.Reply) error {
		if r.Sequence == 0 {
			return nil // a push
		}
		w := j.waiting[key{sessionKey{gate, r.Session}, r.Sequence}]
		if w == nil {
			j.stats.Orphans++
			return nil
		}
		w.call.Outcome = Answered
		w.call.Reply = &Reply{
			Time: e.Time, Code: r.Code, DataType: r.DataType, Name: j.names.of(string(r.Name)), Data: append([]byte(nil), r.Data...), Masked: e.Masked,
		}
		more := len(r.Data) + len(r.Name)
		w.size += more
		j.held.bytes += more
		if failed = j.end(w); failed == nil {
			failed = j.bound()
		}
		return failed
	}, func(*bus.Announcement) error { return nil })
	if failed != nil {
		return failed
	}
	if err != nil {
		j.stats.Malformed++
	}
	return nil
}

// Tick tells the time to who follows a tape: where nothing is added for a while, the
// tape's clock goes on with it.
func (j *Joiner) Tick(now time.Time) error {
	if j.added || j.idle.IsZero() {
		j.idle, j.added = now, false
	}
	j.now = now
	return j.pass(j.clock.Add(now.Sub(j.idle)), now)
}

// maxWindow bounds the calls that wait for others to come before them.
const maxWindow = 8192

// pass is what the passing of time brings: calls that nothing comes before any more,
// and calls that nobody answered. clock is the tape's.
func (j *Joiner) pass(clock, now time.Time) error {
	for w := j.held.unsettled(); w != nil; w = j.held.unsettled() {
		over := !clock.Before(w.clock.Add(j.cfg.Window)) || !now.Before(w.now.Add(j.cfg.Window)) || j.held.settling > maxWindow
		if !over {
			break
		}
		if err := j.settle(w); err != nil {
			return err
		}
	}
	for len(j.due) > 0 && j.due[0].expires.Before(clock) {
		w := j.due[0]
		w.call.Outcome = Unanswered
		if err := j.end(w); err != nil {
			return err
		}
	}
	return nil
}

// settle tells of a call, and of those before it of its session. The settled ones of
// a session stand before all others, and however many they are, none is looked at.
func (j *Joiner) settle(last *waiting) error {
	w := last
	for !w.settled && w.before != nil && !w.before.settled {
		w = w.before
	}
	for ; ; w = w.after {
		if !w.settled {
			j.held.settle(w)
			if err := j.cfg.Took(w.call); err != nil {
				return err
			}
		}
		if w == last {
			return j.tell(last.key.sessionKey)
		}
	}
}

// end ends a call.
func (j *Joiner) end(w *waiting) error {
	w.ended = true
	if w.at >= 0 {
		heap.Remove(&j.due, w.at)
		delete(j.waiting, w.key)
	}
	if w.key.sequence != 0 {
		j.recent.add(w.key)
	}
	return j.tell(w.key.sessionKey)
}

// tell tells of the calls of a session that have ended and are held back by none.
func (j *Joiner) tell(session sessionKey) error {
	of := j.held.sessions[session]
	for of != nil && of.first != nil && of.first.ended && of.first.settled {
		first := of.first
		j.held.remove(first)
		if err := j.cfg.Each(first.call); err != nil {
			return err
		}
	}
	return nil
}

// giveUp ends the oldest call, and those that it waits for. It returns how many had no
// end of their own.
func (j *Joiner) giveUp() (n int, err error) {
	oldest := j.held.oldest
	if err := j.settle(oldest); err != nil {
		return 0, err
	}
	of := j.held.sessions[oldest.key.sessionKey]
	for of != nil && of.first != nil && j.held.has(oldest) {
		n++
		if err := j.end(of.first); err != nil {
			return n, err
		}
	}
	return n, nil
}

// Flush ends all calls at the end of a tape: those that an answer may still come to
// are Open.
func (j *Joiner) Flush() error {
	for j.held.oldest != nil {
		if _, err := j.giveUp(); err != nil {
			return err
		}
	}
	return nil
}
