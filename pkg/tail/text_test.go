package tail

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestCleanWritesOutWhatATerminalWouldObey(t *testing.T) {
	for in, want := range map[string]string{
		"plain, ünïcode 世界 👩‍👩‍👧": "plain, ünïcode 世界 👩‍👩‍👧",
		"\x1b]0;title\x07":        `\u001b]0;title\u0007`,
		"a\nb\tc\r":               `a\u000ab\u0009c\u000d`,
		"\u009b31m\x7f":           `\u009b31m\u007f`,
		"\u202eabc\u2066\u200f":   `\u202eabc\u2066\u200f`,
		"\u2028\u2029\ufeff":      `\u2028\u2029\ufeff`,
		"\xff\xfe":                `\ufffd\ufffd`,
		"\U000e0001":              `\udb40\udc01`,
	} {
		if got := Clean(in); got != want {
			t.Errorf("%q becomes %s, want %s", in, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	for _, seed := range []string{"a", "\x1b[31m", "\xff", "\u202e", "\U000e0001", "👩‍👩‍👧"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := Clean(s)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool {
			return unicode.IsControl(r) || '\u202a' <= r && r <= '\u202e' || '\u2066' <= r && r <= '\u2069'
		}) {
			t.Errorf("%q becomes %q", s, got)
		}
		// In JSON it is still the same text.
		quoted, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var before, after string
		if json.Unmarshal(quoted, &before) != nil || json.Unmarshal([]byte(Clean(string(quoted))), &after) != nil || before != after {
			t.Errorf("in JSON %s becomes %s", quoted, Clean(string(quoted)))
		}
	})
}
