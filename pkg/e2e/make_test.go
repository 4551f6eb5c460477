package e2e_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// makeTime bounds one call of make, which may have to compile everything.
const makeTime = 5 * time.Minute

// making is a copy of the working tree, in which targets of the Makefile do what they
// do without disturbing anybody.
type making struct {
	t   *testing.T
	dir string
	env []string
}

func newMaking(t *testing.T) *making {
	t.Helper()
	m := &making{t: t, dir: t.TempDir()}
	err := filepath.WalkDir(built.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(built.root, path)
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{".git", ".cache", ".dev", "bin"}, name):
			return filepath.SkipDir
		case name == ".git": // a file, in a work tree of git's
			return nil
		case d.IsDir():
			return os.MkdirAll(filepath.Join(m.dir, name), 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(m.dir, name), b, info.Mode())
	})
	if err != nil {
		t.Fatal(err)
	}
	flags := "-trimpath"
	for _, v := range os.Environ() {
		name, value, _ := strings.Cut(v, "=")
		switch {
		case strings.HasPrefix(name, "MINIGATE_"), name == "MAKEFLAGS", name == "MFLAGS", name == "MAKELEVEL":
		case name == "GOFLAGS": // so that make docs can use what make build has compiled
			flags += " " + value
		default:
			m.env = append(m.env, v)
		}
	}
	// The version is git's, and there may be a repository around the folder.
	m.env = append(m.env, "GOFLAGS="+flags, "GIT_CEILING_DIRECTORIES="+filepath.Dir(m.dir))
	return m
}

// make calls make, which is to succeed, and returns what it printed.
func (m *making) make(args ...string) string {
	m.t.Helper()
	return m.run(makeTime, "make", args...)
}

func (m *making) run(within time.Duration, name string, args ...string) string {
	m.t.Helper()
	out, err := m.try(within, name, args...)
	if err != nil {
		m.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func (m *making) try(within time.Duration, name string, args ...string) (string, error) {
	// Not the test's own context: cleaning up comes after its end.
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = m.dir, m.env, 5*time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// has says whether there is a file, or a folder, of a name.
func (m *making) has(name string) bool {
	_, err := os.Stat(filepath.Join(m.dir, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.t.Fatal(err)
	}
	return err == nil
}

// pid is of the process in the background; empty where there is none.
func (m *making) pid() string {
	b, err := os.ReadFile(filepath.Join(m.dir, ".dev", "minigate.pid"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// alive says whether a process runs that was started in the background. One that has
// ended may still have its number where nobody waits for it.
func (m *making) alive(pid string) bool {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ps", "-p", pid, "-o", "args=").Output()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		m.t.Fatal(err)
	}
	return strings.Contains(string(out), "minigate dev")
}

// TestMakeHelp: make help lists every target, with what stands behind it.
func TestMakeHelp(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(filepath.Join(built.root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	help := (&making{t: t, dir: built.root, env: os.Environ()}).run(patience, "make", "--no-print-directory", "help")
	told := make(map[string]string)
	for line := range strings.Lines(help) {
		if fields := strings.Fields(line); len(fields) > 1 {
			told[fields[0]] = strings.Join(fields[1:], " ")
		}
	}
	explained := make(map[string]bool)
	for _, target := range regexp.MustCompile(`(?m)^([\w-]+):[^=\n]*## (.+)$`).FindAllStringSubmatch(string(b), -1) {
		explained[target[1]] = true
		if told[target[1]] != strings.Join(strings.Fields(target[2]), " ") {
			t.Errorf("make help says %q of %s, want %q", told[target[1]], target[1], target[2])
		}
	}
	if len(explained) < 20 || len(told) != len(explained) {
		t.Errorf("make help lists %d targets, the Makefile explains %d", len(told), len(explained))
	}
	for _, phony := range regexp.MustCompile(`(?m)^\.PHONY: (.+)$`).FindAllStringSubmatch(string(b), -1) {
		for _, target := range strings.Fields(phony[1]) {
			if !explained[target] {
				t.Errorf("the Makefile does not say what %s is for", target)
			}
		}
	}
}

// TestMake: a new user builds it, runs it in the background, looks at its log, reads
// the documents, and leaves nothing behind.
func TestMake(t *testing.T) {
	t.Parallel()
	m := newMaking(t)
	m.make("build")
	if said := m.run(patience, "bin/minigate", "version"); !strings.HasPrefix(said, "minigate unknown ") {
		t.Errorf("outside of a repository it is %q", said)
	}

	tcp, ws := freePort(t), freePort(t)
	flags := "DEVFLAGS=--admin= --gate-tcp " + tcp + " --gate-websocket " + ws + " --gate-grpc " + freePort(t) + " --auth-grpc " + freePort(t)
	t.Cleanup(func() { m.run(makeTime, ".ci/dev", "stop") }) // whatever happens
	if said := m.make("start", flags); !strings.Contains(said, "It runs in the background, with process id "+m.pid()) {
		t.Errorf("make start says\n%s", said)
	}
	answers := func() {
		t.Helper()
		eventually(t, "it answers", func() bool { // clients may come before the workers take requests
			got, err := m.try(patience, "bin/minigate", "call", "--gate", "ws://"+ws+"/ws", "echo.echo", `{"a":1}`)
			return err == nil && strings.TrimSpace(got) == `{"a":1}`
		})
	}
	answers()
	first := m.pid()
	if said := m.make("start", flags); !strings.Contains(said, "runs already, with process id "+first) || m.pid() != first {
		t.Errorf("make start, again, says\n%s", said)
	}
	follow := start(t, m.env, "make", "-C", m.dir, "logs")
	follow.says(t, "minigate is ready")
	follow.signal(t, syscall.SIGTERM)
	follow.ends(t, -1) // make ends its target, and then by the signal

	m.make("restart", flags)
	if second := m.pid(); second == first || second == "" {
		t.Errorf("make restart: process %q follows %q", second, first)
	}
	answers()
	if said := m.make("stop"); !strings.Contains(said, "everything was finished") || m.pid() != "" {
		t.Errorf("make stop says\n%s", said)
	}
	if said := m.make("stop"); !strings.Contains(said, "does not run") {
		t.Errorf("make stop, with nothing to stop, says\n%s", said)
	}

	if said, err := m.try(makeTime, "make", "start", "DEVFLAGS=--gate-tcp nowhere"); err == nil || !strings.Contains(said, `"nowhere"`) || !strings.Contains(said, "minigate dev has ended") {
		t.Errorf("make start with a bad setting: %v\n%s", err, said)
	}

	m.make("docs")
	for _, page := range []string{"index.html", "operations.html", "configuration.html"} {
		if !m.has(".cache/docs/" + page) {
			t.Errorf("make docs makes no %s", page)
		}
	}
	same, err := os.ReadFile(filepath.Join(built.root, "docs", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	if made, err := os.ReadFile(filepath.Join(m.dir, "docs", "configuration.md")); err != nil || string(made) != string(same) {
		t.Errorf("make docs writes another docs/configuration.md: %v", err)
	}

	m.make("start", flags)
	last := m.pid()
	if !m.alive(last) {
		t.Errorf("process %q does not run", last)
	}
	t.Cleanup(func() {
		if n, err := strconv.Atoi(last); err == nil && m.alive(last) {
			_ = syscall.Kill(n, syscall.SIGKILL)
		}
	})
	m.make("clean") // which ends it first
	if m.alive(last) {
		t.Errorf("make clean leaves process %s", last)
	}
	for _, left := range []string{"bin", ".cache", ".dev"} {
		if m.has(left) {
			t.Errorf("make clean leaves %s", left)
		}
	}
}
