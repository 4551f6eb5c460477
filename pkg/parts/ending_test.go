package parts

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

func TestHurryEndsAllWaiting(t *testing.T) {
	e := NewEnding()
	waiting, cancel := e.Within(t.Context(), time.Hour)
	defer cancel()
	select {
	case <-waiting.Done():
		t.Fatal("it does not wait")
	case <-e.Hurried():
		t.Fatal("hurried before Hurry")
	default:
	}
	e.Hurry()
	e.Hurry()
	<-waiting.Done()
	<-e.Hurried()
	after, cancel := e.Within(t.Context(), time.Hour)
	defer cancel()
	<-after.Done()
	if !errors.Is(after.Err(), context.Canceled) {
		t.Errorf("got %v", after.Err())
	}
}

func TestWithinEndsByItselfToo(t *testing.T) {
	e := NewEnding()
	late, cancel := e.Within(t.Context(), time.Nanosecond)
	defer cancel()
	<-late.Done()
	if !errors.Is(late.Err(), context.DeadlineExceeded) {
		t.Errorf("got %v", late.Err())
	}
	parent, stop := context.WithCancel(t.Context())
	with, cancel := e.Within(parent, time.Hour)
	defer cancel()
	stop()
	<-with.Done()
	given, cancel := e.Within(t.Context(), time.Hour)
	cancel()
	<-given.Done()
}

func TestWhatIsCutOffIsKeptUpToABound(t *testing.T) {
	e := NewEnding()
	e.CutOff("gate: %d requests", 3)
	e.CutOff("worker chat")
	if got := e.Cut(); !slices.Equal(got, []string{"gate: 3 requests", "worker chat"}) {
		t.Errorf("got %q", got)
	}
	for range 2 * maxCut {
		e.CutOff("more")
	}
	if n := len(e.Cut()); n != maxCut {
		t.Errorf("kept %d, want %d", n, maxCut)
	}
}

func TestWithoutAnEndingThereIsTime(t *testing.T) {
	var e *Ending
	e.Hurry()
	e.CutOff("nothing")
	ctx, cancel := e.Within(t.Context(), time.Hour)
	defer cancel()
	if ctx.Err() != nil || e.Hurried() != nil || e.Cut() != nil {
		t.Error("a nil Ending hurries or keeps something")
	}
	late, cancel := e.Within(t.Context(), time.Nanosecond)
	defer cancel()
	<-late.Done()
}

func TestAwaitEndsWithWhatItWaitsForOrItsTime(t *testing.T) {
	done, never := make(chan struct{}), make(chan struct{})
	close(done)
	hurried := NewEnding()
	hurried.Hurry()
	for _, c := range []struct {
		name   string
		ending *Ending
		done   chan struct{}
		limit  time.Duration
		hurry  time.Duration
		want   bool
	}{
		{"done", NewEnding(), done, time.Hour, time.Hour, true},
		{"done in a hurry", hurried, done, time.Hour, time.Hour, true},
		{"not in time", NewEnding(), never, time.Millisecond, time.Hour, false},
		{"hurried", hurried, never, time.Hour, time.Millisecond, false},
		{"nothing to be hurried by", nil, never, time.Millisecond, time.Hour, false},
	} {
		if got := c.ending.Await(c.done, c.limit, c.hurry); got != c.want {
			t.Errorf("%s: got %v", c.name, got)
		}
	}
}
