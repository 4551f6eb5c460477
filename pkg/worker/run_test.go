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
	"github.com/motto123/minigate/proto/commonpb"
)

func nothing(context.Context, *commonpb.Empty) (*commonpb.Empty, error) { return nil, nil }

func TestRunReportsWhatIsWrong(t *testing.T) {
	b := newMem(t)
	for want, w := range map[string]*Worker{
		"Config.Bus is not set":         New("game", Config{}),
		`service "a.b" is not a name`:   New("a.b", Config{Bus: b}),
		"Config.Prefetch is -1":         New("game", Config{Bus: b, Prefetch: -1}),
		`route "chat.send" is not of`:   with(New("game", Config{Bus: b}), "chat.send"),
		`"game move" is not a route`:    with(New("game", Config{Bus: b}), "game move"),
		`"game.move" has two handlers`:  with(New("game", Config{Bus: b}), "game.move", "game.move"),
		"worker: open a publisher: bus": New("game", Config{Bus: closed(t)}),
	} {
		if err := w.Run(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if err := w.Health(); err == nil {
			t.Errorf("%s: healthy", want)
		}
	}
	w := New("game", Config{Bus: b, Log: quiet()})
	run(t, w)
	if err := w.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("a second Run: got %v", err)
	}
}

func with(w *Worker, routes ...string) *Worker {
	for _, route := range routes {
		Handle(w, route, nothing)
	}
	return w
}

