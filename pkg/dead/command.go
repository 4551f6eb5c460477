package dead

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/term"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/bus/rabbit"
	"github.com/motto123/minigate/pkg/settings"
)

// Command is minigate dead: list, show, requeue and discard.
type Command struct {
	Broker string // its URL
	Prefix string
	Filter Filter
	JSON   bool
	Raw    bool // show payloads as they are, too
	All    bool // requeue or discard all letters
	DryRun bool
	Yes    bool // do not ask
}

// Settings declares what all four have.
func (c *Command) Settings(s settings.Set) {
	s.Group("Dead letters").Bool(&c.JSON, "json", false, "print JSON")
	s = s.Group("Broker")
	s.SecretURL(&c.Broker, "rabbitmq", "amqp://guest:guest@127.0.0.1:5672/", "URL of RabbitMQ, amqp://USER:PASSWORD@HOST:PORT/VHOST", rabbit.CheckURL)
	s.Text(&c.Prefix, "prefix", bus.DefaultPrefix, "what names in RabbitMQ and Redis begin with; one an installation")
}

// FilterSettings declares which letters list, requeue and discard take.
func (c *Command) FilterSettings(s settings.Set) {
	s = s.Group("Dead letters")
	s.Text(&c.Filter.Queue, "queue", "", "letters that were in this queue; * stands for any text, in route and event, too")
	s.Text(&c.Filter.Route, "route", "", "letters of requests of this route")
	s.Text(&c.Filter.Event, "event", "", "letters of this event")
	s.Duration(&c.Filter.Older, "older", 0, 0, 100*365*24*time.Hour, "letters that died that long ago or longer; 0 is all")
	s.Int(&c.Filter.Limit, "limit", 0, 0, 1_000_000_000, "how many letters, the oldest of them; 0 is all")
}

// ShowSettings declares what show has besides.
func (c *Command) ShowSettings(s settings.Set) {
	s.Group("Dead letters").Bool(&c.Raw, "raw", false, "print the payload's bytes, too, in which secrets are not masked")
}

// MoveSettings declares what requeue and discard have besides.
func (c *Command) MoveSettings(s settings.Set) {
	s = s.Group("Dead letters")
	s.Bool(&c.All, "all", false, "all letters, where neither ids nor anything else says which")
	s.Bool(&c.DryRun, "dry-run", false, "only print which letters are meant")
	s.Bool(&c.Yes, "yes", false, "do not ask; needed where there is no terminal to ask on")
}

// with opens the queue for f.
func (c *Command) with(ctx context.Context, f func(*Box) error) (err error) {
	b, err := Open(ctx, c.Broker, bus.NewTopology(c.Prefix))
	if err == nil {
		defer func() { err = errors.Join(err, b.Close()) }()
		err = f(b)
	}
	if err != nil {
		return fmt.Errorf("dead: %w", harmless{err})
	}
	return nil
}

// harmless is an error that may name what stands on a letter, for a terminal.
type harmless struct{ error }

func (h harmless) Error() string { return strings.Join(lines(h.error.Error()), "\n") }
func (h harmless) Unwrap() error { return h.error }

// List prints a line a letter.
func (c *Command) List(ctx context.Context, _ []string) error {
	return c.with(ctx, func(b *Box) error { return c.list(ctx, b, c.Filter, nil) })
}

// list prints the letters that a filter takes, and calls each with them.
func (c *Command) list(ctx context.Context, b *Box, f Filter, each func(*Letter)) error {
	now := time.Now()
	chosen, err := f.choose(now)
	if err != nil {
		return err
	}
	t := c.table(now)
	met := 0
	err = b.Read(ctx, func(l *Letter, _ *amqp.Delivery) (bool, error) {
		met++
		if !chosen.takes(l) {
			return !chosen.done(), nil
		}
		if each != nil {
			each(l)
		}
		return !chosen.done(), t.add(l)
	})
	if err == nil {
		err = t.flush()
	}
	if err != nil {
		return err
	}
	switch {
	case !t.people:
	case met == 0:
		say("no dead letters")
	case chosen.taken == 0:
		say("none of %s", letters(met))
	}
	return chosen.missing()
}

