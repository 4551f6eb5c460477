package gate

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/parts"
)

// TestEnd: requests in flight are answered, new ones not taken, and then everybody
// reads why the gate closes and when to come back.
func TestEnd(t *testing.T) {
	r := start(t, withUsers(t))
	s := serve(t, r.bus, "a", nil)
	var clients []*wire
	for i := range 6 {
		c := r.login(t, transport(i%2), "user 5")
		c.send(request(1, "a.b", "in flight"))
		clients = append(clients, c)
	}
	var requests []asked
	for range clients {
		requests = append(requests, s.next())
	}
	opened := r.connect(t, overTCP)
	half, err := r.raw(t, overWebSocket)
	if err != nil {
		t.Fatal(err)
	}
	idle := r.login(t, overTCP, "")
	eventually(t, "all are connected", func() bool { return r.gate.stats.Connections.Load() == 9 })
	ended := make(chan error, 1)
	begun := time.Now()
	go func() { ended <- r.stop() }()
	eventually(t, "the gate drains", r.gate.Draining)
	for _, c := range []*wire{opened, idle} { // have nothing to wait for
		if kick := c.ends(); kick != kickDraining {
			t.Errorf("kick %q", kick)
		}
		c.close()
	}
	if c, err := r.raw(t, overTCP); err == nil {
		c.close()
		t.Error("a gate that ends takes a connection")
	}
	clients[0].send(request(2, "a.b", "too late"))
	for _, a := range requests {
		echo(s, a)
	}
	for i, c := range clients {
		if m := c.message(); string(m.Body) != "in flight" {
			t.Errorf("client %d: got %+v", i, m)
		}
		if kick := c.ends(); kick != kickDraining { // and no answer to what was not taken
			t.Errorf("client %d: kick %q", i, kick)
		}
		c.close()
	}
	select {
	case a := <-s.got:
		t.Errorf("a request was taken after its client was sent away: %q", a.Data)
	default:
	}
	if a := parseResponse(t, readAll(t, half)); a.StatusCode != 503 {
		t.Errorf("who had sent no request: got %+v", a)
	}
	half.close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > lingerTime {
		t.Errorf("the end took %v, with nobody to wait for", took)
	}
	if here(t, r.gate.cfg.Presence, 5, r) {
		t.Error("user 5 is in presence after the gate's end")
	}
}

