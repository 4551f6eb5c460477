// Package e2e_test holds the tests of the whole: they build the minigate
// command, start it as real processes on a real RabbitMQ, MySQL, Redis and SMTP
// server, and drive it with the Go client, as its users do.
//
// They refuse to look inside: nothing here reaches into a process but through its
// flags, its ports, its signals and its output.
package e2e_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// built is what TestMain made, before any test.
var built struct {
	root   string // of the module
	binary string
	starts chan func() // see starter
}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "minigate-e2e-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if built.root, err = moduleRoot(); err != nil {
		return 1, err
	}
	built.binary = filepath.Join(dir, "minigate")
	if err := build(built.binary, ".", ""); err != nil {
		return 1, err
	}
	built.starts = make(chan func())
	ended := make(chan struct{})
	go starter(ended)
	code = m.Run()
	close(built.starts)
	<-ended
	if code == 0 {
		err = goleak.Find()
	}
	// There must be no child left to wait for.
	if pid, none := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); !errors.Is(none, syscall.ECHILD) {
		err = errors.Join(err, fmt.Errorf("a process is left (wait4: %d, %v)", pid, none))
	}
	return code, err
}

func moduleRoot() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// build builds a package of the module with the race detector, so that a race in
// any process of a test is found; overlay may name a file as go build takes it.
func build(binary, pkg, overlay string) error {
	args := []string{"build", "-race", "-o", binary}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.Command("go", append(args, pkg)...)
	cmd.Dir = built.root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// starter starts all processes, from one thread that lives as long as the tests:
// a process with a death signal gets it when the thread ends that started it.
func starter(ended chan<- struct{}) {
	defer close(ended)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for start := range built.starts {
		start()
	}
}

// patience is how long a test waits for what takes a moment: much longer than it
// ever takes, since the machine may be busy.
const patience = 60 * time.Second

// eventually waits until ok says true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}
