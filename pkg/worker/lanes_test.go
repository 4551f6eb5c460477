package worker

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/proto/commonpb"
)

func callOf(gate string, session uint64, sequence uint32) *call {
	return &call{caller: Caller{Session: Session{Gate: gate, ID: session}, Sequence: sequence}}
}

// wholly waits for all calls that run.
func wholly(ended <-chan struct{}) { <-ended }

func TestLanesKeepTheOrderOfEachSession(t *testing.T) {
	const sessions, each, limit = 300, 50, 16
	var (
		mu      sync.Mutex
		last    = make(map[laneKey]uint32)
		running atomic.Int32
		most    atomic.Int32
		all     sync.WaitGroup
	)
	all.Add(2 * sessions * each)
	l := newLanes(limit, func(c *call) {
		defer all.Done()
		for n := running.Add(1); ; {
			m := most.Load()
			if n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		for range rand.IntN(20) { // a handler that takes its time
			runtime.Gosched()
		}
		key := laneKey{c.caller.Session.Gate, c.caller.Session.ID}
		mu.Lock()
		if last[key]+1 != c.caller.Sequence {
			t.Errorf("%v: %d after %d", key, c.caller.Sequence, last[key])
		}
		last[key] = c.caller.Sequence
		mu.Unlock()
		running.Add(-1)
	})
	// Each gate's calls come in lists of several sessions, as from envelopes.
	var feeders sync.WaitGroup
	for _, gate := range []string{"g1", "g2"} {
		feeders.Go(func() {
			for sequence := range uint32(each) {
				var first *call
				for session := range uint64(sessions) {
					c := callOf(gate, session, sequence+1)
					c.next, first = first, c
				}
				if refused := l.add(first); refused != nil {
					t.Error("refused before close")
				}
			}
		})
	}
	feeders.Wait()
	all.Wait()
	if left := l.close(wholly); left != nil {
		t.Errorf("%v is left", left.caller)
	}
	if n := most.Load(); n > limit || n < 2 {
		t.Errorf("%d ran at once, want 2 to %d", n, limit)
	}
	if len(l.lanes) != 0 || l.goroutines > limit || l.unusedLen > keepLanes {
		t.Errorf("%d lanes, %d goroutines, %d unused lanes are kept", len(l.lanes), l.goroutines, l.unusedLen)
	}
}

func TestLanesRunSessionsInParallelAndOneSessionAlone(t *testing.T) {
	const sessions = 8
	started := make(chan uint64, 2*sessions)
	release := make(chan struct{})
	l := newLanes(2*sessions, func(c *call) {
		started <- c.caller.Session.ID
		<-release
	})
	seen := make(map[uint64]bool)
	for session := range uint64(sessions) {
		l.add(callOf("g", session, 0))
	}
	for range sessions {
		select {
		case session := <-started:
			seen[session] = true
		case <-time.After(wait):
			t.Fatalf("only %d of %d sessions run", len(seen), sessions)
		}
	}
	if len(seen) != sessions {
		t.Errorf("%d sessions run, want %d", len(seen), sessions)
	}
	// Their lanes are empty and one call of each runs: the next ones are not ready.
	for session := range uint64(sessions) {
		l.add(callOf("g", session, 1))
	}
	l.mu.Lock()
	if l.head != nil || len(l.lanes) != sessions || len(started) != 0 {
		t.Errorf("%d lanes, %d more calls run: a session's second call does not wait for its first", len(l.lanes), len(started))
	}
	l.mu.Unlock()
	close(release)
	for range sessions {
		<-started
	}
	if left := l.close(wholly); left != nil {
		t.Error("something is left")
	}
}

// One goroutine and a session that has sent much: another has its turn before
// the first is done.
func TestLanesTakeTurns(t *testing.T) {
	const many = 4 * turn
	entered, release := make(chan struct{}), make(chan struct{})
	order := make(chan uint64, many+1)
	l := newLanes(1, func(c *call) {
		if c.caller.Session.ID == 1 && c.caller.Sequence == 0 {
			close(entered)
			<-release
		}
		order <- c.caller.Session.ID
	})
	for sequence := range uint32(many) {
		l.add(callOf("g", 1, sequence))
	}
	<-entered
	l.add(callOf("g", 2, 0))
	close(release)
	before := 0
	for session := range order {
		if session == 2 {
			break
		}
		before++
	}
	if before > turn {
		t.Errorf("%d calls of one session ran before another's turn, want %d", before, turn)
	}
	for range many - before {
		<-order
	}
	l.close(wholly)
}

func TestLanesGiveBackWhatNeverRan(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	l := newLanes(1, func(*call) { close(entered); <-release })
	for sequence := range uint32(3) {
		l.add(callOf("g", 1, sequence))
	}
	l.add(callOf("g", 2, 9))
	<-entered
	closed := make(chan *call)
	go func() { closed <- l.close(wholly) }()
	// Closed as soon as it refuses; the running call is still waited for.
	want := 3
	eventually(t, "the lanes refuse", func() bool {
		refused := l.add(callOf("g", 3, 0)) != nil
		if !refused {
			want++
		}
		return refused
	})
	select {
	case <-closed:
		t.Fatal("close did not wait for the running call")
	default:
	}
	close(release)
	got := 0
	for c := <-closed; c != nil; c = c.next {
		got++
	}
	if got != want {
		t.Errorf("%d calls came back, want %d", got, want)
	}
}

// The same from end to end: two routes of one service share the session's lane.
func TestRequestsOfASessionAreHandledInOrderOverAllRoutes(t *testing.T) {
	const sessions, each = 100, 20
	b := newMem(t)
	var mu sync.Mutex
	last := make(map[uint64]uint64)
	next := func(ctx context.Context, _ *commonpb.Empty) (*commonpb.Empty, error) {
		c := From(ctx)
		mu.Lock()
		defer mu.Unlock()
		if last[c.Session.ID]+1 != c.ID {
			t.Errorf("session %d: %d after %d", c.Session.ID, c.ID, last[c.Session.ID])
		}
		last[c.Session.ID] = c.ID
		return nil, nil
	}
	service(t, b, "count", func(w *Worker) {
		Handle(w, "count.odd", next)
		Handle(w, "count.even", next)
	})
	g := newGate(t, b, bus.NewTopology(""), "g1")
	for id := range uint64(each) {
		var requests []bus.Request
		for session := range uint64(sessions) {
			requests = append(requests, bus.Request{
				Session: session, Sequence: uint32(id + 1), User: 1, ID: id + 1, DataType: uint8(Protobuf),
			})
		}
		g.send([]string{"count.odd", "count.even"}[id%2], requests...)
	}
	for range sessions * each {
		if r := g.reply(); r.Code != 0 {
			t.Fatalf("got %q", r.Data)
		}
	}
}

func BenchmarkLanes(b *testing.B) {
	var all sync.WaitGroup
	l := newLanes(256, func(*call) { all.Done() })
	b.ReportAllocs()
	calls := make([]call, 64)
	for i := 0; i < b.N; i += len(calls) {
		all.Add(len(calls))
		for j := range calls {
			calls[j] = call{caller: Caller{Session: Session{Gate: "g1", ID: uint64(j)}}}
			if j > 0 {
				calls[j-1].next = &calls[j]
			}
		}
		l.add(&calls[0])
		all.Wait()
	}
	l.close(wholly)
}
