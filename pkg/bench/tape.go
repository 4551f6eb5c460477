package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/motto123/minigate/pkg/bus"
)

// taped measures what it costs that a worker records its requests and replies. In all
// other parts the tape is off.
func (b *bench) taped(ctx context.Context) error {
	defer func() { b.tape = false }()
	for _, s := range mainShapes()[:2] {
		// Off, on, and again: the speed of a machine changes within minutes.
		for turn := range 2 {
			for _, b.tape = range []bool{false, true} {
				if err := b.tapedLoad(ctx, s, turn); err != nil {
					return err
				}
			}
		}
	}
	return b.removeTape()
}

func (b *bench) tapedLoad(ctx context.Context, s shape, turn int) error {
	gates, workers, err := b.startPath(ctx, 1, 1)
	if err != nil {
		return err
	}
	before, err := newClock(gates[0].process, workers[0])
	if err != nil {
		return err
	}
	r, err := b.drive(ctx, gates[0].addresses["tcp"], s)
	if err != nil {
		return err
	}
	row := requestRow(groupTape, tapeName(s, b.tape, turn), r)
	if b.tape {
		row.compare(b.report, tapeName(s, false, turn), row.Value, atLeast(0.8))
	}
	if row.Note, err = before.shares(r, gates[0].process, workers[0]); err != nil {
		return err
	}
	if b.tape {
		if err := workers[0].tapeNote(ctx, &row); err != nil {
			return err
		}
	}
	b.report.add(row)
	return b.stopChildren(0)
}

// tapeNote says how much of what a worker did is on the tape: one that drops costs
// less.
func (p *process) tapeNote(ctx context.Context, row *Row) error {
	p.mu.Lock()
	found := adminAddress.FindStringSubmatch(strings.Join(p.tail, "\n"))
	p.mu.Unlock()
	if found == nil {
		return p.failure("does not say where its metrics are")
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, found[1]+"/metrics", nil)
	if err != nil {
		return fmt.Errorf("bench: metrics: %w", err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("bench: metrics: %w", err)
	}
	text, err := io.ReadAll(answer.Body)
	if err = errors.Join(err, answer.Body.Close()); err != nil {
		return fmt.Errorf("bench: metrics: %w", err)
	}
	sum := func(name string) (sum float64) {
		for _, m := range regexp.MustCompile(`(?m)^minigate_tape_`+name+`_total(?:\{.*\})? (\S+)$`).FindAllSubmatch(text, -1) {
			v, _ := strconv.ParseFloat(string(m[1]), 64) // what is no number is not there
			sum += v
		}
		return sum
	}
	kept, dropped := sum("entries"), sum("dropped")
	if kept == 0 {
		return p.failure("has recorded nothing")
	}
	row.note(fmt.Sprintf("%s entries of %.0f MB, %.2g %% dropped", thousands(int64(kept)), sum("bytes")/1e6, 100*dropped/(kept+dropped)))
	return nil
}

// adminAddress is in a worker's log.
var adminAddress = regexp.MustCompile(`metrics, health and readiness are on (http://[0-9.:]+)`)

func tapeName(s shape, on bool, turn int) string {
	return fmt.Sprintf("%s, the tape %s%s", s, map[bool]string{false: "off", true: "on"}[on], []string{"", ", again"}[turn])
}

// removeTape deletes the stream, which has more in it than all else that is left.
func (b *bench) removeTape() error {
	conn, err := amqp.Dial(b.RabbitMQ)
	if err != nil {
		return fmt.Errorf("bench: remove the tape: %w", err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err == nil {
		_, err = ch.QueueDelete(bus.NewTopology(b.prefix).TapeStream(), false, false, false)
	}
	if err != nil {
		return fmt.Errorf("bench: remove the tape: %w", err)
	}
	return nil
}
