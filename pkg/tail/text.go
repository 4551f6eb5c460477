package tail

import (
	"fmt"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// Clean writes out what would do something to a terminal instead of standing in it:
// escape sequences and other control characters, newlines too, what turns the
// direction of writing, and bytes that are not UTF-8. They become \u001b, as in JSON,
// in which the text stays valid.
func Clean(s string) string {
	if !strings.ContainsFunc(s, unsafe) && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == utf8.RuneError:
			b.WriteString(`\ufffd`)
		case unsafe(r) && r > 0xffff:
			high, low := surrogates(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		case unsafe(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// unsafe are control characters (Cc), what is not seen but has an effect (Cf but for
// the joiners of emoji and scripts), and the separators of lines and paragraphs.
func unsafe(r rune) bool {
	switch r {
	case '\u200c', '\u200d': // zero width non-joiner and joiner
		return false
	case '\u2028', '\u2029':
		return true
	}
	return unicode.IsControl(r) || unicode.Is(unicode.Cf, r)
}

// surrogates are the two units of UTF-16 for what does not fit into one.
func surrogates(r rune) (high, low rune) {
	r -= 0x10000
	return 0xd800 + r>>10, 0xdc00 + r&0x3ff
}

// Look are the colours of an output; the zero Look has none.
type Look struct{ on bool }

// NewLook has colours where a file is a terminal, and nobody has said that he does
// not want them (https://no-color.org).
func NewLook(f *os.File) Look {
	return Look{on: IsTerminal(f) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

// IsTerminal reports whether a file is one.
func IsTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

func (l Look) paint(code, s string) string {
	if !l.on || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// The paints, which stand on dark and on light grounds.

// Dim is for what matters less.
func (l Look) Dim(s string) string { return l.paint("90", s) }

// Bold is for what is looked for.
func (l Look) Bold(s string) string { return l.paint("1", s) }

// Good is for what went well.
func (l Look) Good(s string) string { return l.paint("32", s) }

// Warn is for what is slow or odd.
func (l Look) Warn(s string) string { return l.paint("33", s) }

// Bad is for what failed.
func (l Look) Bad(s string) string { return l.paint("31", s) }
