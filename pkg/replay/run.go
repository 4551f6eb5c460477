package replay

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/tape"
)

const typeRequest = uint8(codec.Request)

// run is the state of one Run. Its own goroutine has all of it.
type run struct {
	cfg  *Config
	link *link
	res  Result

	then, now *latency
	window    int // calls that wait to be sent, at the most

	jobs     map[*tape.Call]*job // not done with
	flying   map[uint32]*job     // sent, and not answered
	sessions map[uint64]*session
	ready    []*job // that may be sent now
	waiting  int    // jobs that are not sent
	held     *job   // the next one, whose time has not come
	sequence uint32
	floor    tape.Place      // of the reader
	services map[string]bool // that were asked about
	gates    map[string]bool // the same

	last        time.Time   // when something was sent or answered last
	furthest    tape.Place  // that was sent
	interrupted bool        // nothing more is taken
	refused     *tape.Place // the first that was not taken, then
	checked     time.Time   // when Check was asked again last
	congested   bool        // nothing more is sent until something is confirmed
}

// job is a call on its way. It is done with when it has been sent, its end is known,
// and so is its recorded end.
type job struct {
	call     *tape.Call
	session  *session
	sequence uint32
	sent     time.Time
	over     bool        // it has its end
	known    bool        // the recorded one is known
	reply    *tape.Reply // nil where there was none
}

// session keeps the order of a session: one call is under way, the others wait.
type session struct {
	number uint64
	busy   bool
	queue  []*job
}

const (
	tick          = 50 * time.Millisecond // in which what is late is looked for
	progressEvery = time.Second
	keepNames     = 1024 // bounds the services and gates that are remembered
)

func newRun(cfg *Config, l *link) *run {
	return &run{
		cfg: cfg, link: l, then: newLatency(), now: newLatency(), window: max(256, 4*cfg.InFlight), floor: cfg.From,
		jobs: make(map[*tape.Call]*job), flying: make(map[uint32]*job), sessions: make(map[uint64]*session),
		services: make(map[string]bool), gates: make(map[string]bool),
	}
}

// loop sends what the reader has, until all of it is done with.
func (r *run) loop(ctx context.Context, read *reader) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	due := time.NewTimer(time.Hour)
	defer due.Stop()
	events, interrupted, shown := read.events, ctx.Done(), time.Now()
	for {
		if err := r.send(ctx); err != nil {
			return err
		}
		if events == nil && r.held == nil && len(r.jobs) == 0 {
			return nil
		}
		var in <-chan event
		if r.held == nil && r.waiting < r.window {
			in = events
		}
		if r.held != nil {
			due.Reset(max(0, time.Until(r.due(r.held.call))))
		}
		select {
		case e, ok := <-in:
			if ok {
				r.take(e)
			} else {
				events = nil
				r.allKnown()
			}
		case <-due.C:
			r.release()
		case all := <-r.link.arrivals:
			r.arrived(all)
		case <-r.link.wake:
			if err := r.settled(); err != nil {
				return err
			}
		case now := <-ticker.C:
			if err := r.expire(ctx, now); err != nil {
				return err
			}
			if now.Sub(shown) >= progressEvery {
				shown = now
				r.cfg.Progress(r.result())
			}
		case <-interrupted:
			interrupted, r.interrupted = nil, true
			r.refuseRest()
		case err := <-r.link.failed:
			return err
		}
	}
}

// take takes what the reader tells.
func (r *run) take(e event) {
	if e.send && r.interrupted {
		r.refuse(e.call)
	} else if e.send {
		r.floor = e.floor
		j := &job{call: e.call}
		r.jobs[e.call] = j
		if r.held = j; r.res.First.IsZero() {
			r.res.First, r.res.Began = e.call.Taken, time.Now()
		}
		if r.cfg.Speed <= 0 || !r.due(e.call).After(time.Now()) {
			r.release()
		}
	}
	if e.known {
		if j := r.jobs[e.call]; j != nil { // and no call that is left out
			j.known = true
			r.finish(j)
		}
	}
}

// refuseRest leaves to the next run what is behind all that was sent. What is between
// is still sent, or the next run would send again what is behind it.
func (r *run) refuseRest() {
	refused := func(j *job) bool {
		if !r.furthest.Before(j.call.Place) {
			return false
		}
		delete(r.jobs, j.call)
		r.refuse(j.call)
		return true
	}
	if r.held != nil && refused(r.held) {
		r.held = nil
	}
	r.release()
	for _, s := range r.sessions { // from their ends, since they are in order
		for n := len(s.queue); n > 0 && refused(s.queue[n-1]); n-- {
			s.queue = s.queue[:n-1]
		}
	}
	r.ready = slices.DeleteFunc(r.ready, func(j *job) bool {
		if len(j.session.queue) > 0 || !refused(j) {
			return false
		}
		j.session.busy = false
		r.proceed(j.session) // forgets it
		return true
	})
	r.waiting = len(r.ready)
	for _, s := range r.sessions {
		r.waiting += len(s.queue)
	}
}

// refuse leaves a call to the next run.
func (r *run) refuse(c *tape.Call) {
	if r.refused == nil || c.Place.Before(*r.refused) {
		r.refused = &c.Place
	}
}

