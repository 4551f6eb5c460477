package events

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/parts"
	"github.com/motto123/minigate/proto/emailpb"
)

func TestEachGroupGetsEachEvent(t *testing.T) {
	backends(t, func(t *testing.T, c Config) {
		e, _ := newEvents(t, c)
		one, two := make(chan *emailpb.Verification, 10), make(chan *emailpb.Verification, 10)
		Subscribe(e, "one", "email.verification", func(_ context.Context, in *emailpb.Verification) error { one <- in; return nil })
		Subscribe(e, "two", "email.verification", func(_ context.Context, in *emailpb.Verification) error { two <- in; return nil })
		run(t, e)
		for i := range 3 {
			want := mail(strconv.Itoa(i))
			publish(t, e, want)
			for _, group := range []chan *emailpb.Verification{one, two} {
				if got := receive(t, group); !proto.Equal(got, want) {
					t.Fatalf("got %v, want %v", got, want)
				}
			}
		}
	})
}

func TestRetryUntilItWorks(t *testing.T) {
	backends(t, func(t *testing.T, c Config) {
		e, _ := newEvents(t, c)
		ids := make(chan string, 10)
		var calls atomic.Int32
		Subscribe(e, "one", "email.verification", func(ctx context.Context, _ *emailpb.Verification) error {
			ids <- ID(ctx)
			switch calls.Add(1) {
			case 1:
				return errors.New("not yet")
			case 2:
				panic("not yet either")
			}
			return nil
		})
		stop := run(t, e)
		publish(t, e, mail("1"))
		first := receive(t, ids)
		if first == "" {
			t.Fatal("no ID in the handler's context")
		}
		for range 2 {
			if again := receive(t, ids); again != first {
				t.Fatalf("attempts have the IDs %q and %q", first, again)
			}
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if n := calls.Load(); n != 3 {
			t.Fatalf("%d calls, want 3", n)
		}
	})
}

// Dead letters are seen in the log here, and on the broker in rabbit_test.go.
func TestDeadLetter(t *testing.T) {
	backends(t, func(t *testing.T, c Config) {
		cases := []struct {
			name   string
			in     *emailpb.Verification
			fail   func() error
			calls  int32
			reason string
		}{
			{"permanent", mail("1"), func() error { return Permanent(errors.New("550 no such user")) }, 1, "550 no such user"},
			{"retries are over", mail("1"), func() error { return errors.New("451 try later") }, 3, "451 try later"},
			{"panic", mail("1"), func() error { panic("oh no") }, 3, "TestDeadLetter"},
			{"invalid", &emailpb.Verification{To: "no address", Code: "1"}, func() error { return nil }, 0, "To is not email"},
		}
		for _, x := range cases {
			t.Run(strings.ReplaceAll(x.name, " ", "_"), func(t *testing.T) {
				c := c
				if c.URL != "" {
					c = config(t, c.URL)
				}
				e, log := newEvents(t, c)
				var calls atomic.Int32
				Subscribe(e, "one", "email.verification", func(context.Context, *emailpb.Verification) error {
					calls.Add(1)
					return x.fail()
				}, Retries(2))
				run(t, e)
				publish(t, e, x.in)
				eventually(t, "a dead letter", func() bool { return strings.Contains(log.String(), "dead letter") })
				if n := calls.Load(); n != x.calls {
					t.Errorf("%d calls, want %d", n, x.calls)
				}
				if !strings.Contains(log.String(), x.reason) {
					t.Errorf("the log does not say %q", x.reason)
				}
				if strings.Contains(log.String(), "no address") {
					t.Error("the log holds a field's value")
				}
			})
		}
	})
}

func TestDelaysGrow(t *testing.T) {
	c := config(t, "")
	c.RetryDelay, c.RetryMaxDelay = 40*time.Millisecond, time.Second
	e, _ := newEvents(t, c)
	at := make(chan time.Time, 10)
	Subscribe(e, "one", "email.verification", func(context.Context, *emailpb.Verification) error {
		at <- time.Now()
		return errors.New("no")
	}, Retries(3))
	run(t, e)
	publish(t, e, mail("1"))
	times := []time.Time{receive(t, at), receive(t, at), receive(t, at), receive(t, at)}
	// 40, 120 and 360 ms, each random by half of itself: only the least is sure.
	for i, least := range []time.Duration{20 * time.Millisecond, 60 * time.Millisecond, 180 * time.Millisecond} {
		if got := times[i+1].Sub(times[i]); got < least {
			t.Errorf("delay %d was %v, want %v or more", i+1, got, least)
		}
	}
}

// A handler that runs when the process is told to stop gets to its end.
func TestDrain(t *testing.T) {
	backends(t, func(t *testing.T, c Config) {
		c.Ending = parts.NewEnding()
		e, _ := newEvents(t, c)
		started, release, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		Subscribe(e, "one", "email.verification", func(ctx context.Context, _ *emailpb.Verification) error {
			close(started)
			<-release
			ended <- ctx.Err()
			return nil
		})
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		over := make(chan error, 1)
		go func() { over <- e.Run(ctx) }()
		publish(t, e, mail("1"))
		receive(t, started)
		cancel()
		select {
		case err := <-over:
			t.Fatalf("Run ended (%v) while a handler was running", err)
		case <-time.After(300 * time.Millisecond):
		}
		close(release)
		if err := receive(t, ended); err != nil {
			t.Errorf("the handler's context ended: %v", err)
		}
		if err := receive(t, over); err != nil {
			t.Error(err)
		}
		if cut := c.Ending.Cut(); len(cut) > 0 {
			t.Errorf("%q was cut off", cut)
		}
		// It was acked, so that nobody gets it again.
		if c.URL != "" {
			if n := depth(t, c.Topology.EventQueue("one", "email.verification")); n != 0 {
				t.Errorf("%d messages are still in the queue", n)
			}
		}
	})
}

// Handlers are stopped when their time is over, or when the process hurries, and
// that is told.
func TestDrainEnds(t *testing.T) {
	for _, hurry := range []bool{false, true} {
		c := config(t, "")
		c.Drain, c.Ending = 10*time.Millisecond, parts.NewEnding()
		if hurry {
			c.Drain = time.Hour
			c.Ending.Hurry() // heeded when Run is to end
		}
		e, _ := newEvents(t, c)
		started := make(chan struct{}, 10)
		Subscribe(e, "one", "email.verification", func(ctx context.Context, _ *emailpb.Verification) error {
			started <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		})
		stop := run(t, e)
		publish(t, e, mail("1"))
		receive(t, started)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if cut := c.Ending.Cut(); len(cut) != 1 || !strings.HasPrefix(cut[0], "events: 1 handlers") {
			t.Errorf("hurry=%v: %q was cut off", hurry, cut)
		}
	}
}

// A handler that does not heed its context does not keep Run; whoever consumes next
// gets its event.
func TestADeafHandlerDoesNotKeepTheEnd(t *testing.T) {
	for _, hurry := range []bool{false, true} {
		backends(t, func(t *testing.T, c Config) {
			limit := parts.DeafTime
			c.Drain, c.Ending = 10*time.Millisecond, parts.NewEnding()
			if hurry {
				c.Drain, limit = time.Hour, parts.DeafHurried
				c.Ending.Hurry() // heeded when Run is to end
			}
			e, _ := newEvents(t, c)
			started, release, returned := make(chan struct{}, 10), make(chan struct{}), make(chan struct{})
			Subscribe(e, "one", "email.verification", func(context.Context, *emailpb.Verification) error {
				started <- struct{}{}
				<-release
				close(returned)
				return nil
			})
			stop := run(t, e)
			publish(t, e, mail("1"))
			receive(t, started)
			begun := time.Now()
			if err := stop(); err != nil {
				t.Error(err)
			}
			if took := time.Since(begun); took < limit || took > limit+3*time.Second {
				t.Errorf("hurry=%v: the end took %v, want about %v", hurry, took, limit)
			}
			if cut := c.Ending.Cut(); len(cut) != 2 || cut[1] != "events: 1 handlers that do not heed their context" {
				t.Errorf("hurry=%v: %q was cut off", hurry, cut)
			}
			if c.URL != "" {
				again := make(chan struct{}, 1)
				next, _ := newEvents(t, c)
				Subscribe(next, "one", "email.verification", func(context.Context, *emailpb.Verification) error {
					again <- struct{}{}
					return nil
				})
				run(t, next)
				receive(t, again)
			}
			close(release)
			<-returned
		})
	}
}

func TestConcurrencyIsBounded(t *testing.T) {
	backends(t, func(t *testing.T, c Config) {
		e, _ := newEvents(t, c)
		var now, most, all atomic.Int32
		both := make(chan struct{})
		Subscribe(e, "one", "email.verification", func(context.Context, *emailpb.Verification) error {
			n := now.Add(1)
			defer now.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			if n == 2 && all.Load() == 0 {
				close(both)
			}
			<-both // so that two run at once
			all.Add(1)
			return nil
		}, Concurrency(2))
		run(t, e)
		for range 20 {
			publish(t, e, mail("1"))
		}
		eventually(t, "20 messages handled", func() bool { return all.Load() == 20 })
		if m := most.Load(); m != 2 {
			t.Errorf("%d at once, want 2", m)
		}
	})
}

func TestMemoryBacklogIsBounded(t *testing.T) {
	c := config(t, "")
	c.Backlog, c.PublishTimeout = 3, 500*time.Millisecond
	e, _ := newEvents(t, c)
	release := make(chan struct{})
	Subscribe(e, "one", "email.verification", func(context.Context, *emailpb.Verification) error { <-release; return nil })
	run(t, e)
	for range 3 {
		publish(t, e, mail("1"))
	}
	if err := e.Publish(context.Background(), "email.verification", mail("4")); !errors.Is(err, bus.ErrRefused) {
		t.Errorf("publishing into a full backlog: %v, want ErrRefused", err)
	}
	close(release)
	publish(t, e, mail("5")) // a place is free again
}

func TestMisuse(t *testing.T) {
	nothing := func(context.Context, *emailpb.Verification) error { return nil }
	cases := map[string]func(*Events){
		"subscribed twice": func(e *Events) {
			Subscribe(e, "one", "email.verification", nothing)
			Subscribe(e, "one", "email.verification", nothing)
		},
		"name without a service": func(e *Events) { Subscribe(e, "one", "verification", nothing) },
		"group with a dot":       func(e *Events) { Subscribe(e, "one.two", "email.verification", nothing) },
		"pattern as a name":      func(e *Events) { Subscribe(e, "one", "email.#", nothing) },
		"reserve nothing":        func(e *Events) { e.Reserve("one", "") },
		"interface as message": func(e *Events) {
			Subscribe(e, "one", "email.verification", func(context.Context, proto.Message) error { return nil })
		},
	}
	for name, f := range cases {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			e, _ := newEvents(t, config(t, ""))
			f(e)
			if err := e.Run(context.Background()); err == nil {
				t.Error("Run took it")
			}
		})
	}
	e, _ := newEvents(t, config(t, ""))
	if err := e.Publish(context.Background(), "no", mail("1")); err == nil {
		t.Error("published under a bad name")
	}
	logger, _ := newLog(t)
	if _, err := New(Config{Topology: bus.NewTopology(""), URL: "http://nowhere"}, logger); err == nil {
		t.Error("New took an http URL")
	}
	if _, err := New(Config{}, logger); err == nil {
		t.Error("New took no topology")
	}
}
