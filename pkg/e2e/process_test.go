package e2e_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is one that a test started. It ends with its test, whatever happens.
type process struct {
	name   string
	cmd    *exec.Cmd
	out    output // standard output and standard error
	exited chan struct{}
	err    error // of Wait, once exited is closed

	settled bool // the test has seen it end; for the test's goroutine only
}

// start starts a command with nothing of this process's environment but what
// programs need, and env.
func start(t *testing.T, env []string, binary string, args ...string) *process {
	t.Helper()
	name := strings.Join(args, " ")
	if name == "" {
		name = binary
	}
	p := &process{name: name, exited: make(chan struct{})}
	p.cmd = exec.Command(binary, args...)
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "GORACE=atexit_sleep_ms=10"}, env...)
	p.cmd.Dir = t.TempDir()
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = deathSignal()
	p.cmd.WaitDelay = 5 * time.Second
	p.out.changed = make(chan struct{})

	started := make(chan error)
	built.starts <- func() { started <- p.cmd.Start() }
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() { p.cleanup(t) })
	return p
}

// cleanup ends the process the way its owner would, which has to work.
func (p *process) cleanup(t *testing.T) {
	if !p.settled {
		p.signal(t, syscall.SIGTERM)
		p.ends(t, 0)
	}
	text := p.out.String()
	for _, bad := range []string{"DATA RACE", "panic"} {
		if strings.Contains(text, bad) {
			t.Errorf("%s: its output has %q", p.name, bad)
		}
	}
	if t.Failed() {
		t.Logf("--- output of %s (pid %d):\n%s", p.name, p.cmd.Process.Pid, tail(text))
	}
}

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	select {
	case <-p.exited:
		if !p.settled {
			t.Errorf("%s has ended by itself: %v", p.name, p.err)
		}
	default:
		// It may end at this very moment, which the exit code will say.
		_ = p.cmd.Process.Signal(s)
	}
}

// stopTime is longer than the limits to which processes keep when they end: a
// gate drains for 10 s twice, a worker once, and each closes what it has open.
const stopTime = 40 * time.Second

// ends waits for the end of the process, and for the code with which it exits.
func (p *process) ends(t *testing.T, code int) {
	t.Helper()
	p.settled = true
	limit := time.NewTimer(stopTime)
	defer limit.Stop()
	select {
	case <-p.exited:
	case <-limit.C:
		t.Errorf("%s does not end; its goroutines are in its output", p.name)
		_ = p.cmd.Process.Signal(syscall.SIGQUIT)
		select {
		case <-p.exited:
		case <-time.After(5 * time.Second):
			_ = p.cmd.Process.Kill()
			<-p.exited
		}
		return
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("%s exited with %d (%v), want %d", p.name, got, p.err, code)
	}
}

// kill gives the process no chance.
func (p *process) kill(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGKILL)
	p.settled = true
	<-p.exited
}

// lives fails the test if the process has ended.
func (p *process) lives(t *testing.T) {
	t.Helper()
	select {
	case <-p.exited:
		t.Errorf("%s has ended by itself: %v", p.name, p.err)
	default:
	}
}

// says waits until the output has something, and returns the match.
func (p *process) says(t *testing.T, pattern string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	re := regexp.MustCompile(pattern)
	for {
		changed := p.out.waiting()
		if match := re.FindStringSubmatch(p.out.String()); match != nil {
			return match
		}
		select {
		case <-changed:
		case <-p.exited:
			if match := re.FindStringSubmatch(p.out.String()); match != nil {
				return match
			}
			t.Fatalf("%s ended (%v) before it said %q", p.name, p.err, pattern)
		case <-ctx.Done():
			t.Fatalf("%s does not say %q", p.name, pattern)
		}
	}
}

// command runs a command to its end and returns its output.
func command(t *testing.T, env []string, code int, args ...string) string {
	t.Helper()
	p := start(t, env, built.binary, args...)
	p.ends(t, code)
	return p.out.String()
}

// output keeps what a process writes, up to a bound.
type output struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{} // closed at the next write
}

const maxOutput = 16 << 20

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.text.Len() < maxOutput {
		o.text.Write(b)
	}
	close(o.changed)
	o.changed = make(chan struct{})
	return len(b), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func (o *output) waiting() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.changed
}

// tail is as much of an output as anybody will read.
func tail(text string) string {
	const first, last = 2 << 10, 6 << 10
	if len(text) <= first+last {
		return text
	}
	return text[:first] + "\n[…]\n" + text[len(text)-last:]
}
