package tape

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus/hooks/test"

	"github.com/motto123/minigate/pkg/metrics/metricstest"
	"github.com/motto123/minigate/pkg/parts"
)

// shelf is a Store in memory.
type shelf struct {
	refuse error            // what becomes of all batches
	hold   chan struct{}    // if set, Write waits until it is closed, or for its context
	later  chan func(error) // if set, takes what Write would have called

	mu      sync.Mutex
	batches []Batch
}

func (s *shelf) Write(ctx context.Context, b Batch, done func(error)) {
	if s.hold != nil {
		select {
		case <-s.hold:
		case <-ctx.Done():
			done(ctx.Err())
			return
		}
	}
	s.mu.Lock()
	b.Body = bytes.Clone(b.Body)
	s.batches = append(s.batches, b)
	s.mu.Unlock()
	if s.later != nil {
		s.later <- done
		return
	}
	done(s.refuse)
}

// entries are what is on the shelf, and how many in each batch.
func (s *shelf) entries(t *testing.T) (all []Entry, sizes []int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, b := range s.batches {
		n, last := 0, time.Time{}
		if err := ReadBatch(b.Body, int64(i), func(e *Entry) error {
			one := *e
			one.Envelope = bytes.Clone(e.Envelope)
			all = append(all, one)
			if n++; e.Time.After(last) {
				last = e.Time
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		if n != b.Entries || !last.Equal(b.Last) {
			t.Errorf("batch %d has %d entries, the last of %v; it says %d and %v", i, n, last, b.Entries, b.Last)
		}
		sizes = append(sizes, n)
	}
	return all, sizes
}

// recording runs a recorder until the test ends or stop is called.
func recording(t testing.TB, cfg RecorderConfig) (r *Recorder, stop func()) {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log, _ = test.NewNullLogger()
	}
	r = NewRecorder(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return r, stop
}

func request(n int) Entry {
	return Entry{Kind: Requests, Worker: "echo", Time: time.Unix(1, int64(n)), Envelope: []byte(strconv.Itoa(n))}
}

// TestBatches: entries wait for each other, but not for long.
func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(shelf)
		r, stop := recording(t, RecorderConfig{Store: s})
		for i := range 3 {
			r.Record(request(i))
			time.Sleep(9 * time.Millisecond)
		}
		synctest.Wait()
		if _, sizes := s.entries(t); len(sizes) != 1 || sizes[0] != 3 {
			t.Errorf("after 27 ms: batches of %v, want one of 3", sizes)
		}
		r.Record(request(3))
		time.Sleep(19 * time.Millisecond)
		synctest.Wait()
		if _, sizes := s.entries(t); len(sizes) != 1 {
			t.Errorf("after 19 ms more: batches of %v", sizes)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		all, sizes := s.entries(t)
		if len(sizes) != 2 || len(all) != 4 {
			t.Errorf("after 20 ms more: batches of %v", sizes)
		}
		for i, e := range all {
			want := request(i)
			if e.Kind != want.Kind || e.Worker != want.Worker || !e.Time.Equal(want.Time) || string(e.Envelope) != string(want.Envelope) {
				t.Errorf("entry %d is %+v, want %+v", i, e, want)
			}
		}
		stop()
	})
}

// A batch that is full goes at once.
func TestFullBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(shelf)
		r, _ := recording(t, RecorderConfig{Store: s, MaxBatch: 1000, Patience: time.Hour})
		long := request(0)
		long.Envelope = make([]byte, 300)
		for range 7 {
			r.Record(long)
		}
		synctest.Wait()
		if _, sizes := s.entries(t); fmt.Sprint(sizes) != "[3 3]" && fmt.Sprint(sizes) != "[2 2 2]" {
			t.Errorf("batches of %v", sizes)
		}
		huge := request(1)
		huge.Envelope = make([]byte, 5000)
		r.Record(huge)
		synctest.Wait()
		if all, sizes := s.entries(t); len(all) != 8 || sizes[len(sizes)-1] != 1 {
			t.Errorf("batches of %v, want the huge one alone and at once", sizes)
		}
	})
}

