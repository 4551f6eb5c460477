package dead

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// screen is a terminal, with somebody before it.
type screen struct {
	t    *testing.T
	cmd  *exec.Cmd
	near *os.File // what the person types and sees

	mu   sync.Mutex
	text strings.Builder
	read chan struct{} // closed when all is read
}

// onScreen starts the command on a terminal of that many columns.
func onScreen(t *testing.T, r *rig, columns uint16, env []string, args ...string) *screen {
	t.Helper()
	near, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(near.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(near.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(near.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}); err != nil {
		t.Fatal(err)
	}
	far, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := &screen{t: t, cmd: command(t, r, r.url, args...), near: near, read: make(chan struct{})}
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = far, far, far
	s.cmd.Env = append(s.cmd.Env, env...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := far.Close(); err != nil {
		t.Fatal(err)
	}
	go s.watch()
	t.Cleanup(func() {
		if s.cmd.ProcessState == nil {
			_ = s.cmd.Process.Kill()
			_ = s.cmd.Wait()
		}
		<-s.read
		if err := near.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// watch reads until the last process has closed the terminal, which is an error.
func (s *screen) watch() {
	defer close(s.read)
	b := make([]byte, 4096)
	for {
		n, err := s.near.Read(b)
		s.mu.Lock()
		s.text.Write(b[:n])
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func (s *screen) types(text string) {
	s.t.Helper()
	if _, err := s.near.WriteString(text); err != nil {
		s.t.Fatal(err)
	}
}

// ends waits for the end of the command, and returns all that it has written.
func (s *screen) ends(code int) string {
	s.t.Helper()
	_ = s.cmd.Wait() // the code says more
	<-s.read
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.t.Errorf("%v ended with %d, want %d:\n%s", s.cmd.Args[1:], got, code, s)
	}
	return s.String()
}

func TestListOnATerminal(t *testing.T) {
	r := newRig(t)
	if out := onScreen(t, r, 100, nil, "list").ends(0); !strings.Contains(out, "no dead letters") {
		t.Errorf("of an empty queue: %q", out)
	}
	r.letter("x", "email.verification", "1", reason(hostile+strings.Repeat("很长", 200)))
	out := onScreen(t, r, 80, nil, "list").ends(0)
	lines := strings.Split(strings.TrimSuffix(out, "\r\n"), "\r\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "\x1b[2mID") || !strings.Contains(lines[0], "ROUTE OR EVENT") || !strings.HasPrefix(lines[1], "\x1b[36m") || !strings.HasSuffix(lines[1], "…") {
		t.Fatalf("shown is %q", lines)
	}
	plain := strings.NewReplacer("\x1b[36m", "", "\x1b[33m", "", "\x1b[0m", "").Replace(lines[1])
	if strings.ContainsFunc(plain, harmful) || !strings.Contains(plain, `\u001b[2J`) || len([]rune(plain)) > 80 {
		t.Errorf("shown is %q", plain)
	}
	out = onScreen(t, r, 80, []string{"NO_COLOR=1"}, "list").ends(0)
	if strings.Contains(out, "\x1b") || !strings.HasPrefix(out, "ID") {
		t.Errorf("without colours: %q", out)
	}
	if out := onScreen(t, r, 80, nil, "list", "--json").ends(0); strings.Contains(out, "\x1b") || !strings.HasPrefix(out, "{") {
		t.Errorf("as JSON: %q", out)
	}
	if out := onScreen(t, r, 80, nil, "list", "--route", "x").ends(0); !strings.Contains(out, "none of 1 letter") {
		t.Errorf("nothing that fits: %q", out)
	}
	id := strings.Fields(plain)[0]
	out = onScreen(t, r, 80, nil, "show", id).ends(0)
	bare := strings.NewReplacer("\x1b[1m", "", "\x1b[2m", "", "\x1b[31m", "", "\x1b[33m", "", "\x1b[36m", "", "\x1b[0m", "", "\r\n", "").Replace(out)
	if strings.ContainsFunc(bare, harmful) || !strings.Contains(out, "\x1b[1mletter") {
		t.Errorf("shown is %q", out)
	}
}

func TestMoveAsks(t *testing.T) {
	r := newRig(t)
	a, _ := mixed(r, 6)
	r.declare(a, nil)
	asks := func(answer string, code int, args ...string) string {
		t.Helper()
		s := onScreen(t, r, 120, nil, args...)
		eventually(t, "it asks", func() bool { return strings.Contains(s.String(), "[y/N] ") })
		if !strings.Contains(s.String(), "3 of "+a) || !strings.Contains(s.String(), "a.happened") {
			t.Errorf("it does not say which letters: %q", s)
		}
		s.types(answer)
		return s.ends(code)
	}
	for _, no := range []string{"n\n", "\n", "yess\n", "\x04", "\x03"} {
		out := asks(no, 1, "discard", "--event", "a.*")
		if strings.Contains(out, "discarded") {
			t.Errorf("upon %q: %q", no, out)
		}
		r.waiting(r.topology.DeadQueue(), 6)
	}
	// Letters that come while it asks are not meant.
	s := onScreen(t, r, 120, nil, "requeue", "--event", "a.*")
	eventually(t, "it asks", func() bool { return strings.Contains(s.String(), "requeue 3 letters (3 of "+a+")? [y/N] ") })
	r.letter(a, "a.happened", "late")
	s.types("y\n")
	if out := s.ends(0); !strings.Contains(out, "requeued 3 letters") {
		t.Errorf("got %q", out)
	}
	r.holds(a, "a0", "a2", "a4")
	r.holds(r.topology.DeadQueue(), "b1", "b3", "b5", "late")
	if out := onScreen(t, r, 120, nil, "requeue", "--event", "a.*").ends(0); !strings.Contains(out, "no dead letters") {
		t.Errorf("of an empty queue: %q", out)
	}
}
