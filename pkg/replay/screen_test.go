package replay

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/settings"
	"github.com/motto123/minigate/pkg/tail"
	"github.com/motto123/minigate/pkg/tape"
)

// testScreen is a screen, and what is written on it.
func testScreen() (s *screen, out, progress *bytes.Buffer) {
	out, progress = new(bytes.Buffer), new(bytes.Buffer)
	return &screen{out: bufio.NewWriter(out), errors: progress, terminal: -1, printer: tail.Printer{Now: began}}, out, progress
}

func TestWhatDiffersLooksLikeADiff(t *testing.T) {
	s, out, _ := testScreen()
	c := &tape.Call{Place: tape.Place{Position: tape.Position{Offset: 5, Index: 1}, Item: 2}, Route: "chat.send", User: 42, Gate: "3f2a", Session: 7, Taken: began.Local()}
	s.printer.Now = began.Local()
	s.differs(c, nil, []Difference{{"number", "2", "99"}, {"text", `"a"`, ""}, {"more\x1b", "", "true"}, {"", "no answer", "OK"}})
	want := `5.1.2  ` + began.Local().Format("15:04:05.000") + `  chat.send           42                   3f2a/7
  - number: 2
  + number: 99
  - text: "a"
  + more\u001b: true
  - no answer
  + OK
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out, want)
	}
	out.Reset()
	s.differs(c, nil, make([]Difference, maxDifferences+3))
	if !strings.Contains(out.String(), "and 3 more values\n") {
		t.Errorf("too much is\n%s", out)
	}
}

func TestTheSummarySaysWhatCame(t *testing.T) {
	s, out, _ := testScreen()
	if err := s.summary(Result{
		Sent: 1234567, Same: 1234560, Differ: 7, Unanswered: 2, Masked: 3, Pushes: 4, Took: 10 * time.Second,
		Then: Latencies{5, time.Millisecond, 20 * time.Millisecond}, Now: Latencies{5, 2 * time.Millisecond, 300 * time.Millisecond},
		Next: tape.Place{Position: tape.Position{Offset: 9}},
	}); err != nil {
		t.Fatal(err)
	}
	want := `sent          1,234,567  in 10.00s, 123,456 requests/s
same          1,234,560
differ        7, of which 2 not answered
left out      3  (sensitive fields are masked on the tape; --masked sends them so)
pushes        4  (delivered to nobody)
latency then  p50 1.00ms  p99 20.0ms  (gate to answer)
latency now   p50 2.00ms  p99 300ms  (this tool, there and back)
position      9.0.0  (--from 9.0.0 sends what comes behind)
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out, want)
	}
	s.out = bufio.NewWriter(broken{})
	if err := s.summary(Result{}); !errors.Is(err, errBroken) {
		t.Errorf("an output that takes nothing is %v", err)
	}
}

type broken struct{}

var errBroken = errors.New("the pipe is broken")

func (broken) Write([]byte) (int, error) { return 0, errBroken }

