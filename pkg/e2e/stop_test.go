package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/client"
)

// echoes are clients that call echo.echo one call after the other.
type echoes struct {
	t       *testing.T
	clients []*client.Client
	running sync.WaitGroup
	stop    chan struct{}
	calls   atomic.Int64
}

// echo starts n clients. refused is asked about each error: whether it may be.
func echo(t *testing.T, n int, refused func(*client.Client, error) bool, addresses ...string) *echoes {
	t.Helper()
	e := &echoes{t: t, stop: make(chan struct{})}
	for i := range n {
		c, _, err := dial(t, addresses[i%len(addresses)], "")
		if err != nil {
			t.Fatal(err)
		}
		e.clients = append(e.clients, c)
	}
	for i, c := range e.clients {
		e.running.Go(func() { e.call(i, c, refused) })
	}
	return e
}

func (e *echoes) call(i int, c *client.Client, refused func(*client.Client, error) bool) {
	for n := 0; ; n++ {
		select {
		case <-e.stop:
			return
		default:
		}
		ctx, cancel := context.WithTimeout(e.t.Context(), patience)
		want := fmt.Sprintf("%d %d", i, n)
		reply, err := c.CallRaw(ctx, "echo.echo", codec.Text, "", []byte(want))
		cancel()
		switch {
		case err == nil && string(reply.Body) == want:
			e.calls.Add(1)
		case err == nil:
			e.t.Errorf("echo of %q: got %q", want, reply.Body)
			return
		case !refused(c, err):
			e.t.Errorf("call %d of client %d: %v", n, i, err)
			return
		case c.Err() != nil:
			return
		}
	}
}

// reaches waits until so many more calls have succeeded.
func (e *echoes) reaches(more int64) {
	e.t.Helper()
	target := e.calls.Load() + more
	eventually(e.t, fmt.Sprint(more, " more calls"), func() bool { return e.calls.Load() >= target || e.t.Failed() })
}

// TestGateStops: a gate that is told to stop answers what it has taken, tells
// its clients, and ends in time.
func TestGateStops(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.worker("echo")
	g, stays := w.gate(), w.gate()
	w.consumed("echo", 1)
	// Its client ended because the gate has not taken it.
	refused := func(_ *client.Client, err error) bool {
		var kick *client.KickError
		return errors.As(err, &kick) && kick.Code == "draining"
	}
	e := echo(t, 40, refused, g.tcp, g.ws)
	other := echo(t, 2, func(*client.Client, error) bool { return false }, stays.tcp, stays.ws)
	e.reaches(400)

	begun := time.Now()
	g.signal(t, syscall.SIGTERM)
	g.ends(t, 0)
	t.Logf("the gate ended after %v", time.Since(begun).Round(time.Millisecond))
	e.running.Wait() // its clients end by themselves
	for _, c := range e.clients {
		ended(t, c, "draining")
	}
	other.reaches(20)
	close(other.stop)
	other.running.Wait()
	w.stop()
}

// TestWorkerStops: nobody notices that one of two replicas is told to stop.
func TestWorkerStops(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.auth(0)
	first := w.worker("echo", "chat")
	g := w.gate()
	w.consumed("auth", 1)
	w.consumed("echo", 1)
	w.consumed("chat", 1)
	c := gather(t, 3, 12, g.tcp, g.ws)
	e := echo(t, 20, func(*client.Client, error) bool { return false }, g.tcp, g.ws)
	l := send(t, c, 0)
	for range 3 {
		second := w.worker("echo", "chat")
		w.consumed("echo", 2)
		w.consumed("chat", 2)
		e.reaches(200)
		l.reaches(50)
		first.signal(t, syscall.SIGTERM)
		first.ends(t, 0)
		e.reaches(200)
		l.reaches(50)
		first = second
	}
	close(e.stop)
	e.running.Wait()
	l.end()
	if len(l.failed) > 0 {
		t.Errorf("requests failed: %s", l.failures())
	}
	l.check(t)
	w.stop()
}
