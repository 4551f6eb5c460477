package process

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/motto123/minigate/pkg/settings"
)

// fromCompose are the settings of a service as compose.yaml has them where nobody gives
// others, as far as a command has them, and with --production.
func fromCompose(t *testing.T, service string, declare func(*Config, settings.Set)) []string {
	t.Helper()
	var compose struct {
		Services map[string]struct{ Environment map[string]string }
	}
	if err := yaml.Unmarshal(composeFile(t), &compose); err != nil {
		t.Fatal(err)
	}
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	declare(new(Config), settings.Set{FlagSet: fs})
	var args []string
	fs.VisitAll(func(f *pflag.Flag) {
		if value, ok := compose.Services[service].Environment[settings.EnvName(f.Name)]; ok && f.Name != "production" {
			args = append(args, "--"+f.Name+"="+unset.ReplaceAllString(value, "$2"))
		}
	})
	if len(args) == 0 {
		t.Fatalf("compose.yaml gives %s no settings", service)
	}
	return append(args, "--production")
}

// unset is a variable with what compose.yaml has where it is not set.
var unset = regexp.MustCompile(`\$\{(MINIGATE_DEPLOY_\w+):-([^}]*)\}`)

func composeFile(t *testing.T) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Whoever runs compose.yaml in production without passwords of his own is told so of
// each, and what is told here is what stands there.
func TestProductionRefusesComposeAsItComes(t *testing.T) {
	for _, c := range []struct {
		service string
		refused []string
	}{
		{"gate", []string{"rabbitmq", "redis", "service-token"}},
		{"auth", []string{"rabbitmq", "redis", "service-token", "database"}},
		{"chat", []string{"rabbitmq", "redis", "service-token", "database"}},
		{"echo", []string{"rabbitmq", "redis", "service-token"}},
		{"email", []string{"rabbitmq", "redis", "service-token", "smtp", "smtp-tls", "smtp-username", "mail-from"}},
		{"schema", []string{"database"}},
	} {
		var err error
		switch c.service {
		case "gate":
			err = declared(t, (*Config).GateSettings, fromCompose(t, c.service, (*Config).GateSettings)...).CheckGate(nil)
		case "schema":
			err = declared(t, (*Config).InitSettings, fromCompose(t, c.service, (*Config).InitSettings)...).CheckInit(nil)
		default:
			err = declared(t, (*Config).WorkerSettings, fromCompose(t, c.service, (*Config).WorkerSettings)...).CheckWorkers([]string{c.service})
		}
		if got := refused(t, err); !slices.Equal(got, c.refused) {
			t.Errorf("%s: refused %q, want %q: %v", c.service, got, c.refused, err)
		}
		if known := "of compose.yaml, which is known to everybody"; err != nil && !strings.Contains(err.Error(), known) {
			t.Errorf("%s: it does not say %q: %v", c.service, known, err)
		}
	}
}

// Each password and token that compose.yaml has by itself is the one that is refused.
func TestThePasswordOfComposeIsTheOneThatIsRefused(t *testing.T) {
	n := 0
	for _, m := range unset.FindAllStringSubmatch(string(composeFile(t)), -1) {
		name, value := m[1], m[2]
		if !strings.HasSuffix(name, "_PASSWORD") && !strings.HasSuffix(name, "_TOKEN") || value == "" {
			continue
		}
		if n++; value != development {
			t.Errorf("compose.yaml has %s as %s, and what is refused is %s", value, name, development)
		}
	}
	if n < 5 {
		t.Errorf("compose.yaml has %d passwords and tokens", n)
	}
}
