package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/motto123/minigate/pkg/settings"
)

// TestConfigurationIsDocumented holds docs/configuration.md against the code.
func TestConfigurationIsDocumented(t *testing.T) {
	t.Parallel()
	written, err := os.ReadFile(filepath.Join(built.root, "docs", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(command(t, nil, 0, "config", "--markdown"), "\n")
	got := strings.Split(string(written), "\n")
	for i := range max(len(want), len(got)) {
		if i >= len(want) || i >= len(got) || want[i] != got[i] {
			t.Fatalf("docs/configuration.md is not what the code says, from line %d on: run make docs-configuration", i+1)
		}
	}
}

// TestConfig: what config says of a command is what the command does with the
// same settings.
func TestConfig(t *testing.T) {
	t.Parallel()
	env := []string{"MINIGATE_RABBITMQ=amqp://me:hidden@broker/", "MINIGATE_PRODUCTION=true", "MINIGATE_REDIS_URL=x"}
	for _, args := range [][]string{{"gate"}, {"worker", "auth", "email", "--max-handlers", "3"}} {
		shown := command(t, env, 1, append([]string{"config"}, args...)...)
		if !strings.Contains(shown, "amqp://me:***@broker/") || strings.Contains(shown, "hidden") {
			t.Errorf("minigate config %v:\n%s", args, shown)
		}
		if args[0] == "gate" && !strings.Contains(shown, "refused by --production: redis") {
			t.Errorf("minigate config %v does not say what production refuses:\n%s", args, shown)
		}
		for line := range strings.Lines(command(t, env, 1, args...)) {
			if line = strings.TrimSpace(strings.TrimPrefix(line, "minigate: ")); !strings.Contains(shown, line) {
				t.Errorf("minigate %v says %q, and config does not:\n%s", args, line, shown)
			}
		}
	}
	said := command(t, []string{"MINIGATE_PRODUCTION=1"}, 1, "worker", "email")
	for _, setting := range []string{"rabbitmq", "redis", "smtp"} {
		if !strings.Contains(said, "refused by --production: "+setting+": ") {
			t.Errorf("minigate worker email with development's settings does not refuse %s:\n%s", setting, said)
		}
	}
	if said := command(t, []string{"MINIGATE_DATABASE=mysql://root:hidden@127.0.0.1:1/x"}, 1, "db", "init", "--production", "--database-wait", "0s"); !strings.Contains(said, "refused by --production: database: user root") || strings.Contains(said, "hidden") {
		t.Errorf("minigate db init as root: %s", said)
	}
}

// TestBadAddresses: an address that nothing can be at is refused before anything is
// begun, by config too, and without the password in it.
func TestBadAddresses(t *testing.T) {
	t.Parallel()
	for setting, address := range map[string]string{
		"rabbitmq": "http://me:hidden@broker/", "redis": "me:hidden@store:6379", "database": "mysql://me:hidden@store:3306/",
	} {
		env := []string{settings.EnvName(setting) + "=" + address}
		for _, args := range [][]string{{"worker", "auth"}, {"config", "worker", "auth"}} {
			said := command(t, env, 1, args...)
			if !strings.Contains(said, "bad value: "+setting+", from environment") || strings.Contains(said, "hidden") || strings.Contains(said, "level=") {
				t.Errorf("minigate %v with %v says %q", args, env, said)
			}
		}
	}
}
