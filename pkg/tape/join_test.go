package tape

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/motto123/minigate/pkg/bus"
)

var began = time.Date(2026, 11, 22, 21, 0, 0, 0, time.UTC)

func at(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }

// taped is a tape in memory, as workers write it.
type taped struct{ entries []*Entry }

func (r *taped) add(e *Entry) *Entry {
	e.Position = Position{Offset: int64(len(r.entries)) / 3, Index: len(r.entries) % 3}
	r.entries = append(r.entries, e)
	return e
}

// requests is an envelope of gate g1 that a worker took at ms, 2 ms after it was sent.
// Requests without a deadline get one of ten seconds.
func (r *taped) requests(ms int, route string, requests ...bus.Request) *Entry {
	b := bus.AppendHeader(nil, bus.Header{Gate: "g1", GateAddress: "g1.invalid:7101", Route: route})
	for _, one := range requests {
		if one.Deadline == 0 && one.Type == 0 {
			one.Deadline = at(ms + 9998).UnixMilli()
		}
		b = bus.AppendRequest(b, &one)
	}
	return r.add(&Entry{Kind: Requests, Time: at(ms), Sent: at(ms - 2), Worker: bus.Service(route), Gate: "g1", Envelope: b})
}

func (r *taped) replies(ms int, replies ...bus.Reply) *Entry {
	var b []byte
	for _, one := range replies {
		b = bus.AppendReply(b, &one)
	}
	return r.add(&Entry{Kind: Replies, Time: at(ms), Gate: "g1", Envelope: b})
}

// joined is what a Joiner makes of a tape, up to its end.
func joined(t *testing.T, r *taped, cfg JoinerConfig) (took, ended []*Call, j *Joiner) {
	t.Helper()
	cfg.Took = func(c *Call) error { took = append(took, c); return nil }
	cfg.Each = func(c *Call) error { ended = append(ended, c); return nil }
	j = NewJoiner(cfg)
	for _, e := range r.entries {
		if err := j.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Flush(); err != nil {
		t.Fatal(err)
	}
	if j.Held() != 0 || len(j.waiting) != 0 || len(j.due) != 0 || len(j.held.sessions) != 0 || j.held.bytes != 0 || j.held.settling != 0 {
		t.Errorf("at the end are left: %d held, %d waiting, %d due, %d sessions, %d bytes, %d settling",
			j.Held(), len(j.waiting), len(j.due), len(j.held.sessions), j.held.bytes, j.held.settling)
	}
	return took, ended, j
}

// said is what calls are, in short: session.sequence and the outcome.
func said(calls []*Call) string {
	var all []string
	for _, c := range calls {
		one := fmt.Sprintf("%d.%d", c.Session, c.Sequence)
		switch c.Outcome {
		case Answered:
			one += fmt.Sprintf("=%d", c.Reply.Code)
		case Unanswered:
			one += "!"
		case Silent:
			one += "~"
		}
		if c.Repeated {
			one += "r"
		}
		all = append(all, one)
	}
	return strings.Join(all, " ")
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got  %s\n%*swant %s", what, got, len(what)+2, "", want)
	}
}