// TestFull: what there is no room for is dropped, and Record does not wait, whatever
// the store does.
func TestFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{hold: make(chan struct{})}
		log, hook := test.NewNullLogger()
		r, stop := recording(t, RecorderConfig{Store: s, MaxBatch: 1000, MaxBytes: 10_000, Log: log})
		e := request(0)
		e.Envelope = make([]byte, 500)
		for range 100 {
			r.Record(e)
		}
		text := metricstest.Text(t, r)
		var waiting, dropped float64
		for line := range strings.Lines(text) {
			_, _ = fmt.Sscanf(line, "minigate_tape_waiting_bytes %g", &waiting)
			_, _ = fmt.Sscanf(line, `minigate_tape_dropped_total{reason="full"} %g`, &dropped)
		}
		if waiting > 10_000 || waiting < 9_000 {
			t.Errorf("%v bytes wait, want up to 10,000", waiting)
		}
		if lines := hook.AllEntries(); len(lines) != 1 {
			t.Errorf("%d lines in the log, want one for all that is dropped", len(lines))
		}
		time.Sleep(time.Minute)
		r.Record(e)
		if lines := hook.AllEntries(); len(lines) != 2 {
			t.Errorf("%d lines in the log, want another one a minute later", len(lines))
		}
		close(s.hold)
		stop()
		all, _ := s.entries(t)
		if len(all) == 0 || float64(len(all))+dropped != 100 {
			t.Errorf("%d entries are kept and %v dropped, want 100 together", len(all), dropped)
		}
		metricstest.Expect(t, r,
			fmt.Sprintf("minigate_tape_entries_total %d", len(all)),
			fmt.Sprintf("minigate_tape_batches_total %d", len(s.batches)),
			fmt.Sprintf(`minigate_tape_dropped_total{reason="full"} %d`, 101-len(all)),
			`minigate_tape_dropped_total{reason="lost"} 0`,
			"minigate_tape_waiting_bytes 0",
		)
	})
}

// Room comes back when a batch is kept, and when it is not.
func TestRoomComesBack(t *testing.T) {
	for name, refuse := range map[string]error{"kept": nil, "lost": errors.New("no room on the disk")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &shelf{refuse: refuse}
				r, stop := recording(t, RecorderConfig{Store: s, MaxBytes: 1000})
				e := request(0)
				e.Envelope = make([]byte, 700)
				for range 20 {
					r.Record(e)
					time.Sleep(21 * time.Millisecond)
				}
				stop()
				metricstest.Expect(t, r, `minigate_tape_dropped_total{reason="full"} 0`, "minigate_tape_waiting_bytes 0",
					fmt.Sprintf(`minigate_tape_dropped_total{reason="lost"} %d`, map[bool]int{true: 20}[refuse != nil]))
			})
		})
	}
}

// TestEnd: what is there at the end is kept, and waited for.
func TestEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{later: make(chan func(error), 10)}
		r, stop := recording(t, RecorderConfig{Store: s, Patience: time.Hour})
		r.Record(request(1))
		ended := make(chan struct{})
		go func() { defer close(ended); stop() }()
		synctest.Wait()
		if all, _ := s.entries(t); len(all) != 1 {
			t.Errorf("%d entries are kept at the end, want 1", len(all))
		}
		select {
		case <-ended:
			t.Error("Run does not wait until what it wrote is kept")
		default:
		}
		(<-s.later)(nil)
		<-ended
		r.Record(request(2))
		metricstest.Expect(t, r, "minigate_tape_entries_total 1", `minigate_tape_dropped_total{reason="full"} 1`)
	})
}

// Run ends also where the store takes nothing, or does not say what became of it.
func TestEndIsBounded(t *testing.T) {
	for name, s := range map[string]*shelf{
		"takes nothing": {hold: make(chan struct{})},
		"says nothing":  {later: make(chan func(error), 10)},
	} {
		for _, hurried := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, hurried %v", name, hurried), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := &shelf{hold: s.hold, later: s.later}
					if s.hold != nil {
						s.hold = make(chan struct{}) // of this bubble
					} else {
						s.later = make(chan func(error), 10)
					}
					ending := parts.NewEnding()
					r, stop := recording(t, RecorderConfig{Store: s, MaxBatch: 10, Ending: ending})
					for i := range 10 {
						r.Record(request(i))
					}
					synctest.Wait()
					began := time.Now()
					if hurried {
						ending.Hurry()
					}
					stop()
					if took, want := time.Since(began), map[bool]time.Duration{false: endTime}[hurried]; took != want {
						t.Errorf("it took %v, want %v", took, want)
					}
					if cut := ending.Cut(); !slices.Equal(cut, []string{"tape: 10 entries"}) {
						t.Errorf("%q was cut off", cut)
					}
				})
			})
		}
	}
}

