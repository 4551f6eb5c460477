package replay

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/tape"
	"github.com/motto123/minigate/pkg/worker"
)

// failures is a tape of requests that all failed, every tenth of them much later than
// those around it: the calls are 50 ms apart.
func failures(n, late int) *recorded {
	r := new(recorded)
	answer := func(at, i int) {
		r.answer(at, "g", bus.Reply{Session: uint64(i), Sequence: 1, Code: uint32(codes.Internal)})
	}
	for i := range n {
		r.call(50*i, "g", "echo.echo", bus.Request{Session: uint64(i), Sequence: 1, User: 1, ID: uint64(i + 1), Data: []byte(fmt.Sprint(i))})
		if i%10 != 0 {
			answer(50*i, i)
		}
		if done := i - late; done >= 0 && done%10 == 0 {
			answer(50*i, done)
		}
	}
	for i := max(0, n-late); i < n; i++ {
		if i%10 == 0 {
			answer(50*(n+late), i)
		}
	}
	return r
}

// TestGoingOnByOutcome: calls that are chosen by how they ended are sent in the order of
// the tape, so that a run which goes on sends the rest, and nothing twice.
func TestGoingOnByOutcome(t *testing.T) {
	const n = 400
	s, got := counting(t)
	r := failures(n, 18)
	cfg, _ := s.config(t, r)
	cfg.Filter, cfg.Limit = &tape.Filter{Errors: true}, 73
	sent := 0
	for round := 0; sent < n; round++ {
		result, err := Run(t.Context(), *cfg)
		if err != nil || result.Sent == 0 || round > 10 {
			t.Fatalf("round %d got %+v, %v, after %d", round, result, err, sent)
		}
		sent += result.Sent
		position := result.Next.Position
		cfg.From, cfg.Start = result.Next, tape.Start{Position: &position}
	}
	for id := range uint64(n) {
		if got()[id+1] != 1 {
			t.Errorf("request %d came %d times", id+1, got()[id+1])
		}
	}
}

// TestTheWorkerGoesAway: a run does not go on into a queue that nobody reads, and the
// next one begins with what was not answered.
func TestTheWorkerGoesAway(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	s := newShadow(t, "echo", func(w *worker.Worker) {
		worker.HandleRaw(w, "echo.echo", func(_ context.Context, in worker.Raw) (worker.Raw, error) {
			<-release
			return in, nil
		}, worker.Public())
	})
	cfg, _ := s.config(t, echoes(500))
	asked := 0
	cfg.Timeout = 300 * time.Millisecond
	cfg.Check = func(context.Context, string) error {
		if asked++; asked > 1 {
			return ErrNoWorker
		}
		return nil
	}
	result, err := Run(t.Context(), *cfg)
	if !errors.Is(err, ErrNoWorker) || result.Unanswered > 0 || result.Next != (tape.Place{}) {
		t.Errorf("got %+v, %v", result, err)
	}
}

// blocked is a bus whose broker takes nothing since the test has said so.
type blocked struct {
	bus.Bus
	since atomic.Bool
}

func (b *blocked) State() bus.State {
	if b.since.Load() {
		return bus.Blocked
	}
	return b.Bus.State()
}

// TestABlockedBrokerIsNoDifference: the workers can not answer.
func TestABlockedBrokerIsNoDifference(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	var b *blocked
	s := newShadow(t, "echo", func(w *worker.Worker) {
		worker.HandleRaw(w, "echo.echo", func(_ context.Context, in worker.Raw) (worker.Raw, error) {
			b.since.Store(true)
			<-release
			return in, nil
		}, worker.Public())
	})
	b = &blocked{Bus: s.bus}
	s.bus = b
	cfg, found := s.config(t, echoes(10))
	cfg.Timeout = 300 * time.Millisecond
	result, err := Run(t.Context(), *cfg)
	if err == nil || !strings.Contains(err.Error(), "RabbitMQ takes nothing") || len(*found) != 0 || result.Unanswered != 0 || result.Next != (tape.Place{}) {
		t.Errorf("got %+v, %v, and %d that differ", result, err, len(*found))
	}
}
