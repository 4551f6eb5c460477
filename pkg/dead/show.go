package dead

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/motto123/minigate/pkg/bus"
)

// shown is all of a letter, and its JSON.
type shown struct {
	row
	MessageID string         `json:"message_id,omitempty"`
	Published *time.Time     `json:"published,omitempty"`
	Stack     string         `json:"stack,omitempty"`
	Headers   map[string]any `json:"headers,omitempty"` // that say nothing of the above
	Payload   Payload        `json:"payload"`
	Raw       string         `json:"raw,omitempty"` // of the payload, in hexadecimal
}

func newShown(l *Letter, d *amqp.Delivery, raw bool) shown {
	s := shown{row: newRow(l), MessageID: l.MessageID, Stack: l.Stack, Payload: readPayload(l, d.Body)}
	if !d.Timestamp.IsZero() {
		at := d.Timestamp.UTC()
		s.Published = &at
	}
	for name, value := range d.Headers {
		if name == headerType || name == headerID || slices.Contains(bus.LetterHeaders[:], name) {
			continue
		}
		if s.Headers == nil {
			s.Headers = make(map[string]any)
		}
		s.Headers[name] = readable(value)
	}
	if raw {
		s.Raw = hex.EncodeToString(d.Body)
	}
	return s
}

// readable is a header's value as JSON knows it.
func readable(v any) any {
	switch v := v.(type) {
	case amqp.Table:
		all := make(map[string]any, len(v))
		for name, value := range v {
			all[name] = readable(value)
		}
		return all
	case []any:
		all := make([]any, len(v))
		for i, value := range v {
			all[i] = readable(value)
		}
		return all
	case []byte:
		return hex.EncodeToString(v)
	case time.Time:
		return v.UTC()
	case bool, string, int8, uint8, int16, uint16, int32, uint32, int64, uint64, int, float32, float64, nil:
		return v
	}
	return fmt.Sprint(v)
}

// page is a letter for people.
type page struct {
	strings.Builder
	colors colors
	now    time.Time
}

// field writes a name and a value in one line; without a value, nothing.
func (p *page) field(name, value string) {
	if value != "" {
		fmt.Fprintf(p, "%s %s\n", p.colors.bold(fmt.Sprintf("%-11s", name)), value)
	}
}

// title begins a block.
func (p *page) title(name string) { p.WriteString(p.colors.bold(name) + "\n") }

// block writes lines that are indented below a name.
func (p *page) block(indent int, all []string) {
	for _, l := range all {
		p.WriteString(strings.Repeat(" ", indent) + l + "\n")
	}
}

func (p *page) write(s *shown) error {
	id := s.ID
	if s.Copy > 1 {
		id += fmt.Sprintf(" (letter %d of the same message)", s.Copy)
	}
	p.field("letter", p.colors.name(id))
	p.field("queue", orDash(line(s.Queue)))
	p.field("route", line(s.Route))
	if s.Event != "" {
		p.field("event", line(s.Event)+", for the group "+orDash(line(s.Group)))
	}
	p.field("message id", line(s.MessageID))
	p.field("published", p.instant(s.Published))
	if s.First != nil && s.Died != nil && !s.First.Equal(*s.Died) {
		p.field("died first", p.instant(s.First))
	}
	p.field("died", p.instant(s.Died))
	if s.Deaths > 1 {
		p.field("deaths", fmt.Sprint(s.Deaths))
	}
	if s.Attempts > 0 {
		p.field("attempts", fmt.Sprint(s.Attempts))
	}
	reason := lines(s.Reason)
	p.field("reason", p.colors.bad(orDash(reason[0])))
	p.block(12, reason[1:])
	if s.Stack != "" {
		p.title("stack")
		p.block(2, lines(strings.TrimPrefix(s.Stack, s.Reason+"\n")))
	}
	if len(s.Headers) > 0 {
		p.title("headers")
		for _, name := range slices.Sorted(maps.Keys(s.Headers)) {
			text, err := asJSON(s.Headers[name], "")
			if err != nil {
				return err
			}
			p.block(2, []string{p.colors.dim(line(name)+": ") + text})
		}
	}
	return p.payload(&s.Payload, s.Size, s.Raw)
}

func (p *page) instant(at *time.Time) string {
	if at == nil {
		return ""
	}
	return at.UTC().Format("2006-01-02 15:04:05.000 UTC") + p.colors.dim(" ("+short(p.now.Sub(*at))+" ago)")
}

func (p *page) payload(in *Payload, size int, raw string) error {
	what := []string{count(size, "byte")}
	switch {
	case in.Type != "":
		what = append(what, line(in.Type))
	case in.Gate != "" || in.Route != "":
		what = append(what, fmt.Sprintf("%s of gate %s (%s), route %s",
			count(len(in.Requests), "request"), orDash(line(in.Gate)), orDash(line(in.GateAddress)), orDash(line(in.Route))))
	}
	p.field("payload", strings.Join(what, ": "))
	if err := p.data(2, in.Data); err != nil {
		return err
	}
	for i, r := range in.Requests {
		if err := p.request(i+1, &r); err != nil {
			return err
		}
	}
	if in.Problem != "" {
		p.block(2, []string{p.colors.warn(line(in.Problem))})
	}
	if raw != "" {
		b, err := hex.DecodeString(raw)
		if err != nil {
			return err
		}
		p.block(2, lines(hex.Dump(b)))
	}
	return nil
}

func (p *page) request(n int, r *Request) error {
	words := []string{r.Kind, fmt.Sprintf("session %d", r.Session)}
	if r.Sequence != 0 {
		words = append(words, fmt.Sprintf("number %d", r.Sequence))
	}
	if r.User != 0 {
		words = append(words, fmt.Sprintf("user %d", r.User))
	}
	if r.ID != 0 {
		words = append(words, fmt.Sprintf("id %d", r.ID))
	}
	if r.Address != "" {
		words = append(words, "from "+r.Address)
	}
	if r.Deadline != nil {
		words = append(words, "answered until "+r.Deadline.Format("2006-01-02 15:04:05.000 UTC"))
	}
	words = append(words, count(r.Size, "byte")+" of "+r.DataType)
	if r.Type != "" {
		words = append(words, line(r.Type))
	}
	p.block(2, []string{p.colors.bold(fmt.Sprintf("request %d", n)) + ": " + strings.Join(words, ", ")})
	if err := p.data(4, r.Data); err != nil {
		return err
	}
	if r.Problem != "" {
		p.block(4, []string{p.colors.warn(line(r.Problem))})
	}
	return nil
}

// data writes a document, indented.
func (p *page) data(indent int, document json.RawMessage) error {
	if len(document) == 0 {
		return nil
	}
	text, err := asJSON(document, "  ")
	if err != nil {
		return err
	}
	p.block(indent, strings.Split(text, "\n"))
	return nil
}
