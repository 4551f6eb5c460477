package e2e_test

import (
	"testing"
	"time"
)

// TestWorkerKilled: a worker that dies in the middle takes nothing with it.
func TestWorkerKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.auth(0)
	first := w.worker("chat")
	w.worker("chat")
	g := w.gate()
	w.consumed("chat", 2)
	w.consumed("auth", 1)

	const clients, each = 50, 200
	c := gather(t, 6, clients, g.tcp, g.ws)
	begun := time.Now()
	l := send(t, c, each)
	l.reaches(clients * each / 3)
	first.kill(t)
	l.reaches(clients * each / 3)
	w.worker("chat")
	l.clients.Wait()
	t.Logf("%d messages answered in %v, failed meanwhile: %s", l.answered.Load(), time.Since(begun).Round(time.Millisecond), l.failures())
	if got := l.answered.Load(); got != clients*each {
		t.Errorf("%d messages were answered, want %d", got, clients*each)
	}
	l.check(t)
	w.stop()
}
