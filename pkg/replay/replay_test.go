package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/tape"
	"github.com/motto123/minigate/pkg/worker"
	"github.com/motto123/minigate/proto/chatpb"
	"github.com/motto123/minigate/proto/commonpb"
)

// text is the data of a request that is a text.
func text(t *testing.T, s string) []byte { return marshal(t, wrapperspb.String(s)) }

func TestWhatDiffersIsFound(t *testing.T) {
	type seen struct {
		caller worker.Caller
		data   string
	}
	var mu sync.Mutex
	var all []seen
	s := newShadow(t, "chat", func(w *worker.Worker) {
		worker.Handle(w, "chat.say", func(ctx context.Context, in *wrapperspb.StringValue) (*chatpb.SendResponse, error) {
			mu.Lock()
			all = append(all, seen{worker.From(ctx), in.GetValue()})
			mu.Unlock()
			switch in.GetValue() {
			case "other":
				return &chatpb.SendResponse{Conversation: 1, Number: 99, SentAt: 5}, nil
			case "fails":
				return nil, status.Error(codes.NotFound, "nobody")
			case "quiet":
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return &chatpb.SendResponse{Conversation: 1, Number: 2, SentAt: time.Now().UnixMilli()}, nil
		})
		worker.Handle(w, "chat.bind", func(ctx context.Context, _ *commonpb.Empty) (*commonpb.Empty, error) {
			session := worker.From(ctx).Session
			if _, err := w.Sessions(ctx, session, 1); err != nil {
				return nil, err
			}
			if err := errors.Join(w.Bind(ctx, session, 42), w.Kick(ctx, session, "", ""), w.Join(ctx, session, "g"), w.Leave(ctx, session, "g")); err != nil {
				return nil, err
			}
			return nil, w.Push(ctx, worker.ToSession(session), "chat.message", &chatpb.Message{})
		})
	})
	r := new(recorded)
	request := func(session uint64, sequence uint32, data string) bus.Request {
		return bus.Request{Session: session, Sequence: sequence, User: 42, ID: uint64(sequence), DataType: 2, Name: []byte("google.protobuf.StringValue"),
			Data: text(t, data), Address: []byte{10, 0, 0, 1}}
	}
	then := &chatpb.SendResponse{Conversation: 1, Number: 2, SentAt: 1}
	r.call(0, "g1", "chat.say", request(7, 1, "same"), request(7, 2, "other"), request(8, 1, "fails"))
	r.call(1, "g2", "chat.say", request(7, 1, "same"), request(7, 2, "was unanswered"))
	r.answer(2, "g1", reply(t, 7, 1, then), reply(t, 7, 2, then), reply(t, 8, 1, then))
	r.answer(3, "g2", reply(t, 7, 1, then))
	notify := request(9, 1, "notified")
	notify.Type = 1
	r.call(4, "g1", "chat.say", notify)
	r.call(5, "g1", "chat.bind", bus.Request{Session: 9, Sequence: 2, User: 42, DataType: 2})
	r.answer(6, "g1", reply(t, 9, 2, &commonpb.Empty{}))
	r.call(20_000, "g1", "chat.say", request(9, 3, "same")) // the tape ends before its answer

	cfg, found := s.config(t, r, "sent_at")
	result, err := Run(t.Context(), *cfg)
	if err != nil {
		t.Fatal(err)
	}
	if result.Sent != 8 || result.Same != 3 || result.Differ != 3 || result.Unanswered != 0 || result.Uncompared != 2 || result.Called != 5 || result.Pushes != 1 {
		t.Errorf("got %+v", result)
	}
	if result.Then.Count != 5 || result.Now.Count != 7 || result.Then.P50 < 2*time.Millisecond || result.Next != (tape.Place{Position: tape.Position{Offset: 7, Index: 1}}) {
		t.Errorf("latencies %+v and %+v, next %v", result.Then, result.Now, result.Next)
	}
	slices.SortFunc(*found, func(a, b differing) int { return strings.Compare(a.call.Place.String(), b.call.Place.String()) })
	var got []string
	for _, d := range *found {
		got = append(got, fmt.Sprintf("%v %d %v", d.call.Place, d.call.User, d.all))
	}
	want := []string{
		"0.0.1 42 [{number 2 99}]",
		`0.0.2 42 [{ OK chat.SendResponse {"conversation":"1","number":"2","sentAt":"1"} NOT_FOUND common.Error {"code":5,"message":"nobody"}}]`,
	}
	if len(got) != 3 || !slices.Equal(got[:2], want) || !strings.HasPrefix(got[2], "1.0.1 42 [{ no answer OK chat.SendResponse {") {
		t.Errorf("what differs is\n%s", strings.Join(got, "\n"))
	}

	numbers := make(map[uint64]bool)
	for _, one := range all {
		numbers[one.caller.Session.ID] = true
		if c := one.caller; c.User != 42 || c.ID == 0 || c.Session.Gate != cfg.Gate.ID() || c.Session.GateAddress != cfg.Gate.Address() || c.Address.String() != "10.0.0.1" {
			t.Errorf("the worker saw %+v", c)
		}
	}
	if len(numbers) != 4 {
		t.Errorf("the sessions of two gates have %d numbers, want 4", len(numbers))
	}
}

func TestNoAnswerInTimeDiffers(t *testing.T) {
	release := make(chan struct{})
	s := newShadow(t, "echo", func(w *worker.Worker) {
		worker.HandleRaw(w, "echo.echo", func(_ context.Context, in worker.Raw) (worker.Raw, error) {
			if string(in.Data) == "hangs" {
				<-release
			}
			return in, nil
		}, worker.Public())
	})
	t.Cleanup(sync.OnceFunc(func() { close(release) }))
	r := new(recorded)
	r.call(0, "g", "echo.echo", bus.Request{Session: 1, Sequence: 1, Data: []byte("hangs")}, bus.Request{Session: 1, Sequence: 2, Data: []byte("behind it")},
		bus.Request{Session: 2, Sequence: 1, Data: []byte("beside it")})
	r.answer(1, "g", bus.Reply{Session: 1, Sequence: 1, Data: []byte("hangs")}, bus.Reply{Session: 1, Sequence: 2, Data: []byte("behind it")},
		bus.Reply{Session: 2, Sequence: 1, Data: []byte("beside it")})
	cfg, found := s.config(t, r)
	cfg.Timeout = 200 * time.Millisecond
	result, err := Run(t.Context(), *cfg)
	if err != nil {
		t.Fatal(err)
	}
	// That behind it waits in the worker's lane of the session, too.
	if result.Sent != 3 || result.Same != 1 || result.Differ != 2 || result.Unanswered != 2 || len(*found) != 2 {
		t.Errorf("got %+v", result)
	}
	for _, d := range *found {
		if want := fmt.Sprintf(`[{ OK  %q no answer}]`, d.call.Data); strings.ReplaceAll(fmt.Sprint(d.all), "OK  ", "OK ") != strings.ReplaceAll(want, "OK  ", "OK ") {
			t.Errorf("got %v, want %s", d.all, want)
		}
	}
}

func TestASessionKeepsItsOrder(t *testing.T) {
	const sessions, each = 8, 200
	var mu sync.Mutex
	order := make(map[int64][]uint64)
	s := newShadow(t, "game", func(w *worker.Worker) {
		for _, route := range []string{"game.move", "game.look"} {
			worker.Handle(w, route, func(ctx context.Context, _ *commonpb.Empty) (*commonpb.Empty, error) {
				c := worker.From(ctx)
				mu.Lock()
				defer mu.Unlock()
				order[c.User] = append(order[c.User], c.ID)
				return nil, nil
			})
		}
	})
	r := new(recorded)
	for i := range each {
		var requests []bus.Request
		var replies []bus.Reply
		for n := range uint64(sessions) {
			requests = append(requests, bus.Request{Session: n, Sequence: uint32(i + 1), User: int64(n) + 1, ID: uint64(i + 1), DataType: 2})
			replies = append(replies, reply(t, n, uint32(i+1), &commonpb.Empty{}))
		}
		r.call(i, "g", []string{"game.move", "game.look"}[i%2], requests...)
		r.answer(i+1, "g", replies...)
	}
	cfg, _ := s.config(t, r)
	result, err := Run(t.Context(), *cfg)
	if err != nil || result.Sent != sessions*each || result.Same != sessions*each {
		t.Fatalf("got %+v, %v", result, err)
	}
	for user, ids := range order {
		if len(ids) != each || !slices.IsSorted(ids) {
			t.Errorf("user %d: %v", user, ids)
		}
	}
}

// Nor does a request overtake one of the same session that another service is slow
// with.
func TestASessionKeepsItsOrderOverServices(t *testing.T) {
	free, slowDone := make(chan struct{}), atomic.Bool{}
	s := newShadow(t, "slow", func(w *worker.Worker) {
		worker.HandleRaw(w, "slow.one", func(_ context.Context, in worker.Raw) (worker.Raw, error) {
			<-free
			slowDone.Store(true)
			return in, nil
		}, worker.Public())
	})
	s.work(t, "fast", func(w *worker.Worker) {
		worker.HandleRaw(w, "fast.two", func(_ context.Context, in worker.Raw) (worker.Raw, error) {
			if !slowDone.Load() {
				t.Error("the second request of a session came before the first was answered")
			}
			return in, nil
		}, worker.Public())
		worker.HandleRaw(w, "fast.other", func(_ context.Context, in worker.Raw) (worker.Raw, error) {
			close(free)
			return in, nil
		}, worker.Public())
	})
	r := new(recorded)
	r.call(0, "g", "slow.one", bus.Request{Session: 1, Sequence: 1})
	r.call(1, "g", "fast.two", bus.Request{Session: 1, Sequence: 2})
	r.call(2, "g", "fast.other", bus.Request{Session: 2, Sequence: 1})
	r.answer(3, "g", bus.Reply{Session: 1, Sequence: 1}, bus.Reply{Session: 1, Sequence: 2}, bus.Reply{Session: 2, Sequence: 1})
	cfg, _ := s.config(t, r)
	if result, err := Run(t.Context(), *cfg); err != nil || result.Same != 3 {
		t.Errorf("got %+v, %v", result, err)
	}
}

// Handlers wait until progress is shown: by then as many are under way as may be.
func TestSoManyAreUnderWay(t *testing.T) {
	var running atomic.Int64
	release := make(chan struct{})
	s := newShadow(t, "echo", func(w *worker.Worker) {
		worker.HandleRaw(w, "echo.echo", func(_ context.Context, in worker.Raw) (worker.Raw, error) {
			running.Add(1)
			<-release
			return in, nil
		}, worker.Public())
	})
	cfg, _ := s.config(t, echoes(100))
	cfg.InFlight = 3
	open := sync.OnceFunc(func() {
		if n := running.Load(); n != 3 {
			t.Errorf("%d are under way, want 3", n)
		}
		close(release)
	})
	cfg.Progress = func(Result) { open() }
	if result, err := Run(t.Context(), *cfg); err != nil || result.Same != 100 {
		t.Errorf("got %+v, %v", result, err)
	}
}

func TestThePaceIsTheRecordedOne(t *testing.T) {
	s := newShadow(t, "echo", echo)
	r := new(recorded)
	for i := range 5 {
		one := bus.Request{Session: uint64(i), Sequence: 1, Data: []byte("x")}
		r.call(i*400, "g", "echo.echo", one)
		r.answer(i*400+1, "g", bus.Reply{Session: one.Session, Sequence: 1, Data: one.Data})
	}
	for speed, want := range map[float64]time.Duration{4: 400 * time.Millisecond, 0: 0} {
		cfg, _ := s.config(t, r)
		cfg.Speed = speed
		result, err := Run(t.Context(), *cfg)
		if err != nil || result.Same != 5 {
			t.Fatalf("got %+v, %v", result, err)
		}
		if result.Took < want {
			t.Errorf("at speed %v it took %v, want %v or more", speed, result.Took, want)
		}
	}
}

func echo(w *worker.Worker) {
	worker.HandleRaw(w, "echo.echo", func(_ context.Context, in worker.Raw) (worker.Raw, error) { return in, nil }, worker.Public())
}

// echoes is a tape of so many requests, a millisecond apart, and their answers.
func echoes(n int) *recorded {
	r := new(recorded)
	for i := range n {
		one := bus.Request{Session: uint64(i % 10), Sequence: uint32(i/10 + 1), User: int64(i % 10), ID: uint64(i + 1), Data: []byte(fmt.Sprint(i))}
		r.call(i, "g", "echo.echo", one)
		r.answer(i+1, "g", bus.Reply{Session: one.Session, Sequence: one.Sequence, Data: one.Data})
	}
	return r
}

// counting is a worker that says how often it got each request, by the client's id.
func counting(t *testing.T) (*shadow, func() map[uint64]int) {
	var mu sync.Mutex
	got := make(map[uint64]int)
	s := newShadow(t, "echo", func(w *worker.Worker) {
		worker.HandleRaw(w, "echo.echo", func(ctx context.Context, in worker.Raw) (worker.Raw, error) {
			mu.Lock()
			got[worker.From(ctx).ID]++
			mu.Unlock()
			return in, nil
		}, worker.Public())
	})
	return s, func() map[uint64]int {
		mu.Lock()
		defer mu.Unlock()
		return got
	}
}

// What Progress says is where to go on after a sudden end: nothing before it is
// missing. The worker answers some, and then waits until progress was shown.
func TestProgressNeverSaysTooMuch(t *testing.T) {
	const n, round = 1500, 400
	tokens := make(chan struct{}, n)
	fill := func() {
		for range round {
			select {
			case tokens <- struct{}{}:
			default:
			}
		}
	}
	var answered atomic.Int64
	s := newShadow(t, "echo", func(w *worker.Worker) {
		worker.HandleRaw(w, "echo.echo", func(_ context.Context, in worker.Raw) (worker.Raw, error) {
			<-tokens
			answered.Add(1)
			return in, nil
		}, worker.Public())
	})
	r := echoes(n)
	cfg, _ := s.config(t, r)
	cfg.InFlight = 4
	var last Result
	shown := 0
	cfg.Progress = func(p Result) {
		shown++
		done := p.Next.Offset / 2 // a request and its answer are two entries
		if p.Next.Before(last.Next) || done > answered.Load() || done < answered.Load()-round {
			t.Errorf("%d are answered, and it says to go on at %v after %v", answered.Load(), p.Next, last.Next)
		}
		last = p
		fill()
	}
	fill()
	if result, err := Run(t.Context(), *cfg); err != nil || result.Same != n {
		t.Fatalf("got %+v, %v", result, err)
	}
	if shown < 3 || last.Next.Offset < round {
		t.Errorf("progress was shown %d times, up to %v", shown, last.Next)
	}
}

// Nor is what was read, and waits for others to come before it, taken as sent.
func TestProgressKnowsWhatWasOnlyRead(t *testing.T) {
	s := newShadow(t, "echo", echo)
	r := echoes(1000)
	shown := make(chan struct{})
	r.each = func(i int) {
		if i == 1200 {
			<-shown
		}
	}
	cfg, _ := s.config(t, r)
	check := sync.OnceFunc(func() { close(shown) })
	cfg.Progress = func(p Result) {
		if p.Next.Offset/2 > int64(p.Sent) {
			t.Errorf("%d are sent, and it says to go on at %v", p.Sent, p.Next)
		}
		check()
	}
	if result, err := Run(t.Context(), *cfg); err != nil || result.Same != 1000 {
		t.Errorf("got %+v, %v", result, err)
	}
}

func TestWhatIsLeftOut(t *testing.T) {
	s, got := counting(t)
	r := echoes(30)
	r.entries[0].Masked = true
	again := *r.entries[20] // which has been answered
	again.Redelivered, again.Time = true, began.Add(time.Second)
	r.entries = append(r.entries, &again, &tape.Entry{Kind: tape.Requests, Envelope: []byte{0xff}})
	cfg, _ := s.config(t, r)
	result, err := Run(t.Context(), *cfg)
	if err != nil || result.Sent != 29 || result.Masked != 1 || result.Repeated != 1 || result.Malformed != 1 || got()[1] != 0 || got()[11] != 1 {
		t.Errorf("got %+v, %v", result, err)
	}
	cfg.Masked = true
	if result, err = Run(t.Context(), *cfg); err != nil || result.Sent != 30 || result.Masked != 0 || got()[1] != 1 {
		t.Errorf("with what is masked got %+v, %v", result, err)
	}
}

func TestWithoutAWorkerItStops(t *testing.T) {
	s := newShadow(t, "echo", echo)
	r := echoes(10)
	r.call(100, "g", "chat.send", bus.Request{Session: 1, Sequence: 100})
	cfg, _ := s.config(t, r)
	result, err := Run(t.Context(), *cfg)
	if !errors.Is(err, ErrNoWorker) || !strings.Contains(err.Error(), "minigate worker chat --prefix shadow") || result.Next.Offset > 20 {
		t.Errorf("got %+v, %v", result, err)
	}
	var asked []string
	cfg.Check = func(_ context.Context, service string) error {
		if asked = append(asked, service); service == "chat" {
			return ErrNoWorker
		}
		return nil
	}
	if _, err = Run(t.Context(), *cfg); !errors.Is(err, ErrNoWorker) || !slices.Equal(asked, []string{"echo", "chat"}) {
		t.Errorf("asked for %q, got %v", asked, err)
	}
}

func TestATapeThatFailsEndsIt(t *testing.T) {
	s := newShadow(t, "echo", echo)
	r := echoes(1000)
	r.call(1001, "g", "echo.echo", bus.Request{Session: 1, Sequence: 200, Data: []byte("sent, and its answer not read")})
	r.call(2000, "g", "echo.echo", bus.Request{Session: 1, Sequence: 201, Data: []byte("only read")})
	r.err = errors.New("the disk is gone")
	cfg, _ := s.config(t, r)
	if result, err := Run(t.Context(), *cfg); !errors.Is(err, r.err) || result.Sent != 1001 || result.Same != 1000 || result.Uncompared != 1 {
		t.Errorf("got %+v, %v", result, err)
	}
}