func TestARequestIsJoinedWithItsAnswer(t *testing.T) {
	r := new(taped)
	e := r.requests(0, "chat.send",
		bus.Request{Session: 7, Sequence: 3, User: 42, DataType: 2, ID: 9, Name: []byte("chat.SendRequest"), Data: []byte("x"), Address: []byte{10, 0, 0, 1}},
		bus.Request{Session: 8, Sequence: 3, User: 43, DataType: 1})
	e.Redelivered, e.Masked = true, true
	r.replies(5,
		bus.Reply{Session: 8, Sequence: 3, Code: 5, DataType: 1, Name: []byte("common.Error"), Data: []byte("{}")},
		bus.Reply{Session: 8, Route: "chat.message"}, // a push
		bus.Reply{Session: 7, Sequence: 4})           // of nobody
	r.replies(6, bus.Reply{Session: 7, Sequence: 3, DataType: 2, Name: []byte("chat.SendResponse"), Data: []byte("y")}).Masked = true
	_, ended, j := joined(t, r, JoinerConfig{})
	want(t, "calls", said(ended), "7.3=0 8.3=5")
	c := ended[0]
	request := c.Request()
	if c.Route != "chat.send" || c.Worker != "chat" || c.Gate != "g1" || c.GateAddress != "g1.invalid:7101" || c.User != 42 || c.ID != 9 ||
		c.Name != "chat.SendRequest" || string(c.Data) != "x" || c.Address.String() != "10.0.0.1" || !c.Redelivered || !c.Masked || c.Repeated ||
		request.Deadline != at(9998).UnixMilli() || c.Reply.Name != "chat.SendResponse" || string(c.Reply.Data) != "y" || !c.Reply.Masked {
		t.Errorf("got %+v, answered %+v", c, c.Reply)
	}
	latency, ok := c.Latency()
	handling, too := c.Handling()
	if !ok || !too || latency != 8*time.Millisecond || handling != 6*time.Millisecond {
		t.Errorf("it took %v, the worker %v", latency, handling)
	}
	if s := j.Stats(); s != (JoinerStats{Calls: 2, Orphans: 1}) {
		t.Errorf("counted %+v", s)
	}
	if ended[1].Place.String() != "0.0.1" || ended[1].Failed() != true || c.Failed() {
		t.Errorf("the second is at %v", ended[1].Place)
	}
}

func TestCallsOfASessionKeepTheirOrder(t *testing.T) {
	t.Run("an answer that is late holds back those behind it, of its session only", func(t *testing.T) {
		r := new(taped)
		r.requests(0, "a.a", bus.Request{Session: 1, Sequence: 1}, bus.Request{Session: 1, Sequence: 2}, bus.Request{Session: 2, Sequence: 1})
		r.requests(500, "a.b", bus.Request{Session: 1, Sequence: 3, Type: 1})
		r.replies(600, bus.Reply{Session: 1, Sequence: 2}, bus.Reply{Session: 2, Sequence: 1})
		r.replies(900, bus.Reply{Session: 1, Sequence: 1})
		_, ended, _ := joined(t, r, JoinerConfig{})
		want(t, "ended", said(ended), "2.1=0 1.1=0 1.2=0 1.3~")
	})
	t.Run("another worker wrote first what came later", func(t *testing.T) {
		r := new(taped)
		r.requests(20, "b.b", bus.Request{Session: 1, Sequence: 3}, bus.Request{Session: 2, Sequence: 9})
		r.replies(21, bus.Reply{Session: 1, Sequence: 3})
		r.requests(10, "a.a", bus.Request{Session: 1, Sequence: 1}, bus.Request{Session: 1, Sequence: 2})
		r.replies(15, bus.Reply{Session: 1, Sequence: 1}, bus.Reply{Session: 1, Sequence: 2})
		r.requests(400, "a.a", bus.Request{Session: 1, Sequence: 4})
		took, ended, _ := joined(t, r, JoinerConfig{})
		want(t, "took", said(took), "1.1=0 1.2=0 1.3=0 2.9 1.4")
		want(t, "ended", said(ended), "1.1=0 1.2=0 1.3=0 2.9 1.4")
	})
	t.Run("sequences begin again", func(t *testing.T) {
		r := new(taped)
		r.requests(0, "a.a", bus.Request{Session: 1, Sequence: 1, Type: 1}, bus.Request{Session: 1, Sequence: 1<<32 - 1, Type: 1})
		took, _, _ := joined(t, r, JoinerConfig{})
		if took[0].Sequence != 1<<32-1 {
			t.Errorf("took %s", said(took))
		}
	})
}

