package worker

import (
	"sync/atomic"

	"google.golang.org/grpc/codes"
)

// Stats is what a worker has counted since it was made.
type Stats struct {
	Handled     uint64                // requests, Notifies and Acks that came to an end
	Failed      map[codes.Code]uint64 // of these, what ended in an error, by code
	Expired     uint64                // dropped, because nobody waited any more
	Panics      uint64
	UnknownAcks uint64 // Acks for which there is no handler
	Malformed   uint64 // envelopes that were dead-lettered
	Redelivered uint64 // envelopes that may have been handled before
	Announced   uint64 // announcements that the broker confirmed
	Replies     uint64 // that the broker confirmed
	GoneReplies uint64 // whose gate is gone
	LateReplies uint64 // given up, because the broker did not take them before the deadline
	Retries     uint64 // replies that were tried again
	Pushes      uint64 // that the broker confirmed, one for each gate
	GoneGates   uint64 // taken off a user, because the broker does not know them
}

// tellCut tells what the worker did not finish.
func (w *Worker) tellCut() {
	for _, c := range []struct {
		n    *atomic.Uint64
		what string
	}{
		{&w.stats.stopped, "handlers that were stopped"},
		{&w.stats.deaf, "handlers that do not heed their context"},
		{&w.stats.givenBack, "requests that go to another replica, or wait for one"},
		{&w.stats.lostReplies, "replies that the broker did not take, whose requests will be handled again"},
	} {
		if n := c.n.Load(); n > 0 {
			w.cfg.Ending.CutOff("%s worker: %d %s", w.service, n, c.what)
			w.log.Warnf("the worker ends with %d %s", n, c.what)
		}
	}
}

// counters are the Stats while they are counted.
type counters struct {
	handled, expired, panics, unknownAcks      atomic.Uint64
	malformed, redelivered, announced          atomic.Uint64
	replies, goneReplies, lateReplies, retries atomic.Uint64
	pushes, goneGates                          atomic.Uint64
	stopped, deaf, givenBack, lostReplies      atomic.Uint64 // at the end, see tellCut
	failed                                     [codes.Unauthenticated + 1]atomic.Uint64
}

// Stats returns what was counted until now.
func (w *Worker) Stats() Stats {
	s := &w.stats
	failed := make(map[codes.Code]uint64)
	for code := range s.failed {
		if n := s.failed[code].Load(); n > 0 {
			failed[codes.Code(code)] = n
		}
	}
	return Stats{
		Handled:     s.handled.Load(),
		Failed:      failed,
		Expired:     s.expired.Load(),
		Panics:      s.panics.Load(),
		UnknownAcks: s.unknownAcks.Load(),
		Malformed:   s.malformed.Load(),
		Redelivered: s.redelivered.Load(),
		Announced:   s.announced.Load(),
		Replies:     s.replies.Load(),
		GoneReplies: s.goneReplies.Load(),
		LateReplies: s.lateReplies.Load(),
		Retries:     s.retries.Load(),
		Pushes:      s.pushes.Load(),
		GoneGates:   s.goneGates.Load(),
	}
}

func (s *counters) fail(code codes.Code) {
	if int(code) < len(s.failed) {
		s.failed[code].Add(1)
	}
}
