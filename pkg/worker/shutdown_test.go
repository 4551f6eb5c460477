package worker

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/parts"
	"github.com/motto123/minigate/proto/authpb"
	"github.com/motto123/minigate/proto/commonpb"
)

// Hundreds of requests are on their way when the worker is told to stop: those
// that it took are answered, the others stay for the next replica, none is lost
// and none is handled twice.
func TestStoppingLosesNothing(t *testing.T) {
	const envelopes, each = 100, 8
	b := newMem(t)
	g := newGate(t, b, bus.NewTopology(""), "g1")
	handled := make(chan struct{}, envelopes*each)
	var calls atomic.Int32
	ending := parts.NewEnding()
	replica := func() *Worker {
		w := New("game", Config{Bus: b, Log: quiet(), Prefetch: 4, Concurrency: 3, Ending: ending})
		Handle(w, "game.move", func(ctx context.Context, _ *commonpb.Empty) (*commonpb.Empty, error) {
			calls.Add(1)
			handled <- struct{}{}
			select {
			case <-ctx.Done():
			case <-time.After(time.Millisecond):
			}
			return nil, ctx.Err()
		})
		return w
	}
	first := replica()
	stop := run(t, first)
	for i := range uint32(envelopes) {
		var requests []bus.Request
		for j := range uint32(each) {
			requests = append(requests, bus.Request{Session: uint64(j), Sequence: i*each + j + 1, User: 1})
		}
		g.send("game.move", requests...)
	}
	for range 50 {
		<-handled
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if first.Health() == nil {
		t.Error("healthy after Run")
	}
	took := int(calls.Load())
	if took >= envelopes*each {
		t.Fatal("the first replica handled everything: nothing was tested")
	}
	if n := int(first.Stats().Replies); n != took || took%each != 0 {
		t.Errorf("the first replica handled %d and had %d replies confirmed, want whole envelopes of both", took, n)
	}
	if cut := ending.Cut(); len(cut) > 0 {
		t.Errorf("all was finished, and %q was cut off", cut)
	}
	run(t, replica())
	seen := make(map[uint32]bool)
	for range envelopes * each {
		r := g.reply()
		if r.Code != 0 || seen[r.Sequence] {
			t.Fatalf("reply %d: %q, seen before: %v", r.Sequence, r.Data, seen[r.Sequence])
		}
		seen[r.Sequence] = true
	}
	if n := calls.Load(); n != envelopes*each {
		t.Errorf("%d requests were handled, want %d", n, envelopes*each)
	}
}

func TestHandlersThatTakeTooLongAreStopped(t *testing.T) {
	b := newMem(t)
	ending := parts.NewEnding()
	w := New("auth", Config{Bus: b, Log: quiet(), DrainTimeout: 50 * time.Millisecond, Ending: ending})
	entered := make(chan struct{}, 1)
	ended := make(chan error, 1)
	Handle(w, "auth.find", func(ctx context.Context, _ *authpb.FindRequest) (*authpb.FindResponse, error) {
		entered <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	})
	stop := run(t, w)
	g := newGate(t, b, bus.NewTopology(""), "g1")
	g.send("auth.find", bus.Request{Session: 1, Sequence: 1, User: 1, Data: []byte("a")})
	<-entered
	begun := time.Now()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took < 50*time.Millisecond || took > 5*time.Second {
		t.Errorf("stopping took %v, want about 50ms", took)
	}
	if err := <-ended; err == nil {
		t.Error("the handler's context did not end")
	}
	wantCode(t, g.reply(), codes.Unavailable)
	if cut := ending.Cut(); !slices.Equal(cut, []string{"auth worker: 1 handlers that were stopped"}) {
		t.Errorf("%q was cut off", cut)
	}
}

// A worker that may take an hour is hurried: the handler that runs is stopped and
// its client hears so, and what waited behind it goes to the next replica.
func TestAHurriedWorkerGivesUpAtOnce(t *testing.T) {
	b := newMem(t)
	ending := parts.NewEnding()
	w := New("game", Config{Bus: b, Log: quiet(), DrainTimeout: time.Hour, Ending: ending})
	entered := make(chan struct{}, 1)
	Handle(w, "game.move", func(ctx context.Context, _ *commonpb.Empty) (*commonpb.Empty, error) {
		entered <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	eventually(t, "the worker consumes", func() bool { return w.Health() == nil })
	g := newGate(t, b, bus.NewTopology(""), "g1")
	g.send("game.move", bus.Request{Session: 1, Sequence: 1, User: 1})
	g.send("game.move", bus.Request{Session: 1, Sequence: 2, User: 1})
	<-entered
	eventually(t, "the second request waits", func() bool { waiting, _, _ := w.lanes.Load().load(); return waiting == 1 })
	cancel()
	ending.Hurry()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(wait):
		t.Fatal("the worker does not hurry")
	}
	if r := g.reply(); r.Sequence != 1 || r.Code == 0 {
		t.Errorf("got the reply %+v", r)
	}
	want := []string{"game worker: 1 handlers that were stopped", "game worker: 1 requests that go to another replica, or wait for one"}
	if cut := ending.Cut(); !slices.Equal(cut, want) {
		t.Errorf("%q was cut off, want %q", cut, want)
	}
	run(t, with(New("game", Config{Bus: b, Log: quiet()}), "game.move"))
	if r := g.reply(); r.Sequence != 2 || r.Code != 0 {
		t.Errorf("got %+v from the next replica", r)
	}
}

// Where the broker takes no replies, a hurried worker does not try again until
// its time is over.
func TestAHurriedWorkerGivesUpItsReplies(t *testing.T) {
	b := &faultyBus{Bus: newMem(t)}
	ending := parts.NewEnding()
	w := with(New("game", Config{Bus: b, Log: quiet(), DrainTimeout: time.Hour, Ending: ending}), "game.move")
	stop := run(t, w)
	g := newGate(t, b.Bus, bus.NewTopology(""), "g1")
	b.fail(bus.ErrUnavailable)
	g.send("game.move", bus.Request{Session: 1, Sequence: 1, User: 1})
	eventually(t, "the request is handled", func() bool { return w.Stats().Handled == 1 })
	ending.Hurry()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if cut := ending.Cut(); len(cut) != 1 || !strings.HasPrefix(cut[0], "game worker: 1 replies") {
		t.Errorf("%q was cut off", cut)
	}
	b.fail(nil)
	run(t, with(New("game", Config{Bus: b, Log: quiet()}), "game.move"))
	if r := g.reply(); r.Sequence != 1 || r.Code != 0 {
		t.Errorf("got %+v", r)
	}
}

// While the broker takes no replies until the worker's end, a request is not
// acked: the next replica handles it.
func TestWhatWasNotAnsweredIsDeliveredAgain(t *testing.T) {
	b := &faultyBus{Bus: newMem(t)}
	w := with(New("game", Config{Bus: b, Log: quiet(), DrainTimeout: 20 * time.Millisecond}), "game.move")
	stop := run(t, w)
	g := newGate(t, b.Bus, bus.NewTopology(""), "g1")
	b.fail(bus.ErrUnavailable)
	g.send("game.move", bus.Request{Session: 1, Sequence: 1, User: 1})
	eventually(t, "the request is handled", func() bool { return w.Stats().Handled == 1 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	b.fail(nil)
	next := with(New("game", Config{Bus: b, Log: quiet()}), "game.move")
	run(t, next)
	if r := g.reply(); r.Sequence != 1 || r.Code != 0 {
		t.Errorf("got %+v", r)
	}
	if s := next.Stats(); s.Redelivered != 1 {
		t.Errorf("counted %d redelivered, want 1", s.Redelivered)
	}
}

// deafBus delivers what the test gives it and takes no publishing.
type deafBus struct{ instantBus }

func (b *deafBus) Publisher() (bus.Publisher, error) { return deafPublisher{}, nil }

type deafPublisher struct{ instantPublisher }

func (deafPublisher) Publish(_ bus.Message, done func(error)) { done(bus.ErrUnavailable) }

// Neither the request whose reply nobody took nor the one that never ran is
// acked at the end; each is given back, once.
func TestWhatIsNotDoneAtTheEndIsGivenBack(t *testing.T) {
	b := &deafBus{instantBus{deliveries: make(chan bus.Delivery)}}
	w := New("game", Config{Bus: b, Log: quiet(), Concurrency: 1})
	entered := make(chan struct{}, 2)
	Handle(w, "game.move", func(ctx context.Context, _ *commonpb.Empty) (*commonpb.Empty, error) {
		entered <- struct{}{}
		<-ctx.Done()
		return nil, nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	settled := make(chan bus.Settlement, 4)
	for session := range uint64(2) {
		body := bus.AppendHeader(nil, bus.Header{Gate: "g1", Route: "game.move"})
		body = bus.AppendRequest(body, &bus.Request{
			Session: session, Sequence: 1, User: 1, Deadline: time.Now().Add(time.Hour).UnixMilli(),
		})
		b.deliveries <- bus.Delivery{Key: "game.move", Body: body, Settle: func(s bus.Settlement) error {
			settled <- s
			return nil
		}}
	}
	<-entered
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if len(settled) != 2 || len(entered) != 0 {
		t.Fatalf("%d settled, %d more handled, want 2 and 0", len(settled), len(entered))
	}
	for range 2 {
		if s := <-settled; s != bus.Requeued {
			t.Errorf("settled as %v, want it given back", s)
		}
	}
}

// A handler that does not heed its context does not keep the worker: its request
// goes to the next replica with what came with it, and what it answers in the end
// nobody gets, so that nobody gets two answers.
func TestADeafHandlerDoesNotKeepTheEnd(t *testing.T) {
	for _, hurry := range []bool{false, true} {
		t.Run(map[bool]string{false: "in time", true: "hurried"}[hurry], func(t *testing.T) {
			t.Parallel()
			b := newMem(t)
			ending, drain, limit := parts.NewEnding(), 50*time.Millisecond, parts.DeafTime
			if hurry {
				drain, limit = time.Hour, parts.DeafHurried
			}
			w := New("game", Config{Bus: b, Log: quiet(), DrainTimeout: drain, Ending: ending, Concurrency: 1})
			entered, release, returned := make(chan struct{}, 3), make(chan struct{}), make(chan struct{})
			Handle(w, "game.move", func(context.Context, *commonpb.Empty) (*commonpb.Empty, error) {
				entered <- struct{}{}
				<-release
				close(returned)
				return nil, nil
			})
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- w.Run(ctx) }()
			eventually(t, "the worker consumes", func() bool { return w.Health() == nil })
			g := newGate(t, b, bus.NewTopology(""), "g1")
			g.send("game.move", bus.Request{Session: 1, Sequence: 1, User: 1}, bus.Request{Session: 2, Sequence: 2, User: 1})
			<-entered
			begun := time.Now()
			cancel()
			if hurry {
				ending.Hurry()
			}
			select {
			case err := <-ended:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(limit + wait):
				t.Error("the worker does not end")
			}
			if took := time.Since(begun); took < limit || took > limit+3*time.Second {
				t.Errorf("the end took %v, want about %v", took, limit)
			}
			want := []string{"game worker: 1 handlers that do not heed their context", "game worker: 1 requests that go to another replica, or wait for one"}
			if cut := ending.Cut(); !slices.Equal(cut, want) {
				t.Errorf("%q was cut off, want %q", cut, want)
			}
			close(release)
			<-returned
			run(t, with(New("game", Config{Bus: b, Log: quiet()}), "game.move"))
			seen := make(map[uint32]int)
			for range 2 {
				r := g.reply()
				seen[r.Sequence]++
				if r.Code != 0 {
					t.Errorf("got %+v from the next replica", r)
				}
			}
			if seen[1] != 1 || seen[2] != 1 || w.Stats().Replies != 0 {
				t.Errorf("answered: %v; by the one that ended: %d", seen, w.Stats().Replies)
			}
		})
	}
}
