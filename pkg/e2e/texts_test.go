package e2e_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const fortunes = "/usr/share/games/fortunes"

// emoji are beyond the Basic Multilingual Plane, alone and joined.
var emoji = []string{
	"😀", "🀄🃏", "👩‍👩‍👧‍👦 👋🏽 🏳️‍🌈 🇨🇳🇩🇪", "𝕸𝖎𝖓𝖎𝖌𝖆𝖙𝖊 𠜎𠜱𠝹 \U0010FFFD",
	strings.Repeat("🎲", 4096), // 16,384 bytes, all that a text may have
}

// texts are all lines of Debian's fortunes and fortunes-zh, in their order, and
// emoji. A text is some lines: one, a few, as many as a text may have, in turn, so
// that all lines are sent within the time of a test. MINIGATE_TEST_LINES=1
// sends each line as a text of its own, empty ones excepted, which are no texts.
func texts(t *testing.T) (all []string, lines int) {
	t.Helper()
	sizes := []int{1, 2, 400, 5, 400, 1, 50, 400}
	if n, err := strconv.Atoi(os.Getenv("MINIGATE_TEST_LINES")); err == nil && n > 0 {
		sizes = []int{n}
	}
	files, err := os.ReadDir(fortunes)
	if err != nil {
		t.Fatalf("%v: install Debian's fortunes and fortunes-zh, as deploy/services.sh does", err)
	}
	for _, f := range files {
		if filepath.Ext(f.Name()) != "" || !f.Type().IsRegular() {
			continue // an index, or another name of the same
		}
		b, err := os.ReadFile(filepath.Join(fortunes, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		of := strings.Split(string(b), "\n")
		lines += len(of)
		all = append(all, packed(of, sizes)...)
	}
	if lines < 100_000 {
		t.Fatalf("%s has %d lines: are fortunes and fortunes-zh both installed?", fortunes, lines)
	}
	return append(all, emoji...), lines
}

const maxText = 16 << 10 // of chat.send, in bytes

// packed joins lines to texts: sizes[0] lines, then sizes[1], and so on.
func packed(lines []string, sizes []int) (texts []string) {
	for turn := 0; len(lines) > 0; turn++ {
		n, bytes := 0, 0
		for n < len(lines) && n < sizes[turn%len(sizes)] && bytes+len(lines[n])+1 <= maxText {
			bytes += len(lines[n]) + 1
			n++
		}
		if text := strings.Join(lines[:n], "\n"); text != "" {
			texts = append(texts, text)
		}
		lines = lines[n:]
	}
	return texts
}