// Replies to one gate that come together are one entry.
func TestRepliesAreJoined(t *testing.T) {
	s := new(shelf)
	r, stop := recording(t, RecorderConfig{Store: s, Patience: time.Hour})
	at := time.Unix(1, 0)
	reply := func(gate string, after time.Duration, masked bool, text string) Entry {
		return Entry{Kind: Replies, Worker: "echo", Gate: gate, Time: at.Add(after), Masked: masked, Envelope: []byte(text)}
	}
	r.Record(reply("g", 0, false, "a"))
	r.Record(reply("g", 0, false, "b"))
	r.Record(reply("g", together-1, false, "c"))
	r.Record(reply("g", together, false, "d")) // too late
	r.Record(reply("g", 0, false, "e"))        // from before
	r.Record(reply("h", 0, false, "f"))        // to another gate
	r.Record(reply("h", 0, true, "g"))         // of another kind
	r.Record(Entry{Kind: Replies, Worker: "chat", Gate: "h", Time: at, Masked: true, Envelope: []byte("h")})
	r.Record(Entry{Kind: Requests, Worker: "chat", Gate: "h", Time: at, Masked: true, Envelope: []byte("i")})
	stop()
	all, _ := s.entries(t)
	var got []string
	for _, e := range all {
		got = append(got, string(e.Envelope))
	}
	if strings.Join(got, " ") != "abc d e f g h i" {
		t.Errorf("got %q", got)
	}
	if len(all) > 0 && !all[0].Time.Equal(at) {
		t.Errorf("the joined ones have the time %v, want that of the first", all[0].Time)
	}
}

// A batch with joined replies keeps its bound.
func TestJoinedRepliesAreBounded(t *testing.T) {
	s := new(shelf)
	r, stop := recording(t, RecorderConfig{Store: s, MaxBatch: 1000, Patience: time.Hour})
	for range 100 {
		r.Record(Entry{Kind: Replies, Worker: "echo", Gate: "g", Envelope: make([]byte, 90)})
	}
	stop()
	if len(s.batches) < 9 {
		t.Errorf("%d batches", len(s.batches))
	}
	total := 0
	for _, b := range s.batches {
		if len(b.Body) > 1000 {
			t.Errorf("a batch has %d bytes", len(b.Body))
		}
		if err := ReadBatch(b.Body, 0, func(e *Entry) error { total += len(e.Envelope); return nil }); err != nil {
			t.Error(err)
		}
	}
	if total != 9000 {
		t.Errorf("%d bytes of envelopes, want 9,000", total)
	}
}

func TestRecordIsSafeToCallAtOnce(t *testing.T) {
	s := new(shelf)
	r, stop := recording(t, RecorderConfig{Store: s, MaxBatch: 2000})
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for j := range 500 {
				r.Record(request(1000*i + j))
			}
		})
	}
	all.Wait()
	stop()
	seen := make(map[string]bool)
	entries, _ := s.entries(t)
	last := make(map[int64]int64)
	for _, e := range entries {
		seen[string(e.Envelope)] = true
		n := e.Time.Sub(time.Unix(1, 0)).Nanoseconds()
		if before, ok := last[n/1000]; ok && n <= before {
			t.Errorf("%d comes after %d", n, before)
		}
		last[n/1000] = n
	}
	if len(entries) != 2000 || len(seen) != 2000 {
		t.Errorf("%d entries, %d different, want 2,000", len(entries), len(seen))
	}
}

// nowhere keeps nothing.
type nowhere struct{}

func (nowhere) Write(_ context.Context, _ Batch, done func(error)) { done(nil) }

// BenchmarkRecord is what a reply of 250 bytes costs.
func BenchmarkRecord(b *testing.B) {
	for _, apart := range []time.Duration{0, together} {
		b.Run(fmt.Sprintf("apart=%v", apart), func(b *testing.B) {
			r, _ := recording(b, RecorderConfig{Store: nowhere{}})
			e := Entry{Kind: Replies, Worker: "echo", Gate: strings.Repeat("g", 20), Envelope: make([]byte, 250)}
			at := time.Unix(1, 0)
			b.ReportAllocs()
			b.SetBytes(int64(len(e.Envelope)))
			for b.Loop() {
				at = at.Add(apart)
				e.Time = at
				r.Record(e)
			}
		})
	}
}