func TestProgressIsABarOnATerminalOnly(t *testing.T) {
	r := Result{Sent: 500, Differ: 1, Began: time.Now().Add(-time.Second), First: began, At: began.Add(30 * time.Second), Next: tape.Place{Position: tape.Position{Offset: 9}}}
	s, out, progress := testScreen()
	s.progress(r)
	if got := progress.String(); !strings.HasSuffix(got, "1 differ  --from 9.0.0\n") || strings.Contains(got, "\x1b") {
		t.Errorf("in a pipe it is %q", got)
	}
	s.progress(r)
	if strings.Count(progress.String(), "\n") != 1 {
		t.Errorf("at once again: %q", progress)
	}

	// A file has no width, so nothing is cut off.
	file, err := os.Create(filepath.Join(t.TempDir(), "screen"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	bar := func(change func(*screen)) string {
		s, _, progress := testScreen()
		s.terminal = int(file.Fd())
		change(s)
		s.progress(r)
		return progress.String()
	}
	for name, change := range map[string]func(*screen){
		"by number":              func(s *screen) { s.total = 1000 },
		"by time":                func(s *screen) { s.printer.Now = began.Add(time.Minute) },
		"by time, up to a limit": func(s *screen) { s.printer.Now, s.end = began.Add(time.Hour), began.Add(time.Minute) },
	} {
		if got := bar(change); !strings.HasPrefix(got, "\r\x1b[K["+strings.Repeat("█", 12)+strings.Repeat("░", 12)+"]  50%  500 sent  ") {
			t.Errorf("%s it is %q", name, got)
		}
	}
	if got := bar(func(*screen) {}); !strings.HasPrefix(got, "\r\x1b[K500 sent") {
		t.Errorf("where nobody knows how much there is it is %q", got)
	}
	s.terminal = int(file.Fd())
	s.progress(r)
	s.differs(&tape.Call{}, nil, nil)
	if !strings.HasSuffix(progress.String(), "\r\x1b[K") || out.Len() == 0 {
		t.Errorf("before something else is printed it is not wiped: %q", progress)
	}
}

// command is one whose flags are parsed.
func command(t *testing.T, args ...string) *Command {
	t.Helper()
	c, s := new(Command), settings.Set{FlagSet: pflag.NewFlagSet("replay", pflag.ContinueOnError)}
	c.Settings(s)
	if err := s.Parse(args); err != nil {
		t.Fatal(err)
	}
	return c
}

func saved(t *testing.T, r *recorded) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "saved")
	file, err := tape.CreateFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range r.entries {
		if err := file.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWhatTheCommandRefuses(t *testing.T) {
	file := saved(t, echoes(3))
	for name, c := range map[string]struct {
		args []string
		file []string
		says []string
	}{
		"no prefix":           {nil, []string{file}, []string{"--to is missing", "minigate worker chat --prefix shadow"}},
		"the recorded prefix": {[]string{"--to", bus.DefaultPrefix}, []string{file}, []string{"is the installation that was recorded", "--against-production", "keep their ids"}},
		"another, recorded":   {[]string{"--to", "mine", "--prefix", "mine"}, nil, []string{"--to mine is the installation"}},
		"two sources":         {[]string{"--to", "shadow", "--dead"}, []string{file}, []string{"--dead"}},
		"no such file":        {[]string{"--to", "shadow"}, []string{file + "x"}, []string{"no such file"}},
		"bad pattern":         {[]string{"--to", "shadow", "--gate-id", "a", "--session", "b/1"}, []string{file}, []string{"session b/1 is not on gate a"}},
	} {
		_, _, err := command(t, c.args...).config(c.file)
		if err == nil {
			t.Errorf("%s is not refused", name)
			continue
		}
		for _, says := range c.says {
			if !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v does not say %q", name, err, says)
			}
		}
	}
	c := command(t, "--to", bus.DefaultPrefix, "--against-production", "--ignore", "a.b", "--ignore", "c,d", "--speed", "0.5", "--limit", "2", "--masked")
	cfg, name, err := c.config([]string{file})
	if err != nil || name != file || len(cfg.Comparer.ignored) != 3 || cfg.Speed != 0.5 || cfg.Limit != 2 || !cfg.Masked {
		t.Fatalf("got %+v of %s, %v", cfg, name, err)
	}
	if err := cfg.Source.Close(); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"0", "-1", "fast", "1e9"} {
		if _, err := speed(bad); err == nil {
			t.Errorf("speed %s is taken", bad)
		}
	}
}

func TestADryRunOnlySays(t *testing.T) {
	r := echoes(30)
	r.entries[0].Masked = true
	c := command(t, "--to", "shadow", "--limit", "7", "--user", "1")
	cfg, _, err := c.config([]string{saved(t, r)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cfg.Source.Close() }()
	n, err := count(t.Context(), cfg)
	s, out, _ := testScreen()
	if err := errors.Join(err, dry(t.Context(), cfg, s, "shadow")); err != nil {
		t.Fatal(err)
	}
	if n != 3 || strings.Count(out.String(), "echo.echo") != 3 || !strings.HasSuffix(out.String(), "3 requests would be sent to the workers of shadow\n") {
		t.Errorf("counted %d, printed\n%s", n, out)
	}
	cfg.Limit = 2
	if n, err := count(t.Context(), cfg); n != 2 || err != nil {
		t.Errorf("with a limit of 2 are %d, %v", n, err)
	}
	cfg.Limit, cfg.Filter = 0, new(tape.Filter)
	s, out, _ = testScreen()
	if err := dry(t.Context(), cfg, s, "shadow"); err != nil || !strings.HasSuffix(out.String(), "\n29 requests would be sent to the workers of shadow\n1 left out: "+whyMasked+"\n") {
		t.Errorf("of a tape with a masked request it says, %v,\n%s", err, out)
	}
}

// A dry run with a limit says those that a run with it sends, which are the first of the
// tape, and not the first that were answered.
func TestADryRunSaysWhichAreSent(t *testing.T) {
	r := new(recorded)
	for i := range 6 {
		r.call(1000*i, "g", "echo.echo", bus.Request{Session: uint64(i + 1), Sequence: 1, ID: uint64(i + 1)})
	}
	for i := 5; i >= 0; i-- { // the last one first
		r.answer(5200-10*i, "g", bus.Reply{Session: uint64(i + 1), Sequence: 1, Code: 5})
	}
	for _, args := range [][]string{nil, {"--errors"}} {
		c := command(t, append([]string{"--to", "shadow", "--limit", "2"}, args...)...)
		cfg, _, err := c.config([]string{saved(t, r)})
		if err != nil {
			t.Fatal(err)
		}
		s, out, _ := testScreen()
		if err := errors.Join(dry(t.Context(), cfg, s, "shadow"), cfg.Source.Close()); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), " 0.0.0\n") || !strings.Contains(out.String(), " 1.0.0\n") || strings.Count(out.String(), "echo.echo") != 2 {
			t.Errorf("with %q it says\n%s", args, out)
		}
	}
}
