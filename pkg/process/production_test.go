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

func TestProductionRefusesWhatIsForDevelopment(t *testing.T) {
	worker := append(slices.Clone(good), "--database", "mysql://me:pw@db/minigate", "--smtp", "mail:25", "--mail-from", "Us <us@example.org>")
	all := []string{"auth", "chat", "echo", "email"}
	for _, c := range []struct {
		name     string
		workers  []string // nil is a gate
		settings []string
		refused  []string
	}{
		{name: "a gate as it comes", refused: []string{"rabbitmq", "redis"}},
		{name: "a good gate", settings: good},
		{name: "a gate that all can call", settings: append(slices.Clone(good), "--gate-grpc", ":7101"), refused: []string{"gate-grpc"}},
		{name: "a gate that asks for a token", settings: append(slices.Clone(good), "--gate-grpc", ":7101", "--service-token", "a-token-of-services")},
		{name: "a gate that asks for certificates", settings: append(slices.Clone(good), "--gate-grpc", ":7101", "--grpc-cert", "c", "--grpc-key", "k", "--grpc-ca", "a")},
		{name: "a gate that asks for nothing, in TLS", settings: append(slices.Clone(good), "--gate-grpc", ":7101", "--grpc-cert", "c", "--grpc-key", "k"), refused: []string{"gate-grpc"}},
		{name: "a gate on IPv6", settings: append(slices.Clone(good), "--gate-grpc", "[::1]:7101")},
		{name: "workers as they come", workers: all, refused: []string{"rabbitmq", "redis", "database", "smtp"}},
		{name: "echo as it comes", workers: []string{"echo"}, refused: []string{"rabbitmq", "redis"}},
		{name: "good workers", workers: all, settings: worker},
		{name: "auth that all can call", workers: all, settings: append(slices.Clone(worker), "--auth-grpc", "0.0.0.0:7102"), refused: []string{"auth-grpc"}},
		{name: "chat beside it", workers: []string{"chat"}, settings: append(slices.Clone(worker), "--auth-grpc", "0.0.0.0:7102")},
		{name: "SQLite", workers: []string{"chat"}, settings: append(slices.Clone(worker), "--database", "sqlite:/var/lib/minigate.db")},
		{
			name: "mails from nobody, in plain text", workers: []string{"email"}, refused: []string{"smtp-tls", "mail-from"},
			settings: append(slices.Clone(good), "--smtp", "mail:25", "--smtp-password", "pw", "--smtp-tls", "opportunistic"),
		},
		{name: "no user of RabbitMQ", settings: append(slices.Clone(good), "--rabbitmq", "amqp://broker/"), refused: []string{"rabbitmq"}},
		{name: "no password of RabbitMQ", settings: append(slices.Clone(good), "--rabbitmq", "amqp://me@broker/"), refused: []string{"rabbitmq"}},
		{name: "no password of Redis", settings: append(slices.Clone(good), "--redis", "redis://redis:6379"), refused: []string{"redis"}},
		{
			name: "as compose.yaml comes", workers: []string{"auth"}, refused: []string{"rabbitmq", "redis", "service-token", "database"},
			settings: []string{
				"--rabbitmq", "amqp://minigate:minigate-dev@rabbitmq:5672/", "--redis", "redis://:minigate-dev@redis:6379/0",
				"--database", "mysql://minigate:minigate-dev@mysql:3306/minigate", "--service-token", "new, minigate-dev", "--auth-grpc", ":7102",
			},
		},
		{name: "no password of MySQL", workers: []string{"auth"}, settings: append(slices.Clone(worker), "--database", "mysql://me@db/n"), refused: []string{"database"}},
	} {
		for _, production := range []string{"true", "false"} {
			args := append(slices.Clone(c.settings), "--production="+production)
			var err error
			if c.workers == nil {
				err = declared(t, (*Config).GateSettings, args...).CheckGate(nil)
			} else {
				err = declared(t, (*Config).WorkerSettings, args...).CheckWorkers(c.workers)
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
