package process

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/motto123/minigate/pkg/settings"
)

// declared is a Config with its defaults and the flags that set it.
func declared(t *testing.T, declare func(*Config, settings.Set), args ...string) *Config {
	t.Helper()
	c, fs := new(Config), pflag.NewFlagSet("test", pflag.ContinueOnError)
	declare(c, settings.Set{FlagSet: fs})
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return c
}

// refused are the settings that an error names, each in its line.
func refused(t *testing.T, err error) (names []string) {
	t.Helper()
	if err == nil {
		return nil
	}
	if !errors.Is(err, ErrProduction) {
		t.Fatalf("got %v", err)
	}
	for line := range strings.Lines(err.Error()) {
		rest, ok := strings.CutPrefix(line, ErrProduction.Error()+": ")
		name, what, both := strings.Cut(rest, ": ")
		if !ok || !both || len(what) < 10 {
			t.Errorf("the line %q does not name a setting and say what to do", line)
		}
		names = append(names, name)
	}
	return names
}

var good = []string{
	"--rabbitmq", "amqp://me:pw@broker/", "--redis", "redis://:pw@redis:6379/0",
}

// goodToken has the length that is asked for.
const goodToken = "0123456789abcdef0123456789abcdef"

// and is a command line with more behind it.
func and(settings []string, more ...string) []string { return append(slices.Clone(settings), more...) }

