package replay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/bus/rabbit"
	"github.com/motto123/minigate/pkg/grpcauth"
	"github.com/motto123/minigate/pkg/settings"
	"github.com/motto123/minigate/pkg/tail"
	"github.com/motto123/minigate/pkg/tape"
)

// Command is minigate replay.
type Command struct {
	Where tail.Where
	Which tail.Which
	Dead  bool

	To                string
	ToRabbitMQ        string
	AgainstProduction bool
	DryRun            bool
	Masked            bool
	InFlight          int
	Speed             string
	Timeout           time.Duration
	Ignore            []string
	Address           string
	GRPC              grpcauth.Config
}

// Examples are for the command's help.
const Examples = `  minigate worker chat --prefix shadow                        the worker on a desk that gets the requests
  minigate replay --to shadow --since 1h --route 'chat.*'     of the last hour
  minigate replay --to shadow bug.tape --ignore sent_at       what minigate tail has saved
  minigate replay --to shadow --user 42 --dry-run             only say what would be sent
  minigate replay --to shadow --dead                          the envelopes among the dead letters that can be read`

// Settings declares the settings of the command.
func (c *Command) Settings(s settings.Set) {
	c.Which.Settings(s.Group("Which requests"))
	to := s.Group("Replay")
	to.Text(&c.To, "to", "", "prefix of the workers that get the requests, started as: minigate worker chat --prefix shadow")
	to.SecretURL(&c.ToRabbitMQ, "to-rabbitmq", "", "URL of their RabbitMQ; nothing is that of the tape", func(broker string) error {
		if broker == "" {
			return nil
		}
		return rabbit.CheckURL(broker)
	})
	to.Bool(&c.DryRun, "dry-run", false, "print what would be sent, and send nothing")
	to.Checked(&c.Speed, "speed", "max", "text", "text: max, or a number such as 1 or 10", "1 is the recorded pace, 10 ten times that, and max as fast as it is answered", func(text string) error {
		_, err := speed(text)
		return err
	})
	to.Int(&c.InFlight, "in-flight", 64, 1, 65536, "unanswered requests at once")
	to.Duration(&c.Timeout, "timeout", 10*time.Second, 10*time.Millisecond, time.Hour, "how long an answer may take")
	to.Var((*repeated)(&c.Ignore), "ignore", "field of answers that is not compared, such as messages.sent_at; may be given more than once, or with commas between (text)")
	to.Bool(&c.Masked, "masked", false, "send requests too whose sensitive fields the tape does not have, as they are there")
	to.Text(&c.Address, "replay-grpc", "127.0.0.1:0", "where the workers call what they take for a gate; a port of 0 is any")
	to.Bool(&c.AgainstProduction, "against-production", false, "allow to send to the installation that was recorded")
	from := s.Group("Tape")
	c.Where.Settings(from)
	from.Bool(&c.Dead, "dead", false, "send the envelopes of requests among the dead letters that can be read instead, and show the answers: there are none to compare with; the letters stay where they are")
	c.GRPC.Settings(s.Group("Calls between services"))
}

// DifferError is of a run in which answers were not what they were.
type DifferError struct{ Count int }

func (e *DifferError) Error() string { return fmt.Sprintf("replay: %d answers differ", e.Count) }

// ExitCode tells it from what went wrong.
func (e *DifferError) ExitCode() int { return 2 }

// Run sends what is meant again, and prints what differs. args may name a saved file.
func (c *Command) Run(ctx context.Context, args []string) (err error) {
	cfg, name, err := c.config(args)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cfg.Source.Close()) }()
	out := newScreen(os.Stdout, os.Stderr)
	if c.DryRun {
		return dry(ctx, cfg, out, c.To)
	}
	fmt.Fprintf(os.Stderr, "sending %s to the workers of %s\n", name, c.To)
	if len(args) > 0 { // it does not grow: all can be counted
		if out.total, err = count(ctx, cfg); err != nil {
			return err
		}
	}
	if out.total == 0 {
		out.total = c.Which.Limit
	}
	out.end = cfg.Filter.Until
	return c.send(ctx, cfg, out)
}

