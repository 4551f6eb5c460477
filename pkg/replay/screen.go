package replay

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/motto123/minigate/pkg/tail"
	"github.com/motto123/minigate/pkg/tape"
)

// screen is where results go, and beside them how far it has got.
type screen struct {
	out      *bufio.Writer
	printer  tail.Printer
	errors   io.Writer
	terminal int // of errors; -1 where it is none
	total    int // calls in all; 0 is not known
	end      time.Time
	began    time.Time // when the first call was recorded
	shown    time.Time
	bar      bool // the terminal's line has one
	failed   error
}

func newScreen(out, progress *os.File) *screen {
	s := &screen{
		out: bufio.NewWriter(out), errors: progress, terminal: -1, shown: time.Now(),
		printer: tail.Printer{Look: tail.NewLook(out), Now: time.Now()},
	}
	if tail.IsTerminal(progress) {
		s.terminal = int(progress.Fd())
	}
	return s
}

// maxDifferences bounds what is printed of one call.
const maxDifferences = 40

// differs prints a call whose answer is not what it was.
func (s *screen) differs(c *tape.Call, _ *tape.Reply, all []Difference) {
	look := s.printer.Look
	text := s.heading(c)
	for i, d := range all {
		if i == maxDifferences {
			text += look.Dim(fmt.Sprintf("  and %d more values", len(all)-i)) + "\n"
			break
		}
		at := ""
		if d.Path != "" {
			at = tail.Clean(d.Path) + ": "
		}
		if d.Then != "" {
			text += look.Bad("  - "+at+tail.Clean(d.Then)) + "\n"
		}
		if d.Now != "" {
			text += look.Good("  + "+at+tail.Clean(d.Now)) + "\n"
		}
	}
	s.print(text)
}

// answered prints a request that has no recorded answer, and what came for it.
func (s *screen) answered(c *tape.Call, now *tape.Reply) {
	text := "  " + tail.Clean(whole(masked(now)))
	if now == nil || now.Code != 0 {
		text = s.printer.Look.Bad(text)
	}
	s.print(s.heading(c) + text + "\n")
}

// heading is the line of a call above what is said of it.
func (s *screen) heading(c *tape.Call) string {
	s.wipe()
	return s.printer.Look.Bold(c.Place.String()) + "  " + strings.TrimRight(s.printer.Head(c), " ") + "\n"
}

func (s *screen) print(text string) {
	_, err := s.out.WriteString(text)
	if err == nil {
		err = s.out.Flush()
	}
	if err != nil && s.failed == nil {
		s.failed = fmt.Errorf("replay: print: %w", err)
	}
}

// plainEvery is how often a line says how far it is where there is no terminal.
const plainEvery = 2 * time.Second

// progress says how far it is, and where to go on after a sudden end.
func (s *screen) progress(r Result) {
	rate := 0.0
	if took := time.Since(r.Began); !r.Began.IsZero() && took > 0 {
		rate = float64(r.Sent) / took.Seconds()
	}
	text := fmt.Sprintf("%s sent  %s/s  %s differ  --from %s", grouped(r.Sent), grouped(int(rate)), grouped(r.Differ), r.Next)
	if s.terminal < 0 {
		if now := time.Now(); now.Sub(s.shown) >= plainEvery {
			s.shown = now
			_, _ = fmt.Fprintln(s.errors, text) // whoever does not read it misses nothing
		}
		return
	}
	if part, ok := s.part(r); ok {
		const cells = 24
		full := int(part * cells)
		text = "[" + strings.Repeat("█", full) + strings.Repeat("░", cells-full) + fmt.Sprintf("] %3.0f%%  ", part*100) + text
	}
	if width, _, err := term.GetSize(s.terminal); err == nil && width > 1 {
		if cells := []rune(text); len(cells) >= width {
			text = string(cells[:width-1])
		}
	}
	_, _ = fmt.Fprintf(s.errors, "\r\x1b[K%s", text)
	s.bar = true
}

// part is how much of it is done: by number where that is known, else by the time at
// which it was recorded.
func (s *screen) part(r Result) (float64, bool) {
	if s.total > 0 {
		return min(1, float64(r.Sent)/float64(s.total)), true
	}
	if s.began.IsZero() {
		s.began = r.First
	}
	end := s.end
	if end.IsZero() {
		end = s.printer.Now
	}
	all, done := end.Sub(s.began), r.At.Sub(s.began)
	if s.began.IsZero() || all <= 0 || done < 0 {
		return 0, false
	}
	return min(1, done.Seconds()/all.Seconds()), true
}

