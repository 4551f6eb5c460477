package tape

import (
	"fmt"
	"path"
	"time"
)

// Filter says which calls are wanted. The zero Filter wants all; a call has to be
// what each field that is set says.
type Filter struct {
	Routes  []string // patterns such as chat.* of which one has to fit; * is any number of signs
	User    *int64
	Gate    string
	Session *uint64
	Since   time.Time // taken then or later
	Until   time.Time // taken before
	// Of what is known at the end of a call:
	Errors bool          // answered with an error, or not at all
	Slow   time.Duration // answered after that long, or not at all
}

// Check says what is wrong with the patterns.
func (f *Filter) Check() error {
	for _, pattern := range f.Routes {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("tape: route %q: %w", pattern, err)
		}
	}
	return nil
}

// Wants reports whether a call may be wanted, by what is known when it is taken.
func (f *Filter) Wants(c *Call) bool {
	switch {
	case f.User != nil && c.User != *f.User,
		f.Gate != "" && c.Gate != f.Gate,
		f.Session != nil && c.Session != *f.Session,
		!f.Since.IsZero() && c.Taken.Before(f.Since),
		!f.Until.IsZero() && !c.Taken.Before(f.Until):
		return false
	}
	return f.wantsRoute(c.Route)
}

func (f *Filter) wantsRoute(route string) bool {
	for _, pattern := range f.Routes {
		if ok, err := path.Match(pattern, route); err == nil && ok {
			return true
		}
	}
	return len(f.Routes) == 0
}

// ByOutcome reports whether the filter asks for what is only known at the end of a
// call.
func (f *Filter) ByOutcome() bool { return f.Errors || f.Slow > 0 }

// Takes reports whether a call that Wants took, and that has ended, is wanted.
func (f *Filter) Takes(c *Call) bool {
	if f.Errors && !c.Failed() {
		return false
	}
	if f.Slow <= 0 || c.Outcome == Unanswered {
		return true
	}
	took, ok := c.Latency()
	return ok && took >= f.Slow
}
