package terminal

import (
	"errors"
	"strings"
	"syscall"
	"unicode"

	"github.com/charmbracelet/x/ansi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/motto123/minigate/pkg/client"
	"github.com/motto123/minigate/pkg/failure"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/commonpb"
)

// clean takes out of a text what would do something to a terminal instead of
// standing in it: escape sequences, other control characters, and the marks
// that turn the direction of writing for what follows. Newlines stay.
func clean(s string) string {
	s = strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\t", "    ")
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n':
			return r
		case unicode.IsControl(r), r == unicode.ReplacementChar:
			return '�'
		case '\u202a' <= r && r <= '\u202e', '\u2066' <= r && r <= '\u2069', r == '\u2028', r == '\u2029':
			return -1
		}
		return r
	}, s)
}

// wrap breaks a text into lines of at most that many columns: at spaces, and
// within a word only where it is longer than a line. Wide characters count two.
func wrap(s string, columns int) []string {
	columns = max(columns, 2) // a wide character must fit
	var lines []string
	for _, l := range strings.Split(strings.TrimRight(clean(s), "\n"), "\n") {
		lines = append(lines, wrapLine(strings.TrimRight(l, " "), columns)...)
	}
	return lines
}

func wrapLine(text string, columns int) (lines []string) {
	line, used := "", 0
	for text != "" {
		word := strings.TrimLeft(text, " ")
		gap := text[:len(text)-len(word)]
		word, text = cutWord(word)
		switch wide := ansi.StringWidth(word); {
		case used+len(gap)+wide <= columns:
			line += gap + word
			used = ansi.StringWidth(line)
			continue
		case wide > columns && used+len(gap) < columns: // it fills up the line
			line, used = line+gap, used+len(gap)
		case line != "":
			lines, line, used = append(lines, line), "", 0
		}
		for word != "" {
			cluster, wide := ansi.FirstGraphemeCluster(word, ansi.GraphemeWidth)
			if used+wide > columns {
				lines, line, used = append(lines, strings.TrimRight(line, " ")), "", 0
			}
			line, used = line+cluster, used+wide
			word = word[len(cluster):]
		}
	}
	return append(lines, line)
}

// cutWord cuts s before its first space.
func cutWord(s string) (word, rest string) {
	if i := strings.IndexByte(s, ' '); i >= 0 {
		return s[:i], s[i:]
	}
	return s, ""
}

// name is what a user is called, on one row. Anybody may take any nickname, so
// it begins with the account, where the two differ in more than case: that is
// what /to takes, it can have neither space nor bracket, and it is left where
// the end is cut off.
func name(u *authpb.User) string {
	account, nickname := u.GetAccount(), strings.TrimSpace(firstRow(clean(u.GetNickname())))
	switch {
	case nickname == "":
		return account
	case lower(nickname) == lower(account):
		return nickname
	}
	return account + " (" + nickname + ")"
}

// lower folds ASCII alone: other letters that fold to these look different.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}

// firstRow is what stands before the first newline.
func firstRow(s string) string {
	row, _, _ := strings.Cut(s, "\n")
	return row
}

// fit makes s exactly that many columns wide.
func fit(s string, columns int) string {
	if columns <= 0 {
		return ""
	}
	s = ansi.Truncate(s, columns, "…")
	return s + strings.Repeat(" ", max(0, columns-ansi.StringWidth(s)))
}

// explain says for people why something failed.
func explain(err error) string {
	var typed *client.Error
	if errors.As(err, &typed) {
		text := typed.Message
		if broken := typed.Violations; len(broken) > 0 {
			rules := make([]*commonpb.Violation, len(broken))
			for i, v := range broken {
				rules[i] = &commonpb.Violation{Field: v.Field, Rule: v.Rule}
			}
			text = failure.Words(rules)
		}
		if text != "" {
			return clean(text)
		}
	}
	if s, ok := status.FromError(err); ok && s.Code() != codes.OK {
		return clean(s.Message())
	}
	var system syscall.Errno // what the network says: the rest is which address
	if errors.As(err, &system) {
		return system.Error()
	}
	return clean(strings.TrimPrefix(err.Error(), "client: "))
}
