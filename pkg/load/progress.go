package load

import (
	"fmt"
	"io"
	"time"
)

// progress writes lines for people: on a terminal one a second, each over the
// one before, and otherwise one every five seconds.
type progress struct {
	w        io.Writer
	terminal bool
	every    time.Duration
	began    time.Time
	last     time.Time
	pending  bool // the terminal's line is not ended
}

const (
	terminalEvery = time.Second
	plainEvery    = 5 * time.Second
)

func newProgress(cfg *Config) progress {
	p := progress{w: cfg.Progress, terminal: cfg.Terminal, every: plainEvery, began: time.Now(), last: time.Now()}
	if p.terminal {
		p.every = terminalEvery
	}
	return p
}

// next is when to write the next line of a phase that begins or has just written
// one; it is a zero time when nobody reads.
func (p *progress) next(now time.Time) time.Time {
	if p.w == io.Discard {
		return time.Time{}
	}
	p.last = now
	return now.Add(p.every)
}

func (p *progress) line(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if p.terminal {
		_, _ = fmt.Fprintf(p.w, "\r\x1b[K%s", text) // whoever does not read it misses nothing
		p.pending = true
		return
	}
	_, _ = fmt.Fprintln(p.w, text)
}

func (p *progress) connecting(established, failed, want int64) {
	now := time.Now()
	if now.Sub(p.last) < p.every {
		return
	}
	p.last = now
	p.line("%5.0fs  %d of %d connections, %d failed", now.Sub(p.began).Seconds(), established, want, failed)
}

func (p *progress) interval(now time.Time, t *tally, open int) {
	l := newLatency(t.latency)
	bad := total(t.errors) + t.wrong + t.unanswered
	p.line("%5.0fs  %d connections  %.0f requests/s  p50 %s  p99 %s  max %s  %d errors",
		now.Sub(p.began).Seconds(), open, float64(t.answers)/now.Sub(p.last).Seconds(), ms(l.P50), ms(l.P99), ms(l.Max), bad)
}

func (p *progress) holding(open int, since time.Duration) {
	p.line("%5.0fs  %d connections idle", since.Seconds(), open)
}

func (p *progress) end() {
	if p.pending {
		_, _ = fmt.Fprintln(p.w)
	}
}
