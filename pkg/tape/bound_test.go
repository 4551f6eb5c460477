package tape

import (
	"slices"
	"testing"
	"time"

	"github.com/motto123/minigate/pkg/bus"
)

// Whatever waits behind an unanswered request counts against the bound, and keeps its
// order when the bound lets go of it.
func TestWhatWaitsBehindAnUnansweredRequestIsBounded(t *testing.T) {
	const notify, ack = 1, 2
	for name, c := range map[string]struct {
		cfg      JoinerConfig
		requests int // behind the unanswered one
		kind     uint8
		data     int
		answer   int // bytes of each answer
		every    int // milliseconds between two
		givenUp  uint64
	}{
		"notifies":                 {cfg: JoinerConfig{MaxCalls: 100}, requests: 20_000, kind: notify, data: 1024, every: 1, givenUp: 1},
		"notifies by bytes":        {cfg: JoinerConfig{MaxBytes: 1 << 20}, requests: 20_000, kind: notify, data: 1024, every: 1, givenUp: 1},
		"acks":                     {cfg: JoinerConfig{MaxCalls: 100}, requests: 2000, kind: ack, every: 1, givenUp: 1},
		"notifies in an instant":   {cfg: JoinerConfig{MaxCalls: 100}, requests: 2000, kind: notify, givenUp: 1},
		"large answers":            {cfg: JoinerConfig{MaxBytes: 2 << 20}, requests: 90, answer: 1 << 20, every: 1, givenUp: 1},
		"large answers in between": {cfg: JoinerConfig{MaxBytes: 2 << 20, Window: 1}, requests: 90, answer: 1 << 20, every: 300, givenUp: 1},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := c.cfg
			var took, ended []*Call
			cfg.Took = func(c *Call) error { took = append(took, c); return nil }
			cfg.Each = func(c *Call) error { ended = append(ended, c); return nil }
			j := NewJoiner(cfg)
			within := func() {
				t.Helper()
				if j.held.count > j.cfg.MaxCalls || j.held.bytes > j.cfg.MaxBytes {
					t.Fatalf("holds %d calls and %d bytes", j.held.count, j.held.bytes)
				}
			}
			add := func(e *Entry) {
				t.Helper()
				if err := j.Add(e); err != nil {
					t.Fatal(err)
				}
				within()
			}
			r := new(taped)
			far := at(10_000_000).UnixMilli()
			add(r.requests(0, "a.a", bus.Request{Session: 1, Sequence: 1, Deadline: far}))
			for i := range c.requests {
				sequence, ms := uint32(i+2), i*c.every
				add(r.requests(ms, "a.a", bus.Request{Session: 1, Sequence: sequence, Type: c.kind, Data: make([]byte, c.data), Deadline: far}))
				if c.answer > 0 {
					add(r.replies(ms, bus.Reply{Session: 1, Sequence: sequence, Data: make([]byte, c.answer)}))
				}
			}
			if err := j.Flush(); err != nil {
				t.Fatal(err)
			}
			if n := c.requests + 1; len(took) != n || len(ended) != n || j.Stats().GivenUp != c.givenUp {
				t.Errorf("of %d calls took %d, ended %d and gave up %d", n, len(took), len(ended), j.Stats().GivenUp)
			}
			if ended[0].Outcome != Open || ended[1].Outcome == Open {
				t.Errorf("the unanswered one is %v, the one behind it %v", ended[0].Outcome, ended[1].Outcome)
			}
			for _, calls := range [][]*Call{took, ended} {
				if !slices.IsSortedFunc(calls, func(a, b *Call) int { return int(a.Sequence) - int(b.Sequence) }) {
					t.Error("the session lost its order")
				}
			}
		})
	}
}

// What is settled costs nothing any more, however much of it a session has.
func TestSettlingIsLinear(t *testing.T) {
	const notifies = 200_000
	ended := 0
	j := NewJoiner(JoinerConfig{MaxCalls: 2 * notifies, MaxBytes: 1 << 30, Each: func(*Call) error { ended++; return nil }})
	r := new(taped)
	add := func(e *Entry) {
		t.Helper()
		if err := j.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	far := at(10_000_000).UnixMilli()
	add(r.requests(0, "a.a", bus.Request{Session: 1, Sequence: 1, Deadline: far}))
	late := time.Now().Add(20 * time.Second)
	for i := range notifies {
		add(r.requests(i, "a.a", bus.Request{Session: 1, Sequence: uint32(i + 2), Type: 1}))
		if time.Now().After(late) {
			t.Fatalf("%d notifies took 20 s", i)
		}
	}
	if ended != 0 || j.Held() != notifies+1 {
		t.Errorf("%d have ended, %d are held", ended, j.Held())
	}
	add(r.replies(notifies, bus.Reply{Session: 1, Sequence: 1}))
	if err := j.Flush(); err != nil || ended != notifies+1 {
		t.Errorf("%d have ended: %v", ended, err)
	}
}