// allKnown says that the reader tells of nothing more: of recorded ends that it has not
// told, nobody will.
func (r *run) allKnown() {
	for _, j := range r.jobs {
		j.known = true
		r.finish(j)
	}
}

// due is when a call is to be sent.
func (r *run) due(c *tape.Call) time.Time {
	if r.cfg.Speed <= 0 {
		return time.Time{}
	}
	return r.res.Began.Add(time.Duration(float64(c.Taken.Sub(r.res.First)) / r.cfg.Speed))
}

// release lets the held call go behind those of its session.
func (r *run) release() {
	j := r.held
	if j == nil {
		return
	}
	r.held = nil
	number := numberOf(j.call)
	s := r.sessions[number]
	if s == nil {
		s = &session{number: number}
		r.sessions[number] = s
	}
	j.session = s
	s.queue = append(s.queue, j)
	r.waiting++
	r.proceed(s)
}

// numberOf is a session's number for the workers: the recorded one is only unique on its
// gate. It is the same in each run, and no table has to be kept for it.
func numberOf(c *tape.Call) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s/%d", c.Gate, c.Session)
	return h.Sum64()
}

// proceed makes the next call of a session ready, if none is under way.
func (r *run) proceed(s *session) {
	if s.busy {
		return
	}
	if len(s.queue) == 0 {
		delete(r.sessions, s.number)
		return
	}
	s.busy = true
	r.ready = append(r.ready, s.queue[0])
	s.queue[0] = nil
	s.queue = s.queue[1:]
}

// send sends what is ready, as far as the bound lets it.
func (r *run) send(ctx context.Context) error {
	for len(r.ready) > 0 && len(r.flying) < r.cfg.InFlight && !r.congested {
		j := r.ready[0]
		if err := r.check(ctx, r.gates, j.call.Gate, r.cfg.CheckGate); err != nil {
			return err
		}
		if err := r.check(ctx, r.services, bus.Service(j.call.Route), r.cfg.Check); err != nil {
			return err
		}
		if r.sequence++; r.sequence == 0 { // which would be a push's
			r.sequence = 1
		}
		j.sequence, j.sent = r.sequence, time.Now()
		err := r.link.publish(j.call, j.session.number, j.sequence, j.sent.Add(r.cfg.Timeout))
		if errors.Is(err, bus.ErrFull) {
			r.congested = true
			return nil
		}
		if err != nil {
			return fmt.Errorf("replay: send %v: %w", j.call.Place, err)
		}
		r.ready[0] = nil
		r.ready = r.ready[1:]
		r.waiting--
		r.flying[j.sequence] = j
		r.res.Sent++
		if r.furthest.Before(j.call.Place) {
			r.furthest = j.call.Place
		}
		r.last = j.sent
		if r.res.At.Before(j.call.Taken) {
			r.res.At = j.call.Taken
		}
	}
	return nil
}

// check asks once for each name.
func (r *run) check(ctx context.Context, known map[string]bool, name string, ask func(context.Context, string) error) error {
	if ask == nil || known[name] {
		return nil
	}
	if len(known) < keepNames {
		known[name] = true
	}
	return ask(context.WithoutCancel(ctx), name)
}

// settled looks at what became of publishing.
func (r *run) settled() error {
	for _, o := range r.link.settled() {
		r.congested = false
		for _, sequence := range o.sequences {
			j := r.flying[sequence]
			switch {
			case j == nil: // answered before it was confirmed
			case errors.Is(o.err, bus.ErrNoRoute):
				return errNoRoute(r.cfg.Topology, j.call.Route)
			case o.err != nil:
				return fmt.Errorf("replay: send %v: %w", j.call.Place, o.err)
			case j.call.Type != typeRequest:
				r.end(j, nil, time.Now())
			}
		}
	}
	return nil
}

// arrived takes answers.
func (r *run) arrived(all []arrival) {
	for _, a := range all {
		if a.reply == nil {
			r.res.Pushes++
			continue
		}
		j := r.flying[a.sequence]
		if j == nil || j.session.number != a.session {
			r.res.Late++
			continue
		}
		r.now.add(a.reply.Time.Sub(j.sent))
		r.end(j, a.reply, a.reply.Time)
	}
}

// expire ends what is not answered in time, unless the worker is gone or the broker takes
// nothing: then the run ends, and goes on from there another time.
func (r *run) expire(ctx context.Context, now time.Time) error {
	for _, j := range r.flying {
		if j.call.Type != typeRequest || now.Sub(j.sent) < r.cfg.Timeout {
			continue
		}
		if s := r.cfg.Bus.State(); s != bus.Up {
			return fmt.Errorf("replay: RabbitMQ takes nothing: it is %v", s)
		}
		if r.cfg.Check != nil && now.Sub(r.checked) >= time.Second {
			r.checked = now
			if err := r.cfg.Check(context.WithoutCancel(ctx), bus.Service(j.call.Route)); err != nil {
				return err
			}
		}
		r.end(j, nil, now)
	}
	return nil
}

// end ends a call that was sent.
func (r *run) end(j *job, reply *tape.Reply, at time.Time) {
	delete(r.flying, j.sequence)
	j.over, j.reply, r.last = true, reply, at
	j.session.busy = false
	r.proceed(j.session)
	r.finish(j)
}
