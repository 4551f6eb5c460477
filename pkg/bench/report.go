package bench

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Report is what a run has shown.
type Report struct {
	Machine  Machine   `json:"machine"`
	Began    time.Time `json:"began"`
	Seconds  float64   `json:"seconds"`
	Duration float64   `json:"duration"` // of each load, in seconds
	Quick    bool      `json:"quick"`    // the numbers mean nothing
	Million  bool      `json:"million"`  // of sessions at once, in a section of its own
	Rows     []Row     `json:"rows"`
	// Curves are drawn, and Profiles say where the time goes.
	Curves   []Curve   `json:"curves,omitempty"`
	Profiles []Profile `json:"profiles,omitempty"`

	progress io.Writer
}

// Row is one line of the table.
type Row struct {
	Group string  `json:"group"`
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	P50   float64 `json:"p50_ms,omitempty"`
	P99   float64 `json:"p99_ms,omitempty"`
	P999  float64 `json:"p999_ms,omitempty"`
	// Ratio is to the line named Of, in the unit that Target speaks of.
	Ratio  float64 `json:"ratio,omitempty"`
	Of     string  `json:"of,omitempty"`
	Target string  `json:"target,omitempty"`
	Met    bool    `json:"met,omitempty"`
	Note   string  `json:"note,omitempty"`
}

const perSecond = "req/s"

// target is a bound of a ratio.
type target struct {
	sign  string
	bound float64
}

func atLeast(v float64) *target { return &target{"≥", v} }
func atMost(v float64) *target  { return &target{"≤", v} }

// compare says how a value of the row relates to the same of an earlier one.
func (r *Row) compare(report *Report, name string, value float64, t *target) {
	for i := range report.Rows {
		other := &report.Rows[i]
		if other.Name != name {
			continue
		}
		of := other.Value
		if value == r.P50 && value != r.Value {
			of = other.P50
		}
		r.compareWith(name, of, value, t)
	}
}

// also says in the note how a value relates to that of another row.
func (r *Row) also(report *Report, name string, value float64) {
	other := *r
	other.Ratio = 0
	other.compare(report, name, value, nil)
	if other.Ratio == 0 {
		return
	}
	r.note(fmt.Sprintf("%.2f × with confirms and acks", other.Ratio))
}

func (r *Row) note(text string) {
	if r.Note != "" {
		text = "; " + text
	}
	r.Note += text
}

func (r *Row) compareWith(name string, of, value float64, t *target) {
	if of == 0 {
		return
	}
	r.Of, r.Ratio = name, value/of
	if t == nil {
		return
	}
	r.Target = fmt.Sprintf("%s %g ×", t.sign, t.bound)
	r.Met = r.Ratio >= t.bound
	if t.sign == "≤" {
		r.Met = r.Ratio <= t.bound
	}
}

// value is that of an earlier row.
func (r *Report) value(name string) (float64, error) {
	for i := range r.Rows {
		if r.Rows[i].Name == name {
			return r.Rows[i].Value, nil
		}
	}
	return 0, fmt.Errorf("bench: there is no row %q", name)
}

func (r *Report) add(row Row) {
	first := len(r.Rows) == 0 || r.Rows[len(r.Rows)-1].Group != row.Group
	r.Rows = append(r.Rows, row)
	if r.progress == nil {
		return
	}
	text := row.String() + "\n"
	if first {
		text = "\n" + row.Group + "\n" + text
	}
	_, _ = io.WriteString(r.progress, text) // whoever does not read it misses nothing
}

// String is the row for a terminal.
func (r Row) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "  %-60s %14s", r.Name, r.value())
	if r.P50 > 0 {
		fmt.Fprintf(&b, "  p50 %.3g ms, p99 %.3g ms", r.P50, r.P99)
	}
	if r.P999 > 0 {
		fmt.Fprintf(&b, ", p99.9 %.3g ms", r.P999)
	}
	if s := r.ratio(); s != "" {
		fmt.Fprintf(&b, "  %s", s)
	}
	if r.Note != "" {
		fmt.Fprintf(&b, "  (%s)", r.Note)
	}
	return b.String()
}

