package tail

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/bus/rabbit"
	"github.com/motto123/minigate/pkg/settings"
	"github.com/motto123/minigate/pkg/tape"
	"github.com/motto123/minigate/pkg/tape/stream"
)

// Where are the settings that say which tape is read.
type Where struct {
	RabbitMQ string // a URL
	Prefix   string // of the installation
	Folder   string // of the tape of a process that embeds everything
	// Descriptors is a file for Learn.
	Descriptors string

	given func(name string) bool // to whatever it is set
}

const (
	defaultRabbitMQ = "amqp://guest:guest@127.0.0.1:5672/"
	defaultTape     = ".dev/tape"
)

// Settings declares them.
func (w *Where) Settings(s settings.Set) {
	s.SecretURL(&w.RabbitMQ, "rabbitmq", defaultRabbitMQ, "URL of RabbitMQ, amqp://USER:PASSWORD@HOST:PORT/VHOST", rabbit.CheckURL)
	s.Text(&w.Prefix, "prefix", bus.DefaultPrefix, "what names in RabbitMQ and Redis begin with; one an installation")
	s.Text(&w.Folder, "tape-folder", "", "folder of the tape of minigate dev; nothing is "+defaultTape+" where it exists and neither rabbitmq nor prefix is set")
	s.Text(&w.Descriptors, "descriptors", "", "file with messages of your own services, to decode what they take and answer (protoc --include_imports --descriptor_set_out=FILE, or buf build -o FILE)")
	w.given = s.Given
}

// Topology gives the names of the installation.
func (w *Where) Topology() bus.Topology { return bus.NewTopology(w.Prefix) }

// Open opens the tape: a saved file where one is named, else the folder that is set, else
// that of minigate dev where there is one and nobody has said that a broker is meant, else
// the broker's stream. It also says in words which.
func (w *Where) Open(file string) (tape.Source, string, error) {
	if w.Descriptors != "" {
		if err := Learn(w.Descriptors); err != nil {
			return nil, "", err
		}
	}
	name := file
	if file == "" {
		file, name = w.Folder, w.Folder
	}
	if file == "" && !w.brokerMeant() {
		if stat, err := os.Stat(defaultTape); err == nil && stat.IsDir() {
			file, name = defaultTape, defaultTape+", the tape of minigate dev"
		}
	}
	if file != "" {
		source, err := tape.OpenFile(file)
		return source, name, err
	}
	source, err := stream.Open(w.RabbitMQ, w.Topology())
	if err != nil {
		return nil, "", err
	}
	source.Report = func(err error) { fmt.Fprintln(os.Stderr, "trying again:", err) }
	return source, "the tape of " + w.Topology().Prefix() + " on RabbitMQ", nil
}

// brokerMeant reports whether somebody has said which broker or which installation.
func (w *Where) brokerMeant() bool {
	return w.RabbitMQ != defaultRabbitMQ || w.Prefix != bus.DefaultPrefix || w.given("rabbitmq") || w.given("prefix")
}

// Which are the settings that say which calls of a tape are meant.
type Which struct {
	Route, User, Gate, Session string
	Since, Until, From         string
	Errors                     bool
	Slow                       time.Duration
	Limit                      int
}

const wantsTime = "text: a duration before now such as 10m, or a time such as 2026-11-22T21:00:00Z"

// Settings declares them.
func (w *Which) Settings(s settings.Set) {
	s.Checked(&w.Route, "route", "", "text", "text, with commas between several", "only these routes; * is any number of signs, as in 'chat.*'", func(text string) error {
		return (&tape.Filter{Routes: list(text)}).Check()
	})
	s.Checked(&w.User, "user", "", "text", "text: a number", "only what this user sent; 0 is who was not logged in", func(text string) error {
		_, err := user(text)
		return err
	})
	s.Checked(&w.Session, "session", "", "text", "text: NUMBER or GATE/NUMBER", "only this session", func(text string) error {
		_, _, err := session(text)
		return err
	})
	s.Text(&w.Gate, "gate-id", "", "only what came through this gate")
	s.Bool(&w.Errors, "errors", false, "only what was answered with an error, or not at all")
	s.Duration(&w.Slow, "slow", 0, 0, time.Hour, "only what took that long, or was not answered; 0s is all")
	s.Checked(&w.Since, "since", "", "text", wantsTime, "from then on", func(text string) error {
		_, err := when(text, time.Now())
		return err
	})
	s.Checked(&w.Until, "until", "", "text", wantsTime, "until then", func(text string) error {
		_, err := when(text, time.Now())
		return err
	})
	s.Checked(&w.From, "from", "", "text", "text: OFFSET, OFFSET.INDEX or OFFSET.INDEX.ITEM", "from this position on, as lines end with it", func(text string) error {
		if text == "" {
			return nil
		}
		_, err := tape.ParsePlace(text)
		return err
	})
	s.Int(&w.Limit, "limit", 0, 0, math.MaxInt, "end after so many; 0 is no limit")
}

// Filter is what the settings ask for. What they say was checked when they were set.
func (w *Which) Filter(now time.Time) (*tape.Filter, error) {
	f := &tape.Filter{Routes: list(w.Route), Gate: w.Gate, Errors: w.Errors, Slow: w.Slow}
	var all [4]error
	f.User, all[0] = user(w.User)
	var gate string
	gate, f.Session, all[1] = session(w.Session)
	if gate != "" {
		if f.Gate != "" && f.Gate != gate {
			return nil, fmt.Errorf("session %s is not on gate %s", w.Session, f.Gate)
		}
		f.Gate = gate
	}
	f.Since, all[2] = when(w.Since, now)
	f.Until, all[3] = when(w.Until, now)
	return f, errors.Join(append(all[:], f.Check())...)
}

// Start is where to begin to read, and the first call that is meant. Without a place
// or a time it is the beginning, or with live what is written from now on.
func (w *Which) Start(now time.Time, live bool) (tape.Start, tape.Place, error) {
	if w.From != "" {
		place, err := tape.ParsePlace(w.From)
		return tape.Start{Position: &place.Position}, place, err
	}
	if w.Since != "" {
		since, err := when(w.Since, now)
		return tape.Start{Since: since}, tape.Place{}, err
	}
	return tape.Start{Live: live}, tape.Place{}, nil
}

func list(text string) (parts []string) {
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, part)
		}
	}
	return parts
}

func user(text string) (*int64, error) {
	if text == "" {
		return nil, nil
	}
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("user: %w", err)
	}
	return &id, nil
}

func session(text string) (gate string, number *uint64, err error) {
	if text == "" {
		return "", nil, nil
	}
	if at := strings.LastIndexByte(text, '/'); at >= 0 {
		gate, text = text[:at], text[at+1:]
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return "", nil, fmt.Errorf("session: %w", err)
	}
	return gate, &n, nil
}

// when is a time, or that long before now; no time where there is no text.
func when(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil {
		if ago < 0 {
			return time.Time{}, errors.New("time: it is in the future")
		}
		return now.Add(-ago), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("time: %w", err)
	}
	return t, nil
}