// config is what the settings say.
func (c *Command) config(args []string) (*Config, string, error) {
	shadow := bus.NewTopology(c.To)
	switch {
	case c.To == "":
		return nil, "", errors.New("replay: --to is missing: the prefix of the workers that get the requests; start one with: minigate worker chat --prefix shadow")
	case c.Dead && len(args) > 0:
		return nil, "", errors.New("replay: a file and --dead are two things to send: want one")
	case shadow == c.Where.Topology() && !c.AgainstProduction:
		return nil, "", errProduction(shadow)
	}
	now := time.Now()
	cfg := &Config{Limit: c.Which.Limit, Masked: c.Masked, InFlight: c.InFlight, Timeout: c.Timeout, Topology: shadow}
	var all [4]error
	cfg.Filter, all[0] = c.Which.Filter(now)
	cfg.Start, cfg.From, all[1] = c.Which.Start(now, false)
	cfg.Comparer, all[2] = NewComparer(c.Ignore)
	cfg.Speed, all[3] = speed(c.Speed)
	if err := errors.Join(all[:]...); err != nil {
		return nil, "", fmt.Errorf("replay: %w", err)
	}
	source, name, err := c.open(args)
	if err != nil {
		return nil, "", fmt.Errorf("replay: %w", err)
	}
	cfg.Source = source
	return cfg, name, nil
}

func (c *Command) open(args []string) (tape.Source, string, error) {
	if c.Dead {
		source, err := OpenDead(c.Where.RabbitMQ, c.Where.Topology())
		return source, "the dead letters of " + c.Where.Topology().Prefix(), err
	}
	return c.Where.Open(strings.Join(args, ""))
}

// send is a run with all that it needs.
func (c *Command) send(ctx context.Context, cfg *Config, out *screen) (err error) {
	url := c.ToRabbitMQ
	if url == "" {
		url = c.Where.RabbitMQ
	}
	target, err := OpenTarget(url, cfg.Topology)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	guard, err := grpcauth.New(c.GRPC)
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	options, err := guard.ServerOptions()
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	if cfg.Gate, err = ListenGate(c.Address, options...); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cfg.Gate.Close()) }()
	b, err := rabbit.Open(rabbit.Config{URL: url, Topology: cfg.Topology, Name: "minigate replay"})
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	if !c.AgainstProduction {
		cfg.CheckGate = target.CheckGate
	}
	cfg.Bus, cfg.Check, cfg.Differs, cfg.Progress = b, target.Check, out.differs, out.progress
	if c.Dead {
		cfg.Answered = out.answered
	}
	stop := context.AfterFunc(ctx, func() {
		fmt.Fprintln(os.Stderr, "\nwaiting for the answers to what was sent; a second Ctrl-C ends it at once")
	})
	result, err := Run(ctx, *cfg)
	stop()
	err = errors.Join(err, b.Close(), target.Forget(cfg.Gate.ID()))
	if err == nil || result.Sent > 0 {
		err = errors.Join(err, out.summary(result))
	}
	if err == nil && result.Differ > 0 {
		return &DifferError{result.Differ}
	}
	return err
}

func speed(text string) (float64, error) {
	if text == "max" {
		return 0, nil
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || v < 0.001 || v > 1e6 {
		return 0, fmt.Errorf("speed %q: want max, or a number from 0.001 to 1000000", text)
	}
	return v, nil
}

// repeated is a setting of several texts: each time it is given adds some.
type repeated []string

func (r *repeated) String() string { return strings.Join(*r, ",") }
func (r *repeated) Type() string   { return "text" }

func (r *repeated) Set(text string) error {
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			*r = append(*r, part)
		}
	}
	_, err := NewComparer(*r)
	return err
}
