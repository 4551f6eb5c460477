package dead

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// What stands on a letter comes from anywhere, so nothing of it reaches a terminal
// as it is: control characters, and the marks that turn the direction of writing,
// become what they are written as in a program.

// line is a text in one line.
func line(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case harmful(r):
			b.WriteString(escaped(r))
		default:
			b.WriteRune(r)
		}
		i += n
	}
	return b.String()
}

func harmful(r rune) bool {
	return unicode.IsControl(r) || '\u200e' <= r && r <= '\u200f' || '\u202a' <= r && r <= '\u202e' ||
		'\u2066' <= r && r <= '\u2069' || r == '\u2028' || r == '\u2029' || r == '\u061c' || r == '\ufeff'
}

func escaped(r rune) string {
	switch r {
	case '\n':
		return `\n`
	case '\t':
		return `\t`
	case '\r':
		return `\r`
	}
	return fmt.Sprintf(`\u%04x`, r) // all of them are in the first plane
}

// first is the first line of a text.
func first(s string) string {
	before, _, _ := strings.Cut(strings.TrimLeft(s, "\r\n"), "\n")
	return line(strings.TrimRight(before, "\r"))
}

// lines are those of a text, with tabs as spaces.
func lines(s string) []string {
	all := strings.Split(strings.TrimRight(s, "\r\n"), "\n")
	for i, l := range all {
		all[i] = line(strings.ReplaceAll(strings.TrimRight(l, "\r"), "\t", "    "))
	}
	return all
}

// asJSON is v in JSON, in which nothing harmful stands that encoding/json leaves:
// that can only be inside of strings, where it may be escaped.
func asJSON(v any, indent string) (string, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	if err := e.Encode(v); err != nil {
		return "", err
	}
	text := strings.TrimSuffix(b.String(), "\n")
	if !strings.ContainsFunc(text, hidden) {
		return text, nil
	}
	b.Reset()
	for _, r := range text {
		if hidden(r) {
			b.WriteString(escaped(r))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String(), nil
}

// hidden is what is harmful, but for the newlines of an indented document.
func hidden(r rune) bool { return r != '\n' && harmful(r) }

// short is a duration in one unit, for a column.
func short(d time.Duration) string {
	switch {
	case d < 0:
		return "0s" // the clock that wrote it is ahead
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// letters is a number of them.
func letters(n int) string { return count(n, "letter") }

// count is a number of things: 2,000 letters.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return number(n) + " " + thing + "s"
}

// number is a number with commas: 2,000.
func number(n int) string {
	digits := fmt.Sprint(n)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

// colors dress what is printed, or nothing where it goes into a pipe.
type colors bool

func (c colors) in(code, text string) string {
	if !c || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (c colors) bold(s string) string { return c.in("1", s) }
func (c colors) dim(s string) string  { return c.in("2", s) }
func (c colors) bad(s string) string  { return c.in("31", s) }
func (c colors) warn(s string) string { return c.in("33", s) }
func (c colors) name(s string) string { return c.in("36", s) }
