package dead

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/muesli/cancelreader"
)

// ask shows which letters are meant, and asks. It returns their ids, or none where
// the answer is no.
func (c *Command) ask(ctx context.Context, b *Box, f Filter, do string) ([]string, error) {
	var ids []string
	queues := make(map[string]int)
	plain := *c
	plain.JSON = false
	if err := plain.list(ctx, b, f, func(l *Letter) {
		ids = append(ids, l.ID)
		queues[l.Queue]++
	}); err != nil || len(ids) == 0 {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "%s %s (%s)? [y/N] ", do, letters(len(ids)), byQueue(queues))
	answer, err := readLine(ctx, os.Stdin)
	if err != nil {
		return nil, err
	}
	if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return nil, errors.New("nothing was done")
	}
	return ids, nil
}

// readLine reads a line, and stops when ctx ends.
func readLine(ctx context.Context, in *os.File) (string, error) {
	r, err := cancelreader.NewReader(in)
	if err != nil {
		return "", fmt.Errorf("read the answer: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { r.Cancel() })
	defer stop()
	text, err := bufio.NewReader(r).ReadString('\n')
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case errors.Is(err, io.EOF):
		err = nil
	}
	return text, errors.Join(err, r.Close())
}

// byQueue says how many letters are of which queue.
func byQueue(queues map[string]int) string {
	var all []string
	for _, queue := range slices.Sorted(maps.Keys(queues)) {
		all = append(all, number(queues[queue])+" of "+orDash(line(queue)))
	}
	return strings.Join(all, ", ")
}

// report prints what came of it. It returns an error where letters were kept.
func (c *Command) report(r *Result, done string) error {
	if c.JSON {
		text, err := asJSON(r, "  ")
		if err != nil {
			return err
		}
		fmt.Println(text)
	} else {
		text := done + " " + letters(r.Total())
		if len(r.Moved) > 0 {
			text += ": " + byQueue(r.Moved)
		}
		fmt.Println(text)
	}
	kept := 0
	var why []string
	for _, queue := range slices.Sorted(maps.Keys(r.Kept)) {
		k := r.Kept[queue]
		kept += k.Letters
		text := fmt.Sprintf("%s of %s: %s", number(k.Letters), orDash(line(queue)), k.Why)
		if k.Last {
			text += "; one of them is now the last of the dead letters"
		}
		why = append(why, text)
	}
	if kept == 0 {
		return nil
	}
	return fmt.Errorf("kept %s: %s", letters(kept), strings.Join(why, "; "))
}

// progress tells people on a terminal how far it is.
type progress struct {
	done   string
	people bool
	last   time.Time
	shown  bool
}

const progressEvery = 200 * time.Millisecond

func (p *progress) show(r *Result) {
	if now := time.Now(); p.people && now.Sub(p.last) >= progressEvery {
		p.last, p.shown = now, true
		fmt.Fprintf(os.Stderr, "\r\x1b[K%s %s", p.done, letters(r.Total()))
	}
}

func (p *progress) end() {
	if p.shown {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
}