// TestEndAnswersWhatIsLeft: a request that nobody answers while the gate drains is
// answered before the kick.
func TestEndAnswersWhatIsLeft(t *testing.T) {
	r := start(t, func(c *Config) { c.DrainTimeout = 50 * time.Millisecond })
	s := serve(t, r.bus, "a", nil)
	c := r.login(t, overTCP, "")
	c.send(request(1, "a.b", "never answered"))
	s.next()
	ended := make(chan error, 1)
	go func() { ended <- r.stop() }()
	if m := c.message(); m.ID != 1 || failed(t, m) != codes.Unavailable {
		t.Errorf("got %+v", m)
	}
	if kick := c.ends(); kick != kickShutdown {
		t.Errorf("kick %q", kick)
	}
	c.close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// kicks reads the kick of each client, until all have one, and closes the client.
func kicks(t *testing.T, clients []*wire) []kickBody {
	t.Helper()
	came := make(chan kickBody, len(clients))
	for _, c := range clients {
		go func() {
			p, err := c.read()
			var k kickBody
			if err == nil {
				err = json.Unmarshal(p.Body, &k)
			}
			if err != nil {
				t.Error(err)
			}
			c.close()
			came <- k
		}()
	}
	all := make([]kickBody, len(clients))
	for i := range all {
		all[i] = <-came
	}
	return all
}

// TestSentAwayAtARate: clients are sent away a few at a time, and told to come back at
// different times.
func TestSentAwayAtARate(t *testing.T) {
	const n, rate = 60, 100
	r := start(t, func(c *Config) { c.DrainRate, c.RetryAfter = rate, time.Second })
	clients := make([]*wire, n)
	for i := range clients {
		clients[i] = r.login(t, transport(i%2), "")
	}
	begun := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- r.stop() }()
	times := make(map[int64]bool)
	for _, k := range kicks(t, clients) {
		if k.Code != kickDraining || k.RetryAfterMS < 250 || k.RetryAfterMS > 1000 {
			t.Errorf("got %+v", k)
		}
		times[k.RetryAfterMS] = true
	}
	// All but those of the first two steps have waited.
	if took := time.Since(begun); took < 400*time.Millisecond {
		t.Errorf("%d clients were sent away within %v, at %d a second", n, took, rate)
	}
	if len(times) < n/4 {
		t.Errorf("%d clients come back at %d different times", n, len(times))
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestSentAwayWithinALimit: where there are too many clients for the rate, they are
// sent away faster, but not all at once, and each is told when to come back.
func TestSentAwayWithinALimit(t *testing.T) {
	const n, limit = 60, time.Second
	log, logs := logged()
	r := start(t, logs, func(c *Config) { c.DrainRate, c.DrainLimit = 1, limit })
	clients := make([]*wire, n)
	for i := range clients {
		clients[i] = r.login(t, transport(i%2), "")
	}
	begun := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- r.stop() }()
	for _, k := range kicks(t, clients) {
		if k.Code != kickDraining || k.RetryAfterMS <= 0 {
			t.Errorf("got %+v", k)
		}
	}
	if took := time.Since(begun); took < limit/2 {
		t.Errorf("they were sent away within %v, with %v for that", took, limit)
	}
	if !log.Has("60 clients are sent away within 1s") {
		t.Errorf("the log says %q", log.String())
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestStuckLoopDoesNotKeepTheEnd: nobody waits for longer than the limit for a loop
// that does not come to send its clients away.
func TestStuckLoopDoesNotKeepTheEnd(t *testing.T) {
	r := start(t, func(c *Config) { c.DrainLimit, c.DrainTimeout = 50*time.Millisecond, 50*time.Millisecond })
	c := r.login(t, overTCP, "")
	stuck := make(chan struct{})
	free := sync.OnceFunc(func() { close(stuck) })
	t.Cleanup(free)
	for _, l := range r.gate.loops {
		l.post(func() { <-stuck })
	}
	ended := make(chan error, 1)
	go func() { ended <- r.stop() }()
	eventually(t, "the gate gives up to wait", r.gate.cutting.Load)
	free()
	if kick := c.ends(); kick != kickShutdown && kick != kickDraining {
		t.Errorf("kick %q", kick)
	}
	c.close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestPace(t *testing.T) {
	for _, x := range []struct {
		name        string
		clients     int
		rate        float64
		end         time.Duration
		least, most time.Duration // that it takes
	}{
		{"few", 100, 1000, 15 * time.Second, 60 * time.Millisecond, 140 * time.Millisecond},
		{"as many as the rate allows", 15_000, 1000, 15 * time.Second, 14 * time.Second, 15 * time.Second},
		{"a hundred times as many", 1_500_000, 1000, 15 * time.Second, 14 * time.Second, 15 * time.Second},
		{"slowly", 3, 1, time.Hour, 2500 * time.Millisecond, 3100 * time.Millisecond},
		{"no time", 1000, 1000, time.Millisecond, 0, 0},
	} {
		for _, loops := range []int{1, 8} {
			p := pace{rate: x.rate, end: x.end}
			left, passed, largest := x.clients, time.Duration(0), 0
			for ; left > 0; passed += drainStep {
				now, ofOne := p.step(left, passed, loops)
				told := min(now, ofOne*loops, left)
				p.owed -= float64(told)
				left -= told
				largest = max(largest, told)
				if passed > 2*time.Hour {
					t.Fatalf("%s: it does not end", x.name)
				}
			}
			if passed -= drainStep; passed < x.least || passed > x.most {
				t.Errorf("%s, %d loops: it takes %v, want %v to %v", x.name, loops, passed, x.least, x.most)
			}
			steps := max(float64(x.end)/float64(drainStep), 1)
			if usual := max(x.rate*drainStep.Seconds(), float64(x.clients)/steps); float64(largest) > 2*usual+1 {
				t.Errorf("%s, %d loops: %d at once, want about %.0f", x.name, loops, largest, usual)
			}
		}
	}
}

// TestEndWithStubbornClients: a client that does not close does not keep the gate.
func TestEndWithStubbornClients(t *testing.T) {
	r := start(t)
	c := r.login(t, overTCP, "")
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if kick := c.ends(); kick != kickDraining {
		t.Errorf("kick %q", kick)
	}
}

// TestHurriedEnd: a gate that is told to hurry does not wait for requests in flight,
// answers them, and says whom it has cut off.
func TestHurriedEnd(t *testing.T) {
	ending := parts.NewEnding()
	r := start(t, func(c *Config) { c.DrainTimeout, c.Ending = time.Hour, ending })
	s := serve(t, r.bus, "a", nil)
	c := r.login(t, overTCP, "")
	c.send(request(1, "a.b", "never answered"))
	s.next()
	ended := make(chan error, 1)
	go func() { ended <- r.stop() }()
	eventually(t, "the gate drains", r.gate.Draining)
	ending.Hurry()
	if m := c.message(); m.ID != 1 || failed(t, m) != codes.Unavailable {
		t.Errorf("got %+v", m)
	}
	if kick := c.ends(); kick != kickShutdown {
		t.Errorf("kick %q", kick)
	}
	c.close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if cut := ending.Cut(); len(cut) != 1 || !strings.Contains(cut[0], "1 client") {
		t.Errorf("cut off: %q", cut)
	}
}

// TestEndWhileVerifying: who has not heard yet whether his token is good is told to
// come back, and does not keep the gate.
func TestEndWhileVerifying(t *testing.T) {
	release := make(chan struct{})
	asked := make(chan struct{}, 2)
	r := start(t, withUsers(t), func(c *Config) {
		c.DrainTimeout = time.Minute
		c.Verify = verifier(func(context.Context, string) (int64, error) {
			asked <- struct{}{}
			<-release
			return 5, nil
		})
	})
	c := r.connect(t, overTCP)
	c.packet(codec.Handshake, 0, []byte(hi("x")))
	<-asked
	ended := make(chan error, 1)
	go func() { ended <- r.stop() }()
	eventually(t, "the gate drains", r.gate.Draining)
	close(release)
	if a := c.answer(); a.Code != 503 || a.RetryAfterMS <= 0 {
		t.Errorf("got %+v", a)
	}
	c.close()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("the gate waits for it")
	}
}

// TestEndAnswersWhatIsHeld: requests that wait for their turn when there is no more
// time are answered, too, and their client counts as cut off.
func TestEndAnswersWhatIsHeld(t *testing.T) {
	ending := parts.NewEnding()
	r := start(t, func(c *Config) { c.DrainTimeout, c.Limits.InFlight, c.Ending = 50*time.Millisecond, 1, ending })
	s := serve(t, r.bus, "a", nil)
	c := r.login(t, overTCP, "")
	inOrder(c, 3, 10)
	s.next()
	eventually(t, "two are held", func() bool { return r.gate.unfinished.Load() > 0 })
	ended := make(chan error, 1)
	go func() { ended <- r.stop() }()
	for i := range uint64(3) {
		if m := c.message(); m.ID != i || failed(t, m) != codes.Unavailable {
			t.Errorf("got %+v", m)
		}
	}
	if kick := c.ends(); kick != kickShutdown {
		t.Errorf("kick %q", kick)
	}
	c.close()
	if err := <-ended; err != nil || len(ending.Cut()) != 1 {
		t.Errorf("%v, cut off: %q", err, ending.Cut())
	}
}