func TestWhatNobodyAnswersEnds(t *testing.T) {
	r := new(taped)
	r.requests(0, "a.a", bus.Request{Session: 1, Sequence: 1}, bus.Request{Session: 1, Sequence: 2})
	r.replies(1, bus.Reply{Session: 1, Sequence: 2})
	var ended []*Call
	j := NewJoiner(JoinerConfig{Each: func(c *Call) error { ended = append(ended, c); return nil }})
	for _, e := range r.entries {
		if err := j.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	tick := func(seconds int) {
		t.Helper()
		if err := j.Tick(began.Add(time.Hour + time.Duration(seconds)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	tick(0) // from here on nothing is added, by another clock
	tick(14)
	if len(ended) != 0 {
		t.Fatalf("before the deadline and its slack has ended %s", said(ended))
	}
	tick(16)
	want(t, "past it", said(ended), "1.1! 1.2=0")

	// By the tape's own clock, as fast as it is read.
	r.requests(20_000, "a.a", bus.Request{Session: 1, Sequence: 3})
	_, all, _ := joined(t, r, JoinerConfig{})
	want(t, "read again", said(all), "1.1! 1.2=0 1.3")
	if !all[0].Failed() || all[2].Failed() {
		t.Error("unanswered is a failure, and open is none")
	}
}

func TestARedeliveredRequestIsOneCall(t *testing.T) {
	r := new(taped)
	r.requests(0, "a.a", bus.Request{Session: 1, Sequence: 1})
	r.requests(300, "a.a", bus.Request{Session: 1, Sequence: 1}).Redelivered = true
	r.replies(400, bus.Reply{Session: 1, Sequence: 1})
	r.requests(800, "a.a", bus.Request{Session: 1, Sequence: 1}, bus.Request{Session: 1, Sequence: 2}).Redelivered = true
	r.replies(900, bus.Reply{Session: 1, Sequence: 1}, bus.Reply{Session: 1, Sequence: 2})
	took, ended, _ := joined(t, r, JoinerConfig{})
	want(t, "took", said(took), "1.1=0 1.1=0r 1.2=0")
	want(t, "ended", said(ended), "1.1=0 1.1=0r 1.2=0")
	if ended[0].Taken != at(0) || ended[1].Taken != at(800) {
		t.Errorf("they were taken at %v and %v", ended[0].Taken, ended[1].Taken)
	}
}

func TestAJoinerIsBounded(t *testing.T) {
	for name, cfg := range map[string]JoinerConfig{"calls": {MaxCalls: 100}, "bytes": {MaxBytes: 100 * (callSize + 50)}} {
		t.Run(name, func(t *testing.T) {
			most := 0
			var ended []*Call
			cfg.Each = func(c *Call) error { ended = append(ended, c); return nil }
			j := NewJoiner(cfg)
			r := new(taped)
			for i := range uint32(1000) {
				e := r.requests(int(i), "a.a", bus.Request{Session: uint64(i % 7), Sequence: i + 1, Data: make([]byte, 50)})
				if err := j.Add(e); err != nil {
					t.Fatal(err)
				}
				most = max(most, j.Held())
			}
			if most != 100 || j.Stats().GivenUp != 900 || len(ended) != 900 || ended[0].Outcome != Open {
				t.Errorf("held %d, gave up %d, told of %d", most, j.Stats().GivenUp, len(ended))
			}
			if !slices.IsSortedFunc(ended, func(a, b *Call) int { return int(a.Sequence) - int(b.Sequence) }) {
				t.Error("the oldest were not given up first")
			}
		})
	}
}

// Whoever stops at any place, and begins again at what Next says, has each call once.
func TestACutTapeHasEachCallOnce(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	r := new(taped)
	var open []bus.Reply
	sequences := make([]uint32, 5)
	for ms := range 400 {
		var requests []bus.Request
		for range 1 + random.IntN(4) {
			s := random.IntN(len(sequences))
			sequences[s]++
			requests = append(requests, bus.Request{Session: uint64(s), Sequence: sequences[s], Deadline: at(ms*10 + 150).UnixMilli()})
			if random.IntN(20) > 0 {
				open = append(open, bus.Reply{Session: uint64(s), Sequence: sequences[s]})
			}
		}
		r.requests(ms*10, "a.a", requests...)
		if random.IntN(3) == 0 {
			random.Shuffle(len(open), func(i, j int) { open[i], open[j] = open[j], open[i] })
			r.replies(ms*10+5, open...)
			open = nil
		}
	}
	cfg := JoinerConfig{Window: 30 * time.Millisecond, Slack: 10 * time.Millisecond}
	whole, wholeEnded, _ := joined(t, r, cfg)
	for limit := 1; limit < len(whole); limit += 37 {
		var took, ended []*Call
		var next Place
		read := func(from Place, limit int) {
			var j *Joiner
			n := 0
			cfg.From = from
			cfg.Took = func(c *Call) error { took = append(took, c); return nil }
			cfg.Each = func(c *Call) error {
				ended = append(ended, c)
				if n++; n == limit {
					j.Full()
				}
				return nil
			}
			j = NewJoiner(cfg)
			for _, e := range r.entries {
				if floor := j.TookFloor(); floor.Before(j.Floor()) {
					t.Fatalf("all before %v have ended, and only those before %v were taken", j.Floor(), floor)
				}
				if err := j.Add(e); err != nil {
					t.Fatal(err)
				}
			}
			if err := j.Flush(); err != nil {
				t.Fatal(err)
			}
			next = j.Next()
		}
		read(Place{}, limit)
		if len(ended) == len(whole) && limit < 800 {
			t.Fatalf("Full after %d took all the same", limit)
		}
		read(next, -1)
		sort := func(calls []*Call) []string {
			all := make([]string, len(calls))
			for i, c := range calls {
				all[i] = c.Place.String() + " " + said([]*Call{c})
			}
			slices.Sort(all)
			return all
		}
		if !slices.Equal(sort(ended), sort(wholeEnded)) || len(took) != len(whole) {
			t.Fatalf("cut at %v: %d calls and not %d, or with other ends", next, len(took), len(whole))
		}
	}
}

func TestWhatCanNotBeReadIsCounted(t *testing.T) {
	r := new(taped)
	r.requests(0, "a.a", bus.Request{Session: 1, Sequence: 1})
	r.add(&Entry{Kind: Requests, Envelope: []byte{0xff}})
	r.add(&Entry{Kind: Replies, Gate: "g1", Envelope: []byte{0xff}})
	r.add(&Entry{Kind: 77})
	r.replies(1, bus.Reply{Session: 1, Sequence: 1})
	_, ended, j := joined(t, r, JoinerConfig{})
	if said(ended) != "1.1=0" || j.Stats().Malformed != 2 {
		t.Errorf("got %s, and %d malformed", said(ended), j.Stats().Malformed)
	}
}

func TestErrorsOfTheCallbacksEndIt(t *testing.T) {
	r := new(taped)
	r.requests(0, "a.a", bus.Request{Session: 1, Sequence: 1, Type: 1})
	r.requests(900, "a.a", bus.Request{Session: 1, Sequence: 2})
	full := errors.New("full")
	fails := func(*Call) error { return full }
	fine := func(*Call) error { return nil }
	for name, cfg := range map[string]JoinerConfig{"took": {Took: fails, Each: fine}, "each": {Each: fails}} {
		j := NewJoiner(cfg)
		if err := errors.Join(j.Add(r.entries[0]), j.Add(r.entries[1])); !errors.Is(err, full) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestACallOfATapeIsTheSameOnAnother(t *testing.T) {
	r := new(taped)
	e := r.requests(0, "chat.send",
		bus.Request{Session: 7, Sequence: 3, User: 42, DataType: 2, ID: 9, Name: []byte("n"), Data: []byte("x"), Address: []byte{10, 0, 0, 1}},
		bus.Request{Session: 7, Sequence: 4, Type: 1})
	e.Redelivered, e.Masked = true, true
	r.replies(6, bus.Reply{Session: 7, Sequence: 3, Code: 3, DataType: 2, Name: []byte("m"), Data: []byte("y")}).Masked = true
	_, first, _ := joined(t, r, JoinerConfig{})
	again := new(taped)
	for _, c := range first {
		for _, e := range c.Entries() {
			again.add(e)
		}
	}
	if len(again.entries) != 3 {
		t.Errorf("two calls with one answer are %d entries", len(again.entries))
	}
	_, second, _ := joined(t, again, JoinerConfig{})
	for i := range first {
		first[i].Place = second[i].Place
		if !reflect.DeepEqual(first[i], second[i]) {
			t.Errorf("got %+v, want %+v", second[i], first[i])
		}
	}
}

func TestTheMemoryOfEndedCallsIsBounded(t *testing.T) {
	r := newRecent()
	for i := range uint32(keepRecent + 10) {
		r.add(key{sequence: i})
		r.add(key{sequence: i})
	}
	if len(r.set) != keepRecent || r.has(key{sequence: 9}) || !r.has(key{sequence: 10}) {
		t.Errorf("%d are remembered", len(r.set))
	}
	n := make(names)
	for i := range keepNames + 1 {
		n.of(fmt.Sprint(i))
	}
	if len(n) > keepNames {
		t.Errorf("%d names are kept", len(n))
	}
}
