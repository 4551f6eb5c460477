package bus

import (
	"errors"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/motto123/minigate/pkg/metrics"
)

// outcomes are what becomes of a publishing.
var outcomes = [...]struct {
	name string
	err  error
}{
	{"confirmed", nil}, {"returned", ErrNoRoute}, {"refused", ErrRefused}, {"unavailable", ErrUnavailable},
	{"unconfirmed", ErrUnconfirmed}, {"closed", ErrClosed}, {"failed", errors.New("any other")},
}

// Outcomes counts what became of publishings. The zero value is usable, and its
// methods are safe to call at once.
type Outcomes [len(outcomes)]atomic.Uint64

// Add counts the outcome that err says.
func (o *Outcomes) Add(err error) { o[outcomeOf(err)].Add(1) }

// Send sends a series for each outcome, behind the given labels. The family's last
// label is the outcome.
func (o *Outcomes) Send(f *metrics.Family, to chan<- prometheus.Metric, labels ...string) {
	for i := range o {
		f.Count(to, o[i].Load(), append(labels[:len(labels):len(labels)], outcomes[i].name)...)
	}
}

// Outcome names what err says became of a publishing, such as confirmed or returned.
func Outcome(err error) string { return outcomes[outcomeOf(err)].name }

func outcomeOf(err error) int {
	if err == nil {
		return 0
	}
	for i := range outcomes {
		if errors.Is(err, outcomes[i].err) {
			return i
		}
	}
	return len(outcomes) - 1
}
