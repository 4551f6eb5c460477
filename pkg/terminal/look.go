package terminal

import "github.com/charmbracelet/lipgloss"

// look are the colours of the screen, which stand on dark and on light grounds.
type look struct {
	logo, bold, dim, accent, good, warn, bad, bar, box, badge, chosen lipgloss.Style
	mine, mineName, theirs, waiting                                   lipgloss.Style
}

func newLook() *look {
	return &look{
		logo:     lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Color("39")),
		bold:     lipgloss.NewStyle().Bold(true),
		dim:      lipgloss.NewStyle().Foreground(pick("243", "245")),
		accent:   lipgloss.NewStyle().Foreground(pick("26", "39")),
		good:     lipgloss.NewStyle().Foreground(pick("28", "78")),
		warn:     lipgloss.NewStyle().Foreground(pick("130", "214")),
		bad:      lipgloss.NewStyle().Foreground(pick("160", "203")),
		bar:      lipgloss.NewStyle().Foreground(pick("250", "238")),
		box:      lipgloss.NewStyle().Border(lipgloss.RoundedBorder()).BorderForeground(pick("250", "238")).Padding(1, 3),
		badge:    lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Color("255")).Background(lipgloss.Color("161")),
		chosen:   lipgloss.NewStyle().Bold(true).Foreground(pick("232", "255")).Background(pick("252", "237")),
		mine:     lipgloss.NewStyle().Foreground(lipgloss.Color("255")).Background(lipgloss.Color("25")),
		mineName: lipgloss.NewStyle().Bold(true).Foreground(pick("26", "39")),
		theirs:   lipgloss.NewStyle().Foreground(pick("232", "254")).Background(pick("254", "237")),
		waiting:  lipgloss.NewStyle().Foreground(pick("243", "248")).Background(pick("254", "236")),
	}
}

func pick(light, dark string) lipgloss.AdaptiveColor {
	return lipgloss.AdaptiveColor{Light: light, Dark: dark}
}

// colorOf gives each user one colour.
func colorOf(id int64) lipgloss.Color {
	colors := []lipgloss.Color{"204", "208", "178", "113", "79", "81", "111", "141", "176"}
	return colors[uint64(id)%uint64(len(colors))]
}