func closed(t *testing.T) bus.Bus {
	b := newMem(t)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRoutesAreAnnouncedAtTheStartAndWhenAGateAsks(t *testing.T) {
	b := newMem(t)
	topology := bus.NewTopology("")
	early := newGate(t, b, topology, "early")
	run(t, with(New("game", Config{Bus: b, Log: quiet()}), "game.move", "game.join"))
	expect := func(g *gate) {
		t.Helper()
		select {
		case a := <-g.announcements:
			if a.Service != "game" || !slices.Equal(a.Routes, []string{"game.join", "game.move"}) {
				t.Errorf("got %+v", a)
			}
		case <-time.After(wait):
			t.Fatalf("gate %s heard nothing", g.id)
		}
	}
	expect(early)
	late := newGate(t, b, topology, "late")
	late.publish(topology.AnnounceKey(), bus.AppendHeader(nil, bus.Header{Gate: late.id}))
	expect(late)
	if len(early.announcements) != 0 {
		t.Error("the answer to one gate went to another")
	}
}

func TestAWorkerSaysThatItBegins(t *testing.T) {
	_, log := service(t, newMem(t), "auth", func(w *Worker) { Handle(w, "auth.find", find); Handle(w, "auth.again", find) })
	line := `level=info msg="the worker takes requests" routes="auth.again auth.find" service=auth`
	eventually(t, "it says so", func() bool { return strings.Contains(log.String(), line) })
}

func TestRepliesAreTriedAgainUntilTheBrokerTakesThem(t *testing.T) {
	b := &faultyBus{Bus: newMem(t)}
	w := with(New("game", Config{Bus: b, Log: quiet()}), "game.move")
	run(t, w)
	g := newGate(t, b.Bus, bus.NewTopology(""), "g1")
	eventually(t, "the announcement", func() bool { return w.Stats().Announced == 1 })
	for i, err := range []error{bus.ErrUnavailable, bus.ErrUnconfirmed, bus.ErrRefused} {
		b.fail(err)
		before := w.Stats().Retries
		g.send("game.move", bus.Request{Session: 1, Sequence: uint32(i + 1), User: 1})
		eventually(t, "two further tries", func() bool { return w.Stats().Retries >= before+2 })
		if len(g.replies) != 0 {
			t.Errorf("%v: a reply came through", err)
		}
		b.fail(nil)
		if r := g.reply(); r.Sequence != uint32(i+1) || r.Code != 0 {
			t.Errorf("%v: got %+v", err, r)
		}
	}
	eventually(t, "the last confirm", func() bool { return w.Stats().Replies == 3 })
	if s := w.Stats(); s.Handled != 3 || s.Redelivered != 0 {
		t.Errorf("counted %+v, want 3 handled once", s)
	}
}

func TestRepliesNobodyWaitsForAreGivenUp(t *testing.T) {
	b := &faultyBus{Bus: newMem(t)}
	w := with(New("game", Config{Bus: b, Log: quiet()}), "game.move")
	stop := run(t, w)
	g := newGate(t, b.Bus, bus.NewTopology(""), "g1")
	eventually(t, "the announcement", func() bool { return w.Stats().Announced == 1 })
	b.fail(bus.ErrUnavailable)
	g.send("game.move", bus.Request{Session: 1, Sequence: 1, User: 1, Deadline: time.Now().Add(100 * time.Millisecond).UnixMilli()})
	eventually(t, "the reply is given up", func() bool { return w.Stats().LateReplies+w.Stats().Expired == 1 })
	b.fail(nil)

	// The gate of this one has never been there.
	ghost := &gate{t: t, id: "ghost", topology: g.topology, publisher: g.publisher}
	ghost.send("game.move", bus.Request{Session: 1, Sequence: 1, User: 1})
	eventually(t, "the reply without a gate is counted", func() bool { return w.Stats().GoneReplies == 1 })

	// Both envelopes were acked: the next replica gets neither.
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	next := with(New("game", Config{Bus: b, Log: quiet()}), "game.move")
	run(t, next)
	g.send("game.move", bus.Request{Session: 1, Sequence: 3, User: 1})
	if r := g.reply(); r.Sequence != 3 || next.Stats().Handled != 1 {
		t.Errorf("got a reply to %d after %d requests, want one to 3 after 1", r.Sequence, next.Stats().Handled)
	}
}

func TestAReplyThatIsTooLargeIsAnError(t *testing.T) {
	b := newMem(t)
	w := New("blob", Config{Bus: b, Log: quiet(), MaxReply: 100})
	HandleRaw(w, "blob.get", func(_ context.Context, in Raw) (Raw, error) {
		return Raw{DataType: in.DataType, Name: "x", Data: make([]byte, 101)}, nil
	})
	run(t, w)
	g := newGate(t, b, bus.NewTopology(""), "g1")
	wantCode(t, g.call("blob.get", JSON, ""), codes.ResourceExhausted)
}

// Handlers wait while more replies are on their way than the outbox may hold.
func TestHandlersWaitForRoomInTheOutbox(t *testing.T) {
	const replies, size = 40, 1 << 20
	b := &faultyBus{Bus: newMem(t)}
	w := New("blob", Config{Bus: b, Log: quiet()})
	var handled atomic.Int32
	HandleRaw(w, "blob.get", func(_ context.Context, in Raw) (Raw, error) {
		handled.Add(1)
		return Raw{DataType: in.DataType, Data: make([]byte, size)}, nil
	})
	run(t, w)
	g := newGate(t, b.Bus, bus.NewTopology(""), "g1")
	eventually(t, "the announcement", func() bool { return w.Stats().Announced == 1 })
	release := b.hold()
	defer release()
	for i := range uint32(replies) {
		g.send("blob.get", bus.Request{Session: uint64(i), Sequence: i + 1, User: 1})
	}
	out := w.out.Load()
	eventually(t, "all are handled, and the outbox is full", func() bool {
		out.mu.Lock()
		defer out.mu.Unlock()
		return handled.Load() == replies && out.room != nil
	})
	if pending, _ := out.coalescer.Pending(); pending > outboxBytes {
		t.Errorf("%d bytes wait, want at most %d", pending, outboxBytes)
	}
	release()
	seen := make(map[uint32]bool)
	for range replies {
		if r := g.reply(); len(r.Data) != size || seen[r.Sequence] {
			t.Fatalf("reply %d has %d bytes, seen before: %v", r.Sequence, len(r.Data), seen[r.Sequence])
		} else {
			seen[r.Sequence] = true
		}
	}
}

func TestMalformedEnvelopesAreDeadLettered(t *testing.T) {
	b := newMem(t)
	w, log := service(t, b, "game", func(w *Worker) { with(w, "game.move") })
	g := newGate(t, b, bus.NewTopology(""), "g1")
	dead := deadOf(t, b, g.topology)
	header := bus.AppendHeader(nil, bus.Header{Gate: "g1", Route: "game.move"})
	good := bus.AppendRequest(slices.Clone(header), &bus.Request{Session: 1, Sequence: 1, User: 1})
	for what, body := range map[string][]byte{
		"cut":             good[:len(good)-1],
		"no gate":         bus.AppendRequest(nil, &bus.Request{Session: 1}),
		"a response":      bus.AppendRequest(slices.Clone(header), &bus.Request{Session: 1, Type: 2}),
		"good, then junk": append(slices.Clone(good), 0xff),
	} {
		g.publish("game.move", body)
		if d := nextOf(t, dead); string(d.Body) != string(body) {
			t.Errorf("%s: another body is dead", what)
		}
	}
	if s := w.Stats(); s.Malformed != 4 || s.Handled != 0 {
		t.Errorf("counted %d malformed and %d handled, want 4 and 0", s.Malformed, s.Handled)
	}
	if !strings.Contains(log.String(), "dead-lettered") {
		t.Error("the log does not say so")
	}
	g.publish("game.move", header) // no requests at all: nothing to do
	if r := g.call("game.move", Text, ""); r.Code != 0 {
		t.Errorf("afterwards: got %q", r.Data)
	}
}

// losingBus loses what it consumes from when it is told to, and has it again then.
type losingBus struct {
	instantBus
	lose, back chan struct{}
}

func (b *losingBus) Consume(ctx context.Context, c bus.Consumer) error {
	c.Ready()
	for ctx.Err() == nil {
		select {
		case <-b.lose:
			if c.Lost != nil {
				c.Lost()
			}
		case <-b.back:
			c.Ready()
		case <-ctx.Done():
		}
	}
	return nil
}

// A worker that has lost its queue, and can still publish, is not healthy.
func TestHealthWithoutTheQueue(t *testing.T) {
	b := &losingBus{lose: make(chan struct{}), back: make(chan struct{})}
	w := with(New("game", Config{Bus: b, Log: quiet()}), "game.move")
	run(t, w)
	b.lose <- struct{}{}
	eventually(t, "the worker says that it does not consume", func() bool { return w.Health() != nil })
	b.back <- struct{}{}
	eventually(t, "the worker is healthy again", func() bool { return w.Health() == nil })
}
