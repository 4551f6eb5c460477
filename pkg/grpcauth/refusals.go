package grpcauth

import (
	"net"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// quiet is how long the same is not logged again.
	quiet = 10 * time.Second
	// maxRefusals bounds what is remembered of that; those beyond it are logged as
	// one.
	maxRefusals = 256
)

// refusals logs who was refused, and why. A service with a wrong token tries again
// and again: each reason is one line of a host in ten seconds, with their number.
type refusals struct {
	to  logrus.FieldLogger
	now func() time.Time

	mu   sync.Mutex
	seen map[refusal]*silence
}

type refusal struct{ host, reason string }

type silence struct {
	since   time.Time
	skipped int
}

func newRefusals(log logrus.FieldLogger) *refusals {
	return &refusals{to: log, now: time.Now, seen: make(map[refusal]*silence)}
}

// log takes the method that was called, or nothing for a handshake, and what names
// the request that it was called for.
func (r *refusals) log(peer net.Addr, method string, reason error, request logrus.Fields) {
	address, host := "unknown", "unknown"
	if peer != nil {
		address, host = peer.String(), peer.String()
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
	}
	// What the caller has chosen, as the names in its certificate, is in the reason.
	skipped, ok := r.take(refusal{host, limited(reason.Error())})
	if !ok {
		return
	}
	log := r.to.WithFields(request).WithFields(logrus.Fields{"peer": address, "reason": limited(reason.Error())})
	if skipped > 0 {
		log = log.WithField("more", skipped)
	}
	if method == "" {
		log.Warn("a gRPC connection was refused")
		return
	}
	log.WithField("method", method).Warn("a gRPC call was refused")
}

func limited(reason string) string { return reason[:min(len(reason), 512)] }

// take says whether a refusal is to be logged, and how many were not since the
// last that was.
func (r *refusals) take(what refusal) (skipped int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	s := r.seen[what]
	if s == nil && len(r.seen) >= maxRefusals {
		for other, s := range r.seen {
			if now.Sub(s.since) >= quiet {
				delete(r.seen, other)
			}
		}
		if len(r.seen) >= maxRefusals {
			what = refusal{}
			s = r.seen[what]
		}
	}
	if s == nil {
		r.seen[what] = &silence{since: now}
		return 0, true
	}
	if now.Sub(s.since) < quiet {
		s.skipped++
		return 0, false
	}
	skipped = s.skipped
	*s = silence{since: now}
	return skipped, true
}
