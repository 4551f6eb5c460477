package dead

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// Filter chooses letters. What is zero takes all; what is not has to hold together.
type Filter struct {
	// IDs are those of letters, in full.
	IDs []string
	// Queue, Route and Event are patterns, in which * stands for any text.
	Queue, Route, Event string
	// Older takes letters that died that long ago or longer, by this machine's clock.
	Older time.Duration
	// Limit is how many letters are taken, the oldest; 0 is all.
	Limit int
}

// empty says that nothing was said of which letters.
func (f *Filter) empty() bool {
	return len(f.IDs) == 0 && f.Queue == "" && f.Route == "" && f.Event == "" && f.Older == 0 && f.Limit == 0
}

// chooser is a Filter at work.
type chooser struct {
	Filter
	wanted map[string]bool // ids that have not been met; nil is any
	before time.Time       // zero is any
	taken  int
}

// choose checks a filter and begins to choose.
func (f Filter) choose(now time.Time) (*chooser, error) {
	c := &chooser{Filter: f}
	for name, pattern := range map[string]string{"queue": f.Queue, "route": f.Route, "event": f.Event} {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fmt.Errorf("--%s: got %q, want a name, in which * may stand for any text: %w", name, pattern, err)
		}
	}
	if len(f.IDs) > 0 {
		c.wanted = make(map[string]bool, len(f.IDs))
		for _, id := range f.IDs {
			c.wanted[id] = true
		}
	}
	if f.Older > 0 {
		c.before = now.Add(-f.Older)
	}
	return c, nil
}

// takes says whether a letter is chosen, and counts it.
func (c *chooser) takes(l *Letter) bool {
	if c.done() || !c.fits(l) {
		return false
	}
	delete(c.wanted, l.ID)
	c.taken++
	return true
}

func (c *chooser) fits(l *Letter) bool {
	if c.wanted != nil && !c.wanted[l.ID] {
		return false
	}
	if !c.before.IsZero() && (l.Died().IsZero() || l.Died().After(c.before)) {
		return false
	}
	return matches(c.Queue, l.Queue) && matches(c.Route, l.Route) && matches(c.Event, l.Event)
}

// done says that no other letter will be taken.
func (c *chooser) done() bool {
	return c.wanted != nil && len(c.wanted) == 0 || c.Limit > 0 && c.taken >= c.Limit
}

// missing is an error that names the ids which no letter has.
func (c *chooser) missing() error {
	if len(c.wanted) == 0 || c.Limit > 0 && c.taken >= c.Limit {
		return nil
	}
	var ids []string
	for id := range c.wanted {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	if len(ids) == len(c.IDs) && len(ids) == 1 {
		return errors.New("no letter has the id " + ids[0])
	}
	return errors.New("no letters have these ids: " + strings.Join(ids, ", "))
}

// matches holds a name against a pattern. A slash is in no name of ours, and where
// it is in another one, * does not reach over it.
func matches(pattern, name string) bool {
	if pattern == "" {
		return true
	}
	ok, err := path.Match(pattern, name)
	return err == nil && ok
}
