package tail

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/motto123/minigate/codec"
	"github.com/motto123/minigate/pkg/failure"
	"github.com/motto123/minigate/pkg/tape"
)

// Printer writes calls as people read them, a line each.
type Printer struct {
	Look Look
	Full bool // with the payloads, in lines of their own
	// Slow paints latencies from there on; nothing where it is 0.
	Slow time.Duration
	// Now is the time by which lines of another day have their date.
	Now time.Time
}

// Line is one call, with a newline at its end: time, route, user, session, size,
// outcome, latency and position.
func (p *Printer) Line(c *tape.Call) string {
	took, paint := "-", p.Look.Dim
	if latency, ok := c.Latency(); ok {
		took, paint = Took(latency), p.plain
		if p.Slow > 0 && latency >= p.Slow {
			paint = p.Look.Warn
		}
	}
	line := p.Head(c) +
		column(7, size(len(c.Data)), p.plain) +
		column(12, Outcome(c), p.paintOf(c)) +
		column(7, took, paint) +
		p.Look.Dim(c.Place.String()) + "\n"
	if p.Full {
		line += p.payloads(c)
	}
	return line
}

// Head is what says which call it is: time, route, user and session.
func (p *Printer) Head(c *tape.Call) string {
	user := "-"
	if c.User != 0 {
		user = strconv.FormatInt(c.User, 10)
	}
	return column(12, p.time(c.Taken), p.Look.Dim) +
		column(18, Clean(c.Route), p.Look.Bold) +
		column(19, user, p.plain) +
		column(20, Session(c), p.Look.Dim)
}

// time has the day where it is another one than today.
func (p *Printer) time(t time.Time) string {
	t, now := t.Local(), p.Now.Local()
	if t.YearDay() == now.YearDay() && t.Year() == now.Year() {
		return t.Format("15:04:05.000")
	}
	return t.Format("2006-01-02 15:04:05.000")
}

func (p *Printer) plain(s string) string { return s }

func (p *Printer) paintOf(c *tape.Call) func(string) string {
	switch {
	case c.Failed():
		return p.Look.Bad
	case c.Outcome == tape.Answered:
		return p.Look.Good
	}
	return p.Look.Dim
}

// payloads are what was asked and answered.
func (p *Printer) payloads(c *tape.Call) string {
	text := p.payload("→", c.DataType, c.Name, c.Data, c.Masked)
	if c.Reply != nil {
		text += p.payload("←", c.Reply.DataType, c.Reply.Name, c.Reply.Data, c.Reply.Masked)
	}
	return text
}

func (p *Printer) payload(arrow string, dataType uint8, name string, data []byte, masked bool) string {
	note := ""
	if masked {
		note = " (sensitive fields are masked)"
	}
	if name == "" {
		name = codec.DataType(dataType).String()
	}
	return "    " + p.Look.Dim(arrow+" "+Clean(name)) + " " + string(Payload(dataType, name, data)) + p.Look.Dim(note) + "\n"
}

// column pads a text and puts two spaces behind it; a longer one pushes the rest.
func column(width int, text string, paint func(string) string) string {
	return paint(text) + strings.Repeat(" ", max(0, width-len([]rune(text)))+2)
}

// Session is the gate's name and the number of a session on it, as the filter takes
// it.
func Session(c *tape.Call) string { return Clean(c.Gate) + "/" + strconv.FormatUint(c.Session, 10) }

// Outcome says in a word what became of a call.
func Outcome(c *tape.Call) string {
	switch c.Outcome {
	case tape.Answered:
		return Code(c.Reply.Code)
	case tape.Unanswered:
		return "UNANSWERED"
	case tape.Silent:
		return codec.MessageType(c.Type).String()
	}
	return "open"
}

// Code is the name of a gRPC code.
func Code(code uint32) string {
	if code == uint32(codes.OK) {
		return "OK"
	}
	return failure.CodeName(int32(min(code, 1<<16)))
}

// Took is a duration in three digits or so.
func Took(d time.Duration) string {
	switch {
	case d >= 100*time.Second:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return fmt.Sprintf("%.2fs", d.Seconds())
	case d >= 100*time.Millisecond:
		return fmt.Sprintf("%.0fms", float64(d)/1e6)
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%.1fms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.2fms", float64(d)/1e6)
}

func size(n int) string {
	switch {
	case n < 10_000:
		return strconv.Itoa(n) + " B"
	case n < 10_000_000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}

// object is a call as a line of JSON. Ids are strings, as in protobuf's JSON: they
// have more digits than other languages' numbers.
type object struct {
	Position    string   `json:"position"`
	Time        string   `json:"time"`
	Route       string   `json:"route"`
	User        string   `json:"user,omitempty"`
	Gate        string   `json:"gate"`
	Session     string   `json:"session"`
	Sequence    uint32   `json:"sequence"`
	ID          string   `json:"id,omitempty"`
	Type        string   `json:"type"`
	Address     string   `json:"address,omitempty"`
	Size        int      `json:"size"`
	Outcome     string   `json:"outcome"`
	Latency     *float64 `json:"latency_ms,omitempty"`
	Handling    *float64 `json:"handling_ms,omitempty"`
	Redelivered bool     `json:"redelivered,omitempty"`
	Repeated    bool     `json:"repeated,omitempty"`
	Masked      bool     `json:"masked,omitempty"`
	Request     *data    `json:"request,omitempty"`
	Reply       *data    `json:"reply,omitempty"`
}

type data struct {
	Type string          `json:"type"`
	Name string          `json:"name,omitempty"`
	Size int             `json:"size"`
	Data json.RawMessage `json:"data"`
}

// Object is one call in JSON, with a newline at its end.
func (p *Printer) Object(c *tape.Call) (string, error) {
	o := object{
		Position: c.Place.String(), Time: c.Taken.Format(time.RFC3339Nano), Route: c.Route, Gate: c.Gate,
		Session: strconv.FormatUint(c.Session, 10), Sequence: c.Sequence, Type: codec.MessageType(c.Type).String(), Size: len(c.Data), Outcome: Outcome(c),
		Redelivered: c.Redelivered, Repeated: c.Repeated, Masked: c.Masked || c.Reply != nil && c.Reply.Masked,
	}
	if c.User != 0 {
		o.User = strconv.FormatInt(c.User, 10)
	}
	if c.ID != 0 {
		o.ID = strconv.FormatUint(c.ID, 10)
	}
	if c.Address.IsValid() {
		o.Address = c.Address.String()
	}
	o.Latency, o.Handling = milliseconds(c.Latency()), milliseconds(c.Handling())
	if p.Full {
		o.Request = &data{codec.DataType(c.DataType).String(), c.Name, len(c.Data), Payload(c.DataType, c.Name, c.Data)}
		if r := c.Reply; r != nil {
			o.Reply = &data{codec.DataType(r.DataType).String(), r.Name, len(r.Data), Payload(r.DataType, r.Name, r.Data)}
		}
	}
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(o); err != nil {
		return "", fmt.Errorf("tail: %w", err)
	}
	return Clean(strings.TrimSuffix(b.String(), "\n")) + "\n", nil
}

func milliseconds(d time.Duration, ok bool) *float64 {
	if !ok {
		return nil
	}
	ms := float64(d.Microseconds()) / 1e3
	return &ms
}
