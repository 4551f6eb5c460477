// Package loggingtest keeps in tests what is logged, so that it can be looked at while
// it is written.
//
// It refuses to understand lines: a test looks for the text that a person would.
package loggingtest

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

// patience is how long Await waits for a line.
const patience = 10 * time.Second

// Lines are what was logged. The zero value is ready to use, and all methods are safe
// to call at once.
type Lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// New returns a logger, and what it logs: all but what is for debugging, until its
// level is set.
func New() (*logrus.Logger, *Lines) {
	l := new(Lines)
	log := logrus.New()
	log.SetOutput(l)
	return log, l
}

func (l *Lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *Lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Has reports whether a text was logged.
func (l *Lines) Has(text string) bool { return strings.Contains(l.String(), text) }

// Take returns what was logged since the last call of it.
func (l *Lines) Take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.text.Reset()
	return l.text.String()
}

// Want takes what was logged, which has to have all parts in it, and has to be nothing
// where there are none.
func (l *Lines) Want(t testing.TB, parts ...string) {
	t.Helper()
	got := l.Take()
	for _, part := range parts {
		if !strings.Contains(got, part) {
			t.Errorf("the log has no %q:\n%s", part, got)
		}
	}
	if len(parts) == 0 && got != "" {
		t.Errorf("nothing was to be logged:\n%s", got)
	}
}

// Await takes what is logged until a text is there, and returns it: who has an answer
// may have it before the other side has logged.
func (l *Lines) Await(t testing.TB, text string) string {
	t.Helper()
	all := ""
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		if all += l.Take(); strings.Contains(all, text) {
			return all
		}
	}
	t.Errorf("the log has no %q:\n%s", text, all)
	return all
}
