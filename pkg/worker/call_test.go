package worker

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/pkg/errors"
)

func TestCallIsAContext(t *testing.T) {
	type key struct{}
	parent, cancel := context.WithCancelCause(context.WithValue(context.Background(), key{}, "v"))
	defer cancel(nil)
	newCall := func(left time.Duration) *call {
		return &call{parent: parent, deadline: time.Now().Add(left)}
	}

	c := newCall(time.Hour)
	if c.Err() != nil || c.Value(key{}) != "v" {
		t.Errorf("err %v, value %v, want nil and v", c.Err(), c.Value(key{}))
	}
	c.finish()
	if !errors.Is(c.Err(), context.Canceled) {
		t.Errorf("finished: got %v", c.Err())
	}
	<-c.Done() // asked for only afterwards

	c = newCall(time.Hour)
	done := c.Done()
	if c.Value(key{}) != "v" {
		t.Error("the value is gone once somebody asked for Done")
	}
	c.finish()
	<-done

	c = newCall(-time.Second)
	if !errors.Is(c.Err(), context.DeadlineExceeded) {
		t.Errorf("past the deadline: got %v", c.Err())
	}
	<-c.Done()

	before := runtime.NumGoroutine()
	c = newCall(time.Hour)
	child, stop := context.WithTimeout(c, time.Minute)
	defer stop()
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("a context made from a call costs %d goroutines", n-before)
	}
	if From(child) != c.caller || child.Value(callKey{}) != any(c) {
		t.Error("the child does not know its call")
	}
	cancel(errShutdown)
	<-child.Done()
	if !errors.Is(context.Cause(child), errShutdown) || !errors.Is(context.Cause(c), errShutdown) {
		t.Errorf("causes %v and %v", context.Cause(child), context.Cause(c))
	}
	// Nobody asks for Done, and the parent has ended.
	if c = newCall(time.Hour); !errors.Is(c.Err(), context.Canceled) {
		t.Errorf("the parent has ended: got %v", c.Err())
	}
}
