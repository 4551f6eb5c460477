package parts

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Ending is how a process ends: whether its parts are to hurry, and what they
// gave up. Parts that wait for something when they end wait with Within, and say
// with CutOff what they did not wait for. The methods are safe to call at once,
// and on a nil Ending, which never hurries and keeps nothing.
type Ending struct {
	hurried context.Context
	hurry   context.CancelFunc

	mu  sync.Mutex
	cut []string
}

// maxCut bounds what an Ending keeps; it has the first ones.
const maxCut = 32

// NewEnding returns one where there is time.
func NewEnding() *Ending {
	e := new(Ending)
	e.hurried, e.hurry = context.WithCancel(context.Background())
	return e
}

// Hurry ends all waiting: parts still end in their order, but give up what they
// would wait for.
func (e *Ending) Hurry() {
	if e != nil {
		e.hurry()
	}
}

// Hurried is closed by Hurry.
func (e *Ending) Hurried() <-chan struct{} {
	if e == nil {
		return nil
	}
	return e.hurried.Done()
}

// Within returns a context that ends after limit, and with Hurry or parent if
// that is sooner. cancel must be called.
func (e *Ending) Within(parent context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(parent, limit)
	if e == nil {
		return ctx, cancel
	}
	if e.hurried.Err() != nil {
		cancel() // at once, and not by a goroutine that may come late
	}
	stop := context.AfterFunc(e.hurried, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// Await waits until done is closed, for up to limit, and after Hurry for up to
// hurried. It reports whether done was closed.
func (e *Ending) Await(done <-chan struct{}, limit, hurried time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for hurry := e.Hurried(); ; {
		select {
		case <-done:
			return true
		case <-hurry:
			hurry = nil
			timer.Reset(hurried)
		case <-timer.C:
			return false
		}
	}
}

// How long the end of what does not heed its context is waited for with Await,
// before it is left running.
const (
	DeafTime    = 5 * time.Second
	DeafHurried = time.Second
)

// CutOff takes down what was given up, such as "worker chat: 3 handlers".
func (e *Ending) CutOff(format string, args ...any) {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.cut) < maxCut {
		e.cut = append(e.cut, fmt.Sprintf(format, args...))
	}
}

// Cut is what was given up until now; empty where all was finished.
func (e *Ending) Cut() []string {
	if e == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.cut...)
}
