// Package bench measures on one machine, in one run, what a gate costs and what
// the parts below it would allow: RabbitMQ alone, an event loop alone, and then
// the whole path between them. Numbers of one run can be compared with each
// other; those of two machines, or of two days, often can not, so what counts are
// the ratios.
//
// It refuses to measure a machine that it did not start the processes on, and to
// judge: a target that is missed is said, and is no error.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/motto123/minigate/pkg/load"
	"github.com/motto123/minigate/pkg/settings"
)

// Config is what Run needs.
type Config struct {
	RabbitMQ string // URL of a broker that has nothing else to do
	Binary   string // minigate itself; this process's own where it is empty
	// Duration is how long each load is measured, after a warm-up of a third of it.
	Duration time.Duration
	// Connections are held for the lines about memory, and form the group that is
	// pushed to.
	Connections int
	// Full holds as many connections as a process with 20,000 files can have.
	Full bool
	// Quick only looks whether everything works, in about a minute.
	Quick bool
	// Profiles, if set, is a folder for processor and heap profiles of all
	// processes in the two main loads, which are run once more for them.
	Profiles string
	// Million measures many sessions at once instead: so many, held for so long,
	// over "tcp" or "websocket".
	Million  bool
	Sessions int
	Hold     time.Duration
	Over     string

	perProcess int // of the sessions, for tests; 0 is as many as there may be

	// Progress gets a line for each line of the table, when it is there.
	Progress io.Writer
}

// Settings declares the settings of a command.
func (c *Config) Settings(s settings.Set) {
	s.Secret(&c.RabbitMQ, "rabbitmq", "amqp://guest:guest@127.0.0.1:5672/", "URL of a RabbitMQ that has nothing else to do")
	s.Duration(&c.Duration, "duration", 6*time.Second, 100*time.Millisecond, 10*time.Minute, "how long each load is measured")
	s.Int(&c.Connections, "connections", 10_000, 100, fullConnections, "idle connections, and members of the group that is pushed to")
	s.Bool(&c.Full, "full", false, fmt.Sprintf("hold %d idle connections", fullConnections))
	s.Bool(&c.Quick, "quick", false, "only look whether everything works")
	s.Bool(&c.Million, "million", false, "measure a million sessions at once instead")
	s.Int(&c.Sessions, "sessions", 1_000_000, 1, 10_000_000, "how many they are")
	s.Duration(&c.Hold, "hold", 10*time.Minute, time.Second, 24*time.Hour, "how long they are held")
	s.Text(&c.Over, "over", "tcp", "what they are held over", "tcp", "websocket")
	s.Text(&c.Profiles, "profiles", "", "folder for profiles of all processes in the two main loads")
}

const (
	// payload is what a request holds, in bytes, and clients how many connections
	// send them: both are those with which peers were measured.
	payload         = 200
	clients         = 256
	fullConnections = 19_900
	quickConnection = 300
	quickDuration   = 300 * time.Millisecond
)

// bench is one run.
type bench struct {
	Config
	binary   string
	prefix   string // of the names in the broker
	report   *Report
	children []*process

	profiles, profiled string   // while profiles are taken: folder, and the load's name
	variables          []string // of the gates' environment
	working            []string // of the workers'
	everywhere         []string // of all processes'
	tape               bool     // is on
}

// Run measures everything, and ends what it has started.
func Run(ctx context.Context, cfg Config) (report *Report, err error) {
	b := &bench{Config: cfg, binary: cfg.Binary, prefix: fmt.Sprintf("minigate-bench-%d", os.Getpid())}
	if b.binary == "" {
		if b.binary, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("bench: %w", err)
		}
	}
	if b.Progress == nil {
		b.Progress = io.Discard
	}
	if b.Full {
		b.Connections = fullConnections
	}
	if b.Quick {
		b.Duration, b.Connections = quickDuration, quickConnection
	}
	if b.Duration <= 0 || b.Connections <= 0 {
		return nil, fmt.Errorf("bench: got a duration of %v and %d connections, want more than 0", b.Duration, b.Connections)
	}
	parts := []func(context.Context) error{
		b.broker, b.echoes, b.paths, b.sturdy, b.embedded, b.scale, b.overload, b.taped, b.scheduler, b.collector, b.growth, b.pushes, b.profile,
	}
	if b.Million {
		if b.Sessions <= 0 || b.Hold <= 0 || b.Over != "tcp" && b.Over != "websocket" {
			return nil, fmt.Errorf("bench: got %d sessions for %v over %q, want more than 0, over tcp or websocket", b.Sessions, b.Hold, b.Over)
		}
		parts = []func(context.Context) error{b.million}
	}
	b.report = &Report{Began: time.Now().UTC().Truncate(time.Second), Quick: b.Quick, Million: b.Million, Duration: b.Duration.Seconds(), progress: b.Progress}
	if b.report.Machine, err = thisMachine(b.RabbitMQ); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.stopChildren(0)) }()
	for _, part := range parts {
		if err := part(ctx); err != nil {
			return b.report, err
		}
		if err := b.stopChildren(0); err != nil {
			return b.report, err
		}
	}
	b.report.Seconds = time.Since(b.report.Began).Seconds()
	return b.report, nil
}

