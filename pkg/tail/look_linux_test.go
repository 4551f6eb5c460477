package tail

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOnlyATerminalHasColours(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = terminal.Close() }()
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	for _, c := range []struct {
		file          *os.File
		noColor, term string
		on            bool
	}{
		{terminal, "", "xterm", true}, {terminal, "1", "xterm", false}, {terminal, "", "dumb", false}, {file, "", "xterm", false},
	} {
		t.Setenv("NO_COLOR", c.noColor)
		t.Setenv("TERM", c.term)
		if got := NewLook(c.file).on; got != c.on {
			t.Errorf("%s with NO_COLOR=%s TERM=%s has colours: %v", c.file.Name(), c.noColor, c.term, got)
		}
	}
}
