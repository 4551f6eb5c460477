package dead

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestNothingHarmfulGetsThrough(t *testing.T) {
	const bad = "a\x1b[31mred\x1b]0;title\x07\r\n\tb\x00\x7f\u009b2J\u202eright\u2066\u200f\ufeff\u2028\xffend 😀 👩‍👩‍👧"
	for name, text := range map[string]string{"line": line(bad), "first": first("\n" + bad + "\nsecond"), "lines": strings.Join(lines(bad), "")} {
		if strings.ContainsFunc(text, harmful) || !strings.Contains(text, `\u001b[31mred`) {
			t.Errorf("%s is %q", name, text)
		}
		if name != "first" && !strings.HasSuffix(text, `\u2028\xffend 😀 👩‍👩‍👧`) {
			t.Errorf("%s is %q", name, text)
		}
		if strings.Contains(text, "second") {
			t.Errorf("%s has another line: %q", name, text)
		}
	}
	if got := line(bad); !strings.Contains(got, `\u0007\r\n\tb\u0000\u007f\u009b2J\u202eright`) {
		t.Errorf("got %q", got)
	}
	if got := lines("a\r\n\tb\n\n"); len(got) != 2 || got[1] != "    b" {
		t.Errorf("got %q", got)
	}
	for _, indent := range []string{"", "  "} {
		text, err := asJSON(map[string]string{"x": bad, "<&>": "plain"}, indent)
		var back map[string]string
		if err != nil || strings.ContainsFunc(text, hidden) || json.Unmarshal([]byte(text), &back) != nil || back["x"] != strings.ToValidUTF8(bad, "\uFFFD") || !strings.Contains(text, "<&>") {
			t.Errorf("%v: %q", err, text)
		}
	}
}

func TestNumbers(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Hour: "0s", 0: "0s", 59 * time.Second: "59s", time.Minute: "1m", 59 * time.Minute: "59m",
		time.Hour: "1h", 47 * time.Hour: "47h", 48 * time.Hour: "2d", 1000 * time.Hour: "41d",
	} {
		if got := short(d); got != want {
			t.Errorf("short(%v) is %s, want %s", d, got, want)
		}
	}
	for n, want := range map[int]string{0: "0 letters", 1: "1 letter", 999: "999 letters", 1000: "1,000 letters", 1234567: "1,234,567 letters"} {
		if got := letters(n); got != want {
			t.Errorf("letters(%d) is %s, want %s", n, got, want)
		}
	}
}
