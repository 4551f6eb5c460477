package terminal

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/x/ansi"
)

const (
	sidebar    = 20 // columns
	narrow     = 60 // below that many columns there is no sidebar
	otherRows  = 4  // header, rule, input and status
	headerRows = 1  // of the pane
)

func (s *screen) sideWidth() int {
	if s.width < narrow {
		return 0
	}
	return sidebar + 3 // with the line beside it
}

func (s *screen) paneWidth() int  { return max(s.width-s.sideWidth()-1, 4) }
func (s *screen) bodyHeight() int { return max(s.height-otherRows-headerRows, 1) }

// View draws everything.
func (s *screen) View() string {
	switch {
	case s.form != nil:
		return s.form.view(s.look, s.gate, s.trouble(), s.width, s.height)
	case !s.entered:
		rows := []string{s.look.logo.Render("◆ minigate"), "", s.connection()}
		if trouble := s.trouble(); trouble != nil {
			rows = append(append(rows[:2], s.look.dim.Render(s.gate), ""), trouble...)
		}
		return lipgloss.Place(s.width, s.height, lipgloss.Center, lipgloss.Center, strings.Join(rows, "\n"))
	}
	rows := []string{s.header()}
	side, pane := s.sideRows(), s.paneRows()
	for i := range s.height - otherRows {
		row := ""
		if s.sideWidth() > 0 {
			row = at(side, i, sidebar) + s.look.bar.Render(" │ ")
		}
		rows = append(rows, row+at(pane, i, 0))
	}
	rule := strings.Repeat("─", s.width)
	if s.sideWidth() > 0 {
		rule = strings.Repeat("─", sidebar+1) + "┴" + strings.Repeat("─", max(0, s.width-sidebar-2))
	}
	rows = append(rows, s.look.bar.Render(rule), s.input.View(), s.status())
	return strings.Join(rows, "\n")
}

// at is a row of a column, empty where there is none.
func at(rows []string, i, width int) string {
	row := ""
	if i < len(rows) {
		row = rows[i]
	}
	return row + strings.Repeat(" ", max(0, width-ansi.StringWidth(row)))
}

func (s *screen) header() string {
	left := s.look.logo.Render(" ◆ minigate") + "  " + s.look.bold.Render(name(s.me))
	if unread := s.unread(); unread > 0 && s.sideWidth() == 0 {
		left += " " + s.look.badge.Render(fmt.Sprintf(" %d ", unread))
	}
	end := s.connection() + " "
	if room := s.width - ansi.StringWidth(left) - ansi.StringWidth(end); room > 0 {
		return left + strings.Repeat(" ", room) + end
	}
	return ansi.Truncate(left+" "+end, s.width, "…")
}

func (s *screen) unread() int {
	n := 0
	for _, p := range s.peers {
		n += p.unread
	}
	return n
}

// connection says how the connection is.
func (s *screen) connection() string {
	switch state := s.state.(type) {
	case online:
		return s.look.good.Render("● connected") + s.look.dim.Render("  "+s.gate)
	case offline:
		if state.wait == 0 {
			return s.look.bad.Render("○ not connected: " + explain(state.err))
		}
		text := "○ not connected,"
		if s.entered {
			text = "○ connection lost, reconnecting…"
		}
		left := math.Ceil(time.Until(s.retry).Seconds())
		return s.look.warn.Render(fmt.Sprintf("%s next try in %.0f s", text, max(left, 0)))
	}
	return s.look.warn.Render("◌ connecting") + s.look.dim.Render("  "+s.gate)
}

// trouble is why there is no connection, for where nobody is logged in yet.
func (s *screen) trouble() (rows []string) {
	if s.lost == nil {
		return nil
	}
	for _, l := range wrap(ansi.Strip(s.connection()), min(s.width, formWidth)) {
		rows = append(rows, s.look.warn.Render(l))
	}
	if state, is := s.state.(offline); is && state.wait == 0 {
		return rows // it is in there
	}
	for _, l := range wrap(explain(s.lost), min(s.width, formWidth)) {
		rows = append(rows, s.look.bad.Render(l))
	}
	return rows
}

func (s *screen) sideRows() []string {
	rows := []string{s.look.dim.Render(" PEOPLE")}
	first := 0
	for i, p := range s.peers {
		if p == s.open {
			first = max(0, i+1-max(1, s.height-otherRows-1)) // so that it is in sight
		}
	}
	for _, p := range s.peers[first:] {
		badge := ""
		if p.unread > 0 {
			badge = fmt.Sprintf(" %d ", min(p.unread, 999))
		}
		text := fit(" "+p.name, sidebar-len(badge))
		switch {
		case p == s.open:
			text = s.look.accent.Render("▌") + s.look.chosen.Render(fit(p.name, sidebar-1))
		case p.unread > 0:
			text = s.look.bold.Render(text) + s.look.badge.Render(badge)
		}
		rows = append(rows, text)
	}
	return rows
}

func (s *screen) paneRows() []string {
	if s.helping {
		return s.helpRows()
	}
	if s.open == nil {
		first := "No conversation is open"
		if len(s.peers) > 0 {
			first = "tab shows who wrote"
		}
		rows := []string{s.look.bold.Render(first), ""}
		for _, l := range wrap("/to NAME writes to somebody; earlier conversations open that way, too. /help says what else there is.", s.paneWidth()) {
			rows = append(rows, s.look.dim.Render(l))
		}
		return rows
	}
	height := s.bodyHeight()
	rows := []string{fit(s.look.bold.Render(s.open.name), s.paneWidth())}
	if len(s.open.lines) == 0 {
		text := "Nothing has been said yet."
		if !s.open.loaded {
			text = "…"
		}
		return append(rows, "", s.look.dim.Render(text))
	}
	end := len(s.page.rows) - s.scroll
	start := max(0, end-height)
	rows = append(rows, make([]string, max(0, height-(end-start)))...)
	return append(rows, s.page.rows[start:end]...)
}

// keys are what helps on a screen alone.
func keys() []string {
	return []string{
		"",
		"tab, shift+tab   the next, the previous conversation",
		"↑ ↓ pgup pgdown  what was said before, and back",
		"esc              to the end; closes this",
		"ctrl+c           ends the chat",
	}
}

func (s *screen) helpRows() []string {
	rows := []string{s.look.bold.Render("Help"), ""}
	for _, text := range append(help(), keys()...) {
		for _, l := range wrap(text, s.paneWidth()) {
			rows = append(rows, s.look.dim.Render(l))
		}
	}
	return rows
}

// status is the last row.
func (s *screen) status() string {
	text, style := " tab next · ↑↓ scroll · /to NAME · /help · ctrl+c quit", s.look.dim
	if s.scroll > 0 {
		text = fmt.Sprintf(" ↓ %d lines below · esc to the end", s.scroll)
	}
	if s.lost != nil {
		text, style = " "+explain(s.lost), s.look.warn
		if s.pending > 0 {
			text = fmt.Sprintf(" %d to be sent when connected · %s", s.pending, explain(s.lost))
		}
	}
	if s.notice != "" {
		text, style = " "+s.notice, s.look.accent
		if s.bad {
			style = s.look.bad
		}
	}
	return style.Render(ansi.Truncate(firstRow(text), s.width, "…"))
}
