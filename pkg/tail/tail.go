// Package tail shows what is on a tape: a line for each request, joined with its
// answer, as minigate tail. What it needs for that others may use, too: which tape and
// which calls are meant, and how a call and its payload look.
//
// It refuses to change anything: it reads a tape, and writes only the file that
// somebody asks it to save.
package tail

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/motto123/minigate/pkg/tape"
)

// Config is what Run needs.
type Config struct {
	Source tape.Source
	Start  tape.Start
	From   tape.Place // leaves out the calls before it
	Follow bool
	Filter *tape.Filter
	Limit  int // calls; 0 is no limit

	Output  io.Writer
	Printer Printer
	JSON    bool
	// Save, if set, gets the calls too.
	Save interface{ Append(*tape.Entry) error }
}

// flushEvery is how often what is printed goes out, and how often it is looked for
// calls that nobody answers.
const flushEvery = 100 * time.Millisecond

// errLimit ends the reading.
var errLimit = errors.New("tail: all that was asked for")

// Run prints calls until ctx ends, the tape does, or the limit is reached, and
// returns how many.
func Run(ctx context.Context, cfg Config) (int, error) {
	t := &tailing{cfg: cfg, out: bufio.NewWriterSize(cfg.Output, 64<<10)}
	t.joiner = tape.NewJoiner(tape.JoinerConfig{Filter: cfg.Filter, From: cfg.From, Each: t.print})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var ticking sync.WaitGroup
	ticking.Go(func() {
		tick := time.NewTicker(flushEvery)
		defer tick.Stop()
		for {
			select {
			case now := <-tick.C:
				if t.failed = t.tick(now); t.failed != nil {
					cancel()
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	err := cfg.Source.Read(ctx, cfg.Start, cfg.Follow, t.add)
	cancel()
	ticking.Wait()
	if err == nil {
		err = t.failed
	}
	if err == nil {
		err = t.joiner.Flush()
	}
	if errors.Is(err, errLimit) {
		err = nil
	}
	if flushed := t.out.Flush(); err == nil && flushed != nil {
		err = fmt.Errorf("tail: print: %w", flushed)
	}
	return t.printed, err
}

// tailing is one Run. mu guards all of it: entries come from the source's goroutine,
// and the time passes in another.
type tailing struct {
	cfg Config

	mu      sync.Mutex
	joiner  *tape.Joiner
	out     *bufio.Writer
	printed int

	failed error // of tick; read when that has ended
}

func (t *tailing) add(e *tape.Entry) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.joiner.Add(e); err != nil {
		return err
	}
	if t.joiner.Past() {
		return errLimit
	}
	return nil
}

func (t *tailing) tick(now time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cfg.Follow {
		if err := t.joiner.Tick(now); err != nil {
			return err
		}
		if t.joiner.Past() {
			return errLimit
		}
	}
	if err := t.out.Flush(); err != nil {
		return fmt.Errorf("tail: print: %w", err)
	}
	return nil
}

// print is called by the joiner, with mu held.
func (t *tailing) print(c *tape.Call) error {
	if t.cfg.Limit > 0 && t.printed >= t.cfg.Limit {
		return errLimit
	}
	if !t.cfg.Filter.Takes(c) {
		return nil
	}
	var line string
	var err error
	if t.cfg.JSON {
		line, err = t.cfg.Printer.Object(c)
	} else {
		line = t.cfg.Printer.Line(c)
	}
	if err != nil {
		return err
	}
	if _, err := t.out.WriteString(line); err != nil {
		return fmt.Errorf("tail: print: %w", err)
	}
	if t.cfg.Save != nil {
		if err := t.save(c); err != nil {
			return err
		}
	}
	if t.printed++; t.printed == t.cfg.Limit {
		return errLimit
	}
	return nil
}

func (t *tailing) save(c *tape.Call) error {
	for _, e := range c.Entries() {
		if err := t.cfg.Save.Append(e); err != nil {
			return fmt.Errorf("tail: save: %w", err)
		}
	}
	return nil
}
