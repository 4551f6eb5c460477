package tape

import (
	"fmt"
	"slices"
	"testing"

	"github.com/motto123/minigate/pkg/bus"
)

// What is saved in the order in which a Joiner tells of calls is read as it was: a call
// that was held back by a slow one before it keeps its answer, and so does one of a worker
// whose clock is behind another's.
func TestSavedCallsKeepTheirAnswers(t *testing.T) {
	r := new(taped)
	call := func(ms int, session uint64, sequence uint32, deadline int) {
		r.requests(ms, "a.b", bus.Request{Session: session, Sequence: sequence, Deadline: at(ms + deadline).UnixMilli()})
	}
	call(0, 1, 1, 30_000)
	call(1000, 1, 2, 2000)
	r.replies(1100, bus.Reply{Session: 1, Sequence: 2})
	call(10_000, 2, 1, 2000)
	r.replies(11_000, bus.Reply{Session: 2, Sequence: 1})
	r.replies(20_000, bus.Reply{Session: 1, Sequence: 1})
	call(10_000, 3, 1, 2000) // its clock is behind
	r.replies(11_000, bus.Reply{Session: 3, Sequence: 1})
	read := func(from *taped) (told []string, saved *taped) {
		_, ended, _ := joined(t, from, JoinerConfig{})
		saved = new(taped)
		for _, c := range ended {
			took, ok := c.Handling()
			told = append(told, fmt.Sprint(c.Session, c.Sequence, c.Outcome, took, ok))
			for _, e := range c.Entries() {
				saved.add(e)
			}
		}
		return told, saved
	}
	then, saved := read(r)
	now, _ := read(saved)
	want := []string{"2 1 1 1s true", "1 1 1 20s true", "1 2 1 100ms true", "3 1 1 1s true"}
	if !slices.Equal(then, want) || !slices.Equal(now, want) {
		t.Errorf("told of are\n%q and, saved,\n%q, want\n%q", then, now, want)
	}
}