func (r Row) value() string {
	switch {
	case r.Value >= 1000:
		return fmt.Sprintf("%s %s", thousands(int64(r.Value+0.5)), r.Unit)
	case r.Value >= 100:
		return fmt.Sprintf("%.0f %s", r.Value, r.Unit)
	}
	return fmt.Sprintf("%.3g %s", r.Value, r.Unit)
}

func (r Row) ratio() string {
	if r.Ratio == 0 && r.Target == "" {
		return ""
	}
	s := ""
	if r.Ratio != 0 {
		s = fmt.Sprintf("%.2f ×", r.Ratio)
	}
	if r.Target != "" {
		verdict := "missed"
		if r.Met {
			verdict = "met"
		}
		s = strings.TrimSpace(s + fmt.Sprintf(" (target %s: %s)", r.Target, verdict))
	}
	return s
}

// thousands writes 12345 as 12,345.
func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Markdown is the report for docs/performance.md.
func (r *Report) Markdown() string {
	var b strings.Builder
	m := r.Machine
	fmt.Fprintf(&b, "Measured on %s by `minigate bench`, %g s for each line, in %.0f s.\n\n", r.Began.Format("2006-01-02"), r.Duration, r.Seconds)
	if r.Quick {
		b.WriteString("This was a quick run: its numbers mean nothing.\n\n")
	}
	fmt.Fprintf(&b, "| machine | |\n| --- | --- |\n| processor | %s, %d cores |\n| memory | %.0f GiB |\n| system | %s |\n| Go | %s |\n| RabbitMQ | %s |\n| load before | %s |\n",
		m.Processor, m.Cores, float64(m.Memory)/(1<<30), m.System, m.Go, m.RabbitMQ, m.Load)
	group := ""
	for _, row := range r.Rows {
		if row.Group != group {
			group = row.Group
			fmt.Fprintf(&b, "\n**%s**\n\n| what | value | p50, p99 | ratio | to | |\n| --- | ---: | ---: | ---: | --- | --- |\n", group)
		}
		latency := ""
		if row.P50 > 0 {
			latency = fmt.Sprintf("%.3g ms, %.3g ms", row.P50, row.P99)
		}
		if row.P999 > 0 {
			latency += fmt.Sprintf(", p99.9 %.3g ms", row.P999)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", row.Name, row.value(), latency, row.ratio(), row.Of, row.Note)
	}
	for _, c := range r.Curves {
		fmt.Fprintf(&b, "\n![%s](%s)\n", c.Title, c.File)
	}
	b.WriteString(profileTables(r.Profiles))
	return b.String()
}

// marks are the lines of a document between which the report stands.
func (r *Report) marks() (begin, end string) {
	name := "bench"
	if r.Million {
		name = "million"
	}
	return "<!-- " + name + ":begin -->", "<!-- " + name + ":end -->"
}

// ErrMarkers: the document has no lines that say where the report belongs.
var ErrMarkers = errors.New("bench: the document has no lines for the report")

// Into replaces what is between the marks of a document, and writes the curves
// beside it.
func (r *Report) Into(file string) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("bench: document: %w", err)
	}
	begin, end := r.marks()
	before, rest, ok := bytes.Cut(old, []byte(begin))
	_, after, alsoOK := bytes.Cut(rest, []byte(end))
	if !ok || !alsoOK {
		return fmt.Errorf("%w: want %s and %s in %s", ErrMarkers, begin, end, file)
	}
	var b bytes.Buffer
	b.Write(before)
	b.WriteString(begin + "\n\n" + r.Markdown() + "\n" + end)
	b.Write(after)
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("bench: document: %w", err)
	}
	for _, c := range r.Curves {
		if err := os.WriteFile(filepath.Join(filepath.Dir(file), c.File), []byte(c.SVG()), 0o644); err != nil {
			return fmt.Errorf("bench: plot: %w", err)
		}
	}
	return nil
}
