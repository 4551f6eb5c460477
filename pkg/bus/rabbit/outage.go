package rabbit

import (
	"sync"
	"time"
)

// remind is how often an outage that lasts is reported.
const remind = time.Minute

// outages turns what the connections meet into what somebody who reads a log
// wants to know: that the broker is away, and that it is back. Each attempt
// fails alike, and two connections fail together.
type outages struct {
	report func(error)
	back   func(time.Duration)

	mu    sync.Mutex
	down  map[*link]bool
	began time.Time // of the outage, where down is not empty
	said  time.Time
}

// lost notes why a connection could not be had or was lost.
func (o *outages) lost(l *link, err error) {
	o.mu.Lock()
	now := time.Now()
	if len(o.down) == 0 {
		o.began, o.said = now, time.Time{}
	}
	o.down[l] = true
	say := now.Sub(o.said) >= remind
	if say {
		o.said = now
	}
	o.mu.Unlock()
	if say {
		o.report(err)
	}
}

// had notes that a connection is usable.
func (o *outages) had(l *link) {
	o.mu.Lock()
	over := o.down[l] && len(o.down) == 1
	delete(o.down, l)
	lasted := time.Since(o.began)
	o.mu.Unlock()
	if over {
		o.back(lasted)
	}
}
