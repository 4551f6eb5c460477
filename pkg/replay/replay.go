// Package replay sends what is on a tape again, to workers under another prefix, and
// compares their answers with the recorded ones, as minigate replay.
//
// To the workers it is a gate with an id of its own: answers and pushes come to it, and
// to no client. It refuses to write on a tape, and to take anything away from a queue
// but its own.
package replay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/tape"
)

// Config is what Run needs.
type Config struct {
	Source tape.Source
	Start  tape.Start
	From   tape.Place // leaves out the calls before it
	Filter *tape.Filter
	Limit  int // calls that are sent; 0 is no limit
	// Masked sends calls whose data was masked when they were recorded; they are left
	// out otherwise.
	Masked bool

	// Bus and Topology are those of the workers that get the calls.
	Bus      bus.Bus
	Topology bus.Topology
	// Gate is who answers the workers' calls of a gate.
	Gate *Gate
	// Check, if set, is asked before the first call of a service is sent. An error ends
	// the run.
	Check func(ctx context.Context, service string) error
	// CheckGate, if set, is asked before the first call that came through a gate is
	// sent. An error ends the run.
	CheckGate func(ctx context.Context, gate string) error

	InFlight int     // calls that are sent and not answered, at the most
	Speed    float64 // 1 is the recorded pace; 0 is as fast as it goes
	Timeout  time.Duration
	Comparer *Comparer

	// Differs is called with each call whose answer is not what it was, and Progress
	// now and then. Both are called by Run's goroutine.
	Differs  func(c *tape.Call, now *tape.Reply, differences []Difference)
	Progress func(Result)
	// Answered is set where the source has no answers: then nothing is compared, and it
	// is called in place of Differs with each request and what came for it, nil for
	// nothing.
	Answered func(c *tape.Call, now *tape.Reply)
}

// Result is what a run came to, or has come to so far.
type Result struct {
	Sent       int // of them:
	Same       int
	Differ     int
	Unanswered int // of those that differ: not answered now, and then they were
	Uncompared int // that have no answer by their kind, or none on the tape: see Config.Answered
	Masked     int // left out
	Repeated   int // left out: they are on the tape a second time
	Malformed  int // entries of the tape that can not be read
	GivenUp    int // recorded answers that were not waited for, to keep the bound

	Pushes int // that nobody got
	Late   int // answers after their time
	Called int // calls of the gate

	Then, Now Latencies
	Began     time.Time     // when the first was sent
	First     time.Time     // when it was recorded
	Took      time.Duration // from the first to the last
	At        time.Time     // when the last one that was sent was recorded
	Next      tape.Place    // where the rest begins: all before it were sent
}

// ErrNoWorker says that nobody takes the calls under the prefix.
var ErrNoWorker = errors.New("nobody takes the requests")

// Run sends calls until the tape ends, the limit is reached, or ctx ends, and then waits
// for the answers to what it has sent. The Result holds as far as it got also where there
// is an error.
func Run(ctx context.Context, cfg Config) (Result, error) {
	l, err := newLink(&cfg)
	if err != nil {
		return Result{}, err
	}
	defer l.close()
	if err := l.start(ctx); err != nil {
		return Result{}, err
	}
	read := startReader(ctx, &cfg)
	r := newRun(&cfg, l)
	err = r.loop(ctx, read)
	read.stop()
	result := r.result()
	if err == nil {
		err = read.err
	}
	if err == nil { // all that was read was sent, or refused
		if result.Next = read.next; r.refused != nil && r.refused.Before(result.Next) {
			result.Next = *r.refused
		}
	}
	result.Malformed, result.GivenUp = read.malformed, read.givenUp
	result.Masked, result.Repeated = read.masked, read.repeated
	return result, err
}

// errProduction says that a prefix is that of the recorded installation.
func errProduction(t bus.Topology) error {
	return fmt.Errorf("replay: --to %s is the installation that was recorded: its workers would do all of it once more, and push to its users. "+
		"Start a worker with a prefix, and a database, of its own (minigate worker chat --prefix shadow --database …) and send there (--to shadow). "+
		"With --against-production it is sent nevertheless; messages keep their ids and users, so that what is keyed by them is not done twice", t.Prefix())
}

// errNoRoute says of a route that the broker has no queue for it.
func errNoRoute(t bus.Topology, route string) error {
	return fmt.Errorf("replay: %w for %s under the prefix %s: no queue is bound for it; start a worker there: %s",
		ErrNoWorker, route, t.Prefix(), start(bus.Service(route), t))
}

// start says how a worker of a service is started: it may be one of the user's own.
func start(service string, t bus.Topology) string {
	return fmt.Sprintf("minigate worker %s --prefix %s, or a program of your own with that --prefix", service, t.Prefix())
}