// wipe takes the bar away, so that something else can be printed.
func (s *screen) wipe() {
	if s.bar {
		_, _ = fmt.Fprint(s.errors, "\r\x1b[K")
		s.bar = false
	}
}

// summary prints what it came to.
func (s *screen) summary(r Result) error {
	s.wipe()
	look := s.printer.Look
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-14s", name)
		fmt.Fprintf(&b, format, args...)
		b.WriteByte('\n')
	}
	rate := ""
	if r.Took > 0 {
		rate = fmt.Sprintf("  in %s, %s requests/s", tail.Took(r.Took), grouped(int(float64(r.Sent)/r.Took.Seconds())))
	}
	line("sent", "%s%s", grouped(r.Sent), rate)
	line("same", "%s", look.Good(grouped(r.Same)))
	differ := grouped(r.Differ)
	if r.Differ > 0 {
		differ = look.Bad(differ)
	}
	if r.Unanswered > 0 {
		differ += fmt.Sprintf(", of which %s not answered", grouped(r.Unanswered))
	}
	if r.Sent == 0 {
		line("", "%s", look.Dim("nothing that is there was asked for, or all of it is left out"))
	}
	line("differ", "%s", differ)
	for _, c := range []struct {
		name string
		n    int
		what string
	}{
		{"not compared", r.Uncompared, "notifies, acks, or without an answer on the tape"},
		{"left out", r.Masked, whyMasked},
		{"left out", r.Repeated, whyRepeated},
		{"not readable", r.Malformed, "entries of the tape"},
		{"not awaited", r.GivenUp, "recorded answers, too many of which came late"},
		{"pushes", r.Pushes, "delivered to nobody"},
		{"gate calls", r.Called, "to bind, kick or group sessions; nothing was done"},
		{"too late", r.Late, "answers after --timeout"},
	} {
		if c.n > 0 {
			line(c.name, "%s  %s", grouped(c.n), look.Dim("("+c.what+")"))
		}
	}
	if r.Then.Count > 0 || r.Now.Count > 0 {
		line("latency then", "p50 %s  p99 %s  %s", tail.Took(r.Then.P50), tail.Took(r.Then.P99), look.Dim("(gate to answer)"))
		line("latency now", "p50 %s  p99 %s  %s", tail.Took(r.Now.P50), tail.Took(r.Now.P99), look.Dim("(this tool, there and back)"))
	}
	line("position", "%s  %s", r.Next, look.Dim("(--from "+r.Next.String()+" sends what comes behind)"))
	s.print(b.String())
	return s.failed
}

// grouped writes 1234567 as 1,234,567.
func grouped(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// count counts what is meant.
func count(ctx context.Context, cfg *Config) (int, error) {
	n := 0
	_, err := each(ctx, cfg, func(*tape.Call) error { n++; return nil })
	return n, err
}

// dry prints what would be sent.
func dry(ctx context.Context, cfg *Config, s *screen, to string) error {
	n := 0
	left, err := each(ctx, cfg, func(c *tape.Call) error {
		n++
		s.print(s.printer.Line(c))
		return s.failed
	})
	requests := "requests"
	if n == 1 {
		requests = "request"
	}
	s.print(fmt.Sprintf("%s %s would be sent to the workers of %s\n", grouped(n), requests, to))
	if left.masked > 0 {
		s.print(fmt.Sprintf("%s left out: %s\n", grouped(left.masked), whyMasked))
	}
	if left.repeated > 0 {
		s.print(fmt.Sprintf("%s left out: %s\n", grouped(left.repeated), whyRepeated))
	}
	return errors.Join(err, s.failed)
}

// leftOut are the calls that were chosen and would not be sent.
type leftOut struct{ masked, repeated int }

const (
	whyMasked   = "sensitive fields are masked on the tape; --masked sends them so"
	whyRepeated = "a second time on the tape, since a worker got them again"
)

// each calls f with each call that would be sent, when its end is known. It reads the
// tape as Run does, so that a limit takes the same ones.
func each(ctx context.Context, cfg *Config, f func(*tape.Call) error) (left leftOut, err error) {
	read := startReader(ctx, cfg)
	defer context.AfterFunc(ctx, read.quit)() // at once, since nothing is under way
	chosen := make(map[*tape.Call]bool)
	for e := range read.events {
		if e.send {
			chosen[e.call] = true
		}
		if e.known && chosen[e.call] && err == nil {
			delete(chosen, e.call)
			if err = f(e.call); err != nil {
				read.quit()
			}
		}
	}
	read.stop()
	if err == nil {
		err = read.err
	}
	return leftOut{masked: read.masked, repeated: read.repeated}, err
}
