package bus

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Letter is what stands on a dead letter beside its payload, in headers of the
// broker's message. Whoever gives a message up publishes the letter himself: a
// reject has no room for any of this, and the letters that the broker makes have
// none of it.
type Letter struct {
	Reason   string // the message of the last error
	Stack    string // of the last error; empty where it has none
	Route    string // of an envelope of requests; empty for events
	Event    string // and the group of consumers that could not take it
	Group    string
	Attempts int // to handle it, since it came into its queue
	Deaths   int // how often it became a dead letter: more than once where it was put back
	First    time.Time
	Last     time.Time
}

// The names of headers, which are in the queue of dead letters for others to read.
const (
	letterReason   = "reason"
	letterStack    = "stack"
	letterRoute    = "route"
	letterEvent    = "event"
	letterGroup    = "group"
	letterAttempts = "attempts"
	letterDeaths   = "deaths"
	letterFirst    = "died-first"
	letterLast     = "died"
)

// LetterHeaders are the names of all headers that Letter.Headers may set.
var LetterHeaders = [...]string{
	letterReason, letterStack, letterRoute, letterEvent, letterGroup, letterAttempts, letterDeaths, letterFirst, letterLast,
}

// What a letter's texts may have, in bytes. All headers together have to fit into
// one AMQP frame, which is 128 KiB unless a broker is told otherwise.
const (
	MaxReason = 4 << 10
	MaxStack  = 16 << 10
)

// DiedAgain fills in the times and the number of deaths; before is the letter that
// the message was earlier, or a zero one.
func (l *Letter) DiedAgain(before Letter, now time.Time) {
	l.Last, l.First, l.Deaths = now, before.First, before.Deaths+1
	if l.First.IsZero() {
		l.First = now
	}
}

// Headers are the letter in headers. What is empty has none.
func (l Letter) Headers() map[string]string {
	all := map[string]string{
		letterReason: Clip(l.Reason, MaxReason),
		letterStack:  Clip(l.Stack, MaxStack),
		letterRoute:  l.Route,
		letterEvent:  l.Event,
		letterGroup:  l.Group,
	}
	for name, text := range all {
		if text == "" {
			delete(all, name)
		}
	}
	for name, n := range map[string]int{letterAttempts: l.Attempts, letterDeaths: l.Deaths} {
		if n > 0 {
			all[name] = strconv.Itoa(n)
		}
	}
	for name, at := range map[string]time.Time{letterFirst: l.First, letterLast: l.Last} {
		if !at.IsZero() {
			all[name] = at.UTC().Format(time.RFC3339Nano)
		}
	}
	return all
}

// ReadLetter reads what Headers wrote; header returns the text of a header, or
// nothing. What can not be read is left empty: anybody may publish to the queue.
func ReadLetter(header func(name string) string) Letter {
	number := func(name string) int {
		n, err := strconv.Atoi(header(name))
		if err != nil || n < 0 {
			return 0
		}
		return n
	}
	instant := func(name string) time.Time {
		at, err := time.Parse(time.RFC3339Nano, header(name))
		if err != nil {
			return time.Time{}
		}
		return at
	}
	return Letter{
		Reason:   header(letterReason),
		Stack:    header(letterStack),
		Route:    header(letterRoute),
		Event:    header(letterEvent),
		Group:    header(letterGroup),
		Attempts: number(letterAttempts),
		Deaths:   number(letterDeaths),
		First:    instant(letterFirst),
		Last:     instant(letterLast),
	}
}

// Letter is what stands on a delivery that was a dead letter before somebody put
// it back into its queue; zero for all others.
func (d *Delivery) Letter() Letter {
	if len(d.Headers) == 0 {
		return Letter{}
	}
	return ReadLetter(func(name string) string {
		text, _ := d.Headers[name].(string)
		return text
	})
}

// Clip cuts s to at most n bytes of valid UTF-8.
func Clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