// Names of lines that others are compared with.
const (
	tripName      = "RabbitMQ round trip, 256 in flight"
	aloneName     = "RabbitMQ round trip, 1 in flight"
	sureName      = tripName + ", confirms and acks"
	sureAloneName = aloneName + ", confirms and acks"
	groupBroker   = "RabbitMQ alone (amqp091-go)"
	groupEcho     = "event loop alone (gnet, gobwas/ws)"
	groupPath     = "client → gate → RabbitMQ → worker → RabbitMQ → gate → client"
	groupSturdy   = "the same, kept by the broker"
	groupMem      = "the same on the bus in memory, in one process"
	groupScale    = "several gates and workers, over TCP"
	groupLoad     = "latency over load: requests at a fixed rate, over TCP"
	groupTape     = "the tape: workers record what they take and answer, over TCP"
	groupSchedule = "processors of a gate and a worker (GOMAXPROCS), over TCP"
	groupGC       = "settings of the garbage collector of a gate, over TCP"
	groupIdle     = "idle sessions"
	groupPush     = "push of 200 bytes to a group, over WebSocket"
)

// broker measures RabbitMQ alone.
func (b *bench) broker(ctx context.Context) error {
	for _, v := range []struct {
		name string
		trip roundTrip
	}{
		{aloneName, roundTrip{inFlight: 1, perMessage: 1}},
		{tripName, roundTrip{inFlight: clients, perMessage: 1}},
		{tripName + ", 16 requests a message", roundTrip{inFlight: clients, perMessage: 16}},
		{tripName + ", 64 requests a message", roundTrip{inFlight: clients, perMessage: 64}},
		{sureAloneName, roundTrip{inFlight: 1, perMessage: 1, sure: true}},
		{sureName, roundTrip{inFlight: clients, perMessage: 1, sure: true}},
		{sureName + ", 64 requests a message", roundTrip{inFlight: clients, perMessage: 64, sure: true}},
		{sureName + ", persistent", roundTrip{inFlight: clients, perMessage: 1, sure: true, persistent: true}},
		{sureName + ", quorum queue", roundTrip{inFlight: clients, perMessage: 1, sure: true, persistent: true, quorum: true}},
	} {
		if err := b.trip(ctx, groupBroker, v.name, v.trip); err != nil {
			return err
		}
	}
	return nil
}

// trip measures one way of using RabbitMQ alone.
func (b *bench) trip(ctx context.Context, group, name string, t roundTrip) error {
	t.url, t.payload, t.warmup, t.duration = b.RabbitMQ, payload, b.Duration/3, b.Duration
	got, err := t.run(ctx)
	if err != nil {
		return err
	}
	b.report.add(Row{
		Group: group, Name: name, Value: got.perSecond, Unit: perSecond,
		P50: milliseconds(got.p50), P99: milliseconds(got.p99),
	})
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// shape is a load: so many connections with so many requests in flight each.
type shape struct{ connections, inFlight int }

func (s shape) String() string { return fmt.Sprintf("%d × %d", s.connections, s.inFlight) }

// mainShapes are the loads that everything is compared in.
func mainShapes() []shape { return []shape{{clients, 1}, {clients, 8}, {1, 1}} }

// drive drives a server from a process of its own.
func (b *bench) drive(ctx context.Context, address string, s shape, more ...string) (*load.Result, error) {
	return b.driveFor(ctx, b.Duration, address, s, more...)
}

// driveFor is drive for another time.
func (b *bench) driveFor(ctx context.Context, d time.Duration, address string, s shape, more ...string) (*load.Result, error) {
	args := append([]string{
		"load", "--json", "--gate", address, "--payload", strconv.Itoa(payload),
		"--connections", strconv.Itoa(s.connections), "--in-flight", strconv.Itoa(s.inFlight),
		"--warmup", (d / 3).String(), "--duration", d.String(),
	}, more...)
	r := new(load.Result)
	err := b.output(ctx, "load", r, args...)
	return r, err
}

// echoes measures the event loop alone.
func (b *bench) echoes(ctx context.Context) error {
	for _, over := range []string{"websocket", "tcp"} {
		_, address, err := b.startBare(ctx, over)
		if err != nil {
			return err
		}
		for _, s := range mainShapes() {
			r, err := b.drive(ctx, address, s, "--bare")
			if err != nil {
				return err
			}
			b.report.add(requestRow(groupEcho, echoName(over, s), r))
		}
		if err := b.stopChildren(0); err != nil {
			return err
		}
	}
	return nil
}

func echoName(over string, s shape) string {
	return "echo over " + transportName(over) + ", " + s.String()
}

func transportName(over string) string {
	if over == "tcp" {
		return "TCP"
	}
	return "WebSocket"
}

func requestRow(group, name string, r *load.Result) Row {
	l := r.Requests.Latency
	return Row{Group: group, Name: name, Value: r.Requests.PerSecond, Unit: perSecond, P50: l.P50, P99: l.P99}
}
