package terminal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/muesli/cancelreader"
)

// errUnsent is why Run returns an error though everything went its way.
var errUnsent = errors.New("terminal: some messages were not sent")

// lines is the chat without a terminal. A message that came or is stored is a
// line "bob: text", or "alice > bob: text" where it is one's own; further lines
// of a text are indented. What goes wrong begins with "! ".
type lines struct {
	*talk
	out     io.Writer
	printed map[int64]int64 // the last number, by peer
	unsent  bool
	was     string // the last state that was written
}

// runLines reads and writes lines.
func runLines(ctx context.Context, cfg Config) error {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()

	events := make(chan event)
	link := newLink(cfg, func(ev event) {
		select {
		case events <- ev:
		case <-ctx.Done():
		}
	})
	group.Go(func() { link.run(ctx) })

	typed, stop := readLines(ctx, cfg.In)
	defer stop()
	l := &lines{talk: newTalk(link, cfg.To), out: cfg.Out, printed: map[int64]int64{}}
	return l.run(ctx, events, typed)
}

func (l *lines) run(ctx context.Context, events <-chan event, typed <-chan string) error {
	for {
		// What is typed waits until it is clear to whom it goes.
		from := typed
		if l.wanted != "" || l.me == nil {
			from = nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case ev := <-events:
			if err := l.happened(ev); err != nil {
				return err
			}
		case text, ok := <-from:
			if !ok {
				typed = nil // the end of the input: what is typed is still sent
				break
			}
			if l.typed(text) {
				return nil
			}
		}
		l.print()
		quiet := l.pending == 0 && l.wanted == "" && l.me != nil && (l.open == nil || !l.open.asked)
		if typed == nil && quiet {
			if l.unsent {
				return errUnsent
			}
			return nil
		}
	}
}

// happened handles an event; an error ends the chat.
func (l *lines) happened(ev event) error {
	wanted := l.wanted
	l.handle(ev)
	switch ev := ev.(type) {
	case needLogin:
		if ev.err == nil {
			return ErrLogin
		}
		return fmt.Errorf("terminal: log in: %w", ev.err)
	case offline:
		if ev.wait == 0 {
			return fmt.Errorf("terminal: connection: %w", ev.err)
		}
		text := "! not connected: " + explain(ev.err)
		if l.me != nil {
			text = "! connection lost, reconnecting… " + explain(ev.err)
		}
		if text != l.was {
			l.was = text
			l.line(text)
		}
	case online:
		l.was = ""
	case sent:
		l.unsent = l.unsent || ev.err != nil
	case found:
		if ev.err != nil && wanted != "" && l.wanted == "" {
			return errors.New("terminal: " + l.notice)
		}
	}
	return nil
}

// print writes what is new: of peers whose name is known, and of the one that
// is open only behind its history.
func (l *lines) print() {
	if l.notice != "" {
		l.line("! " + l.notice)
		l.notice = ""
	}
	if l.helping {
		l.line("! " + strings.Join(help(), "\n    "))
		l.helping = false
	}
	for _, p := range l.peers {
		if !p.known || p == l.open && !p.loaded {
			continue
		}
		for _, m := range p.lines {
			last := l.printed[p.id]
			if m.number <= last {
				continue
			}
			if p.loaded && last > 0 && m.number > last+1 {
				break // what is missing has been asked for
			}
			l.printed[p.id] = m.number
			who := p.name
			if m.mine {
				who = name(l.me) + " > " + p.name
			}
			l.line(who + ": " + strings.ReplaceAll(clean(m.text), "\n", "\n    "))
		}
	}
}

// line writes one; an output that is gone ends the program by other ways.
func (l *lines) line(text string) { _, _ = io.WriteString(l.out, text+"\n") }

// readLines reads lines until the input or ctx ends. stop waits for the end of
// that, unless the input is of a kind that can not be interrupted.
func readLines(ctx context.Context, in io.Reader) (typed <-chan string, stop func()) {
	input, err := cancelreader.NewReader(in)
	if err != nil { // a file, which never keeps anybody waiting
		input = nil
	} else {
		in = input
	}
	out := make(chan string)
	var group sync.WaitGroup
	group.Go(func() {
		defer close(out)
		scanner := bufio.NewScanner(in)
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			select {
			case out <- strings.TrimSuffix(scanner.Text(), "\r"):
			case <-ctx.Done():
				return
			}
		}
	})
	return out, func() {
		if input == nil || input.Cancel() {
			group.Wait()
		}
	}
}
