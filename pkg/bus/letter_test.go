package bus_test

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/motto123/minigate/pkg/bus"
)

func TestLetterHeaders(t *testing.T) {
	first := time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.FixedZone("east", 3600))
	l := bus.Letter{
		Reason: "451 try later", Stack: "main.main\n\tmain.go:1", Route: "chat.send", Event: "email.verification", Group: "mailer",
		Attempts: 6, Deaths: 2, First: first, Last: first.Add(time.Hour),
	}
	headers := l.Headers()
	known := make(map[string]bool)
	for _, name := range bus.LetterHeaders {
		known[name] = true
	}
	for name := range headers {
		if !known[name] {
			t.Errorf("header %s is not in LetterHeaders", name)
		}
	}
	if len(headers) != len(known) {
		t.Errorf("got %d headers of %d", len(headers), len(known))
	}
	got := bus.ReadLetter(func(name string) string { return headers[name] })
	if !got.First.Equal(l.First) || !got.Last.Equal(l.Last) {
		t.Errorf("died %v and %v, want %v and %v", got.First, got.Last, l.First, l.Last)
	}
	got.First, got.Last = l.First, l.Last
	if got != l {
		t.Errorf("got %+v, want %+v", got, l)
	}
	if n := len(bus.Letter{}.Headers()); n != 0 {
		t.Errorf("a zero letter has %d headers", n)
	}
}

// All headers have to fit into one frame, and to be text.
func TestLetterHeadersAreBounded(t *testing.T) {
	long := "\xff" + strings.Repeat("😀", 100_000)
	for name, text := range (bus.Letter{Reason: long, Stack: long}).Headers() {
		if len(text) > bus.MaxStack || name == "reason" && len(text) > bus.MaxReason || !utf8.ValidString(text) || len(text) < 4000 {
			t.Errorf("%s has %d bytes, text: %v", name, len(text), utf8.ValidString(text))
		}
	}
}

// Anybody may publish to the queue of dead letters.
func TestReadLetterTakesAnything(t *testing.T) {
	got := bus.ReadLetter(func(string) string { return "-7" })
	if got.Attempts != 0 || got.Deaths != 0 || !got.First.IsZero() || !got.Last.IsZero() || got.Reason != "-7" {
		t.Errorf("got %+v", got)
	}
	d := bus.Delivery{Headers: map[string]any{"reason": int32(7), "deaths": "3", "died": []byte("x")}}
	if got := d.Letter(); got.Reason != "" || got.Deaths != 3 || !got.Last.IsZero() {
		t.Errorf("got %+v", got)
	}
}

func TestDiedAgain(t *testing.T) {
	first, second := time.Now(), time.Now().Add(time.Hour)
	var one, two bus.Letter
	one.DiedAgain(bus.Letter{}, first)
	two.DiedAgain(one, second)
	if one.Deaths != 1 || !one.First.Equal(first) || !one.Last.Equal(first) {
		t.Errorf("after the first time: %+v", one)
	}
	if two.Deaths != 2 || !two.First.Equal(first) || !two.Last.Equal(second) {
		t.Errorf("after the second time: %+v", two)
	}
}
