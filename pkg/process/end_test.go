package process

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/motto123/minigate/pkg/logging"
	"github.com/motto123/minigate/pkg/parts"
)

// ending is a process of which nothing is left but its end.
func ending(t *testing.T) (*process, *bytes.Buffer) {
	t.Helper()
	var screen bytes.Buffer
	log, err := logging.New(logging.Config{Level: "info", Screen: &screen})
	if err != nil {
		t.Fatal(err)
	}
	return &process{Config: &Config{Ending: parts.NewEnding()}, log: log}, &screen
}

func TestTheLastLineSaysHowItWent(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name  string
		hurry bool
		cut   string
		err   error
		code  int
		says  []string
		not   string
	}{
		{name: "in time", says: []string{"level=info", "everything was finished", "took=1.5s"}, not: "hurried"},
		{name: "hurried, and yet in time", hurry: true, says: []string{"level=info", "everything was finished", "hurried=true"}, not: "cut_off"},
		{name: "not in time", cut: "chat worker: 3 handlers", code: ExitCutOff, says: []string{"level=warning", `cut_off="chat worker: 3 handlers"`}, not: "hurried"},
		{name: "failed", cut: "the rest", err: broken, code: ExitFailed, says: []string{"level=error", "error=broken", `cut_off="the rest"`}},
	} {
		p, screen := ending(t)
		quiet := p.sayHurry()
		if c.hurry {
			p.Ending.Hurry()
		}
		if c.cut != "" {
			p.Ending.CutOff("%s", c.cut)
		}
		quiet()
		err := p.tell(c.err, 1500*time.Millisecond)
		var ended *Ended
		if code := 0; errors.As(err, &ended) {
			code = ended.Code
			if code != c.code {
				t.Errorf("%s: exit code %d, want %d", c.name, code, c.code)
			}
		} else if c.code != 0 || err != nil {
			t.Errorf("%s: got %v, want exit code %d", c.name, err, c.code)
		}
		if c.err != nil && !errors.Is(err, c.err) {
			t.Errorf("%s: got %v", c.name, err)
		}
		lines := strings.Split(strings.TrimSpace(screen.String()), "\n")
		last := lines[len(lines)-1]
		for _, want := range c.says {
			if !strings.Contains(last, want) {
				t.Errorf("%s: the last line has no %s: %s", c.name, want, last)
			}
		}
		if c.not != "" && strings.Contains(last, c.not) {
			t.Errorf("%s: the last line has %s: %s", c.name, c.not, last)
		}
	}
}
