package tail

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/motto123/minigate/pkg/bus"
	"github.com/motto123/minigate/pkg/settings"
	"github.com/motto123/minigate/pkg/tape"
)

// set is a command whose flags are parsed.
func set(args ...string) (*Command, error) {
	c, s := new(Command), settings.Set{FlagSet: pflag.NewFlagSet("tail", pflag.ContinueOnError)}
	c.Settings(s)
	return c, s.Parse(args)
}

func TestTheSettingsSayWhichCallsAreMeant(t *testing.T) {
	c, err := set("--route", "chat.*, echo.echo", "--user", "42", "--session", "3f2a/7", "--errors", "--slow", "50ms", "--since", "10m",
		"--until", "2026-11-22T21:00:00Z", "--limit", "3")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 22, 21, 0, 0, 0, time.UTC)
	got, err := c.Which.Filter(now)
	user, session := int64(42), uint64(7)
	want := &tape.Filter{Routes: []string{"chat.*", "echo.echo"}, User: &user, Gate: "3f2a", Session: &session, Since: now.Add(-10 * time.Minute),
		Until: now, Errors: true, Slow: 50 * time.Millisecond}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	start, _, err := c.Which.Start(now, true)
	if err != nil || start != (tape.Start{Since: now.Add(-10 * time.Minute)}) || c.Which.Limit != 3 {
		t.Errorf("it starts at %+v, %v", start, err)
	}

	c, err = set("--from", "5.6.7", "--session", "9")
	if err != nil {
		t.Fatal(err)
	}
	start, from, err := c.Which.Start(now, true)
	if err != nil || *start.Position != (tape.Position{Offset: 5, Index: 6}) || from.Item != 7 || start.Live {
		t.Errorf("it starts at %+v, %v, %v", start, from, err)
	}
	if f, err := c.Which.Filter(now); err != nil || f.Gate != "" || *f.Session != 9 || f.User != nil {
		t.Errorf("got %+v, %v", f, err)
	}
	c, _ = set()
	for _, live := range []bool{true, false} {
		if start, _, err := c.Which.Start(now, live); err != nil || start != (tape.Start{Live: live}) {
			t.Errorf("it starts at %+v, %v", start, err)
		}
	}
	c, _ = set("--gate-id", "x", "--session", "y/1")
	if _, err := c.Which.Filter(now); err == nil {
		t.Error("two gates are taken")
	}
}

func TestBadSettingsSayWhatTheyWant(t *testing.T) {
	for _, c := range []struct{ flag, value, says string }{
		{"--user", "alice", "a number"}, {"--session", "x/", "GATE/NUMBER"}, {"--route", "[", "chat.*"},
		{"--since", "soon", "10m"}, {"--since", "-5m", "10m"}, {"--until", "2026", "2026-11-22T21:00:00Z"}, {"--from", "a.b", "OFFSET.INDEX"}, {"--slow", "fast", "duration"},
	} {
		_, err := set(c.flag, c.value)
		if err == nil || !strings.Contains(err.Error()+usage(t, c.flag), c.says) {
			t.Errorf("%s %s: got %v, want that it says %s", c.flag, c.value, err, c.says)
		}
	}
}

func usage(t *testing.T, flag string) string {
	t.Helper()
	s := settings.Set{FlagSet: pflag.NewFlagSet("tail", pflag.ContinueOnError)}
	new(Command).Settings(s)
	return s.Lookup(strings.TrimPrefix(flag, "--")).Usage
}

func TestTheTapeThatIsMeant(t *testing.T) {
	t.Chdir(t.TempDir())
	folder, file := filepath.Join("elsewhere", "tape"), "saved"
	saved, err := tape.CreateFile(file)
	if err = errors.Join(err, os.MkdirAll(folder, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := saved.Close(); err != nil {
		t.Fatal(err)
	}
	opens := func(want string, file string, args ...string) {
		t.Helper()
		c, err := set(args...)
		if err != nil {
			t.Fatal(err)
		}
		source, name, err := c.Where.Open(file)
		if err == nil {
			err = source.Close()
		}
		if err != nil || !strings.Contains(name, want) {
			t.Errorf("%v %s opens %q, %v, want %q", args, file, name, err, want)
		}
	}
	opens(file, file)
	opens(folder, "", "--tape-folder", folder)
	opens("RabbitMQ", "") // no folder of minigate dev
	if err := os.MkdirAll(defaultTape, 0o700); err != nil {
		t.Fatal(err)
	}
	opens(defaultTape, "")
	opens("tape of shadow on RabbitMQ", "", "--prefix", "shadow")
	opens("RabbitMQ", "", "--rabbitmq", "amqp://someone:secret@127.0.0.1:1/")
	opens("RabbitMQ", "", "--rabbitmq", defaultRabbitMQ)
	for _, environment := range []string{"MINIGATE_RABBITMQ=" + defaultRabbitMQ, "MINIGATE_PREFIX=" + bus.DefaultPrefix} {
		c, s := new(Command), settings.Set{FlagSet: pflag.NewFlagSet("tail", pflag.ContinueOnError)}
		c.Settings(s)
		if _, err := settings.Apply(s.FlagSet, "", []string{environment}, nil); err != nil {
			t.Fatal(err)
		}
		source, name, err := c.Where.Open("")
		if err = errors.Join(err, source.Close()); err != nil || !strings.Contains(name, "RabbitMQ") {
			t.Errorf("with %s it opens %q, %v", environment, name, err)
		}
	}
	opens(defaultTape, "", "--rabbitmq", "amqp://127.0.0.1:1/", "--tape-folder", defaultTape)
	opens(file, file, "--tape-folder", folder)
	c, _ := set("--tape-folder", "absent")
	if _, _, err := c.Where.Open(""); err == nil {
		t.Error("a folder that is not there is opened")
	}
}