func (c *Command) table(now time.Time) *table {
	t := &table{out: os.Stdout, json: c.JSON, now: now, colors: colored(os.Stdout), people: isTerminal(os.Stdout) && !c.JSON}
	if t.people {
		if width, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil {
			t.width = width
		}
	}
	return t
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// colored says whether a file gets colours: a terminal does, unless its user said
// that he wants none (https://no-color.org).
func colored(f *os.File) colors { return colors(isTerminal(f) && os.Getenv("NO_COLOR") == "") }

// say tells people something that is no result.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// Show prints all of the letters with these ids.
func (c *Command) Show(ctx context.Context, ids []string) error {
	return c.with(ctx, func(b *Box) error {
		chosen, err := Filter{IDs: ids}.choose(time.Now())
		if err != nil {
			return err
		}
		var found []shown // as many as ids were given
		err = b.Read(ctx, func(l *Letter, d *amqp.Delivery) (bool, error) {
			if chosen.takes(l) {
				found = append(found, newShown(l, d, c.Raw))
			}
			return !chosen.done(), nil
		})
		if err != nil {
			return err
		}
		for i := range found {
			if err := c.show(&found[i], i > 0); err != nil {
				return fmt.Errorf("print letter %s: %w", found[i].ID, err)
			}
		}
		return chosen.missing()
	})
}

func (c *Command) show(s *shown, further bool) error {
	text := ""
	if c.JSON {
		document, err := asJSON(s, "  ")
		if err != nil {
			return err
		}
		text = document + "\n"
	} else {
		p := &page{colors: colored(os.Stdout), now: time.Now()}
		if further {
			p.WriteByte('\n')
		}
		if err := p.write(s); err != nil {
			return err
		}
		text = p.String()
	}
	_, err := io.WriteString(os.Stdout, text)
	return err
}

// Requeue puts letters back where they were.
func (c *Command) Requeue(ctx context.Context, ids []string) error {
	return c.move(ctx, ids, "requeue", "requeued", (*Box).Requeue)
}

// Discard takes letters away.
func (c *Command) Discard(ctx context.Context, ids []string) error {
	return c.move(ctx, ids, "discard", "discarded", (*Box).Discard)
}

func (c *Command) move(ctx context.Context, ids []string, do, done string, f func(*Box, context.Context, Chooser, func(*Result)) (*Result, error)) error {
	filter := c.Filter
	filter.IDs = ids
	switch {
	case filter.empty() && !c.All:
		return fmt.Errorf("dead: %s which letters? Want ids, one of --queue, --route, --event, --older and --limit, or --all", do)
	case !filter.empty() && c.All:
		return errors.New("dead: --all goes with nothing that says which letters")
	case !c.Yes && !c.DryRun && !isTerminal(os.Stdin):
		return fmt.Errorf("dead: there is nobody to ask whether to %s: want --yes, or --dry-run first", do)
	}
	return c.with(ctx, func(b *Box) error {
		if c.DryRun {
			return c.list(ctx, b, filter, nil)
		}
		if !c.Yes {
			meant, err := c.ask(ctx, b, filter, do)
			if err != nil || len(meant) == 0 {
				return err
			}
			filter = Filter{IDs: meant} // and not others that have come meanwhile
		}
		chosen, err := filter.choose(time.Now())
		if err != nil {
			return err
		}
		p := &progress{done: done, people: isTerminal(os.Stderr)}
		r, err := f(b, ctx, func(l *Letter) (take, more bool) {
			take = chosen.takes(l)
			return take, !chosen.done()
		}, p.show)
		p.end()
		if err == nil {
			err = chosen.missing()
		}
		return errors.Join(err, c.report(r, done))
	})
}
