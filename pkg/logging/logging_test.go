package logging

import (
	"bytes"
	"context"
	"encoding/json"
	stderrors "errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkg/errors"
	"go.uber.org/goleak"

	"github.com/motto123/minigate/pkg/stack"
)

func TestMain(m *testing.M) {
	// lumberjack starts one goroutine a file that is never ended, to remove old
	// files: https://github.com/natefinch/lumberjack/issues/56.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("gopkg.in/natefinch/lumberjack%2ev2.(*Logger).millRun"))
}

func TestAnErrorIsLoggedWithItsStack(t *testing.T) {
	var screen bytes.Buffer
	file := filepath.Join(t.TempDir(), "logs", "minigate.log")
	l, err := New(Config{Level: "info", File: file, Screen: &screen})
	if err != nil {
		t.Fatal(err)
	}
	l.WithError(errors.Wrap(errors.New("no such table"), "load a user")).Error("login failed")
	l.WithField("stack", "goroutine 1\nmain.go:1").Error("panic")
	l.Debug("not shown")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"login failed", "no such table", "load a user", "\n    ", "logging_test.go", "    goroutine 1\n    main.go:1\n"} {
		if !strings.Contains(screen.String(), part) {
			t.Errorf("the screen does not show %q:\n%s", part, screen.String())
		}
	}
	if strings.Contains(screen.String(), "not shown") {
		t.Error("a debug line is shown at level info")
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	var fields map[string]string
	if err := json.Unmarshal([]byte(line), &fields); err != nil {
		t.Fatal(err)
	}
	if fields["msg"] != "login failed" || !strings.Contains(fields["stack"], "logging_test.go") {
		t.Errorf("the file has %v", fields)
	}
}

func TestTheFileIsRotatedWhenTheDayIsOver(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "minigate.log")
	var now atomic.Pointer[time.Time]
	set := func(at time.Time) { now.Store(&at) }
	set(time.Date(2026, 3, 1, 23, 59, 0, 0, time.Local))
	l, err := New(Config{Level: "info", File: file, Screen: new(bytes.Buffer), now: func() time.Time { return *now.Load() }})
	if err != nil {
		t.Fatal(err)
	}
	l.Info("first day")
	if err := l.rotate(); err != nil {
		t.Fatal(err)
	}
	set(time.Date(2026, 3, 2, 0, 0, 1, 0, time.Local))
	if err := l.rotate(); err != nil {
		t.Fatal(err)
	}
	l.Info("second day")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	expect(t, dir, map[string]string{"minigate.log": "second day", "minigate-": "first day"})

	// lumberjack names old files by the millisecond of the real clock.
	for name := time.Now().Truncate(time.Millisecond); !time.Now().Truncate(time.Millisecond).After(name); {
	}

	// A file that is older than the process is rotated at the start.
	if err := os.Chtimes(file, time.Now(), time.Date(2026, 3, 2, 9, 0, 0, 0, time.Local)); err != nil {
		t.Fatal(err)
	}
	set(time.Date(2026, 3, 5, 8, 0, 0, 0, time.Local))
	if l, err = New(Config{Level: "info", File: file, Screen: new(bytes.Buffer), now: func() time.Time { return *now.Load() }}); err != nil {
		t.Fatal(err)
	}
	l.Info("fourth day")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	expect(t, dir, map[string]string{"minigate.log": "fourth day"})
	if files, err := os.ReadDir(dir); err != nil || len(files) != 3 {
		t.Errorf("got %v, %v, want three files", files, err)
	}
}

// expect looks for texts in files whose names begin so.
func expect(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	for prefix, text := range want {
		names, err := filepath.Glob(filepath.Join(dir, prefix+"*"))
		if err != nil || len(names) != 1 {
			t.Fatalf("%s: got %v, %v, want one file", prefix, names, err)
		}
		b, err := os.ReadFile(names[0])
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), text) || strings.Count(string(b), "\n") != 1 {
			t.Errorf("%s: got %q, want one line with %q", prefix, b, text)
		}
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	for _, file := range []string{"", filepath.Join(t.TempDir(), "a.log")} {
		l, err := New(Config{Level: "info", File: file})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := l.Run(ctx); err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestABadConfigurationSaysWhatItWants(t *testing.T) {
	for _, cfg := range []Config{
		{Level: "loud"}, {Level: "info", Format: "xml"}, {Level: "info", File: "/proc/nothing/here.log"},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
}

func TestAStackIsLoggedOnce(t *testing.T) {
	var screen bytes.Buffer
	l, err := New(Config{Level: "info", Screen: &screen})
	if err != nil {
		t.Fatal(err)
	}
	failed := errors.WithStack(fmt.Errorf("outer: %w", errors.Wrap(errors.New("disk full"), "store")))
	l.WithError(failed).WithField("stack", stack.Of(failed)).Error("could not store")
	if n := strings.Count(screen.String(), "logging.TestAStackIsLoggedOnce"); n != 1 {
		t.Errorf("%d stacks, want 1:\n%s", n, screen.String())
	}
	if stack.Of(stderrors.New("disk full")) != "" {
		t.Error("an error without a stack has one")
	}
}

func TestAWrappedErrorIsLoggedWithTheStackOfItsOrigin(t *testing.T) {
	for name, err := range map[string]error{
		"by fmt": fmt.Errorf("store: %w", errors.New("disk full")),
		"joined": stderrors.Join(stderrors.New("first"), fmt.Errorf("second: %w", errors.New("disk full"))),
	} {
		var screen bytes.Buffer
		l, e := New(Config{Level: "info", Screen: &screen})
		if e != nil {
			t.Fatal(e)
		}
		l.WithError(err).Error("could not store")
		if !strings.Contains(screen.String(), "logging_test.go:") || !strings.Contains(screen.String(), "    disk full\n") {
			t.Errorf("%s: no stack:\n%s", name, screen.String())
		}
	}
}