func TestProductionRefusesWhatIsForDevelopment(t *testing.T) {
	gate, initial := []string{"a gate"}, []string{"db init"} // and no names of workers
	worker := and(good, "--database", "mysql://me:pw@db/minigate", "--smtp", "mail:25", "--smtp-username", "me", "--smtp-password", "pw", "--mail-from", "Us <us@example.org>")
	all := []string{"auth", "chat", "echo", "email"}
	for _, c := range []struct {
		name     string
		of       []string
		settings []string
		refused  []string
	}{
		{name: "a gate as it comes", of: gate, refused: []string{"rabbitmq", "redis"}},
		{name: "a good gate", of: gate, settings: good},
		{name: "a gate that all can call", of: gate, settings: and(good, "--gate-grpc", ":7101"), refused: []string{"gate-grpc"}},
		{name: "a gate that asks for a token", of: gate, settings: and(good, "--gate-grpc", ":7101", "--service-token", goodToken)},
		{name: "a short token", of: gate, settings: and(good, "--service-token", goodToken[1:]), refused: []string{"service-token"}},
		{name: "short tokens besides", of: gate, settings: and(good, "--service-token", goodToken+", x,minigate-dev"), refused: []string{"service-token", "service-token"}},
		{name: "a gate that asks for certificates", of: gate, settings: and(good, "--gate-grpc", ":7101", "--grpc-cert", "c", "--grpc-key", "k", "--grpc-ca", "a")},
		{name: "a gate that asks for nothing, in TLS", of: gate, settings: and(good, "--gate-grpc", ":7101", "--grpc-cert", "c", "--grpc-key", "k"), refused: []string{"gate-grpc"}},
		{name: "a gate on IPv6", of: gate, settings: and(good, "--gate-grpc", "[::1]:7101")},
		{name: "auth elsewhere", of: gate, settings: and(good, "--auth-address", "127.0.0.1:7102,auth:7102"), refused: []string{"auth-address"}},
		{name: "auth in DNS", of: []string{"chat"}, settings: and(worker, "--auth-address", "dns:///auth:7102"), refused: []string{"auth-address"}},
		{name: "auth in etcd", of: gate, settings: and(good, "--auth-address", "etcd://127.0.0.1:2379/minigate/auth"), refused: []string{"auth-address"}},
		{name: "auth here", of: gate, settings: and(good, "--auth-address", "localhost:7102,[::1]:7102")},
		{name: "auth by token", of: gate, settings: and(good, "--auth-address", "dns:///auth:7102", "--service-token", goodToken)},
		{name: "auth by TLS", of: gate, settings: and(good, "--auth-address", "dns:///auth:7102", "--grpc-ca", "a")},
		{name: "profiles for all", of: gate, settings: and(good, "--pprof", "--admin", ":7180"), refused: []string{"pprof"}},
		{name: "profiles of a worker for all", of: []string{"echo"}, settings: and(good, "--pprof", "--admin", "10.0.0.1:7180"), refused: []string{"pprof"}},
		{name: "profiles for this machine", of: gate, settings: and(good, "--pprof", "--admin", "localhost:7180")},
		{name: "profiles for nobody", of: gate, settings: and(good, "--pprof", "--admin", "")},
		{name: "no profiles", of: gate, settings: and(good, "--admin", ":7180")},
		{name: "workers as they come", of: all, refused: []string{"rabbitmq", "redis", "database", "database", "smtp", "mail-from"}},
		{name: "echo as it comes", of: []string{"echo"}, refused: []string{"rabbitmq", "redis"}},
		{name: "good workers", of: all, settings: worker},
		{name: "auth that all can call", of: all, settings: and(worker, "--auth-grpc", "0.0.0.0:7102"), refused: []string{"auth-grpc"}},
		{name: "chat beside it", of: []string{"chat"}, settings: and(worker, "--auth-grpc", "0.0.0.0:7102")},
		{name: "SQLite", of: []string{"chat"}, settings: and(worker, "--database", "sqlite:/var/lib/minigate.db")},
		{
			name: "mails from nobody, in plain text", of: []string{"email"}, refused: []string{"smtp-tls", "mail-from"},
			settings: and(good, "--smtp", "mail:25", "--smtp-username", "me", "--smtp-password", "pw", "--smtp-tls", "opportunistic"),
		},
		{
			name: "the catcher", of: []string{"email"}, refused: []string{"smtp", "smtp-tls", "smtp-username"},
			settings: and(good, "--smtp", "mail:1025", "--smtp-tls", "none", "--mail-from", "us@example.org"),
		},
		{name: "a mail server without a login", of: []string{"email"}, settings: and(worker, "--smtp-username", ""), refused: []string{"smtp-username"}},
		{name: "a login without a password", of: []string{"email"}, settings: and(worker, "--smtp-password", ""), refused: []string{"smtp-username"}},
		{name: "a mail server on this machine", of: []string{"email"}, settings: and(good, "--smtp", "127.0.0.1:25", "--smtp-tls", "none", "--mail-from", "us@example.org")},
		{name: "no user of RabbitMQ", of: gate, settings: and(good, "--rabbitmq", "amqp://broker/"), refused: []string{"rabbitmq"}},
		{name: "no password of RabbitMQ", of: gate, settings: and(good, "--rabbitmq", "amqp://me@broker/"), refused: []string{"rabbitmq"}},
		{name: "no password of Redis", of: gate, settings: and(good, "--redis", "redis://redis:6379"), refused: []string{"redis"}},
		{name: "no password of MySQL", of: []string{"auth"}, settings: and(worker, "--database", "mysql://me@db/n"), refused: []string{"database"}},
		{name: "MySQL's root", of: []string{"chat"}, settings: and(worker, "--database", "mysql://root:pw@db/n"), refused: []string{"database"}},
		{name: "MySQL's root in the driver's form", of: []string{"chat"}, settings: and(worker, "--database", "root:pw@tcp(db:3306)/n"), refused: []string{"database"}},
		{name: "another in the driver's form", of: []string{"chat"}, settings: and(worker, "--database", "me:pw@tcp(db:3306)/n")},
		{name: "the tables as they come", of: initial, refused: []string{"database", "database"}},
		{name: "the tables by root", of: initial, settings: []string{"--database", "mysql://root:pw@db/n"}, refused: []string{"database"}},
		{name: "good tables", of: initial, settings: []string{"--database", "mysql://me:pw@db/n"}},
	} {
		for _, production := range []string{"true", "false"} {
			args := and(c.settings, "--production="+production)
			var err error
			switch c.of[0] {
			case gate[0]:
				err = declared(t, (*Config).GateSettings, args...).CheckGate(nil)
			case initial[0]:
				err = declared(t, (*Config).InitSettings, args...).CheckInit(nil)
			default:
				err = declared(t, (*Config).WorkerSettings, args...).CheckWorkers(c.of)
			}
			want := c.refused
			if production == "false" {
				want = nil
			}
			if got := refused(t, err); !slices.Equal(got, want) {
				t.Errorf("%s, production=%s: refused %q, want %q", c.name, production, got, want)
			}
		}
	}
}

func TestAnUnknownWorkerIsSaidBesides(t *testing.T) {
	err := declared(t, (*Config).WorkerSettings, "--production").CheckWorkers([]string{"caht"})
	if err == nil || !strings.Contains(err.Error(), `got "caht"`) || !strings.Contains(err.Error(), "redis: ") {
		t.Errorf("got %v", err)
	}
}
