//go:build containers

package containers

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/client"
)

// ledger is what became of requests and connections, by the part of the test in
// which it happened.
type ledger struct {
	mu    sync.Mutex
	parts []*part
}

// part is one part of the test.
type part struct {
	name     string
	begun    time.Time
	took     time.Duration
	requests int
	slowest  time.Duration
	told     int            // requests of a connection whose gate had told its client to come back
	cut      int            // requests of a connection that ended without a word
	failures map[string]int // all others, by what they are
	examples map[string]string

	kicks, cuts []comeback
	over        []string // clients that ended
}

// comeback is one client's way back.
type comeback struct {
	told, took time.Duration
	why        string
}

// begin begins a part of the test.
func (l *ledger) begin(name string) *part {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := &part{name: name, begun: time.Now(), failures: make(map[string]int), examples: make(map[string]string)}
	l.parts = append(l.parts, p)
	return p
}

func (l *ledger) now() *part { return l.parts[len(l.parts)-1] }

// request enters what became of a request.
func (l *ledger) request(route string, err error, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.now()
	p.requests++
	p.slowest = max(p.slowest, took)
	switch {
	case err == nil:
	case errors.Is(err, client.ErrLost) && errors.As(err, new(*client.KickError)):
		p.told++
	case errors.Is(err, client.ErrLost):
		p.cut++
	default:
		kind := fmt.Sprintf("%s %s", route, status.Code(err))
		p.failures[kind]++
		p.examples[kind] = fmt.Sprintf("at %s: %v", time.Now().Format(time.TimeOnly), err)
	}
}

// cameBack enters the way back of one client.
func (l *ledger) cameBack(why error, told, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.now()
	back := comeback{told: told, took: took, why: fmt.Sprint(why)}
	if errors.As(why, new(*client.KickError)) {
		p.kicks = append(p.kicks, back)
	} else {
		p.cuts = append(p.cuts, back)
	}
}

// cuts is how many clients are back, in this part, whose connection ended without
// a word.
func (l *ledger) cuts() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.now().cuts)
}

// ended enters a client that will not come back.
func (l *ledger) ended(account string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.now()
	p.over = append(p.over, fmt.Sprintf("%s: %v", account, err))
}

// allowed is what may happen in a part.
type allowed struct {
	cut    bool          // connections may end without a word
	kicks  bool          // clients may be told to come back
	fail   bool          // requests may fail
	within time.Duration // clients are back, after the time that they were told
}

// judge ends a part, and fails the test for what may not happen in it.
func (l *ledger) judge(t *testing.T, p *part, a allowed) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	p.took = time.Since(p.begun)
	if p.requests == 0 {
		t.Errorf("%s: no request was sent", p.name)
	}
	for kind, n := range p.failures {
		if !a.fail {
			t.Errorf("%s: %d times %s, such as %s", p.name, n, kind, p.examples[kind])
		}
	}
	if p.cut+len(p.cuts) > 0 && !a.cut {
		t.Errorf("%s: %d connections ended without a word (%d requests were lost)%s", p.name, len(p.cuts), p.cut, reasons(p.cuts))
	}
	if p.told+len(p.kicks) > 0 && !a.kicks {
		t.Errorf("%s: %d clients were sent away (%d requests were lost)%s", p.name, len(p.kicks), p.told, reasons(p.kicks))
	}
	for _, c := range slices.Concat(p.kicks, p.cuts) {
		if c.took > c.told+a.within {
			t.Errorf("%s: a client (%s) was back after %v, told to stay away for %v, want at most %v more", p.name, c.why, c.took, c.told, a.within)
		}
	}
	for _, o := range p.over {
		t.Errorf("%s: a client gave up: %s", p.name, o)
	}
}

func reasons(all []comeback) string {
	seen := make(map[string]int)
	for _, c := range all {
		seen[c.why]++
	}
	var text strings.Builder
	for why, n := range seen {
		fmt.Fprintf(&text, "; %d: %s", n, why)
	}
	return text.String()
}

// table is the figures of all parts.
func (l *ledger) table() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var text strings.Builder
	fmt.Fprintf(&text, "%-34s %6s %8s %7s %8s %6s %6s   %s\n", "", "took", "requests", "failed", "slowest", "told", "cut", "clients back: number, median and longest (of which told to wait)")
	for _, p := range l.parts {
		failed := 0
		for _, n := range p.failures {
			failed += n
		}
		fmt.Fprintf(&text, "%-34s %5.0fs %8d %7d %7.2fs %6d %6d   %s\n", p.name, p.took.Seconds(), p.requests, failed, p.slowest.Seconds(), p.told, p.cut, backs(slices.Concat(p.kicks, p.cuts)))
		for kind, n := range p.failures {
			fmt.Fprintf(&text, "    %d × %s: %s\n", n, kind, p.examples[kind])
		}
	}
	return text.String()
}

func backs(all []comeback) string {
	if len(all) == 0 {
		return "–"
	}
	slices.SortFunc(all, func(a, b comeback) int { return int(a.took - b.took) })
	longest := all[len(all)-1]
	return fmt.Sprintf("%d: %v, %v (%v)", len(all), all[len(all)/2].took.Round(time.Millisecond), longest.took.Round(time.Millisecond), longest.told)
}
