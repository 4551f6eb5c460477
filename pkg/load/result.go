package load

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Result is what a run has shown. Times are in milliseconds, but for Seconds.
type Result struct {
	Gates       []string    `json:"gates"`
	Connections Connections `json:"connections"`
	Requests    Requests    `json:"requests"`
	Pushes      int64       `json:"pushes"`
	// Kicks are connections that the gate has sent away, by its code.
	Kicks map[string]int64 `json:"kicks"`
	// Processor is what the generator itself has used of it, in seconds.
	Processor   Processor `json:"processor"`
	Interrupted bool      `json:"interrupted"`
}

// Connections are those that were asked for and what became of them.
type Connections struct {
	Wanted      int              `json:"wanted"`
	Established int              `json:"established"` // the handshake included
	Seconds     float64          `json:"seconds"`     // until the last of them
	PerSecond   float64          `json:"per_second"`
	Latency     Latency          `json:"latency_ms"`
	OpenAtEnd   int              `json:"open_at_end"`
	Failures    map[string]int64 `json:"failures"`    // by reason
	Disconnects map[string]int64 `json:"disconnects"` // after the handshake, by reason
}

// Requests are those after the warm-up, and what was unanswered at its end.
type Requests struct {
	Sent      int64   `json:"sent"`
	Answered  int64   `json:"answered"` // rightly
	Seconds   float64 `json:"seconds"`
	PerSecond float64 `json:"per_second"` // answered rightly within the time
	// Latency is that of right answers, and of what was never answered or never
	// sent: those count with the time that they have waited.
	Latency    Latency          `json:"latency_ms"`
	Errors     map[string]int64 `json:"errors"` // by code
	Wrong      int64            `json:"wrong"`  // answers that are not those of their request
	Unanswered int64            `json:"unanswered"`
	Unsent     int64            `json:"unsent"` // which the rate asked for

	answeredInTime int64
}

// Latency is a distribution.
type Latency struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// Processor is time used.
type Processor struct {
	User   float64 `json:"user"`
	System float64 `json:"system"`
}

func newLatency(h *hdrhistogram.Histogram) Latency {
	if h.TotalCount() == 0 {
		return Latency{}
	}
	ms := func(ns float64) float64 { return ns / float64(time.Millisecond) }
	at := func(p float64) float64 { return ms(float64(h.ValueAtPercentile(p))) }
	return Latency{Mean: ms(h.Mean()), P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: ms(float64(h.Max()))}
}

func newResult(cfg *Config) *Result {
	return &Result{Gates: cfg.Gates, Connections: Connections{Wanted: cfg.Connections}}
}

// add takes what was counted.
func (r *Result) add(t *tally) {
	q := &r.Requests
	q.Sent, q.Answered = t.requests, t.answers
	q.Latency, q.Errors = newLatency(t.latency), t.errors
	q.Wrong, q.Unanswered, q.Unsent = t.wrong, t.unanswered, t.unsent
	if q.Seconds > 0 {
		q.PerSecond = float64(q.answeredInTime) / q.Seconds
	}
	r.Kicks, r.Connections.Disconnects = t.kicks, t.ends
}

// Failed says what a correct gate would not have done; nil is all well.
func (r *Result) Failed() error {
	c, q := &r.Connections, &r.Requests
	var all []string
	for _, v := range []struct {
		what string
		n    int64
	}{
		{"connections failed (" + reasons(c.Failures) + ")", total(c.Failures)},
		{"connections ended (" + reasons(c.Disconnects) + ")", total(c.Disconnects)},
		{"requests were answered with an error (" + reasons(q.Errors) + ")", total(q.Errors)},
		{"answers were wrong", q.Wrong}, {"requests were not answered", q.Unanswered}, {"requests were not sent", q.Unsent},
	} {
		if v.n > 0 {
			all = append(all, fmt.Sprintf("%d %s", v.n, v.what))
		}
	}
	if len(all) == 0 {
		return nil
	}
	return fmt.Errorf("load: %s", strings.Join(all, ", "))
}

// Print writes the result for people.
func (r *Result) Print(w io.Writer) error {
	c, q := &r.Connections, &r.Requests
	var b strings.Builder
	fmt.Fprintf(&b, "connections  %d of %d in %.2f s, %.0f/s; handshake %s\n", c.Established, c.Wanted, c.Seconds, c.PerSecond, c.Latency)
	if q.Seconds > 0 {
		fmt.Fprintf(&b, "requests     %.0f/s in %.1f s; %d sent, %d answered\n", q.PerSecond, q.Seconds, q.Sent, q.Answered)
		fmt.Fprintf(&b, "latency      %s\n", q.Latency)
	}
	if r.Pushes > 0 {
		fmt.Fprintf(&b, "pushes       %d\n", r.Pushes)
	}
	fmt.Fprintf(&b, "open at end  %d\n", c.OpenAtEnd)
	fmt.Fprintf(&b, "processor    %.2f s user, %.2f s system (this generator)\n", r.Processor.User, r.Processor.System)
	_, err := io.WriteString(w, b.String())
	return err
}

func (l Latency) String() string {
	return fmt.Sprintf("p50 %s, p90 %s, p99 %s, p99.9 %s, max %s", ms(l.P50), ms(l.P90), ms(l.P99), ms(l.P999), ms(l.Max))
}

// ms writes milliseconds with three digits that mean something.
func ms(v float64) string {
	switch {
	case v < 10:
		return fmt.Sprintf("%.2f ms", v)
	case v < 100:
		return fmt.Sprintf("%.1f ms", v)
	}
	return fmt.Sprintf("%.0f ms", v)
}

func total(m map[string]int64) (n int64) {
	for _, v := range m {
		n += v
	}
	return n
}

func reasons(m map[string]int64) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		all = append(all, fmt.Sprintf("%s: %d", k, m[k]))
	}
	return strings.Join(all, ", ")
}

// add takes what another has counted.
func (t *tally) add(other *tally) {
	t.latency.Merge(other.latency)
	t.connecting.Merge(other.connecting)
	t.requests += other.requests
	t.answers += other.answers
	t.wrong += other.wrong
	t.unanswered += other.unanswered
	t.unsent += other.unsent
	for _, m := range []struct{ to, from map[string]int64 }{
		{t.errors, other.errors}, {t.kicks, other.kicks}, {t.ends, other.ends}, {t.refusals, other.refusals},
	} {
		for k, n := range m.from {
			m.to[k] += n
		}
	}
}

// reset begins to count from nothing.
func (t *tally) reset() {
	t.resetRequests()
	t.connecting.Reset()
	for _, m := range []map[string]int64{t.kicks, t.ends, t.refusals} {
		clear(m)
	}
}

// resetRequests is reset, but for the connections.
func (t *tally) resetRequests() {
	t.latency.Reset()
	t.requests, t.answers, t.wrong, t.unanswered, t.unsent = 0, 0, 0, 0, 0
	clear(t.errors)
}

// usage is the processor time that this process had used at some time.
type usage struct{ user, system time.Duration }

func newUsage() usage {
	u, _ := readUsage()
	return u
}

func readUsage() (usage, error) {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return usage{}, fmt.Errorf("load: processor time: %w", err)
	}
	return usage{time.Duration(r.Utime.Nano()), time.Duration(r.Stime.Nano())}, nil
}

func (u usage) into(r *Result) error {
	now, err := readUsage()
	r.Processor = Processor{(now.user - u.user).Seconds(), (now.system - u.system).Seconds()}
	return err
}
