package tape

import (
	"errors"
	"testing"
	"time"
)

func TestAFilterTakesWhatIsAllThatItSays(t *testing.T) {
	user, nobody, session := int64(42), int64(0), uint64(7)
	answered := func(code uint32, took time.Duration) *Call {
		return &Call{Outcome: Answered, Taken: at(0), Reply: &Reply{Code: code, Time: at(0).Add(took)}}
	}
	for name, c := range map[string]struct {
		filter Filter
		takes  []*Call
		leaves []*Call
	}{
		"all":     {takes: []*Call{{}, {Route: "a.b", User: 1}}},
		"route":   {Filter{Routes: []string{"chat.*", "echo.echo"}}, []*Call{{Route: "chat.send"}, {Route: "echo.echo"}}, []*Call{{Route: "chats.send"}, {Route: "auth.login"}}},
		"user":    {Filter{User: &user}, []*Call{{User: 42}}, []*Call{{User: 43}, {}}},
		"nobody":  {Filter{User: &nobody}, []*Call{{}}, []*Call{{User: 43}}},
		"gate":    {Filter{Gate: "g"}, []*Call{{Gate: "g"}}, []*Call{{Gate: "h"}}},
		"session": {Filter{Session: &session}, []*Call{{Session: 7}}, []*Call{{Session: 8}}},
		"since":   {Filter{Since: at(5)}, []*Call{{Taken: at(5)}, {Taken: at(6)}}, []*Call{{Taken: at(4)}}},
		"until":   {Filter{Until: at(5)}, []*Call{{Taken: at(4)}}, []*Call{{Taken: at(5)}}},
		"errors":  {Filter{Errors: true}, []*Call{answered(5, 0), {Outcome: Unanswered}}, []*Call{answered(0, 0), {Outcome: Silent}, {Outcome: Open}}},
		"slow":    {Filter{Slow: time.Second}, []*Call{answered(0, time.Second), {Outcome: Unanswered}}, []*Call{answered(5, time.Second-1), {Outcome: Silent}}},
		"both":    {Filter{User: &user, Errors: true}, []*Call{{User: 42, Outcome: Unanswered}}, []*Call{{User: 43, Outcome: Unanswered}, {User: 42, Outcome: Silent}}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.filter.Check(); err != nil {
				t.Error(err)
			}
			for _, call := range c.takes {
				if !c.filter.Wants(call) || !c.filter.Takes(call) {
					t.Errorf("it does not take %+v", call)
				}
			}
			for _, call := range c.leaves {
				if c.filter.Wants(call) && c.filter.Takes(call) {
					t.Errorf("it takes %+v", call)
				}
			}
			if by := c.filter.Errors || c.filter.Slow > 0; c.filter.ByOutcome() != by {
				t.Errorf("it asks for the outcome: %v", !by)
			}
		})
	}
	if err := (&Filter{Routes: []string{"a.*", "[a"}}).Check(); err == nil {
		t.Error("a pattern that is none is taken")
	}
}

func TestPlacesAreReadAsTheyAreWritten(t *testing.T) {
	for text, want := range map[string]Place{
		"5": {Position{5, 0}, 0}, "5.6": {Position{5, 6}, 0}, "5.6.7": {Position{5, 6}, 7}, "9007199254740993.0.0": {Position{9007199254740993, 0}, 0},
	} {
		got, err := ParsePlace(text)
		if err != nil || got != want {
			t.Errorf("%s is %v, %v", text, got, err)
		}
		if again, err := ParsePlace(got.String()); err != nil || again != got {
			t.Errorf("%v is written %s and read %v, %v", got, got, again, err)
		}
	}
	for _, text := range []string{"", "x", "1.2.3.4", "-1", "1.-1", "1..2", "1.99999999999", "99999999999999999999"} {
		if p, err := ParsePlace(text); !errors.Is(err, ErrPlace) {
			t.Errorf("%q is %v, %v", text, p, err)
		}
	}
	sorted := []Place{{}, {Position{0, 0}, 1}, {Position{0, 1}, 0}, {Position{1, 0}, 0}}
	for i, p := range sorted {
		for j, q := range sorted {
			if p.Before(q) != (i < j) {
				t.Errorf("%v before %v: %v", p, q, i >= j)
			}
		}
	}
}
