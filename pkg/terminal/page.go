package terminal

import (
	"strings"
	"time"

	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/x/ansi"
)

// page is a conversation as rows of a given width.
type page struct {
	peer    *peer
	width   int
	version int
	rows    []string
	last    int64              // number of the last message
	ends    map[int64]int      // behind which row a message ends, by number
	bubbles map[int64][]string // the messages as they were laid out, by number
}

// together is how close messages of one side stand without a new time.
const together = 5 * time.Minute

// render lays a conversation out: days apart, the other's messages at the left
// and one's own at the right. What before has of it is not laid out again.
func (k *look) render(p *peer, width int, before page) page {
	out := page{peer: p, width: width, last: p.last(), ends: map[int64]int{}, bubbles: map[int64][]string{}}
	if before.peer != p || before.width != width {
		before.bubbles = nil
	}
	if p.older {
		out.rows = append(out.rows, center(k.dim.Render("↑ earlier messages"), width), "")
	}
	var above line
	tall := false // the last text took more than one row
	for i, l := range p.lines {
		first, day := false, i == 0 || !sameDay(above.at, l.at)
		if day {
			if i > 0 {
				out.rows = append(out.rows, "")
			}
			out.rows = append(out.rows, center(k.dim.Render("── "+l.at.Format("Monday, 2 January 2006")+" ──"), width))
		}
		if day || above.mine != l.mine || l.at.Sub(above.at) > together {
			out.rows = append(out.rows, "", k.heading(p, l, width))
			first = true
		}
		rows, known := before.bubbles[l.number]
		if !known || l.number == 0 {
			rows = k.bubble(l, width)
		}
		if !first && (tall || len(rows) > 1) {
			out.rows = append(out.rows, "") // long texts would run into each other
		}
		tall = len(rows) > 1
		out.rows = append(out.rows, rows...)
		if l.number != 0 {
			out.ends[l.number], out.bubbles[l.number] = len(out.rows), rows
		}
		above = l
	}
	return out
}

// below is how many rows have been added under the last message of before.
func (p page) below(before page) int {
	end, ok := p.ends[before.last]
	if !ok {
		return 0
	}
	return max(0, (len(p.rows)-end)-(len(before.rows)-before.ends[before.last]))
}

func (k *look) heading(p *peer, l line, width int) string {
	clock := k.dim.Render(l.at.Format("15:04"))
	if l.mine {
		return right(clock+" "+k.mineName.Render("you"), width)
	}
	return fit(lipgloss.NewStyle().Bold(true).Foreground(colorOf(p.id)).Render(p.name)+" "+clock, width)
}

// bubble is the text of a message, wrapped, on a ground of its own.
func (k *look) bubble(l line, width int) []string {
	const padding = 2
	style := k.theirs
	if l.mine {
		style = k.mine
	}
	if l.number == 0 {
		style = k.waiting
	}
	text := wrap(l.text, min(width*3/4, 72)-padding)
	widest := 0
	for _, t := range text {
		widest = max(widest, ansi.StringWidth(t))
	}
	var rows []string
	for _, t := range text {
		row := style.Render(" " + fit(t, widest) + " ")
		if l.mine {
			row = right(row, width)
		}
		rows = append(rows, row)
	}
	switch {
	case l.failed != "":
		rows = append(rows, right(k.bad.Render(ansi.Truncate("not sent: "+l.failed, width, "…")), width))
	case l.number == 0:
		rows = append(rows, right(k.dim.Render("sending …"), width))
	}
	return rows
}

func sameDay(a, b time.Time) bool {
	return a.Year() == b.Year() && a.YearDay() == b.YearDay()
}

func right(s string, width int) string {
	return strings.Repeat(" ", max(0, width-ansi.StringWidth(s))) + s
}

func center(s string, width int) string {
	return strings.Repeat(" ", max(0, (width-ansi.StringWidth(s))/2)) + s
}
