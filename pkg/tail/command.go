package tail

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/motto123/minigate/pkg/settings"
	"github.com/motto123/minigate/pkg/tape"
)

// Command is minigate tail.
type Command struct {
	Where Where
	Which Which

	NoFollow bool
	JSON     bool
	Full     bool
	Save     string
}

// Examples are for the command's help.
const Examples = `  minigate tail                                          what happens now
  minigate tail --since 10m --user 42 --full             what a user sent, and what was answered
  minigate tail --no-follow --route 'chat.*' --errors    all that failed
  minigate tail --since 1h --slow 50ms --json            for other programs
  minigate tail --since 1h --user 42 --save bug.tape     to keep, and for minigate replay`

// Settings declares the settings of the command.
func (c *Command) Settings(s settings.Set) {
	c.Which.Settings(s.Group("Which requests"))
	out := s.Group("Output")
	out.Bool(&c.NoFollow, "no-follow", false, "end with what is there now, instead of waiting for more; without since and from it begins at the beginning")
	out.Bool(&c.Full, "full", false, "print what was asked and answered, decoded")
	out.Bool(&c.JSON, "json", false, "print a JSON object a line")
	out.Text(&c.Save, "save", "", "new file that gets the requests and their answers, for minigate tail and replay")
	c.Where.Settings(s.Group("Tape"))
}

// Run prints what the tape has, until ctx ends, there is no more, or the limit is
// reached. args may name a saved file.
func (c *Command) Run(ctx context.Context, args []string) (err error) {
	now := time.Now()
	filter, err := c.Which.Filter(now)
	if err != nil {
		return fmt.Errorf("tail: %w", err)
	}
	file := ""
	if len(args) > 0 {
		file = args[0]
	}
	// A saved file does not grow, and what is past has ended.
	follow := !c.NoFollow && file == "" && (filter.Until.IsZero() || filter.Until.After(now))
	start, from, err := c.Which.Start(now, follow)
	if err != nil {
		return fmt.Errorf("tail: %w", err)
	}
	source, name, err := c.Where.Open(file)
	if err != nil {
		return fmt.Errorf("tail: %w", err)
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	if follow {
		fmt.Fprintf(os.Stderr, "reading %s; Ctrl-C ends it\n", name)
	}
	cfg := Config{
		Source: source, Start: start, From: from, Follow: follow, Filter: filter, Limit: c.Which.Limit,
		JSON: c.JSON, Output: os.Stdout,
		Printer: Printer{Look: NewLook(os.Stdout), Full: c.Full, Slow: c.Which.Slow, Now: now},
	}
	closeSaved := func() error { return nil }
	if c.Save != "" {
		saved, err := tape.CreateFile(c.Save)
		if err != nil {
			return fmt.Errorf("tail: %w", err)
		}
		cfg.Save, closeSaved = saved, saved.Close
	}
	printed, err := Run(ctx, cfg)
	if err = errors.Join(err, closeSaved()); err == nil && printed == 0 && !follow {
		// Of another tape than was meant, perhaps.
		fmt.Fprintf(os.Stderr, "nothing in %s is what was asked for\n", name)
	}
	return err
}
