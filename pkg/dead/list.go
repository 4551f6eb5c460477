package dead

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"
)

// row is a letter as it is listed; it is the JSON of a list, too.
type row struct {
	ID       string     `json:"id"`
	Copy     int        `json:"copy,omitempty"` // 2 and more for further letters of one message
	Queue    string     `json:"queue,omitempty"`
	Route    string     `json:"route,omitempty"`
	Event    string     `json:"event,omitempty"`
	Group    string     `json:"group,omitempty"`
	Type     string     `json:"type,omitempty"`
	Attempts int        `json:"attempts,omitempty"`
	Deaths   int        `json:"deaths,omitempty"`
	Reason   string     `json:"reason,omitempty"`
	Died     *time.Time `json:"died,omitempty"`
	First    *time.Time `json:"died_first,omitempty"`
	Size     int        `json:"size"`
}

func newRow(l *Letter) row {
	r := row{
		ID: l.ID, Queue: l.Queue, Route: l.Route, Event: l.Event, Group: l.Group, Type: l.Type,
		Attempts: l.Attempts, Deaths: l.Deaths, Reason: l.Reason, Size: l.Size,
	}
	if l.Copy > 1 {
		r.Copy = l.Copy
	}
	if at := l.Died(); !at.IsZero() {
		r.Died = &at
	}
	if at := l.First; !at.IsZero() {
		r.First = &at
	}
	return r
}

// heldRows is how many rows are kept before they are written, so that columns fit
// and nobody who reads slowly keeps letters from others.
const heldRows = 10_000

// table writes rows, one line a letter.
type table struct {
	out    io.Writer
	colors colors
	people bool // read it on a terminal: they want to know what the columns are
	width  int  // of the terminal, to which lines are cut; 0 is as long as they are
	json   bool
	now    time.Time

	rows   []row
	widths [5]int
	begun  bool
}

func (t *table) add(l *Letter) error {
	t.rows = append(t.rows, newRow(l))
	if len(t.rows) < heldRows {
		return nil
	}
	return t.flush()
}

var heads = [...]string{"ID", "AGE", "QUEUE", "ROUTE OR EVENT", "TRIES"}

// flush writes the rows that are held. Columns are as wide as their widest cell.
func (t *table) flush() error {
	var b strings.Builder
	if t.json {
		for _, r := range t.rows {
			text, err := asJSON(r, "")
			if err != nil {
				return err
			}
			b.WriteString(text + "\n")
		}
	} else {
		t.format(&b)
	}
	clear(t.rows)
	t.rows = t.rows[:0]
	_, err := io.WriteString(t.out, b.String())
	return err
}

func (t *table) format(b *strings.Builder) {
	all := make([][5]string, len(t.rows))
	for i, r := range t.rows {
		all[i] = t.cells(r)
		for j, c := range all[i] {
			t.widths[j] = max(t.widths[j], ansi.StringWidth(c))
		}
	}
	if t.people && !t.begun && len(all) > 0 {
		for j, head := range heads {
			t.widths[j] = max(t.widths[j], len(head))
		}
		b.WriteString(t.colors.dim(t.line(heads, "REASON")) + "\n")
	}
	t.begun = true
	for i, r := range t.rows {
		b.WriteString(t.dress(t.line(all[i], t.reason(r))) + "\n")
	}
}

func (t *table) cells(r row) [5]string {
	age, tries := "-", "-"
	if r.Died != nil {
		age = short(t.now.Sub(*r.Died))
	}
	if r.Attempts > 0 {
		tries = fmt.Sprint(r.Attempts)
	}
	subject := r.Route
	if r.Event != "" {
		subject = r.Event
	}
	return [5]string{r.ID, age, orDash(line(r.Queue)), orDash(line(subject)), tries}
}

// reason is the first line of it, with what else is worth a word.
func (t *table) reason(r row) string {
	text := orDash(first(r.Reason))
	if r.Copy > 1 {
		text = fmt.Sprintf("[letter %d of the same message] %s", r.Copy, text)
	}
	return text
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func (t *table) line(cells [5]string, reason string) string {
	var b strings.Builder
	for j, c := range cells {
		b.WriteString(c + strings.Repeat(" ", t.widths[j]-ansi.StringWidth(c)+2))
	}
	b.WriteString(reason)
	if t.width > 0 {
		return ansi.Truncate(b.String(), t.width, "…")
	}
	return b.String()
}

// dress colours a line of which the first column is the id.
func (t *table) dress(text string) string {
	if !t.colors {
		return text
	}
	n := min(len(text), t.widths[0]) // ids are ASCII
	rest := t.widths[0] + 2 + t.widths[1]
	if len(text) < rest {
		return t.colors.name(text[:n]) + text[n:]
	}
	return t.colors.name(text[:n]) + t.colors.warn(text[n:rest]) + text[rest:]
}
