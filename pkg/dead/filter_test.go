package dead

import (
	"strings"
	"testing"
	"time"

	"github.com/motto123/minigate/pkg/bus"
)

func TestFilter(t *testing.T) {
	now := time.Now()
	event := &Letter{ID: "a-1", Queue: "event.mailer.email.verification", Letter: bus.Letter{Event: "email.verification", Last: now.Add(-time.Hour)}}
	request := &Letter{ID: "b-2", Queue: "worker.chat", Letter: bus.Letter{Route: "chat.send", First: now.Add(-time.Minute)}}
	stranger := &Letter{ID: "c-3"}
	for name, c := range map[string]struct {
		filter Filter
		want   string // the ids' letters
	}{
		"all":            {Filter{}, "abc"},
		"ids":            {Filter{IDs: []string{"c-3", "a-1"}}, "ac"},
		"part of an id":  {Filter{IDs: []string{"a"}}, ""},
		"queue":          {Filter{Queue: "worker.chat"}, "b"},
		"pattern":        {Filter{Queue: "*.*"}, "ab"},
		"route":          {Filter{Route: "chat.*"}, "b"},
		"event":          {Filter{Event: "email.?erification"}, "a"},
		"both":           {Filter{Event: "email.*", Queue: "worker.*"}, ""},
		"older":          {Filter{Older: 30 * time.Minute}, "a"},
		"a little older": {Filter{Older: 30 * time.Second}, "ab"},
		"limit":          {Filter{Limit: 2}, "ab"},
		"limit of some":  {Filter{Limit: 1, Route: "chat.send"}, "b"},
	} {
		chosen, err := c.filter.choose(now)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, l := range []*Letter{event, request, stranger} {
			if chosen.takes(l) {
				got += l.ID[:1]
			}
		}
		if got != c.want {
			t.Errorf("%s: takes %q, want %q", name, got, c.want)
		}
		if chosen.done() != (name == "ids" || strings.HasPrefix(name, "limit")) {
			t.Errorf("%s: done is %v", name, chosen.done())
		}
		if err := chosen.missing(); (err != nil) != (name == "part of an id") {
			t.Errorf("%s: %v", name, err)
		}
		if c.filter.empty() != (name == "all") {
			t.Errorf("%s: empty is %v", name, c.filter.empty())
		}
	}
	if _, err := (Filter{Route: "[a"}).choose(now); err == nil || !strings.Contains(err.Error(), "--route") {
		t.Errorf("a bad pattern: %v", err)
	}
	chosen, err := Filter{IDs: []string{"y", "x", "a-1"}}.choose(now)
	if err != nil {
		t.Fatal(err)
	}
	chosen.takes(event)
	if err := chosen.missing(); err == nil || !strings.Contains(err.Error(), "x, y") || strings.Contains(err.Error(), "a-1") {
		t.Errorf("missing: %v", err)
	}
}
