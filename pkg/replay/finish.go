package replay

import "github.com/motto123/minigate/pkg/tape"

// finish compares the two ends of a call when both are known, and there are two.
func (r *run) finish(j *job) {
	if !j.over || !j.known {
		return
	}
	c := j.call
	delete(r.jobs, c)
	if took, ok := c.Latency(); ok {
		r.then.add(took)
	}
	if r.cfg.Answered != nil || c.Outcome == tape.Silent || c.Outcome == tape.Open {
		r.res.Uncompared++
		if r.cfg.Answered != nil && c.Type == typeRequest {
			r.cfg.Answered(c, j.reply)
		}
		return
	}
	differences := r.cfg.Comparer.Compare(c.Reply, j.reply)
	if len(differences) == 0 {
		r.res.Same++
		return
	}
	r.res.Differ++
	if j.reply == nil {
		r.res.Unanswered++
	}
	r.cfg.Differs(c, j.reply, differences)
}

// result is how far it got.
func (r *run) result() Result {
	res := r.res
	res.Then, res.Now = r.then.sum(), r.now.sum()
	if !r.last.IsZero() {
		res.Took = r.last.Sub(res.Began)
	}
	res.Next = r.floor
	for c := range r.jobs {
		if c.Place.Before(res.Next) {
			res.Next = c.Place
		}
	}
	if r.refused != nil && r.refused.Before(res.Next) {
		res.Next = *r.refused
	}
	res.Called = r.cfg.Gate.Calls()
	return res
}
